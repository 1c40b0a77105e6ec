"""The shapes of a (transposed) convolution: one check for all six passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Pair = tuple[int, int]

MOST_POSITIONS = 2**31 - 65
"""The kernels count pixels and taps * channels in 32 bits, rounded up to a tile."""

MOST_COORDINATE = 2**28
"""No coordinate that a kernel computes on its way to a pixel may pass this."""

MOST_PHASES = 64
"""Phases that a small side of one pixel may be given for the sake of fewer idle taps."""


class Geometry(NamedTuple):
    """A convolution as the kernels see it, whichever operator and pass it belongs to.

    The large side is a convolution's input or a transposed convolution's output, the small side
    the other; the weight is (small channels, kernel, large channels / groups).
    """

    batch: int
    height: int
    width: int
    large_channels: int
    small_height: int
    small_width: int
    small_channels: int
    kernel: Pair
    stride: Pair
    pad: Pair
    dilation: Pair
    groups: int

    @property
    def group_large(self) -> int:
        return self.large_channels // self.groups

    @property
    def group_small(self) -> int:
        return self.small_channels // self.groups

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def small_pixels(self) -> int:
        return self.batch * self.small_height * self.small_width

    def arguments(self) -> tuple[int, ...]:
        """In the order of the kernels' parameters, from `batch` to `groups`."""
        sides = self[:7]
        return (*sides, *self.kernel, *self.stride, *self.pad, *self.dilation, self.groups)


def geometry(
    operator: str,
    large: Sequence[int],
    weight: Sequence[int],
    small: Sequence[int],
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
) -> Geometry:
    """The geometry of shapes that fit together. Raises ValueError naming what does not.

    large (N, H, W, C_large), weight (C_small, kh, kw, C_large / groups), small (N, P, Q, C_small);
    P must be what a convolution makes of H. Several H have one P: a transposed convolution reaches
    them by its output padding.
    """
    sides = (("unstrided side", large), ("weight", weight), ("strided side", small))
    for name, shape in sides:
        if len(shape) != 4:
            raise ValueError(f"{operator}: the {name} has shape {shape}; it must have 4 axes")
    for name, pair, least in (("stride", stride, 1), ("pad", pad, 0), ("dilation", dilation, 1)):
        if len(pair) != 2 or min(pair) < least:
            raise ValueError(
                f"{operator}: {name} is {pair}; it must be two integers (height, width) of at "
                f"least {least}"
            )
    batch, height, width, large_channels = large
    small_channels, kernel_h, kernel_w, group_channels = weight
    if groups < 1 or large_channels % groups or small_channels % groups:
        raise ValueError(
            f"{operator}: groups {groups} must be at least 1 and divide the channels of "
            f"{large} and of {small}"
        )
    if group_channels * groups != large_channels or small[3] != small_channels:
        raise ValueError(
            f"{operator}: weight {weight} with groups {groups} joins {group_channels * groups} to "
            f"{small_channels} channels; the arrays have shapes {large} and {small}"
        )
    kernel = (kernel_h, kernel_w)
    outputs = [
        (size + 2 * pad[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, size in enumerate((height, width))
    ]
    if min(kernel) < 1 or min(outputs) < 1 or tuple(small) != (batch, *outputs, small_channels):
        raise ValueError(
            f"{operator}: {large} and {small} do not fit: kernel {kernel}, stride {stride}, pad "
            f"{pad} and dilation {dilation} turn the first into {(batch, *outputs, small_channels)}"
        )
    result = Geometry(
        *(batch, height, width, large_channels, outputs[0], outputs[1], small_channels),
        *(kernel, stride, pad, dilation, groups),
    )
    _check_counts(operator, result)
    return result


def with_fewer_idle_taps(shape: Geometry) -> Geometry:
    """The same transposed convolution with as many phases as taps where the small side is 1 x 1.

    A single pixel has no neighbour for a stride to lead to, so the stride may be any that gives
    one pixel; as large as the kernel's extent, each phase keeps the one tap that it needs.
    """
    if (shape.small_height, shape.small_width) != (1, 1):
        return shape
    height, width = (shape.dilation[i] * (shape.kernel[i] - 1) + 1 for i in (0, 1))
    widest = (max(height, shape.stride[0]), max(width, shape.stride[1]))
    return shape._replace(stride=widest) if widest[0] * widest[1] <= MOST_PHASES else shape


def _check_counts(operator: str, shape: Geometry) -> None:
    positions = max(
        shape.batch * shape.height * shape.width,
        shape.small_pixels,
        shape.taps * max(shape.group_large, shape.group_small),
    )
    coordinate = max(
        max(size + 2 * shape.pad[i], shape.stride[i] * shape.dilation[i])
        for i, size in enumerate((shape.height, shape.width))
    )
    if positions > MOST_POSITIONS or coordinate > MOST_COORDINATE:
        raise ValueError(
            f"{operator}: {positions} positions (of at most {MOST_POSITIONS}) or coordinates up to "
            f"{coordinate} (of at most {MOST_COORDINATE}) are too many for one call: split the "
            f"batch, or use a smaller stride, pad or dilation"
        )
