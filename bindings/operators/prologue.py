"""A batch norm, and its activation, on the way into a convolution: kernels/normalised_sources.cuh.

Which kernels can: those that read an image in units of 16 bytes and have a variant for it
(kernels/convolution_normalised.cu). A launch names the activation by number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .epilogue import OF_MANY_SUMS as KINDS
from .epilogue import Epilogue
from .validation import aligned, has_shape

if TYPE_CHECKING:
    from .convolution import Plan

PIPELINED_FILE, FILE = "convolution_pipelined.cu", "convolution_normalised.cu"
TENSOR_CORE_FILE = "convolution_tensor_core.cu"
TENSOR_CORE_VARIANT = "convolution_normalised_tensor_core.cu"

FEW_FILE = "convolution_few_channels.cu"
FEW_WEIGHT_FILE = "convolution_few_channels_weight.cu"
FEW_SHARED = 64 * 1024
"""Bytes of shared memory that every GPU since sm_75 gives a block."""

FEW_PIXELS, FEW_CHUNK, FEW_ITEMS = 8, 16, 512
"""PIXELS, CHUNK, and ROUNDS * 256 of kernels/convolution_few_channels.cu."""


class Prologue(NamedTuple):
    """normalisation (C, 4) of what is read, as kernels/normalisation.cuh has it, and the activation
    behind it."""

    normalisation: Any
    activation: str | None
    slope: float

    @property
    def arguments(self) -> tuple[Any, int, float]:
        """The last arguments of a kernel."""
        return self.normalisation, *Epilogue(None, self.activation, self.slope).arguments[1:]


def of_input(
    operator: str, normalisation: Any | None, x: Any, activation: str | None, slope: float
) -> Prologue | None:
    """What happens to x (..., C) on the way in, or None. ValueError for another shape of
    normalisation than (C, 4), and for an activation that is not applied there."""
    if activation not in KINDS or (normalisation is None and activation is not None):
        raise ValueError(
            f"{operator}: x_activation {activation!r} comes behind a normalisation, and is one of "
            f"{KINDS}; use activation_forward"
        )
    if normalisation is None:
        return None
    needed = (x.shape[-1], 4)
    has_shape(operator, "normalisation", normalisation, needed, f"x {tuple(x.shape)}")
    return Prologue(normalisation, activation, slope)


def with_prologue(operator: str, plan: Plan) -> Plan | None:
    """The same products with x normalised on the way in; None where no kernel does it."""
    if plan.file == FEW_FILE and operator == "transposed_convolution_forward":
        return _few(plan)
    if plan.file == FEW_WEIGHT_FILE and operator == "transposed_convolution_backward_weight":
        entry = "convolution_backward_weight_few_normalised"
        return plan._replace(kernel=entry, unaligned=None)
    small = operator.startswith("transposed")  # the side that x is
    kind, side = ("backward_data", "dy") if small else ("forward", "x")
    weight = operator.endswith("backward_weight")
    if plan.file == PIPELINED_FILE and "VECTOR" not in plan.defines:
        kernel = f"convolution_{kind}_normalised"
        if weight:
            kernel = f"convolution_backward_weight_normalised_{side}"
        return plan._replace(file=FILE, kernel=kernel, unaligned=None)
    halves = {"ELEMENT", "RESULT"}.intersection(plan.defines)
    if plan.file != TENSOR_CORE_FILE or halves or _group_channels(plan, small) % 4:
        return None
    kernel = f"convolution_{kind}_normalised_tensor_core"
    if weight:
        kernel = f"convolution_backward_weight_normalised_tensor_core_{side}"
    return plan._replace(file=TENSOR_CORE_VARIANT, kernel=kernel, unaligned=None)


def _group_channels(plan: Plan, small: bool) -> int:
    """Of what is read, by the kernels' parameters from batch to groups."""
    return plan.arguments[6 if small else 3] // plan.arguments[15]


def _few(plan: Plan) -> Plan | None:
    """convolution_few_channels.cu with the highest band, up to plan's, whose sums its threads can
    keep."""
    batch, height, _, channels, _, small_width, small_channels, *layer, highest = plan.arguments
    kernel_h, kernel_w, stride_h, _, _, _, dilation_h, _ = layer
    quads = -(-kernel_h * kernel_w * channels // 4)
    for band in range(highest, 0, -1):
        pixels = ((band - 1 + dilation_h * (kernel_h - 1)) // stride_h + 1) * small_width
        blocks = -(-pixels // FEW_PIXELS)
        held = max(pixels * (quads | 1), blocks * (FEW_PIXELS * FEW_CHUNK // 4 + 1))
        shared = 16 * (small_channels * quads + held)
        if blocks * quads <= FEW_ITEMS and shared <= FEW_SHARED:
            return plan._replace(
                kernel="convolution_backward_data_few_normalised",
                grid=(max(1, batch * -(-height // band)), 1, 1),
                arguments=(*plan.arguments[:-1], band),
                shared_bytes=shared,
                unaligned=None,
            )
    return None


def normalising(operator: str, plan: Plan, *arrays: Any) -> Plan:
    """As :func:`with_prologue`, for a launch with these arrays; ValueError instead of None."""
    found = with_prologue(operator, plan)
    if found is None or not aligned(*arrays):
        why = "no kernel normalises on the way into these shapes"
        if found is not None:
            why = "an array begins between multiples of 16 bytes"
        raise ValueError(
            f"{operator}: {why}; normalisation_gain() says where one does, and "
            "batch_norm_forward_training normalises anything"
        )
    return found
