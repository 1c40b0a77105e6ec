"""Shapes of the operators' arrays: the output-size formulas and the checks every twin makes.

The size functions work on one spatial axis at a time and are plain integer arithmetic, so that
shape inference can use them too. Every check raises `ValueError` and names both shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Shape = Sequence[int]


def convolution_output_size(
    size: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1
) -> int:
    """Pixels a convolution leaves on one axis: floor((size + 2 pad - extent) / stride) + 1.

    extent = dilation (kernel - 1) + 1. Zero or less where the kernel does not fit.
    """
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def transposed_convolution_output_size(
    size: int,
    kernel: int,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> int:
    """Pixels a transposed convolution makes on one axis (MXNet's Deconvolution; `adj` there).

    stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad + output_padding. `output_padding` must
    lie in 0..stride-1: a larger one would belong to another input size.
    """
    if not 0 <= output_padding < stride:
        raise ValueError(
            f"output_padding {output_padding} must lie in 0..{stride - 1} for stride {stride}; "
            "give a larger input or another pad instead"
        )
    return stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad + output_padding


def pooling_output_size(
    size: int, kernel: int, stride: int = 1, pad: int = 0, convention: str = "valid"
) -> int:
    """Windows on one axis: `valid` rounds (size + 2 pad - kernel) / stride down, `full` up; + 1.

    As in MXNet, `full` keeps windows that lie wholly in the padding.
    """
    steps = size + 2 * pad - kernel
    if steps < 0:
        return 0
    if convention == "valid":
        return steps // stride + 1
    if convention == "full":
        return -(-steps // stride) + 1
    raise ValueError(f"pooling convention {convention!r} is unknown; use 'valid' or 'full'")


def meeting(large: int, small: int, stride: int, pad: int, offset: int) -> tuple[slice, slice]:
    """On one axis, the slices of large and small joined by a tap: h = p stride - pad + offset."""
    first = max(0, -(-(pad - offset) // stride))
    last = max(first, min(small, (large - 1 + pad - offset) // stride + 1))
    start = first * stride - pad + offset
    return slice(start, start + (last - first) * stride, stride), slice(first, last)


def check_same(operator: str, **arrays: Any) -> None:
    """All arrays given (None is skipped) have one shape."""
    first_name = first_shape = None
    for name, array in arrays.items():
        if array is None:
            continue
        if first_shape is None:
            first_name, first_shape = name, array.shape
        elif array.shape != first_shape:
            raise ValueError(
                f"{operator}: {name} has shape {array.shape} but {first_name} has {first_shape}; "
                "they must be the same"
            )


def check_shape(operator: str, name: str, array: Any, expected: Shape, because: str) -> None:
    """`array` (None passes) has the shape `expected`, which follows from `because`."""
    if array is not None and tuple(array.shape) != tuple(expected):
        raise ValueError(
            f"{operator}: {name} has shape {tuple(array.shape)} but {because} "
            f"needs {tuple(expected)}"
        )


def check_rank(operator: str, name: str, array: Any, rank: int, layout: str) -> None:
    if len(array.shape) != rank:
        raise ValueError(
            f"{operator}: {name} has shape {tuple(array.shape)}, {len(array.shape)} axes; "
            f"it must be {layout}"
        )


def check_contiguous(operator: str, *outputs: Any) -> None:
    """Outputs are written through flat views of them, which only C-contiguous arrays have."""
    for output in outputs:
        if output is not None and not output.flags.c_contiguous:
            raise ValueError(
                f"{operator}: an output of shape {output.shape} and strides {output.strides} is "
                "not C-contiguous; pass a contiguous array and copy from it"
            )


def check_convolution(
    operator: str,
    large: Any,
    weight: Any,
    small: Any,
    *,
    stride: tuple[int, int],
    pad: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    """The two sides of a (transposed) convolution and its weight fit together.

    large (N, H, W, C_large): a convolution's input, a transposed convolution's output.
    small (N, P, Q, C_small): a convolution's output, a transposed convolution's input.
    weight (C_small, kh, kw, C_large / groups). The rule is a convolution's: P from H. The sizes H
    that share one P are those that a transposed convolution reaches by its output padding.
    """
    check_rank(operator, "the unstrided side", large, 4, "(N, H, W, C)")
    check_rank(operator, "the strided side", small, 4, "(N, H, W, C)")
    check_rank(operator, "the weight", weight, 4, "(C, kernel height, kernel width, C / groups)")
    for what, pair, least in (("stride", stride, 1), ("pad", pad, 0), ("dilation", dilation, 1)):
        if len(pair) != 2 or min(pair) < least:
            raise ValueError(f"{operator}: {what} {pair} must be two integers of at least {least}")
    n, height, width, large_channels = large.shape
    small_channels, kernel_h, kernel_w, group_channels = weight.shape
    if groups < 1 or small_channels % groups or large_channels % groups:
        raise ValueError(
            f"{operator}: groups {groups} does not divide the channels of {tuple(large.shape)} "
            f"and {tuple(small.shape)}"
        )
    if group_channels * groups != large_channels or small.shape[3] != small_channels:
        raise ValueError(
            f"{operator}: weight {tuple(weight.shape)} with groups {groups} joins "
            f"{group_channels * groups} to {small_channels} channels, but the arrays are "
            f"{tuple(large.shape)} and {tuple(small.shape)}"
        )
    expected = (
        n,
        convolution_output_size(height, kernel_h, stride[0], pad[0], dilation[0]),
        convolution_output_size(width, kernel_w, stride[1], pad[1], dilation[1]),
        small_channels,
    )
    if min(expected[1:3]) < 1 or tuple(small.shape) != expected:
        raise ValueError(
            f"{operator}: {tuple(large.shape)} and {tuple(small.shape)} do not belong together: "
            f"kernel {(kernel_h, kernel_w)}, stride {tuple(stride)}, pad {tuple(pad)}, dilation "
            f"{tuple(dilation)} lead from the first to {expected}"
        )


def check_pooling(
    operator: str,
    x: Any,
    y: Any,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
) -> None:
    """x (N, H, W, C) pools to y (N, P, Q, C) in one of the two conventions, on each axis."""
    check_rank(operator, "the input side", x, 4, "(N, H, W, C)")
    check_rank(operator, "the output side", y, 4, "(N, H, W, C)")
    for axis in (0, 1):
        if kernel[axis] < 1 or stride[axis] < 1 or not 0 <= pad[axis] < kernel[axis]:
            raise ValueError(
                f"{operator}: kernel {tuple(kernel)} and stride {tuple(stride)} must be at least "
                f"1 and pad {tuple(pad)} smaller than the kernel"
            )
    windows = [
        {
            pooling_output_size(x.shape[1 + axis], kernel[axis], stride[axis], pad[axis], rule)
            for rule in ("valid", "full")
        }
        for axis in (0, 1)
    ]
    fits = all(y.shape[1 + axis] in windows[axis] and y.shape[1 + axis] > 0 for axis in (0, 1))
    if not fits or (x.shape[0], x.shape[3]) != (y.shape[0], y.shape[3]):
        raise ValueError(
            f"{operator}: {tuple(x.shape)} does not pool to {tuple(y.shape)} with kernel "
            f"{tuple(kernel)}, stride {tuple(stride)}, pad {tuple(pad)}; one of "
            f"{sorted(windows[0])} x {sorted(windows[1])} windows is expected"
        )
