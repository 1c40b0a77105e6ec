"""Convolution and transposed convolution, NHWC.

data (N, H, W, C_in) -> output (N, H', W', num_filter). Weights are stored by the small (strided)
side: convolution (num_filter, kh, kw, C_in / groups), transposed convolution
(C_in, kh, kw, num_filter / groups), so that the forward of one is the data gradient of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pygan.errors import GraphError, ShapeError
from pygan.flags import flag
from pygan.operators.base import (
    Array,
    Arrays,
    Call,
    Gradient,
    Operator,
    Shape,
    Shapes,
    both,
    data_shape,
    expect,
    pair,
    positive,
)


@dataclass(frozen=True)
class _Convolutional(Operator):
    kernel: int | tuple[int, int]
    num_filter: int
    stride: int | tuple[int, int] = 1
    pad: int | tuple[int, int] = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    no_bias: bool = False
    # Set where the executor fuses an activation that follows or precedes; no attributes of the
    # symbol. activation, slope: applied to the output. derived: the gradient of the output comes
    # with that activation's derivative in it. data_activation, data_slope: what gave the data;
    # the gradient of the data shall take its derivative along.
    activation: str | None = field(default=None, repr=False, kw_only=True)
    slope: float = field(default=0.0, repr=False, kw_only=True)
    derived: bool = field(default=False, repr=False, kw_only=True)
    data_activation: str | None = field(default=None, repr=False, kw_only=True)
    data_slope: float = field(default=0.0, repr=False, kw_only=True)

    prefix: ClassVar[str]

    def __post_init__(self) -> None:
        self._take(pair, "kernel", "stride", "dilation", least=1)
        self._take(pair, "pad", least=0)
        self._take(positive, "num_filter", "groups")
        self._take(flag, "no_bias")
        if self.num_filter % self.groups:
            raise GraphError(
                f"num_filter {self.num_filter} is not a multiple of groups {self.groups}"
            )

    def argument_names(self) -> tuple[str, ...]:
        return ("data", "weight") if self.no_bias else ("data", "weight", "bias")

    def extent(self) -> tuple[int, int]:
        """Rows and columns that the dilated kernel spans."""
        (rows, columns), (down, across) = both(self.kernel), both(self.dilation)
        return down * (rows - 1) + 1, across * (columns - 1) + 1

    def _output_size(self, size: Shape) -> Shape:
        raise NotImplementedError

    def _weight_shape(self, channels: int) -> Shape:
        raise NotImplementedError

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        n, h, w, channels = data = data_shape(inputs, rank=4)
        if channels % self.groups:
            raise ShapeError(
                f"data of shape {data} has {channels} channels, no multiple of groups {self.groups}"
            )
        because = f"data of shape {data} with kernel {self.kernel} and {self.num_filter} filters"
        weight = expect(inputs[1], self._weight_shape(channels), "weight", because)
        shapes = [data, weight]
        if not self.no_bias:
            shapes.append(expect(inputs[2], (self.num_filter,), "bias", because))
        return Shapes(tuple(shapes), ((n, *self._output_size((h, w)), self.num_filter),))

    def _geometry(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "pad": self.pad,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def residuals(self, shapes: Shapes) -> dict[str, tuple[Shape, str]]:
        return {} if self.activation is None else {"unactivated_gradient": (shapes.outputs[0], "")}

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        weight, *bias = arrays.inputs[1:]
        data, normalisation, behind = _data(arrays)
        attributes = self._geometry() | behind
        function = f"{self.prefix}_forward"
        if arrays.left is not None:
            operands = (data, weight, None, arrays.left, *normalisation)
            return [Call(function, operands, attributes | {"in_slices": True}, precision=True)]
        result = arrays.outputs[0]
        operands = (data, weight, bias[0] if bias else None, result, *normalisation)
        if self.activation is not None:
            attributes |= {"activation": self.activation, "slope": self.slope}
        if training and arrays.moments is not None:
            operands = (*operands[:4], *(normalisation or (None,)), arrays.moments)
        return [Call(function, operands, attributes, workspace=True, precision=True)]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        data, weight = arrays.inputs[:2]
        dy = output_gradients[0]
        calls = []
        if self.activation is not None and not self.derived:
            y, activated = arrays.outputs[0], dy
            dy = arrays.residuals["unactivated_gradient"]
            attributes = {"kind": self.activation, "slope": self.slope}
            calls.append(Call("activation_backward", (None, y, activated, dy), attributes))

        def add(
            function: str, target: Gradient | None, *operands: Array | None, **geometry: Any
        ) -> None:
            if target is not None:
                attributes = geometry | {"accumulate": target.accumulate}
                arrays = (*operands, target.array)
                products = function != "bias_backward"  # which is a sum
                calls.append(Call(function, arrays, attributes, workspace=True, precision=products))

        geometry = self._geometry()
        add(f"{self.prefix}_backward_data", gradients[0], dy, weight, **geometry)
        if gradients[0] is not None and gradients[0].in_slices:
            calls[-1].attributes["in_slices"] = True
            calls[-1].workspace = False
        if self.data_activation is not None and gradients[0] is not None:
            calls[-1].arrays += (data,)
            calls[-1].attributes |= {"activation": self.data_activation, "slope": self.data_slope}
        data, normalisation, behind = _data(arrays)
        add(f"{self.prefix}_backward_weight", gradients[1], data, dy, **geometry)
        if gradients[1] is not None:
            calls[-1].arrays += normalisation
            calls[-1].attributes |= behind
        if not self.no_bias:
            add("bias_backward", gradients[2], dy)
        return calls


def _data(arrays: Arrays) -> tuple[Array, tuple[Array, ...], dict[str, Any]]:
    """What is read as data, and what normalises it on the way: arrays and attributes."""
    if (given := arrays.normalised) is None:
        return arrays.inputs[0], (), {}
    behind = {"x_activation": given.activation, "x_slope": given.slope}
    return given.data, (given.normalisation,), behind


@dataclass(frozen=True)
class Convolution(_Convolutional):
    """Convolution (cross-correlation), MXNet's Convolution in NHWC.

    data (N, H, W, C), weight (num_filter, kh, kw, C / groups), bias (num_filter,) unless no_bias.
    Output size per axis: (size + 2 pad - dilation (kernel - 1) - 1) // stride + 1.
    """

    prefix: ClassVar[str] = "convolution"

    def _weight_shape(self, channels: int) -> Shape:
        return (self.num_filter, *both(self.kernel), channels // self.groups)

    def _output_size(self, size: Shape) -> Shape:
        padded = tuple(s + 2 * p for s, p in zip(size, both(self.pad), strict=True))
        extent = self.extent()
        if any(e > s for e, s in zip(extent, padded, strict=True)):
            raise ShapeError(
                f"kernel {self.kernel} with dilation {self.dilation} spans {extent}, more than the "
                f"input's {padded} (size {size} with pad {self.pad}); enlarge pad or input"
            )
        steps = zip(padded, extent, both(self.stride), strict=True)
        return tuple((s - e) // stride + 1 for s, e, stride in steps)


@dataclass(frozen=True)
class TransposedConvolution(_Convolutional):
    """Transposed convolution, MXNet's Deconvolution in NHWC (its default too: no bias).

    data (N, H, W, C), weight (C, kh, kw, num_filter / groups), bias (num_filter,) unless no_bias.
    Output size per axis: stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad + output_padding,
    with output_padding below stride (MXNet's adj).
    """

    no_bias: bool = True
    output_padding: int | tuple[int, int] = 0

    prefix: ClassVar[str] = "transposed_convolution"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._take(pair, "output_padding", least=0)
        if any(a >= s for a, s in zip(both(self.output_padding), both(self.stride), strict=True)):
            raise GraphError(
                f"output_padding {self.output_padding} must be smaller than stride {self.stride}"
            )

    def _weight_shape(self, channels: int) -> Shape:
        return (channels, *both(self.kernel), self.num_filter // self.groups)

    def _output_size(self, size: Shape) -> Shape:
        pairs = map(both, (self.stride, self.pad, self.output_padding))
        result = tuple(
            stride * (s - 1) + e - 2 * p + a
            for s, e, stride, p, a in zip(size, self.extent(), *pairs, strict=True)
        )
        if min(result) < 1:
            raise ShapeError(
                f"pad {self.pad} leaves an output of size {result} for input size {size} and "
                f"kernel {self.kernel}; reduce pad"
            )
        return result
