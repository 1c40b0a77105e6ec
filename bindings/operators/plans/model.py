"""The model of a large GPU that predicts how long a launch takes.

It knows what decides at the sizes of a GAN: how evenly the blocks fill the multiprocessors, that
few warps cannot hide latency, that each block has a beginning and an end in which it multiplies
nothing, and what a second stage costs. Its constants are estimates for an H200 (132
multiprocessors), not measurements.

Every choice that is made with it depends on shapes alone, never on load or on what else runs. Only
the number of slices changes the order of a sum, and with it the rounding; tiles do not.
"""

from __future__ import annotations

import math
from typing import Protocol

from .passes import Product

MULTIPROCESSORS = 132
LANES = 128
"""Products that a multiprocessor finishes in a cycle."""

CYCLES_PER_MICROSECOND = 1700
STEP_LATENCY = 250
"""Cycles of a step in which one block alone waits: for its barrier, and for shared memory."""

BLOCK_CYCLES = 2500
"""Cycles of a block before its first product and after its last."""

SECOND_STAGE = 2.0
"""Microseconds of launching sum_partials."""

CACHED_BYTES = 4.0e6
"""Bytes per microsecond between multiprocessors and the L2 cache, which holds a lesson's layers."""

MOST_BLOCKS = 65535
"""Of a grid, in its second and third dimension."""

MOST_SLICES = 256
SLICES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, MOST_SLICES)


class Tile(Protocol):
    """What the model asks of a kernel's tiles: numbers of the result that a block computes, and the
    blocks that a multiprocessor holds."""

    @property
    def lines(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def resident(self) -> int: ...


def slice_counts(product: Product, most: int) -> list[int]:
    """Into how many slices a product's depth may be cut: at most `most`, and those of all products
    in one grid."""
    most = max(1, min(most, MOST_BLOCKS // product.count))
    return [slices for slices in SLICES if slices <= most]


def microseconds(
    tile: Tile,
    depth_step: int,
    busy: float,
    slices: int,
    product: Product,
    operand_bytes: int = 4,
    result_bytes: int = 4,
) -> float:
    """What a product cut into such tiles and slices is expected to take, its second stage included,
    where a block is `busy` for so many cycles in each step of `depth_step`. Bytes are of a number
    in memory; sums of slices always have 4.

    A multiprocessor gets its share of the blocks and holds up to `tile.resident` at a time, which
    take a step together in the time that they are busy, or in that of one block alone where it
    waits longer than the others need. Nothing is quicker than its bytes pass through the cache.
    """
    down, across, layers = product.grid(tile.lines, tile.columns, slices)
    blocks = down * across * layers
    steps = math.ceil(math.ceil(product.depth / depth_step) / slices)
    rounds, rest = divmod(-(-blocks // MULTIPROCESSORS), tile.resident)
    cycles = 0.0
    for together, times in ((tile.resident, rounds), (rest, 1)):
        if together and times:
            step = max(together * busy, busy + STEP_LATENCY)
            cycles += times * (BLOCK_CYCLES + steps * step)
    copied = operand_bytes * blocks * steps * depth_step * (tile.lines + tile.columns)
    numbers = product.lines * product.columns * product.count
    partials = (4 * slices if slices > 1 else result_bytes) * numbers
    time = max(cycles / CYCLES_PER_MICROSECOND, (copied + partials) / CACHED_BYTES)
    if slices > 1:
        time += SECOND_STAGE + (partials + result_bytes * numbers) / CACHED_BYTES
    return time
