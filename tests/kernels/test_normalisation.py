"""Batch norm on the way into a convolution: the bits of the two in turn, and the twins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    check_write_and_accumulate,
    examples_for,
    for_all,
    gamma,
    numbers,
    poisoned,
    upload,
    workspace_for,
)

EPS = 2.0**-10
OPERATORS = (
    "convolution_forward",
    "transposed_convolution_forward",
    "convolution_backward_weight",
    "transposed_convolution_backward_weight",
)
FOURS = (4, 8, 12, 16, 20, 36, 68)
KINDS = ((None, 0.0), ("relu", 0.0), ("leaky_relu", 0.25))


def normalisation_for(rng: np.random.Generator, channels: int) -> np.ndarray:
    """(channels, 4) with every shift well away from 0, so that padding would show it."""
    found = numbers(rng, channels, 4)
    found[:, 1] = np.abs(found[:, 1]) + np.float32(0.5)
    found[:, 3] += np.where(found[:, 3] < 0, np.float32(-1), np.float32(1))
    return found


@st.composite
def cases_in_fours(draw: st.DrawFn) -> Case:
    case = draw(cases())
    case = replace(
        case,
        large_channels=draw(st.sampled_from(FOURS)),
        small_channels=draw(st.sampled_from(FOURS)),
    )
    while case.products > 1_000_000 and case.batch > 1:
        case = replace(case, batch=1)
    return case if case.products <= 1_000_000 else replace(case, large_channels=4)


def tiled(monkeypatch: pytest.MonkeyPatch, tile: Any, slices: int) -> None:
    """Pipelined products with this tile and slices, whatever the model would choose."""
    from pygan.bindings.operators.plans import choice, pipelined, tuning
    from pygan.bindings.operators.plans.plan import Tiles

    monkeypatch.setattr(pipelined, "candidates", lambda *_: [Tiles(tile, slices)])
    monkeypatch.setattr(tuning, "chosen", lambda *_: None)
    monkeypatch.setattr(choice, "few_channels", lambda *_: None)
    choice.plan_of_sides.cache_clear()


def check(device: Any, operator: str, case: Case, kind: str | None, slope: float) -> None:
    """Against the twin, written and accumulated; and the bits of batch norm and product in turn."""
    problem = Problem(operator, case)
    x, *others = problem.inputs
    normalisation = normalisation_for(problem.rng, x.shape[-1])
    behind = {"x_activation": kind, "x_slope": slope}
    arrays = [upload(device, a) for a in (x, *others)]
    given = upload(device, normalisation)
    workspace = workspace_for(device, operator, *problem.shapes, **case.attributes)
    run = getattr(device.ops, operator)

    def launch(out: Any, accumulate: bool) -> None:
        run(
            *(*arrays, out, given),
            **case.attributes,
            **behind,
            accumulate=accumulate,
            workspace=workspace,
        )

    exact = [None if a is None else a.astype(np.float64) for a in (x, *others)]
    expected = np.zeros(problem.result)
    wide = normalisation.astype(np.float64)
    getattr(reference, operator)(*exact, expected, wide, **case.attributes, **behind)
    # |x - mean|, scaled and shifted, bounds what is summed: 4 roundings of it, and the sum's.
    mean, inverse, scale, beta = np.abs(wide).T
    exact[0] = (np.abs(exact[0]) + mean) * inverse * scale + beta
    bound = np.zeros(problem.result)
    absolute = [None if a is None else np.abs(a) for a in exact]
    getattr(reference, operator)(*absolute, bound, **case.attributes)
    allowed = gamma(problem.terms + 6) * bound
    what = f"{operator} {case} {behind}"
    check_write_and_accumulate(device, launch, expected, allowed, problem.rng, what)
    check_bits(device, problem, arrays, kind, slope)


def check_bits(
    device: Any,
    problem: Problem,
    arrays: list[Any],
    kind: str | None,
    slope: float,
    **attributes: Any,
) -> None:
    """Batch norm's own pass and the product, against the product that normalises."""
    x, rng, case = arrays[0], problem.rng, problem.case
    channels = x.shape[-1]
    half = x.dtype == np.uint16
    moving = [numbers(rng, channels) for _ in range(4)]
    moving[3] = np.abs(moving[3])
    moving = [upload(device, a) for a in moving]
    options = {"eps": EPS, "fix_gamma": False}
    y = poisoned_as(device, half, *x.shape)
    device.ops.batch_norm_forward_inference(x, *moving, y, **options, activation=kind, slope=slope)
    made = poisoned(device, channels, 4)
    device.ops.batch_norm_normalisation_inference(*moving, made, **options)
    dtypes = [None if a is None else str(a.dtype) for a in (*arrays, made)]
    sized = {"dtypes": dtypes} if half else {}
    attributes |= case.attributes
    workspace = workspace_for(device, problem.operator, *problem.shapes, **attributes, **sized)
    results = [poisoned(device, *problem.result) for _ in range(2)]
    behind = {"x_activation": kind, "x_slope": slope}
    run = getattr(device.ops, problem.operator)
    run(*arrays, results[0], made, **attributes, **behind, workspace=workspace)
    run(y, *arrays[1:], results[1], **attributes, workspace=workspace)
    what = f"{problem.operator} {case} {behind} {attributes}"
    assert_same_bits(*map(np.asarray, results), what)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tile_on_any_shape(device: Any, operator: str) -> None:
    """Any slices, padding, stride, dilation, groups and activation."""
    from pygan.bindings.operators.plans.choice import plan_of_sides
    from pygan.bindings.operators.plans.pipelined import TILES

    def body(drawn: Any) -> None:
        case, tile, slices, behind = drawn
        with pytest.MonkeyPatch.context() as patch:
            tiled(patch, tile, slices)
            check(device, operator, case, *behind)
        plan_of_sides.cache_clear()

    drawn = st.tuples(
        cases_in_fours(), st.sampled_from(TILES), st.sampled_from((1, 1, 3)), st.sampled_from(KINDS)
    )
    for_all(drawn, examples_for(device, 12), body)


