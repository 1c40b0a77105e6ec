"""Softmax and the loss heads.

A loss head starts the backward pass: gradients handed to its outputs, from outside or from another
operator, are ignored (as MXNet's MakeLoss and output operators do). Losses are computed from
logits in a form that neither overflows nor clamps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
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
    expect,
    number,
    only,
)

NORMALIZATIONS = ("mean", "batch", "none")


@dataclass(frozen=True)
class Softmax(Operator):
    """Softmax over the last axis: exp(x_k) / sum_j exp(x_j), shifted by the maximum."""

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        return Shapes((data,), (data,))

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        return [Call("softmax_forward", (arrays.inputs[0], arrays.outputs[0]))]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        target = only(gradients)
        operands = (arrays.outputs[0], output_gradients[0], target.array)
        return [Call("softmax_backward", operands, {"accumulate": target.accumulate})]


@dataclass(frozen=True)
class _Loss(Operator):
    """normalization: "mean" divides the sum by the number of elements of data, "batch" by its
    first axis, "none" leaves it; grad_scale multiplies loss and gradient alike."""

    normalization: str = "mean"
    grad_scale: float = 1.0

    is_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self.normalization, NORMALIZATIONS, "normalization")
        self._take(number, "grad_scale")

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        name = self.inputs[1]
        expect(inputs[1], data, name, f"data of shape {data}")
        return Shapes((data, data), ((1,), data)[: len(self.outputs)])

    def scale(self, shape: Shape) -> float:
        divisor = {"mean": prod(shape), "batch": shape[0], "none": 1}[self.normalization]
        return float(self.grad_scale) / divisor


@dataclass(frozen=True)
class SigmoidCrossEntropy(_Loss):
    """Sigmoid cross-entropy from logits z with soft labels t, any equal shapes.

    Outputs: loss (1,) = scale * sum(max(z, 0) - z t + log(1 + exp(-|z|))), and the probabilities
    sigmoid(z). Gradients: scale * (sigmoid(z) - t) for data, -scale * z for the label. With
    normalization "mean" it is the lesson's -mean(t log(p) + (1 - t) log(1 - p)), whose 1e-8 inside
    the logarithms, a clamp at -18.42, is not needed here.
    """

    inputs: ClassVar[tuple[str, ...]] = ("data", "label")
    outputs: ClassVar[tuple[str, ...]] = ("loss", "probabilities")
    optional_outputs: ClassVar[frozenset[int]] = frozenset({1})
    label_inputs: ClassVar[tuple[str, ...]] = ("label",)

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        loss, probabilities = arrays.outputs
        operands = (*arrays.inputs, probabilities, loss, arrays.ahead if training else None)
        attributes = {"scale": self.scale(arrays.inputs[0].shape)}
        return [Call("sigmoid_cross_entropy_forward", operands, attributes, workspace=True)]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        data, label = arrays.inputs
        scale = self.scale(data.shape)
        calls = []
        to_data, to_label = gradients
        if to_data is not None and to_data.array is not arrays.ahead:
            attributes = {"scale": scale, "accumulate": to_data.accumulate}
            operands = (data, label, to_data.array)
            calls.append(Call("sigmoid_cross_entropy_backward", operands, attributes))
        if to_label is not None:
            attributes = {"alpha": -scale, "accumulate": to_label.accumulate}
            calls.append(Call("axpy", (data, to_label.array), attributes))
        return calls


@dataclass(frozen=True)
class SoftmaxCrossEntropy(_Loss):
    """Softmax cross-entropy from logits (N, K) with soft or one-hot labels (N, K).

    Outputs: loss (1,) = -scale * sum(t * log_softmax(z)), and the probabilities softmax(z).
    Gradient of data: scale * (softmax(z) * sum_k t - t); none is stated for the label.
    The default "batch" is PyTorch's mean over samples; "mean" divides by N * K as the lesson does.
    """

    normalization: str = "batch"

    inputs: ClassVar[tuple[str, ...]] = ("data", "label")
    outputs: ClassVar[tuple[str, ...]] = ("loss", "probabilities")
    optional_outputs: ClassVar[frozenset[int]] = frozenset({1})
    label_inputs: ClassVar[tuple[str, ...]] = ("label",)
    no_gradient: ClassVar[tuple[str, ...]] = ("label",)

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data_shape(inputs, rank=2)
        return super().infer_shape(inputs)

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        loss, probabilities = arrays.outputs
        operands = (*arrays.inputs, probabilities, loss, arrays.ahead if training else None)
        attributes = {"scale": self.scale(arrays.inputs[0].shape)}
        return [Call("softmax_cross_entropy_forward", operands, attributes, workspace=True)]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        target = only(gradients)
        if target.array is arrays.ahead:
            return []
        scale = self.scale(arrays.inputs[0].shape)
        attributes = {"scale": scale, "accumulate": target.accumulate}
        return [Call("softmax_cross_entropy_backward", (*arrays.inputs, target.array), attributes)]


@dataclass(frozen=True)
class MeanSquaredError(_Loss):
    """loss (1,) = scale * sum((data - target)^2); gradients 2 * scale * (data - target) for data
    and its negative for the target. Equal shapes of any rank."""

    inputs: ClassVar[tuple[str, ...]] = ("data", "target")
    outputs: ClassVar[tuple[str, ...]] = ("loss",)
    label_inputs: ClassVar[tuple[str, ...]] = ("target",)

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        attributes = {"scale": self.scale(arrays.inputs[0].shape)}
        operands = (*arrays.inputs, arrays.outputs[0], arrays.ahead if training else None)
        return [Call("mean_squared_error_forward", operands, attributes, workspace=True)]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        scale = self.scale(arrays.inputs[0].shape)
        pairs = (arrays.inputs, arrays.inputs[::-1])
        return [
            Call(
                "mean_squared_error_backward",
                (*pair, gradient.array),
                {"scale": scale, "accumulate": gradient.accumulate},
            )
            for gradient, pair in zip(gradients, pairs, strict=True)
            if gradient is not None and gradient.array is not arrays.ahead
        ]


@dataclass(frozen=True)
class KullbackLeibler(_Loss):
    """loss (1,) = scale * sum(exp(lnsd) - 1 - lnsd + mean^2): draws codes towards N(0, 1).

    The lesson's term, -mean(1 + lnsd - mean^2 - sd) with sd = exp(lnsd) the standard deviation.
    With the logarithm of the variance in place of lnsd it is twice the Kullback-Leibler divergence
    from N(0, 1) (Kingma and Welling 2014, appendix B); both are least, 0, at mean 0 and lnsd 0.
    Gradients: scale * (exp(lnsd) - 1) for lnsd, 2 * scale * mean for mean. Equal shapes of any
    rank; normalization and grad_scale as for every loss.
    """

    inputs: ClassVar[tuple[str, ...]] = ("lnsd", "mean")
    outputs: ClassVar[tuple[str, ...]] = ("loss",)

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        lnsd, mean = arrays.inputs
        attributes = {"scale": self.scale(lnsd.shape)}
        operands = (mean, lnsd, arrays.outputs[0])
        return [Call("kullback_leibler_forward", operands, attributes, workspace=True)]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        lnsd, mean = arrays.inputs
        scale = self.scale(lnsd.shape)
        calls = []
        to_lnsd, to_mean = gradients
        if to_lnsd is not None:
            attributes = {"scale": scale, "accumulate": to_lnsd.accumulate}
            calls.append(Call("kullback_leibler_backward", (lnsd, to_lnsd.array), attributes))
        if to_mean is not None:
            attributes = {"alpha": 2 * scale, "accumulate": to_mean.accumulate}
            calls.append(Call("axpy", (mean, to_mean.array), attributes))
        return calls


@dataclass(frozen=True)
class LogisticRegressionOutput(Operator):
    """MXNet's operator of that name: forward sigmoid(data), no loss value.

    Gradient of data: (sigmoid(data) - label) * grad_scale / (elements per sample), not divided by
    the batch; none for the label. data (N, ...); label of data's shape, or (N,) for data (N, 1).
    """

    grad_scale: float = 1.0

    inputs: ClassVar[tuple[str, ...]] = ("data", "label")
    is_loss: ClassVar[bool] = True
    label_inputs: ClassVar[tuple[str, ...]] = ("label",)
    no_gradient: ClassVar[tuple[str, ...]] = ("label",)

    def __post_init__(self) -> None:
        self._take(number, "grad_scale")

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        if inputs[1] == data[:1] and prod(data[1:]) == 1:
            return Shapes((data, data[:1]), (data,))
        label = expect(inputs[1], data, "label", f"data of shape {data}")
        return Shapes((data, label), (data,))

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        data, label = arrays.inputs
        if arrays.ahead is None or not training:
            scores = (data, arrays.outputs[0])
            return [Call("activation_forward", scores, {"kind": "sigmoid"})]
        operands = (data, label.view(data.shape), arrays.outputs[0], None, arrays.ahead)
        attributes = {"scale": self.scale(data.shape)}
        return [Call("sigmoid_cross_entropy_forward", operands, attributes)]

    def scale(self, shape: Shape) -> float:
        return float(self.grad_scale) / prod(shape[1:])

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        data, label = arrays.inputs
        target = only(gradients)
        if target.array is arrays.ahead:
            return []
        attributes = {"scale": self.scale(data.shape), "accumulate": target.accumulate}
        operands = (data, label.view(data.shape), target.array)
        return [Call("sigmoid_cross_entropy_backward", operands, attributes)]
