"""Launchers of kernels/optimizer.cu; the maths is in pygan.reference.optimizer."""

from __future__ import annotations

import math
from typing import Any

from .validation import THREADS, blocks_for, has_rank, has_shape, in_range, same_shape

FILE = "optimizer.cu"
SLOTS = 1024
"""Copies of the update count, one for each block a launch may have."""


def adam_update(
    w: Any,
    g: Any,
    m: Any,
    v: Any,
    step: Any,
    learning_rate: Any,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    rescale_grad: float = 1.0,
    clip_gradient: float | None = None,
) -> None:
    """w -= lr_t * m / (sqrt(v) + eps), Kingma and Ba in MXNet's form; w, g, m, v (n,).

    g' = clip(g * rescale_grad + weight_decay * w); lr_t = lr * sqrt(1 - beta2^t) / (1 - beta1^t).
    step int32 (1024,) counts on the device; learning_rate (1,). ValueError where shapes misfit or
    a beta is not in 0 <= beta < 1.
    """
    operator = "adam_update"
    _check(operator, step, learning_rate, clip_gradient, w=w, g=g, m=m, v=v)
    in_range(operator, "beta1", beta1, 0, 1)
    in_range(operator, "beta2", beta2, 0, 1)
    kernel = w.context.kernel(FILE, operator)
    kernel(
        blocks_for(w.size, most=SLOTS),
        THREADS,
        w,
        g,
        m,
        v,
        step,
        learning_rate,
        w.size,
        beta1,
        beta2,
        _logarithm(beta1),
        _logarithm(beta2),
        eps,
        weight_decay,
        rescale_grad,
        _limit(clip_gradient),
    )


def sgd_update(
    w: Any,
    g: Any,
    momentum_buffer: Any | None,
    step: Any,
    learning_rate: Any,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    rescale_grad: float = 1.0,
    clip_gradient: float | None = None,
) -> None:
    """w += change, change = momentum * change - lr * (clip(g * rescale_grad) + weight_decay * w).

    momentum_buffer (n,) keeps the change and may be None for momentum 0. ValueError where shapes
    misfit or momentum has no buffer.
    """
    operator = "sgd_update"
    _check(operator, step, learning_rate, clip_gradient, w=w, g=g, momentum_buffer=momentum_buffer)
    if momentum_buffer is None and momentum:
        raise ValueError(
            f"{operator}: momentum {momentum} needs a momentum_buffer {tuple(w.shape)}"
        )
    kernel = w.context.kernel(FILE, operator)
    kernel(
        blocks_for(w.size, most=SLOTS),
        THREADS,
        w,
        g,
        momentum_buffer,
        step,
        learning_rate,
        w.size,
        momentum,
        weight_decay,
        rescale_grad,
        _limit(clip_gradient),
    )


def rmsprop_update(
    w: Any,
    g: Any,
    mean_square: Any,
    step: Any,
    learning_rate: Any,
    *,
    rho: float = 0.9,
    eps: float = 1e-7,
    clip_gradient: float | None = None,
    learning_rate_decay: float = 0.0,
    weight_decay: float = 0.0,
    rescale_grad: float = 1.0,
) -> None:
    """w -= lr_t * g' / (sqrt(a) + eps), a = rho * a + (1 - rho) * g'^2, in Keras's form.

    g' = clip(g * rescale_grad + weight_decay * w), each value clipped to +-clip_gradient;
    lr_t = lr / (1 + learning_rate_decay * t), t the updates done before. ValueError where shapes
    misfit.
    """
    operator = "rmsprop_update"
    _check(operator, step, learning_rate, clip_gradient, w=w, g=g, mean_square=mean_square)
    kernel = w.context.kernel(FILE, operator)
    kernel(
        blocks_for(w.size, most=SLOTS),
        THREADS,
        w,
        g,
        mean_square,
        step,
        learning_rate,
        w.size,
        rho,
        eps,
        _limit(clip_gradient),
        learning_rate_decay,
        weight_decay,
        rescale_grad,
    )


def _logarithm(beta: float) -> float:
    return math.log(beta) if beta else -math.inf


def _limit(clip_gradient: float | None) -> float:
    return math.inf if clip_gradient is None else clip_gradient


def _check(
    operator: str, step: Any, learning_rate: Any, clip_gradient: float | None, **buffers: Any
) -> None:
    same_shape(operator, **buffers)
    has_rank(operator, "w", buffers["w"], 1, "(n,), the flat buffer of all parameters")
    has_shape(operator, "step", step, (SLOTS,), "a count per block")
    has_shape(operator, "learning_rate", learning_rate, (1,), "one rate")
    if clip_gradient is not None and not clip_gradient > 0:
        raise ValueError(
            f"{operator}: clip_gradient {clip_gradient} must be above 0; None does not clip"
        )
