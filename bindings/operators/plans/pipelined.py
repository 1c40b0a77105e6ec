"""Plans of kernels/convolution_pipelined.cu: the fast path of float32, where channels are multiples
of 4 or a layer is wide. It has five tiles and any number of slices to choose from, and takes what
the model (model.py) predicts to be quickest, or what was measured to be (tuning.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..shapes import Geometry
from . import tuning
from .general import LEAST_STEPS
from .model import LANES, MOST_BLOCKS, microseconds, slice_counts
from .passes import Product, product_of
from .plan import Plan, Tiles

FILE = "convolution_pipelined.cu"
THREADS = 128
DEPTH_STEP = 16
"""TILE_K of kernels/pipeline.cuh."""

MOST_EXTENT = 2**14
"""MOST_EXTENT of kernels/convolution_pipelined.cuh: of an image with its padding."""

MOST_CHANNELS = 2**24

NARROW = 32
"""Lines or columns up to which the general path's narrow tiles beat 4-byte copies into 64 x 64."""


class Tile(NamedTuple):
    """TILE_M, TILE_N and VECTOR of kernels/pipeline.cuh, the blocks a multiprocessor can hold
    (RESIDENT), and the instructions of a step that are no products, per thread: loads from shared
    memory, copies and their addresses, counted in machine code for sm_90a."""

    lines: int
    columns: int
    resident: int
    overhead: int
    vector: int = 4

    @property
    def defines(self) -> dict[str, str | int]:
        tile: dict[str, str | int] = {"TILE_M": self.lines, "TILE_N": self.columns}
        return tile if self.vector == 4 else tile | {"VECTOR": self.vector}


TILES = (
    Tile(128, 128, 2, 350),
    Tile(128, 64, 3, 250),
    Tile(64, 64, 4, 175),
    Tile(128, 32, 4, 200),
    Tile(64, 32, 4, 140),
)
SINGLES = (Tile(64, 64, 3, 390, vector=1),)
"""For channels that are no multiples of 4."""


def can_be_pipelined(kind: str, shape: Geometry, vector: int = 4) -> bool:
    """Whether what the kernel reads `vector` at a time comes in such runs, of extents that it
    counts."""
    together = (shape.group_large,) if kind == "forward" else (shape.group_large, shape.group_small)
    extents = (
        *(size + 2 * pad for size, pad in zip(shape[1:3], shape.pad, strict=True)),
        *(shape.dilation[i] * shape.kernel[i] for i in (0, 1)),
    )
    return (
        all(channels % vector == 0 for channels in together)
        and max(extents) < MOST_EXTENT
        and max(shape.large_channels, shape.small_channels) < MOST_CHANNELS
    )


def pipelined_product(kind: str, shape: Geometry) -> Product:
    """The product as the kernel computes it: a weight gradient's lines and columns the other way
    round, and a phase's depth the mean of all phases, which may have unequal taps."""
    lines, columns, depth, count = product_of(kind, shape)
    if kind == "backward_weight":
        lines, columns = columns, lines
    if kind == "backward_data":
        depth = -(-shape.taps * shape.group_small * shape.groups // count)
    return Product(lines, columns, depth, count)


def tiles_of(kind: str, shape: Geometry) -> Sequence[Tile]:
    """The tiles that a pass has to choose from."""
    return TILES if can_be_pipelined(kind, shape) else SINGLES


def candidates(product: Product, tiles: Sequence[Tile] = TILES) -> list[Tiles]:
    """All choices for a :func:`pipelined_product`, what is predicted to be quickest first; among
    equals the first tile, the fewest slices."""
    counts = slice_counts(product, -(-product.depth // DEPTH_STEP) // LEAST_STEPS)
    choices = [Tiles(tile, slices) for tile in tiles for slices in counts]
    return sorted(choices, key=lambda each: predicted_microseconds(each, product))


def predicted_microseconds(tiles: Tiles, product: Product) -> float:
    """What the model expects a :func:`pipelined_product` to take, its second stage included."""
    tile, slices = tiles
    # A block's 4 warps have a scheduler each, which issues an instruction per cycle.
    busy = tile.lines * tile.columns * DEPTH_STEP / LANES + tile.overhead
    return microseconds(tile, DEPTH_STEP, busy, slices, product)


def pipelined_plan(
    kind: str, shape: Geometry, tiles: Tiles | None = None, device: str | None = None
) -> Plan:
    """A pass with tile and slices: those given, else those that were measured on `device`, else
    those that the model chooses."""
    product = pipelined_product(kind, shape)
    if tiles is None:
        choices = tiles_of(kind, shape)
        tiles = tuning.chosen(kind, shape, device, choices) or candidates(product, choices)[0]
    tile, slices = tiles
    grid = product.grid(tile.lines, tile.columns, slices)
    entry, arguments = f"convolution_{kind}_pipelined", (*shape.arguments(), slices)
    return Plan(FILE, entry, tile.defines, grid, THREADS, arguments, slices)


def plan_where_gained(kind: str, shape: Geometry, device: str | None = None) -> Plan | None:
    """As :func:`pipelined_plan`, for a pass that the kernel takes and gains on; None for others."""
    product = product_of(kind, shape)
    wide = min(product.lines, product.columns) > NARROW and can_be_pipelined(kind, shape, vector=1)
    if product.count > MOST_BLOCKS or not (wide or can_be_pipelined(kind, shape)):
        return None
    plan = pipelined_plan(kind, shape, device=device)
    return plan if max(plan.grid[1:]) <= MOST_BLOCKS else None


def tile_of(plan: Plan) -> Tile:
    """The tile of a plan of this module."""
    return next(tile for tile in (*TILES, *SINGLES) if plan.defines == tile.defines)
