"""Dropout against its twin: the same mask from the same state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from support import (
    assert_close,
    assert_same_bits,
    check_write_and_accumulate,
    examples_for,
    for_all,
    gamma,
    numbers,
    poisoned,
    upload,
)

SIZES = st.sampled_from([1, 2, 3, 5, 1023, 1024, 1029, 8195]) | st.integers(1, 5000)


def masks(device: Any, n: int) -> Any:
    return upload(device, np.full(n, 77, np.uint8))


def test_agrees_with_the_twin(device: Any) -> None:
    def body(case: tuple[int, float, int]) -> None:
        n, rate, seed = case
        rng = np.random.default_rng(seed)
        x, dy = numbers(rng, n), numbers(rng, n)
        x[rng.random(n) < 0.1] = np.inf  # an infinity that is dropped must leave a plain 0
        host = np.array([seed, 3], np.uint64)
        state, mask, y = upload(device, host), masks(device, n), poisoned(device, n)
        expected_mask, ignored = np.empty(n, np.uint8), np.empty(n)
        reference.dropout_forward(host, np.zeros(n), ignored, expected_mask, rate=rate)
        device.ops.dropout_forward(state, upload(device, x), y, mask, rate=rate)
        assert_same_bits(np.asarray(mask), expected_mask, "mask")
        assert np.asarray(state).tolist() == host.tolist()
        gain = 1 / (1 - np.float64(np.float32(rate)))
        expected = np.where(expected_mask == 1, x * gain, 0)
        size = np.where(np.isfinite(expected), np.abs(expected), 0)
        assert_close(y, expected, gamma(3) * size)  # 1 - rate is rounded, and the division

        exact = np.where(expected_mask == 1, dy * gain, 0)
        check_write_and_accumulate(
            device,
            lambda out, accumulate: device.ops.dropout_backward(
                mask, upload(device, dy), out, rate=rate, accumulate=accumulate
            ),
            exact,
            gamma(3) * np.abs(exact),
            rng,
            "backward",
        )

    cases = st.tuples(SIZES, st.sampled_from([0.0, 0.1, 0.5, 0.999]), st.integers(0, 2**32))
    for_all(cases, examples_for(device, 15), body)


def test_a_number_equal_to_the_rate_is_kept(device: Any) -> None:
    host = np.array([9, 0], np.uint64)
    u = np.empty(64, np.float32)
    reference.random_uniform(host.copy(), u)
    mask, ones = masks(device, 64), upload(device, np.ones(64, np.float32))
    device.ops.dropout_forward(upload(device, host), ones, ones, mask, rate=float(u[5]))
    assert np.asarray(mask).tolist() == (u >= u[5]).tolist()


def test_works_in_place(device: Any) -> None:
    x = numbers(np.random.default_rng(1), 1029)
    results = []
    for in_place in (False, True):
        state, mask = upload(device, np.array([5, 0], np.uint64)), masks(device, 1029)
        source = upload(device, x)
        y = source if in_place else poisoned(device, 1029)
        device.ops.dropout_forward(state, source, y, mask, rate=0.5)
        device.ops.dropout_backward(mask, y, y, rate=0.5)
        results.append(np.asarray(y))
    assert_same_bits(*results)


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_arrays_and_masks_at_any_address(device: Any, shift: int) -> None:
    """Elements by fours need floats at multiples of 16 bytes and a mask at a multiple of 4."""
    n = 1029
    x, results = numbers(np.random.default_rng(1), n), []
    for first in (0, shift):
        state, mask = upload(device, np.array([5, 0], np.uint64)), masks(device, first + n)[first:]
        source = upload(device, np.pad(x, (first, 0)))[first:]
        y, dx = poisoned(device, n), poisoned(device, first + n)[first:]
        device.ops.dropout_forward(state, source, y, mask, rate=0.5)
        device.ops.dropout_backward(mask, y, dx, rate=0.5)
        results.append([np.asarray(mask), np.asarray(y), np.asarray(dx)])
    for plain, shifted in zip(*results, strict=True):
        assert_same_bits(shifted, plain)


def test_wrong_calls_are_refused(device: Any) -> None:
    state, x = upload(device, np.zeros(2, np.uint64)), poisoned(device, 5)
    mask = masks(device, 5)
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="rate"):
            device.ops.dropout_forward(state, x, x, mask, rate=rate)
        with pytest.raises(ValueError, match="rate"):
            device.ops.dropout_backward(mask, x, x, rate=rate)
    with pytest.raises(ValueError, match=r"mask.*\(6,\).*\(5,\)"):
        device.ops.dropout_forward(state, x, x, masks(device, 6), rate=0.5)
    with pytest.raises(TypeError, match="mask"):
        device.ops.dropout_forward(state, x, x, x, rate=0.5)
