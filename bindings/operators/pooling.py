"""Launchers of kernels/pooling.cu; the maths is in pygan.reference.pooling."""

from __future__ import annotations

from typing import Any

from .validation import THREADS, blocks_for, countable, has_rank, same_shape

FILE = "pooling.cu"
KINDS = ("max", "avg")
Pair = tuple[int, int]


def pooling_forward(
    x: Any,
    y: Any,
    *,
    kind: str,
    kernel: Pair,
    stride: Pair,
    pad: Pair,
    count_include_pad: bool = True,
) -> None:
    """y (N, P, Q, C) = maximum ("max") or mean ("avg") of each window of x (N, H, W, C).

    P and Q may follow either convention, "valid" or "full". ValueError for an unknown kind, or
    shapes that do not fit kernel, stride and pad.
    """
    operator = "pooling_forward"
    sizes = _check(operator, x, y, kind, kernel, stride, pad)
    if y.size:
        launch = y.context.kernel(FILE, operator, POOLING=kind)
        launch(_blocks(y), THREADS, x, y, *sizes, int(count_include_pad))


def pooling_backward(
    x: Any | None,
    dy: Any,
    dx: Any,
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
    sizes = _check(operator, dx, dy, kind, kernel, stride, pad)
    if kind == "max" and x is None:
        raise ValueError(f"{operator}: max pooling needs its input x to find the maxima")
    same_shape(operator, dx=dx, x=x)
    if dx.size:
        launch = dx.context.kernel(FILE, operator, POOLING=kind)
        launch(
            _blocks(dx),
            THREADS,
            x if kind == "max" else None,
            dy,
            dx,
            *sizes,
            int(count_include_pad),
            int(accumulate),
        )


def _blocks(written: Any) -> int:
    """A thread per pack: 4 channels of a pixel, or one."""
    return blocks_for(written.size, THREADS if written.shape[-1] % 4 else 4 * THREADS)


def _check(
    operator: str, x: Any, y: Any, kind: str, kernel: Pair, stride: Pair, pad: Pair
) -> tuple[int, ...]:
    """The integer arguments of both kernels, from batch to pad_w."""
    if kind not in KINDS:
        raise ValueError(f"{operator}: pooling kind {kind!r} is unknown; use 'max' or 'avg'")
    has_rank(operator, "the input side", x, 4, "(N, H, W, C)")
    has_rank(operator, "the output side", y, 4, "(N, P, Q, C)")
    for axis in (0, 1):
        if kernel[axis] < 1 or stride[axis] < 1 or not 0 <= pad[axis] < kernel[axis]:
            raise ValueError(
                f"{operator}: kernel {tuple(kernel)} and stride {tuple(stride)} must be at least "
                f"1 and pad {tuple(pad)} smaller than the kernel"
            )
    windows = []
    for axis in (0, 1):
        room = x.shape[1 + axis] + 2 * pad[axis] - kernel[axis]
        valid, full = room // stride[axis] + 1, -(-room // stride[axis]) + 1
        windows.append((valid, full) if room >= 0 else ())
    fits = all(y.shape[1 + axis] in windows[axis] for axis in (0, 1))
    if not fits or (x.shape[0], x.shape[3]) != (y.shape[0], y.shape[3]):
        raise ValueError(
            f"{operator}: {tuple(x.shape)} does not pool to {tuple(y.shape)} with kernel "
            f"{tuple(kernel)}, stride {tuple(stride)}, pad {tuple(pad)}; one of "
            f"{windows[0]} x {windows[1]} windows is expected"
        )
    countable(operator, "pixels", x.shape[1] * x.shape[2])
    return (*x.shape, *y.shape[1:3], *kernel, *stride, *pad)
