"""Launchers of kernels/fully_connected.cu; the maths is in pygan.reference.fully_connected.

A fully connected layer is a convolution of 1 x 1 pixels with 1 x 1 taps. Where its sizes are
multiples of 4, kernels/convolution_pipelined.cu computes it as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..context import device_name
from .convolution import PIPELINED_FILE, Plan, aligned, can_be_pipelined, pipelined_plan
from .epilogue import NOTHING
from .shapes import Geometry
from .tiling import MOST_BLOCKS, partials_size, slices_of, sum_partials, target, tiling_for
from .validation import has_rank, has_shape

FILE = "fully_connected.cu"
MOST_LINES = 2**31 - 65
"""The kernels count lines, columns and depth in 32 bits, rounded up to a tile."""


def fully_connected_forward(
    x: Any,
    w: Any,
    bias: Any | None,
    y: Any,
    *,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: Any | None = None,
) -> None:
    """y (N, H) = x (N, D) w (H, D)^T + bias (H,). in_slices: y (slices, N, H) gets parts of the
    sum, as many as left_slices() says. Raises ValueError where shapes do not fit."""
    operator = "fully_connected_forward"
    if in_slices:
        y, workspace = slices_of(operator, y, bias, None, accumulate)
    batch, inputs, outputs = _check(operator, x, w, y)
    has_shape(operator, "bias", bias, (outputs,), f"w {tuple(w.shape)}")
    plan = _plan(operator, batch, inputs, outputs, device_name())
    _launch(operator, plan, (x, w, bias), y, bias, accumulate, workspace, in_slices)


def fully_connected_backward_data(
    dy: Any,
    w: Any,
    dx: Any,
    *,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: Any | None = None,
) -> None:
    """dx (N, D) = dy (N, H) w (H, D). in_slices: dx (slices, N, D), as in forward. Raises
    ValueError where shapes do not fit."""
    operator = "fully_connected_backward_data"
    if in_slices:
        dx, workspace = slices_of(operator, dx, None, None, accumulate)
    batch, inputs, outputs = _check(operator, dx, w, dy)
    plan = _plan(operator, batch, inputs, outputs, device_name())
    _launch(operator, plan, (dy, w), dx, None, accumulate, workspace, in_slices)


def fully_connected_backward_weight(
    x: Any, dy: Any, dw: Any, *, accumulate: bool = False, workspace: Any | None = None
) -> None:
    """dw (H, D) = dy (N, H)^T x (N, D). Raises ValueError where shapes do not fit."""
    operator = "fully_connected_backward_weight"
    batch, inputs, outputs = _check(operator, x, dw, dy)
    plan = _plan(operator, batch, inputs, outputs, device_name())
    _launch(operator, plan, (x, dy), dw, None, accumulate, workspace)


@lru_cache(maxsize=4096)
def _plan(operator: str, batch: int, inputs: int, outputs: int, device: str | None = None) -> Plan:
    kind = operator.removeprefix("fully_connected_")
    lines, columns, depth = {
        "forward": (batch, outputs, inputs),
        "backward_data": (batch, inputs, outputs),
        "backward_weight": (outputs, inputs, batch),
    }[kind]
    pixel = (1, 1)
    shape = Geometry(batch, 1, 1, inputs, 1, 1, outputs, pixel, pixel, (0, 0), pixel, 1)
    fast = None
    if min(lines, columns, depth) > 0 and can_be_pipelined(kind, shape):
        fast = pipelined_plan(kind, shape, device=device)
    tiling = tiling_for(lines, columns, depth, slices=fast.slices if fast else None)
    across = max(tiling.columns, fast.grid[1] if fast else 0)
    if max(lines, columns, depth) > MOST_LINES or across > MOST_BLOCKS:
        raise ValueError(
            f"{operator}: a product of ({lines}, {depth}) by ({depth}, {columns}) is too large; "
            f"no dimension may pass {MOST_LINES}, nor the columns {MOST_BLOCKS} tiles: split the "
            f"batch or the layer"
        )
    grid = (tiling.lines, tiling.columns, tiling.slices)
    sizes = (batch, inputs, outputs)
    plain = Plan(FILE, operator, tiling.defines, grid, tiling.threads, sizes, tiling.slices)
    return fast._replace(unaligned=plain) if fast else plain


def _check(operator: str, x: Any, w: Any, y: Any) -> tuple[int, int, int]:
    """(batch, inputs, outputs) of x or dx (N, D), w or dw (H, D), y or dy (N, H)."""
    has_rank(operator, "the input side", x, 2, "(N, D)")
    has_rank(operator, "the weight", w, 2, "(H, D)")
    (batch, inputs), outputs = x.shape, w.shape[0]
    has_shape(operator, "the weight", w, (outputs, inputs), f"input {tuple(x.shape)}")
    because = f"input {tuple(x.shape)} with weight {tuple(w.shape)}"
    has_shape(operator, "the output side", y, (batch, outputs), because)
    return batch, inputs, outputs


def _launch(
    operator: str,
    plan: Plan,
    inputs: tuple[Any, ...],
    out: Any,
    bias: Any | None,
    accumulate: bool,
    workspace: Any | None,
    in_slices: bool = False,
) -> None:
    written = target(operator, out, workspace, plan.slices, in_slices)
    if not out.size:
        return
    if plan.unaligned is not None and not aligned(*inputs, written):
        plan = plan.unaligned
    end: tuple[Any, ...] = ()
    if plan.file == PIPELINED_FILE and operator != "fully_connected_backward_weight":
        end = (*NOTHING.arguments, None)
        if operator == "fully_connected_backward_data":
            inputs = (*inputs, None)  # the bias of a transposed convolution's forward
    kernel = out.context.kernel(plan.file, plan.kernel, **plan.defines)
    kernel(plan.grid, plan.threads, *inputs, written, *plan.arguments, int(accumulate), *end)
    if plan.slices > 1 and not in_slices:
        sum_partials(workspace, bias, out, plan.slices, accumulate)


def _forward_workspace(
    x: Sequence[int], w: Sequence[int], bias: Sequence[int] | None, y: Sequence[int], **_: Any
) -> int:
    slices = _plan("fully_connected_forward", x[0], x[1], w[0], device_name()).slices
    return partials_size(x[0] * w[0], slices)


def _backward_data_workspace(
    dy: Sequence[int], w: Sequence[int], dx: Sequence[int], **_: Any
) -> int:
    slices = _plan("fully_connected_backward_data", dy[0], w[1], w[0], device_name()).slices
    return partials_size(dy[0] * w[1], slices)


def _backward_weight_workspace(
    x: Sequence[int], dy: Sequence[int], dw: Sequence[int], **_: Any
) -> int:
    slices = _plan("fully_connected_backward_weight", x[0], x[1], dy[1], device_name()).slices
    return partials_size(dy[1] * x[1], slices)


WORKSPACE = {
    "fully_connected_forward": _forward_workspace,
    "fully_connected_backward_data": _backward_data_workspace,
    "fully_connected_backward_weight": _backward_weight_workspace,
}
"""float32 elements of workspace: by operator, a function of its arrays' shapes."""
