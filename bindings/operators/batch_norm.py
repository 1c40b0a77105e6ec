"""Launchers of kernels/batch_norm.cu, and of batch_norm_slices.cu where what is read lies in the
slices of a sum; the maths is in pygan.reference.batch_norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .activation import check_kind
from .batch_norm_checks import (
    check_moving,
    check_one,
    check_shapes,
    check_slices,
    rows_of,
    tiles_of,
    width_for,
)
from .batch_norm_together import together
from .plans.batch_norm import BatchNormPlan, split_plan, tiles_plan, whole_plan
from .storage import is_half, types
from .validation import (
    THREADS,
    has_workspace,
    same_shape,
)

FILE = "batch_norm.cu"
SLICES_FILE = "batch_norm_slices.cu"


def _types(x: Any, y: Any) -> dict[str, str]:
    """-D constants for what x and its gradient hold, and what y and its gradient hold."""
    return types(INPUT=x, OUTPUT=y)


def _workspace(x: Sequence[int], arrays: int) -> int:
    """Two numbers for each split and channel, as partial (2, splits, C) holds, else none.

    Arrays that are not aligned are split otherwise: enough for both."""
    rows, channels = rows_of(x), x[-1]
    widths = (1,) if channels % 4 else (1, 4)
    splits = [
        split_plan(rows, channels, width).splits
        for width in widths
        if not whole_plan(rows, channels, width, arrays)
    ]
    return 2 * channels * max(splits, default=0)


def forward_training_workspace(x: Sequence[int], *_: Any, **__: Any) -> int:
    return _workspace(x, arrays=1)


def backward_workspace(x: Sequence[int], *_: Any, **__: Any) -> int:
    return _workspace(x, arrays=2)


WORKSPACE = {
    "batch_norm_forward_training": forward_training_workspace,
    "batch_norm_backward": backward_workspace,
}


def batch_norm_forward_training(
    x: Any,
    gamma: Any,
    beta: Any,
    y: Any,
    mean: Any,
    var: Any,
    slices: Any | None = None,
    bias: Any | None = None,
    moments: Any | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
    half_sum: bool = False,
    cooperative: bool = False,
    workspace: Any | None = None,
) -> None:
    """y (..., C) = normalised x (..., C); mean and var (C,) receive the batch's statistics. Each of
    x and y may hold bf16 numbers.

    var is the biased variance. fix_gamma overwrites gamma with 1. slices (n, ..., C), where given:
    x is their sum, + bias (C,) if any, and is written; half_sum: rounded to bf16 first, as x holds
    it. moments, a vector of tiles * (2 C + 1) numbers, where given: those that the tiles of a
    convolution have left of x are merged, and x is read once. cooperative: many rows of float32
    take one cooperative launch in place of two where the device holds all of it at once; same bits.
    ValueError where shapes misfit, the activation is unknown, half_sum is not what x says, or the
    workspace is too small.
    """
    operator = "batch_norm_forward_training"
    rows, channels = check_shapes(
        operator, x, y=y, gamma=gamma, beta=beta, mean=mean, var=var, bias=bias
    )
    check_slices(operator, slices, x, bias, half_sum, x)
    kind = check_kind(operator, activation)
    if moments is not None:
        tiles = tiles_of(operator, moments, channels, slices)
        plan = tiles_plan(rows, channels, width_for(channels, x, y, moments), tiles)
        left = (x, moments, gamma, beta, mean, var, y, tiles)
        _normalize("batch_norm_normalize_of_tiles", plan, left, eps, fix_gamma, kind, slope)
        return
    has_workspace(operator, workspace, forward_training_workspace(x.shape))

    width = width_for(channels, x, y, slices, workspace)
    variant = {"ACTIVATION": kind, "VECTOR": width} | _types(x, y)
    kernel = kernel_for(x, slices, variant)
    start = (x,) if slices is None else (slices, bias, x)
    count = () if slices is None else (slices.shape[0],)
    whole = whole_plan(rows, channels, width, arrays=1)
    if whole is not None:
        arrays = (*start, gamma, beta, y, mean, var)
        sizes = (*count, rows, channels, eps, int(fix_gamma), slope)
        kernel(operator, whole, whole.columns, *arrays, *sizes)
        return
    plan = split_plan(rows, channels, width)
    alike = slices is None and not is_half(x) and not is_half(y)
    if cooperative and alike and (one := together(x.context, operator, plan, variant, 1)):
        arrays = (x, gamma, beta, y, mean, var, workspace, one.arrivals)
        sizes = (rows, channels, plan.rows_per_split, plan.columns, eps, int(fix_gamma), slope)
        one.launch(*arrays, *sizes)
        return
    sizes = (*count, rows, channels, plan.rows_per_split)
    grid = (plan.columns, plan.splits)
    kernel("batch_norm_statistics", plan, grid, *start, workspace, *sizes)
    arrays = (x, workspace, gamma, beta, mean, var, y)
    _normalize("batch_norm_normalize", plan, arrays, eps, fix_gamma, kind, slope)


def batch_norm_forward_inference(
    x: Any | None,
    gamma: Any,
    beta: Any,
    moving_mean: Any,
    moving_var: Any,
    y: Any,
    slices: Any | None = None,
    bias: Any | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
    half_sum: bool = False,
) -> None:
    """y (..., C) = x (..., C) normalised by the moving statistics (C,).

    fix_gamma overwrites gamma with 1. slices (n, ..., C), where given: their sum, + bias (C,) if
    any, is meant in place of x, which is None; half_sum: rounded to bf16 first. ValueError where
    shapes misfit or the activation is unknown.
    """
    operator = "batch_norm_forward_inference"
    check_one(operator, "x", x, slices)
    rows, channels = check_shapes(
        operator,
        y if x is None else x,
        y=y,
        gamma=gamma,
        beta=beta,
        moving_mean=moving_mean,
        moving_var=moving_var,
        bias=bias,
    )
    check_slices(operator, slices, y, bias, half_sum)
    kind = check_kind(operator, activation)
    plan = split_plan(rows, channels, width_for(channels, x, y, slices))
    if slices is not None:
        sums = {"INPUT": "Bf16"} if half_sum else {}
        variant = {"ACTIVATION": kind, "VECTOR": plan.width} | sums | types(OUTPUT=y)
        kernel = kernel_for(y, slices, variant)
        arrays = (slices, bias, gamma, beta, moving_mean, moving_var, y)
        sizes = (slices.shape[0], rows, channels, plan.rows_per_split, eps, int(fix_gamma), slope)
        kernel("batch_norm_normalize", plan, (plan.columns, plan.splits), *arrays, *sizes)
        return
    arrays = (x, None, gamma, beta, moving_mean, moving_var, y)
    _normalize("batch_norm_normalize", plan, arrays, eps, fix_gamma, kind, slope)


def batch_norm_backward(
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    var: Any,
    dy: Any | None,
    dx: Any | None,
    dgamma: Any | None,
    dbeta: Any | None,
    moving_mean: Any | None = None,
    moving_var: Any | None = None,
    slices: Any | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    use_global_stats: bool,
    momentum: float | None = None,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    accumulate_gamma: bool = False,
    accumulate_beta: bool = False,
    half_sum: bool = False,
    cooperative: bool = False,
    workspace: Any | None = None,
) -> None:
    """Gradients of x (..., C), gamma and beta (C,) from dy (..., C), the activated output's.

    Each of dx, dgamma, dbeta may be None; dx may be dy. x with dx, and dy, may hold bf16 numbers.
    fix_gamma: dgamma is 0, or unchanged if accumulating. use_global_stats: mean and var are
    constants. moving_mean, moving_var (C,), where given, move as batch_norm_update_moving has it,
    which costs no launch here. slices (n, ..., C), where given: their sum is meant in place of dy,
    which is None; half_sum as in forward; neither accumulate nor use_global_stats then.
    cooperative as in forward. ValueError as forward, or where the moving statistics have no
    momentum.
    """
    operator = "batch_norm_backward"
    check_one(operator, "dy", dy, slices)
    if slices is not None and (accumulate or use_global_stats):
        raise ValueError(
            f"{operator}: slices take neither accumulate nor use_global_stats; add them first "
            "(in_slices=False of the operator that leaves them)"
        )
    rows, channels = check_shapes(
        operator,
        x,
        y=dy,
        gamma=gamma,
        beta=beta,
        mean=mean,
        var=var,
        dx=dx,
        dgamma=dgamma,
        dbeta=dbeta,
        moving_mean=moving_mean,
        moving_var=moving_var,
    )
    check_slices(operator, slices, x, None, half_sum, x)
    kind = check_kind(operator, activation)
    has_workspace(operator, workspace, backward_workspace(x.shape))
    check_moving(operator, moving_mean, moving_var, momentum)

    needs_sums = dgamma is not None or dbeta is not None
    needs_sums = needs_sums or (dx is not None and not use_global_stats)
    if dx is None and not needs_sums:
        if momentum is not None:
            batch_norm_update_moving(mean, var, moving_mean, moving_var, momentum=momentum)
        return
    width = width_for(channels, x, dy, dx, slices, workspace)
    variant = {"ACTIVATION": kind, "VECTOR": width} | _types(x, x if dy is None else dy)
    kernel = kernel_for(x, slices, variant)
    operands = (x, gamma, beta, mean, var)
    start = (*operands, dy) if slices is None else (slices, *operands)
    count = () if slices is None else (slices.shape[0],)
    outputs = (dx, dgamma, dbeta, moving_mean, moving_var)
    attributes = (eps, slope, 0.0 if momentum is None else momentum, int(fix_gamma))
    modes = (int(use_global_stats), int(accumulate), int(accumulate_gamma), int(accumulate_beta))
    plan = whole_plan(rows, channels, width, arrays=2) if needs_sums else None
    if plan is not None:
        own = modes if slices is None else modes[2:]
        arguments = (*start, *outputs, *count, rows, channels, *attributes, *own)
        kernel(operator, plan, plan.columns, *arguments)
        return
    plan = split_plan(rows, channels, width)
    grid = (plan.columns, plan.splits)
    sizes = (rows, channels, plan.rows_per_split)
    alike = slices is None and not is_half(x) and not is_half(dy)
    if cooperative and alike and needs_sums and dx is not None:
        for kept in (2, 1):  # arrays whose rows stay in shared memory
            if one := together(x.context, operator, plan, variant, kept):
                arrays: tuple[Any, ...] = (*operands, dy, *outputs, workspace, one.arrivals)
                one.launch(*arrays, *sizes, plan.columns, kept - 1, *attributes, *modes)
                return
    partial = None
    if needs_sums:
        partial = workspace
        # the sum of slices goes where dx shall be: a thread reads there before it writes
        arrays = (*start, partial) if slices is None else (*start, dx, partial)
        arguments = (*arrays, *count, *sizes, eps, slope, int(fix_gamma))
        kernel("batch_norm_gradient_sums", plan, grid, *arguments)
    splits = plan.splits if needs_sums else 0
    second = x.context.kernel(FILE, "batch_norm_backward_data", **variant)
    inputs = (*operands, dy if slices is None else dx)
    arguments = (*inputs, partial, *outputs, *sizes, splits, *attributes, *modes)
    second(grid if dx is not None else plan.columns, plan.block, *arguments)


def kernel_for(like: Any, slices: Any | None, variant: dict[str, Any]) -> Callable[..., None]:
    """launch(entry, plan, grid, *arguments): of batch_norm.cu, or the one that adds slices first,
    with the shared memory for the sums of its block, stored as `like` stores numbers."""
    context = like.context

    def launch(entry: str, plan: BatchNormPlan, grid: Any, *arguments: Any) -> None:
        if slices is None:
            context.kernel(FILE, entry, **variant)(grid, plan.block, *arguments)
            return
        kernel = context.kernel(SLICES_FILE, f"{entry}_of_slices", **variant)
        keeps = entry != "batch_norm_normalize"
        nbytes = plan.numbers * like.dtype.itemsize if keeps else 0
        kernel(grid, plan.block, *arguments, shared_bytes=nbytes)

    return launch


def batch_norm_update_moving(
    mean: Any, var: Any, moving_mean: Any, moving_var: Any, *, momentum: float
) -> None:
    """moving = momentum * moving + (1 - momentum) * batch, for mean and biased variance (C,)."""
    operator = "batch_norm_update_moving"
    same_shape(operator, mean=mean, var=var, moving_mean=moving_mean, moving_var=moving_var)
    if mean.size:
        # the variant does not matter, and this one is compiled for most networks anyway
        kernel = mean.context.kernel(FILE, operator, ACTIVATION="none", VECTOR=4)
        blocks = -(-mean.size // THREADS)
        kernel(blocks, THREADS, mean, var, moving_mean, moving_var, mean.size, momentum)


def _normalize(
    entry: str,
    plan: BatchNormPlan,
    arrays: tuple[Any, ...],
    eps: float,
    fix_gamma: bool,
    kind: str,
    slope: float,
) -> None:
    """A launch that normalises; arrays, x first, and how many parts they hold, in the order of the
    kernel's parameters."""
    x, y = arrays[0], arrays[6]
    variant = {"ACTIVATION": kind, "VECTOR": plan.width} | _types(x, y)
    kernel = x.context.kernel(FILE, entry, **variant)
    grid = (plan.columns, plan.splits)
    sizes = (rows_of(x.shape), x.shape[-1], plan.rows_per_split)
    kernel(grid, plan.block, *arrays, *sizes, eps, int(fix_gamma), slope)
