"""The two ways a result reaches its array."""

from __future__ import annotations

import numpy as np


def store(output: np.ndarray, value: np.ndarray, accumulate: bool) -> None:
    """output = value, whatever output held before; or output += value."""
    if accumulate:
        output += value
    else:
        output[...] = value