@pytest.mark.parametrize(
    ("operator", "precision"), [*zip(OPERATORS, ("tf32", "bf16", "bf16", "tf32"), strict=True)]
)
def test_tensor_cores(device: Any, operator: str, precision: str) -> None:
    """The bits of batch norm and product in turn, in tiles of 64 x 64 and of an image's columns."""
    from pygan.bindings.operators.plans import choice, tensor_core, wgmma
    from pygan.bindings.operators.plans.plan import Tiles

    choices = (tensor_core.MEDIUM, tensor_core.NARROW)

    def body(drawn: Any) -> None:
        case, other, tile, slices, behind = drawn
        read = "small_channels" if operator.startswith("transposed") else "large_channels"
        case = replace(case, **{"large_channels": other, "small_channels": other, read: 12})
        problem = Problem(operator, case)
        with pytest.MonkeyPatch.context() as patch:
            tiles = Tiles(tile, slices)
            patch.setattr(tensor_core, "tiles_for", lambda *_: tiles)
            patch.setattr(choice, "few_channels", lambda *_: None)
            patch.setattr(wgmma, "tiles_for", lambda *_: None)
            choice.plan_of_sides.cache_clear()
            arrays = [upload(device, a) for a in problem.inputs]
            check_bits(device, problem, arrays, *behind, precision=precision)
        choice.plan_of_sides.cache_clear()

    drawn = st.tuples(
        cases_in_fours(),
        st.sampled_from((4, 5, 12)),
        st.sampled_from(choices),
        st.sampled_from((1, 2)),
        st.sampled_from(KINDS),
    )
    for_all(drawn, examples_for(device, 6), body)


@pytest.mark.parametrize("operator", OPERATORS[1::2])
def test_beside_an_image_of_few_channels(device: Any, operator: str) -> None:
    """A generator's last layer, with the bits of any precision and of bf16 arrays."""
    from pygan.bindings.operators.plans import tensor_core
    from pygan.bindings.operators.plans.choice import plan_of_sides
    from pygan.bindings.operators.plans.normalised import normalised_plan

    def body(drawn: Any) -> None:
        case, image, filters, behind, precision, half = drawn
        case = replace(case, groups=1, large_channels=image, small_channels=filters)
        sides = (case.large, case.weight, case.small)
        plan = plan_of_sides(operator, "float32", *sides, *case.attributes.values())
        if not plan.file.startswith("convolution_few") or normalised_plan(operator, plan) is None:
            return
        if precision == "float32":
            check(device, operator, case, *behind)
            return
        problem = Problem(operator, case)
        with pytest.MonkeyPatch.context() as patch:  # whatever tiles are predicted to take
            patch.setattr(tensor_core, "predicted_microseconds", lambda *_, **__: 1e9)
            plan_of_sides.cache_clear()
            half = half and precision == "bf16" and filters % 8 == 0
            x = problem.inputs[0]
            arrays = [upload(device, a) for a in problem.inputs]
            if half:
                arrays[0] = upload_half(device, rounded(x, "bf16"))
            check_bits(device, problem, arrays, *behind, precision=precision)
        plan_of_sides.cache_clear()

    drawn = st.tuples(
        cases(),
        st.integers(1, 4),
        st.sampled_from((4, 8, 20, 64)),
        st.sampled_from(KINDS),
        st.sampled_from(("float32", "float32", "tf32", "bf16")),
        st.booleans(),
    )
    for_all(drawn, examples_for(device, 24), body)


def test_bands_that_leave_threads_their_sums(device: Any) -> None:
    """DCGAN's last layer at batch 1, whose rows do not fit one band."""
    from pygan.bindings.operators.plans.choice import plan_of_sides
    from pygan.bindings.operators.plans.normalised import normalised_plan

    case = Case(1, (64, 64), (4, 4), (2, 2), (1, 1), (1, 1), 1, 3, 20)
    sides, operator = (case.large, case.weight, case.small), "transposed_convolution_forward"
    plan = plan_of_sides(operator, "float32", *sides, *case.attributes.values())
    found = normalised_plan(operator, plan)
    assert found is not None and 1 < plan.grid[0] <= found.grid[0]
    check(device, operator, case, "relu", 0.0)


