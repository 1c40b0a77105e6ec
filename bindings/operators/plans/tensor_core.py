"""Plans of kernels/convolution_tensor_core.cu: mma.sync, of float32 arrays whose numbers are
rounded on the way in, or of arrays that hold bf16 numbers (here: halves)."""

from __future__ import annotations

from typing import NamedTuple

from ..shapes import Geometry
from ..storage import CHANNELS
from . import tuning
from .model import MOST_BLOCKS, microseconds, slice_counts
from .passes import Product, product_of
from .plan import Plan, Tiles

FILE = "convolution_tensor_core.cu"
LEAST_CAPABILITY = (8, 0)

SCHEDULERS = 4
"""Of a multiprocessor."""

LEAST_DEPTH = 128
"""Depth that makes a slice of a product on tensor cores worth its share of a second launch."""


class Tile(NamedTuple):
    """TILE_M, TILE_N, TILE_K and STAGES of kernels/tensor_core.cuh; the blocks that a
    multiprocessor holds (by their shared memory, or registers); and the instructions that the warps
    of a scheduler issue per step, counted in the machine code for sm_90a."""

    lines: int
    columns: int
    depth: int
    stages: int
    resident: int
    issued: dict[str, int]

    @property
    def threads(self) -> int:
        """Of a block: WARPS of kernels/tensor_core.cuh."""
        return 256 if self.lines * self.columns > 128 * 128 else 128

    @property
    def defines(self) -> dict[str, str | int]:
        names = ("TILE_M", "TILE_N", "TILE_K", "STAGES")
        return dict(zip(names, self[:4], strict=True))


LARGE = Tile(128, 128, 16, 4, 2, {"tf32": 660, "bf16": 470})
WIDE = Tile(128, 64, 32, 3, 2, {"tf32": 910, "bf16": 630})
MEDIUM = Tile(64, 64, 32, 3, 3, {"tf32": 620, "bf16": 450})
NARROW = Tile(128, 8, 32, 3, 3, {"tf32": 450, "bf16": 350})
TILES = (LARGE, WIDE, MEDIUM, NARROW)

LARGE_OF_HALVES = Tile(128, 128, 32, 3, 2, {"bf16": 360})
TALL_OF_HALVES = Tile(256, 64, 32, 3, 2, {"bf16": 400})
WIDE_OF_HALVES = Tile(128, 64, 32, 3, 3, {"bf16": 260})
MEDIUM_OF_HALVES = Tile(64, 64, 32, 3, 4, {"bf16": 185})
HUGE_OF_HALVES = Tile(256, 128, 32, 3, 1, {"bf16": 600})
TILES_OF_HALVES = (
    HUGE_OF_HALVES,
    LARGE_OF_HALVES,
    TALL_OF_HALVES,
    WIDE_OF_HALVES,
    MEDIUM_OF_HALVES,
)
"""Where memory holds the operands in bf16; depth and stages are the kernel's defaults."""

MMA_RATE = {"tf32": 160, "bf16": 320}
"""Products per cycle that mma.sync reaches on one of a multiprocessor's four schedulers: an
estimate, 0.62 of what an H200's data sheet says of its newer instructions."""


