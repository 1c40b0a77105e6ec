"""Dropout, drawn from the executor's counter-based random stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pygan.errors import GraphError
from pygan.operators.base import (
    Array,
    Arrays,
    Call,
    Gradient,
    Operator,
    Shape,
    Shapes,
    data_shape,
    number,
    only,
)


@dataclass(frozen=True)
class Dropout(Operator):
    """Zeroes values with probability `rate` in training and divides the rest by 1 - rate
    (Srivastava et al. 2014, in the inverted form of MXNet's Dropout); a copy otherwise.

    The uniform numbers come from `executor.random_state` (Philox 4x32-10), which advances, so the
    same seed drops the same values on every device.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        self._take(number, "rate")
        if not 0 <= self.rate < 1:
            raise GraphError(f"rate must lie in [0, 1), not {self.rate}")

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        return Shapes((data,), (data,))

    def residuals(self, shapes: Shapes) -> dict[str, tuple[Shape, str]]:
        return {"mask": (shapes.inputs[0], "uint8")}

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        x, y = arrays.inputs[0], arrays.outputs[0]
        if not training:
            return [Call("axpy", (x, y))]
        operands = (arrays.random_state, x, y, arrays.residuals["mask"])
        return [Call("dropout_forward", operands, {"rate": self.rate})]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        target = only(gradients)
        operands = (arrays.residuals["mask"], output_gradients[0], target.array)
        attributes = {"rate": self.rate, "accumulate": target.accumulate}
        return [Call("dropout_backward", operands, attributes)]
