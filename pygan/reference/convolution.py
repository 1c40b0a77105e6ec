"""Convolution and transposed convolution, forward and backward, NHWC.

Both operators join a small, strided image (N, P, Q, C_small) to a large one (N, H, W, C_large)
through a weight (C_small, kh, kw, C_large / groups): small pixel (p, q) and tap (i, j) meet large
pixel (p stride - pad + i dilation, q stride - pad + j dilation). Three sums serve six passes:

    gather   small = sum over taps and C_large of large * weight
             (convolution forward, transposed convolution backward_data)
    spread   large = sum over taps and C_small of small * weight
             (transposed convolution forward, convolution backward_data)
    weigh    weight gradient = sum over pixels of small * large   (both operators)

They are matrix products with patches (columns.py). In float32 the kernels of DCGAN, 4x4 with stride
2 and pad 1, take 9 products for every 16 where channels are many (winograd.py). Where images are so
small that many taps lie in the padding, they are products of a tap each (by_taps.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from . import by_taps, columns, parallel, shapes, winograd
from .activation import activation_backward, activation_forward, check_from_output, check_kind
from .moments import check_finished, leave_moments
from .prologue import normalised
from .scratch import frame
from .slices import only_slice
from .store import store

Pair = tuple[int, int]


def convolution_forward(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    y: np.ndarray,
    normalisation: np.ndarray | None = None,
    moments: np.ndarray | None = None,
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
    workspace: np.ndarray | None = None,
) -> None:
    """y (N, P, Q, C_out) = convolution of x (N, H, W, C_in) with w (C_out, kh, kw, C_in / groups).

    y[n,p,q,o] = bias[o] + sum over i,j,c of x[n, p s - pad + i d, q s - pad + j d, c] w[o,i,j,c],
    pixels outside x counting as 0 (MXNet's Convolution; no kernel flip). activation, of
    activation.py, is applied to that sum, which has y's old values in it where accumulating.
    in_slices: y is (slices, N, P, Q, C_out) and gets parts of the sum, here all of it and zeros,
    for a batch norm that adds them; then there is no bias, activation or accumulate.
    normalisation (C_in, 4), where given: x counts as normalised by it, with x_activation behind;
    see batch_norm_normalisation_training. Pixels outside x count as 0 all the same.
    moments (t (2 C_out + 1),), where given: t parts' means of y's channels, then as many sums of
    squared deviations from them, then how many pixels each part has, here all in the first, for a
    batch norm that merges them; then there is no activation, accumulate or in_slices.
    Raises ValueError where the shapes do not fit or the activation is unknown.
    """
    operator = "convolution_forward"
    x = normalised(operator, x, normalisation, x_activation, x_slope)
    check_finished(operator, moments, activation, accumulate, in_slices)
    if in_slices:
        y = only_slice(operator, y, bias, activation, accumulate)
    _gather(operator, x, w, bias, y, stride, pad, dilation, groups, accumulate)
    _activate(operator, y, activation, slope)
    leave_moments(operator, y, moments)


def convolution_backward_data(
    dy: np.ndarray,
    w: np.ndarray,
    dx: np.ndarray,
    x: np.ndarray | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dx (N, H, W, C_in) = gradient of a convolution's input from dy (N, P, Q, C_out).

    x (as dx), where given with activation: the convolution's input, made by that activation. Then
    dx is the gradient of what the activation was applied to, times its derivative, from x.
    in_slices: dx is (slices, N, H, W, C_in), as in convolution_forward. Raises ValueError where
    shapes misfit, or x does not tell the derivative (FROM_OUTPUT, slope >= 0).
    """
    operator = "convolution_backward_data"
    if in_slices:
        dx = only_slice(operator, dx, None, activation, accumulate)
    with _derived(operator, x, dx, activation, slope, accumulate) as (out, adding):
        _spread(operator, dy, w, None, out, stride, pad, dilation, groups, adding)


def convolution_backward_weight(
    x: np.ndarray,
    dy: np.ndarray,
    dw: np.ndarray,
    normalisation: np.ndarray | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    x_activation: str | None = None,
    x_slope: float = 0.0,
    workspace: np.ndarray | None = None,
) -> None:
    """dw (C_out, kh, kw, C_in / groups) = gradient of a convolution's weight.

    normalisation and x_activation as in convolution_forward."""
    operator = "convolution_backward_weight"
    x = normalised(operator, x, normalisation, x_activation, x_slope)
    _weigh(operator, x, dy, dw, stride, pad, dilation, groups, accumulate)


def transposed_convolution_forward(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    y: np.ndarray,
    normalisation: np.ndarray | None = None,
    moments: np.ndarray | None = None,
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
    workspace: np.ndarray | None = None,
) -> None:
    """y (N, H, W, C_out) = transposed convolution of x (N, P, Q, C_in).

    w is (C_in, kh, kw, C_out / groups); every x[n,p,q,c] adds x w[c,i,j,o] to
    y[n, p s - pad + i d, q s - pad + j d, o] where that pixel exists, plus bias[o] (MXNet's
    Deconvolution). Output padding is implied by y's size. activation, in_slices, normalisation,
    x_activation and moments as in convolution_forward.
    Raises ValueError where shapes misfit or the activation is unknown.
    """
    operator = "transposed_convolution_forward"
    x = normalised(operator, x, normalisation, x_activation, x_slope)
    check_finished(operator, moments, activation, accumulate, in_slices)
    if in_slices:
        y = only_slice(operator, y, bias, activation, accumulate)
    _spread(operator, x, w, bias, y, stride, pad, dilation, groups, accumulate)
    _activate(operator, y, activation, slope)
    leave_moments(operator, y, moments)


def transposed_convolution_backward_data(
    dy: np.ndarray,
    w: np.ndarray,
    dx: np.ndarray,
    x: np.ndarray | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    in_slices: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """dx (N, P, Q, C_in): gradient of a transposed convolution's input; dy (N, H, W, C_out).

    x, activation and slope as in convolution_backward_data.
    """
    operator = "transposed_convolution_backward_data"
    if in_slices:
        dx = only_slice(operator, dx, None, activation, accumulate)
    with _derived(operator, x, dx, activation, slope, accumulate) as (out, adding):
        _gather(operator, dy, w, None, out, stride, pad, dilation, groups, adding)


def transposed_convolution_backward_weight(
    x: np.ndarray,
    dy: np.ndarray,
    dw: np.ndarray,
    normalisation: np.ndarray | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool = False,
    x_activation: str | None = None,
    x_slope: float = 0.0,
    workspace: np.ndarray | None = None,
) -> None:
    """dw (C_in, kh, kw, C_out / groups) = gradient of a transposed convolution's weight.

    normalisation and x_activation as in convolution_forward."""
    operator = "transposed_convolution_backward_weight"
    x = normalised(operator, x, normalisation, x_activation, x_slope)
    _weigh(operator, dy, x, dw, stride, pad, dilation, groups, accumulate)


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


def _activate(operator: str, y: np.ndarray, activation: str | None, slope: float) -> None:
    if activation is not None:
        activation_forward(y, y, kind=check_kind(operator, activation), slope=slope)


@contextmanager
def _derived(
    operator: str,
    x: np.ndarray | None,
    dx: np.ndarray,
    activation: str | None,
    slope: float,
    accumulate: bool,
) -> Iterator[tuple[np.ndarray, bool]]:
    """(array, accumulate) for a data gradient; dx gets it times the activation's derivative."""
    if (x is None) != (activation is None):
        raise ValueError(f"{operator}: x and activation (here {activation!r}) go together")
    if x is None or activation is None:
        yield dx, accumulate
        return
    check_from_output(operator, activation, slope)
    shapes.check_shape(operator, "x", x, dx.shape, f"dx {dx.shape}")
    with frame() as empty:
        gradient = empty(dx.shape, dx.dtype) if accumulate else dx
        yield gradient, False
        activation_backward(
            None, x, gradient, dx, kind=activation, slope=slope, accumulate=accumulate
        )


def _gather(
    operator: str,
    large: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    small: np.ndarray,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool,
) -> None:
    """small = patches of large @ weight^T"""
    taps = _check(operator, large, weight, bias, small, small, stride, pad, dilation, groups)
    whole = columns.whole_matrix(large, small, taps, groups)
    if whole is not None:
        _product(whole, _matrix(weight).T, _rows(small), accumulate)
    elif winograd.pays(large, small, taps, groups):
        winograd.gather(large, weight, small, accumulate)
    elif by_taps.pays(large, small, taps, groups):
        by_taps.gather(large, weight, small, taps, accumulate)
    else:
        height, width = small.shape[1:3]
        for few, many in _groups(large, small, groups):

            def gather(block: slice, few: slice = few, many: slice = many) -> None:
                with frame() as empty:
                    patches = columns.matrix(large[block, ..., few], height, width, taps, empty)
                    output = columns.rows(small[block], patches)[..., many]
                    _product(patches, _matrix(weight[many]).T, output, accumulate)

            parallel.run_blocks(gather, columns.blocks(large, small, taps, groups))
    if bias is not None:
        small += bias


def _spread(
    operator: str,
    small: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    large: np.ndarray,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool,
) -> None:
    """large = the patches small @ weight, added where they overlap"""
    taps = _check(operator, large, weight, bias, large, small, stride, pad, dilation, groups)
    whole = columns.whole_matrix(large, small, taps, groups)
    if whole is not None:
        _product(_rows(small), _matrix(weight), whole, accumulate)
    elif winograd.pays(large, small, taps, groups):
        winograd.spread(small, weight, large, accumulate)
    elif by_taps.pays(large, small, taps, groups):
        by_taps.spread(small, weight, large, taps, accumulate)
    else:
        for few, many in _groups(large, small, groups):

            def spread(block: slice, few: slice = few, many: slice = many) -> None:
                columns.add_product(
                    small[block, ..., many],
                    _matrix(weight[many]),
                    large[block, ..., few],
                    taps,
                    accumulate,
                )

            parallel.run_blocks(spread, columns.blocks(large, small, taps, groups))
    if bias is not None:
        large += bias


def _weigh(
    operator: str,
    large: np.ndarray,
    small: np.ndarray,
    dw: np.ndarray,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
    accumulate: bool,
) -> None:
    """dw = small^T @ patches of large"""
    taps = _check(operator, large, dw, None, dw, small, stride, pad, dilation, groups)
    whole = columns.whole_matrix(large, small, taps, groups)
    if whole is not None:
        _product(_rows(small).T, whole, _matrix(dw), accumulate)
        return
    if winograd.pays(large, small, taps, groups):
        winograd.weigh(large, small, dw, accumulate)
        return
    if by_taps.pays(large, small, taps, groups):
        by_taps.weigh(large, small, dw, taps, accumulate)
        return
    height, width = small.shape[1:3]
    for few, many in _groups(large, small, groups):
        output = _matrix(dw[many])
        # Every block has a sum of its own, so the blocks are larger than it.
        blocks = columns.blocks(large, small, taps, groups, 4 * output.size)
        with frame() as empty:
            alone = len(blocks) == 1 and not accumulate
            sums = output[None] if alone else empty((len(blocks), *output.shape), dw.dtype)

            def weigh(part: tuple[np.ndarray, slice], few: slice = few, many: slice = many) -> None:
                total, block = part
                with frame() as empty:
                    patches = columns.matrix(large[block, ..., few], height, width, taps, empty)
                    _sum_of_products(columns.rows(small[block], patches)[..., many], patches, total)

            parallel.run_blocks(weigh, list(zip(sums, blocks, strict=True)))
            if not alone:
                store(output, sums.sum(axis=0), accumulate)


def _product(a: np.ndarray, b: np.ndarray, output: np.ndarray, accumulate: bool) -> None:
    if accumulate:
        with frame() as empty:
            output += parallel.matmul(a, b, empty(output.shape, output.dtype))
    else:
        parallel.matmul(a, b, output)


def _sum_of_products(small: np.ndarray, patches: np.ndarray, total: np.ndarray) -> None:
    """total (C', kh kw C) = small^T @ patches, summed over the stack, (k, rows, C') and
    (k, rows, kh kw C)."""
    if len(small) == 1:
        parallel.matmul(small[0].T, patches[0], total)
        return
    with frame() as empty:
        # (kh kw C, C') each: the patches are transposed as they are, the small image is not.
        products = empty((len(small), total.shape[1], total.shape[0]), total.dtype)
        parallel.matmul(patches.transpose(0, 2, 1), small, products)
        np.add.reduce(products, axis=0, out=total.T)


def _rows(image: np.ndarray) -> np.ndarray:
    """(n, P, Q, C) as (n P Q, C), a view."""
    return image.reshape(-1, image.shape[3])


def _matrix(weight: np.ndarray) -> np.ndarray:
    """(C_small, kh, kw, C) as (C_small, kh kw C), a view."""
    return weight.reshape(len(weight), -1)


def _groups(large: np.ndarray, small: np.ndarray, groups: int) -> Iterator[tuple[slice, slice]]:
    """Each group's channels of the large image and of the small one."""
    few, many = large.shape[3] // groups, small.shape[3] // groups
    for group in range(groups):
        yield slice(group * few, (group + 1) * few), slice(group * many, (group + 1) * many)


def _check(
    operator: str,
    large: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    output: np.ndarray,
    small: np.ndarray,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
) -> columns.Taps:
    sides = (large.shape, weight.shape, small.shape)
    taps = _checked_taps(operator, *sides, tuple(stride), tuple(pad), tuple(dilation), groups)
    shapes.check_shape(operator, "bias", bias, output.shape[3:], f"the output {output.shape}")
    shapes.check_contiguous(operator, output)
    return taps


class _Shaped(NamedTuple):
    shape: tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def _checked_taps(
    operator: str,
    large: tuple[int, ...],
    weight: tuple[int, ...],
    small: tuple[int, ...],
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
) -> columns.Taps:
    """The taps, once for each set of shapes: a step calls with the same ones for ever."""
    sides = (_Shaped(shape) for shape in (large, weight, small))
    shapes.check_convolution(
        operator, *sides, stride=stride, pad=pad, dilation=dilation, groups=groups
    )
    return columns.Taps((weight[1], weight[2]), stride, pad, dilation)
