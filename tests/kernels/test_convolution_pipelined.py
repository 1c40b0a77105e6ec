"""The fast path of convolutions: every tile on any shape that it takes, bit for bit the general
path, and what the launchers choose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convolution_cases import LESSON_LAYERS, Case, Problem, cases, check
from hypothesis import strategies as st

from support import (
    assert_same_bits,
    check_write_and_accumulate,
    examples_for,
    for_all,
    poisoned,
    upload,
)

OPERATORS = ("convolution_forward", "convolution_backward_data", "convolution_backward_weight")
# Multiples of 4 below, at and above tiles and steps of the depth; 20 and 36 carry within a step.
FOURS = (4, 8, 12, 16, 20, 32, 36, 64, 68, 132)
ODD = (1, 3, 5, 6, 33)


@st.composite
def cases_in_fours(draw: st.DrawFn, operator: str) -> Case:
    """Any case whose channels the operator's fast path takes."""
    case = draw(cases())
    # The filters of a forward pass may be any number: they are not read 4 at a time.
    filters = FOURS + ODD if operator == "convolution_forward" else FOURS
    case = replace(
        case,
        large_channels=draw(st.sampled_from(FOURS)),
        small_channels=draw(st.sampled_from(filters)),
    )
    while case.products > 1_500_000 and case.batch > 1:
        case = replace(case, batch=1)
    return case if case.products <= 1_500_000 else replace(case, large_channels=4)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tile_on_any_shape(device: Any, operator: str) -> None:
    """Against the twin, and bit for bit against the general path with as many slices."""
    from pygan.bindings.operators.epilogue import NOTHING
    from pygan.bindings.operators.partial_sums import sum_partials
    from pygan.bindings.operators.plans.general import general_plan
    from pygan.bindings.operators.plans.pipelined import SINGLES, TILES, pipelined_plan
    from pygan.bindings.operators.plans.plan import Tiles
    from pygan.bindings.operators.shapes import geometry
    from pygan.bindings.operators.tile_moments import takes_moments

    kind = operator.removeprefix("convolution_")

    def body(drawn: Any) -> None:
        case, tile, slices = drawn
        problem = Problem(operator, case)
        inputs = [upload(device, array) for array in problem.inputs]
        if kind == "backward_data":
            inputs.append(None)  # the bias that a transposed convolution's forward has
        bias = inputs[2] if len(inputs) > 2 else None
        shape = geometry(operator, case.large, case.weight, case.small, *case.attributes.values())
        size = int(np.prod(problem.result))
        fast = pipelined_plan(kind, shape, Tiles(tile, slices))
        general = general_plan(kind, shape, slices)

        def launch(plan: Any, out: Any, accumulate: bool) -> None:
            written = poisoned(device, size * slices) if slices > 1 else out
            kernel = device.context.kernel(plan.file, plan.kernel, **plan.defines)
            end = () if kind == "backward_weight" else NOTHING.arguments
            end += (None,) if end and takes_moments(plan) else ()
            sizes = (*plan.arguments, int(accumulate), *end)
            kernel(plan.grid, plan.threads, *inputs, written, *sizes)
            if slices > 1:
                sum_partials(written, bias, out, slices, accumulate)

        check_write_and_accumulate(
            device,
            lambda out, accumulate: launch(fast, out, accumulate),
            problem.exact(),
            problem.allowed,
            problem.rng,
            f"{tile} {slices} {operator} {case}",
        )
        results = [poisoned(device, *problem.result) for _ in range(2)]
        for plan, out in zip((fast, general), results, strict=True):
            launch(plan, out, False)
        assert_same_bits(*results, f"{tile} {slices} {operator} {case}")

    slices = st.sampled_from((1, 1, 3))
    fours = st.tuples(cases_in_fours(operator), st.sampled_from(TILES), slices)
    for_all(fours, examples_for(device, 32), body)
    any_channels = st.tuples(cases(), st.sampled_from(SINGLES), slices)
    for_all(any_channels, examples_for(device, 16), body)


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_array_that_is_not_aligned_gives_the_same_bits(device: Any, operator: str) -> None:
    """The launcher takes the general path where an array starts between multiples of 16 bytes."""
    case = Case(2, (9, 7), (3, 3), (2, 2), (1, 1), (1, 1), 1, 64, 36)
    problem = Problem(operator, case)
    run = getattr(device.ops, operator)
    needed = device.ops.workspace_size(operator, *problem.shapes, **case.attributes)
    results = []
    for start in (0, 1):
        inputs = [upload(device, array) for array in problem.inputs]
        moved = poisoned(device, 4 + inputs[0].size)[start : start + inputs[0].size]
        inputs[0] = moved.reshape(inputs[0].shape)
        inputs[0][...] = problem.inputs[0]
        assert inputs[0].ptr % 16 == 4 * start
        results.append(poisoned(device, *problem.result))
        workspace = poisoned(device, needed) if needed else None
        run(*inputs, results[-1], **case.attributes, workspace=workspace)
    assert_same_bits(*results, operator)


