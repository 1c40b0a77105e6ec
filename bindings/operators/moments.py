"""When a convolution leaves the moments of its tiles to the batch norm that reads its result.

Where its depth is not cut, the tiles of a convolution have finished the numbers whose mean and
variance a batch norm is about to take. They can leave those of their own pixels
(kernels/tile_moments.cuh), which batch norm merges instead of reading its input for them: one
launch in place of two where there are many rows, and many blocks in place of few where a block has
its channels to itself. Every block of that launch merges what all tiles left of its channels, so it
does not pay where tiles are many for what they have; the model says.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from .plans.batch_norm import (
    BatchNormPlan,
    merging_plan,
    split_plan,
    tiles_plan,
    whole_plan,
)
from .plans.choice import plan_of
from .plans.model import (
    CACHED_BYTES,
    CYCLES_PER_MICROSECOND,
    LANES,
    MULTIPROCESSORS,
    SECOND_STAGE,
)
from .plans.normalised import normalised_plan
from .plans.passes import result_shape
from .plans.plan import Plan
from .slices import ROUND, ROWS_IN_FLIGHT, block_microseconds
from .storage import HALF
from .tile_moments import moments_size, tiles_of_moments

LEAVE_MOMENTS = ("convolution_forward", "transposed_convolution_forward")

SUM_INSTRUCTIONS, TILE_INSTRUCTIONS = 4, 350
"""Of a thread, for the moments of each of its sums, and for those of its columns and its tile:
counted in the machine code for sm_90a."""

TILE_CYCLES = 600
"""In which the last tile of a multiprocessor waits for its barriers and shuffles: an estimate."""

TILES_IN_FLIGHT = 4
"""Of a thread that merges, in kernels/batch_norm.cuh."""


def left_moments(
    name: str, *shapes: Sequence[int] | None, merged: bool = False, **attributes: Any
) -> int:
    """How many numbers the operator `name`, the forward of a convolution, should leave of the
    moments of its result's channels, with moments, to the batch norm that reads it; 0: none, as its
    kernel cannot, or nothing is gained. merged: to batch_norm_normalisation_training, which merges
    and does nothing else.

    `shapes` are those of its arrays, as without moments, and `attributes` its attributes, with
    `dtypes`, a list like shapes, where arrays hold bf16 numbers. Raises ValueError for a name that
    is none of these.
    """
    if name not in LEAVE_MOMENTS:
        raise ValueError(f"left_moments: {name!r} is not one of {LEAVE_MOMENTS}")
    plan = plan_of(name, shapes, **attributes)
    if any(shape is not None for shape in shapes[4:]):  # a normalisation on the way in
        changed = normalised_plan(name, plan)
        if changed is None:
            return 0
        plan = changed
    *extents, channels = result_shape(name, shapes)
    tiles = tiles_of_moments(plan, channels)
    dtypes = attributes.get("dtypes", ())
    itemsize = HALF.itemsize if dtypes and dtypes[3] == HALF.name else 4
    rows = prod(extents)
    if not tiles or saved_microseconds(rows, channels, tiles, plan, itemsize, merged) <= 0:
        return 0
    return moments_size(tiles, channels)


def saved_microseconds(
    rows: int,
    channels: int,
    tiles: int,
    convolution: Plan,
    itemsize: int = 4,
    merged: bool = False,
) -> float:
    """What the model expects batch norm of (rows, channels), and the convolution with this plan, to
    gain by the moments of so many tiles, where a number takes `itemsize` bytes; merged: a batch
    norm without its normalising pass.

    Gone are the first of two launches, or the one in which few blocks read all rows; what remains
    is one launch that merges, and then reads and writes. Tiles take longer: by their instructions,
    which those of a multiprocessor issue one after the other, and once by what they wait for."""
    nbytes = itemsize * rows * channels
    behind = merging_plan(channels, 4) if merged else tiles_plan(rows, channels, 4, tiles)
    merging = max(
        8 * behind.splits * tiles * channels / CACHED_BYTES,
        -(-tiles // (behind.block[1] * TILES_IN_FLIGHT)) * ROUND,
    )
    whole = whole_plan(rows, channels, 4, arrays=1)
    if whole is None:
        before = split_plan(rows, channels, 4)
        saved = SECOND_STAGE + _shared_microseconds(before, nbytes, rows)
    else:
        saved = block_microseconds(whole, nbytes, ROWS_IN_FLIGHT)
        if not merged:  # both passes of few blocks, for both of many
            saved += saved + block_microseconds(whole, nbytes, rows)
            saved -= 2 * _shared_microseconds(behind, nbytes, rows)
    blocks = convolution.grid[0] * convolution.grid[1] * convolution.grid[2]
    instructions = SUM_INSTRUCTIONS * convolution.sums + TILE_INSTRUCTIONS
    busy = instructions * convolution.threads / LANES  # a warp for each scheduler, or two
    cycles = -(-blocks // MULTIPROCESSORS) * busy + TILE_CYCLES
    return saved - merging - cycles / CYCLES_PER_MICROSECOND


def _shared_microseconds(plan: BatchNormPlan, nbytes: int, rows: int) -> float:
    """For the blocks of a launch that has enough of them to read, or write, `nbytes` once."""
    in_rounds = -(-plan.rows_per_split // (plan.block[1] * ROWS_IN_FLIGHT)) * ROUND
    return max(in_rounds, nbytes / CACHED_BYTES)
