"""Arrays of bf16 numbers in tests: uint16 on a device, rounded float32 numbers on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pygan.reference.precision import rounded
from support import assert_close, assert_same_bits, gamma, numbers, upload

UNIT_ROUNDOFF = 2.0**-8
"""Half the spacing of bf16 just above 1."""

NOT_A_NUMBER = 0x7FC0


def half_numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """As support.numbers, rounded to bf16."""
    return rounded(numbers(rng, *shape), "bf16")


def upload_half(device: Any, host: np.ndarray | None) -> Any:
    """Rounded float32 numbers as a device array of their upper halves."""
    if host is None:
        return None
    bits = np.ascontiguousarray(host, np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any(), "rounded numbers have a lower half of zeros"
    return upload(device, (bits >> 16).astype(np.uint16))


def read_half(array: Any) -> np.ndarray:
    return (np.asarray(array).astype(np.uint32) << 16).view(np.float32)


def read(array: Any) -> np.ndarray:
    """float32 numbers of a device array of either kind."""
    return read_half(array) if array.dtype == np.uint16 else np.asarray(array)


def poisoned_as(device: Any, half: bool, *shape: int) -> Any:
    if half:
        return upload(device, np.full(shape, NOT_A_NUMBER, np.uint16))
    return upload(device, np.full(shape, np.nan, np.float32))


def stored(expected: np.ndarray, allowed: Any) -> Any:
    """The error allowed of a number within `allowed` of `expected` that is rounded to bf16: that
    may go the other way, half a unit in the last place of what it is."""
    return allowed + UNIT_ROUNDOFF * (np.abs(expected) + allowed)


def check_write_and_accumulate(
    device: Any,
    half: bool,
    launch: Callable[[Any, bool], None],
    expected: np.ndarray,
    allowed: Any,
    rng: np.random.Generator,
    what: str,
) -> None:
    """As support.check_write_and_accumulate, of a result in bf16 or in float32."""
    out, again = (poisoned_as(device, half, *expected.shape) for _ in range(2))
    launch(out, False)
    limit = stored(expected, allowed) if half else allowed
    assert_close(read(out), expected, limit, f"{what} (write)")
    launch(again, False)
    assert_same_bits(np.asarray(out), np.asarray(again), f"{what} (repeated)")

    start = half_numbers(rng, *expected.shape)
    total = upload_half(device, start) if half else upload(device, start)
    launch(total, True)
    sum_ = start + expected
    extra = allowed + gamma(2) * (np.abs(start) + np.abs(expected) + allowed)
    assert_close(read(total), sum_, stored(sum_, extra) if half else extra, f"{what} (accumulate)")
