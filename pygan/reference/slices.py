"""Results in slices, (slices, ...), whose sum a batch norm takes: the twins put all of it into the
first."""

from __future__ import annotations

import numpy as np


def only_slice(
    operator: str,
    result: np.ndarray,
    bias: np.ndarray | None,
    activation: str | None,
    accumulate: bool,
) -> np.ndarray:
    """Of a result (slices, ...): the first; the others become 0."""
    if result.ndim < 2 or not len(result):
        raise ValueError(f"{operator}: in_slices takes a result (slices, ...), not {result.shape}")
    if bias is not None or activation is not None or accumulate:
        raise ValueError(
            f"{operator}: in_slices leaves a sum unfinished; bias, activation and accumulate "
            "belong to whoever adds the slices"
        )
    result[1:] = 0
    return result[0]
