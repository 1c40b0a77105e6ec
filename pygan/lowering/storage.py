"""Which arrays of a lowered graph hold bf16 numbers, where an executor stores them so.

Activations do, and their gradients alike, if the layer that makes them and all that read them are
convolutions, batch norms or activations whose kernels take them; everything else stays float32:
arguments, outputs, parameters and their gradients, statistics. The rule looks at shapes alone, so
that every device stores the same arrays. Kernels want channels, per group, in units of 8; a layer
beside an image of few channels takes bf16 on its other side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

from pygan.lowering.steps import CONVOLUTIONS, Key, Step, Steps
from pygan.operators import (
    Activation,
    Array,
    BatchNorm,
    Convolution,
    LeakyReLU,
    Shape,
    TransposedConvolution,
)
from pygan.operators.base import both

STORAGES = ("float32", "bf16")
CHANNELS = 8
"""Of a unit: 16 bytes."""

AT_ONCE = ("relu", "leaky_relu")
"""Activations that every kernel of a convolution applies to its sums before it stores them. Others
are a launch behind some of them, and would read what was rounded already."""

IMAGE_CHANNELS = 4
IMAGE_COLUMNS = 64
"""Channels, and taps times channels, of an image that has kernels of its own; at most."""

SHARED_BYTES = 64 * 1024
MOST_WEIGHTS = 8192
MOST_EXTENT = 2**14
"""Of a block of those kernels, and of the layer."""


def store_halves(steps: Steps, dtype: str, parameters: Collection[str]) -> dict[Array, Array]:
    """Lets arrays hold bf16 numbers, each in a number of `dtype`, and convolutions between them
    read copies of those weights that are among the arguments `parameters`. Gives the copies, each
    with its parameter."""
    weights = {steps.argument_keys[name]: steps.arguments[name] for name in parameters}
    halves = half_arrays(steps.in_order, steps.heads, weights)
    copies: dict[Key, Array] = {}
    for step in steps.in_order:
        arrays = step.arrays
        if step.output_keys[0] in halves:
            made = (arrays.outputs[0], arrays.residuals.get("unactivated_gradient"))
            for array in made:
                if array is not None:
                    array.dtype, array.half = dtype, True
        if takes_copies(step, halves):
            key = step.input_keys[1]
            if key not in copies:
                label, shape = f"{weights[key].label} in bf16", weights[key].shape
                copies[key] = Array(label, shape, dtype, half=True)
            arrays.inputs = (arrays.inputs[0], copies[key], *arrays.inputs[2:])
    return {copy: weights[key] for key, copy in copies.items()}


def half_arrays(
    steps: Sequence[Step], float_keys: Collection[Key], parameters: Collection[Key]
) -> set[Key]:
    """Keys of the arrays that hold bf16 numbers.

    float_keys: what is seen from outside; parameters: whose bf16 copies a convolution may read.
    The largest set with which every step can work: what one of them refuses leaves it, until none
    refuses any."""
    halves = {
        key
        for step in steps
        for key, array in zip(step.output_keys, step.arrays.outputs, strict=True)
        if array is not None and may_be_half(array.shape)
    }
    halves -= set(float_keys)
    while True:
        refused = set()
        for step in steps:
            touched = halves.intersection((*step.input_keys, *step.output_keys))
            refused |= touched - _taken(step, touched, parameters)
        if not refused:
            return halves
        halves -= refused


def may_be_half(shape: Shape) -> bool:
    """Whether an array of this shape comes in whole units."""
    return bool(shape) and shape[-1] % CHANNELS == 0


def takes_copies(step: Step, halves: Collection[Key]) -> bool:
    """Whether a step is a convolution between two arrays of bf16 numbers, which reads a copy of its
    weights."""
    is_convolution = isinstance(step.operator, CONVOLUTIONS)
    return is_convolution and step.input_keys[0] in halves and step.output_keys[0] in halves


def _taken(step: Step, halves: Collection[Key], parameters: Collection[Key]) -> set[Key]:
    """Of `halves`, which a step reads or makes, those that its kernels take."""
    x, y = step.input_keys[0], step.output_keys[0]
    pair = {x, y}
    if not pair.isdisjoint(step.input_keys[1:]):
        return set()  # a weight or bias that a layer makes
    operator = step.operator
    if isinstance(operator, BatchNorm):
        return pair
    if isinstance(operator, Activation | LeakyReLU):
        return pair if pair <= set(halves) else set()
    if not isinstance(operator, CONVOLUTIONS):
        return set()
    large, small = step.arrays.inputs[0].shape, step.arrays.output.shape
    units = all(shape[-1] // operator.groups % CHANNELS == 0 for shape in (large, small))
    if units and pair <= set(halves) and step.input_keys[1] in parameters:
        return pair
    beside = y
    if isinstance(operator, TransposedConvolution):
        beside, large, small = x, small, large
    return {beside} if _beside_image(large, small, operator) else set()


def _beside_image(
    image: Shape, small: Shape, operator: Convolution | TransposedConvolution
) -> bool:
    """Whether the kernels for images of few channels compute a layer between these two: as they
    need it, a row of each side with its sums fits into a block's shared memory."""
    columns = prod(both(operator.kernel)) * image[-1]
    if (
        operator.groups > 1
        or image[-1] > IMAGE_CHANNELS
        or columns > IMAGE_COLUMNS
        or small[1:3] == (1, 1)
    ):
        return False
    quads = -(-columns // 4)
    (reach, reach_w), stride = operator.extent(), both(operator.stride)
    rows = (reach - 1) // stride[0] + 1
    line = ((small[2] - 1) * stride[1] + reach_w) * image[-1]
    return (
        16 * (small[-1] * quads + rows * small[2] * (quads | 1)) <= SHARED_BYTES
        and 4 * reach * line <= SHARED_BYTES
        and small[-1] * -(-columns // 16) * 16 <= MOST_WEIGHTS
        and max(*image[1:3], small[-1]) < MOST_EXTENT
    )
