"""Dropout with the survivors scaled up (Srivastava et al. 2014, "inverted" form)."""

from __future__ import annotations

import numpy as np

from . import shapes
from .random import draw_uniform
from .store import store


def dropout_forward(
    state: np.ndarray, x: np.ndarray, y: np.ndarray, mask: np.ndarray, *, rate: float
) -> None:
    """y = x / (1 - rate) where u >= rate, else 0; mask (uint8) remembers which; any shape.

    u is one uniform number per element from state, uint64 (2,), which moves on; 0 <= rate < 1.
    """
    shapes.check_same("dropout_forward", x=x, y=y, mask=mask)
    check_rate("dropout_forward", rate)
    mask[...] = (draw_uniform(state, x.size) >= np.float32(rate)).reshape(x.shape)
    y[...] = np.where(mask, x * _gain(rate, x), 0)


def dropout_backward(
    mask: np.ndarray, dy: np.ndarray, dx: np.ndarray, *, rate: float, accumulate: bool = False
) -> None:
    """dx = dy / (1 - rate) where the mask is 1, else 0."""
    shapes.check_same("dropout_backward", dy=dy, mask=mask, dx=dx)
    check_rate("dropout_backward", rate)
    store(dx, np.where(mask, dy * _gain(rate, dy), 0), accumulate)


def check_rate(operator: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"{operator}: rate {rate} must lie in 0 <= rate < 1")


def _gain(rate: float, like: np.ndarray) -> np.floating:
    """1 / (1 - rate), the rate in float32 as where u is compared with it: alike on all devices."""
    return like.dtype.type(1 / (1 - float(np.float32(rate))))
