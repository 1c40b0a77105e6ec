"""The convolution family and fully connected layers with a choice of precision.

``precision="float32"`` is the launcher of convolution.py or fully_connected.py, untouched.
``"tf32"`` and ``"bf16"`` launch kernels/convolution_tensor_core.cu: operands rounded to 11 or 8
significant bits as they enter the tensor cores, sums in float32, every array in memory float32.
Where it was measured or asked for, they launch Hopper's own instructions (see wgmma.py), and for
images of few channels, of which a tile would be mostly idle, the kernels that float32 has for them,
which round alike (kernels/convolution_few_channels.cu and convolution_few_channels_weight.cu); of
weights between bf16 arrays and images also kernels/convolution_image_weight.cu.
A fully connected layer is a convolution of 1 x 1 pixels with 1 x 1 taps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, NamedTuple

from ..context import device_name
from . import convolution, fully_connected, tuning, wgmma
from .convolution import Plan, Product, aligned, few_channels, product_of
from .epilogue import NOTHING, alone_with_moments, leaving_moments, of_gradient, of_output
from .prologue import Prologue, normalising, of_input, with_prologue
from .shapes import Geometry, Pair, geometry, with_fewer_idle_taps
from .storage import CHANNELS, HALF, is_half, whole_units
from .tiling import (
    LEAST_DEPTH,
    MOST_BLOCKS,
    SLICES,
    microseconds,
    partials_size,
    slices_of,
    sum_partials,
    target,
)
from .validation import countable, has_rank, has_shape

FILE = "convolution_tensor_core.cu"
PRECISIONS = ("float32", "tf32", "bf16")
LEAST_CAPABILITY = (8, 0)

SCHEDULERS = 4
"""Of a multiprocessor."""


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

IMAGE_WEIGHT_FILE = "convolution_image_weight.cu"
IMAGE_WEIGHT = Tile(64, 64, 32, 3, 3, {"bf16": 400})
"""Its tile: dy in bf16, and an image of floats."""

MMA_RATE = {"tf32": 160, "bf16": 320}
"""Products per cycle that mma.sync reaches on one of a multiprocessor's four schedulers: an
estimate, 0.62 of what an H200's data sheet says of its newer instructions."""


class Family(NamedTuple):
    """How an operator is a convolution: the kernel, and which of its arrays are large side, weight
    and small side (the last array is the result)."""

    kind: str
    order: tuple[int, int, int]


FAMILY = {
    "convolution_forward": Family("forward", (0, 1, 3)),
    "convolution_backward_data": Family("backward_data", (2, 1, 0)),
    "convolution_backward_weight": Family("backward_weight", (0, 2, 1)),
    "transposed_convolution_forward": Family("backward_data", (3, 1, 0)),
    "transposed_convolution_backward_data": Family("forward", (0, 1, 2)),
    "transposed_convolution_backward_weight": Family("backward_weight", (1, 2, 0)),
    "fully_connected_forward": Family("forward", (0, 1, 3)),
    "fully_connected_backward_data": Family("backward_data", (2, 1, 0)),
    "fully_connected_backward_weight": Family("backward_weight", (0, 2, 1)),
}


def _with_precision(launcher: Callable[..., None]) -> Callable[..., None]:
    """`launcher` with one more attribute, `precision`."""

    @wraps(launcher)
    def chosen(*arrays: Any, precision: str = "float32", **attributes: Any) -> None:
        if precision == "float32":
            launcher(*arrays, **attributes)
        else:
            _launch(launcher.__name__, precision, arrays, **attributes)

    signature = inspect.signature(launcher)
    parameter = inspect.Parameter(
        "precision", inspect.Parameter.KEYWORD_ONLY, default="float32", annotation="str"
    )
    parameters = [*signature.parameters.values(), parameter]
    chosen.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    chosen.__doc__ = (
        f"{inspect.getdoc(launcher)}\n\n"
        "precision: of the two operands of the products, 'float32', 'tf32' or 'bf16' (ValueError "
        "for another, and where the GPU has no such tensor cores)."
    )
    return chosen


convolution_forward = _with_precision(convolution.convolution_forward)
convolution_backward_data = _with_precision(convolution.convolution_backward_data)
convolution_backward_weight = _with_precision(convolution.convolution_backward_weight)
transposed_convolution_forward = _with_precision(convolution.transposed_convolution_forward)
transposed_convolution_backward_data = _with_precision(
    convolution.transposed_convolution_backward_data
)
transposed_convolution_backward_weight = _with_precision(
    convolution.transposed_convolution_backward_weight
)
fully_connected_forward = _with_precision(fully_connected.fully_connected_forward)
fully_connected_backward_data = _with_precision(fully_connected.fully_connected_backward_data)
fully_connected_backward_weight = _with_precision(fully_connected.fully_connected_backward_weight)


