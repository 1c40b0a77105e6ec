"""Which plan a call of a convolution, or of a fully connected layer, takes: by its shapes, its
precision, and which of its arrays hold bf16 numbers.

``precision="float32"`` takes kernels/convolution_pipelined.cu where it gains, those for images of
few channels, and else kernels/convolution.cu, which runs beside them where arrays do not begin at
multiples of 16 bytes. ``"tf32"`` and ``"bf16"`` take kernels/convolution_tensor_core.cu: operands
rounded to 11 or 8 significant bits as they enter the tensor cores, sums in float32. Where it was
measured or asked for, they take Hopper's own instructions (wgmma.py), and for images of few
channels, of which a tile would be mostly idle, the kernels that float32 has for them, which round
alike; of weights between bf16 arrays and images also kernels/convolution_image_weight.cu.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

from ...context import device_name
from ..shapes import Geometry, Pair
from ..storage import CHANNELS, HALF
from ..validation import countable
from . import pipelined, tensor_core, wgmma
from .few_channels import few_channels_plan
from .few_channels import predicted_microseconds as few_channels_microseconds
from .few_channels_weight import few_channels_weight_plan
from .fully_connected import fully_connected_plan
from .general import direct_plan, general_plan, is_direct
from .image_weight import image_weight_plan
from .model import MOST_BLOCKS
from .passes import (
    FULLY_CONNECTED,
    NO_HALVES,
    PASSES,
    POINTWISE,
    Halves,
    Product,
    Shape,
    geometry_of,
    product_of,
    result_shape,
    sides_of,
)
from .plan import Plan, Tiles

PRECISIONS = ("float32", "tf32", "bf16")


def plan_of(
    operator: str,
    shapes: Sequence[Sequence[int] | None],
    precision: str = "float32",
    dtypes: Sequence[str | None] = (),
    **attributes: Any,
) -> Plan:
    """The plan of a call of `operator` with arrays of these shapes, (N, H, W, C) or, of a fully
    connected layer, (N, D), in its order (None for an absent one), on the device that this process
    works on. dtypes: a list like shapes, where arrays hold bf16 numbers. attributes: the call's
    others; those that change no plan are passed over. ValueError as its launch."""
    layer = POINTWISE if operator in FULLY_CONNECTED else _layer(**attributes)
    halves = NO_HALVES
    if dtypes and precision != "float32":
        halves = Halves(*(dtypes[i] == HALF.name for i in PASSES[operator].order))
    sides = sides_of(operator, shapes)
    return plan_of_sides(operator, precision, *sides, *layer, device_name(), halves)


def workspace_size(
    operator: str,
    *shapes: Sequence[int] | None,
    precision: str = "float32",
    dtypes: Sequence[str | None] = (),
    **attributes: Any,
) -> int:
    """float32 elements of workspace that the call of :func:`plan_of` needs: a copy of the result
    for each slice of its sums; 0: none."""
    slices = plan_of(operator, shapes, precision, dtypes, **attributes).slices
    return prod(result_shape(operator, shapes)) * slices if slices > 1 else 0


WORKSPACE: dict[str, Callable[..., int]] = {
    operator: partial(workspace_size, operator) for operator in PASSES
}
"""float32 elements of workspace: by operator, a function of its arrays' shapes and attributes."""


