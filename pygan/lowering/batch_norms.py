"""What batch norms leave to the convolutions around them, and those to batch norms.

A convolution that sums its products in slices may leave them as they are, or leave moments of its
result by tiles, and the batch norm that reads it adds, or merges, them in its first pass; a batch
norm may leave its last pass, which normalises, to the convolution that reads it. Whether one of
these gains depends on the device, which is asked for each (`Advice`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pygan.lowering.steps import CONVOLUTIONS, Key, Step, Steps
from pygan.operators import (
    Array,
    BatchNorm,
    Call,
    FullyConnected,
    Gradient,
    Normalised,
    Operator,
    Shape,
)

# Activations behind a batch norm that a convolution can apply to what it reads.
ON_THE_WAY = (None, "relu", "leaky_relu")

PRODUCTS = (*CONVOLUTIONS, FullyConnected)


class Advice(Protocol):
    """What of all this gains on a device."""

    def left_slices(self, call: Call) -> int:
        """How many slices of its sum a call should leave to the batch norm that reads it, 1 for
        none; asked where it could."""

    def left_moments(self, call: Call, merged: bool) -> int:
        """Likewise, how many numbers of the moments of its tiles, 0 for none; merged: to a batch
        norm that leaves its normalising pass to others."""

    def normalises(self, shape: Shape, calls: list[Call], slices: int) -> bool:
        """Whether a batch norm of a shape, whose data comes in so many slices (1: whole), should
        leave its normalising pass to these calls, all that read its result."""

    def makes_again(self, result: Array) -> bool:
        """Whether a backward should make the result of a batch norm again, not keep it."""

    def leaves_room(self, call: Call) -> bool:
        """Whether what runs beside a call, the gradient of a weight or a bias, gains by it."""


def leave_slices(steps: Steps, gradients: Mapping[Key, Array], advice: Advice) -> dict[Key, Array]:
    """Lets batch norms add the slices of the products around them, where that gains. Gives the
    slices that gradients of batch norms' results come in."""
    makers, readers = steps.makers(), steps.readers()
    arguments = set(steps.argument_keys.values())
    in_slices: dict[Key, Array] = {}
    for step in steps.in_order:
        if not isinstance(step.operator, BatchNorm) or step.operator.use_global_stats:
            continue  # constant statistics are one pass, whose backward reads what this skips
        (source, *_), (made,) = step.input_keys, step.output_keys
        if steps.consumers[source] != 1 or source in arguments:
            continue
        maker = makers.get(source)
        if maker is not None and _sums_alone(maker.operator):
            (call,) = maker.operator.forward(maker.arrays, training=True)
            if (count := advice.left_slices(call)) > 1:
                maker.arrays.left = step.arrays.data_slices = _sliced(maker.arrays.output, count)
                step.arrays.data_bias = call.arrays[2]
        if steps.consumers.get(made) != 1 or made not in gradients:
            continue
        alike = step.arrays.inputs[0].half == step.arrays.output.half  # so sums are rounded
        reader = readers.get(made)
        if reader is not None and alike and _multiplies(reader, made):
            gradient = Gradient(gradients[made], False)
            own = (gradients.get(reader.output_keys[0]),)
            calls = reader.operator.backward(reader.arrays, own, (gradient, None, None))
            if (count := advice.left_slices(calls[-1])) > 1:
                slices = _sliced(gradient.array, count)
                step.arrays.gradient_slices = in_slices[made] = slices
    return in_slices


def normalise_late(steps: Steps, gradients: Mapping[Key, Array], advice: Advice) -> None:
    """Lets convolutions normalise what they read, where a batch norm made it for one of them
    alone: what it would have made is nowhere in memory then. After `leave_slices`."""
    readers = steps.readers()
    for step in steps.in_order:
        made, made_by = step.output_keys[0], step.operator
        reader = readers.get(made)
        if not isinstance(made_by, BatchNorm) or made_by.activation not in ON_THE_WAY:
            continue
        if reader is None or steps.consumers[made] != 1 or reader.input_keys[0] != made:
            continue
        data, result = step.arrays.inputs[0], step.arrays.output
        if not isinstance(reader.operator, CONVOLUTIONS) or data.half != result.half:
            continue
        calls = reader.operator.forward(reader.arrays, training=True)
        weight = gradients.get(reader.input_keys[1])
        if weight is not None:
            own = (gradients[reader.output_keys[0]],)
            wanted = (None, Gradient(weight, False), None)
            calls.append(reader.operator.backward(reader.arrays, own, wanted)[-1])
        slices = step.arrays.data_slices
        if advice.normalises(data.shape, calls, 1 if slices is None else slices.shape[0]):
            label = f"normalisation of {data.label}"
            found = Array(label, (data.shape[-1], 4), steps.dtype)
            step.arrays.normalisation = found
            reader.arrays.normalised = Normalised(data, found, made_by.activation, made_by.slope)


def leave_moments(steps: Steps, advice: Advice) -> None:
    """Lets convolutions leave the moments of what they make, where that gains, to the batch norms
    that read it, which then read it once. After `normalise_late`."""
    makers = steps.makers()
    for step in steps.in_order:
        if not isinstance(step.operator, BatchNorm) or step.operator.use_global_stats:
            continue
        maker = makers.get(step.input_keys[0])
        if maker is None or not isinstance(maker.operator, CONVOLUTIONS):
            continue
        if maker.operator.activation is not None or maker.arrays.left is not None:
            continue
        if maker.arrays.moments is None:  # several may read it
            (call,) = maker.operator.forward(maker.arrays, training=True)
            if numbers := advice.left_moments(call, step.arrays.normalisation is not None):
                label = f"moments of {maker.arrays.output.label}"
                maker.arrays.moments = Array(label, (numbers,))
        step.arrays.moments = maker.arrays.moments


def _sums_alone(operator: Operator) -> bool:
    """Whether a step's output is a sum of products, to which at most a bias is added."""
    if isinstance(operator, CONVOLUTIONS):
        return operator.activation is None
    return isinstance(operator, FullyConnected)


def _multiplies(step: Step, key: Key) -> bool:
    """Whether a step multiplies `key` with weights, shaped as it is: a fully connected layer reads
    images as rows, whose gradient has other channels."""
    if isinstance(step.operator, FullyConnected) and len(step.arrays.inputs[0].shape) != 2:
        return False
    return isinstance(step.operator, PRODUCTS) and step.input_keys[0] == key


def _sliced(whole: Array, count: int) -> Array:
    return Array(f"slices of {whole.label}", (count, *whole.shape))
