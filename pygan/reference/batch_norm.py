"""Batch normalisation over the last axis, fused with the activation that follows.

    y = act(gamma (x - mean) / sqrt(var + eps) + beta), statistics per channel over all other axes

Ioffe and Szegedy, "Batch Normalization" (2015), with MXNet's conventions: biased variance
everywhere, and with `fix_gamma` gamma is 1, its gradient 0, and the gamma array is set to 1.
"""

from __future__ import annotations

import numpy as np

from . import activation as activations
from . import shapes
from .store import store


def batch_norm_forward_training(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    y: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
    workspace: np.ndarray | None = None,
) -> None:
    """y (..., C) = normalised x (..., C); mean and var (C,) receive the batch's statistics.

    var is the biased variance, taken around the mean: a mean of 1e4 with deviation 1 survives.
    Raises ValueError where shapes misfit or the activation is unknown.
    """
    _check("batch_norm_forward_training", x, activation, y=y, gamma=gamma, beta=beta)
    _check("batch_norm_forward_training", x, activation, mean=mean, var=var)
    rows = x.reshape(-1, x.shape[-1])
    np.mean(rows, axis=0, out=mean)
    centred = rows - mean
    np.mean(centred * centred, axis=0, out=var)
    if fix_gamma:
        gamma[...] = 1
    _normalise(centred, gamma, beta, var, eps, centred)
    activations.apply(centred, y.reshape(rows.shape), activation, slope)


def batch_norm_forward_inference(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    moving_mean: np.ndarray,
    moving_var: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
) -> None:
    """y (..., C) = x (..., C) normalised by the moving statistics (C,)."""
    operator = "batch_norm_forward_inference"
    _check(operator, x, activation, y=y, gamma=gamma, beta=beta)
    _check(operator, x, activation, moving_mean=moving_mean, moving_var=moving_var)
    rows = x.reshape(-1, x.shape[-1])
    if fix_gamma:
        gamma[...] = 1
    centred = rows - moving_mean
    _normalise(centred, gamma, beta, moving_var, eps, centred)
    activations.apply(centred, y.reshape(rows.shape), activation, slope)


def batch_norm_backward(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    dy: np.ndarray,
    dx: np.ndarray | None,
    dgamma: np.ndarray | None,
    dbeta: np.ndarray | None,
    *,
    eps: float,
    fix_gamma: bool,
    use_global_stats: bool,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    accumulate_gamma: bool = False,
    accumulate_beta: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """Gradients of x (..., C), gamma and beta (C,) from dy (..., C), the activated output's.

    With g = dy act'(z), z recomputed from x, n the rows, xhat = (x - mean) / sqrt(var + eps):
    dbeta = sum g, dgamma = sum g xhat, dx = gamma / sqrt(var + eps) (g - dbeta/n - xhat dgamma/n).
    `use_global_stats`: mean and var are constants (the moving ones) and dx = gamma / sqrt(..) g.
    Each of dx, dgamma, dbeta may be None. fix_gamma: dgamma is 0, or unchanged if accumulating.
    """
    operator = "batch_norm_backward"
    _check(operator, x, activation, y=dy, gamma=gamma, beta=beta, mean=mean, var=var)
    _check(operator, x, activation, y=dx, dgamma=dgamma, dbeta=dbeta)
    channels = x.shape[-1]
    rows = x.reshape(-1, channels)
    gradient = dy.reshape(-1, channels)
    xhat = (rows - mean) * _inverse_deviation(var, eps)
    scale = np.ones_like(gamma) if fix_gamma else gamma
    if activation is not None:
        z = xhat * scale + beta
        y = np.empty_like(z)
        activations.apply(z, y, activation, slope)
        gradient = activations.derivative(z, y, activation, slope, np.empty_like(z)) * gradient
    sum_gradient = gradient.sum(axis=0)
    sum_product = (gradient * xhat).sum(axis=0)
    if dx is not None:
        if not use_global_stats:
            gradient = gradient - (sum_gradient + xhat * sum_product) / len(rows)
        store(dx.reshape(rows.shape), gradient * (scale * _inverse_deviation(var, eps)), accumulate)
    if dgamma is not None:
        store(dgamma, np.zeros_like(gamma) if fix_gamma else sum_product, accumulate_gamma)
    if dbeta is not None:
        store(dbeta, sum_gradient, accumulate_beta)


def batch_norm_update_moving(
    mean: np.ndarray,
    var: np.ndarray,
    moving_mean: np.ndarray,
    moving_var: np.ndarray,
    *,
    momentum: float,
) -> None:
    """moving = momentum moving + (1 - momentum) batch, for mean and biased variance (C,)."""
    shapes.check_same(
        "batch_norm_update_moving",
        mean=mean,
        var=var,
        moving_mean=moving_mean,
        moving_var=moving_var,
    )
    keep = mean.dtype.type(momentum)
    for batch, moving in ((mean, moving_mean), (var, moving_var)):
        moving *= keep
        moving += (1 - keep) * batch


def _normalise(centred, gamma, beta, var, eps, out):
    """out = centred gamma / sqrt(var + eps) + beta"""
    np.multiply(centred, _inverse_deviation(var, eps) * gamma, out=out)
    out += beta


def _inverse_deviation(var: np.ndarray, eps: float) -> np.ndarray:
    return 1 / np.sqrt(var + var.dtype.type(eps))


def _check(operator: str, x: np.ndarray, activation: str | None, y=None, **channel_arrays) -> None:
    if activation is not None and activation not in activations.KINDS:
        raise ValueError(
            f"{operator}: activation {activation!r} is unknown; "
            f"use one of {activations.KINDS} or None"
        )
    shapes.check_shape(operator, "the other side", y, x.shape, f"x {x.shape}")
    for name, array in channel_arrays.items():
        shapes.check_shape(operator, name, array, x.shape[-1:], f"x {x.shape}")
