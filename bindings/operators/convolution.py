"""Launchers of kernels/convolution.cu, of convolution_pipelined.cu where channels are multiples of
4 or a layer is wide, of convolution_few_channels.cu for gradients of images, and of
convolution_few_channels_weight.cu for gradients of weights that images meet; the maths is in
pygan.reference.convolution.

Three kernels serve six passes. Each public function names its arrays by side: the large side is a
convolution's input or a transposed convolution's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..context import device_name
from . import tuning
from .epilogue import (
    MOMENTS_FILES,
    NOTHING,
    Epilogue,
    alone_with_moments,
    leaving_moments,
    of_gradient,
    of_output,
)
from .prologue import Prologue, normalising, of_input, with_prologue
from .shapes import Geometry, Pair, geometry, with_fewer_idle_taps
from .storage import types
from .tiling import (
    BLOCK_CYCLES,
    CACHED_BYTES,
    CYCLES_PER_MICROSECOND,
    ENOUGH_BLOCKS,
    LANES,
    MOST_BLOCKS,
    MOST_SLICES,
    MULTIPROCESSORS,
    SECOND_STAGE,
    SINGLES,
    STEP_LATENCY,
    TILES,
    Tile,
    Tiling,
    choose_pipelined,
    partials_size,
    pipelined_tiling,
    slices_of,
    sum_partials,
    target,
    tiling_for,
)
from .validation import THREADS, aligned, device_array, has_rank, has_shape

FILE = "convolution.cu"
PIPELINED_FILE = "convolution_pipelined.cu"
PIPELINED_EXTENT = 2**14
"""MOST_EXTENT of kernels/convolution_pipelined.cu: of an image with its padding."""

PIPELINED_CHANNELS = 2**24

NARROW = 32
"""Lines or columns up to which the general path's narrow tiles beat 4-byte copies into 64 x 64."""

FEW_FILE = "convolution_few_channels.cu"
FEW_CHANNELS = 4
"""Of x, at most, for which convolution_few_channels.cu is taken."""

FEW_COLUMNS = 64
FEW_PIXELS = 8
"""PIXELS of convolution_few_channels.cu."""

FEW_SHARED = 64 * 1024
"""Bytes of shared memory that every GPU since sm_75 gives a block."""

FEW_WEIGHT_FILE = "convolution_few_channels_weight.cu"
FEW_WEIGHT_COLUMNS = (16, 9)
"""COLUMNS of kernels/convolution_few_channels_weight.cu."""

ITEM_CYCLES = 1200
"""Of a band of a weight gradient, in which its block waits for memory: an estimate."""

FEW_WARP_CYCLES = 48
"""Of a warp of convolution_few_channels.cu for 12 loads of 16 bytes, behind which the 128 products
of each thread pass, and the rounding of operands."""

FEW_RESULT_INSTRUCTIONS = 60
FEW_TAP_INSTRUCTIONS = 15
"""Of its second half, for each number of the result and each tap that reaches it: estimates."""

BAND_CYCLES = 40
"""Pixels of a band whose products take as long as a band's beginning and end: an estimate."""

DIRECT_ELEMENTS = 2048
"""One or two channels leave a tile's columns idle: with so many elements, a thread each is enough
work for a device, and the first version of the kernel wastes less."""

BIAS_COLUMNS = 32
"""Channels per block of bias_backward."""

BIAS_ROWS = 256
"""Rows that make a slice of bias_backward worth its share of a second launch."""


def convolution_forward(
    x: Any,
    w: Any,
    bias: Any | None,
    y: Any,
    normalisation: Any | None = None,
    moments: Any | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    in_slices: bool = False,
    x_activation: str | None = None,
    x_slope: float = 0.0,
    workspace: Any | None = None,
) -> None:
    """y (N, P, Q, C_out) = convolution of x (N, H, W, C_in) with w (C_out, kh, kw, C_in / groups),
    + bias (C_out,), and then activation of that (and of what y held where accumulating). in_slices:
    y (slices, N, P, Q, C_out) gets parts of the sum, as many as left_slices() says.
    normalisation (C_in, 4), where given: x is normalised by it on the way in, with x_activation
    (None, relu or leaky_relu) behind it; see batch_norm_normalisation_training. moments, a vector
    of as many numbers as left_moments() says, where given: gets those of y's channels in parts, for
    batch norm; then there is no activation, and nothing else of the above. Raises ValueError where
    shapes do not fit, the activation is unknown, or no kernel does it for these shapes."""
    operator = "convolution_forward"
    alone_with_moments(operator, moments, activation, accumulate, in_slices)
    if in_slices:
        y, workspace = slices_of(operator, y, bias, activation, accumulate)
    plan = _plan_of(operator, "forward", x, w, y, stride, pad, dilation, groups)
    start = of_input(operator, normalisation, x, x_activation, x_slope)
    has_shape(operator, "bias", bias, y.shape[3:], f"the output {tuple(y.shape)}")
    end = of_output(operator, activation, slope)
    inputs = (x, w, bias)
    _launch(operator, plan, inputs, y, bias, accumulate, workspace, end, in_slices, start, moments)