class Halves(NamedTuple):
    """Which arrays of a pass hold bf16 numbers; sums and gradients of weights never do."""

    large: bool = False
    weight: bool = False
    small: bool = False

    def of(self, kind: str) -> tuple[bool, bool, bool]:
        """(left operand, right operand, result) of a pass."""
        return {
            "forward": (self.large, self.weight, self.small),
            "backward_data": (self.small, self.weight, self.large),
            "backward_weight": (self.small, self.large, self.weight),
        }[kind]


NO_HALVES = Halves()


class Tiles(NamedTuple):
    """A product cut into tiles, and its depth into slices."""

    tile: Tile
    slices: int


def tiles_for(precision: str, product: Product) -> Tiles:
    """What :func:`predicted_microseconds` finds quickest; among equals the first tile, the fewest
    slices. Chosen by shape alone, so that the order of every sum is the same wherever it runs."""
    choices = [Tiles(tile, slices) for tile in TILES for slices in _slices(product)]
    return min(choices, key=lambda tiles: predicted_microseconds(tiles, precision, product))


def tiles_of_halves(
    kind: str, shape: Geometry, product: Product, result: bool, device: str | None
) -> Tiles:
    """As :func:`tiles_for`, for operands of which memory holds bf16, and `result`: whether it does
    of what is written; or what was measured to be quickest on `device`."""
    measured = tuning.chosen(key_of_halves(kind), shape, device, TILES_OF_HALVES)
    return candidates_of_halves(product, result)[0] if measured is None else Tiles(*measured)


def candidates_of_halves(product: Product, result: bool) -> list[Tiles]:
    """All choices, what is predicted to be quickest first."""
    choices = [Tiles(tile, slices) for tile in TILES_OF_HALVES for slices in _slices(product)]
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
    return units and _fits_a_grid(product)