@pytest.mark.parametrize("transposed", [False, True])
def test_few_channels_on_any_shape(device: Any, transposed: bool) -> None:
    """An image's 1 to 4 channels from any number in fours: bands of rows, at every edge."""
    from pygan.bindings.operators.plans.choice import plan_of_sides
    from pygan.bindings.operators.plans.few_channels import COLUMNS, FILE

    operator = "transposed_convolution_forward" if transposed else "convolution_backward_data"

    def body(drawn: Any) -> None:
        case, image, filters = drawn
        case = replace(case, groups=1, large_channels=image, small_channels=filters)
        sides = (case.large, case.weight, case.small)
        plan = plan_of_sides(operator, "float32", *sides, *case.attributes.values())
        columns = case.kernel[0] * case.kernel[1] * image
        assert (plan.file == FILE) == (columns <= COLUMNS and case.small_size != (1, 1))
        check(device, operator, case)

    drawn = st.tuples(cases(), st.integers(1, 4), st.sampled_from((4, 8, 20, 64)))
    for_all(drawn, examples_for(device, 32), body)


def test_few_channels_in_several_bands(device: Any) -> None:
    """DCGAN's last layer, whose 64 rows do not fit one block's memory, at batch 1."""
    from pygan.bindings.operators.plans.choice import plan_of_sides
    from pygan.bindings.operators.plans.few_channels import FILE

    case = Case(1, (64, 64), (4, 4), (2, 2), (1, 1), (1, 1), 1, 3, 16)
    sides = (case.large, case.weight, case.small)
    attributes = case.attributes.values()
    plan = plan_of_sides("convolution_backward_data", "float32", *sides, *attributes)
    assert plan.file == FILE and plan.grid[0] > 1
    check(device, "transposed_convolution_forward", case)


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_of_few_channels_on_any_shape(device: Any, transposed: bool) -> None:
    """The gradient of a weight between 1 to 4 channels and any number in fours: padding on every
    side, bands that end early, columns that leave a thread idle."""
    from pygan.bindings.operators.plans.choice import plan_of_sides
    from pygan.bindings.operators.plans.few_channels import COLUMNS
    from pygan.bindings.operators.plans.few_channels_weight import FILE

    operator = f"{'transposed_' if transposed else ''}convolution_backward_weight"

    def body(drawn: Any) -> None:
        case, image, filters = drawn
        case = replace(case, groups=1, large_channels=image, small_channels=filters)
        sides = (case.large, case.weight, case.small)
        plan = plan_of_sides(operator, "float32", *sides, *case.attributes.values())
        columns = case.kernel[0] * case.kernel[1] * image
        assert (plan.file == FILE) == (columns <= COLUMNS and case.small_size != (1, 1))
        check(device, operator, case)

    drawn = st.tuples(cases(), st.integers(1, 4), st.sampled_from((4, 8, 20, 64)))
    for_all(drawn, examples_for(device, 32), body)


@pytest.mark.parametrize("batch", [3, 300])
def test_weights_of_few_channels_in_several_bands(device: Any, batch: int) -> None:
    """More bands than blocks, and rows that do not divide evenly into bands."""
    from pygan.bindings.operators.plans.choice import plan_of_sides
    from pygan.bindings.operators.plans.few_channels_weight import FILE

    case = Case(batch, (7, 5), (3, 2), (1, 2), (1, 0), (1, 1), 1, 2, 8)
    sides = (case.large, case.weight, case.small)
    attributes = case.attributes.values()
    plan = plan_of_sides("convolution_backward_weight", "float32", *sides, *attributes)
    assert plan.file == FILE and plan.grid[0] > 1
    assert (plan.grid[0] < batch) == (batch == 300)
    check(device, "convolution_backward_weight", case)


@pytest.mark.parametrize("layer", LESSON_LAYERS)
def test_what_takes_the_fast_path(layer: str) -> None:
    """All layers but those whose images have one channel, and the noise of 10 numbers."""
    from pygan.bindings.operators.plans.pipelined import can_be_pipelined
    from pygan.bindings.operators.shapes import geometry

    case = LESSON_LAYERS[layer]
    shape = geometry(layer, case.large, case.weight, case.small, *case.attributes.values())
    taken = [kind for kind in ("forward", "backward_data") if can_be_pipelined(kind, shape)]
    slow = {
        "generator 1": ["forward"],
        "generator 4": [],
        "discriminator 1": [],
        "discriminator 5": ["forward"],
    }
    assert taken == slow.get(layer, ["forward", "backward_data"])


def test_the_model_fills_a_gpu() -> None:
    """A layer with few tiles is cut into slices, and one with many is not; narrow results get
    narrow tiles, and large products large ones."""
    from pygan.bindings.operators.plans.model import MULTIPROCESSORS
    from pygan.bindings.operators.plans.passes import Product
    from pygan.bindings.operators.plans.pipelined import TILES, candidates

    def chosen(lines: int, columns: int, depth: int) -> Any:
        return candidates(Product(lines, columns, depth, 1))[0]

    assert chosen(64, 64, 65536).slices >= MULTIPROCESSORS // 2
    assert chosen(2**18, 128, 1024) == (TILES[0], 1)
    tile, slices = chosen(2**18, 24, 256)
    assert tile.columns == 32 and slices == 1
    assert chosen(32, 32, 32).slices == 1