@lru_cache(maxsize=8192)
def plan_of_sides(
    operator: str,
    precision: str,
    large: Shape,
    weight: Shape,
    small: Shape,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    device: str | None = None,
    halves: Halves = NO_HALVES,
) -> Plan:
    """The plan of a call whose large side, weight and small side have these shapes of four axes
    each, with what the tables of tuning.py hold for `device`. ValueError for an unknown precision,
    shapes that do not fit or are more than a launch can take, and halves that no kernel takes."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"{operator}: precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}"
        )
    if precision == "float32" and operator in FULLY_CONNECTED:
        return fully_connected_plan(operator, large[0], large[3], weight[0], device)
    kind = PASSES[operator].kind
    shape = geometry_of(operator, kind, large, weight, small, stride, pad, dilation, groups)
    if precision == "float32":
        return _float32_plan(kind, shape, device)
    product = product_of(kind, shape)
    for what in ("lines", "columns", "depth"):
        countable(operator, what, getattr(product, what))
    if any(halves):
        return _plan_of_halves(operator, kind, precision, shape, product, halves, device)
    return _rounding_plan(operator, kind, precision, shape, product, device)


def few_channels(kind: str, shape: Geometry) -> tuple[Plan, float] | None:
    """The kernel for few channels of a pass, and the microseconds that the model expects of it; or
    None where there is none."""
    if kind == "backward_data":
        plan = few_channels_plan(shape)
        return None if plan is None else (plan, few_channels_microseconds(shape, plan))
    return few_channels_weight_plan(shape) if kind == "backward_weight" else None


def is_pipelined(kind: str, shape: Geometry) -> bool:
    """Whether a pass in float32 has a tile and slices of convolution_pipelined.cu to choose."""
    return few_channels(kind, shape) is None and (
        pipelined.plan_where_gained(kind, shape) is not None
    )


def _float32_plan(kind: str, shape: Geometry, device: str | None) -> Plan:
    few = few_channels(kind, shape)
    plan = few[0] if few is not None else pipelined.plan_where_gained(kind, shape, device)
    if plan is not None:
        general = general_plan(kind, shape, plan.slices)
        if general.slices == plan.slices:
            return plan._replace(unaligned=general)
    return direct_plan(kind, shape) if is_direct(kind, shape) else general_plan(kind, shape)


def _rounding_plan(
    operator: str, kind: str, precision: str, shape: Geometry, product: Product, device: str | None
) -> Plan:
    """Float32 arrays, whose numbers are rounded as they enter the tensor cores."""
    warpgroups = wgmma.tiles_for(kind, precision, shape, product, device)
    if warpgroups is not None:
        first: Plan | None = wgmma.wgmma_plan(kind, precision, shape, warpgroups)
        tile, slices = tensor_core.LARGE, warpgroups.slices
    else:
        tile, slices = tensor_core.LARGE, 1
        if product.count <= MOST_BLOCKS:
            tile, slices = tensor_core.tiles_for(precision, product)
        first = _quicker_for_few(kind, precision, shape, product, Tiles(tile, slices))
        slices = slices if first is None else first.slices
    tiles = Tiles(tile, slices)
    plan = tensor_core.tensor_core_plan(operator, kind, precision, shape, tiles)
    return plan if first is None else first._replace(unaligned=plan)


def _quicker_for_few(
    kind: str, precision: str, shape: Geometry, product: Product, tiles: Tiles
) -> Plan | None:
    """The kernel for few channels, with its operands rounded, where it is predicted to be quicker
    than these tiles, of which an image's channels fill few columns."""
    few = few_channels(kind, shape)
    if few is None:
        return None
    plan, time = few
    if tensor_core.predicted_microseconds(tiles, precision, product) <= time:
        return None
    return plan._replace(defines=plan.defines | {"PRECISION": precision})


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
    fits = fits and tensor_core.fits_a_grid(product)
    if fits and left and right and not (result and kind == "backward_weight"):
        warpgroups = wgmma.tiles_of_halves(kind, shape, product, result, device)
        if warpgroups is not None:
            return wgmma.wgmma_plan_of_halves(kind, shape, warpgroups, result)
        tiles = tensor_core.tiles_of_halves(kind, shape, product, result, device)
        return tensor_core.tensor_core_plan_of_halves(kind, shape, tiles, result)
    if fits and not (left or right) and kind != "backward_weight":
        tiles = tensor_core.tiles_for(precision, product)
        return tensor_core.tensor_core_plan(operator, kind, precision, shape, tiles, result)
    few = few_channels(kind, shape) if fits and left and not (right or result) else None
    if few is not None:
        plan, time = few
        if kind == "backward_weight" and (image := image_weight_plan(shape, time)):
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


def _layer(
    *, stride: Pair, pad: Pair, dilation: Pair, groups: int, **_: Any
) -> tuple[Pair, Pair, Pair, int]:
    """The attributes of a convolution that its plan depends on, hashable."""
    # whatever their lengths: geometry() refuses others than two, and names them
    return tuple(stride), tuple(pad), tuple(dilation), groups  # type: ignore[return-value]
