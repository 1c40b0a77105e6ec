"""Max and average pooling, NHWC, with MXNet's conventions.

Window (p, q) covers rows p stride - pad .. + kernel of the padded image. The number of windows
comes from y's shape, so both conventions ("valid" and "full", shapes.pooling_output_size) are
served; a window wholly in the padding gives the most negative number for max and 0 for average.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import shapes

Pair = tuple[int, int]


def pooling_forward(
    x: np.ndarray,
    y: np.ndarray,
    *,
    kind: str,
    kernel: Pair,
    stride: Pair,
    pad: Pair,
    count_include_pad: bool = True,
) -> None:
    """y (N, P, Q, C) = maximum ("max") or mean ("avg") of each window of x (N, H, W, C).

    Average: divided by the window's pixels inside the padded image, or inside the image alone if
    not `count_include_pad`. Raises ValueError for an unknown kind or shapes that do not fit.
    """
    _check("pooling_forward", x, y, kind, kernel, stride, pad)
    if kind == "max":
        y[...] = np.finfo(y.dtype).min
        for x_view, y_view, _ in _taps(x, y, kernel, stride, pad):
            np.copyto(y_view, x_view, where=x_view > y_view)
        return
    # A window's sum is separable: over its rows, in runs of W C numbers, then over its columns.
    row_sums = np.zeros((*y.shape[:2], *x.shape[2:]), y.dtype)
    for x_rows, y_rows in _axis_taps(x, y, 0, kernel, stride, pad):
        row_sums[:, y_rows] += x[:, x_rows]
    y[...] = 0
    for x_columns, y_columns in _axis_taps(x, y, 1, kernel, stride, pad):
        y[:, :, y_columns] += row_sums[:, :, x_columns]
    y *= _reciprocal_counts(x, y, kernel, stride, pad, count_include_pad)


def pooling_backward(
    x: np.ndarray | None,
    dy: np.ndarray,
    dx: np.ndarray,
    *,
    kind: str,
    kernel: Pair,
    stride: Pair,
    pad: Pair,
    count_include_pad: bool = True,
    accumulate: bool = False,
) -> None:
    """dx (N, H, W, C) from dy (N, P, Q, C).

    max: each window's gradient goes to its first maximum in row-major order (x is needed).
    avg: it is shared evenly, by the divisor of the forward pass (x may be None).
    """
    operator = "pooling_backward"
    _check(operator, dx, dy, kind, kernel, stride, pad)
    shapes.check_same(operator, dx=dx, x=x)
    if not accumulate:
        dx[...] = 0
    if kind == "avg":
        share = dy * _reciprocal_counts(dx, dy, kernel, stride, pad, count_include_pad)
        row_shares = np.zeros((*dy.shape[:2], *dx.shape[2:]), dx.dtype)
        for dx_columns, dy_columns in _axis_taps(dx, dy, 1, kernel, stride, pad):
            row_shares[:, :, dx_columns] += share[:, :, dy_columns]
        for dx_rows, dy_rows in _axis_taps(dx, dy, 0, kernel, stride, pad):
            dx[:, dx_rows] += row_shares[:, dy_rows]
        return
    if x is None:
        raise ValueError(f"{operator}: max pooling needs its input x to find the maxima")
    best = np.full_like(dy, np.finfo(dy.dtype).min)
    winner = np.full(dy.shape, -1, np.int32)
    for tap, (x_view, best_view, where) in enumerate(_taps(x, best, kernel, stride, pad)):
        larger = x_view > best_view
        np.copyto(best_view, x_view, where=larger)
        winner[where][larger] = tap
    for tap, (dx_view, dy_view, where) in enumerate(_taps(dx, dy, kernel, stride, pad)):
        dx_view += np.where(winner[where] == tap, dy_view, 0)


def _axis_taps(
    x: np.ndarray, y: np.ndarray, axis: int, kernel: Pair, stride: Pair, pad: Pair
) -> Iterator[tuple[slice, slice]]:
    """Per window position along rows (0) or columns (1): the slices of x and y it joins."""
    for tap in range(kernel[axis]):
        yield shapes.meeting(x.shape[1 + axis], y.shape[1 + axis], stride[axis], pad[axis], tap)


def _taps(
    x: np.ndarray, y: np.ndarray, kernel: Pair, stride: Pair, pad: Pair
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[slice, ...]]]:
    """Per window position in row-major order: the views of x and y it joins, and y's index."""
    for x_rows, y_rows in _axis_taps(x, y, 0, kernel, stride, pad):
        for x_columns, y_columns in _axis_taps(x, y, 1, kernel, stride, pad):
            where = (slice(None), y_rows, y_columns)
            yield x[:, x_rows, x_columns], y[where], where


def _reciprocal_counts(x, y, kernel, stride, pad, count_include_pad) -> np.ndarray:
    """1 / pixels of each window, (P, Q, 1), or () where all have as many.

    A window without pixels counts 1: its sum is 0.
    """
    per_axis = []
    for axis in (0, 1):
        size = x.shape[1 + axis]
        start = np.arange(y.shape[1 + axis]) * stride[axis] - pad[axis]
        end = np.minimum(start + kernel[axis], size + pad[axis])
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, size)
        per_axis.append(np.maximum(end - start, 0))
    counts = np.maximum(per_axis[0][:, None, None] * per_axis[1][None, :, None], 1)
    if (counts == counts[0, 0]).all():
        counts = counts[0, 0]
    return (1 / counts).astype(y.dtype)


def _check(operator, x, y, kind, kernel, stride, pad) -> None:
    if kind not in ("max", "avg"):
        raise ValueError(f"{operator}: pooling kind {kind!r} is unknown; use 'max' or 'avg'")
    shapes.check_pooling(operator, x, y, kernel=kernel, stride=stride, pad=pad)
