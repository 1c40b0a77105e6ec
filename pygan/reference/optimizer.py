"""Optimizer steps over flat buffers (n,), in place.

`step` is int32 (k,): every slot holds the updates done so far, and all move on together (a GPU
kernel reads one slot per block). `learning_rate` is (1,): it lives on the device.
"""

from __future__ import annotations

import math

import numpy as np

from . import shapes
from .parallel import run, split_work
from .scratch import frame


def adam_update(
    w: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    step: np.ndarray,
    learning_rate: np.ndarray,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    rescale_grad: float = 1.0,
    clip_gradient: float | None = None,
) -> None:
    """w -= lr_t m / (sqrt(v) + eps), Kingma and Ba (2015) in MXNet's form; w, g, m, v (n,).

    g' = clip(g rescale_grad + weight_decay w), m = beta1 m + (1 - beta1) g',
    v = beta2 v + (1 - beta2) g'^2, lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t) with t counting
    from 1. eps stands beside sqrt(v) while the bias correction is folded into lr_t, so at t = 1 it
    weighs 1 / sqrt(1 - beta2) times the textbook's. 1 - beta is formed from float32 beta, the
    powers in double. PyTorch adds eps to the corrected root instead.
    """
    _check("adam_update", step, learning_rate, clip_gradient, w=w, g=g, m=m, v=v)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise ValueError(f"adam_update: {name} is {beta}; it must lie in 0 <= {name} < 1")
    number = w.dtype.type
    b1, b2 = number(np.float32(beta1)), number(np.float32(beta2))
    t = int(step[0]) + 1
    rate = float(learning_rate[0]) * math.sqrt(1 - beta2**t) / (1 - beta1**t)

    def update(part: slice) -> None:
        gradient = _decayed_then_clipped(
            w[part], g[part], weight_decay, rescale_grad, clip_gradient
        )
        with frame() as empty:
            term = empty(gradient.shape, w.dtype)
            m[part] *= b1
            m[part] += np.multiply(gradient, 1 - b1, out=term)
            v[part] *= b2
            np.square(gradient, out=term)
            term *= 1 - b2
            v[part] += term
            np.sqrt(v[part], out=term)
            term += number(eps)
            np.divide(m[part], term, out=term)
            term *= number(rate)
            w[part] -= term

    run(update, split_work(w.size, 13 * w.size))
    step += 1


def sgd_update(
    w: np.ndarray,
    g: np.ndarray,
    momentum_buffer: np.ndarray | None,
    step: np.ndarray,
    learning_rate: np.ndarray,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    rescale_grad: float = 1.0,
    clip_gradient: float | None = None,
) -> None:
    """w += change, change = momentum change - lr (clip(g rescale_grad) + weight_decay w).

    MXNet's SGD; `momentum_buffer` (n,) keeps the change and may be None for momentum 0.
    """
    _check(
        "sgd_update", step, learning_rate, clip_gradient, w=w, g=g, momentum_buffer=momentum_buffer
    )
    if momentum_buffer is None and momentum:
        raise ValueError(f"sgd_update: momentum {momentum} needs a momentum_buffer {w.shape}")
    number = w.dtype.type
    gradient = _clip(g * number(rescale_grad), clip_gradient)
    if weight_decay:
        gradient += number(weight_decay) * w
    gradient *= number(learning_rate[0])
    if momentum_buffer is None:
        w -= gradient
    else:
        momentum_buffer *= number(momentum)
        momentum_buffer -= gradient
        w += momentum_buffer
    step += 1


def rmsprop_update(
    w: np.ndarray,
    g: np.ndarray,
    mean_square: np.ndarray,
    step: np.ndarray,
    learning_rate: np.ndarray,
    *,
    rho: float = 0.9,
    eps: float = 1e-7,
    clip_gradient: float | None = None,
    learning_rate_decay: float = 0.0,
    weight_decay: float = 0.0,
    rescale_grad: float = 1.0,
) -> None:
    """w -= lr_t g' / (sqrt(a) + eps), a = rho a + (1 - rho) g'^2 (Tieleman and Hinton, 2012).

    g' = clip(g rescale_grad + weight_decay w), each value clipped to +-clip_gradient;
    lr_t = lr / (1 + learning_rate_decay t), t the updates done before (Keras's form).
    """
    _check("rmsprop_update", step, learning_rate, clip_gradient, w=w, g=g, mean_square=mean_square)
    number = w.dtype.type
    rho = number(np.float32(rho))
    rate = float(learning_rate[0]) / (1 + learning_rate_decay * int(step[0]))
    gradient = _decayed_then_clipped(w, g, weight_decay, rescale_grad, clip_gradient)
    mean_square *= rho
    mean_square += (1 - rho) * np.square(gradient)
    w -= number(rate) * gradient / (np.sqrt(mean_square) + number(eps))
    step += 1


def _decayed_then_clipped(
    w: np.ndarray,
    g: np.ndarray,
    weight_decay: float,
    rescale_grad: float,
    clip_gradient: float | None,
) -> np.ndarray:
    """clip(g rescale_grad + weight_decay w); g itself where nothing is asked for."""
    number = w.dtype.type
    gradient = g if rescale_grad == 1 else g * number(rescale_grad)
    if weight_decay:
        gradient = gradient + number(weight_decay) * w
    return _clip(gradient, clip_gradient)


def _clip(gradient: np.ndarray, limit: float | None) -> np.ndarray:
    return gradient if limit is None else np.clip(gradient, -limit, limit)


def _check(
    operator: str,
    step: np.ndarray,
    learning_rate: np.ndarray,
    clip_gradient: float | None,
    **buffers: np.ndarray | None,
) -> None:
    shapes.check_same(operator, **buffers)
    shapes.check_rank(operator, "w", buffers["w"], 1, "a flat buffer (n,)")
    shapes.check_rank(operator, "step", step, 1, "(slots,), the same count in each")
    shapes.check_shape(operator, "learning_rate", learning_rate, (1,), "one rate")
    if clip_gradient is not None and not clip_gradient > 0:
        raise ValueError(
            f"{operator}: clip_gradient {clip_gradient} must be above 0; None does not clip"
        )
