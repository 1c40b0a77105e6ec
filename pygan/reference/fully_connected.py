"""The fully connected layer: x (N, D), w (H, D), bias (H,), y (N, H)."""

from __future__ import annotations

import numpy as np

from . import shapes
from .parallel import matmul
from .slices import only_slice


def fully_connected_forward(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    y: np.ndarray,
    *,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """y (N, H) = x w^T + bias (MXNet's FullyConnected). in_slices as in convolution_forward: y is
    (slices, N, H). Raises ValueError where shapes misfit."""
    if in_slices:
        y = only_slice("fully_connected_forward", y, bias, None, accumulate)
    _check("fully_connected_forward", x, w, y)
    shapes.check_shape("fully_connected_forward", "bias", bias, w.shape[:1], f"w {w.shape}")
    _product(x, w.T, y, accumulate)
    if bias is not None:
        y += bias


def fully_connected_backward_data(
    dy: np.ndarray,
    w: np.ndarray,
    dx: np.ndarray,
    *,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dx (N, D) = dy (N, H) w. in_slices: dx is (slices, N, D)."""
    if in_slices:
        dx = only_slice("fully_connected_backward_data", dx, None, None, accumulate)
    _check("fully_connected_backward_data", dx, w, dy)
    _product(dy, w, dx, accumulate)


def fully_connected_backward_weight(
    x: np.ndarray,
    dy: np.ndarray,
    dw: np.ndarray,
    *,
    accumulate: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dw (H, D) = dy^T x."""
    _check("fully_connected_backward_weight", x, dw, dy)
    _product(dy.T, x, dw, accumulate)


def _product(a: np.ndarray, b: np.ndarray, output: np.ndarray, accumulate: bool) -> None:
    if accumulate:
        output += matmul(a, b, np.empty_like(output))
    else:
        matmul(a, b, output)


def _check(operator: str, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> None:
    shapes.check_rank(operator, "the input side", x, 2, "(N, D)")
    shapes.check_rank(operator, "the weight", w, 2, "(H, D)")
    shapes.check_shape(operator, "the weight", w, (w.shape[0], x.shape[1]), f"input {x.shape}")
    shapes.check_shape(
        operator,
        "the output side",
        y,
        (x.shape[0], w.shape[0]),
        f"input {x.shape} with weight {w.shape}",
    )
