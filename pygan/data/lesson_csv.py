"""The CSV form of MNIST that the lessons read: a header, then label,pixel0,...,pixel783 a row."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from pygan.errors import DataError

SIDE = 28
COLUMNS = 1 + SIDE * SIDE
CLASSES = 10


def read_lesson_csv(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (M, 28, 28, 1) uint8 and labels (M,) uint8 of a CSV file.

    Raises DataError naming the line (the header is line 1) for a missing or empty file, a row with
    another number of values, a value that is no integer, a pixel outside 0..255 or a label outside
    0..9.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{path}: empty; expected a header and rows of label,pixel0,...,pixel783")
    header = lines[0].replace(b'"', b"")
    first = 2
    if header.split(b",")[0].strip().isdigit():
        first = 1  # a file without a header: its first line is data
    rows = lines[first - 1 :]
    if not rows:
        raise DataError(f"{path}: only a header; expected rows of label,pixel0,...,pixel783")
    for number, row in enumerate(rows, first):
        found = row.count(b",") + 1
        if found != COLUMNS:
            raise DataError(
                f"{path}, line {number}: {found} values, expected {COLUMNS} "
                f"(a label and {SIDE}x{SIDE} pixels)"
            )
    table = _parse(rows, path, first)
    _check_range(table[:, :1], CLASSES - 1, "label", path, first)
    _check_range(table[:, 1:], 255, "pixel", path, first)
    images = table[:, 1:].astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
    return images, table[:, 0].astype(np.uint8)


def _parse(rows: list[bytes], path: Path, first: int) -> np.ndarray:
    with warnings.catch_warnings():
        # numpy warns, and stops, at the first text that is no number; the search below names it.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            values = np.fromstring(b",".join(rows), dtype=np.int64, sep=",")
        except ValueError:
            values = np.empty(0, np.int64)
    if values.size == len(rows) * COLUMNS:
        return values.reshape(len(rows), COLUMNS)
    for number, row in enumerate(rows, first):
        for column, text in enumerate(row.split(b",")):
            try:
                int(text)
            except ValueError:
                name = "label" if column == 0 else f"pixel{column - 1}"
                shown = text.decode("utf-8", "replace")
                raise DataError(
                    f"{path}, line {number}, {name}: {shown!r} is not an integer"
                ) from None
    raise DataError(f"{path}: {values.size:,} values read, expected {len(rows) * COLUMNS:,}")


def _check_range(values: np.ndarray, limit: int, name: str, path: Path, first: int) -> None:
    bad = np.argwhere((values < 0) | (values > limit))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{path}, line {row + first}: {name} {values[row, column]} is outside 0..{limit}"
        )
