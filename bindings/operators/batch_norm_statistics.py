"""Launchers of kernels/batch_norm_statistics.cu: batch norms whose normalising pass is left to the
convolution that reads them; the maths is in pygan.reference.normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .batch_norm import FILE as BATCH_NORM_FILE
from .batch_norm import forward_training_workspace, kernel_for
from .batch_norm_checks import check_shapes, check_slices, tiles_of, width_for
from .partial_sums import sum_partials
from .plans.batch_norm import BatchNormPlan, merging_plan, split_plan, whole_plan
from .storage import types
from .validation import ALIGNMENT, THREADS, has_shape, has_workspace

FILE = "batch_norm_statistics.cu"


def batch_norm_normalisation_training(
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    var: Any,
    normalisation: Any,
    slices: Any | None = None,
    bias: Any | None = None,
    moments: Any | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    half_sum: bool = False,
    workspace: Any | None = None,
) -> None:
    """normalisation (C, 4): what normalises x (..., C), which may hold bf16 numbers, by the batch's
    statistics; mean and var (C,) receive them.

    The bits of batch_norm_forward_training, with its fix_gamma, slices, bias, half_sum, moments and
    workspace (with moments x is not read); but a sum of slices always takes two launches, which
    merge moments in another order than one. ValueError where shapes misfit or the workspace is too
    small.
    """
    operator = "batch_norm_normalisation_training"
    rows, channels = check_shapes(
        operator, x, y=x, gamma=gamma, beta=beta, mean=mean, var=var, bias=bias
    )
    check_slices(operator, slices, x, bias, half_sum, x)
    _check_normalisation(operator, normalisation, channels)
    if moments is not None:
        tiles = tiles_of(operator, moments, channels, slices)
        plan = merging_plan(channels, width_for(channels, moments))
        kernel = _kernel(x, plan.width, "batch_norm_normalisation_of_tiles")
        arrays = (moments, gamma, beta, mean, var, normalisation)
        kernel(plan.columns, plan.block, *arrays, tiles, rows, channels, eps, int(fix_gamma))
        return
    has_workspace(operator, workspace, normalisation_workspace(x.shape, slices=slices is not None))

    width = width_for(channels, x, slices, workspace)
    ends = (normalisation, rows, channels)
    whole = whole_plan(rows, channels, width, arrays=1)
    if whole is not None and slices is None:
        kernel = _kernel(x, width, operator)
        kernel(whole.columns, whole.block, x, gamma, beta, mean, var, *ends, eps, int(fix_gamma))
        return
    plan = split_plan(rows, channels, width)
    _split_statistics(plan, x, slices, bias, workspace, rows, channels)
    kernel = _kernel(x, width, "batch_norm_normalisation_merged")
    sizes = (*ends, plan.rows_per_split, plan.splits, eps, int(fix_gamma))
    kernel(plan.columns, plan.block, x, workspace, gamma, beta, mean, var, *sizes)


def batch_norm_normalisation_inference(
    gamma: Any,
    beta: Any,
    moving_mean: Any,
    moving_var: Any,
    normalisation: Any,
    x: Any | None = None,
    slices: Any | None = None,
    bias: Any | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    half_sum: bool = False,
) -> None:
    """normalisation (C, 4): what normalises x (..., C) by the moving statistics (C,); fix_gamma
    overwrites gamma with 1. slices (n, ..., C), where given: their sum, + bias (C,) if any, is
    written to x, which half_sum says holds bf16 numbers. ValueError where shapes misfit."""
    operator = "batch_norm_normalisation_inference"
    channels = gamma.shape[-1] if gamma.shape else 0
    for name, array in (("beta", beta), ("moving_mean", moving_mean), ("moving_var", moving_var)):
        has_shape(operator, name, array, (channels,), f"gamma {tuple(gamma.shape)}")
    _check_normalisation(operator, normalisation, channels)
    if slices is not None:
        check_shapes(operator, x, y=x, gamma=gamma, bias=bias)
        check_slices(operator, slices, x, bias, half_sum, x)
        sum_partials(slices.reshape(slices.size), bias, x, slices.shape[0], accumulate=False)
    elif x is not None or bias is not None or half_sum:
        raise ValueError(f"{operator}: x, bias and half_sum come with slices, whose sum x gets")
    width = 1 if channels % 4 else 4
    kernel = gamma.context.kernel(FILE, operator, VECTOR=width)
    arrays = (gamma, beta, moving_mean, moving_var, normalisation)
    kernel(-(-channels // (THREADS * width)), THREADS, *arrays, channels, eps, int(fix_gamma))


def normalisation_workspace(x: Sequence[int], *others: Any, slices: bool = False, **_: Any) -> int:
    """As batch norm's forward; slices are always added by the first of two launches."""
    if not slices and (len(others) < 6 or others[5] is None):
        return forward_training_workspace(x)
    rows, channels = x[0], x[-1]
    for extent in x[1:-1]:
        rows *= extent
    widths = (1,) if channels % 4 else (1, 4)
    return 2 * channels * max(split_plan(rows, channels, width).splits for width in widths)


WORKSPACE = {"batch_norm_normalisation_training": normalisation_workspace}


def _kernel(x: Any, width: int, entry: str) -> Any:
    return x.context.kernel(FILE, entry, VECTOR=width, **types(INPUT=x))


def _split_statistics(
    plan: BatchNormPlan,
    x: Any,
    slices: Any | None,
    bias: Any | None,
    partial: Any,
    rows: int,
    channels: int,
) -> None:
    """partial gets the moments of each split; x the sum of slices, if there are any."""
    variant = {"ACTIVATION": "none", "VECTOR": plan.width} | types(INPUT=x, OUTPUT=x)
    grid, sizes = (plan.columns, plan.splits), (rows, channels, plan.rows_per_split)
    if slices is None:
        kernel = x.context.kernel(BATCH_NORM_FILE, "batch_norm_statistics", **variant)
        kernel(grid, plan.block, x, partial, *sizes)
    else:
        launch = kernel_for(x, slices, variant)
        arrays = (slices, bias, x, partial)
        launch("batch_norm_statistics", plan, grid, *arrays, slices.shape[0], *sizes)


def _check_normalisation(operator: str, normalisation: Any, channels: int) -> None:
    because = f"{channels} channels"
    has_shape(operator, "normalisation", normalisation, (channels, 4), because)
    if normalisation.ptr % ALIGNMENT:
        raise ValueError(
            f"{operator}: normalisation begins {normalisation.ptr % ALIGNMENT} bytes behind a "
            f"multiple of {ALIGNMENT}, and is written 4 numbers at a time"
        )
