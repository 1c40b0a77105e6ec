"""How a matrix product is cut into blocks: the choices behind kernels/tile_product.cuh.

Every choice depends on shapes alone, never on the device, so that the order of each sum, and with
it the rounding, is the same wherever the same instructions run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .validation import THREADS, has_workspace

DEPTH_STEP = 16
"""TILE_K of kernels/tile_product.cuh."""

ENOUGH_BLOCKS = 256
"""Fewer tiles than this leave parts of a large GPU idle, and the depth is cut into slices."""

LEAST_STEPS = 8
"""Depth steps that make a slice worth its share of a second launch."""

MOST_SLICES = 64
MOST_BLOCKS = 65535
"""Of a grid, in its second and third dimension."""


class Tiling(NamedTuple):
    """Tiles of a product: -D constants, threads of a block, tiles in both directions, slices."""

    defines: dict[str, int]
    threads: int
    lines: int
    columns: int
    slices: int


def tiling_for(lines: int, columns: int, depth: int, products: int = 1) -> Tiling:
    """The tiling of `products` products of (lines, depth) by (depth, columns)."""
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
    wanted = ENOUGH_BLOCKS // max(1, across * down * products)
    slices = max(1, min(wanted, steps // LEAST_STEPS, MOST_SLICES, MOST_BLOCKS // products))
    return Tiling({"TILE_M": tile_m, "TILE_N": tile_n}, threads, across, down, slices)


def sum_partials(workspace: Any, bias: Any, out: Any, slices: int, accumulate: bool) -> None:
    """out (+)= the sum of the `slices` copies of it in `workspace`, + bias along the last axis."""
    kernel = out.context.kernel("partial_sums.cu", "sum_partials")
    kernel(
        -(-out.size // THREADS),
        THREADS,
        workspace,
        bias,
        out,
        out.size,
        out.shape[-1],
        slices,
        int(accumulate),
    )


def partials_size(size: int, slices: int) -> int:
    """float32 elements of workspace for a result of `size` elements."""
    return size * slices if slices > 1 else 0


def target(operator: str, out: Any, workspace: Any, slices: int) -> Any:
    """What a sliced kernel writes: `out`, or the workspace after its size was checked."""
    has_workspace(operator, workspace, partials_size(out.size, slices))
    return workspace if slices > 1 else out
