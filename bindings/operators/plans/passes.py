"""Passes: which pass of a convolution an operator is, and the matrix products that it consists of.

Three kinds of pass serve all operators. "forward" leads from a large side (a convolution's input, a
transposed convolution's output) to a small one, "backward_data" back, and "backward_weight" makes
the gradient of the weight between them. A transposed convolution's forward is a convolution's
backward_data, and the reverse; a fully connected layer is a convolution of 1 x 1 pixels with 1 x 1
taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..shapes import Geometry, Pair, geometry, with_fewer_idle_taps

Shape = tuple[int, ...]


class Pass(NamedTuple):
    """How an operator is a pass: its kind, and which of its arrays are the large side, the weight
    and the small side."""

    kind: str
    order: tuple[int, int, int]

    @property
    def result(self) -> int:
        """Which of its arrays is written."""
        return self.order[("backward_data", "backward_weight", "forward").index(self.kind)]


PASSES = {
    "convolution_forward": Pass("forward", (0, 1, 3)),
    "convolution_backward_data": Pass("backward_data", (2, 1, 0)),
    "convolution_backward_weight": Pass("backward_weight", (0, 2, 1)),
    "transposed_convolution_forward": Pass("backward_data", (3, 1, 0)),
    "transposed_convolution_backward_data": Pass("forward", (0, 1, 2)),
    "transposed_convolution_backward_weight": Pass("backward_weight", (1, 2, 0)),
    "fully_connected_forward": Pass("forward", (0, 1, 3)),
    "fully_connected_backward_data": Pass("backward_data", (2, 1, 0)),
    "fully_connected_backward_weight": Pass("backward_weight", (0, 2, 1)),
}

FULLY_CONNECTED = tuple(name for name in PASSES if name.startswith("fully_connected"))
POINTWISE = ((1, 1), (0, 0), (1, 1), 1)
"""stride, pad, dilation and groups of the convolution that a fully connected layer is."""


class Halves(NamedTuple):
    """Which arrays of a pass hold bf16 numbers; sums and gradients of weights never do."""

    large: bool = False
    weight: bool = False
    small: bool = False

    def of(self, kind: str) -> tuple[bool, bool, bool]:
        """(left operand, right operand, result) of a pass."""
        return {
            "forward": (self.large, self.weight, self.small),
            "backward_data": (self.small, self.weight, self.large),
            "backward_weight": (self.small, self.large, self.weight),
        }[kind]


NO_HALVES = Halves()


class Product(NamedTuple):
    """A pass as `count` matrix products of (lines, depth) by (depth, columns)."""

    lines: int
    columns: int
    depth: int
    count: int  # type: ignore[assignment]  # not tuple.count

    def tiles(self, lines: int, columns: int) -> tuple[int, int]:
        """How many tiles of so many lines and columns cover one product, down and across."""
        return -(-self.lines // lines), -(-self.columns // columns)

    def grid(self, lines: int, columns: int, slices: int) -> tuple[int, int, int]:
        """A block for each tile of each slice of every product."""
        return *self.tiles(lines, columns), self.count * slices


def product_of(kind: str, shape: Geometry) -> Product:
    """The product of a pass as kernels/convolution.cu computes it; convolution_pipelined.cu takes
    the lines and columns of a weight gradient the other way round."""
    if kind == "forward":
        depth = shape.taps * shape.group_large
        return Product(shape.small_pixels, shape.group_small, depth, shape.groups)
    if kind == "backward_weight":
        columns = shape.taps * shape.group_large
        return Product(shape.group_small, columns, shape.small_pixels, shape.groups)
    (stride_h, stride_w), (kernel_h, kernel_w) = shape.stride, shape.kernel
    lines = shape.batch * -(-shape.height // stride_h) * -(-shape.width // stride_w)
    depth = -(-kernel_h // stride_h) * -(-kernel_w // stride_w) * shape.group_small
    return Product(lines, shape.group_large, depth, shape.groups * stride_h * stride_w)


def result_shape(operator: str, shapes: Sequence[Sequence[int] | None]) -> Shape:
    """The shape of what an operator writes, of those of its arrays. ValueError for None."""
    return _given(operator, shapes, PASSES[operator].result)


def sides_of(operator: str, shapes: Sequence[Sequence[int] | None]) -> tuple[Shape, Shape, Shape]:
    """The shapes of large side, weight and small side, of those of an operator's arrays, (N, D) of
    a fully connected layer as (N, 1, 1, D). ValueError for None."""
    large, weight, small = (_given(operator, shapes, i) for i in PASSES[operator].order)
    if operator in FULLY_CONNECTED:
        large, weight, small = ((s[0], 1, 1, *s[1:]) for s in (large, weight, small))
    return large, weight, small


def _given(operator: str, shapes: Sequence[Sequence[int] | None], place: int) -> Shape:
    shape = shapes[place]
    if shape is None:
        raise ValueError(f"{operator}: the shape of array {place + 1} is None; it must be given")
    return tuple(shape)


def geometry_of(
    operator: str,
    kind: str,
    large: Sequence[int],
    weight: Sequence[int],
    small: Sequence[int],
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    groups: int,
) -> Geometry:
    """The geometry in which a pass is computed. ValueError, with the operator's name, for shapes
    that do not fit."""
    shape = geometry(operator, large, weight, small, stride, pad, dilation, groups)
    return with_fewer_idle_taps(shape) if kind == "backward_data" else shape


def result_size(kind: str, shape: Geometry) -> int:
    """Elements of what a pass writes."""
    if kind == "forward":
        return shape.small_pixels * shape.small_channels
    if kind == "backward_data":
        return shape.batch * shape.height * shape.width * shape.large_channels
    return shape.small_channels * shape.taps * shape.group_large
