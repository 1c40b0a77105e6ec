"""Sums and products of two arrays, exponentials, and the sample of a variational code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pygan.errors import ShapeError
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
    only,
)


@dataclass(frozen=True)
class _Pairwise(Operator):
    inputs: ClassVar[tuple[str, ...]] = ("left", "right")
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0), (1, 0))
    function: ClassVar[str]
    hint: ClassVar[str] = ""

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        known = data_shape([shape for shape in inputs if shape is not None] or [None])
        for shape in inputs:
            if shape is not None and shape != known:
                raise ShapeError(
                    f"left has shape {inputs[0]} and right {inputs[1]}; they must be equal"
                    + self.hint
                )
        return Shapes((known, known), (known,))

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        return [Call(self.function, (*arrays.inputs, arrays.outputs[0]))]


@dataclass(frozen=True)
class Add(_Pairwise):
    """left + right, equal shapes."""

    function: ClassVar[str] = "add_forward"

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        return [
            Call("axpy", (output_gradients[0], target.array), {"accumulate": target.accumulate})
            for target in gradients
            if target is not None
        ]


@dataclass(frozen=True)
class Multiply(_Pairwise):
    """left * right, equal shapes."""

    function: ClassVar[str] = "multiply_forward"
    hint: ClassVar[str] = " (BroadcastMultiply broadcasts)"
    backward_function: ClassVar[str] = "multiply_backward"

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        return [
            Call(
                self.backward_function,
                (output_gradients[0], other, target.array),
                {"accumulate": target.accumulate},
            )
            for target, other in zip(gradients, reversed(arrays.inputs), strict=True)
            if target is not None
        ]


@dataclass(frozen=True)
class BroadcastMultiply(Multiply):
    """left * right under numpy's broadcasting rules, up to 4 axes (MXNet's broadcast_mul)."""

    in_place: ClassVar[tuple[tuple[int, int], ...]] = ()
    function: ClassVar[str] = "broadcast_multiply_forward"
    backward_function: ClassVar[str] = "broadcast_multiply_backward"

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        left, right = data_shape(inputs), data_shape(inputs, index=1)
        rank = max(len(left), len(right))
        if rank > 4:
            raise ShapeError(f"left {left} and right {right} have more than 4 axes")
        padded = [(1,) * (rank - len(shape)) + shape for shape in (left, right)]
        if any(a != b and 1 not in (a, b) for a, b in zip(*padded, strict=True)):
            raise ShapeError(f"left of shape {left} and right of {right} do not broadcast")
        result = tuple(b if a == 1 else a for a, b in zip(*padded, strict=True))
        return Shapes((left, right), (result,))


@dataclass(frozen=True)
class Exp(Operator):
    """exp(data), any shape. It may work in place: backward reads the output."""

    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        return Shapes((data,), (data,))

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        return [Call("exp_forward", (arrays.inputs[0], arrays.outputs[0]))]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        target = only(gradients)
        operands = (output_gradients[0], arrays.outputs[0], target.array)
        return [Call("multiply_backward", operands, {"accumulate": target.accumulate})]


@dataclass(frozen=True)
class Reparametrization(Operator):
    """mean + exp(lnsd) * noise, equal shapes: with standard normal noise, a sample of
    N(mean, exp(lnsd)^2) through which gradients reach mean and lnsd.

    Kingma and Welling, "Auto-encoding variational Bayes" (2014), section 2.4. Gradients: that of
    the sample for mean, times noise * exp(lnsd) for lnsd, times exp(lnsd) for noise.
    """

    inputs: ClassVar[tuple[str, ...]] = ("lnsd", "mean", "noise")

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        known = data_shape([shape for shape in inputs if shape is not None] or [None])
        for name, shape in zip(self.inputs, inputs, strict=True):
            expect(shape, known, name, f"a sample of shape {known}")
        return Shapes((known,) * 3, (known,))

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        lnsd, mean, noise = arrays.inputs
        return [Call("reparametrization_forward", (mean, lnsd, noise, arrays.outputs[0]))]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        lnsd, _, noise = arrays.inputs
        dcode = output_gradients[0]
        functions = (
            ("reparametrization_backward_lnsd", (lnsd, noise, dcode)),
            ("axpy", (dcode,)),
            ("reparametrization_backward_noise", (lnsd, dcode)),
        )
        return [
            Call(function, (*operands, target.array), {"accumulate": target.accumulate})
            for target, (function, operands) in zip(gradients, functions, strict=True)
            if target is not None
        ]
