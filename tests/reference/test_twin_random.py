"""Philox against the published known answers, and the distributions drawn from it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from pygan import reference
from pygan.reference.random import philox

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
N = 200_000


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    computed = philox(np.array([words(counter)] * 2, np.uint32), tuple(words(key)))
    assert computed.dtype == np.uint32
    assert computed.tolist() == [words(answer)] * 2


def test_words_become_numbers_as_documented():
    """Seed 0, counter 0 is the first known answer: its four words, top 24 bits each."""
    out = np.full(4, np.nan, np.float32)
    reference.random_uniform(np.zeros(2, np.uint64), out)
    top = np.array([word >> 8 for word in words(KNOWN_ANSWERS[0][2])])
    assert np.array_equal(out, (top * 2.0**-24).astype(np.float32))

    normal = np.full(4, np.nan, np.float32)
    reference.random_normal(np.zeros(2, np.uint64), normal)
    radius = np.sqrt(-2 * np.log((top[[0, 2]] + 1) * 2.0**-24))
    angle = 2 * np.pi * top[[1, 3]] * 2.0**-24
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
    # The angle is rounded at its size, up to 2 pi, and the radius, up to 6, multiplies the result.
    assert np.abs(normal - expected).max() < 6 * 8 * 2.0**-23


def test_the_key_and_the_counter_use_all_64_bits():
    seed, counter = 0x299F31D0A4093822, 0xFFFFFFFF
    out = np.empty(8, np.float32)
    reference.random_uniform(np.array([seed, counter], np.uint64), out)
    blocks = np.array([[0xFFFFFFFF, 0, 0, 0], [0, 1, 0, 0]], np.uint32)
    expected = philox(blocks, (0xA4093822, 0x299F31D0)).ravel() >> 8
    assert np.array_equal(out, expected * np.float32(2.0**-24))


@pytest.mark.parametrize("draw", [reference.random_uniform, reference.random_normal])
def test_the_stream_continues_and_repeats(draw):
    """Cut where a block of four ends, two calls give what one gives; a partial block is left."""
    whole = np.empty(23, np.float32)
    state = np.array([11, 5], np.uint64)
    draw(state, whole)
    assert state.tolist() == [11, 5 + 6]
    state = np.array([11, 5], np.uint64)
    first, second = np.empty((2, 4), np.float32), np.empty(15, np.float32)
    draw(state, first)
    draw(state, second)
    assert np.array_equal(np.concatenate([first.ravel(), second]), whole)
    other = np.empty_like(whole)
    draw(np.array([12, 5], np.uint64), other)
    assert not (other == whole).any()
    state = np.array([11, 2**64 - 2], np.uint64)
    draw(state, whole)
    assert state.tolist() == [11, 4]


def test_uniform_is_uniform():
    u = np.empty(N, np.float32)
    reference.random_uniform(np.array([1, 0], np.uint64), u)
    assert u.min() >= 0 and u.max() < 1
    # A fixed seed either passes or not, for ever; 1e-3 would be unlucky, not wrong.
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    pairs = np.corrcoef(u[:-1], u[1:])[0, 1]
    assert abs(pairs) < 5 / np.sqrt(N)
    reference.random_uniform(np.array([1, 0], np.uint64), u, low=-2.0, high=6.0)
    assert u.min() >= -2 and u.max() <= 6
    # Five standard errors of the mean.
    assert abs(u.mean(dtype=np.float64) - 2) < 5 * 8 / np.sqrt(12 * N)


def test_normal_is_normal():
    z = np.empty(N, np.float32)
    reference.random_normal(np.array([2, 0], np.uint64), z)
    assert np.isfinite(z).all()
    assert scipy.stats.kstest(z, "norm").pvalue > 1e-3
    even, odd = z[::2], z[1::2]
    assert abs(np.corrcoef(even, odd)[0, 1]) < 5 / np.sqrt(N / 2)
    # Cosine and sine of one radius are independent only if the squares are uncorrelated too.
    assert abs(np.corrcoef(even**2, odd**2)[0, 1]) < 5 / np.sqrt(N / 2)
    reference.random_normal(np.array([2, 0], np.uint64), z, mean=3.0, std=0.02)
    assert abs(z.mean(dtype=np.float64) - 3) < 5 * 0.02 / np.sqrt(N)
    assert abs(z.std(dtype=np.float64) / 0.02 - 1) < 5 / np.sqrt(2 * N)


def test_the_normal_of_the_smallest_word_is_finite(monkeypatch):
    """u1 = 2^-24, never 0: one word in 2^24 has no upper bits, too rare for a test to draw."""
    monkeypatch.setattr(
        "pygan.reference.random.draw_words", lambda state, n: np.zeros((1, 4), np.uint32)
    )
    z = np.full(4, np.nan, np.float32)
    reference.random_normal(np.zeros(2, np.uint64), z)
    expected = np.sqrt(2 * 24 * np.log(2)) * np.array([1, 0, 1, 0])
    assert np.abs(z - expected).max() < 6 * 4 * 2.0**-24


def test_float64_arrays_receive_the_same_numbers():
    for draw in (reference.random_uniform, reference.random_normal):
        narrow, wide = np.empty(7, np.float32), np.empty(7, np.float64)
        draw(np.array([3, 1], np.uint64), narrow)
        draw(np.array([3, 1], np.uint64), wide)
        assert np.array_equal(narrow, wide)


def test_a_wrong_state_is_refused():
    for state in (np.zeros(3, np.uint64), np.zeros(2, np.int64)):
        with pytest.raises(ValueError, match="random state"):
            reference.random_uniform(state, np.empty(4, np.float32))
