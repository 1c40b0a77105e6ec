"""The launch that convolutions and fully connected layers share: a plan with its arrays, what
happens on their way in and out, and the second stage of a sum that is cut into slices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .epilogue import NOTHING, Epilogue
from .partial_sums import sum_partials, target
from .plans import fully_connected, tensor_core, wgmma
from .plans.normalised import normalised_plan
from .plans.plan import Plan
from .prologue import Prologue, normalising
from .storage import is_half, whole_units
from .tile_moments import leaving_moments, takes_moments
from .validation import aligned


def launch(
    operator: str,
    plan: Plan,
    inputs: tuple[Any, ...],
    out: Any,
    *,
    precision: str = "float32",
    bias: Any | None = None,
    accumulate: bool = False,
    workspace: Any | None = None,
    end: Epilogue = NOTHING,
    in_slices: bool = False,
    start: Prologue | None = None,
    moments: Any | None = None,
) -> None:
    """out (+)= what `plan` makes of `inputs`, the kernel's arrays in its order: the two operands
    and, but for gradients of weights, `bias` or None.

    precision: that of the plan, for which the device, and arrays of bf16 numbers, are checked. end:
    what happens to a finished sum; start: to x on its way in. in_slices: workspace is the result,
    whose slices stay unadded. moments: gets those of the channels, of tiles. ValueError, with the
    operator's name, where no kernel does that for these arrays, or not on this device."""
    if precision != "float32":
        check_capability(operator, precision, plan.file, out.context)
    if moments is not None:
        launched = plan if start is None else normalised_plan(operator, plan)
        plan = leaving_moments(operator, plan, launched, out.shape[-1], moments)
    written = target(operator, out, workspace, plan.slices, in_slices)
    if start is not None:
        plan = normalising(operator, plan, *inputs, written, end.activated, start.normalisation)
    if not out.size:
        return
    if precision != "float32" and any(is_half(array) for array in (*inputs[:2], out)):
        whole_units(operator, *inputs[:2], out, written, end.activated)
    if plan.unaligned is not None and not aligned(*inputs, written, end.activated):
        if moments is not None:
            raise ValueError(
                f"{operator}: arrays that do not begin at multiples of 16 bytes leave no moments"
            )
        plan = plan.unaligned
    alone = plan.slices == 1 and not end.fits(plan.sums)
    within = NOTHING if alone or plan.slices > 1 else end
    plain = plan.file == fully_connected.FILE
    if plain and not operator.endswith("forward"):
        inputs = inputs[:2]  # which take a bias nowhere else
    arguments = (*inputs, written, *plan.arguments, int(accumulate))
    if not plain and "backward_weight" not in plan.kernel:  # whose sums are stored as they are
        arguments += within.arguments
        arguments += (moments,) if takes_moments(plan) else ()
    if start is not None:
        arguments += start.arguments
    kernel = out.context.kernel(plan.file, plan.kernel, **plan.defines)
    kernel(plan.grid, plan.threads, *arguments, shared_bytes=plan.shared_bytes)
    if plan.slices > 1 and not in_slices:
        sum_partials(workspace, bias, out, plan.slices, accumulate, end)
    elif alone:
        end.run(out)


@lru_cache(maxsize=256)
def check_capability(operator: str, precision: str, file: str, context: Any) -> None:
    """ValueError where the device of `context` lacks what the kernels of `file` need in a precision
    of the tensor cores."""
    capability = context.device.compute_capability()
    if file in wgmma.FILES:
        wgmma.check_capability(operator, precision, capability)
    tensor_core.check_capability(operator, precision, capability)
