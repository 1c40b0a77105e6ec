"""Plans of Hopper's own instructions, and when they are taken: convolution_wgmma.cu of float32
arrays, convolution_wgmma_bf16.cu of arrays that hold bf16 numbers.

No GPU has run Hopper's own instructions (wgmma) for this library yet. A pass takes them only

- where a table of measured choices says so (tuning.py; ``benchmarks/tune.py`` fills one in on a GPU
  of compute capability 9.0), or
- where ``PYGAN_WGMMA=1`` asks for them: then every pass in ``precision="tf32"`` or ``"bf16"`` whose
  channels are multiples of 4, or whose operands are bf16 arrays, takes them, with the tile that the
  model finds quickest (:func:`predicted_microseconds`, :func:`predicted_of_halves`), and the others
  run as ever. On a device that lacks the instructions such a pass raises ValueError; device `cpu`
  has them.

``PYGAN_WGMMA=0`` forbids them, whatever the tables say. The setting is read when a shape is
launched for the first time. Operands are rounded as convolution_tensor_core.cu rounds them; sums
differ in their order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ..shapes import Geometry
from . import tuning
from .model import MOST_BLOCKS, microseconds, slice_counts
from .passes import Product, product_of
from .pipelined import can_be_pipelined
from .plan import Plan, Tiles
from .tensor_core import LEAST_DEPTH

FILE = "convolution_wgmma.cu"
FILE_OF_HALVES = "convolution_wgmma_bf16.cu"
FILES = (FILE, FILE_OF_HALVES)
CAPABILITY = (9, 0)
"""The one that has the instructions: later ones dropped them."""

THREADS = 256
DEPTH_STEP = 32
STAGES = 3
"""Of kernels/wgmma_product.cuh, with TILE_K."""

DEPTH_STEP_OF_HALVES = 64
"""Of kernels/wgmma_bf16_product.cuh."""

SLAB_ALIGNMENT = 1024
SHARED_BYTES = 227 * 1024
"""That the blocks of a multiprocessor can have."""

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


class TileOfHalves(NamedTuple):
    """TILE_M and TILE_N of kernels/wgmma_bf16_product.cuh; the blocks that a multiprocessor holds;
    and the instructions that a warp issues per step, counted as those of :class:`Tile`."""

    lines: int
    columns: int
    resident: int
    issued: int

    @property
    def stages(self) -> int:
        """Slabs of both operands: as many as fit."""
        return (SHARED_BYTES // self.resident - SLAB_ALIGNMENT) // self._slab_bytes

    def shared_bytes(self) -> int:
        return self.stages * self._slab_bytes + SLAB_ALIGNMENT

    def defines(self, result: bool) -> dict[str, str | int]:
        """result: whether bf16 numbers are written."""
        tile: dict[str, str | int] = {"TILE_M": self.lines, "TILE_N": self.columns}
        return tile | {"RESULT": "Bf16"} if result else tile

    @property
    def _slab_bytes(self) -> int:
        return BYTES["bf16"] * DEPTH_STEP_OF_HALVES * (self.lines + self.columns)


TILES_OF_HALVES = (
    TileOfHalves(256, 128, 1, 276),
    TileOfHalves(128, 128, 1, 201),
    TileOfHalves(256, 64, 1, 235),
    TileOfHalves(128, 64, 2, 168),
)

RATE = {"tf32": 820, "bf16": 1640}
"""Products per cycle of a multiprocessor: an estimate, 0.8 of what an H200's data sheet says."""


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
    measured = tuning.chosen(key(kind, precision), shape, device, TILES)
    if measured is not None:
        return measured
    return candidates(precision, product)[0] if asked else None


def tiles_of_halves(
    kind: str, shape: Geometry, product: Product, result: bool, device: str | None
) -> Tiles | None:
    """As :func:`tiles_for`, of a pass whose operands are bf16 arrays, and whose result is one or
    not."""
    asked = setting()
    if asked == "0" or not can_be_taken(kind, shape, product):
        return None
    measured = tuning.chosen(key_of_halves(kind), shape, device, TILES_OF_HALVES)
    if measured is not None:
        return measured
    return candidates_of_halves(product, result)[0] if asked else None