@pytest.mark.parametrize("half", [False, True])
def test_statistics(device: Any, half: bool) -> None:
    """Mean and variance have the bits of batch norm's forward, in one launch and in two; what
    normalises is the twin's within its roundings."""

    def body(drawn: Any) -> None:
        rows, channels, fix_gamma, seed = drawn
        rng = np.random.default_rng(seed)
        x = half_numbers(rng, rows, channels) if half else numbers(rng, rows, channels)
        x += np.float32(0 if half else 100)
        given = (upload_half if half else upload)(device, x)
        scale, shift = numbers(rng, channels), numbers(rng, channels)
        options = {"eps": EPS, "fix_gamma": fix_gamma}
        name = "batch_norm_normalisation_training"
        workspace = workspace_for(device, name, x.shape, **options)
        found = []
        for late in (True, False):
            gamma_ = upload(device, scale)
            beta, mean, var = upload(device, shift), poisoned(device, channels), None
            var, last = poisoned(device, channels), poisoned(device, channels, 4)
            if late:
                operands = (given, gamma_, beta, mean, var, last)
                device.ops.batch_norm_normalisation_training(
                    *operands, **options, workspace=workspace
                )
                normalisation = np.asarray(last)
            else:
                y = poisoned_as(device, half, *x.shape)
                operands = (given, gamma_, beta, y, mean, var)
                device.ops.batch_norm_forward_training(*operands, **options, workspace=workspace)
            found.append([np.asarray(a) for a in (mean, var, gamma_)])
        for name, one, two in zip(("mean", "var", "gamma"), *found, strict=True):
            assert_same_bits(one, two, f"{name} of {drawn}")
        used = np.ones(channels) if fix_gamma else scale
        inverse = 1 / np.sqrt(found[0][1].astype(np.float64) + EPS)
        expected = np.stack([found[0][0], inverse, used, shift], axis=1)
        assert_close(normalisation, expected, gamma(4) * np.abs(expected), f"{drawn}")
        assert_same_bits(normalisation[:, [0, 2, 3]], expected[:, [0, 2, 3]].astype(np.float32))

    channels = (4, 8, 36, 68) if half else (1, 3, 4, 7, 16, 36)
    drawn = st.tuples(
        st.sampled_from((1, 2, 37, 600, 9000)),
        st.sampled_from(channels),
        st.booleans(),
        st.integers(0, 2**16),
    )
    for_all(drawn, examples_for(device, 10), body)


def test_refusals(device: Any) -> None:
    """What no kernel normalises is an error that says so, never a sum of other numbers."""
    case = Case(2, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1, 8, 8)
    problem = Problem("convolution_forward", case)
    arrays = [upload(device, a) for a in problem.inputs]
    given = upload(device, normalisation_for(problem.rng, 8))
    out = poisoned(device, *problem.result)
    run = device.ops.convolution_forward
    with pytest.raises(ValueError, match=r"normalisation has shape \(4, 4\) .* needs \(8, 4\)"):
        run(*arrays, out, poisoned(device, 4, 4), **case.attributes)
    with pytest.raises(ValueError, match="x_activation 'tanh' comes behind a normalisation"):
        run(*arrays, out, given, **case.attributes, x_activation="tanh")
    with pytest.raises(ValueError, match="x_activation 'relu' comes behind a normalisation"):
        run(*arrays, out, **case.attributes, x_activation="relu")
    moved = poisoned(device, 1 + arrays[0].size)[1:].reshape(arrays[0].shape)
    workspace = workspace_for(device, "convolution_forward", *problem.shapes, **case.attributes)
    with pytest.raises(ValueError, match="begins between multiples of 16 bytes"):
        run(moved, *arrays[1:], out, given, **case.attributes, workspace=workspace)
    odd = replace(case, large_channels=7)
    problem = Problem("convolution_forward", odd)
    arrays = [upload(device, a) for a in problem.inputs]
    workspace = workspace_for(device, "convolution_forward", *problem.shapes, **odd.attributes)
    given = upload(device, normalisation_for(problem.rng, 7))
    with pytest.raises(ValueError, match="no kernel normalises on the way into these shapes"):
        run(*arrays, out, given, **odd.attributes, workspace=workspace)
    assert np.isnan(np.asarray(out)).all()
    for ops in (device.ops, reference):
        with pytest.raises(ValueError, match="come with slices"):
            channel = numbers(problem.rng, 8)
            own = [upload(device, channel) if ops is device.ops else channel for _ in range(4)]
            last = poisoned(device, 8, 4) if ops is device.ops else np.zeros((8, 4), np.float32)
            ops.batch_norm_normalisation_inference(*own, last, last, eps=EPS, fix_gamma=False)
