"""Plans of kernels/convolution.cu: the general path, which takes any channels at any address.

It is tiled as kernels/product.cuh has it; where a tile's columns would be idle, or a grid has not
enough blocks, a thread computes each element of the result (the `direct` kernels).
"""

from __future__ import annotations

from typing import NamedTuple

from ..shapes import Geometry
from ..validation import THREADS
from .model import MOST_BLOCKS, MOST_SLICES
from .passes import Product, product_of, result_size
from .plan import Plan

FILE = "convolution.cu"

DEPTH_STEP = 16
"""TILE_K of kernels/product.cuh."""

ENOUGH_BLOCKS = 256
"""Fewer tiles than this leave parts of a large GPU idle, and the depth is cut into slices."""

LEAST_STEPS = 4
"""Depth steps that make a slice worth its share of a second launch."""

DIRECT_ELEMENTS = 2048
"""One or two channels leave a tile's columns idle: with so many elements, a thread each is enough
work for a device, and the first version of the kernel wastes less."""


class Tile(NamedTuple):
    """TILE_M and TILE_N of kernels/product.cuh, and the threads of a block."""

    lines: int
    columns: int
    threads: int

    @property
    def defines(self) -> dict[str, str | int]:
        return {"TILE_M": self.lines, "TILE_N": self.columns}


def tile_for(product: Product) -> Tile:
    """The tile that a product leaves the least of idle."""
    if product.columns <= 8:
        return Tile(64, 8, 128)
    if product.lines <= 8:
        return Tile(8, 64, 128)
    if min(product.lines, product.columns) <= 32:
        return Tile(32, 32, 64)
    return Tile(64, 64, 256)


def slices_for(product: Product, tile: Tile) -> int:
    """Enough to fill a large GPU, each of some depth."""
    down, across = product.tiles(tile.lines, tile.columns)
    steps = -(-product.depth // DEPTH_STEP)
    wanted = ENOUGH_BLOCKS // max(1, down * across * product.count)
    return max(1, min(wanted, steps // LEAST_STEPS, MOST_SLICES, MOST_BLOCKS // product.count))


def general_plan(kind: str, shape: Geometry, slices: int | None = None) -> Plan:
    """A pass in tiles where a grid has enough blocks, else by the direct kernel. slices: those of a
    pipelined plan, which adds in the same order with as many."""
    product = product_of(kind, shape)
    if product.count <= MOST_BLOCKS:
        tile = tile_for(product)
        slices = slices_for(product, tile) if slices is None else slices
        grid = product.grid(tile.lines, tile.columns, slices)
        if grid[1] <= MOST_BLOCKS:
            arguments = (*shape.arguments(), slices)
            entry = f"convolution_{kind}"
            return Plan(FILE, entry, tile.defines, grid, tile.threads, arguments, slices)
    return direct_plan(kind, shape)


def direct_plan(kind: str, shape: Geometry) -> Plan:
    """One thread per element of the result: for results that leave almost all columns of a tile
    idle, and for more groups, phases or columns than a grid has blocks."""
    grid = (-(-result_size(kind, shape) // THREADS), 1, 1)
    # Tiles are nothing to it, but name a compilation that other launches share.
    defines: dict[str, str | int] = {"TILE_M": 64, "TILE_N": 64}
    return Plan(FILE, f"convolution_{kind}_direct", defines, grid, THREADS, shape.arguments(), 1)


def is_direct(kind: str, shape: Geometry) -> bool:
    """Whether the direct kernel wastes less than tiles would."""
    narrow = kind != "backward_weight" and product_of(kind, shape).columns <= 2
    return narrow and result_size(kind, shape) >= DIRECT_ELEMENTS
