"""Launchers of kernels/fully_connected.cu; the maths is in pygan.reference.fully_connected."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .tiling import MOST_BLOCKS, Tiling, partials_size, sum_partials, target, tiling_for
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
    workspace: Any | None = None,
) -> None:
    """y (N, H) = x (N, D) w (H, D)^T + bias (H,). Raises ValueError where shapes do not fit."""
    operator = "fully_connected_forward"
    batch, inputs, outputs = _check(operator, x, w, y)
    has_shape(operator, "bias", bias, (outputs,), f"w {tuple(w.shape)}")
    tiling = _tiling(operator, batch, outputs, inputs)
    _launch(operator, x, w, (bias,), y, (batch, inputs, outputs), tiling, accumulate, workspace)


def fully_connected_backward_data(
    dy: Any, w: Any, dx: Any, *, accumulate: bool = False, workspace: Any | None = None
) -> None:
    """dx (N, D) = dy (N, H) w (H, D). Raises ValueError where shapes do not fit."""
    operator = "fully_connected_backward_data"
    batch, inputs, outputs = _check(operator, dx, w, dy)
    tiling = _tiling(operator, batch, inputs, outputs)
    _launch(operator, dy, w, (), dx, (batch, inputs, outputs), tiling, accumulate, workspace)


def fully_connected_backward_weight(
    x: Any, dy: Any, dw: Any, *, accumulate: bool = False, workspace: Any | None = None
) -> None:
    """dw (H, D) = dy (N, H)^T x (N, D). Raises ValueError where shapes do not fit."""
    operator = "fully_connected_backward_weight"
    batch, inputs, outputs = _check(operator, x, dw, dy)
    tiling = _tiling(operator, outputs, inputs, batch)
    _launch(operator, x, dy, (), dw, (batch, inputs, outputs), tiling, accumulate, workspace)


@lru_cache(maxsize=4096)
def _tiling(operator: str, lines: int, columns: int, depth: int) -> Tiling:
    tiling = tiling_for(lines, columns, depth)
    if max(lines, columns, depth) > MOST_LINES or tiling.columns > MOST_BLOCKS:
        raise ValueError(
            f"{operator}: a product of ({lines}, {depth}) by ({depth}, {columns}) is too large; "
            f"no dimension may pass {MOST_LINES}, nor the columns {MOST_BLOCKS} tiles: split the "
            f"batch or the layer"
        )
    return tiling


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
    a: Any,
    b: Any,
    bias: tuple[Any, ...],
    out: Any,
    sizes: tuple[int, int, int],
    tiling: Tiling,
    accumulate: bool,
    workspace: Any | None,
) -> None:
    written = target(operator, out, workspace, tiling.slices)
    if not out.size:
        return
    kernel = out.context.kernel(FILE, operator, **tiling.defines)
    grid = (tiling.lines, tiling.columns, tiling.slices)
    adding = int(accumulate)
    kernel(grid, tiling.threads, a, b, *bias, written, *sizes, adding)
    if tiling.slices > 1:
        sum_partials(workspace, bias[0] if bias else None, out, tiling.slices, accumulate)


def _forward_workspace(
    x: Sequence[int], w: Sequence[int], bias: Sequence[int] | None, y: Sequence[int], **_: Any
) -> int:
    slices = _tiling("fully_connected_forward", x[0], w[0], x[1]).slices
    return partials_size(x[0] * w[0], slices)


def _backward_data_workspace(
    dy: Sequence[int], w: Sequence[int], dx: Sequence[int], **_: Any
) -> int:
    slices = _tiling("fully_connected_backward_data", dy[0], w[1], w[0]).slices
    return partials_size(dy[0] * w[1], slices)


def _backward_weight_workspace(
    x: Sequence[int], dy: Sequence[int], dw: Sequence[int], **_: Any
) -> int:
    slices = _tiling("fully_connected_backward_weight", dy[1], x[1], x[0]).slices
    return partials_size(dy[1] * x[1], slices)


WORKSPACE = {
    "fully_connected_forward": _forward_workspace,
    "fully_connected_backward_data": _backward_data_workspace,
    "fully_connected_backward_weight": _backward_weight_workspace,
}
"""float32 elements of workspace: by operator, a function of its arrays' shapes."""
