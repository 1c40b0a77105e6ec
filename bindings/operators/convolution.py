"""Launchers of convolutions and transposed convolutions; the maths is in
pygan.reference.convolution. Which kernel each takes, and how: plans/choice.py.

Three kinds of pass serve the six functions, whose arrays are told by side: the large side is a
convolution's input or a transposed convolution's output (plans/passes.py).

precision: of the two operands of the products. "float32" takes them as they are; "tf32" and "bf16"
round them to 11 or 8 significant bits as they enter the tensor cores, whose sums are float32.
"""

from __future__ import annotations

from typing import Any

from ..context import device_name
from .epilogue import of_gradient, of_output
from .partial_sums import slices_of
from .plans.choice import plan_of_sides
from .plans.passes import Halves
from .plans.plan import Plan
from .product_launch import launch
from .prologue import of_input
from .shapes import Pair
from .storage import is_half
from .tile_moments import alone_with_moments
from .validation import has_rank, has_shape


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
    precision: str = "float32",
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
    plan = _plan(operator, precision, x, w, y, stride, pad, dilation, groups)
    start = of_input(operator, normalisation, x, x_activation, x_slope)
    if bias is not None:
        has_shape(operator, "bias", bias, y.shape[3:], f"the output {tuple(y.shape)}")
    end = of_output(operator, activation, slope)
    launch(
        operator,
        plan,
        (x, w, bias),
        y,
        precision=precision,
        bias=bias,
        accumulate=accumulate,
        workspace=workspace,
        end=end,
        in_slices=in_slices,
        start=start,
        moments=moments,
    )


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
    precision: str = "float32",
) -> None:
    """dx (N, H, W, C_in) from dy (N, P, Q, C_out); where x (as dx) is given with activation, times
    the derivative of the activation that gave x. in_slices: dx (slices, N, H, W, C_in), as in
    convolution_forward.

    Raises ValueError where shapes do not fit, or x does not tell the derivative."""
    operator = "convolution_backward_data"
    if in_slices:
        dx, workspace = slices_of(operator, dx, None, activation, accumulate)
    plan = _plan(operator, precision, dx, w, dy, stride, pad, dilation, groups)
    end = of_gradient(operator, x, dx, activation, slope)
    launch(
        operator,
        plan,
        (dy, w, None),
        dx,
        precision=precision,
        accumulate=accumulate,
        workspace=workspace,
        end=end,
        in_slices=in_slices,
    )


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
    precision: str = "float32",
) -> None:
    """dw (C_out, kh, kw, C_in / groups) from x (N, H, W, C_in) and dy (N, P, Q, C_out).
    normalisation and x_activation as in convolution_forward.

    Raises ValueError where shapes do not fit."""
    operator = "convolution_backward_weight"
    plan = _plan(operator, precision, x, dw, dy, stride, pad, dilation, groups)
    start = of_input(operator, normalisation, x, x_activation, x_slope)
    launch(
        operator,
        plan,
        (x, dy),
        dw,
        precision=precision,
        accumulate=accumulate,
        workspace=workspace,
        start=start,
    )


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
    precision: str = "float32",
) -> None:
    """y (N, H, W, C_out) = transposed convolution of x (N, P, Q, C_in) with
    w (C_in, kh, kw, C_out / groups), + bias (C_out,); activation, in_slices, normalisation,
    x_activation and moments as in convolution_forward. y's size implies the output padding.

    Raises ValueError where shapes do not fit or the activation is unknown."""
    operator = "transposed_convolution_forward"
    alone_with_moments(operator, moments, activation, accumulate, in_slices)
    if in_slices:
        y, workspace = slices_of(operator, y, bias, activation, accumulate)
    plan = _plan(operator, precision, y, w, x, stride, pad, dilation, groups)
    start = of_input(operator, normalisation, x, x_activation, x_slope)
    if bias is not None:
        has_shape(operator, "bias", bias, y.shape[3:], f"the output {tuple(y.shape)}")
    end = of_output(operator, activation, slope)
    launch(
        operator,
        plan,
        (x, w, bias),
        y,
        precision=precision,
        bias=bias,
        accumulate=accumulate,
        workspace=workspace,
        end=end,
        in_slices=in_slices,
        start=start,
        moments=moments,
    )


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
    precision: str = "float32",
) -> None:
    """dx (N, P, Q, C_in) from dy (N, H, W, C_out); x, activation and
    in_slices as in convolution_backward_data. Raises ValueError where shapes do not fit."""
    operator = "transposed_convolution_backward_data"
    if in_slices:
        dx, workspace = slices_of(operator, dx, None, activation, accumulate)
    plan = _plan(operator, precision, dy, w, dx, stride, pad, dilation, groups)
    end = of_gradient(operator, x, dx, activation, slope)
    launch(
        operator,
        plan,
        (dy, w, None),
        dx,
        precision=precision,
        accumulate=accumulate,
        workspace=workspace,
        end=end,
        in_slices=in_slices,
    )


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
    precision: str = "float32",
) -> None:
    """dw (C_in, kh, kw, C_out / groups) from x (N, P, Q, C_in) and dy (N, H, W, C_out).
    normalisation and x_activation as in convolution_forward.

    Raises ValueError where shapes do not fit."""
    operator = "transposed_convolution_backward_weight"
    plan = _plan(operator, precision, dy, dw, x, stride, pad, dilation, groups)
    start = of_input(operator, normalisation, x, x_activation, x_slope)
    launch(
        operator,
        plan,
        (dy, x),
        dw,
        precision=precision,
        accumulate=accumulate,
        workspace=workspace,
        start=start,
    )


def _plan(
    operator: str,
    precision: str,
    large: Any,
    weight: Any,
    small: Any,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
) -> Plan:
    """The plan for these arrays. ValueError for shapes that do not fit."""
    for name, array in (("the unstrided side", large), ("the strided side", small)):
        has_rank(operator, name, array, 4, "(N, H, W, C)")
    has_rank(operator, "the weight", weight, 4, "(C, kernel height, kernel width, C / groups)")
    sides = (tuple(large.shape), tuple(weight.shape), tuple(small.shape))
    layer = (tuple(stride), tuple(pad), tuple(dilation), groups)
    if precision == "float32":
        return plan_of_sides(operator, precision, *sides, *layer, device_name())
    halves = Halves(is_half(large), is_half(weight), is_half(small))
    return plan_of_sides(operator, precision, *sides, *layer, device_name(), halves)
