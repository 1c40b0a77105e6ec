"""When kernels/convolution_wgmma.cu computes a pass, and how it cuts it up.

No GPU has run Hopper's own instructions (wgmma) for this library yet. A pass takes them only

- where a table of measured choices says so (tuning.py; ``benchmarks/tune.py`` fills one in on a GPU
  of compute capability 9.0), or
- where ``PYGAN_WGMMA=1`` asks for them: then every pass in ``precision="tf32"`` or ``"bf16"`` whose
  channels are multiples of 4 takes them, with the tile that :func:`predicted_microseconds` finds
  quickest, and the others run as ever. On a device that lacks the instructions such a pass raises
  ValueError; device `cpu` has them.

``PYGAN_WGMMA=0`` forbids them, whatever the tables say. The setting is read when a shape is
launched for the first time. Operands are rounded as convolution_tensor_core.cu rounds them; sums
differ in their order.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from . import tuning
from .convolution import Product, can_be_pipelined
from .shapes import Geometry
from .tiling import LEAST_DEPTH, MOST_BLOCKS, SLICES, microseconds

FILE = "convolution_wgmma.cu"
CAPABILITY = (9, 0)
"""The one that has the instructions: later ones dropped them."""

THREADS = 256
DEPTH_STEP = 32
STAGES = 3
"""Of kernels/wgmma_product.cuh, with TILE_K."""

SLAB_ALIGNMENT = 1024
BYTES = {"tf32": 4, "bf16": 2}
"""Of a number in shared memory."""


class Tile(NamedTuple):
    """TILE_M and TILE_N of kernels/wgmma_product.cuh; the blocks that a multiprocessor holds; and
    the instructions that a warp issues per step, counted in the machine code for sm_90a (the mean
    of the three kernels)."""

    lines: int
    columns: int
    resident: int
    issued: dict[str, int]

    def shared_bytes(self, precision: str) -> int:
        slabs = STAGES * DEPTH_STEP * (self.lines + self.columns) * BYTES[precision]
        return slabs + SLAB_ALIGNMENT

    def defines(self, precision: str) -> dict[str, str | int]:
        return {"PRECISION": precision, "TILE_M": self.lines, "TILE_N": self.columns}


TILES = (
    Tile(256, 128, 1, {"tf32": 510, "bf16": 310}),
    Tile(128, 128, 2, {"tf32": 350, "bf16": 220}),
    Tile(128, 64, 2, {"tf32": 340, "bf16": 220}),
)

RATE = {"tf32": 820, "bf16": 1640}
"""Products per cycle of a multiprocessor: an estimate, 0.8 of what an H200's data sheet says."""


class Tiles(NamedTuple):
    tile: Tile
    slices: int


def setting() -> str | None:
    """ "1", "0" or None of PYGAN_WGMMA; ValueError for another."""
    value = os.environ.get("PYGAN_WGMMA") or None
    if value not in (None, "0", "1"):
        raise ValueError(
            f"PYGAN_WGMMA is {value!r}; it must be 1 (wherever possible), 0 (never) or unset"
        )
    return value


def tiles_for(
    kind: str, precision: str, shape: Geometry, product: Product, device: str | None
) -> Tiles | None:
    """The tile and slices of a pass that takes wgmma, or None for one that does not."""
    asked = setting()
    if asked == "0" or not can_be_taken(kind, shape, product):
        return None
    measured = tuning.chosen(f"{precision} wgmma {kind}", shape, device, TILES)
    if measured is not None:
        return Tiles(*measured)
    return candidates(precision, product)[0] if asked else None


def can_be_taken(kind: str, shape: Geometry, product: Product) -> bool:
    """Whether what the kernel reads 4 at a time comes in such runs, on a grid of blocks."""
    across = -(-product.columns // min(tile.columns for tile in TILES))
    return can_be_pipelined(kind, shape) and max(across, product.count) <= MOST_BLOCKS


def candidates(precision: str, product: Product) -> list[Tiles]:
    """All choices, what is predicted to be quickest first; among equals the first tile, the fewest
    slices."""
    most = max(1, min(product.depth // LEAST_DEPTH, MOST_BLOCKS // product.count))
    choices = [Tiles(tile, slices) for tile in TILES for slices in SLICES if slices <= most]
    return sorted(choices, key=lambda tiles: predicted_microseconds(tiles, precision, product))


def predicted_microseconds(tiles: Tiles, precision: str, product: Product) -> float:
    """What a product is expected to take on an H200, its second stage included: the model of
    tiling.py. A step takes a block the longer of its products and of the instructions that a
    scheduler issues for its two warps of the block."""
    tile, slices = tiles
    products = tile.lines * tile.columns * DEPTH_STEP
    busy = max(THREADS // 128 * tile.issued[precision], products / RATE[precision])
    return microseconds(tile, DEPTH_STEP, busy, slices, *product)


def entry(kind: str) -> str:
    """The kernel's name."""
    return f"convolution_{kind}_wgmma"


def check_capability(operator: str, precision: str, context: Any) -> None:
    """ValueError where a device lacks the instructions, with who asked for them."""
    capability = context.device.compute_capability()
    if capability == CAPABILITY:
        return
    if setting() == "1":
        asked, way_out = "PYGAN_WGMMA=1 asks for it", "unset PYGAN_WGMMA"
    else:
        asked = f"{tuning.cached_path()} or tuning_table.py names it for a device of this name"
        way_out = "measure anew with benchmarks/tune.py, or set PYGAN_WGMMA=0"
    raise ValueError(
        f"{operator}: precision {precision!r} by wgmma needs compute capability "
        f"{'.'.join(map(str, CAPABILITY))}; this device has {'.'.join(map(str, capability))}. "
        f"{asked}: {way_out}"
    )
