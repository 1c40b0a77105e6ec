"""Elementwise activations. They may work in place: backward reads the output alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pygan.operators.base import (
    Array,
    Arrays,
    Call,
    Gradient,
    Operator,
    Shape,
    Shapes,
    choice,
    data_shape,
    number,
    only,
)


@dataclass(frozen=True)
class _Elementwise(Operator):
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)
    gradient_in_place: ClassVar[bool] = True

    def function(self) -> tuple[str, float]:
        """The kernel's kind and slope."""
        raise NotImplementedError

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        return Shapes((data,), (data,))

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        kind, slope = self.function()
        operands = (arrays.inputs[0], arrays.outputs[0])
        return [Call("activation_forward", operands, {"kind": kind, "slope": slope})]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        kind, slope = self.function()
        target = only(gradients)
        # A slope below 0 folds two inputs onto one output, so only then is the input kept.
        x = arrays.inputs[0] if slope < 0 else None
        operands = (x, arrays.outputs[0], output_gradients[0], target.array)
        attributes = {"kind": kind, "slope": slope, "accumulate": target.accumulate}
        return [Call("activation_backward", operands, attributes)]


@dataclass(frozen=True)
class Activation(_Elementwise):
    """relu, sigmoid, tanh or softplus (MXNet's Activation; its softrelu is softplus).

    data of any shape; the derivative of relu at exactly 0 is 0.
    """

    kind: str

    def __post_init__(self) -> None:
        choice(self.kind, ("relu", "sigmoid", "tanh", "softplus"), "kind")

    def function(self) -> tuple[str, float]:
        return self.kind, 0.0


@dataclass(frozen=True)
class LeakyReLU(_Elementwise):
    """leaky_relu: x for x > 0, else slope * x; elu: slope * (exp(x) - 1) (MXNet's LeakyReLU).

    The derivative at exactly 0 is slope.
    """

    slope: float = 0.25
    kind: str = "leaky_relu"

    def __post_init__(self) -> None:
        choice(self.kind, ("leaky_relu", "elu"), "kind")
        self._take(number, "slope")

    def function(self) -> tuple[str, float]:
        return self.kind, float(self.slope)
