"""Convolution and transposed convolution, forward and backward, NHWC.

Both operators join a small, strided image (N, P, Q, C_small) to a large one (N, H, W, C_large)
through a weight (C_small, kh, kw, C_large / groups): small pixel (p, q) and tap (i, j) meet large
pixel (p stride - pad + i dilation, q stride - pad + j dilation). Three sums serve six passes:

    gather   small = sum over taps and C_large of large * weight
             (convolution forward, transposed convolution backward_data)
    spread   large = sum over taps and C_small of small * weight
             (transposed convolution forward, convolution backward_data)
    weigh    weight gradient = sum over pixels of small * large   (both operators)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import shapes
from .store import store

Pair = tuple[int, int]


def convolution_forward(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    y: np.ndarray,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """y (N, P, Q, C_out) = convolution of x (N, H, W, C_in) with w (C_out, kh, kw, C_in / groups).

    y[n,p,q,o] = bias[o] + sum over i,j,c of x[n, p s - pad + i d, q s - pad + j d, c] w[o,i,j,c],
    pixels outside x counting as 0 (MXNet's Convolution; no kernel flip).
    Raises ValueError where the shapes do not fit.
    """
    _gather("convolution_forward", x, w, bias, y, stride, pad, dilation, groups, accumulate)


def convolution_backward_data(
    dy: np.ndarray,
    w: np.ndarray,
    dx: np.ndarray,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dx (N, H, W, C_in) = gradient of a convolution's input from dy (N, P, Q, C_out)."""
    _spread("convolution_backward_data", dy, w, None, dx, stride, pad, dilation, groups, accumulate)


def convolution_backward_weight(
    x: np.ndarray,
    dy: np.ndarray,
    dw: np.ndarray,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dw (C_out, kh, kw, C_in / groups) = gradient of a convolution's weight."""
    _weigh("convolution_backward_weight", x, dy, dw, stride, pad, dilation, groups, accumulate)


def transposed_convolution_forward(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    y: np.ndarray,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """y (N, H, W, C_out) = transposed convolution of x (N, P, Q, C_in).

    w is (C_in, kh, kw, C_out / groups); every x[n,p,q,c] adds x w[c,i,j,o] to
    y[n, p s - pad + i d, q s - pad + j d, o] where that pixel exists, plus bias[o] (MXNet's
    Deconvolution). Output padding is implied by y's size. Raises ValueError where shapes misfit.
    """
    _spread(
        "transposed_convolution_forward", x, w, bias, y, stride, pad, dilation, groups, accumulate
    )


def transposed_convolution_backward_data(
    dy: np.ndarray,
    w: np.ndarray,
    dx: np.ndarray,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dx (N, P, Q, C_in): gradient of a transposed convolution's input; dy (N, H, W, C_out)."""
    _gather(
        "transposed_convolution_backward_data",
        dy,
        w,
        None,
        dx,
        stride,
        pad,
        dilation,
        groups,
        accumulate,
    )


def transposed_convolution_backward_weight(
    x: np.ndarray,
    dy: np.ndarray,
    dw: np.ndarray,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dw (C_in, kh, kw, C_out / groups) = gradient of a transposed convolution's weight."""
    _weigh(
        "transposed_convolution_backward_weight",
        dy,
        x,
        dw,
        stride,
        pad,
        dilation,
        groups,
        accumulate,
    )


def bias_backward(
    dy: np.ndarray,
    dbias: np.ndarray,
    *,
    accumulate: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dbias (C,) = sum of dy (..., C) over all axes but the last."""
    shapes.check_shape("bias_backward", "dbias", dbias, dy.shape[-1:], f"dy {dy.shape}")
    store(dbias, dy.reshape(-1, dy.shape[-1]).sum(axis=0), accumulate)


def _gather(operator, large, weight, bias, small, stride, pad, dilation, groups, accumulate):
    _check(operator, large, weight, bias, small, small, stride, pad, dilation, groups)
    if not accumulate:
        small[...] = 0
    if bias is not None:
        small += bias
    for i, j, large_view, small_view in _taps(large, weight, small, stride, pad, dilation):
        for large_group, small_group, weight_group in _groups(
            large_view, small_view, weight[:, i, j, :], groups
        ):
            small_group += large_group @ weight_group.T


def _spread(operator, small, weight, bias, large, stride, pad, dilation, groups, accumulate):
    _check(operator, large, weight, bias, large, small, stride, pad, dilation, groups)
    if not accumulate:
        large[...] = 0
    if bias is not None:
        large += bias
    for i, j, large_view, small_view in _taps(large, weight, small, stride, pad, dilation):
        for large_group, small_group, weight_group in _groups(
            large_view, small_view, weight[:, i, j, :], groups
        ):
            large_group += small_group @ weight_group


def _weigh(operator, large, small, dw, stride, pad, dilation, groups, accumulate):
    _check(operator, large, dw, None, small, small, stride, pad, dilation, groups)
    if not accumulate:
        dw[...] = 0
    for i, j, large_view, small_view in _taps(large, dw, small, stride, pad, dilation):
        for large_group, small_group, dw_group in _groups(
            large_view, small_view, dw[:, i, j, :], groups
        ):
            dw_group += np.tensordot(small_group, large_group, axes=((0, 1, 2), (0, 1, 2)))


def _check(operator, large, weight, bias, output, small, stride, pad, dilation, groups):
    shapes.check_convolution(
        operator, large, weight, small, stride=stride, pad=pad, dilation=dilation, groups=groups
    )
    shapes.check_shape(operator, "bias", bias, output.shape[3:], f"the output {output.shape}")


def _taps(
    large: np.ndarray,
    weight: np.ndarray,
    small: np.ndarray,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Each tap (i, j) with the views of large and small, of one shape, whose pixels it joins."""
    for i in range(weight.shape[1]):
        rows = shapes.meeting(large.shape[1], small.shape[1], stride[0], pad[0], i * dilation[0])
        for j in range(weight.shape[2]):
            columns = shapes.meeting(
                large.shape[2], small.shape[2], stride[1], pad[1], j * dilation[1]
            )
            yield i, j, large[:, rows[0], columns[0]], small[:, rows[1], columns[1]]


def _groups(
    large: np.ndarray, small: np.ndarray, weight: np.ndarray, groups: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The channels of each group: views of large, small (..., C) and weight (C_small, C_large)."""
    many, few = small.shape[-1] // groups, large.shape[-1] // groups
    for group in range(groups):
        rows = slice(group * many, (group + 1) * many)
        yield large[..., group * few : (group + 1) * few], small[..., rows], weight[rows]
