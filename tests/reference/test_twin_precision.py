"""Rounding to the precisions of tensor cores, against rounding done with exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygan.reference.precision import rounded

SIGNIFICANT_BITS = {"tf32": 11, "bf16": 8}


def nearest(value: float, precision: str) -> Fraction:
    """`value` with so many significant bits; ties away from zero (TF32) or to even (bf16)."""
    if value == 0:
        return Fraction(0)
    exponent = max(int(np.frexp(value)[1]), -125) - SIGNIFICANT_BITS[precision]
    steps = Fraction(abs(value)) / Fraction(2) ** exponent
    down, rest = steps.numerator // steps.denominator, steps % 1
    away = rest == Fraction(1, 2) and (precision == "tf32" or down % 2 == 1)
    whole = down + (1 if rest > Fraction(1, 2) or away else 0)
    return (1 if value > 0 else -1) * whole * Fraction(2) ** exponent


@pytest.mark.parametrize("precision", SIGNIFICANT_BITS)
@given(st.floats(-(2.0**127), 2.0**127, width=32))
def test_any_number(precision: str, value: float) -> None:
    result = rounded(np.array([value], np.float32), precision)
    assert result.dtype == np.float32
    assert Fraction(float(result[0])) == nearest(value, precision)


@pytest.mark.parametrize("precision", SIGNIFICANT_BITS)
def test_ties(precision: str) -> None:
    """Halfway between two neighbours, upwards from even and from odd ones, both signs."""
    step = 2.0 ** (1 - SIGNIFICANT_BITS[precision])
    ties = np.array([1 + (i + 0.5) * step for i in range(4)], np.float32)
    away = 1 + step * np.array([1, 2, 3, 4])
    even = 1 + step * np.array([0, 2, 2, 4])
    expected = away if precision == "tf32" else even
    for sign in (1, -1):
        assert np.array_equal(rounded(sign * ties, precision), sign * expected)


@pytest.mark.parametrize("precision", SIGNIFICANT_BITS)
def test_special_numbers(precision: str) -> None:
    largest = np.finfo(np.float32).max
    given_ = np.array([np.inf, -np.inf, 0.0, -0.0, largest, -largest], np.float32)
    expected = np.array([np.inf, -np.inf, 0.0, -0.0, np.inf, -np.inf], np.float32)
    result = rounded(given_, precision)
    assert np.array_equal(result, expected)
    assert np.array_equal(np.signbit(result), np.signbit(expected))
    not_numbers = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(rounded(not_numbers, precision)).all()


def test_other_precisions() -> None:
    x = np.array([1 / 3, 2 / 3])
    assert rounded(x, "float32").dtype == np.float64
    assert np.array_equal(rounded(x, "float32"), x.astype(np.float32))
    assert np.array_equal(rounded(x, "tf32"), rounded(x.astype(np.float32), "tf32"))
    with pytest.raises(ValueError, match=r"'half'.*float32, tf32, bf16"):
        rounded(x, "half")
