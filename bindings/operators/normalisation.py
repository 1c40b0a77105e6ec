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
from .convolution import as_pipelined
from .prologue import with_prologue
from .shapes import geometry, with_fewer_idle_taps
from .slices import ROWS_IN_FLIGHT, block_microseconds
from .tiling import (
    CACHED_BYTES,
    DEPTH_STEP,
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


def normalisation_gain(x: Sequence[int], calls: Sequence[Described], *, slices: int = 1) -> float:
    """Microseconds that a batch norm of x (..., C) is expected to gain by leaving its normalising
    pass to `calls`, all that read its result: (name, shapes, attributes) of each, as without a
    normalisation. slices: in which x comes. Below 0 where it loses, -inf where a call
    has no kernel for it."""
    gain = _saved(x, slices)
    for call in calls:
        gain -= _added(*call)
    return gain


def _saved(x: Sequence[int], slices: int) -> float:
    """Of the pass: reading x again, and writing y."""
    rows, channels = prod(x[:-1]), x[-1]
    nbytes = 4 * rows * channels
    plan = whole_plan(rows, channels, 1 if channels % 4 else 4, arrays=1)
    if plan is None:
        return 2 * nbytes / CACHED_BYTES
    saved = block_microseconds(plan, nbytes, ROWS_IN_FLIGHT)
    saved += block_microseconds(plan, nbytes, rows)
    return saved if slices == 1 else saved - SECOND_STAGE  # which takes two launches then


def _added(name: str, shapes: Sequence[Sequence[int] | None], attributes: dict[str, Any]) -> float:
    """To a call that normalises on the way in; inf where none can."""
    if name not in NORMALISING or attributes.get("dtypes"):
        return inf
    if attributes.get("precision", "float32") != "float32":
        return inf
    kind, order = tensor_core.FAMILY[name]
    if attributes.get("in_slices"):  # which are parts of the result
        shapes = [*shapes[:3], shapes[3][1:]]
    sides = [tuple(shapes[i]) for i in order]
    pairs = [tuple(attributes[each]) for each in ("stride", "pad", "dilation")]
    geometry_of = (*sides, *pairs, attributes["groups"])
    plan = convolution._plan(name, kind, *geometry_of, device_name())
    if with_prologue(name, plan) is None:
        return inf
    shape = geometry(name, *geometry_of)
    if kind == "backward_data":
        shape = with_fewer_idle_taps(shape)
    tile = next(
        tile for tile in TILES if plan.defines == {"TILE_M": tile.lines, "TILE_N": tile.columns}
    )
    small_of_weight = name == "transposed_convolution_backward_weight"
    lines = tile.columns if small_of_weight else tile.lines
    numbers = lines * DEPTH_STEP // PIPELINED_THREADS  # that a thread copies in a step
    longer = tile._replace(overhead=tile.overhead + NUMBER_INSTRUCTIONS * numbers)
    product = as_pipelined(kind, shape)
    before, after = (predicted_microseconds(each, plan.slices, *product) for each in (tile, longer))
    return after - before
