"""Launchers of kernels/batch_norm.cu; the maths is in pygan.reference.batch_norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .activation import check_kind
from .validation import THREADS, countable, device_array, has_shape, has_workspace, same_shape

FILE = "batch_norm.cu"
WARP = 32
ROWS_PER_THREAD = 64
"""Fewest rows a thread reduces before a channel is split over blocks and a second launch."""
REDUCING_BLOCKS = 512
PASSING_BLOCKS = 2048


class Plan(NamedTuple):
    """How (rows, channels) is cut: the numbers of batch_norm.cu's launch contract.

    It depends on the shape alone, not on the device, so that sums have the same bits everywhere.
    """

    rows: int
    channels: int
    block: tuple[int, int]
    columns: int
    rows_per_split: int
    splits: int
    rows_per_block: int
    row_blocks: int


def plan_for(shape: Sequence[int]) -> Plan:
    channels = shape[-1]
    rows = 1
    for extent in shape[:-1]:
        rows *= extent
    x = min(WARP, 1 << max(channels - 1, 0).bit_length())
    block = (x, THREADS // x)
    columns = -(-channels // x)
    most_splits = max(1, REDUCING_BLOCKS // columns)
    rows_per_split = max(-(-rows // most_splits), ROWS_PER_THREAD * block[1])
    most_blocks = max(1, PASSING_BLOCKS // columns)
    rows_per_block = max(-(-rows // most_blocks), 4 * block[1])
    return Plan(
        rows,
        channels,
        block,
        columns,
        rows_per_split,
        -(-rows // rows_per_split),
        rows_per_block,
        -(-rows // rows_per_block),
    )


def forward_training_workspace(x: Sequence[int], *_: Any, **__: Any) -> int:
    """Mean and squared deviations (2, splits, C) where a channel is split, else none."""
    plan = plan_for(x)
    return 2 * plan.splits * plan.channels if plan.splits > 1 else 0


def backward_workspace(x: Sequence[int], *_: Any, **__: Any) -> int:
    """The two sums (2, C), and of each split (2, splits, C) where a channel is split."""
    plan = plan_for(x)
    return 2 * plan.channels * (1 + (plan.splits if plan.splits > 1 else 0))


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
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
    workspace: Any | None = None,
) -> None:
    """y (..., C) = normalised x (..., C); mean and var (C,) receive the batch's statistics.

    var is the biased variance. fix_gamma overwrites gamma with 1. ValueError where shapes misfit,
    the activation is unknown, or the workspace is too small.
    """
    operator = "batch_norm_forward_training"
    plan = _check(operator, x, y=y, gamma=gamma, beta=beta, mean=mean, var=var)
    kind = check_kind(operator, activation)
    has_workspace(operator, workspace, forward_training_workspace(x.shape))

    context = x.context
    statistics = context.kernel(FILE, "batch_norm_statistics", ACTIVATION=kind)
    partial = workspace if plan.splits > 1 else None
    statistics(
        (plan.columns, plan.splits),
        plan.block,
        x,
        partial,
        mean,
        var,
        plan.rows,
        plan.channels,
        plan.rows_per_split,
    )
    if plan.splits > 1:
        merge = context.kernel(FILE, "batch_norm_merge_statistics", ACTIVATION=kind)
        merge(
            plan.columns,
            plan.block,
            x,
            partial,
            mean,
            var,
            plan.rows,
            plan.channels,
            plan.rows_per_split,
            plan.splits,
        )
    _normalize(plan, x, gamma, beta, mean, var, y, eps, fix_gamma, kind, slope)


def batch_norm_forward_inference(
    x: Any,
    gamma: Any,
    beta: Any,
    moving_mean: Any,
    moving_var: Any,
    y: Any,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
) -> None:
    """y (..., C) = x (..., C) normalised by the moving statistics (C,).

    fix_gamma overwrites gamma with 1. ValueError where shapes misfit or the activation is unknown.
    """
    operator = "batch_norm_forward_inference"
    plan = _check(
        operator, x, y=y, gamma=gamma, beta=beta, moving_mean=moving_mean, moving_var=moving_var
    )
    kind = check_kind(operator, activation)
    _normalize(plan, x, gamma, beta, moving_mean, moving_var, y, eps, fix_gamma, kind, slope)


def batch_norm_backward(
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    var: Any,
    dy: Any,
    dx: Any | None,
    dgamma: Any | None,
    dbeta: Any | None,
    *,
    eps: float,
    fix_gamma: bool,
    use_global_stats: bool,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    accumulate_gamma: bool = False,
    accumulate_beta: bool = False,
    workspace: Any | None = None,
) -> None:
    """Gradients of x (..., C), gamma and beta (C,) from dy (..., C), the activated output's.

    Each of dx, dgamma, dbeta may be None; dx may be dy. fix_gamma: dgamma is 0, or unchanged if
    accumulating. use_global_stats: mean and var are constants. ValueError as forward.
    """
    operator = "batch_norm_backward"
    plan = _check(
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
    )
    kind = check_kind(operator, activation)
    has_workspace(operator, workspace, backward_workspace(x.shape))

    context = x.context
    fixed = int(fix_gamma)
    sums = None
    if dgamma is not None or dbeta is not None or (dx is not None and not use_global_stats):
        totals = 2 * plan.channels
        sums = workspace[:totals]
        partial = workspace[totals:] if plan.splits > 1 else None
        modes = (fixed, int(accumulate_gamma), int(accumulate_beta))
        reduce = context.kernel(FILE, "batch_norm_gradient_sums", ACTIVATION=kind)
        reduce(
            (plan.columns, plan.splits),
            plan.block,
            x,
            gamma,
            beta,
            mean,
            var,
            dy,
            partial,
            sums,
            dgamma,
            dbeta,
            plan.rows,
            plan.channels,
            plan.rows_per_split,
            eps,
            slope,
            *modes,
        )
        if plan.splits > 1:
            merge = context.kernel(FILE, "batch_norm_merge_gradients", ACTIVATION=kind)
            merge(
                plan.columns,
                plan.block,
                partial,
                sums,
                dgamma,
                dbeta,
                plan.channels,
                plan.splits,
                *modes,
            )
    if dx is not None:
        backward = context.kernel(FILE, "batch_norm_backward_data", ACTIVATION=kind)
        backward(
            (plan.columns, plan.row_blocks),
            plan.block,
            x,
            gamma,
            beta,
            mean,
            var,
            dy,
            None if use_global_stats else sums,
            dx,
            plan.rows,
            plan.channels,
            plan.rows_per_block,
            eps,
            fixed,
            slope,
            int(accumulate),
        )


def batch_norm_update_moving(
    mean: Any, var: Any, moving_mean: Any, moving_var: Any, *, momentum: float
) -> None:
    """moving = momentum * moving + (1 - momentum) * batch, for mean and biased variance (C,)."""
    operator = "batch_norm_update_moving"
    same_shape(operator, mean=mean, var=var, moving_mean=moving_mean, moving_var=moving_var)
    if mean.size:
        kernel = mean.context.kernel(FILE, operator, ACTIVATION="none")
        blocks = -(-mean.size // THREADS)
        kernel(blocks, THREADS, mean, var, moving_mean, moving_var, mean.size, momentum)


def _normalize(
    plan: Plan,
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    var: Any,
    y: Any,
    eps: float,
    fix_gamma: bool,
    kind: str,
    slope: float,
) -> None:
    kernel = x.context.kernel(FILE, "batch_norm_normalize", ACTIVATION=kind)
    kernel(
        (plan.columns, plan.row_blocks),
        plan.block,
        x,
        gamma,
        beta,
        mean,
        var,
        y,
        plan.rows,
        plan.channels,
        plan.rows_per_block,
        eps,
        int(fix_gamma),
        slope,
    )


def _check(operator: str, x: Any, *, y: Any, dx: Any = None, **channel_arrays: Any) -> Plan:
    shape = device_array(operator, "x", x).shape
    if len(shape) < 2 or not x.size:
        raise ValueError(
            f"{operator}: x has shape {tuple(shape)}; it must be (..., C) with at least one row "
            "and one channel"
        )
    same_shape(operator, x=x, the_other_side=y, dx=dx)
    for name, array in channel_arrays.items():
        has_shape(operator, name, array, shape[-1:], f"x {tuple(shape)}")
    plan = plan_for(shape)
    countable(operator, "rows", plan.rows)
    return plan
