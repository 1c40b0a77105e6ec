"""Activations, and their derivatives, at the end of a convolution: the bits of two launches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convolution_cases import Case, Problem, cases
from hypothesis import strategies as st

from pygan.reference.activation import FROM_OUTPUT, KINDS
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

SLOPE = 0.3
FORWARD = ("convolution_forward", "transposed_convolution_forward")
BACKWARD = ("convolution_backward_data", "transposed_convolution_backward_data")

WAYS = {
    # By what computes them, from the large side to the small one or back.
    "tile": Case(2, (7, 6), (3, 3), (2, 2), (1, 1), (1, 1), 2, 9, 11),
    "tile of few sums": Case(2, (7, 6), (3, 3), (1, 2), (1, 1), (1, 1), 1, 6, 5),
    "sliced": Case(1, (4, 4), (4, 4), (1, 1), (0, 0), (1, 1), 1, 16, 8),
    "many slices": Case(1, (4, 4), (4, 4), (1, 1), (0, 0), (1, 1), 1, 64, 4),
    "direct": Case(2, (33, 32), (3, 3), (1, 1), (1, 1), (1, 1), 1, 3, 1),
    "pipelined": Case(2, (8, 8), (4, 4), (2, 2), (1, 1), (1, 1), 1, 8, 20),
    "few channels": Case(2, (9, 10), (4, 4), (2, 2), (1, 1), (1, 1), 1, 3, 8),
}


def run_all(
    device: Any, operator: str, case: Case, kind: str, accumulate: bool, **options: Any
) -> None:
    """The operator with an activation against the operator and the activation's own launch."""
    problem = Problem(operator, case)
    inputs = [upload(device, array) for array in problem.inputs]
    options = case.attributes | options
    workspace = workspace_for(device, operator, *problem.shapes, **options)
    run = getattr(device.ops, operator)
    start = numbers(problem.rng, *problem.result)
    fused = upload(device, start) if accumulate else poisoned(device, *problem.result)
    apart = upload(device, start) if accumulate else poisoned(device, *problem.result)
    end = {"activation": kind, "slope": SLOPE}
    what = f"{operator} {kind} accumulate={accumulate} {case} {options}"
    options |= {"workspace": workspace}
    if operator in FORWARD:
        run(*inputs, fused, **options, **end, accumulate=accumulate)
        run(*inputs, apart, **options, accumulate=accumulate)
        device.ops.activation_forward(apart, apart, kind=kind, slope=SLOPE)
        assert_same_bits(np.asarray(fused), np.asarray(apart), what)
        return
    given = np.abs(start) / (1 + np.abs(start)) * np.sign(start)  # what any of them may give
    x = upload(device, given.astype(np.float32))
    run(*inputs, fused, x, **options, **end, accumulate=accumulate)
    gradient = poisoned(device, *problem.result)
    run(*inputs, gradient, **options)
    device.ops.activation_backward(
        None, x, gradient, apart, kind=kind, slope=SLOPE, accumulate=accumulate
    )
    if not accumulate:
        assert_same_bits(np.asarray(fused), np.asarray(apart), what)
        return
    # The product with the derivative and the sum with what was there may be one rounding or two.
    allowed = gamma(3) * (np.abs(start) + np.abs(np.asarray(apart) - start))
    assert_close(fused, np.asarray(apart), allowed, what)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transposed", [False, True])
def test_every_kernel_ends_with_every_activation(device: Any, way: str, transposed: bool) -> None:
    few = ("leaky_relu", "tanh") if device.check else None  # every access is one of theirs
    for i, kind in enumerate(few or KINDS):
        run_all(device, FORWARD[transposed], WAYS[way], kind, accumulate=i % 2 == 1)
    for i, kind in enumerate(few or FROM_OUTPUT):
        run_all(device, BACKWARD[transposed], WAYS[way], kind, accumulate=i % 2 == 0)


def test_ways_are_what_they_are_called() -> None:
    from pygan.bindings.operators.epilogue import FEW_SUMS
    from pygan.bindings.operators.plans.choice import plan_of_sides

    def plan(kind: str, way: str) -> Any:
        case = WAYS[way]
        sides = (case.large, case.weight, case.small)
        operator = f"convolution_{kind}"
        return plan_of_sides(operator, "float32", *sides, *case.attributes.values())

    for kind in ("forward", "backward_data"):
        assert plan(kind, "tile").file == plan(kind, "tile of few sums").file == "convolution.cu"
        assert plan(kind, "tile").sums > FEW_SUMS >= plan(kind, "tile of few sums").sums > 1
    assert 1 < plan("forward", "sliced").slices <= 8
    assert plan("forward", "many slices").slices > 8
    assert plan("forward", "direct").kernel == "convolution_forward_direct"
    assert plan("forward", "pipelined").sums > FEW_SUMS and plan("forward", "pipelined").slices == 1
    assert plan("backward_data", "pipelined").file == "convolution_pipelined.cu"
    assert plan("backward_data", "few channels").file == "convolution_few_channels.cu"


def test_kinds_are_the_twins_kinds() -> None:
    from pygan.bindings.operators import activation, epilogue

    assert activation.KINDS == KINDS and epilogue.FROM_OUTPUT == FROM_OUTPUT


def test_any_shape(device: Any) -> None:
    drawn = st.tuples(
        cases(), st.sampled_from((*FORWARD, *BACKWARD)), st.sampled_from(FROM_OUTPUT), st.booleans()
    )
    for_all(
        drawn,
        examples_for(device, 12),
        lambda example: run_all(device, example[1], example[0], example[2], example[3]),
    )


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_tensor_cores(device: Any, precision: str) -> None:
    """A tile of few sums per thread, and one of many."""
    narrow = Case(1, (9, 8), (3, 3), (2, 2), (1, 1), (1, 1), 1, 3, 5)
    wide = replace(narrow, large_channels=12, small_channels=36)
    for operator in (FORWARD[0], BACKWARD[0]):
        run_all(device, operator, narrow, "tanh", accumulate=False, precision=precision)
        run_all(device, operator, wide, "leaky_relu", accumulate=False, precision=precision)


def test_what_does_not_fit_is_refused(device: Any) -> None:
    case = WAYS["tile"]
    problem = Problem(BACKWARD[0], case)
    inputs = [upload(device, array) for array in problem.inputs]
    dx, x = poisoned(device, *problem.result), poisoned(device, *problem.result)
    run = device.ops.convolution_backward_data
    with pytest.raises(ValueError, match=r"x and activation .* go together"):
        run(*inputs, dx, x, **case.attributes)
    with pytest.raises(ValueError, match=r"x and activation .* go together"):
        run(*inputs, dx, **case.attributes, activation="relu")
    with pytest.raises(ValueError, match=r"derivative of softplus.*use activation_backward"):
        run(*inputs, dx, x, **case.attributes, activation="softplus")
    with pytest.raises(ValueError, match=r"slope -0.5 is not taken.*use activation_backward"):
        run(*inputs, dx, x, **case.attributes, activation="leaky_relu", slope=-0.5)
    with pytest.raises(ValueError, match=r"must be the same"):
        run(*inputs, dx, x[:1], **case.attributes, activation="relu")
    forward = Problem(FORWARD[0], case)
    inputs = [upload(device, array) for array in forward.inputs]
    y = poisoned(device, *forward.result)
    with pytest.raises(ValueError, match=r"'selu' is unknown"):
        device.ops.convolution_forward(*inputs, y, **case.attributes, activation="selu")
