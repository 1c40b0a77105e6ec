"""What the tests of the numpy twins share: inputs, poison, tolerances and comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ROUNDOFF = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
GARBAGE = (np.nan, 1e30)


def numbers(seed: int, *shape: int, dtype: type = np.float64) -> np.ndarray:
    """Standard normal numbers, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def rounding(count: int, dtype: type | np.dtype) -> float:
    """Relative error that `count` roundings in a row can make (Higham's gamma)."""
    product = count * ROUNDOFF[np.dtype(dtype)]
    return product / (1 - product)


def assert_within(
    actual: np.ndarray, expected: np.ndarray, allowed: np.ndarray | float, what: str = "result"
) -> None:
    """Every |actual - expected| <= allowed; NaN fails; the worst element is named."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: {actual.shape} instead of {expected.shape}"
    if actual.size == 0:
        return
    allowed = np.broadcast_to(np.asarray(allowed, np.float64), actual.shape)
    with np.errstate(invalid="ignore"):
        error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    good = (error <= allowed) | (actual == expected)
    if good.all():
        return
    index = np.unravel_index(np.argmin(good), good.shape)
    raise AssertionError(
        f"{what}: {np.count_nonzero(~good)} of {good.size} wrong, first at {index}: "
        f"{actual[index]} instead of {expected[index]}, allowed error {allowed[index]}"
    )


def check_both_modes(
    function: Callable[..., None],
    expected: np.ndarray,
    allowed: np.ndarray | float,
    dtype: type = np.float64,
) -> None:
    """`function(out, accumulate=...)` overwrites garbage, and adds to what was there."""
    shape = expected.shape
    for poison in GARBAGE:
        out = np.full(shape, poison, dtype)
        function(out, accumulate=False)
        assert_within(out, expected, allowed, f"written over {poison}")
    start = numbers(99, *shape, dtype=dtype)
    out = start.copy()
    function(out, accumulate=True)
    total = start.astype(np.float64) + expected
    # Two more roundings: those of the two sums compared.
    assert_within(out, total, allowed + rounding(2, dtype) * np.abs(total), "accumulated")


def numeric_gradient(function: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """Central differences of `function` in every element of the float64 `array`, in place.

    The step 1e-5 balances truncation, step^2 f''' / 6, against rounding, 1e-16 |f| / step: both
    stay near 1e-10 for functions of order 1.
    """
    assert array.dtype == np.float64
    gradient = np.empty_like(array)
    step = 1e-5
    for index in np.ndindex(array.shape):
        middle = array[index]
        array[index] = middle + step
        above = function()
        array[index] = middle - step
        below = function()
        array[index] = middle
        gradient[index] = (above - below) / (2 * step)
    return gradient


# Truncation and rounding of `numeric_gradient` for values of order 1 to 10, with a margin of ten.
DIFFERENCE = 1e-7
