"""Plans of kernels/convolution_few_channels_weight.cu: gradients of weights that meet images of few
channels."""

from __future__ import annotations

from ..shapes import Geometry
from ..validation import THREADS
from .few_channels import SHARED_BYTES, has_few
from .model import (
    BLOCK_CYCLES,
    CACHED_BYTES,
    CYCLES_PER_MICROSECOND,
    MOST_SLICES,
    MULTIPROCESSORS,
    SECOND_STAGE,
)
from .pipelined import MOST_EXTENT
from .plan import Plan

FILE = "convolution_few_channels_weight.cu"
COLUMNS = (16, 9)
"""COLUMNS of the kernel; the first is its default."""

ITEM_CYCLES = 1200
"""Of a band of a weight gradient, in which its block waits for memory: an estimate."""


def few_channels_weight_plan(shape: Geometry) -> tuple[Plan, float] | None:
    """The kernel's plan, if a row of x and its sums fit a block, with the bands and blocks that
    :func:`predicted_cycles` finds quickest; and the microseconds that it finds."""
    columns = shape.taps * shape.group_large
    width = min(COLUMNS, key=lambda width: -(-columns // width) * width)
    padded = -(-columns // width) * width
    slot = 4 * padded * (shape.small_channels + 4)  # bytes of the sums that two lanes leave
    lanes = THREADS * width // max(1, shape.small_channels // 4 * padded)
    lanes = min(lanes, 2 * (SHARED_BYTES // slot))
    if not has_few(shape) or max(shape.height, shape.width) >= MOST_EXTENT or not lanes:
        return None
    reach = [(shape.kernel[i] - 1) * shape.dilation[i] + 1 for i in (0, 1)]
    line = ((shape.small_width - 1) * shape.stride[1] + reach[1]) * shape.large_channels
    best = None
    for bands in range(1, shape.small_height + 1):
        band = -(-shape.small_height // bands)
        shared = max(slot * -(-lanes // 2), 4 * line * ((band - 1) * shape.stride[0] + reach[0]))
        items = shape.batch * -(-shape.small_height // band)
        if shared > SHARED_BYTES or not 0 < items < 2**31:
            continue
        each = -(-items // MOST_SLICES)  # bands per block
        slices = -(-items // each)
        rounds = -(-band * shape.small_width // lanes)
        cycles = predicted_cycles(slices, each, rounds, width, shape.small_channels * columns)
        found = (cycles, bands, band, slices, shared)
        best = found if best is None else min(best, found)
    if best is None:
        return None
    cycles, _, band, slices, shared = best
    defines: dict[str, str | int] = {} if width == COLUMNS[0] else {"COLUMNS": width}
    arguments = (*shape.arguments()[:-1], band, lanes)
    entry, grid = "convolution_backward_weight_few", (slices, 1, 1)
    plan = Plan(FILE, entry, defines, grid, THREADS, arguments, slices, shared)
    return plan, cycles / CYCLES_PER_MICROSECOND


def normalised_few_weight(plan: Plan) -> Plan:
    """The variant that normalises dy on the way in."""
    return plan._replace(kernel="convolution_backward_weight_few_normalised", unaligned=None)


def passes_over_dy(shape: Geometry, plan: Plan) -> int:
    """How often each number of dy is read, once for each COLUMNS of the weight."""
    width = int(plan.defines.get("COLUMNS", COLUMNS[0]))
    return -(-shape.taps * shape.group_large // width)


def predicted_cycles(slices: int, bands: int, rounds: int, columns: int, size: int) -> float:
    """What the model expects of a weight gradient of `size` elements: `slices` blocks of `bands`
    bands, in each of which a thread takes `rounds` pixels by `columns` columns. A round of 8 warps
    is bound by its instructions, 5 per column (a load and four products) and about 10 beside."""
    busy = -(-slices // MULTIPROCESSORS) * rounds * 2 * (5 * columns + 10)
    cycles: float = BLOCK_CYCLES + bands * (ITEM_CYCLES + busy)
    if slices > 1:
        stage = SECOND_STAGE + 4 * size * (slices + 1) / CACHED_BYTES
        cycles += stage * CYCLES_PER_MICROSECOND
    return cycles
