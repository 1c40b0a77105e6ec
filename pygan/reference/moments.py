"""Moments of an array's channels in parts of its rows, for a batch norm that merges them.

A vector of t (2 C + 1) numbers for t parts of C channels: (t, C) means, (t, C) sums of squared
deviations from them, (t,) counts of rows, which may be 0. Merging: Chan, Golub and LeVeque,
"Algorithms for computing the sample variance" (1983).
"""

from __future__ import annotations

import numpy as np

from . import shapes


def check_finished(
    operator: str,
    moments: np.ndarray | None,
    activation: str | None,
    accumulate: bool,
    in_slices: bool,
) -> None:
    """ValueError for what a result cannot be that leaves moments."""
    if moments is not None and (activation is not None or accumulate or in_slices):
        raise ValueError(
            f"{operator}: moments are those of a finished sum that is written; activation, "
            "accumulate and in_slices do not go with them"
        )


def leave_moments(operator: str, result: np.ndarray, moments: np.ndarray | None) -> None:
    """Those of result (..., C), all in the first part; the others are of nothing."""
    if moments is None:
        return
    means, squares, counts = _parts(operator, moments, result.shape[-1])
    rows = result.reshape(-1, result.shape[-1])
    for part in (means, squares, counts):
        part[...] = 0
    if len(rows):
        means[0] = rows[0] + (rows - rows[0]).mean(axis=0)
        squares[0] = np.square(rows - means[0]).sum(axis=0)
        counts[0] = len(rows)


def merge_moments(
    operator: str, moments: np.ndarray, rows: int, mean: np.ndarray, var: np.ndarray
) -> None:
    """mean and biased variance (C,) of all `rows` rows. ValueError where the parts have others."""
    means, squares, counts = _parts(operator, moments, len(mean))
    if counts.sum() != rows:
        raise ValueError(f"{operator}: moments are of {counts.sum()} rows, but x has {rows}")
    some = counts > 0  # of the others there may be no numbers
    means, squares, counts = means[some], squares[some], counts[some, None]
    mean[...] = means[0] + (counts * (means - means[0])).sum(axis=0) / rows
    var[...] = (squares + counts * np.square(means - mean)).sum(axis=0) / rows


def _parts(
    operator: str, moments: np.ndarray, channels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (t, C), squares (t, C) and counts (t,), views."""
    parts, rest = divmod(moments.size, 2 * channels + 1)
    if moments.ndim != 1 or rest or not parts:
        raise ValueError(
            f"{operator}: moments has shape {moments.shape}; those of parts with {channels} "
            f"channels are a vector of a multiple of {2 * channels + 1} numbers"
        )
    shapes.check_contiguous(operator, moments)
    numbers = parts * channels
    halves = moments[: 2 * numbers].reshape(2, parts, channels)
    return halves[0], halves[1], moments[2 * numbers :]
