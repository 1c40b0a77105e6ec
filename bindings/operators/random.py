"""Launchers of kernels/random.cu; the maths is in pygan.reference.random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .validation import THREADS, blocks_for, device_array, has_shape

FILE = "random.cu"
ALONE = 8192
"""Numbers that one block draws, and moves the counter: a second launch would take longer."""
ALONE_THREADS = 1024


def random_uniform(state: Any, out: Any, *, low: float = 0.0, high: float = 1.0) -> None:
    """out = low + (high - low) * u, u uniform in [0, 1); any shape, filled in row-major order.

    state, uint64 (2,): seed and counter; it moves on by ceil(out.size / 4) Philox blocks.
    """
    _draw("random_uniform", state, out, low, high - low)


def random_normal(state: Any, out: Any, *, mean: float = 0.0, std: float = 1.0) -> None:
    """out = mean + std * z, z standard normal by Box and Muller; any shape.

    state, uint64 (2,): seed and counter; it moves on by ceil(out.size / 4) Philox blocks.
    """
    _draw("random_normal", state, out, mean, std)


def check_state(operator: str, state: Any) -> None:
    has_shape(operator, "state", state, (2,), "a random state (seed, counter)")


def draw(kernel: Any, state: Any, arrays: Sequence[Any], n: int, *attributes: float) -> None:
    """Launch a kernel that draws n numbers from `state`, and move the counter past them."""
    arguments = (state, *arrays, n, *attributes)
    if n <= ALONE:
        kernel(1, THREADS if n <= 4 * THREADS else ALONE_THREADS, *arguments)
    else:
        kernel(blocks_for(n), THREADS, *arguments)
        state.context.kernel(FILE, "random_advance")(1, 1, state, -(-n // 4))


def _draw(operator: str, state: Any, out: Any, first: float, second: float) -> None:
    check_state(operator, state)
    n = device_array(operator, "out", out).size
    if n:
        draw(out.context.kernel(FILE, operator), state, (out,), n, first, second)
