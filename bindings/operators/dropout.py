"""Launchers of kernels/dropout.cu; the maths is in pygan.reference.dropout."""

from __future__ import annotations

from typing import Any

from .random import check_state, draw
from .validation import THREADS, blocks_for, in_range, same_shape

FILE = "dropout.cu"


def dropout_forward(state: Any, x: Any, y: Any, mask: Any, *, rate: float) -> None:
    """y = x / (1 - rate) where u >= rate, else 0; mask (uint8) remembers which; any shape.

    u is one uniform number per element from state, uint64 (2,), which moves on; y may be x.
    ValueError where shapes differ or rate is not in 0 <= rate < 1.
    """
    operator = "dropout_forward"
    check_state(operator, state)
    same_shape(operator, x=x, y=y, mask=mask)
    in_range(operator, "rate", rate, 0, 1)
    if x.size:
        draw(x.context.kernel(FILE, operator), state, (x, y, mask), x.size, rate)


def dropout_backward(mask: Any, dy: Any, dx: Any, *, rate: float, accumulate: bool = False) -> None:
    """dx = dy / (1 - rate) where the mask is 1, else 0; dx may be dy."""
    operator = "dropout_backward"
    same_shape(operator, dy=dy, mask=mask, dx=dx)
    in_range(operator, "rate", rate, 0, 1)
    if dx.size:
        kernel = dx.context.kernel(FILE, operator)
        kernel(blocks_for(dx.size), THREADS, mask, dy, dx, dx.size, rate, int(accumulate))
