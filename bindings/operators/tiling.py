"""How a matrix product is cut into blocks: the choices behind kernels/tile_product.cuh, the general
path, and kernels/pipeline.cuh, the fast one.

Every choice depends on shapes alone, never on load or on what else runs. Only the number of slices
changes the order of a sum, and with it the rounding; tiles do not.

The fast path has five tiles and any number of slices to choose from. It takes what a model of a
large GPU predicts to be quickest. The model knows what decides at the sizes of a GAN: how evenly
the blocks fill the multiprocessors, that few warps cannot hide latency, that each block has a
beginning and an end in which it multiplies nothing, and what a second stage costs. Its constants
are estimates for an H200 (132 multiprocessors), not measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .epilogue import NOTHING, Epilogue
from .storage import types
from .validation import THREADS, aligned, has_workspace

DEPTH_STEP = 16
"""TILE_K of kernels/product.cuh."""

ENOUGH_BLOCKS = 256
"""Fewer tiles than this leave parts of a large GPU idle, and the depth is cut into slices."""

LEAST_STEPS = 4
"""Depth steps that make a slice worth its share of a second launch."""

MOST_SLICES = 256
FEW_SLICES = 8
"""Up to which one thread adds the slices of an element; 8 threads share longer sums."""

PARTIALS_COLUMNS = 32
"""Elements per block of sum_many_partials."""

MOST_BLOCKS = 65535
"""Of a grid, in its second and third dimension."""


class Tiling(NamedTuple):
    """Tiles of a product: -D constants, threads of a block, tiles in both directions, slices."""

    defines: dict[str, int]
    threads: int
    lines: int
    columns: int
    slices: int


class Tile(NamedTuple):
    """TILE_M, TILE_N and VECTOR of kernels/pipeline.cuh, the blocks a multiprocessor can hold
    (RESIDENT), and the instructions of a step that are no products, per thread: loads from shared
    memory, copies and their addresses, counted in machine code for sm_90a."""

    lines: int
    columns: int
    resident: int
    overhead: int
    vector: int = 4


TILES = (
    Tile(128, 128, 2, 350),
    Tile(128, 64, 3, 250),
    Tile(64, 64, 4, 175),
    Tile(128, 32, 4, 200),
    Tile(64, 32, 4, 140),
)
SINGLES = (Tile(64, 64, 3, 390, vector=1),)
"""For channels that are no multiples of 4."""

PIPELINED_THREADS = 128
SLICES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

LEAST_DEPTH = 128
"""Depth that makes a slice of a product on tensor cores worth its share of a second launch."""

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


def choose_pipelined(
    lines: int, columns: int, depth: int, products: int = 1, tiles: Sequence[Tile] = TILES
) -> tuple[Tile, int]:
    """(tile, slices) for `products` products of (lines, depth) by (depth, columns): what
    :func:`predicted_microseconds` finds quickest; among equals the first tile, the fewest slices.
    """
    steps = -(-depth // DEPTH_STEP)
    most = max(1, min(steps // LEAST_STEPS, MOST_BLOCKS // products))
    _, i, slices = min(
        (predicted_microseconds(tile, slices, lines, columns, depth, products), i, slices)
        for i, tile in enumerate(tiles)
        for slices in SLICES
        if slices <= most
    )
    return tiles[i], slices


def pipelined_tiling(tile: Tile, slices: int, lines: int, columns: int) -> Tiling:
    across, down = -(-lines // tile.lines), -(-columns // tile.columns)
    defines = {"TILE_M": tile.lines, "TILE_N": tile.columns}
    if tile.vector != 4:
        defines["VECTOR"] = tile.vector
    return Tiling(defines, PIPELINED_THREADS, across, down, slices)


def predicted_microseconds(
    tile: Tile, slices: int, lines: int, columns: int, depth: int, products: int = 1
) -> float:
    """What the model expects a pipelined product to take, its second stage included.

    A multiprocessor gets its share of the blocks and holds up to `tile.resident` at a time, which
    take a step together in the time of their products, or in that of one block alone where it
    waits longer than the others need. Nothing is quicker than its bytes pass through the cache.
    """
    # A block's 4 warps have a scheduler each, which issues an instruction per cycle.
    busy = tile.lines * tile.columns * DEPTH_STEP / LANES + tile.overhead
    return microseconds(tile, DEPTH_STEP, busy, slices, lines, columns, depth, products)


def microseconds(
    tile: Any,
    depth_step: int,
    busy: float,
    slices: int,
    lines: int,
    columns: int,
    depth: int,
    products: int,
    operand_bytes: int = 4,
    result_bytes: int = 4,
) -> float:
    """The model for any kernel whose tiles have `lines`, `columns` and `resident` blocks on a
    multiprocessor, of which one is `busy` for so many cycles in each step of `depth_step`. Bytes
    are of a number in memory; sums of slices always have 4."""
    blocks = -(-lines // tile.lines) * -(-columns // tile.columns) * products * slices
    steps = math.ceil(math.ceil(depth / depth_step) / slices)
    rounds, rest = divmod(-(-blocks // MULTIPROCESSORS), tile.resident)
    cycles = 0.0
    for together, times in ((tile.resident, rounds), (rest, 1)):
        if together and times:
            step = max(together * busy, busy + STEP_LATENCY)
            cycles += times * (BLOCK_CYCLES + steps * step)
    copied = operand_bytes * blocks * steps * depth_step * (tile.lines + tile.columns)
    numbers = lines * columns * products
    partials = (4 * slices if slices > 1 else result_bytes) * numbers
    time = max(cycles / CYCLES_PER_MICROSECOND, (copied + partials) / CACHED_BYTES)
    if slices > 1:
        time += SECOND_STAGE + (partials + result_bytes * numbers) / CACHED_BYTES
    return time


def tiling_for(
    lines: int, columns: int, depth: int, products: int = 1, slices: int | None = None
) -> Tiling:
    """The general path's tiling of `products` products of (lines, depth) by (depth, columns);
    `slices` where they were chosen before."""
    if columns <= 8:
        tile_m, tile_n, threads = 64, 8, 128
    elif lines <= 8:
        tile_m, tile_n, threads = 8, 64, 128
    elif min(lines, columns) <= 32:
        tile_m, tile_n, threads = 32, 32, 64
    else:
        tile_m, tile_n, threads = 64, 64, 256
    across, down = -(-lines // tile_m), -(-columns // tile_n)
    steps = -(-depth // DEPTH_STEP)
    if slices is None:
        wanted = ENOUGH_BLOCKS // max(1, across * down * products)
        slices = max(1, min(wanted, steps // LEAST_STEPS, MOST_SLICES, MOST_BLOCKS // products))
    return Tiling({"TILE_M": tile_m, "TILE_N": tile_n}, threads, across, down, slices)


def sum_partials(
    workspace: Any,
    bias: Any,
    out: Any,
    slices: int,
    accumulate: bool,
    end: Epilogue = NOTHING,
) -> None:
    """out (+)= the sum of the `slices` copies of it in `workspace`, + bias along the last axis, and
    what `end` does to it."""
    many = slices > FEW_SLICES
    entry = "sum_many_partials" if many else "sum_partials"
    whole = out.size if bias is None else out.shape[-1]
    vector = 4 if whole % 4 == 0 and aligned(workspace, out, end.activated) else 1
    kernel = out.context.kernel("partial_sums.cu", entry, VECTOR=vector, **types(RESULT=out))
    blocks = -(-out.size // (PARTIALS_COLUMNS if many else THREADS))
    sizes = (out.size, out.shape[-1], slices, int(accumulate))
    kernel(blocks, THREADS // vector, workspace, bias, out, *sizes, *end.arguments)


def partials_size(size: int, slices: int) -> int:
    """float32 elements of workspace for a result of `size` elements."""
    return size * slices if slices > 1 else 0


def target(operator: str, out: Any, workspace: Any, slices: int, in_slices: bool = False) -> Any:
    """What a sliced kernel writes: `out`, or the workspace after its size was checked; in_slices:
    where slices_of() says."""
    if in_slices and workspace.size != out.size * slices:
        raise ValueError(
            f"{operator}: the result is for {workspace.size // max(1, out.size)} slices, but the "
            f"sum has {slices}; ask left_slices({operator!r}, ...), or leave in_slices=False"
        )
    has_workspace(operator, workspace, partials_size(out.size, slices))
    return workspace if slices > 1 else out


def slices_of(
    operator: str, result: Any, bias: Any, activation: str | None, accumulate: bool
) -> tuple[Any, Any]:
    """(out, workspace) of a result (slices, ...) whose slices are to be left unadded, and which
    therefore is nothing but a sum. ValueError where more is asked for."""
    if len(result.shape) < 2 or not result.shape[0]:
        raise ValueError(
            f"{operator}: in_slices takes a result (slices, ...), not {tuple(result.shape)}"
        )
    if bias is not None or activation is not None or accumulate:
        raise ValueError(
            f"{operator}: in_slices leaves a sum unfinished; bias, activation and accumulate "
            "belong to whoever adds the slices"
        )
    return result[0], result.reshape(result.size)
