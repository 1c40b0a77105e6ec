"""Max and average pooling, NHWC, with MXNet's conventions.

Window (p, q) covers rows p stride - pad .. + kernel of the padded image. The number of windows
comes from y's shape, so both conventions ("valid" and "full", shapes.pooling_output_size) are
served; a window wholly in the padding gives the most negative finite number for max and 0 for
average.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from . import shapes
from .parallel import run, split_work
from .scratch import frame

Pair = tuple[int, int]
Index = tuple[slice, ...]


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
    run(
        lambda part: _forward(x[part], y[part], kind, kernel, stride, pad, count_include_pad),
        split_work(len(x), 2 * x.size),
    )


def _forward(
    x: np.ndarray,
    y: np.ndarray,
    kind: str,
    kernel: Pair,
    stride: Pair,
    pad: Pair,
    count_include_pad: bool,
) -> None:
    if kind == "max":
        _maximum(x, y, kernel, stride, pad)
        return
    # A window's sum is separable: over its rows, in runs of W C numbers, then over its columns.
    with frame() as empty:
        row_sums = empty((*y.shape[:2], *x.shape[2:]), y.dtype)
        for target, source, axis in ((row_sums, x, 0), (y, row_sums, 1)):
            for tap, (x_part, y_part) in enumerate(_axis_taps(x, y, axis, kernel, stride, pad)):
                if tap == 0 and target[y_part].shape == target.shape:
                    target[...] = source[x_part]
                    continue
                if tap == 0:
                    target[...] = 0
                target[y_part] += source[x_part]
    y *= _reciprocals(x, y, kernel, stride, pad, count_include_pad)


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

    max: each window's gradient goes to its first maximum in row-major order (x is needed); a NaN
    counts as the maximum.
    avg: it is shared evenly, by the divisor of the forward pass (x may be None).
    """
    operator = "pooling_backward"
    _check(operator, dx, dy, kind, kernel, stride, pad)
    shapes.check_same(operator, dx=dx, x=x)
    if kind == "max" and x is None:
        raise ValueError(f"{operator}: max pooling needs its input x to find the maxima")

    def backward(part: slice) -> None:
        given = None if x is None else x[part]
        _backward(
            given, dy[part], dx[part], kind, kernel, stride, pad, count_include_pad, accumulate
        )

    run(backward, split_work(len(dx), 2 * dx.size))


def _backward(
    x: np.ndarray | None,
    dy: np.ndarray,
    dx: np.ndarray,
    kind: str,
    kernel: Pair,
    stride: Pair,
    pad: Pair,
    count_include_pad: bool,
    accumulate: bool,
) -> None:
    if x is not None and kind == "max":
        _to_maxima(x, dy, dx, kernel, stride, pad, accumulate)
        return
    with frame() as empty:
        share = empty(dy.shape, dy.dtype)
        np.multiply(dy, _reciprocals(dx, dy, kernel, stride, pad, count_include_pad), out=share)
        row_shares = empty((*dy.shape[:2], *dx.shape[2:]), dx.dtype)
        for target, source, axis in ((row_shares, share, 1), (dx, row_shares, 0)):
            adding = accumulate and target is dx
            # Windows that do not overlap are copied, which is cheaper than adding; those that leave
            # no pixel out need no zeros below them.
            copying = stride[axis] >= kernel[axis] and not adding
            tiling = stride[axis] == kernel[axis] and target.shape[1 + axis] == (
                kernel[axis] * source.shape[1 + axis]
            )
            if not adding and not (tiling and pad[axis] == 0):
                target[...] = 0
            for x_part, y_part in _axis_taps(dx, dy, axis, kernel, stride, pad):
                if copying:
                    target[x_part] = source[y_part]
                else:
                    target[x_part] += source[y_part]


def _to_maxima(
    x: np.ndarray,
    dy: np.ndarray,
    dx: np.ndarray,
    kernel: Pair,
    stride: Pair,
    pad: Pair,
    accumulate: bool,
) -> None:
    """dx = or += each window's dy at its first maximum (or NaN), window position by position."""
    apart = stride[0] >= kernel[0] and stride[1] >= kernel[1] and not accumulate
    if not accumulate:
        dx[...] = 0
    with frame() as empty:
        best = empty(dy.shape, dy.dtype)
        _maximum(x, best, kernel, stride, pad)
        has_nan = np.isnan(best).any()
        waiting, hit = empty(dy.shape, bool), empty(dy.shape, bool)
        waiting[...] = True
        share = empty(dy.shape, dy.dtype)
        for x_part, y_part in _taps(x, dy, kernel, stride, pad):
            found = np.equal(x[x_part], best[y_part], out=hit[y_part])
            if has_nan:
                # best is NaN in a window with a NaN, whose gradient goes to the first one.
                found |= np.isnan(x[x_part])
            found &= waiting[y_part]
            waiting[y_part] ^= found
            if apart:  # nothing else lands there
                np.multiply(dy[y_part], found, out=dx[x_part])
            else:
                dx[x_part] += np.multiply(dy[y_part], found, out=share[y_part])


