"""Plans of kernels/convolution_few_channels.cu: data gradients towards images of few channels, of
which a tile would be mostly idle. What the sibling few_channels_weight.py shares with it is here.
"""

from __future__ import annotations

from ..shapes import Geometry
from ..validation import THREADS
from .model import (
    BLOCK_CYCLES,
    CYCLES_PER_MICROSECOND,
    LANES,
    MULTIPROCESSORS,
    STEP_LATENCY,
)
from .pipelined import MOST_EXTENT
from .plan import Plan

FILE = "convolution_few_channels.cu"
CHANNELS = 4
"""Of x, at most, for which the kernels for few channels are taken."""

COLUMNS = 64
"""Of taps times channels, at most."""

SHARED_BYTES = 64 * 1024
"""That every GPU since sm_75 gives a block."""

PIXELS, CHUNK, KEPT_BLOCKS = 8, 16, 512
"""PIXELS, CHUNK, and ROUNDS * 256 of kernels/convolution_few_channels.cu."""

WARP_CYCLES = 48
"""Of a warp for 12 loads of 16 bytes, behind which the 128 products of each thread pass, and the
rounding of operands."""

RESULT_INSTRUCTIONS = 60
TAP_INSTRUCTIONS = 15
"""Of the kernel's second half, for each number of the result and each tap that reaches it:
estimates."""

BAND_CYCLES = 40
"""Pixels of a band whose products take as long as a band's beginning and end: an estimate."""


def has_few(shape: Geometry) -> bool:
    """Whether x has so few channels, and dy channels in fours and more than one pixel."""
    return (
        shape.groups == 1
        and shape.large_channels <= CHANNELS
        and shape.taps * shape.group_large <= COLUMNS
        and shape.small_channels % 4 == 0
        and (shape.small_height, shape.small_width) != (1, 1)
    )


def rows_of(shape: Geometry, band: int) -> int:
    """Rows of dy that a band of so many rows of dx needs."""
    return (band - 1 + shape.dilation[0] * (shape.kernel[0] - 1)) // shape.stride[0] + 1


def few_channels_plan(shape: Geometry) -> Plan | None:
    """The kernel's plan, if a band of at least a row fits its memory; with the height of band that
    lets a large GPU's multiprocessors compute the fewest pixels."""
    if not has_few(shape) or max(shape.small_width, shape.small_channels) >= MOST_EXTENT:
        return None
    quads = -(-shape.taps * shape.group_large // 4)
    best = None
    for bands in range(1, shape.height + 1):
        band = -(-shape.height // bands)
        pixels = rows_of(shape, band) * shape.small_width
        shared = 16 * (shape.small_channels * quads + pixels * (quads | 1))
        blocks = shape.batch * -(-shape.height // band)
        if shared <= SHARED_BYTES and blocks < 2**31:
            cost = -(-blocks // MULTIPROCESSORS) * (pixels + BAND_CYCLES)
            found = (cost, bands, band, blocks, shared)
            best = found if best is None else min(best, found)
    if best is None:
        return None
    _, _, band, blocks, shared = best
    arguments = (*shape.arguments()[:-1], band)
    grid = (max(1, blocks), 1, 1)
    entry = "convolution_backward_data_few"
    return Plan(FILE, entry, {}, grid, THREADS, arguments, 1, shared_bytes=shared)


def normalised_few(plan: Plan) -> Plan | None:
    """The variant that normalises dy on the way in, with the highest band, up to plan's, whose sums
    its threads can keep; None where not even a row's are."""
    batch, height, _, channels, _, small_width, small_channels, *layer, highest = plan.arguments
    kernel_h, kernel_w, stride_h, _, _, _, dilation_h, _ = layer
    quads = -(-kernel_h * kernel_w * channels // 4)
    for band in range(highest, 0, -1):
        pixels = ((band - 1 + dilation_h * (kernel_h - 1)) // stride_h + 1) * small_width
        blocks = -(-pixels // PIXELS)
        held = max(pixels * (quads | 1), blocks * (PIXELS * CHUNK // 4 + 1))
        shared = 16 * (small_channels * quads + held)
        if blocks * quads <= KEPT_BLOCKS and shared <= SHARED_BYTES:
            return plan._replace(
                kernel="convolution_backward_data_few_normalised",
                grid=(max(1, batch * -(-height // band)), 1, 1),
                arguments=(*plan.arguments[:-1], band),
                shared_bytes=shared,
                unaligned=None,
            )
    return None


def predicted_microseconds(shape: Geometry, plan: Plan) -> float:
    """What the model expects of a plan of this module. Of the two halves of a block one is bound by
    its loads, or waits for each of them where it is alone, the other by its instructions."""
    band = plan.arguments[-1]
    columns, (taps_h, taps_w) = shape.taps * shape.group_large, shape.kernel
    items = -(-rows_of(shape, band) * shape.small_width // PIXELS) * -(-columns // 4)
    loads = max(-(-items // 32) * WARP_CYCLES, -(-items // THREADS) * STEP_LATENCY)
    first = shape.small_channels // 4 * loads
    taps = -(-taps_h // shape.stride[0]) * -(-taps_w // shape.stride[1])
    instructions = RESULT_INSTRUCTIONS + TAP_INSTRUCTIONS * taps
    second = band * shape.width * shape.group_large * instructions / LANES
    blocks = max(1.0, plan.grid[0] / MULTIPROCESSORS)
    return (BLOCK_CYCLES + blocks * (first + second)) / CYCLES_PER_MICROSECOND
