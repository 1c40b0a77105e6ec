"""Launchers of fully connected layers; the maths is in pygan.reference.fully_connected. In float32
they take kernels/fully_connected.cu, or the kernels of convolutions (plans/fully_connected.py); in
another precision they are convolutions (plans/choice.py).
"""

from __future__ import annotations

from typing import Any

from ..context import device_name
from .partial_sums import slices_of
from .plans.choice import plan_of_sides
from .plans.passes import POINTWISE, Halves
from .plans.plan import Plan
from .product_launch import launch
from .storage import is_half
from .validation import has_rank, has_shape


def fully_connected_forward(
    x: Any,
    w: Any,
    bias: Any | None,
    y: Any,
    *,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: Any | None = None,
    precision: str = "float32",
) -> None:
    """y (N, H) = x (N, D) w (H, D)^T + bias (H,). in_slices: y (slices, N, H) gets parts of the
    sum, as many as left_slices() says. Raises ValueError where shapes do not fit."""
    operator = "fully_connected_forward"
    if in_slices:
        y, workspace = slices_of(operator, y, bias, None, accumulate)
    plan = _plan(operator, precision, x, w, y)
    if bias is not None:
        has_shape(operator, "bias", bias, w.shape[:1], f"w {tuple(w.shape)}")
    launch(
        operator,
        plan,
        (x, w, bias),
        y,
        precision=precision,
        bias=bias,
        accumulate=accumulate,
        workspace=workspace,
        in_slices=in_slices,
    )


def fully_connected_backward_data(
    dy: Any,
    w: Any,
    dx: Any,
    *,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: Any | None = None,
    precision: str = "float32",
) -> None:
    """dx (N, D) = dy (N, H) w (H, D). in_slices: dx (slices, N, D), as in forward. Raises
    ValueError where shapes do not fit."""
    operator = "fully_connected_backward_data"
    if in_slices:
        dx, workspace = slices_of(operator, dx, None, None, accumulate)
    plan = _plan(operator, precision, dx, w, dy)
    launch(
        operator,
        plan,
        (dy, w, None),
        dx,
        precision=precision,
        accumulate=accumulate,
        workspace=workspace,
        in_slices=in_slices,
    )


def fully_connected_backward_weight(
    x: Any,
    dy: Any,
    dw: Any,
    *,
    accumulate: bool = False,
    workspace: Any | None = None,
    precision: str = "float32",
) -> None:
    """dw (H, D) = dy (N, H)^T x (N, D). Raises ValueError where shapes do not fit."""
    operator = "fully_connected_backward_weight"
    plan = _plan(operator, precision, x, dw, dy)
    launch(
        operator,
        plan,
        (x, dy),
        dw,
        precision=precision,
        accumulate=accumulate,
        workspace=workspace,
    )


def _plan(operator: str, precision: str, x: Any, w: Any, y: Any) -> Plan:
    """The plan for x or dx (N, D), w or dw (H, D), y or dy (N, H). ValueError for other shapes."""
    has_rank(operator, "the input side", x, 2, "(N, D)")
    has_rank(operator, "the weight", w, 2, "(H, D)")
    (batch, inputs), outputs = x.shape, w.shape[0]
    has_rank(operator, "the output side", y, 2, "(N, H)")
    if w.shape[1] != inputs or y.shape != (
        batch,
        outputs,
    ):  # texts cost time
        has_shape(operator, "the weight", w, (outputs, inputs), f"input {tuple(x.shape)}")
        because = f"input {tuple(x.shape)} with weight {tuple(w.shape)}"
        has_shape(operator, "the output side", y, (batch, outputs), because)
    sides = ((batch, 1, 1, inputs), (outputs, 1, 1, inputs), (batch, 1, 1, outputs))
    if precision == "float32":
        return plan_of_sides(operator, precision, *sides, *POINTWISE, device_name())
    halves = Halves(is_half(x), is_half(w), is_half(y))
    return plan_of_sides(operator, precision, *sides, *POINTWISE, device_name(), halves)
