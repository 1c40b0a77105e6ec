"""Random numbers: the same stream as the twin's, and a state that moves on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from pygan.reference.random import draw_words
from support import assert_close, assert_same_bits, examples_for, for_all, gamma, poisoned, upload

WORD = 2**64 - 1
STATES = st.tuples(
    st.sampled_from([0, 1, 2**32, WORD]) | st.integers(0, WORD),
    # counters at the carry between its two words, and at the wrap
    st.sampled_from([0, 2**32 - 2, WORD - 1]) | st.integers(0, WORD),
)
# one block, which moves the counter itself, of 256 and of 1024 threads; and from 8193 on, several
SIZES = st.sampled_from([1, 2, 3, 4, 5, 1023, 1024, 1029, 8192, 8193]) | st.integers(1, 9500)


def test_uniform_numbers_are_the_twins_bit_for_bit(device: Any) -> None:
    def body(case: tuple[tuple[int, int], int, tuple[float, float], bool]) -> None:
        words, n, (low, high), aligned = case
        host = np.array(words, np.uint64)
        state = upload(device, host)
        expected = np.empty(n, np.float32)
        first = 0 if aligned else 1
        out = poisoned(device, n + first)[first:]
        for _ in range(2):  # the second draw goes on where the first ended
            reference.random_uniform(host, expected, low=low, high=high)
            device.ops.random_uniform(state, out, low=low, high=high)
            assert_same_bits(np.asarray(out), expected)
            assert np.asarray(state).tolist() == host.tolist()

    ranges = st.sampled_from([(0.0, 1.0), (-0.01, 0.01), (-1.0, 1.0), (0.9, 1.0), (5.0, -3.0)])
    cases = st.tuples(STATES, SIZES, ranges, st.booleans())
    for_all(cases, examples_for(device, 25), body)


def test_normal_numbers(device: Any) -> None:
    def body(case: tuple[tuple[int, int], int, tuple[float, float], bool]) -> None:
        (seed, counter), n, (mean, std), aligned = case
        host = np.array([seed, counter], np.uint64)
        state = upload(device, host)
        words = draw_words(host, n).reshape(-1, 2).astype(np.float64)
        radius = np.sqrt(-2 * np.log((words[:, 0] // 256 + 1) / 2**24))
        angle = 2 * np.pi * (words[:, 1] // 256) / 2**24
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        exact = mean + std * pairs.reshape(-1)[:n]
        size = np.abs(mean) + std * np.repeat(radius, 2)[:n]

        first = 0 if aligned else 1
        out = poisoned(device, n + first)[first:]
        device.ops.random_normal(state, out, mean=mean, std=std)
        # log, sqrt, sine within 2 units in the last place each; a product and an fma
        assert_close(out, exact, gamma(12) * size)
        assert np.asarray(state).tolist() == host.tolist()

    moments = st.sampled_from([(0.0, 1.0), (0.5, 0.25), (-2.0, 3.0)])
    for_all(st.tuples(STATES, SIZES, moments, st.booleans()), examples_for(device, 20), body)


def test_known_answer(device: Any) -> None:
    """The published vector of Philox4x32-10 for an all-zero key and counter."""
    state = upload(device, np.zeros(2, np.uint64))
    out = poisoned(device, 4)
    device.ops.random_uniform(state, out)
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
    assert np.asarray(out).tolist() == ((words >> 8) / 2**24).tolist()


def test_one_draw_or_many_give_one_stream(device: Any) -> None:
    whole, parts = poisoned(device, 3000), poisoned(device, 3000)
    state = upload(device, np.array([7, 0], np.uint64))
    device.ops.random_uniform(state, whole)
    state = upload(device, np.array([7, 0], np.uint64))
    for begin, end in ((0, 4), (4, 1500), (1500, 3000)):
        device.ops.random_uniform(state, parts[begin:end])
    assert_same_bits(np.asarray(whole), np.asarray(parts))


def test_wrong_calls_are_refused(device: Any) -> None:
    out, state = poisoned(device, 4), upload(device, np.zeros(2, np.uint64))
    with pytest.raises(ValueError, match=r"\(4,\).*\(2,\)"):
        device.ops.random_uniform(out, out)
    with pytest.raises(TypeError, match="state"):
        device.ops.random_normal(upload(device, np.zeros(2, np.float32)), out)
    with pytest.raises(TypeError, match="from_numpy"):
        device.ops.random_normal(state, np.zeros(4, np.float32))
    nothing = device.empty((0,), np.float32)
    device.ops.random_uniform(state, nothing)
    assert np.asarray(state).tolist() == [0, 0]