def tiles_for(precision: str, product: Product) -> Tiles:
    """What :func:`predicted_microseconds` finds quickest; among equals the first tile, the fewest
    slices. Chosen by shape alone, so that the order of every sum is the same wherever it runs."""
    counts = slice_counts(product, product.depth // LEAST_DEPTH)
    choices = [Tiles(tile, slices) for tile in TILES for slices in counts]
    return min(choices, key=lambda tiles: predicted_microseconds(tiles, precision, product))


def tiles_of_halves(
    kind: str, shape: Geometry, product: Product, result: bool, device: str | None
) -> Tiles:
    """As :func:`tiles_for`, for operands of which memory holds bf16, and `result`: whether it does
    of what is written; or what was measured to be quickest on `device`."""
    measured = tuning.chosen(key_of_halves(kind), shape, device, TILES_OF_HALVES)
    return candidates_of_halves(product, result)[0] if measured is None else measured


def candidates_of_halves(product: Product, result: bool) -> list[Tiles]:
    """All choices, what is predicted to be quickest first."""
    counts = slice_counts(product, product.depth // LEAST_DEPTH)
    choices = [Tiles(tile, slices) for tile in TILES_OF_HALVES for slices in counts]
    number_bytes = {"operand_bytes": 2, "result_bytes": 2 if result else 4}
    return sorted(
        choices,
        key=lambda tiles: predicted_microseconds(tiles, "bf16", product, **number_bytes),
    )


def key_of_halves(kind: str) -> str:
    """In tables of measured choices."""
    return f"bf16 arrays mma {kind}"


def can_take_halves(shape: Geometry, product: Product) -> bool:
    """Whether both sides come in whole units of bf16 numbers, on a grid of blocks."""
    units = all(count % CHANNELS == 0 for count in (shape.group_large, shape.group_small))
    return units and fits_a_grid(product)


def fits_a_grid(product: Product) -> bool:
    """Whether a grid has blocks enough for the narrowest tiles of halves."""
    return max(product.count, -(-product.columns // 64)) <= MOST_BLOCKS


def predicted_microseconds(
    tiles: Tiles, precision: str, product: Product, **number_bytes: int
) -> float:
    """What the model expects a product to take, its second stage included; number_bytes: as
    microseconds() takes them. A step takes a scheduler the longer of issuing a warp's instructions
    and of their mma.sync; blocks that share a multiprocessor take turns; nothing is quicker than
    its bytes pass through the cache."""
    tile, slices = tiles
    products = tile.lines * tile.columns * tile.depth / SCHEDULERS
    busy = max(tile.issued[precision], products / MMA_RATE[precision])
    return microseconds(tile, tile.depth, busy, slices, product, **number_bytes)


def tensor_core_plan(
    operator: str, kind: str, precision: str, shape: Geometry, tiles: Tiles, result: bool = False
) -> Plan:
    """The kernel of float32 arrays with these tiles, which takes any channels at any address;
    result: whether what is written holds bf16 numbers all the same. ValueError, with the operator's
    name, where a grid has not enough blocks."""
    tile, slices = tiles
    product = product_of(kind, shape)
    grid = product.grid(tile.lines, tile.columns, slices)
    if max(grid[1:]) > MOST_BLOCKS:
        raise ValueError(
            f"{operator}: {product.count} products (groups * phases of the stride) of "
            f"{product.columns} columns are more than a grid of tensor-core tiles has blocks "
            f"({MOST_BLOCKS}); use precision='float32'"
        )
    return Plan(
        FILE,
        f"convolution_{kind}_tensor_core",
        {"PRECISION": precision, **tile.defines, **_result_type(result, slices)},
        grid,
        tile.threads,
        (*shape.arguments(), slices),
        slices,
        shared_bytes(kind, tile),
    )


def tensor_core_plan_of_halves(kind: str, shape: Geometry, tiles: Tiles, result: bool) -> Plan:
    """As :func:`tensor_core_plan`, of a pass whose operands are bf16 arrays."""
    tile, slices = tiles
    plan = tensor_core_plan(kind, kind, "bf16", shape, tiles, result)
    # Depth and stages are the kernel's own.
    kept = {name: plan.defines[name] for name in ("PRECISION", "TILE_M", "TILE_N")}
    defines = kept | {"ELEMENT": "Bf16"} | _result_type(result, slices)
    return plan._replace(defines=defines, shared_bytes=shared_bytes(kind, tile, halves=True))


def tile_of(plan: Plan) -> Tile:
    """The tile of a plan for float32 arrays."""
    return next(tile for tile in TILES if tile.defines.items() <= plan.defines.items())


def shared_bytes(kind: str, tile: Tile, halves: bool = False) -> int:
    """A slab of both operands for each stage: SIZE of AlongDepth and of AcrossLines in
    kernels/tensor_core.cuh, by what is contiguous in memory."""
    number_bytes = 2 if halves else 4

    def along_depth(lines: int) -> int:
        return lines * (tile.depth + 8)

    def across_lines(lines: int) -> int:
        return tile.depth * (lines + 16 // number_bytes)

    left = across_lines if kind == "backward_weight" else along_depth
    right = along_depth if kind == "forward" else across_lines
    return number_bytes * tile.stages * (left(tile.lines) + right(tile.columns))


def _result_type(half: bool, slices: int) -> dict[str, str | int]:
    """Where the depth is cut into slices, the second stage writes the numbers."""
    return {"RESULT": "Bf16"} if half and slices == 1 else {}


def check_capability(operator: str, precision: str, capability: tuple[int, int]) -> None:
    """ValueError for a device that lacks mma.sync of these operands."""
    if capability < LEAST_CAPABILITY:
        raise ValueError(
            f"{operator}: precision {precision!r} needs compute capability "
            f"{'.'.join(map(str, LEAST_CAPABILITY))}; this device has "
            f"{'.'.join(map(str, capability))}: use precision='float32'"
        )
