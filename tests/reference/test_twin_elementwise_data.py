"""Fully connected, elementwise, concatenation, dropout, and the gathering of batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twin_support import (
    DIFFERENCE,
    assert_within,
    check_both_modes,
    numbers,
    numeric_gradient,
    rounding,
)

from pygan import reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d", "h"), [(1, 1, 1), (5, 7, 3), (32, 784, 128)])
def test_fully_connected(n, d, h, dtype):
    x, w, bias, dy = (
        numbers(k, *s, dtype=dtype) for k, s in enumerate([(n, d), (h, d), (h,), (n, h)])
    )
    wide = [a.astype(np.float64) for a in (x, w, bias, dy)]
    for computed, expected, terms in (
        (
            lambda out, accumulate: reference.fully_connected_forward(
                x, w, bias, out, accumulate=accumulate
            ),
            np.einsum("nd,hd->nh", wide[0], wide[1]) + wide[2],
            d,
        ),
        (
            lambda out, accumulate: reference.fully_connected_backward_data(
                dy, w, out, accumulate=accumulate
            ),
            np.einsum("nh,hd->nd", wide[3], wide[1]),
            h,
        ),
        (
            lambda out, accumulate: reference.fully_connected_backward_weight(
                x, dy, out, accumulate=accumulate
            ),
            np.einsum("nd,nh->hd", wide[0], wide[3]),
            n,
        ),
    ):
        # Each of `terms` products of numbers below 5 is rounded up to `terms` times.
        check_both_modes(computed, expected, rounding(terms + 4, dtype) * (terms + 1) * 4, dtype)


def test_fully_connected_without_bias_and_with_wrong_shapes():
    x, w, y = numbers(1, 4, 3), numbers(2, 5, 3), np.full((4, 5), np.nan)
    reference.fully_connected_forward(x, w, None, y)
    assert_within(y, x @ w.T, rounding(6, np.float64) * 30)
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(4, 2\).*\(5, 2\)"):
        reference.fully_connected_forward(numbers(1, 4, 2), w, None, y)
    with pytest.raises(ValueError, match=r"\(5, 4\).*\(4, 3\).*\(4, 5\)"):
        reference.fully_connected_backward_data(np.zeros((5, 4)), w, x)
    with pytest.raises(ValueError, match="bias"):
        reference.fully_connected_forward(x, w, np.zeros(4), y)


def test_exponential_also_in_place():
    x = np.array([-200.0, -1.0, 0.0, 1e-6, 1.0, 50.0])
    y = np.full_like(x, np.nan)
    reference.exp_forward(x, y)
    assert np.array_equal(y, np.exp(x))
    reference.exp_forward(x, x)
    assert np.array_equal(x, y)


def test_reparametrization_is_a_sample_of_that_mean_and_deviation():
    """Of 100,000 draws the mean errs by sd / 316 and the deviation by sd / 447: six times that."""
    mean, lnsd = np.full(100_000, 3.0), np.full(100_000, -1.0)
    code = np.full_like(mean, np.nan)
    reference.reparametrization_forward(mean, lnsd, numbers(1, 100_000), code)
    assert abs(code.mean() - 3) < 6 * np.exp(-1) / 316
    assert abs(code.std() - np.exp(-1)) < 6 * np.exp(-1) / 447


def test_reparametrization_gradients_are_finite_differences():
    mean, lnsd, noise, head = (numbers(k, 4, 3) for k in range(4))
    code = np.empty_like(mean)

    def value():
        reference.reparametrization_forward(mean, lnsd, noise, code)
        return float((code * head).sum())

    for array, gradient in (
        (
            lnsd,
            lambda out, accumulate: reference.reparametrization_backward_lnsd(
                lnsd, noise, head, out, accumulate=accumulate
            ),
        ),
        (
            noise,
            lambda out, accumulate: reference.reparametrization_backward_noise(
                lnsd, head, out, accumulate=accumulate
            ),
        ),
        (mean, lambda out, accumulate: reference.axpy(head, out, accumulate=accumulate)),
    ):
        check_both_modes(gradient, numeric_gradient(value, array), DIFFERENCE)
    with pytest.raises(ValueError, match=r"noise has shape \(3, 4\).*\(4, 3\)"):
        reference.reparametrization_forward(mean, lnsd, noise.T.copy(), code)


def test_sums_and_products_also_in_place():
    a, b = numbers(1, 3, 4), numbers(2, 3, 4)
    for function, expected in (
        (reference.add_forward, a + b),
        (reference.multiply_forward, a * b),
    ):
        y = np.full_like(a, np.nan)
        function(a, b, y)
        assert np.array_equal(y, expected)
        for position in (0, 1):
            arrays = [a.copy(), b.copy()]
            function(*arrays, arrays[position])
            assert np.array_equal(arrays[position], expected)
    check_both_modes(
        lambda out, accumulate: reference.multiply_backward(a, b, out, accumulate=accumulate),
        a * b,
        0,
    )
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3, 4\)"):
        reference.add_forward(a, b, np.zeros((4, 3)))


@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_axpy(alpha):
    x = numbers(1, 5, 2)
    check_both_modes(
        lambda out, accumulate: reference.axpy(x, out, alpha=alpha, accumulate=accumulate),
        alpha * x,
        0,
    )


def test_fill():
    y = np.full((3, 2), np.nan, np.float32)
    reference.fill(y, value=0.25)
    assert (y == 0.25).all()


@st.composite
def broadcasts(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    a, b = ([draw(st.sampled_from([1, size])) for size in shape] for _ in range(2))
    lead = draw(st.integers(0, len(shape) - 1))
    return tuple(a), tuple(b[lead:])


@settings(max_examples=80)
@given(shapes=broadcasts(), swap=st.booleans())
def test_broadcast_multiply(shapes, swap):
    a, b = (numbers(k, *shape) for k, shape in enumerate(shapes[::-1] if swap else shapes))
    y = np.full(np.broadcast_shapes(a.shape, b.shape), np.nan)
    reference.broadcast_multiply_forward(a, b, y)
    assert np.array_equal(y, a * b)
    dy = numbers(9, *y.shape)
    for one, other in ((a, b), (b, a)):
        # The derivative of sum(dy a b) in one element, by linearity: that element set to one.
        expected = np.empty_like(one)
        for index in np.ndindex(one.shape):
            unit = np.zeros_like(one)
            unit[index] = 1
            expected[index] = (dy * unit * other).sum()
        check_both_modes(
            lambda out, accumulate, other=other: reference.broadcast_multiply_backward(
                dy, other, out, accumulate=accumulate
            ),
            expected,
            rounding(2 * y.size, np.float64) * y.size * 16,
        )


def test_broadcast_refuses_what_does_not_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(4, 3\) do not broadcast"):
        reference.broadcast_multiply_forward(np.zeros((2, 3)), np.zeros((4, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(2, 3\)"):
        reference.broadcast_multiply_forward(np.zeros((2, 1)), np.zeros((2, 3)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="more than 4 axes"):
        a = np.zeros((1, 1, 1, 1, 2))
        reference.broadcast_multiply_forward(a, a, a)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenation(axis):
    parts = [numbers(k, *np.roll((k + 1, 3, 2), axis)) for k in range(3)]
    expected = np.concatenate(parts, axis=axis)
    y, offset = np.full_like(expected, np.nan), 0
    for part in parts:
        reference.concatenate_forward(part, y, axis=axis, offset=offset)
        check_both_modes(
            lambda out, accumulate, offset=offset: reference.concatenate_backward(
                expected, out, axis=axis, offset=offset, accumulate=accumulate
            ),
            part,
            0,
        )
        offset += part.shape[axis]
    assert np.array_equal(y, expected)


def test_concatenation_refuses_parts_that_do_not_fit():
    y = np.zeros((4, 6))
    for part, axis, offset in (((4, 3), 1, 4), ((3, 3), 1, 0), ((4,), 1, 0), ((4, 3), 1, -1)):
        with pytest.raises(ValueError, match=r"does not fit into \(4, 6\)"):
            reference.concatenate_forward(np.zeros(part), y, axis=axis, offset=offset)
    with pytest.raises(ValueError, match="axis 2"):
        reference.concatenate_forward(np.zeros((4, 3)), y, axis=2, offset=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_keeps_the_expected_share_scaled_and_repeats_its_mask_backward(dtype):
    rate, n = float(np.float32(0.3)), 40_000
    x = 1 + np.abs(numbers(1, n // 8, 8, dtype=dtype))
    y, mask = np.full_like(x, np.nan), np.full(x.shape, 255, np.uint8)
    state = np.array([5, 17], np.uint64)
    reference.dropout_forward(state, x, y, mask, rate=rate)
    assert state.tolist() == [5, 17 + n // 4]
    assert set(np.unique(mask)) == {0, 1}
    # Binomial: five standard deviations of the share kept.
    assert abs(mask.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / n)
    expected = np.where(mask == 1, x / (1 - rate), 0)
    assert_within(y, expected, rounding(3, dtype) * expected)

    dy = numbers(2, *x.shape, dtype=dtype)
    expected = np.where(mask == 1, dy.astype(np.float64) / (1 - rate), 0)
    check_both_modes(
        lambda out, accumulate: reference.dropout_backward(
            mask, dy, out, rate=rate, accumulate=accumulate
        ),
        expected,
        rounding(3, dtype) * np.abs(expected),
        dtype,
    )


def test_dropout_draws_the_uniform_numbers_of_the_state_and_drops_infinities():
    x = np.full(10, np.inf, np.float32)
    u, y, mask = np.empty(10, np.float32), np.empty_like(x), np.empty(10, np.uint8)
    reference.random_uniform(np.array([3, 9], np.uint64), u)
    # A number equal to the rate is kept.
    rate = float(np.median(u[:9]))
    assert rate in u
    reference.dropout_forward(np.array([3, 9], np.uint64), x, y, mask, rate=rate)
    assert np.array_equal(mask, u >= np.float32(rate))
    assert (y == np.where(mask, np.inf, 0)).all()
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"rate {rate} must lie in"):
            reference.dropout_forward(np.zeros(2, np.uint64), x, y, mask, rate=rate)


@pytest.mark.parametrize("table_dtype", [np.uint8, np.float32])
def test_batches_follow_the_order_and_wrap_around(table_dtype):
    table = (np.arange(10 * 6).reshape(10, 2, 3, 1) * 4).astype(table_dtype)
    labels = np.arange(10, dtype=np.uint8) % 4
    order = np.array([9, 2, 5, 0, 7], np.int32)
    cursor = np.array([3], np.int32)
    y = np.full((4, 2, 3, 1), np.nan, np.float32)
    reference.gather_rows(table, order, cursor, y, scale=1 / 255, shift=-0.5)
    rows = [0, 7, 9, 2]
    expected = table[rows].astype(np.float64) / 255 - 0.5
    assert_within(y, expected, rounding(3, np.float32) * 2)
    one_hot = np.full((4, 4), np.nan, np.float32)
    reference.gather_one_hot(labels, order, cursor, one_hot)
    assert np.array_equal(one_hot, np.eye(4)[labels[rows]])
    # A batch longer than the order starts over.
    long = np.full((7, 2, 3, 1), np.nan, np.float32)
    reference.gather_rows(table, order, cursor, long)
    assert np.array_equal(long, table[[0, 7, 9, 2, 5, 0, 7]])


def test_the_cursor_wraps_around():
    cursor = np.array([0], np.int32)
    visited = []
    for _ in range(6):
        visited.append(int(cursor[0]))
        reference.advance_cursor(cursor, step=4, modulo=10)
    assert visited == [0, 4, 8, 2, 6, 0]
    cursor[0] = 2**31 - 2
    reference.advance_cursor(cursor, step=2**31 - 1, modulo=2**31 - 1)
    assert cursor[0] == 2**31 - 2
    with pytest.raises(ValueError, match="modulo 0"):
        reference.advance_cursor(cursor, step=1, modulo=0)


def test_gathering_refuses_what_does_not_fit():
    table, order, cursor = np.zeros((10, 4)), np.arange(3, dtype=np.int32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match=r"y has shape \(2, 5\) but a batch of table \(10, 4\)"):
        reference.gather_rows(table, order, cursor, np.zeros((2, 5)))
    with pytest.raises(ValueError, match="empty"):
        reference.gather_rows(table, order[:0], cursor, np.zeros((2, 4)))
    for wrong in (10, -1):
        with pytest.raises(IndexError, match=r"rows .* of 10"):
            reference.gather_rows(table, np.array([0, wrong], np.int32), cursor, np.zeros((2, 4)))


def test_a_label_beyond_the_classes_leaves_its_row_zero():
    y = np.full((2, 3), np.nan)
    reference.gather_one_hot(
        np.array([7, 1], np.uint8), np.arange(2, dtype=np.int32), np.zeros(1, np.int32), y
    )
    assert y.tolist() == [[0, 0, 0], [0, 1, 0]]
