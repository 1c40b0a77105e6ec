"""When a convolution, or a fully connected layer, leaves the slices of its sum to the batch norm
that reads it.

A product whose depth is cut into slices ends with a second stage, a launch that adds them. A
batch norm that follows can add them as it reads (kernels/batch_norm_slices.cu): its forward those
of a forward, its backward those of a data gradient. The sums and their
order are the same; whether it pays is for the model to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ..context import shared_bytes
from .plans.batch_norm import WHOLE, BatchNormPlan, split_plan, whole_plan
from .plans.choice import plan_of
from .plans.model import CACHED_BYTES, MULTIPROCESSORS, SECOND_STAGE
from .plans.passes import PASSES, result_shape
from .storage import HALF

LEAVE_SLICES = (
    "convolution_backward_data",
    "convolution_forward",
    "fully_connected_backward_data",
    "fully_connected_forward",
    "transposed_convolution_backward_data",
    "transposed_convolution_forward",
)

ROUND = 0.3
"""Microseconds of loads from the second-level cache that nothing hides: an estimate."""

BLOCK_BYTES = 1.0e5
"""Bytes per microsecond that one multiprocessor reads or writes: a 64-byte line per clock."""

SECTOR = 32
"""Bytes that are fetched at a time."""

LINES, TOGETHER, ADDERS = 2, 4, 8
"""Rows of a thread, and slices of each, that kernels/batch_norm_slices.cu has under way, of lanes
of so many slices."""

ROWS_IN_FLIGHT = 4
"""Of a thread, in kernels/batch_norm.cuh."""

STATIC_BYTES = {"forward": 36 * WHOLE, "backward": 32 * WHOLE}
"""Shared memory beside the sums: MERGED and ADDED of kernels/batch_norm.cuh."""


def left_slices(name: str, *shapes: Sequence[int] | None, **attributes: Any) -> int:
    """How many slices the operator `name`, of a convolution or a fully connected layer, should
    leave, with in_slices, to the batch norm that reads its result; 1: it should finish its sum.

    `shapes` are those of its arrays, as without in_slices, and `attributes` its attributes, with
    `dtypes`, a list like shapes, where arrays hold bf16 numbers. Raises ValueError for a name that
    is no forward or data gradient of these.
    """
    if name not in LEAVE_SLICES:
        raise ValueError(f"left_slices: {name!r} is not one of {LEAVE_SLICES}")
    forward, result = name.endswith("forward"), PASSES[name].result
    shape = result_shape(name, shapes)
    size = prod(shape)
    dtypes = attributes.pop("dtypes", ())

    def slices_for(dtypes: Sequence[str | None]) -> int:
        return plan_of(name, shapes, dtypes=dtypes, **attributes).slices

    slices, itemsize = slices_for(dtypes), 4
    if dtypes and dtypes[result] == HALF.name:
        itemsize = HALF.itemsize
        # What is left is float32: as many slices, or the sum would be another.
        if slices_for([*dtypes[:result], None, *dtypes[result + 1 :]]) != slices:
            return 1
    channels = shape[-1]
    if (
        not size
        or slices == 1
        or saved_microseconds(size // channels, channels, slices, forward, itemsize) <= 0
    ):
        return 1
    return slices


def saved_microseconds(
    rows: int, channels: int, slices: int, forward: bool, itemsize: int = 4
) -> float:
    """What the model expects batch norm of (rows, channels) to gain by adding `slices` itself, in
    its forward or its backward, where a number of the sum takes `itemsize` bytes (4 in a slice); 0
    where a block's sums do not fit its memory.

    Gone are the second stage and two reads of what it wrote; a batch norm that runs forward writes
    that itself. A block takes the longer of its rounds of loads and its bytes.
    """
    width = 1 if channels % 4 else 4
    whole = whole_plan(rows, channels, width, arrays=1 if forward else 2)
    plan = whole or split_plan(rows, channels, width)
    static = STATIC_BYTES["forward" if forward else "backward"]
    if itemsize * plan.numbers + static > shared_bytes():
        return 0.0
    nbytes, in_slices = itemsize * rows * channels, 4 * rows * channels * slices
    stage = SECOND_STAGE + (in_slices + nbytes) / CACHED_BYTES
    if whole is None:
        # All multiprocessors share the bytes: one read less, and slices in place of another; the
        # sum is written in both passes, for the launch that follows.
        return stage - in_slices / CACHED_BYTES
    read = block_microseconds(plan, nbytes, ROWS_IN_FLIGHT)
    lanes = -(-min(slices, ADDERS) // TOGETHER) * -(-slices // ADDERS)
    added = max(lanes * _rounds(plan, LINES) * ROUND, block_microseconds(plan, in_slices, rows))
    written = block_microseconds(plan, nbytes, rows) if forward else 0.0
    return stage + 2 * read - added - written


def _rounds(plan: BatchNormPlan, in_flight: int) -> int:
    """Of loads, with so many rows of a thread under way."""
    return -(-plan.rows_per_split // (plan.block[1] * in_flight))


def block_microseconds(plan: BatchNormPlan, nbytes: int, in_flight: int) -> float:
    """For the blocks of one launch to read `nbytes` of rows, or to write them."""
    waves = -(-plan.columns // MULTIPROCESSORS)
    fetched = nbytes / plan.columns * max(1, SECTOR // (4 * plan.block[0] * plan.width))
    return max(
        _rounds(plan, in_flight) * ROUND, waves * fetched / BLOCK_BYTES, nbytes / CACHED_BYTES
    )
