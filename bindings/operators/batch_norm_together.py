"""When kernels/batch_norm_together.cu does in one cooperative launch what batch norm takes two for,
and that launch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import cooperative
from .plans.batch_norm import BatchNormPlan

FILE = "batch_norm_together.cu"
RESIDENT = 2
"""Of the kernels: blocks on a multiprocessor."""


class Together(NamedTuple):
    """A cooperative launch of batch_norm_together.cu that the device holds at once: `launch` of the
    kernel's arguments, and the count of blocks at its barrier."""

    launch: Callable[..., None]
    arrivals: Any


def together(
    context: Any, operator: str, plan: BatchNormPlan, variant: dict[str, Any], arrays: int
) -> Together | None:
    """The launch that keeps the rows of `arrays` arrays, or None where it does not fit, or where a
    program asks what would be launched: it knows the two launches. None too where a recording is
    under way and nothing was prepared for the barrier before it."""
    if context.recorder is not None or (context.recording and context.arrivals is None):
        return None
    return fitting(context, operator, plan, tuple(sorted(variant.items())), arrays)


@functools.lru_cache(maxsize=256)
def fitting(
    context: Any,
    operator: str,
    plan: BatchNormPlan,
    variant: tuple[tuple[str, Any], ...],
    arrays: int,
) -> Together | None:
    """The part of :func:`together` that stays the same in a process; variant: pairs, hashable."""
    blocks, nbytes = plan.columns * plan.splits, 4 * arrays * plan.numbers
    threads = plan.block[0] * plan.block[1]
    arrivals = cooperative.arrivals(context, blocks)
    if arrivals is None or nbytes > context.limits.shared_bytes_opt_in // RESIDENT:
        return None  # before anything is compiled for it
    kernel = context.cooperative_kernel(FILE, f"{operator}_together", **dict(variant))
    if blocks > kernel.most_blocks(threads, nbytes):
        return None
    launch = functools.partial(kernel, blocks, plan.block)
    return Together(functools.partial(launch, shared_bytes=nbytes), arrivals)
