"""Convolution on device, against the numpy twin in float64; and what both operators share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convolution_cases import LESSON_LAYERS, Case, Problem, cases, check
from hypothesis import strategies as st

from pygan import reference
from support import (
    assert_close,
    assert_same_bits,
    check_write_and_accumulate,
    examples_for,
    for_all,
    numbers,
    poisoned,
    random_sum_bound,
    upload,
    workspace_for,
)

OPERATORS = ("convolution_forward", "convolution_backward_data", "convolution_backward_weight")
DISCRIMINATOR = [name for name in LESSON_LAYERS if name.startswith("discriminator")]
PLAIN = Case(2, (9, 8), (3, 4), (2, 2), (1, 1), (1, 1), 1, 5, 7)


@pytest.mark.parametrize("operator", OPERATORS)
def test_agrees_with_the_twin_on_any_shape(device: Any, operator: str) -> None:
    for_all(cases(), examples_for(device, 60), lambda case: check(device, operator, case))


@pytest.mark.parametrize("layer", DISCRIMINATOR)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_lessons_discriminator(device: Any, operator: str, layer: str) -> None:
    check(device, operator, LESSON_LAYERS[layer])


SLICED = {
    # Few tiles and a long sum, so that the sum is cut into slices: over channels and taps, over
    # pixels, and with a last slice that is shorter than the others.
    "convolution_forward": Case(2, (4, 4), (3, 3), (1, 1), (0, 0), (1, 1), 1, 64, 40),
    "convolution_backward_data": Case(1, (4, 5), (2, 2), (2, 2), (0, 0), (1, 1), 2, 9, 300),
    "convolution_backward_weight": Case(7, (13, 11), (2, 2), (1, 1), (0, 0), (1, 1), 1, 5, 9),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_long_sums_are_cut_into_slices(device: Any, operator: str) -> None:
    case = SLICED[operator]
    shapes = Problem(operator, case).shapes
    needed = device.ops.workspace_size(operator, *shapes, **case.attributes)
    assert needed >= 2 * int(np.prod(shapes[-1]))
    check(device, operator, case)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_workspace_that_is_too_small_is_refused(device: Any, operator: str) -> None:
    case = SLICED[operator]
    problem = Problem(operator, case)
    inputs = [upload(device, array) for array in problem.inputs]
    needed = device.ops.workspace_size(operator, *problem.shapes, **case.attributes)
    out = device.zeros(problem.result)
    for workspace in (None, device.empty(needed - 1)):
        with pytest.raises(ValueError, match=str(needed)):
            getattr(device.ops, operator)(*inputs, out, **case.attributes, workspace=workspace)
    assert not np.asarray(out).any()
    larger = poisoned(device, needed + 5)
    getattr(device.ops, operator)(*inputs, out, **case.attributes, workspace=larger)
    assert_close(out, problem.exact(), problem.allowed, operator)
    assert np.isnan(np.asarray(larger)[needed:]).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_first_versions_agree_with_the_twin(device: Any, operator: str) -> None:
    from pygan.bindings.operators.epilogue import NOTHING
    from pygan.bindings.operators.shapes import geometry

    end = () if operator == "convolution_backward_weight" else NOTHING.arguments

    def body(case: Case) -> None:
        problem = Problem(operator, case)
        inputs = [upload(device, array) for array in problem.inputs]
        if operator == "convolution_backward_data":
            inputs.append(None)  # the bias that a transposed convolution's forward has
        sides = (case.large, case.weight, case.small)
        sizes = geometry(operator, *sides, *case.attributes.values()).arguments()
        tile = {"TILE_M": 64, "TILE_N": 64}
        kernel = device.context.kernel("convolution.cu", f"{operator}_direct", **tile)
        blocks = -(-int(np.prod(problem.result)) // 256)

        def launch(out: Any, accumulate: bool) -> None:
            kernel(blocks, 256, *inputs, out, *sizes, int(accumulate), *end)

        check_write_and_accumulate(
            device, launch, problem.exact(), problem.allowed, problem.rng, f"{operator} {case}"
        )

    for_all(cases(), examples_for(device, 24), body)


def test_more_phases_than_a_grid_has_blocks(device: Any) -> None:
    """A stride of 300 has 90,000 phases; a grid has at most 65,535 blocks in that direction."""
    case = Case(1, (301, 302), (2, 1), (300, 300), (1, 0), (1, 1), 1, 1, 2)
    check(device, "convolution_backward_data", case)


def test_depthwise_convolution(device: Any) -> None:
    for operator in OPERATORS:
        check(device, operator, Case(2, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1), 11, 1, 1))


@pytest.mark.parametrize("operator", OPERATORS[:2])
def test_neighbouring_memory_stays_untouched(device: Any, operator: str) -> None:
    """The result lies between two images of NaN, at an address that is only 4-byte aligned."""
    case = replace(PLAIN, size=(7, 9), large_channels=3, small_channels=5)
    problem = Problem(operator, case)
    batch, *image = problem.result
    inputs = [upload(device, array) for array in problem.inputs]
    surroundings = poisoned(device, batch + 2, *image)
    getattr(device.ops, operator)(*inputs, surroundings[1 : batch + 1], **case.attributes)
    host = np.asarray(surroundings)
    assert np.isnan(host[0]).all() and np.isnan(host[-1]).all()
    assert_close(host[1:-1], problem.exact(), problem.allowed, operator)


def test_an_empty_batch(device: Any) -> None:
    """Nothing is written, except a weight gradient, which is a sum over no pixels."""
    attributes = PLAIN.attributes
    large, small = ((0, *shape[1:]) for shape in (PLAIN.large, PLAIN.small))
    x, y = device.zeros(large), device.zeros(small)
    w, dw = device.zeros(PLAIN.weight), poisoned(device, *PLAIN.weight)
    device.ops.convolution_forward(x, w, None, y, **attributes)
    device.ops.convolution_backward_data(y, w, x, **attributes)
    device.ops.convolution_backward_weight(x, y, dw, **attributes)
    assert_same_bits(dw, np.zeros(PLAIN.weight, np.float32))


WRONG = {
    "channels of x": lambda x, w, b, y, a: ((*x[:3], x[3] + 1), w, b, y, a),
    "channels of y": lambda x, w, b, y, a: (x, w, b, (*y[:3], y[3] + 1), a),
    "rows of y": lambda x, w, b, y, a: (x, w, b, (y[0], y[1] + 1, *y[2:]), a),
    "columns of y": lambda x, w, b, y, a: (x, w, b, (*y[:2], y[2] - 1, y[3]), a),
    "batch": lambda x, w, b, y, a: (x, w, b, (y[0] + 1, *y[1:]), a),
    "three axes": lambda x, w, b, y, a: (x[1:], w, b, y, a),
    "weight of three axes": lambda x, w, b, y, a: (x, w[1:], b, y, a),
    "bias": lambda x, w, b, y, a: (x, w, (b[0] + 1,), y, a),
    "bias of two axes": lambda x, w, b, y, a: (x, w, (1, b[0]), y, a),
    "groups": lambda x, w, b, y, a: (x, w, b, y, a | {"groups": 2}),
    "no groups": lambda x, w, b, y, a: (x, w, b, y, a | {"groups": 0}),
    "stride 0": lambda x, w, b, y, a: (x, w, b, y, a | {"stride": (0, 2)}),
    "one stride": lambda x, w, b, y, a: (x, w, b, y, a | {"stride": (2,)}),
    "dilation 0": lambda x, w, b, y, a: (x, w, b, y, a | {"dilation": (1, 0)}),
    "negative pad": lambda x, w, b, y, a: (x, w, b, y, a | {"pad": (1, -1)}),
    "kernel beyond the image": lambda x, w, b, y, a: (x, w, b, y, a | {"dilation": (9, 9)}),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_shapes_that_do_not_fit_are_refused(device: Any, mistake: str) -> None:
    """The launcher refuses what its twin refuses, before anything is written."""
    case = replace(PLAIN, large_channels=5, small_channels=7)
    shapes = (case.large, case.weight, (case.small[3],), case.small, case.attributes)
    *arrays, attributes = WRONG[mistake](*shapes)
    with pytest.raises(ValueError):
        reference.convolution_forward(*(np.zeros(a, np.float32) for a in arrays), **attributes)
    with pytest.raises(ValueError, match="convolution_forward"):
        device.ops.convolution_forward(*(device.zeros(a) for a in arrays), **attributes)


def test_an_error_names_both_shapes(device: Any) -> None:
    x, w, y = device.zeros((2, 9, 9, 3)), device.zeros((4, 3, 3, 3)), device.zeros((2, 9, 8, 4))
    attributes = {"stride": (1, 1), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    with pytest.raises(ValueError) as error:
        device.ops.convolution_forward(x, w, None, y, **attributes)
    assert "(2, 9, 9, 3)" in str(error.value) and "(2, 9, 8, 4)" in str(error.value)


def test_host_arrays_are_refused(device: Any) -> None:
    x, w, y = (np.zeros(shape, np.float32) for shape in (PLAIN.large, PLAIN.weight, PLAIN.small))
    with pytest.raises(TypeError, match="from_numpy"):
        device.ops.convolution_forward(x, w, None, y, **PLAIN.attributes)


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (3, 33), (7, 5, 3, 64), (641, 3), (2000, 1)])
def test_bias_backward(device: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(shape))
    check_bias_backward(device, numbers(rng, *shape), rng)


def test_bias_backward_on_any_shape(device: Any) -> None:
    def body(shape: list[int]) -> None:
        rng = np.random.default_rng(sum(shape))
        check_bias_backward(device, numbers(rng, *shape), rng)

    shapes = st.lists(st.integers(1, 37), min_size=1, max_size=3)
    for_all(shapes, examples_for(device, 20), body)


def check_bias_backward(device: Any, dy: np.ndarray, rng: np.random.Generator) -> None:
    channels = dy.shape[-1]
    columns = dy.reshape(-1, channels).astype(np.float64)
    expected = np.zeros(channels)
    reference.bias_backward(dy.astype(np.float64), expected)
    source = upload(device, dy)
    workspace = workspace_for(device, "bias_backward", dy.shape, (channels,))

    def launch(out: Any, accumulate: bool) -> None:
        device.ops.bias_backward(source, out, accumulate=accumulate, workspace=workspace)

    allowed = random_sum_bound(len(columns) + 1) * np.abs(columns).sum(axis=0)
    check_write_and_accumulate(device, launch, expected, allowed, rng, f"bias_backward {dy.shape}")


def test_bias_backward_refuses_a_wrong_shape(device: Any) -> None:
    with pytest.raises(ValueError, match="bias_backward"):
        device.ops.bias_backward(device.zeros((4, 5)), device.zeros((4,)))
    rows = 4096
    needed = device.ops.workspace_size("bias_backward", (rows, 5), (5,))
    assert needed >= 2 * 5
    with pytest.raises(ValueError, match=str(needed)):
        device.ops.bias_backward(device.zeros((rows, 5)), device.zeros(5))
