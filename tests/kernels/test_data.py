"""Batches gathered on the device, against the twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from support import assert_same_bits, examples_for, for_all, numbers, poisoned, upload


def cursor_at(device: Any, position: int) -> Any:
    return upload(device, np.array([position], np.int32))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rows_are_the_twins_bit_for_bit(device: Any, dtype: type) -> None:
    def body(case: tuple[int, int, int, tuple[int, ...], int]) -> None:
        rows, entries, samples, row, seed = case
        rng = np.random.default_rng(seed)
        table = rng.integers(0, 256, (rows, *row)).astype(dtype)
        if dtype == np.float32:
            table = numbers(rng, rows, *row)
        order = rng.integers(0, rows, entries).astype(np.int32)
        position = int(rng.integers(0, entries))
        for scale, shift in ((1.0, 0.0), (1 / 255, 0.0), (1 / 127.5, -1.0)):
            expected = np.empty((samples, *row), np.float32)
            at = np.array([position], np.int32)
            reference.gather_rows(table, order, at, expected, scale=scale, shift=shift)
            y = poisoned(device, samples, *row)
            device.ops.gather_rows(
                upload(device, table),
                upload(device, order),
                upload(device, at),
                y,
                scale=scale,
                shift=shift,
            )
            assert_same_bits(np.asarray(y), expected)

    # more samples than entries, so that the order is walked round and round
    cases = st.tuples(
        st.integers(1, 20),
        st.integers(1, 30),
        st.sampled_from([1, 3, 32, 65]),
        st.sampled_from([(), (1,), (7, 9, 1), (28, 28, 1), (1031,)]),
        st.integers(0, 2**32),
    )
    for_all(cases, examples_for(device, 12), body)


def test_one_hot_is_the_twins(device: Any) -> None:
    def body(case: tuple[int, int, int, int, int]) -> None:
        rows, entries, samples, classes, seed = case
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 11, rows).astype(np.uint8)  # some beyond the classes
        order = rng.integers(0, rows, entries).astype(np.int32)
        at = rng.integers(0, entries, 1).astype(np.int32)
        expected = np.empty((samples, classes), np.float32)
        reference.gather_one_hot(labels, order, at, expected)
        y = poisoned(device, samples, classes)
        device.ops.gather_one_hot(
            upload(device, labels), upload(device, order), upload(device, at), y
        )
        assert_same_bits(np.asarray(y), expected)

    cases = st.tuples(
        st.integers(1, 20),
        st.integers(1, 30),
        st.sampled_from([1, 5, 64]),
        st.sampled_from([1, 10, 11]),
        st.integers(0, 2**32),
    )
    for_all(cases, examples_for(device, 12), body)


def test_epochs_follow_the_cursor(device: Any) -> None:
    table = upload(device, np.arange(10, dtype=np.float32))
    order = upload(device, np.arange(10, dtype=np.int32)[::-1].copy())
    cursor, y = cursor_at(device, 0), poisoned(device, 4)
    seen = []
    for _ in range(5):
        device.ops.gather_rows(table, order, cursor, y)
        device.ops.advance_cursor(cursor, step=4, modulo=10)
        seen += np.asarray(y).tolist()
    assert seen == list(range(9, -1, -1)) * 2
    assert np.asarray(cursor).tolist() == [0]
    device.ops.advance_cursor(cursor, step=-3, modulo=10)
    assert np.asarray(cursor).tolist() == [7]
    device.ops.advance_cursor(cursor, step=2**31 - 1, modulo=2**31 - 1)
    assert np.asarray(cursor).tolist() == [7]


def test_rows_are_left_where_the_cursor_is(device: Any) -> None:
    """One to eight parts (a launch takes six) with gaps, in any order; and the cursor moves on."""

    def body(case: tuple[list[tuple[int, int]], int, bool, int]) -> None:
        sizes, after, advance, seed = case
        rng = np.random.default_rng(seed)
        ends = np.cumsum([gap + n for gap, n in sizes])
        parts = [
            (numbers(rng, 1, n), int(end) - n) for (_, n), end in zip(sizes, ends, strict=True)
        ]
        rng.shuffle(parts)
        rows = numbers(rng, 3, int(ends[-1]) + after)
        at = np.array([rng.integers(0, 3)], np.int32)
        written = int(at[0])
        found, place = upload(device, rows), upload(device, at)
        arrays, offsets = zip(*parts, strict=True)
        uploaded = [upload(device, part) for part in arrays]
        device.ops.store_row(place, found, *uploaded, offsets=offsets, advance=advance)
        reference.store_row(at, rows, *arrays, offsets=offsets, advance=advance)
        for part, offset in parts:
            np.testing.assert_array_equal(rows[written, offset : offset + part.size], part[0])
        assert_same_bits(np.asarray(found), rows)
        assert int(np.asarray(place)[0]) == at[0] == (written + advance) % 3

    part = st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 33, 300]))
    cases = st.tuples(
        st.lists(part, min_size=1, max_size=8),
        st.integers(0, 2),
        st.booleans(),
        st.integers(0, 2**32),
    )
    for_all(cases, examples_for(device, 12), body)


def test_a_row_outside_is_not_written(device: Any) -> None:
    rows, number = upload(device, np.ones((2, 3), np.float32)), poisoned(device, 3)
    for position in (-1, 2, 2**31 - 1):
        cursor = cursor_at(device, position)
        device.ops.store_row(cursor, rows, number, offsets=[0], advance=True)
        assert np.asarray(cursor).tolist() == [position]
    assert (np.asarray(rows) == 1).all()


def test_order_outside_the_table_shows_as_nan(device: Any) -> None:
    """A kernel cannot raise, and must not read what is not its own."""
    order = upload(device, np.array([1, 3, -1, 0], np.int32))
    table = upload(device, np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    y = poisoned(device, 4, 2)
    device.ops.gather_rows(table, order, cursor_at(device, 0), y)
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(np.asarray(y), [[3, 4], nan, nan, [1, 2]])
    labels = upload(device, np.array([0, 1, 1], np.uint8))
    device.ops.gather_one_hot(labels, order, cursor_at(device, 0), y)
    np.testing.assert_array_equal(np.asarray(y), [[0, 1], nan, nan, [1, 0]])


def test_wrong_calls_are_refused(device: Any) -> None:
    ops, cursor = device.ops, cursor_at(device, 0)
    table = upload(device, np.zeros((5, 3), np.uint8))
    order = upload(device, np.zeros(4, np.int32))
    y = poisoned(device, 2, 4)
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(5, 3\).*\(2, 3\)"):
        ops.gather_rows(table, order, cursor, y)
    with pytest.raises(ValueError, match="int64"):
        ops.gather_rows(upload(device, np.zeros((5, 4), np.int64)), order, cursor, y)
    with pytest.raises(ValueError, match=r"order.*\(2, 4\)"):
        ops.gather_rows(table, y, cursor, poisoned(device, 2, 3))
    with pytest.raises(ValueError, match="empty"):
        ops.gather_rows(table, device.empty((0,), np.int32), cursor, poisoned(device, 2, 3))
    with pytest.raises(ValueError, match=r"labels.*\(5, 3\)"):
        ops.gather_one_hot(table, order, cursor, y)
    with pytest.raises(ValueError, match=r"cursor.*\(4,\).*\(1,\)"):
        ops.advance_cursor(order, step=1, modulo=4)
    with pytest.raises(ValueError, match="modulo 0"):
        ops.advance_cursor(cursor, step=1, modulo=0)
    three, row = poisoned(device, 3), poisoned(device, 2, 3)
    with pytest.raises(ValueError, match=r"3 elements from place 1 on.*\(2, 3\)"):
        ops.store_row(cursor, row, three, offsets=[1])
    with pytest.raises(ValueError, match=r"rows.*\(3,\)"):
        ops.store_row(cursor, three, three, offsets=[0])
    for parts, offsets in (((), []), ((three,), [0, 1])):
        with pytest.raises(ValueError, match=f"{len(parts)} parts and {len(offsets)} offsets"):
            ops.store_row(cursor, row, *parts, offsets=offsets)
