"""The comparison that every kernel test rests on: what it must not let through."""

from __future__ import annotations

import numpy as np
import pytest

from support import assert_close, assert_same_bits, compare, gamma

ONES = np.ones((2, 3), np.float32)


def with_value(value: float) -> np.ndarray:
    array = ONES.copy()
    array[1, 2] = value
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -1.0])
def test_a_wrong_element_fails_and_is_named(value: float) -> None:
    with pytest.raises(AssertionError, match=r"1 of 6 elements differ; worst at \(1, 2\)"):
        assert_close(with_value(value), ONES, 0.25)


def test_nan_is_never_as_expected() -> None:
    with pytest.raises(AssertionError):
        assert_close(with_value(np.nan), with_value(np.nan), 0.25)
    with pytest.raises(AssertionError):
        assert_close(ONES, ONES + 1, np.nan)


def test_an_expected_infinity_must_be_that_infinity() -> None:
    assert_close(with_value(np.inf), with_value(np.inf), 0.25)
    for value in (-np.inf, 3e38):
        with pytest.raises(AssertionError):
            assert_close(with_value(value), with_value(np.inf), 0.25)


def test_the_share_of_the_allowed_error_is_reported() -> None:
    worst = compare(with_value(1.125), ONES, 0.25)
    assert worst.index == (1, 2)
    assert worst.share == pytest.approx(0.5)
    assert "50 % of the allowed error" in str(worst)


def test_shapes_must_agree() -> None:
    with pytest.raises(AssertionError):
        assert_close(ONES, ONES[:1], 1.0)
    with pytest.raises(AssertionError):
        assert_same_bits(ONES, ONES[:1])


def test_same_bits_tells_zeros_apart_and_takes_equal_nans() -> None:
    assert_same_bits(with_value(np.nan), with_value(np.nan))
    with pytest.raises(AssertionError, match=r"\(1, 2\)"):
        assert_same_bits(with_value(0.0), with_value(-0.0))


def test_the_bound_covers_a_float32_sum_and_little_more() -> None:
    """A sum of n equal thirds, added one by one, errs within gamma(n) and by more than 1/1000."""
    n = 10_000
    third = np.float32(1 / 3)
    total = np.add.accumulate(np.full(n, third))[-1]
    exact = n * float(third)
    error = abs(float(total) - exact) / exact
    assert gamma(n) / 1000 < error <= gamma(n)