def _maximum(x: np.ndarray, y: np.ndarray, kernel: Pair, stride: Pair, pad: Pair) -> None:
    taps = list(_taps(x, y, kernel, stride, pad))
    first = [x[x_part] for x_part, _ in taps[:2]]
    if len(first) == 2 and first[0].shape == first[1].shape == y.shape:
        np.maximum(first[0], first[1], out=y)
        taps = taps[2:]
    else:
        y[...] = -np.inf
        for axis in (1, 2):  # the last windows may begin beyond the image
            with_pixels = -(-(x.shape[axis] + pad[axis - 1]) // stride[axis - 1])
            y[(slice(None),) * axis + (slice(with_pixels, None),)] = np.finfo(y.dtype).min
    for x_part, y_part in taps:
        np.maximum(y[y_part], x[x_part], out=y[y_part])


def _axis_taps(
    x: np.ndarray, y: np.ndarray, axis: int, kernel: Pair, stride: Pair, pad: Pair
) -> Iterator[tuple[Index, Index]]:
    """Per window position along rows (0) or columns (1): the parts of x and y it joins."""
    lead = (slice(None),) * (1 + axis)
    for tap in range(kernel[axis]):
        x_slice, y_slice = shapes.meeting(
            x.shape[1 + axis], y.shape[1 + axis], stride[axis], pad[axis], tap
        )
        yield (*lead, x_slice), (*lead, y_slice)


def _taps(
    x: np.ndarray, y: np.ndarray, kernel: Pair, stride: Pair, pad: Pair
) -> Iterator[tuple[Index, Index]]:
    """Per window position in row-major order: the parts of x and y it joins."""
    for x_rows, y_rows in _axis_taps(x, y, 0, kernel, stride, pad):
        for x_columns, y_columns in _axis_taps(x, y, 1, kernel, stride, pad):
            yield (*x_rows, x_columns[-1]), (*y_rows, y_columns[-1])


def _reciprocals(
    x: np.ndarray, y: np.ndarray, kernel: Pair, stride: Pair, pad: Pair, count_include_pad: bool
) -> np.ndarray:
    sizes = (*x.shape[1:3], *y.shape[1:3])
    pairs = (tuple(kernel), tuple(stride), tuple(pad))
    return _reciprocal_counts(sizes, *pairs, count_include_pad, y.dtype)


@functools.lru_cache(maxsize=256)
def _reciprocal_counts(
    sizes: tuple[int, int, int, int],
    kernel: Pair,
    stride: Pair,
    pad: Pair,
    count_include_pad: bool,
    dtype: np.dtype,
) -> np.ndarray:
    """1 / pixels of each window, (P, Q, 1), or () where all have as many; sizes (H, W, P, Q).

    A window without pixels counts 1: its sum is 0.
    """
    per_axis = []
    for axis, (size, windows) in enumerate(zip(sizes[:2], sizes[2:], strict=True)):
        start = np.arange(windows) * stride[axis] - pad[axis]
        end = np.minimum(start + kernel[axis], size + pad[axis])
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, size)
        per_axis.append(np.maximum(end - start, 0))
    counts = np.maximum(per_axis[0][:, None, None] * per_axis[1][None, :, None], 1)
    if (counts == counts[0, 0]).all():
        counts = counts[0, 0]
    reciprocals = (1 / counts).astype(dtype)
    reciprocals.setflags(write=False)
    return reciprocals


def _check(
    operator: str,
    x: np.ndarray,
    y: np.ndarray,
    kind: str,
    kernel: Pair,
    stride: Pair,
    pad: Pair,
) -> None:
    if kind not in ("max", "avg"):
        raise ValueError(f"{operator}: pooling kind {kind!r} is unknown; use 'max' or 'avg'")
    shapes.check_pooling(operator, x, y, kernel=kernel, stride=stride, pad=pad)
