"""Fully connected layer: data flattened to (N, D), output (N, num_hidden)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from pygan.flags import flag
from pygan.operators.base import (
    Array,
    Arrays,
    Call,
    Gradient,
    Operator,
    Shape,
    Shapes,
    data_shape,
    expect,
    positive,
)


@dataclass(frozen=True)
class FullyConnected(Operator):
    """y = x w^T + bias, MXNet's FullyConnected with flatten on.

    data (N, ...) is read as (N, D) in its own (NHWC) order, weight (num_hidden, D),
    bias (num_hidden,) unless no_bias. `pygan.layout` permutes weights that were trained on
    flattened NCHW images.
    """

    num_hidden: int
    no_bias: bool = False

    def __post_init__(self) -> None:
        self._take(positive, "num_hidden")
        self._take(flag, "no_bias")

    def argument_names(self) -> tuple[str, ...]:
        return ("data", "weight") if self.no_bias else ("data", "weight", "bias")

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        because = f"data of shape {data} with num_hidden {self.num_hidden}"
        shapes = [data, expect(inputs[1], (self.num_hidden, prod(data[1:])), "weight", because)]
        if not self.no_bias:
            shapes.append(expect(inputs[2], (self.num_hidden,), "bias", because))
        return Shapes(tuple(shapes), ((data[0], self.num_hidden),))

    def _rows(self, array: Array) -> Array:
        return array.view((array.shape[0], prod(array.shape[1:])))

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        data, weight, *bias = arrays.inputs
        function = "fully_connected_forward"
        if arrays.left is not None:
            sliced = (self._rows(data), weight, None, arrays.left)
            return [Call(function, sliced, {"in_slices": True}, precision=True)]
        operands = (self._rows(data), weight, bias[0] if bias else None, arrays.outputs[0])
        return [Call(function, operands, workspace=True, precision=True)]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        data, weight = arrays.inputs[:2]
        dy = output_gradients[0]
        calls = []

        def add(function: str, target: Gradient | None, *operands: Array | None) -> None:
            if target is not None:
                attributes = {"accumulate": target.accumulate}
                products = function != "bias_backward"  # which is a sum
                call = Call(function, operands, attributes, workspace=True, precision=products)
                calls.append(call)

        to_data, to_weight = gradients[:2]
        if to_data is not None:
            rows = to_data.array if to_data.in_slices else self._rows(to_data.array)
            add("fully_connected_backward_data", to_data, dy, weight, rows)
            if to_data.in_slices:
                calls[-1].attributes["in_slices"] = True
                calls[-1].workspace = False
        if to_weight is not None:
            add("fully_connected_backward_weight", to_weight, self._rows(data), dy, to_weight.array)
        if not self.no_bias and gradients[2] is not None:
            add("bias_backward", gradients[2], dy, gradients[2].array)
        return calls