def convolution_backward_data(
    dy: Any,
    w: Any,
    dx: Any,
    x: Any | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: Any | None = None,
) -> None:
    """dx (N, H, W, C_in) from dy (N, P, Q, C_out); where x (as dx) is given with activation, times
    the derivative of the activation that gave x. in_slices: dx (slices, N, H, W, C_in), as in
    convolution_forward.

    Raises ValueError where shapes do not fit, or x does not tell the derivative."""
    operator = "convolution_backward_data"
    if in_slices:
        dx, workspace = slices_of(operator, dx, None, activation, accumulate)
    plan = _plan_of(operator, "backward_data", dx, w, dy, stride, pad, dilation, groups)
    end = of_gradient(operator, x, dx, activation, slope)
    _launch(operator, plan, (dy, w, None), dx, None, accumulate, workspace, end, in_slices)


def convolution_backward_weight(
    x: Any,
    dy: Any,
    dw: Any,
    normalisation: Any | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    x_activation: str | None = None,
    x_slope: float = 0.0,
    workspace: Any | None = None,
) -> None:
    """dw (C_out, kh, kw, C_in / groups) from x (N, H, W, C_in) and dy (N, P, Q, C_out).
    normalisation and x_activation as in convolution_forward.

    Raises ValueError where shapes do not fit."""
    operator = "convolution_backward_weight"
    plan = _plan_of(operator, "backward_weight", x, dw, dy, stride, pad, dilation, groups)
    start = of_input(operator, normalisation, x, x_activation, x_slope)
    _launch(operator, plan, (x, dy), dw, None, accumulate, workspace, start=start)


def transposed_convolution_forward(
    x: Any,
    w: Any,
    bias: Any | None,
    y: Any,
    normalisation: Any | None = None,
    moments: Any | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    in_slices: bool = False,
    x_activation: str | None = None,
    x_slope: float = 0.0,
    workspace: Any | None = None,
) -> None:
    """y (N, H, W, C_out) = transposed convolution of x (N, P, Q, C_in) with
    w (C_in, kh, kw, C_out / groups), + bias (C_out,); activation, in_slices, normalisation,
    x_activation and moments as in convolution_forward. y's size implies the output padding.

    Raises ValueError where shapes do not fit or the activation is unknown."""
    operator = "transposed_convolution_forward"
    alone_with_moments(operator, moments, activation, accumulate, in_slices)
    if in_slices:
        y, workspace = slices_of(operator, y, bias, activation, accumulate)
    plan = _plan_of(operator, "backward_data", y, w, x, stride, pad, dilation, groups)
    start = of_input(operator, normalisation, x, x_activation, x_slope)
    has_shape(operator, "bias", bias, y.shape[3:], f"the output {tuple(y.shape)}")
    end = of_output(operator, activation, slope)
    inputs = (x, w, bias)
    _launch(operator, plan, inputs, y, bias, accumulate, workspace, end, in_slices, start, moments)


def transposed_convolution_backward_data(
    dy: Any,
    w: Any,
    dx: Any,
    x: Any | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: Any | None = None,
) -> None:
    """dx (N, P, Q, C_in) from dy (N, H, W, C_out); x, activation and
    in_slices as in convolution_backward_data. Raises ValueError where shapes do not fit."""
    operator = "transposed_convolution_backward_data"
    if in_slices:
        dx, workspace = slices_of(operator, dx, None, activation, accumulate)
    plan = _plan_of(operator, "forward", dy, w, dx, stride, pad, dilation, groups)
    end = of_gradient(operator, x, dx, activation, slope)
    _launch(operator, plan, (dy, w, None), dx, None, accumulate, workspace, end, in_slices)


