"""Launchers of kernels/data.cu; the maths is in pygan.reference.data."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from .validation import THREADS, blocks_for, countable, device_array, has_rank, has_shape

FILE = "data.cu"
TABLE_TYPES: dict[Any, dict[str, str]] = {
    np.dtype(np.uint8): {},
    np.dtype(np.float32): {"TABLE_TYPE": "float"},
}
"""Macros of kernels/data.cu."""
MAX_CHUNKS = 65535
PARTS = 6
"""Arrays that one launch of store_row takes."""


def gather_rows(
    table: Any, order: Any, cursor: Any, y: Any, *, scale: float = 1.0, shift: float = 0.0
) -> None:
    """y[i] = table[order[(cursor + i) % K]] * scale + shift.

    table (M, ...) uint8 or float32, order int32 (K,), cursor int32 (1,) and not negative, y
    (n, ...) float32. An entry of order outside the table gives a row of NaN. ValueError where
    shapes misfit or the table has another dtype.
    """
    operator = "gather_rows"
    rows = _check_order(operator, table, order, cursor)
    samples = device_array(operator, "y", y).shape[0] if y.shape else 0
    expected = (samples, *table.shape[1:])
    has_shape(operator, "y", y, expected, f"a batch of table {tuple(table.shape)}")
    if table.dtype not in TABLE_TYPES:
        raise ValueError(f"{operator}: table has dtype {table.dtype}; it must be uint8 or float32")
    row_size = prod(table.shape[1:])
    if y.size:
        kernel = y.context.kernel(FILE, operator, **TABLE_TYPES[table.dtype])
        grid = (samples, blocks_for(row_size, most=MAX_CHUNKS))
        kernel(grid, THREADS, table, order, cursor, y, rows, order.size, row_size, scale, shift)


def gather_one_hot(labels: Any, order: Any, cursor: Any, y: Any) -> None:
    """y[i, k] = 1 where k = labels[order[(cursor + i) % K]], else 0.

    labels uint8 (M,), order int32 (K,), cursor int32 (1,) and not negative, y (n, classes). A
    label that is not one of the classes leaves its row 0; an entry of order outside the labels
    gives a row of NaN. ValueError where shapes misfit.
    """
    operator = "gather_one_hot"
    has_rank(operator, "y", y, 2, "(n, classes)")
    has_rank(operator, "labels", labels, 1, "(M,)")
    rows = _check_order(operator, labels, order, cursor)
    if y.size:
        kernel = y.context.kernel(FILE, operator)
        kernel(blocks_for(y.size), THREADS, labels, order, cursor, y, rows, order.size, *y.shape)


def store_row(
    cursor: Any, rows: Any, *parts: Any, offsets: Sequence[int], advance: bool = False
) -> None:
    """rows[cursor, offset:offset + part.size] = part, for each part and its offset.

    cursor int32 (1,), rows (R, size), parts of any shape, one at least. advance: the cursor then
    moves on, from the last row to the first. A cursor that is none of the rows leaves them, and
    stays. ValueError where the elements do not fit a row.
    """
    operator = "store_row"
    has_rank(operator, "rows", rows, 2, "(R, size)")
    has_shape(operator, "cursor", cursor, (1,), "one position")
    count, size = rows.shape
    countable(operator, "elements of a row", size)
    if not 0 < len(parts) == len(offsets):
        raise ValueError(f"{operator}: {len(parts)} parts and {len(offsets)} offsets were given")
    for part, offset in zip(parts, offsets, strict=True):
        n = device_array(operator, "a part", part).size
        if not 0 <= offset <= size - n:
            raise ValueError(
                f"{operator}: {n} elements from place {offset} on do not fit a row of "
                f"rows {tuple(rows.shape)}"
            )
    kernel = rows.context.kernel(FILE, operator)
    for first in range(0, len(parts), PARTS):
        given, at = parts[first : first + PARTS], tuple(offsets[first : first + PARTS])
        absent = PARTS - len(given)
        counts = (*(part.size for part in given), *(0,) * absent)
        places = (*at, *(0,) * absent)
        moves = int(advance and first + PARTS >= len(parts))
        arrays = (cursor, rows, *given, *(None,) * absent)
        kernel(1, THREADS, *arrays, *places, *counts, count, size, moves)


def advance_cursor(cursor: Any, *, step: int, modulo: int) -> None:
    """cursor (int32 (1,)) = (cursor + step) % modulo, on the device."""
    operator = "advance_cursor"
    has_shape(operator, "cursor", cursor, (1,), "one position")
    if modulo < 1:
        raise ValueError(f"{operator}: modulo {modulo} must be at least 1")
    # C's % keeps the sign of a negative sum, so the step is made positive first
    cursor.context.kernel(FILE, operator)(1, 1, cursor, step % modulo, modulo)


def _check_order(operator: str, table: Any, order: Any, cursor: Any) -> int:
    """Rows of the table."""
    if not device_array(operator, "table", table).shape:
        raise ValueError(f"{operator}: table has shape (); it must be (M, ...)")
    has_rank(operator, "order", order, 1, "(K,)")
    has_shape(operator, "cursor", cursor, (1,), "one position")
    if not order.size:
        raise ValueError(
            f"{operator}: order {tuple(order.shape)} is empty; there is no row to take"
        )
    return table.shape[0]