def key(kind: str, precision: str) -> str:
    """In tables of measured choices."""
    return f"{precision} wgmma {kind}"


def key_of_halves(kind: str) -> str:
    """As :func:`key`, for bf16 arrays."""
    return f"bf16 arrays wgmma {kind}"


def can_be_taken(kind: str, shape: Geometry, product: Product) -> bool:
    """Whether what the kernel reads 4 at a time comes in such runs, on a grid of blocks."""
    across = -(-product.columns // min(tile.columns for tile in TILES))
    return can_be_pipelined(kind, shape) and max(across, product.count) <= MOST_BLOCKS


def candidates(precision: str, product: Product) -> list[Tiles]:
    """All choices, what is predicted to be quickest first; among equals the first tile, the fewest
    slices."""
    choices = _choices(TILES, product)
    return sorted(choices, key=lambda tiles: predicted_microseconds(tiles, precision, product))


def candidates_of_halves(product: Product, result: bool) -> list[Tiles]:
    """As :func:`candidates`, for bf16 arrays."""
    choices = _choices(TILES_OF_HALVES, product)
    return sorted(choices, key=lambda tiles: predicted_of_halves(tiles, product, result))


def _choices(tiles: Sequence[Tile | TileOfHalves], product: Product) -> list[Tiles]:
    counts = slice_counts(product, product.depth // LEAST_DEPTH)
    return [Tiles(tile, slices) for tile in tiles for slices in counts]


def predicted_microseconds(tiles: Tiles, precision: str, product: Product) -> float:
    """What the model expects a product to take, its second stage included. A step takes a block the
    longer of its products and of the instructions that a scheduler issues for its two warps of the
    block."""
    tile, slices = tiles
    products = tile.lines * tile.columns * DEPTH_STEP
    busy = max(THREADS // 128 * tile.issued[precision], products / RATE[precision])
    return microseconds(tile, DEPTH_STEP, busy, slices, product)


def predicted_of_halves(tiles: Tiles, product: Product, result: bool) -> float:
    """As :func:`predicted_microseconds`, for bf16 arrays; result: whether it is one."""
    tile, slices = tiles
    step = DEPTH_STEP_OF_HALVES
    busy = max(THREADS // 128 * tile.issued, tile.lines * tile.columns * step / RATE["bf16"])
    sizes = {"operand_bytes": 2, "result_bytes": 2 if result else 4}
    return microseconds(tile, step, busy, slices, product, **sizes)


def wgmma_plan(kind: str, precision: str, shape: Geometry, tiles: Tiles) -> Plan:
    """convolution_wgmma.cu with these tiles, for what :func:`can_be_taken` says."""
    tile, slices = tiles
    return Plan(
        FILE,
        f"convolution_{kind}_wgmma",
        tile.defines(precision),
        product_of(kind, shape).grid(tile.lines, tile.columns, slices),
        THREADS,
        (*shape.arguments(), slices),
        slices,
        tile.shared_bytes(precision),
    )


def wgmma_plan_of_halves(kind: str, shape: Geometry, tiles: Tiles, result: bool) -> Plan:
    """As :func:`wgmma_plan`, of a pass whose operands are bf16 arrays; result: whether what is
    written is one, too."""
    tile, slices = tiles
    return Plan(
        FILE_OF_HALVES,
        f"convolution_{kind}_wgmma_bf16",
        tile.defines(result and slices == 1),
        product_of(kind, shape).grid(tile.lines, tile.columns, slices),
        THREADS,
        (*shape.arguments(), slices),
        slices,
        tile.shared_bytes(),
    )


def check_capability(operator: str, precision: str, capability: tuple[int, int]) -> None:
    """ValueError for a device that lacks the instructions, with who asked for them."""
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
