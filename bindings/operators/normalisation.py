"""When a batch norm leaves its normalising pass to the convolution that reads it.

Saved are the write of what is normalised and a read of x; the convolution's passes pay with a few
instructions for each number, each time that a tile copies it. What the two weigh is for the model
of the products (tiling.py) to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from typing import Any

from ..context import device_name
from . import convolution, tensor_core
from .batch_norm import whole_plan
from .convolution import Plan, _few_data_microseconds, as_pipelined, product_of
from .prologue import with_prologue
from .shapes import Geometry, geometry, with_fewer_idle_taps
from .slices import ROWS_IN_FLIGHT, block_microseconds
from .storage import HALF
from .tiling import (
    CACHED_BYTES,
    CYCLES_PER_MICROSECOND,
    DEPTH_STEP,
    LANES,
    MULTIPROCESSORS,
    PIPELINED_THREADS,
    SECOND_STAGE,
    TILES,
    predicted_microseconds,
)

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
        shapes = [*shapes[:3], shapes[3][1:]]
    kind, order = tensor_core.FAMILY[name]
    sides = [tuple(shapes[i]) for i in order]
    pairs = [tuple(attributes[each]) for each in ("stride", "pad", "dilation")]
    layer = (*pairs, attributes["groups"])
    precision = attributes.get("precision", "float32")
    if precision == "float32":
        plan = convolution._plan(name, kind, *sides, *layer, device_name())
    else:
        halves = [dtype == HALF.name for dtype in attributes.get("dtypes", ())]
        plan = tensor_core._plan_of(name, precision, shapes, halves, *layer)
    changed = with_prologue(name, plan)
    if changed is None:
        return inf
    shape = geometry(name, *sides, *layer)
    if kind == "backward_data":
        shape = with_fewer_idle_taps(shape)
    if plan.file in (convolution.FEW_FILE, convolution.FEW_WEIGHT_FILE):
        return _added_to_few(kind, shape, plan, changed)
    product, weight = product_of(kind, shape), kind == "backward_weight"
    small = name.startswith("transposed")
    if plan.file == tensor_core.FILE:
        sizes = ("TILE_M", "TILE_N", "TILE_K", "STAGES")
        tile = next(
            tile
            for tile in tensor_core.TILES
            if [plan.defines[size] for size in sizes] == list(tile[:4])
        )
        lines = tile.columns if weight and not small else tile.lines
        more = NUMBER_INSTRUCTIONS * lines * tile.depth // 128  # of a scheduler's 32 threads a warp
        issued = tile.issued[precision] + more
        tiles = tensor_core.Tiles(tile, plan.slices)
        longer = tensor_core.Tiles(tile._replace(issued={precision: issued}), plan.slices)
        model = tensor_core.predicted_microseconds
        return model(longer, precision, product) - model(tiles, precision, product)
    tile = next(
        tile for tile in TILES if plan.defines == {"TILE_M": tile.lines, "TILE_N": tile.columns}
    )
    lines = tile.columns if weight and small else tile.lines
    numbers = lines * DEPTH_STEP // PIPELINED_THREADS  # that a thread copies in a step
    heavier = tile._replace(overhead=tile.overhead + NUMBER_INSTRUCTIONS * numbers)
    product = as_pipelined(kind, shape)
    before, after = (
        predicted_microseconds(each, plan.slices, *product) for each in (tile, heavier)
    )
    return after - before


def _added_to_few(kind: str, shape: Geometry, plan: Plan, changed: Plan) -> float:
    """To the kernels for few channels: one normalises what its bands share twice, and may have
    lower ones; the other does it once for each of its columns."""
    if kind == "backward_data":
        before, after = (_few_data_microseconds(shape, each) for each in (plan, changed))
        rows = (
            changed.arguments[-1] - 1 + shape.dilation[0] * (shape.kernel[0] - 1)
        ) // shape.stride[0]
        numbers = changed.grid[0] * (rows + 1) * shape.small_width * shape.small_channels
    else:
        before = after = 0.0
        columns = plan.defines.get("COLUMNS", max(convolution.FEW_WEIGHT_COLUMNS))
        times = -(-shape.taps * shape.group_large // columns)
        numbers = shape.small_pixels * shape.small_channels * times
    cycles = FEW_NUMBER_INSTRUCTIONS * numbers / (LANES * MULTIPROCESSORS)
    return after - before + cycles / CYCLES_PER_MICROSECOND