def _fits_a_grid(product: Product) -> bool:
    return max(product.count, -(-product.columns // 64)) <= MOST_BLOCKS


def _slices(product: Product) -> list[int]:
    most = max(1, min(product.depth // LEAST_DEPTH, MOST_BLOCKS // product.count))
    return [slices for slices in SLICES if slices <= most]


def predicted_microseconds(
    tiles: Tiles, precision: str, product: Product, **number_bytes: int
) -> float:
    """What a product is expected to take on an H200, its second stage included: the model of
    tiling.py with other units at work. A step takes a scheduler the longer of issuing a warp's
    instructions and of their mma.sync; blocks that share a multiprocessor take turns; nothing is
    quicker than its bytes pass through the cache."""
    tile, slices = tiles
    products = tile.lines * tile.columns * tile.depth / SCHEDULERS
    busy = max(tile.issued[precision], products / MMA_RATE[precision])
    return microseconds(tile, tile.depth, busy, slices, *product, **number_bytes)


@lru_cache(maxsize=4096)
def _plan(
    operator: str,
    precision: str,
    large: tuple[int, ...],
    weight: tuple[int, ...],
    small: tuple[int, ...],
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    device: str | None = None,
    halves: Halves = NO_HALVES,
) -> Plan:
    if precision not in PRECISIONS:
        raise ValueError(
            f"{operator}: precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}"
        )
    kind = FAMILY[operator].kind
    shape = geometry(operator, large, weight, small, stride, pad, dilation, groups)
    if kind == "backward_data":
        shape = with_fewer_idle_taps(shape)
    product = product_of(kind, shape)
    for what in ("lines", "columns", "depth"):
        countable(operator, what, getattr(product, what))
    if any(halves):
        return _plan_of_halves(operator, kind, precision, shape, product, halves, device)
    warpgroups = wgmma.tiles_for(kind, precision, shape, product, device)
    if warpgroups is not None:
        tiles, first = warpgroups, _wgmma_plan(kind, precision, shape, product, warpgroups)
    else:
        tiles = tiles_for(precision, product) if product.count <= MOST_BLOCKS else Tiles(LARGE, 1)
        first = _few_channels_plan(kind, precision, shape, product, tiles)
    slices = tiles.slices if first is None else first.slices
    tile = LARGE if warpgroups is not None else tiles.tile
    plan = _tensor_core_plan(operator, kind, precision, shape, product, Tiles(tile, slices))
    return plan if first is None else first._replace(unaligned=plan)


def _few_channels_plan(
    kind: str, precision: str, shape: Geometry, product: Product, tiles: Tiles
) -> Plan | None:
    """The kernel for few channels, with its operands rounded, where it is predicted to be quicker
    than these tiles, of which an image's channels fill few columns."""
    few = few_channels(kind, shape)
    if few is None or predicted_microseconds(tiles, precision, product) <= few[1]:
        return None
    return few[0]._replace(defines=few[0].defines | {"PRECISION": precision})


def _plan_of_halves(
    operator: str,
    kind: str,
    precision: str,
    shape: Geometry,
    product: Product,
    halves: Halves,
    device: str | None,
) -> Plan:
    """The kernel for arrays of which some hold bf16 numbers. ValueError where none takes them."""
    left, right, result = halves.of(kind)
    units = [name for name, half in zip(("large", "small"), halves[::2], strict=True) if half]
    if kind != "backward_weight" and halves.weight:
        units = ["large", "small"]  # of weights that are read, both are contiguous somewhere
    channels = [getattr(shape, f"group_{name}") for name in units]
    fits = precision == "bf16" and all(count % CHANNELS == 0 for count in channels)
    fits = fits and _fits_a_grid(product)
    if fits and left and right and not (result and kind == "backward_weight"):
        warpgroups = wgmma.tiles_of_halves(kind, shape, product, result, device)
        tiles = warpgroups or tiles_of_halves(kind, shape, product, result, device)
        return plan_of_halves(kind, shape, tiles, result)
    if fits and not (left or right) and kind != "backward_weight":
        tiles = tiles_for(precision, product)
        plan = _tensor_core_plan(operator, kind, precision, shape, product, tiles)
        return plan._replace(defines=plan.defines | _result_type(tiles.slices == 1))
    few = few_channels(kind, shape) if fits and left and not (right or result) else None
    if few is not None:
        plan, time = few
        if kind == "backward_weight" and (image := image_weight_plan(shape, product, time)):
            return image
        return plan._replace(defines=plan.defines | {"PRECISION": "bf16", "ELEMENT": "Bf16"})
    named = ", ".join(name for name, half in halves._asdict().items() if half)
    raise ValueError(
        f"{operator}: with precision {precision!r} no kernel takes bf16 numbers in these arrays: "
        f"{named} ({shape.large_channels} channels on the large side, {shape.small_channels} on "
        f"the small one, {shape.groups} groups); with precision 'bf16' the two arrays of a product "
        f"hold them, with channels per group in multiples of {CHANNELS}, or the result alone, or "
        f"the small side beside an image of few channels"
    )


def image_weight_plan(shape: Geometry, product: Product, most: float) -> Plan | None:
    """convolution_image_weight.cu for the weights that an image of floats meets, where it is
    predicted to take less than `most` microseconds."""
    sizes = {"operand_bytes": 3}  # the mean of both
    choices = [Tiles(IMAGE_WEIGHT, slices) for slices in _slices(product)]
    predicted = {
        tiles.slices: predicted_microseconds(tiles, "bf16", product, **sizes) for tiles in choices
    }
    slices = min(predicted, key=lambda count: predicted[count])
    if predicted[slices] >= most:
        return None
    return Plan(
        IMAGE_WEIGHT_FILE,
        "convolution_backward_weight_image",
        {},
        _grid(product, IMAGE_WEIGHT, slices),
        IMAGE_WEIGHT.threads,
        (*shape.arguments(), slices),
        slices,
        _shared_bytes("backward_weight", IMAGE_WEIGHT, halves=True),
    )


def _result_type(half: bool) -> dict[str, str | int]:
    """Where the depth is cut into slices, the second stage writes the numbers."""
    return {"RESULT": "Bf16"} if half else {}


def plan_with(kind: str, precision: str, shape: Geometry, tiles: Tiles | wgmma.Tiles) -> Plan:
    """A pass with these tiles, mma.sync's or wgmma's, whatever would be chosen for it."""
    product = product_of(kind, shape)
    if isinstance(tiles, wgmma.Tiles):
        return _wgmma_plan(kind, precision, shape, product, tiles)
    return _tensor_core_plan(kind, kind, precision, shape, product, tiles)


def plan_of_halves(kind: str, shape: Geometry, tiles: Tiles | wgmma.Tiles, result: bool) -> Plan:
    """As :func:`plan_with`, of a pass whose operands are bf16 arrays; result: whether what is
    written is one, too."""
    product = product_of(kind, shape)
    tile, slices = tiles
    if isinstance(tile, wgmma.TileOfHalves):
        return Plan(
            wgmma.FILE_OF_HALVES,
            wgmma.entry_of_halves(kind),
            tile.defines(result and slices == 1),
            _grid(product, tile, slices),
            wgmma.THREADS,
            (*shape.arguments(), slices),
            slices,
            tile.shared_bytes(),
        )
    plan = _tensor_core_plan(kind, kind, "bf16", shape, product, tiles)
    kept = {name: plan.defines[name] for name in ("PRECISION", "TILE_M", "TILE_N")}
    types = {"ELEMENT": "Bf16"} | _result_type(result and slices == 1)
    return plan._replace(defines=kept | types, shared_bytes=_shared_bytes(kind, tile, halves=True))


def _wgmma_plan(
    kind: str, precision: str, shape: Geometry, product: Product, tiles: wgmma.Tiles
) -> Plan:
    """convolution_wgmma.cu, for what wgmma.can_be_taken() says."""
    tile, slices = tiles
    return Plan(
        wgmma.FILE,
        wgmma.entry(kind),
        tile.defines(precision),
        _grid(product, tile, slices),
        wgmma.THREADS,
        (*shape.arguments(), slices),
        slices,
        tile.shared_bytes(precision),
    )


def _tensor_core_plan(
    operator: str, kind: str, precision: str, shape: Geometry, product: Product, tiles: Tiles
) -> Plan:
    """convolution_tensor_core.cu, which takes any channels at any address."""
    tile, slices = tiles
    grid = _grid(product, tile, slices)
    if max(grid[1:]) > MOST_BLOCKS:
        raise ValueError(
            f"{operator}: {product.count} products (groups * phases of the stride) of "
            f"{product.columns} columns are more than a grid of tensor-core tiles has blocks "
            f"({MOST_BLOCKS}); use precision='float32'"
        )
    names = ("TILE_M", "TILE_N", "TILE_K", "STAGES")
    return Plan(
        FILE,
        f"convolution_{kind}_tensor_core",
        {"PRECISION": precision, **dict(zip(names, tile[:4], strict=True))},
        grid,
        tile.threads,
        (*shape.arguments(), slices),
        slices,
        _shared_bytes(kind, tile),
    )


def _grid(product: Product, tile: Any, slices: int) -> tuple[int, int, int]:
    down, across = -(-product.lines // tile.lines), -(-product.columns // tile.columns)
    return down, across, product.count * slices


def _shared_bytes(kind: str, tile: Tile, halves: bool = False) -> int:
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


def plan_of(
    operator: str,
    shapes: Sequence[Sequence[int] | None],
    precision: str = "float32",
    dtypes: Sequence[str | None] = (),
    **geometry: Any,
) -> Plan:
    """The plan of a convolution's pass, of any precision, for arrays of these shapes and dtypes.
    ValueError as its launch."""
    if precision != "float32":
        halves = [dtype == HALF.name for dtype in dtypes]
        return _plan_of(operator, precision, shapes, halves, **geometry)
    kind, order = FAMILY[operator]
    return convolution.plan_of(operator, kind, *(shapes[i] for i in order), **geometry)


def _plan_of(
    operator: str,
    precision: str,
    shapes: Sequence[Sequence[int] | None],
    halves: Sequence[bool] = (),
    stride: Pair = (1, 1),
    pad: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Plan:
    """The plan for arrays of these shapes, (N, H, W, C) or, of a fully connected layer, (N, D).
    halves: of each array, whether it holds bf16 numbers; none of them does where it is empty."""
    order = FAMILY[operator].order
    sides = (tuple(shapes[i]) for i in order)
    sides = [(s[0], 1, 1, s[1]) if len(s) == 2 else s for s in sides]
    pairs = (tuple(stride), tuple(pad), tuple(dilation))
    stored = Halves(*(bool(halves[i]) for i in order)) if halves else NO_HALVES
    return _plan(operator, precision, *sides, *pairs, groups, device_name(), stored)


def _launch(
    operator: str,
    precision: str,
    arrays: Sequence[Any],
    *,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    in_slices: bool = False,
    x_activation: str | None = None,
    x_slope: float = 0.0,
    workspace: Any | None = None,
    **attributes: Any,
) -> None:
    moments = arrays[5] if operator.endswith("forward") and len(arrays) > 5 else None
    arrays, start = _with_prologue(operator, arrays, x_activation, x_slope)
    kind, order = FAMILY[operator]
    alone_with_moments(operator, moments, activation, accumulate, in_slices)
    if in_slices:
        result = order[{"forward": 2, "backward_data": 0}[kind]]
        bias = arrays[2] if operator.endswith("forward") else None
        out, workspace = slices_of(operator, arrays[result], bias, activation, accumulate)
        arrays = (*arrays[:result], out, *arrays[result + 1 :])
    rank, layout = (2, "(N, D)") if operator.startswith("fully") else (4, "(N, H, W, C)")
    for name, i in zip(
        ("the unstrided side", "the weight", "the strided side"), order, strict=True
    ):
        has_rank(operator, name, arrays[i], rank, layout)
    if operator.endswith("forward"):
        first, second, bias, out = arrays
        end = of_output(operator, activation, slope)
    else:
        first, second, out, *activated = arrays
        bias = None
        end = of_gradient(operator, activated[0] if activated else None, out, activation, slope)
    has_shape(operator, "bias", bias, out.shape[-1:], f"the output {tuple(out.shape)}")
    shapes = [None if array is None else array.shape for array in arrays]
    halves = [is_half(array) for array in arrays]
    plan = _plan_of(operator, precision, shapes, halves, **attributes)
    _check_capability(operator, precision, plan.file, out.context)
    if moments is not None:
        launched = plan if start is None else with_prologue(operator, plan)
        plan = leaving_moments(operator, plan, launched, out.shape[-1], moments)
    written = target(operator, out, workspace, plan.slices, in_slices)
    if not out.size:
        return
    if any(halves):
        whole_units(operator, first, second, out, written, end.activated)
    if kind == "backward_weight":
        inputs = (arrays[order[0]], arrays[order[2]])
    else:
        inputs = (first, second, bias)
    if start is not None:
        plan = normalising(operator, plan, *inputs, end.activated, written, start.normalisation)
    if plan.unaligned is not None and not aligned(*inputs, *end.arguments[:1], written):
        plan = plan.unaligned  # no plan that leaves moments has one
    alone = plan.slices == 1 and not end.fits(plan.sums)
    within = NOTHING if alone or plan.slices > 1 else end
    last = () if kind == "backward_weight" else within.arguments
    if last and plan.takes_moments:
        last = (*last, moments)
    if start is not None:
        last += start.arguments
    kernel = out.context.kernel(plan.file, plan.kernel, **plan.defines)
    kernel(
        plan.grid,
        plan.threads,
        *inputs,
        written,
        *plan.arguments,
        int(accumulate),
        *last,
        shared_bytes=plan.shared_bytes,
    )
    if plan.slices > 1 and not in_slices:
        sum_partials(workspace, bias, out, plan.slices, accumulate, end)
    elif alone:
        end.run(out)


def _with_prologue(
    operator: str, arrays: Sequence[Any], activation: str | None, slope: float
) -> tuple[Sequence[Any], Prologue | None]:
    """The arrays without the normalisation that may follow the result, and what may follow that;
    and what becomes of x."""
    if operator.startswith("fully") or operator.endswith("backward_data"):
        return arrays, None
    count = 4 if operator.endswith("forward") else 3
    normalisation = arrays[count] if len(arrays) > count else None
    start = of_input(operator, normalisation, arrays[0], activation, slope)
    return arrays[:count], start


@lru_cache(maxsize=256)
def _check_capability(operator: str, precision: str, file: str, context: Any) -> None:
    if file in wgmma.FILES:
        wgmma.check_capability(operator, precision, context)
    capability = context.device.compute_capability()
    if capability < LEAST_CAPABILITY:
        raise ValueError(
            f"{operator}: precision {precision!r} needs compute capability "
            f"{'.'.join(map(str, LEAST_CAPABILITY))}; this device has "
            f"{'.'.join(map(str, capability))}: use precision='float32'"
        )


def _workspace(operator: str, float32_size: Callable[..., int]) -> Callable[..., int]:
    def size(*shapes: Sequence[int] | None, precision: str = "float32", **attributes: Any) -> int:
        if precision == "float32":
            return float32_size(*shapes, **attributes)
        for name in ("accumulate", "activation", "slope", "x_activation", "x_slope"):
            attributes.pop(name, None)
        halves = [dtype == HALF.name for dtype in attributes.pop("dtypes", ())]
        elements = 1
        for extent in shapes[3 if operator.endswith("forward") else 2]:
            elements *= extent
        plan = _plan_of(operator, precision, shapes, halves, **attributes)
        return partials_size(elements, plan.slices)

    return size


WORKSPACE = {
    name: _workspace(name, size)
    for name, size in (convolution.WORKSPACE | fully_connected.WORKSPACE).items()
    if name in FAMILY
}
"""float32 elements of workspace: by operator, a function of its arrays' shapes and attributes."""
