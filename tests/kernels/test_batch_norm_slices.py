"""Batch norm that adds the slices a convolution left: the bits of two launches and of one more."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from convolution_cases import Case, Problem, cases
from halves import half_numbers, poisoned_as, upload_half
from hypothesis import strategies as st

from pygan import reference
from pygan.reference.precision import rounded
from support import (
    assert_close,
    assert_same_bits,
    examples_for,
    for_all,
    gamma,
    numbers,
    poisoned,
    upload,
    workspace_for,
)

EPS, SLOPE, MOMENTUM = 2.0**-10, 0.25, 0.875
CONVOLUTIONS = ("convolution", "transposed_convolution")


class Sum(NamedTuple):
    """slices (count, rows, channels), with a mean of `offset` deviations. `shift`: floats between a
    multiple of 16 bytes and the slices. `halves`: whether x and y hold bf16 numbers."""

    count: int
    rows: int
    channels: int
    kind: str | None = "leaky_relu"
    offset: float = 0.0
    shift: int = 0
    seed: int = 0
    halves: tuple[bool, bool] = (False, False)

    @property
    def attributes(self) -> dict[str, Any]:
        return {"eps": EPS, "fix_gamma": False, "activation": self.kind, "slope": SLOPE}


def shifted(device: Any, shape: tuple[int, ...], shift: int, half: bool = False) -> Any:
    """An array of NaN, `shift` floats into a buffer of its own."""
    if half:
        return poisoned_as(device, True, *shape)
    return poisoned(device, shift + int(np.prod(shape)))[shift:].reshape(shape)


def second_stage(slices: Any, bias: Any | None, out: Any) -> Any:
    """The sum, by the launch that batch norm saves."""
    from pygan.bindings.operators.partial_sums import sum_partials

    sum_partials(slices.reshape(slices.size), bias, out, slices.shape[0], accumulate=False)
    return out


def given(device: Any, case: Sum, backward: bool) -> tuple[np.random.Generator, Any, Any]:
    rng = np.random.default_rng(case.seed)
    host = numbers(rng, case.count, case.rows, case.channels)
    host[0] += np.float32(0 if backward else case.offset)
    slices = shifted(device, host.shape, case.shift)
    slices[...] = host
    return rng, slices, host


def check_forward(device: Any, case: Sum, with_bias: bool = True) -> None:
    rng, slices, host = given(device, case, backward=False)
    shape, channels = (case.rows, case.channels), case.channels
    scale, beta = upload(device, numbers(rng, channels)), upload(device, numbers(rng, channels))
    bias = upload(device, numbers(rng, channels)) if with_bias else None
    moving = upload(device, numbers(rng, channels)), upload(device, np.abs(numbers(rng, channels)))
    name = "batch_norm_forward_training"
    workspace = workspace_for(device, name, shape, **case.attributes)

    def run(x: Any, used_x: Any, *added: Any) -> list[Any]:
        mean, var = poisoned(device, channels), poisoned(device, channels)
        y, used = (poisoned_as(device, case.halves[1], *shape) for _ in range(2))
        options = case.attributes | ({"half_sum": case.halves[0]} if added else {})
        device.ops.batch_norm_forward_training(
            x, scale, beta, y, mean, var, *added, **options, workspace=workspace
        )
        device.ops.batch_norm_forward_inference(
            used_x, scale, beta, *moving, used, *added, **options
        )
        return [x, y, mean, var, used]

    whole = second_stage(slices, bias, shifted(device, shape, case.shift))
    x = second_stage(slices, bias, shifted(device, shape, case.shift, case.halves[0]))
    for name, one, two in zip(
        ("x", "y", "mean", "var", "inference"),
        run(poisoned_as(device, case.halves[0], *shape), None, slices, bias),
        run(x, x),
        strict=True,
    ):
        assert_same_bits(np.asarray(one), np.asarray(two), f"{name} of {case}")
    exact = host.astype(np.float64).sum(axis=0) + (0 if bias is None else np.asarray(bias))
    size = np.abs(host.astype(np.float64)).sum(axis=0) + 3
    assert_close(whole, exact, gamma(case.count + 2) * size, f"sum of {case}")


def check_backward(device: Any, case: Sum) -> None:
    rng, slices, _ = given(device, case, backward=True)
    shape, channels = (case.rows, case.channels), case.channels
    half = case.halves[0]  # of x, dx and dy
    x = (upload_half if half else upload)(device, half_numbers(rng, *shape))
    operands = [upload(device, numbers(rng, channels)) for _ in range(3)]
    operands.append(upload(device, np.abs(numbers(rng, channels)) + 0.5))
    before = [numbers(rng, channels) for _ in range(4)]
    workspace = workspace_for(device, "batch_norm_backward", shape)

    def run(dy: Any, added: Any, wanted: str) -> list[Any]:
        moving = [upload(device, a) for a in before[:2]]
        moving[1][...] = np.abs(before[1])
        dx = poisoned_as(device, half, *shape) if "x" in wanted else None
        parameters = [upload(device, a) if "p" in wanted else None for a in before[2:]]
        device.ops.batch_norm_backward(
            *(x, *operands, dy, dx, *parameters, *moving, added),
            **case.attributes,
            **({} if added is None else {"half_sum": half}),
            **{"use_global_stats": False, "momentum": MOMENTUM},
            **{"accumulate_beta": True, "workspace": workspace},
        )
        return [a for a in (dx, *parameters, *moving) if a is not None]

    whole = second_stage(slices, None, shifted(device, shape, case.shift, half))
    for wanted in ("xp", "x", "p", ""):
        fused, apart = run(None, slices, wanted), run(whole, None, wanted)
        for i, (one, two) in enumerate(zip(fused, apart, strict=True)):
            assert_same_bits(np.asarray(one), np.asarray(two), f"{i} of {wanted!r}, {case}")


SPLIT = [Sum(3, 8300, 4, offset=1e4), Sum(9, 4500, 8, "relu"), Sum(2, 8209, 4, None, shift=1)]
"""Whose rows are split over blocks, so that there are two launches."""


@pytest.mark.parametrize("case", SPLIT, ids=str)
def test_split_rows(device: Any, case: Sum) -> None:
    if device.check and case.count > 3:
        return
    assert device.ops.workspace_size("batch_norm_backward", (case.rows, case.channels)) > 0
    check_forward(device, case)
    check_backward(device, case)


def test_any_sum(device: Any) -> None:
    sums = st.builds(
        Sum,
        count=st.sampled_from((1, 2, 3, 4, 5, 7, 8, 9, 16, 21, 64)),
        rows=st.integers(1, 300),
        channels=st.sampled_from((1, 3, 4, 8, 12, 33, 64)),
        kind=st.sampled_from((None, "leaky_relu")),
        offset=st.sampled_from((0.0, 1e4)),
        shift=st.sampled_from((0, 0, 1)),
        seed=st.integers(0, 2**32),
        halves=st.just((False, False)),
    )

    def body(drawn: tuple[Sum, bool]) -> None:
        check_forward(device, *drawn)
        check_backward(device, drawn[0])

    for_all(st.tuples(sums, st.booleans()), examples_for(device, 20), body)


@pytest.mark.parametrize("halves", [(True, True), (True, False), (False, True)])
def test_bf16_arrays(device: Any, halves: tuple[bool, bool]) -> None:
    """The sum is rounded as the second stage stores it."""
    cases = [Sum(3, 70, 24, halves=halves), Sum(9, 300, 8, offset=1e2, halves=halves)]
    if not device.check:
        cases.append(Sum(2, 8300, 8, halves=halves))
    for case in cases:
        check_forward(device, case)
        check_backward(device, case)


def test_smooth_activation(device: Any) -> None:
    if device.check:
        pytest.skip("accesses do not depend on the activation")
    check_forward(device, Sum(6, 37, 12, "tanh"))
    check_backward(device, Sum(6, 37, 12, "tanh"))


def stored_as(kept: str, sums: np.ndarray) -> np.ndarray:
    return rounded(sums, kept) if kept == "bf16" else sums


@pytest.mark.parametrize("half_sum", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_twin(backward: bool, half_sum: bool) -> None:
    """The twin's sum is the slices' sum, rounded where asked, before anything reads it."""
    rng = np.random.default_rng(4)
    slices, x = rng.standard_normal((3, 2, 5, 4)), rng.standard_normal((2, 5, 4))
    c = [rng.standard_normal(4) for _ in range(2)] + [np.abs(rng.standard_normal(4)) + 1]
    attributes = {"eps": EPS, "fix_gamma": False, "activation": "tanh"}
    bias, kept = rng.standard_normal(4), "bf16" if half_sum else "float32"
    if backward:
        one, two = np.empty_like(x), np.empty_like(x)
        whole = stored_as(kept, slices.sum(axis=0))
        for dy, added, dx in ((None, slices, one), (whole, None, two)):
            reference.batch_norm_backward(
                *(x, *c[:2], c[0], c[2], dy, dx, None, None, None, None, added),
                **attributes,
                use_global_stats=False,
                half_sum=half_sum and dy is None,
            )
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12)
        return
    whole = stored_as(kept, slices.sum(axis=0) + bias)
    for function, statistics in (
        (reference.batch_norm_forward_training, (np.empty(4), np.empty(4))),
        (reference.batch_norm_forward_inference, None),
    ):
        one, two, total = np.empty_like(x), np.empty_like(x), np.empty_like(x)
        options = attributes | {"half_sum": half_sum}
        if statistics is None:
            function(None, *c[:2], c[0], c[2], one, slices, bias, **options)
            function(whole, *c[:2], c[0], c[2], two, **attributes)
        else:
            function(total, *c[:2], one, *statistics, slices, bias, **options)
            np.testing.assert_allclose(total, whole, rtol=1e-12, atol=1e-12)
            function(whole, *c[:2], two, *statistics, **attributes)
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12)


def leaves(device: Any, operator: str, case: Case, **options: Any) -> None:
    """in_slices leaves what the second stage would have added."""
    problem = Problem(operator, case)
    inputs = [upload(device, array) for array in problem.inputs]
    if operator.endswith("forward"):
        inputs[2] = None
    options = case.attributes | options
    shapes = [None if a is None else a.shape for a in inputs] + [problem.result]
    workspace = workspace_for(device, operator, *shapes, **options)
    count = max(
        1, 0 if workspace is None else workspace.size // max(1, int(np.prod(problem.result)))
    )
    run = getattr(device.ops, operator)
    whole, slices = poisoned(device, *problem.result), poisoned(device, count, *problem.result)
    run(*inputs, whole, **options, workspace=workspace)
    run(*inputs, slices, **options, in_slices=True)
    if not whole.size:
        return
    added = second_stage(slices, None, poisoned(device, *problem.result))
    assert_same_bits(np.asarray(added), np.asarray(whole), f"{operator} {case} {options}")
    if count > 1:
        with pytest.raises(ValueError, match=rf"for 1 slices.* has {count}; ask left_slices"):
            run(*inputs, slices[:1], **options, in_slices=True)


@pytest.mark.parametrize("pass_", ["forward", "backward_data"])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_convolutions_leave_slices(device: Any, pass_: str, precision: str) -> None:
    deep = [
        Case(1, (4, 4), (4, 4), (1, 1), (0, 0), (1, 1), 1, 16, 8),
        Case(1, (4, 4), (4, 4), (1, 1), (0, 0), (1, 1), 1, 64, 64),
        Case(2, (5, 6), (3, 3), (2, 2), (1, 1), (1, 1), 1, 32, 36),
    ]
    for prefix in CONVOLUTIONS:
        for case in deep:
            leaves(device, f"{prefix}_{pass_}", case, precision=precision)
    drawn = st.tuples(cases(), st.sampled_from(CONVOLUTIONS))
    for_all(
        drawn,
        examples_for(device, 8),
        lambda one: leaves(device, f"{one[1]}_{pass_}", one[0], precision=precision),
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_fully_connected_layers_leave_slices(device: Any, precision: str) -> None:
    rng = np.random.default_rng(1)
    options = {"precision": precision}
    for rows, inputs, outputs in ((3, 256, 48), (5, 33, 300), (2, 700, 7), (1, 1, 1)):
        x, w = numbers(rng, rows, inputs), upload(device, numbers(rng, outputs, inputs))
        x, dy = upload(device, x), upload(device, numbers(rng, rows, outputs))
        for name, operands, result in (
            ("fully_connected_forward", (x, w, None), (rows, outputs)),
            ("fully_connected_backward_data", (dy, w), (rows, inputs)),
        ):
            shapes = [None if a is None else a.shape for a in operands]
            workspace = workspace_for(device, name, *shapes, result, **options)
            count = 1 if workspace is None else workspace.size // int(np.prod(result))
            whole, slices = poisoned(device, *result), poisoned(device, count, *result)
            run = getattr(device.ops, name)
            run(*operands, whole, **options, workspace=workspace)
            run(*operands, slices, **options, in_slices=True)
            added = second_stage(slices, None, poisoned(device, *result))
            assert_same_bits(np.asarray(added), np.asarray(whole), f"{name} {result} {precision}")
            twin = np.full((3, *result), np.nan, np.float32)
            given = [None if a is None else np.asarray(a) for a in operands]
            getattr(reference, name)(*given, twin, **options, in_slices=True)
            exact = np.empty(result, np.float32)
            getattr(reference, name)(*given, exact, **options)
            np.testing.assert_array_equal(twin.sum(axis=0), exact)


def test_twins_leave_slices() -> None:
    for prefix in CONVOLUTIONS:
        for pass_ in ("forward", "backward_data"):
            case = Case(1, (5, 5), (3, 3), (2, 2), (1, 1), (1, 1), 1, 3, 4)
            problem = Problem(f"{prefix}_{pass_}", case)
            run = getattr(reference, problem.operator)
            inputs = list(problem.inputs)
            if pass_ == "forward":
                inputs[2] = None
            whole = np.empty(problem.result, np.float32)
            slices = np.full((3, *problem.result), np.nan, np.float32)
            run(*inputs, whole, **case.attributes)
            run(*inputs, slices, **case.attributes, in_slices=True)
            np.testing.assert_array_equal(slices.sum(axis=0), whole)


def test_what_does_not_go_together_is_refused(device: Any) -> None:
    slices, x, c = poisoned(device, 2, 6, 4), poisoned(device, 6, 4), poisoned(device, 4)
    ops, attributes = device.ops, {"eps": EPS, "fix_gamma": False}
    with pytest.raises(ValueError, match=r"slices has shape \(2, 6, 4\).*\(5, 4\)"):
        short = poisoned(device, 5, 4)
        ops.batch_norm_forward_training(short, c, c, short, c, c, slices, **attributes)
    with pytest.raises(ValueError, match=r"bias comes with slices"):
        ops.batch_norm_forward_training(x, c, c, x, c, c, None, c, **attributes)
    with pytest.raises(ValueError, match=r"half_sum comes with slices"):
        ops.batch_norm_forward_training(x, c, c, x, c, c, **attributes, half_sum=True)
    with pytest.raises(ValueError, match=r"half_sum is True, but x holds float32"):
        options = attributes | {"half_sum": True}
        ops.batch_norm_forward_training(x, c, c, x, c, c, slices, **options)
    for both in ((x, slices), (None, None)):
        with pytest.raises(ValueError, match=r"give x, or the slices"):
            ops.batch_norm_forward_inference(both[0], c, c, c, c, x, both[1], **attributes)
    for more in ({"accumulate": True}, {"use_global_stats": True}):
        with pytest.raises(ValueError, match=r"neither accumulate nor use_global_stats"):
            options = attributes | {"use_global_stats": False} | more
            ops.batch_norm_backward(
                x, c, c, c, c, None, x, None, None, None, None, slices, **options
            )
    image, w = poisoned(device, 1, 3, 3, 4), poisoned(device, 4, 3, 3, 4)
    geometry = {"stride": (1, 1), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    for precision in ("float32", "bf16"):
        options = geometry | {"precision": precision, "in_slices": True}
        with pytest.raises(ValueError, match=r"bias, activation and accumulate\s+belong"):
            ops.convolution_forward(image, w, c, image.reshape((1, *image.shape)), **options)
        with pytest.raises(ValueError, match=r"bias, activation and accumulate\s+belong"):
            result = image.reshape((1, *image.shape))
            ops.convolution_backward_data(image, w, result, accumulate=True, **options)


def test_left_slices_are_those_that_gain(device: Any) -> None:
    """The lesson's and DCGAN's layers before a batch norm, as the model has them."""
    from pygan.bindings.operators.slices import saved_microseconds

    one = {"pad": (1, 1), "dilation": (1, 1), "groups": 1, "stride": (2, 2)}
    deep = ((64, 8, 8, 256), (512, 4, 4, 256), None, (64, 4, 4, 512))
    assert device.ops.left_slices("convolution_forward", *deep, **one) == 8
    shallow = ((64, 32, 32, 64), (128, 4, 4, 64), None, (64, 16, 16, 128))
    assert device.ops.left_slices("convolution_forward", *shallow, **one) == 1
    with pytest.raises(ValueError, match="'add_forward' is not one of"):
        device.ops.left_slices("add_forward", (3,), (3,))
    with pytest.raises(ValueError, match="'add_forward' is not one of"):
        reference.left_slices("add_forward", (3,), (3,))
    assert reference.left_slices("convolution_forward", *deep, **one) == 1
    # a second stage of 2 us that reads 8 and writes 1, against 8 read in place of 2; 2.1 MB each
    assert saved_microseconds(1024, 512, 8, forward=True) == pytest.approx(3.05, abs=0.01)
    assert saved_microseconds(8192, 32, 64, forward=True) < 0
    # more rows than a block's shared memory holds
    assert saved_microseconds(2**24, 16, 2, forward=True) == 0
