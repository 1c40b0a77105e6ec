"""When a batch norm leaves its normalising pass to the convolution that reads it.

Saved are the write of what is normalised and a read of x; the convolution's passes pay with a few
instructions for each number, each time that a tile copies it. What the two weigh is for the model
of the products (plans/model.py) to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from typing import Any

from .plans import few_channels, few_channels_weight, pipelined, tensor_core
from .plans.batch_norm import whole_plan
from .plans.choice import plan_of
from .plans.model import (
    CACHED_BYTES,
    CYCLES_PER_MICROSECOND,
    LANES,
    MULTIPROCESSORS,
    SECOND_STAGE,
)
from .plans.normalised import normalised_plan
from .plans.passes import PASSES, geometry_of, product_of, result_shape, sides_of
from .plans.plan import Plan, Tiles
from .shapes import Geometry
from .slices import ROWS_IN_FLIGHT, block_microseconds
from .storage import HALF

Described = tuple[str, Sequence[Sequence[int] | None], dict[str, Any]]
"""A call: the operator's name, the shapes of its arrays, and its attributes."""

NORMALISING = (
    "convolution_backward_weight",
    "convolution_forward",
    "transposed_convolution_backward_weight",
    "transposed_convolution_forward",
)
"""Operators that take a normalisation."""

NUMBER_INSTRUCTIONS = 9
"""For a number that a thread normalises, its loads and stores included: counted in the machine code
of kernels/convolution_normalised.cu for sm_90a, 148 for 16 numbers."""

FEW_NUMBER_INSTRUCTIONS = 8
"""The same in the kernels for few channels, an estimate."""


def normalisation_gain(x: Sequence[int], calls: Sequence[Described], *, slices: int = 1) -> float:
    """Microseconds that a batch norm of x (..., C) is expected to gain by leaving its normalising
    pass to `calls`, all that read its result: (name, shapes, attributes) of each, as without a
    normalisation. slices: in which x comes. Below 0 where it loses, -inf where a call
    has no kernel for it."""
    dtypes = calls[0][2].get("dtypes") or [None]
    gain = _saved(x, slices, HALF.itemsize if dtypes[0] == HALF.name else 4)
    for call in calls:
        gain -= _added(*call)
    return gain


def _saved(x: Sequence[int], slices: int, itemsize: int) -> float:
    """Of the pass: reading x again, and writing y."""
    rows, channels = prod(x[:-1]), x[-1]
    nbytes = itemsize * rows * channels
    plan = whole_plan(rows, channels, 1 if channels % 4 else 4, arrays=1)
    if plan is None:
        return 2 * nbytes / CACHED_BYTES
    saved = block_microseconds(plan, nbytes, ROWS_IN_FLIGHT)
    saved += block_microseconds(plan, nbytes, rows)
    return saved if slices == 1 else saved - SECOND_STAGE  # which takes two launches then


def _added(name: str, shapes: Sequence[Sequence[int] | None], attributes: dict[str, Any]) -> float:
    """To a call that normalises on the way in; inf where none can."""
    if name not in NORMALISING:
        return inf
    if attributes.get("in_slices"):  # which are parts of the result
        shapes = [*shapes[:3], result_shape(name, shapes)[1:]]
    plan = plan_of(name, shapes, **attributes)
    changed = normalised_plan(name, plan)
    if changed is None:
        return inf
    kind = PASSES[name].kind
    layer = (attributes[each] for each in ("stride", "pad", "dilation", "groups"))
    shape = geometry_of(name, kind, *sides_of(name, shapes), *layer)
    if plan.file in (few_channels.FILE, few_channels_weight.FILE):
        return _added_to_few(kind, shape, plan, changed)
    small, weight = name.startswith("transposed"), kind == "backward_weight"
    if plan.file == tensor_core.FILE:
        return _added_to_tensor_cores(kind, shape, plan, across=weight and not small)
    return _added_to_pipelined(kind, shape, plan, across=weight and small)


def _added_to_pipelined(kind: str, shape: Geometry, plan: Plan, across: bool) -> float:
    """across: whether x is the operand that a tile copies the columns of, not the lines."""
    tile = pipelined.tile_of(plan)
    lines = tile.columns if across else tile.lines
    numbers = lines * pipelined.DEPTH_STEP // pipelined.THREADS  # that a thread copies in a step
    heavier = tile._replace(overhead=tile.overhead + NUMBER_INSTRUCTIONS * numbers)
    product = pipelined.pipelined_product(kind, shape)
    before, after = (
        pipelined.predicted_microseconds(Tiles(each, plan.slices), product)
        for each in (tile, heavier)
    )
    return after - before


def _added_to_tensor_cores(kind: str, shape: Geometry, plan: Plan, across: bool) -> float:
    """across: as of :func:`_added_to_pipelined`."""
    tile, precision = tensor_core.tile_of(plan), str(plan.defines["PRECISION"])
    lines = tile.columns if across else tile.lines
    more = NUMBER_INSTRUCTIONS * lines * tile.depth // 128  # of a scheduler's 32 threads a warp
    heavier = tile._replace(issued={precision: tile.issued[precision] + more})
    before, after = (
        tensor_core.predicted_microseconds(
            Tiles(each, plan.slices), precision, product_of(kind, shape)
        )
        for each in (tile, heavier)
    )
    return after - before


def _added_to_few(kind: str, shape: Geometry, plan: Plan, changed: Plan) -> float:
    """The kernels for few channels: one normalises what its bands share twice, and may have lower
    ones; the other does it once for each of its columns."""
    numbers = shape.small_width * shape.small_channels
    if kind == "backward_data":
        predicted = few_channels.predicted_microseconds
        longer = predicted(shape, changed) - predicted(shape, plan)
        numbers *= changed.grid[0] * few_channels.rows_of(shape, changed.arguments[-1])
    else:
        longer = 0.0
        numbers *= shape.batch * shape.small_height
        numbers *= few_channels_weight.passes_over_dy(shape, plan)
    cycles = FEW_NUMBER_INSTRUCTIONS * numbers / (LANES * MULTIPROCESSORS)
    return longer + cycles / CYCLES_PER_MICROSECOND
