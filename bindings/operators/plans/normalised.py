"""Plans of kernels that normalise what they read: kernels/normalised_sources.cuh.

Those can that read an image in units of 16 bytes and have a variant for it.
"""

from __future__ import annotations

from . import few_channels, few_channels_weight, pipelined, tensor_core
from .plan import Plan

PIPELINED_VARIANT = "convolution_normalised.cu"
TENSOR_CORE_VARIANT = "convolution_normalised_tensor_core.cu"

SMALL_CHANNELS, LARGE_CHANNELS, GROUPS = 6, 3, 15
"""Places among a kernel's arguments behind its arrays: see Geometry.arguments()."""


def normalised_plan(operator: str, plan: Plan) -> Plan | None:
    """The same products with x normalised on the way in; None where no kernel does it."""
    if plan.file == few_channels.FILE and operator == "transposed_convolution_forward":
        return few_channels.normalised_few(plan)
    if (
        plan.file == few_channels_weight.FILE
        and operator == "transposed_convolution_backward_weight"
    ):
        return few_channels_weight.normalised_few_weight(plan)
    small = operator.startswith("transposed")  # the side that x is
    kind, side = ("backward_data", "dy") if small else ("forward", "x")
    weight = operator.endswith("backward_weight")
    if plan.file == pipelined.FILE and "VECTOR" not in plan.defines:
        kernel = f"convolution_{kind}_normalised"
        if weight:
            kernel = f"convolution_backward_weight_normalised_{side}"
        return plan._replace(file=PIPELINED_VARIANT, kernel=kernel, unaligned=None)
    halves = {"ELEMENT", "RESULT"}.intersection(plan.defines)
    if plan.file != tensor_core.FILE or halves or _group_channels(plan, small) % 4:
        return None
    kernel = f"convolution_{kind}_normalised_tensor_core"
    if weight:
        kernel = f"convolution_backward_weight_normalised_tensor_core_{side}"
    return plan._replace(file=TENSOR_CORE_VARIANT, kernel=kernel, unaligned=None)


def _group_channels(plan: Plan, small: bool) -> int:
    """Of what is read."""
    return plan.arguments[SMALL_CHANNELS if small else LARGE_CHANNELS] // plan.arguments[GROUPS]
