"""Transposed convolution on device, against the numpy twin in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convolution_cases import LESSON_LAYERS, Case, Problem, cases, check

from pygan import reference
from support import assert_close, examples_for, for_all, poisoned, upload

OPERATORS = (
    "transposed_convolution_forward",
    "transposed_convolution_backward_data",
    "transposed_convolution_backward_weight",
)
GENERATOR = [name for name in LESSON_LAYERS if name.startswith("generator")]


@pytest.mark.parametrize("operator", OPERATORS)
def test_agrees_with_the_twin_on_any_shape(device: Any, operator: str) -> None:
    for_all(cases(), examples_for(device, 60), lambda case: check(device, operator, case))


@pytest.mark.parametrize("layer", GENERATOR)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_lessons_generator(device: Any, operator: str, layer: str) -> None:
    check(device, operator, LESSON_LAYERS[layer])


# Strides against kernels and dilations: phases without taps, taps that share a factor with the
# stride, kernels smaller and larger than the stride, one pixel, and every output padding.
PHASES = {
    "kernel 1, stride 2": Case(2, (7, 8), (1, 1), (2, 2), (0, 0), (1, 1), 1, 3, 5),
    "kernel smaller than the stride": Case(1, (11, 9), (2, 2), (3, 4), (0, 1), (1, 1), 1, 3, 5),
    "dilation equal to the stride": Case(2, (9, 10), (3, 3), (2, 2), (1, 1), (2, 2), 1, 4, 3),
    "dilation and stride share a factor": Case(
        1, (20, 13), (3, 2), (4, 6), (2, 3), (6, 4), 1, 2, 3
    ),
    "unequal axes": Case(2, (8, 13), (5, 2), (1, 3), (2, 0), (2, 3), 2, 3, 2),
    "one pixel, stride 1": Case(3, (4, 4), (4, 4), (1, 1), (0, 0), (1, 1), 1, 9, 6),
    "one pixel, dilated": Case(3, (5, 7), (3, 3), (2, 3), (0, 0), (2, 3), 1, 9, 6),
    "one pixel, padded": Case(2, (3, 4), (4, 4), (2, 2), (1, 1), (1, 1), 1, 2, 65),
    "pad larger than the kernel": Case(2, (5, 4), (2, 2), (2, 2), (3, 3), (1, 1), 1, 3, 4),
    "output padding 2": Case(2, (10, 11), (3, 3), (3, 3), (1, 1), (1, 1), 1, 4, 4),
}


@pytest.mark.parametrize("name", PHASES)
def test_phases(device: Any, name: str) -> None:
    for operator in OPERATORS:
        check(device, operator, PHASES[name])


def test_one_pixel_of_a_known_image(device: Any) -> None:
    """A single 1 in the input copies the kernel into the output, here cut off at the edge."""
    x = np.zeros((1, 2, 2, 1), np.float32)
    x[0, 1, 0, 0] = 1
    w = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4, 1)
    y = poisoned(device, 1, 4, 4, 1)
    device.ops.transposed_convolution_forward(
        upload(device, x),
        upload(device, w),
        None,
        y,
        **{"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1},
    )
    expected = np.array([[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]], np.float32)
    assert np.array_equal(np.asarray(y)[0, :, :, 0], expected)


def test_long_sums_are_cut_into_slices(device: Any) -> None:
    """With slices, bias and accumulation are left to the kernel that adds the slices."""
    case = Case(2, (4, 4), (4, 4), (2, 2), (1, 1), (1, 1), 1, 6, 150, bias=True)
    problem = Problem(OPERATORS[0], case)
    needed = device.ops.workspace_size(OPERATORS[0], *problem.shapes, **case.attributes)
    assert needed >= 2 * int(np.prod(problem.result))
    check(device, OPERATORS[0], case)
    inputs = [upload(device, array) for array in problem.inputs]
    with pytest.raises(ValueError, match=str(needed)):
        device.ops.transposed_convolution_forward(
            *inputs, device.zeros(problem.result), **case.attributes
        )


def test_neighbouring_memory_stays_untouched(device: Any) -> None:
    case = Case(2, (7, 9), (3, 4), (2, 2), (1, 1), (1, 1), 1, 3, 5)
    problem = Problem(OPERATORS[0], case)
    inputs = [upload(device, array) for array in problem.inputs]
    surroundings = poisoned(device, 4, *problem.result[1:])
    device.ops.transposed_convolution_forward(*inputs, surroundings[1:3], **case.attributes)
    host = np.asarray(surroundings)
    assert np.isnan(host[0]).all() and np.isnan(host[-1]).all()
    assert_close(host[1:-1], problem.exact(), problem.allowed)


@pytest.mark.parametrize(
    "y", [(2, 6, 7, 3), (2, 9, 7, 3), (1, 7, 7, 3), (2, 7, 7, 4)], ids=lambda shape: str(shape)
)
def test_shapes_that_do_not_fit_are_refused(device: Any, y: tuple[int, ...]) -> None:
    """Sizes 7 and 8 (output padding 0 and 1) belong to this convolution, 6 and 9 do not."""
    x, w = (2, 4, 4, 5), (5, 3, 3, 3)
    attributes = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    with pytest.raises(ValueError):
        arrays = (np.zeros(shape, np.float32) for shape in (x, w))
        reference.transposed_convolution_forward(
            *arrays, None, np.zeros(y, np.float32), **attributes
        )
    with pytest.raises(ValueError, match="transposed_convolution_forward"):
        device.ops.transposed_convolution_forward(
            device.zeros(x), device.zeros(w), None, device.zeros(y), **attributes
        )
