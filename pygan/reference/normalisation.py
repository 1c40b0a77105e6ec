"""Batch norms whose normalising pass is left to the convolution that reads them.

normalisation (C, 4) holds of each channel mean, 1 / sqrt(var + eps), gamma and beta: what makes

    y = act(gamma (x - mean) / sqrt(var + eps) + beta)

of x where it is read, so that y need not be in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from . import shapes
from .batch_norm import _add_slices, _batch_statistics, _check, _check_slices, _wide


def batch_norm_normalisation_training(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    normalisation: np.ndarray,
    slices: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    moments: np.ndarray | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    half_sum: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """normalisation (C, 4): what normalises x (..., C) by the batch's statistics; mean and var (C,)
    receive them.

    fix_gamma, slices, bias, half_sum and moments as in batch_norm_forward_training. Raises
    ValueError where shapes misfit.
    """
    operator = "batch_norm_normalisation_training"
    _check(operator, x, None, gamma=gamma, beta=beta, mean=mean, var=var, bias=bias)
    _check_slices(operator, slices, x.shape, bias, half_sum)
    if slices is not None:
        _add_slices(slices, bias, x, half_sum)
    _batch_statistics(operator, _wide(x, x)[0], moments, slices, mean, var)
    _put(operator, gamma, beta, mean, var, normalisation, eps, fix_gamma)


def batch_norm_normalisation_inference(
    gamma: np.ndarray,
    beta: np.ndarray,
    moving_mean: np.ndarray,
    moving_var: np.ndarray,
    normalisation: np.ndarray,
    x: np.ndarray | None = None,
    slices: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    half_sum: bool = False,
) -> None:
    """normalisation (C, 4): what normalises by the moving statistics (C,).

    fix_gamma overwrites gamma with 1. slices (n, ..., C), where given: x (..., C) gets their sum,
    + bias (C,) if any, with half_sum rounded to bf16. Raises ValueError where shapes misfit.
    """
    operator = "batch_norm_normalisation_inference"
    if slices is not None:
        if x is None:
            raise ValueError(f"{operator}: slices are given, but not x, which gets their sum")
        _check(operator, x, None, gamma=gamma, bias=bias)
        _check_slices(operator, slices, x.shape, bias, half_sum)
        _add_slices(slices, bias, x, half_sum)
    elif x is not None or bias is not None or half_sum:
        raise ValueError(f"{operator}: x, bias and half_sum come with slices, whose sum x gets")
    _put(operator, gamma, beta, moving_mean, moving_var, normalisation, eps, fix_gamma)


def normalisation_gain(
    x: Sequence[int],
    calls: Sequence[tuple[str, Sequence[Any], dict[str, Any]]],
    *,
    slices: int = 1,
) -> float:
    """Microseconds that a batch norm of x gains by leaving its normalising pass to `calls` (name,
    shapes and attributes of each): here -inf, never, as the twins normalise anew for each."""
    return -inf


def _put(
    operator: str,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    normalisation: np.ndarray,
    eps: float,
    fix_gamma: bool,
) -> None:
    because = f"gamma {gamma.shape}"
    for name, array in (("beta", beta), ("mean", mean), ("var", var)):
        shapes.check_shape(operator, name, array, gamma.shape, because)
    shapes.check_shape(operator, "normalisation", normalisation, (len(gamma), 4), because)
    if fix_gamma:
        gamma[...] = 1
    inverse = 1 / np.sqrt(var + var.dtype.type(eps))
    for column, values in enumerate((mean, inverse, gamma, beta)):
        normalisation[:, column] = values
