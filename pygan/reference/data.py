"""Batches out of a data set that stays on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import shapes


def gather_rows(
    table: np.ndarray,
    order: np.ndarray,
    cursor: np.ndarray,
    y: np.ndarray,
    *,
    scale: float = 1.0,
    shift: float = 0.0,
) -> None:
    """y[i] = table[order[(cursor + i) % K]] scale + shift.

    table (M, ...) uint8 or float32, order int32 (K,), cursor int32 (1,), y (n, ...) floating.
    Raises ValueError where shapes misfit, IndexError where order points outside the table.
    """
    shapes.check_shape(
        "gather_rows", "y", y, (len(y), *table.shape[1:]), f"a batch of table {table.shape}"
    )
    rows = _rows("gather_rows", table, order, cursor, len(y))
    np.multiply(table[rows], y.dtype.type(scale), out=y)
    if shift:
        y += y.dtype.type(shift)


def gather_one_hot(
    labels: np.ndarray, order: np.ndarray, cursor: np.ndarray, y: np.ndarray
) -> None:
    """y[i, k] = 1 where k = labels[order[(cursor + i) % K]], else 0.

    labels uint8 (M,), order int32 (K,), cursor int32 (1,), y (n, classes). A label that is not
    one of the classes leaves its row 0.
    """
    shapes.check_rank("gather_one_hot", "y", y, 2, "(n, classes)")
    shapes.check_rank("gather_one_hot", "labels", labels, 1, "(M,)")
    rows = _rows("gather_one_hot", labels, order, cursor, len(y))
    y[...] = labels[rows][:, None] == np.arange(y.shape[1])


def store_row(
    cursor: np.ndarray,
    rows: np.ndarray,
    *parts: np.ndarray,
    offsets: Sequence[int],
    advance: bool = False,
) -> None:
    """rows[cursor, offset:offset + part.size] = part, for each part and its offset.

    cursor int32 (1,), rows (R, size), parts of any shape, one at least. advance: the cursor then
    moves on, from the last row to the first. A cursor that is none of the rows leaves them, and
    stays. Raises ValueError where the elements do not fit a row.
    """
    shapes.check_rank("store_row", "rows", rows, 2, "(R, size)")
    shapes.check_shape("store_row", "cursor", cursor, (1,), "one position")
    if not 0 < len(parts) == len(offsets):
        raise ValueError(f"store_row: {len(parts)} parts and {len(offsets)} offsets were given")
    for part, offset in zip(parts, offsets, strict=True):
        if not 0 <= offset <= rows.shape[1] - part.size:
            raise ValueError(
                f"store_row: {part.size} elements from place {offset} on do not fit a row of "
                f"rows {rows.shape}"
            )
    if 0 <= cursor[0] < len(rows):
        row = rows[int(cursor[0])]
        for part, offset in zip(parts, offsets, strict=True):
            row[offset : offset + part.size] = part.ravel()
        if advance:
            cursor[0] = (int(cursor[0]) + 1) % len(rows)


def advance_cursor(cursor: np.ndarray, *, step: int, modulo: int) -> None:
    """cursor (int32 (1,)) = (cursor + step) % modulo"""
    shapes.check_shape("advance_cursor", "cursor", cursor, (1,), "one position")
    if modulo < 1:
        raise ValueError(f"advance_cursor: modulo {modulo} must be at least 1")
    cursor[0] = (int(cursor[0]) + step) % modulo


def _rows(
    operator: str, table: np.ndarray, order: np.ndarray, cursor: np.ndarray, n: int
) -> np.ndarray:
    shapes.check_rank(operator, "order", order, 1, "(K,)")
    shapes.check_shape(operator, "cursor", cursor, (1,), "one position")
    if len(order) == 0:
        raise ValueError(f"{operator}: order {order.shape} is empty; there is no row to take")
    rows = order[(int(cursor[0]) + np.arange(n)) % len(order)]
    if n and not (rows.min() >= 0 and rows.max() < len(table)):
        raise IndexError(
            f"{operator}: order points at rows {rows.min()}..{rows.max()} of {len(table)}"
        )
    return rows