def transposed_convolution_backward_weight(
    x: Any,
    dy: Any,
    dw: Any,
    normalisation: Any | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    x_activation: str | None = None,
    x_slope: float = 0.0,
    workspace: Any | None = None,
) -> None:
    """dw (C_in, kh, kw, C_out / groups) from x (N, P, Q, C_in) and dy (N, H, W, C_out).
    normalisation and x_activation as in convolution_forward.

    Raises ValueError where shapes do not fit."""
    operator = "transposed_convolution_backward_weight"
    plan = _plan_of(operator, "backward_weight", dy, dw, x, stride, pad, dilation, groups)
    start = of_input(operator, normalisation, x, x_activation, x_slope)
    _launch(operator, plan, (dy, x), dw, None, accumulate, workspace, start=start)


def bias_backward(
    dy: Any, dbias: Any, *, accumulate: bool = False, workspace: Any | None = None
) -> None:
    """dbias (C,) = the sum of dy (..., C), which may hold bf16 numbers, over all axes but the last.

    Raises ValueError where shapes do not fit."""
    operator = "bias_backward"
    if not device_array(operator, "dy", dy).shape:
        raise ValueError(f"{operator}: dy has no axes; it must be (..., C)")
    has_shape(operator, "dbias", dbias, dy.shape[-1:], f"dy {tuple(dy.shape)}")
    channels = dy.shape[-1]
    if not channels:
        return
    rows = dy.size // channels
    columns, slices = _bias_grid(rows, channels)
    written = target(operator, dbias, workspace, slices)
    vector = 4 if channels % 4 == 0 and aligned(dy, written) else 1
    kernel = dy.context.kernel("partial_sums.cu", operator, VECTOR=vector, **types(ELEMENT=dy))
    adding = int(accumulate) if slices == 1 else 0
    kernel((columns, slices), THREADS // vector, dy, written, rows, channels, adding)
    if slices > 1:
        sum_partials(workspace, None, dbias, slices, accumulate)


class Plan(NamedTuple):
    """How one pass is launched: kernel, constants, geometry, and slices of the summed depth.

    `unaligned` is what runs instead, with as many slices, where an array does not begin at a
    multiple of ALIGNMENT; `shared_bytes` are dynamic ones.
    """

    file: str
    kernel: str
    defines: dict[str, str | int]
    grid: tuple[int, int, int]
    threads: int
    arguments: tuple[int, ...]
    slices: int
    shared_bytes: int = 0
    unaligned: Plan | None = None

    @property
    def sums(self) -> int:
        """That a thread finishes at a time."""
        tile = self.defines.get("TILE_M", 0) * self.defines.get("TILE_N", 0)
        return max(1, tile // self.threads)

    @property
    def takes_moments(self) -> bool:
        """Whether the kernel, unless it is a weight gradient's, has that parameter."""
        return self.file in MOMENTS_FILES


class Product(NamedTuple):
    """A pass as `count` matrix products of (lines, depth) by (depth, columns)."""

    lines: int
    columns: int
    depth: int
    count: int


def product_of(kind: str, shape: Geometry) -> Product:
    """The product of a pass as convolution.cu computes it; convolution_pipelined.cu takes the lines
    and columns of a weight gradient the other way round."""
    if kind == "forward":
        depth = shape.taps * shape.group_large
        return Product(shape.small_pixels, shape.group_small, depth, shape.groups)
    if kind == "backward_weight":
        columns = shape.taps * shape.group_large
        return Product(shape.group_small, columns, shape.small_pixels, shape.groups)
    (stride_h, stride_w), (kernel_h, kernel_w) = shape.stride, shape.kernel
    lines = shape.batch * -(-shape.height // stride_h) * -(-shape.width // stride_w)
    depth = -(-kernel_h // stride_h) * -(-kernel_w // stride_w) * shape.group_small
    return Product(lines, shape.group_large, depth, shape.groups * stride_h * stride_w)


def can_be_pipelined(kind: str, shape: Geometry, vector: int = 4) -> bool:
    """Whether what convolution_pipelined.cu reads `vector` at a time comes in such runs."""
    together = (shape.group_large,) if kind == "forward" else (shape.group_large, shape.group_small)
    extents = (
        *(size + 2 * pad for size, pad in zip(shape[1:3], shape.pad, strict=True)),
        *(shape.dilation[i] * shape.kernel[i] for i in (0, 1)),
    )
    return (
        all(channels % vector == 0 for channels in together)
        and max(extents) < PIPELINED_EXTENT
        and max(shape.large_channels, shape.small_channels) < PIPELINED_CHANNELS
    )


@lru_cache(maxsize=4096)
def _plan(
    operator: str,
    kind: str,
    large: tuple[int, ...],
    weight: tuple[int, ...],
    small: tuple[int, ...],
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    device: str | None = None,
) -> Plan:
    """The plan of a pass, with what the tables of tuning.py hold for `device`."""
    shape = geometry(operator, large, weight, small, stride, pad, dilation, groups)
    if kind == "backward_data":
        shape = with_fewer_idle_taps(shape)
    product = product_of(kind, shape)
    result = {"forward": small, "backward_data": large, "backward_weight": weight}[kind]
    elements = result[0] * result[1] * result[2] * result[3]
    few = few_channels(kind, shape)
    if few is not None and kind == "backward_data":
        general = _general_plan(kind, shape, product, elements, slices=1)
        return few[0]._replace(unaligned=general)
    plan = few[0] if few is not None else _pipelined_or_none(kind, shape, product, device)
    if plan is not None:
        general = _general_plan(kind, shape, product, elements, plan.slices)
        if general.slices == plan.slices:
            return plan._replace(unaligned=general)
    narrow = kind != "backward_weight" and product.columns <= 2 and elements >= DIRECT_ELEMENTS
    if narrow:
        return _direct_plan(kind, shape, elements)
    return _general_plan(kind, shape, product, elements)


def as_pipelined(kind: str, shape: Geometry) -> Product:
    """The product as convolution_pipelined.cu computes it: a weight gradient's lines and columns
    the other way round, and a phase's depth the mean of all phases, which may have unequal taps."""
    lines, columns, depth, count = product_of(kind, shape)
    if kind == "backward_weight":
        lines, columns = columns, lines
    if kind == "backward_data":
        depth = -(-shape.taps * shape.group_small * shape.groups // count)
    return Product(lines, columns, depth, count)


def _pipelined_or_none(
    kind: str, shape: Geometry, product: Product, device: str | None
) -> Plan | None:
    """convolution_pipelined.cu's plan for a pass that it takes and gains on."""
    fours = can_be_pipelined(kind, shape)
    wide = min(product.lines, product.columns) > NARROW and can_be_pipelined(kind, shape, vector=1)
    if product.count > MOST_BLOCKS or not (fours or wide):
        return None
    plan = pipelined_plan(kind, shape, device=device)
    return plan if max(plan.grid[1:]) <= MOST_BLOCKS else None


def pipelined_plan(
    kind: str,
    shape: Geometry,
    tile: Tile | None = None,
    slices: int | None = None,
    device: str | None = None,
) -> Plan:
    """The kernel of convolution_pipelined.cu with a tile and slices: those given, else those that
    were measured on `device`, else those that the model chooses."""
    lines, columns, depth, count = as_pipelined(kind, shape)
    if tile is None or slices is None:
        tiles = TILES if can_be_pipelined(kind, shape) else SINGLES
        measured = tuning.chosen(kind, shape, device, tiles)
        tile, slices = measured or choose_pipelined(lines, columns, depth, count, tiles)
    tiling = pipelined_tiling(tile, slices, lines, columns)
    return _tiled_plan(PIPELINED_FILE, f"convolution_{kind}_pipelined", tiling, shape, count)


def is_pipelined(kind: str, shape: Geometry) -> bool:
    """Whether a pass is convolution_pipelined.cu's, and so has a tile and slices to choose."""
    if few_channels(kind, shape) is not None:
        return False
    return _pipelined_or_none(kind, shape, product_of(kind, shape), None) is not None


def general_plan(kind: str, shape: Geometry, slices: int) -> Plan:
    """The general path, which adds in the same order as the pipelined one with as many slices."""
    large = shape.batch * shape.height * shape.width * shape.large_channels
    elements = {
        "forward": shape.small_pixels * shape.small_channels,
        "backward_data": large,
        "backward_weight": shape.small_channels * shape.taps * shape.group_large,
    }[kind]
    return _general_plan(kind, shape, product_of(kind, shape), elements, slices)


def run_plan(kind: str, plan: Plan, inputs: Sequence[Any], out: Any, workspace: Any) -> None:
    """Launches a pass as `plan` says, whatever would be chosen for it. inputs: its arrays in the
    order of the kernels (forward and backward_data: a bias or None as the third)."""
    _launch(kind, plan, tuple(inputs), out, None, False, workspace)


def _general_plan(
    kind: str, shape: Geometry, product: Product, elements: int, slices: int | None = None
) -> Plan:
    """The tiled kernel of convolution.cu, which takes any channels at any address."""
    if product.count <= MOST_BLOCKS:
        tiling = tiling_for(*product, slices=slices)
        if tiling.columns <= MOST_BLOCKS:
            return _tiled_plan(FILE, f"convolution_{kind}", tiling, shape, product.count)
    return _direct_plan(kind, shape, elements)


def _tiled_plan(file: str, entry: str, tiling: Tiling, shape: Geometry, products: int) -> Plan:
    grid = (tiling.lines, tiling.columns, products * tiling.slices)
    arguments = (*shape.arguments(), tiling.slices)
    return Plan(file, entry, tiling.defines, grid, tiling.threads, arguments, tiling.slices)


def _direct_plan(kind: str, shape: Geometry, elements: int) -> Plan:
    """One thread per element of the result: for results that leave almost all columns of a tile
    idle, and for more groups, phases or columns than a grid has blocks."""
    grid = (-(-elements // THREADS), 1, 1)
    # Tiles are nothing to it, but name a compilation that other launches share.
    defines = {"TILE_M": 64, "TILE_N": 64}
    return Plan(FILE, f"convolution_{kind}_direct", defines, grid, THREADS, shape.arguments(), 1)


def few_channels(kind: str, shape: Geometry) -> tuple[Plan, float] | None:
    """The kernel for few channels of a pass, and the microseconds that the model expects of it; or
    None where there is none."""
    if kind == "backward_data":
        plan = _few_channels_plan(shape)
        return None if plan is None else (plan, _few_data_microseconds(shape, plan))
    return _few_channels_weight_plan(shape) if kind == "backward_weight" else None


def _few_data_microseconds(shape: Geometry, plan: Plan) -> float:
    """Of the two halves of a block: one is bound by its loads, or waits for each of them where it
    is alone, the other by its instructions."""
    band = plan.arguments[-1]
    columns, (taps_h, taps_w) = shape.taps * shape.group_large, shape.kernel
    rows = (band - 1 + shape.dilation[0] * (taps_h - 1)) // shape.stride[0] + 1
    items = -(-rows * shape.small_width // FEW_PIXELS) * -(-columns // 4)
    loads = max(-(-items // 32) * FEW_WARP_CYCLES, -(-items // THREADS) * STEP_LATENCY)
    first = shape.small_channels // 4 * loads
    taps = -(-taps_h // shape.stride[0]) * -(-taps_w // shape.stride[1])
    instructions = FEW_RESULT_INSTRUCTIONS + FEW_TAP_INSTRUCTIONS * taps
    second = band * shape.width * shape.group_large * instructions / LANES
    blocks = max(1.0, plan.grid[0] / MULTIPROCESSORS)
    return (BLOCK_CYCLES + blocks * (first + second)) / CYCLES_PER_MICROSECOND


def _few_channels_plan(shape: Geometry) -> Plan | None:
    """The kernel of convolution_few_channels.cu, if a band of at least a row fits its memory; with
    the height of band that lets a large GPU's multiprocessors compute the fewest pixels."""
    columns = shape.taps * shape.group_large
    if (
        shape.groups > 1
        or shape.large_channels > FEW_CHANNELS
        or columns > FEW_COLUMNS
        or shape.small_channels % 4
        or (shape.small_height, shape.small_width) == (1, 1)
        or max(shape.small_width, shape.small_channels) >= PIPELINED_EXTENT
    ):
        return None
    quads = -(-columns // 4)
    best = None
    for bands in range(1, shape.height + 1):
        band = -(-shape.height // bands)
        reach = shape.dilation[0] * (shape.kernel[0] - 1)
        rows = (band - 1 + reach) // shape.stride[0] + 1
        pixels = rows * shape.small_width
        shared = 16 * (shape.small_channels * quads + pixels * (quads | 1))
        blocks = shape.batch * -(-shape.height // band)
        if shared <= FEW_SHARED and blocks < 2**31:
            cost = -(-blocks // MULTIPROCESSORS) * (pixels + BAND_CYCLES)
            found = (cost, bands, band, blocks, shared)
            best = found if best is None else min(best, found)
    if best is None:
        return None
    _, _, band, blocks, shared = best
    arguments = (*shape.arguments()[:-1], band)
    grid = (max(1, blocks), 1, 1)
    entry = "convolution_backward_data_few"
    return Plan(FEW_FILE, entry, {}, grid, THREADS, arguments, 1, shared_bytes=shared)


def _few_channels_weight_plan(shape: Geometry) -> tuple[Plan, float] | None:
    """The kernel of convolution_few_channels_weight.cu, if a row of x and its sums fit a block;
    with the bands and blocks that :func:`_few_weight_cycles` finds quickest, and the microseconds
    it finds."""
    columns = shape.taps * shape.group_large
    width = min(FEW_WEIGHT_COLUMNS, key=lambda width: -(-columns // width) * width)
    padded = -(-columns // width) * width
    slot = 4 * padded * (shape.small_channels + 4)  # bytes of the sums that two lanes leave
    lanes = THREADS * width // max(1, shape.small_channels // 4 * padded)
    lanes = min(lanes, 2 * (FEW_SHARED // slot))
    if (
        shape.groups > 1
        or shape.large_channels > FEW_CHANNELS
        or columns > FEW_COLUMNS
        or shape.small_channels % 4
        or (shape.small_height, shape.small_width) == (1, 1)
        or max(shape.height, shape.width) >= PIPELINED_EXTENT
        or not lanes
    ):
        return None
    reach = [(shape.kernel[i] - 1) * shape.dilation[i] + 1 for i in (0, 1)]
    line = ((shape.small_width - 1) * shape.stride[1] + reach[1]) * shape.large_channels
    best = None
    for bands in range(1, shape.small_height + 1):
        band = -(-shape.small_height // bands)
        shared = max(slot * -(-lanes // 2), 4 * line * ((band - 1) * shape.stride[0] + reach[0]))
        items = shape.batch * -(-shape.small_height // band)
        if shared > FEW_SHARED or not 0 < items < 2**31:
            continue
        each = -(-items // MOST_SLICES)  # bands per block
        slices = -(-items // each)
        rounds = -(-band * shape.small_width // lanes)
        cycles = _few_weight_cycles(slices, each, rounds, width, shape.small_channels * columns)
        found = (cycles, bands, band, slices, shared)
        best = found if best is None else min(best, found)
    if best is None:
        return None
    cycles, _, band, slices, shared = best
    entry, defines = "convolution_backward_weight_few", {} if width == 16 else {"COLUMNS": width}
    arguments = (*shape.arguments()[:-1], band, lanes)
    grid = (slices, 1, 1)
    plan = Plan(FEW_WEIGHT_FILE, entry, defines, grid, THREADS, arguments, slices, shared)
    return plan, cycles / CYCLES_PER_MICROSECOND


def _few_weight_cycles(slices: int, bands: int, rounds: int, columns: int, size: int) -> float:
    """What the model expects of a weight gradient of `size` elements: `slices` blocks of `bands`
    bands, in each of which a thread takes `rounds` pixels by `columns` columns. A round of 8 warps
    is bound by its instructions, 5 per column (a load and four products) and about 10 beside."""
    busy = -(-slices // MULTIPROCESSORS) * rounds * 2 * (5 * columns + 10)
    cycles = BLOCK_CYCLES + bands * (ITEM_CYCLES + busy)
    if slices > 1:
        stage = SECOND_STAGE + 4 * size * (slices + 1) / CACHED_BYTES
        cycles += stage * CYCLES_PER_MICROSECOND
    return cycles


def _plan_of(
    operator: str,
    kind: str,
    large: Any,
    weight: Any,
    small: Any,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
) -> Plan:
    for name, array in (("the unstrided side", large), ("the strided side", small)):
        has_rank(operator, name, array, 4, "(N, H, W, C)")
    has_rank(operator, "the weight", weight, 4, "(C, kernel height, kernel width, C / groups)")
    sides = (large.shape, weight.shape, small.shape)
    return plan_of(operator, kind, *sides, stride, pad, dilation, groups)


def plan_of(
    operator: str,
    kind: str,
    large: Sequence[int],
    weight: Sequence[int],
    small: Sequence[int],
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
) -> Plan:
    """The plan of a pass in float32, for sides and weight of these shapes."""
    sides = (tuple(large), tuple(weight), tuple(small))
    pairs = (tuple(stride), tuple(pad), tuple(dilation))
    return _plan(operator, kind, *sides, *pairs, groups, device_name())


def _launch(
    operator: str,
    plan: Plan,
    inputs: tuple[Any, ...],
    out: Any,
    bias: Any | None,
    accumulate: bool,
    workspace: Any | None,
    end: Epilogue = NOTHING,
    in_slices: bool = False,
    start: Prologue | None = None,
    moments: Any | None = None,
) -> None:
    if moments is not None:
        launched = plan if start is None else with_prologue(operator, plan)
        plan = leaving_moments(operator, plan, launched, out.shape[-1], moments)
    written = target(operator, out, workspace, plan.slices, in_slices)
    if start is not None:
        arrays = (*inputs, written, end.activated, start.normalisation)
        plan = normalising(operator, plan, *arrays)
    if not out.size:
        return
    if plan.unaligned is not None and not aligned(*inputs, written, end.activated):
        if moments is not None:
            raise ValueError(
                f"{operator}: arrays that do not begin at multiples of 16 bytes leave no moments"
            )
        plan = plan.unaligned
    alone = plan.slices == 1 and not end.fits(plan.sums)
    within = NOTHING if alone or plan.slices > 1 else end
    kernel = out.context.kernel(plan.file, plan.kernel, **plan.defines)
    arguments = (*inputs, written, *plan.arguments, int(accumulate))
    if "backward_weight" not in plan.kernel:  # whose sums are stored as they are
        arguments += within.arguments
        arguments += (moments,) if plan.takes_moments else ()
    if start is not None:
        arguments += start.arguments
    kernel(plan.grid, plan.threads, *arguments, shared_bytes=plan.shared_bytes)
    if plan.slices > 1 and not in_slices:
        sum_partials(workspace, bias, out, plan.slices, accumulate, end)
    elif alone:
        end.run(out)


@lru_cache(maxsize=4096)
def _bias_grid(rows: int, channels: int) -> tuple[int, int]:
    """(blocks across the channels, slices of the rows) of bias_backward."""
    columns = -(-channels // BIAS_COLUMNS)
    slices = max(1, min(ENOUGH_BLOCKS // columns, rows // BIAS_ROWS, MOST_SLICES))
    return columns, slices


def _workspace(operator: str, kind: str, order: Sequence[int]) -> Any:
    """The sizing function of an operator; its arrays `order` are large side, weight, small side."""
    kinds = ("backward_data", "backward_weight", "forward")

    def size(
        *shapes: Sequence[int] | None,
        stride: Pair,
        pad: Pair,
        dilation: Pair,
        groups: int,
        **_: Any,
    ) -> int:
        sides = [tuple(shapes[i]) for i in order]
        pairs = (tuple(stride), tuple(pad), tuple(dilation))
        plan = _plan(operator, kind, *sides, *pairs, groups, device_name())
        result = sides[kinds.index(kind)]
        return partials_size(result[0] * result[1] * result[2] * result[3], plan.slices)

    return size


def _bias_workspace(dy: Sequence[int], dbias: Sequence[int], **_: Any) -> int:
    rows = 1
    for extent in dy[:-1]:
        rows *= extent
    return partials_size(dy[-1], _bias_grid(rows, dy[-1])[1]) if dy[-1] else 0


WORKSPACE = {
    name: _workspace(name, kind, order)
    for name, kind, order in (
        ("convolution_forward", "forward", (0, 1, 3)),
        ("convolution_backward_data", "backward_data", (2, 1, 0)),
        ("convolution_backward_weight", "backward_weight", (0, 2, 1)),
        ("transposed_convolution_forward", "backward_data", (3, 1, 0)),
        ("transposed_convolution_backward_data", "forward", (0, 1, 2)),
        ("transposed_convolution_backward_weight", "backward_weight", (1, 2, 0)),
    )
} | {"bias_backward": _bias_workspace}
"""float32 elements of workspace: by operator, a function of its arrays' shapes and attributes."""
