"""Arrays that hold bf16 numbers: the upper halves of float32 numbers, as uint16 (numpy has no
bfloat16). Kernels read them as kernels/stored.cuh has it, compute in float32, and round once where
they store. To numpy, DLPack and the CUDA array interface they are what they are made of, uint16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .validation import THREADS, blocks_for, same_shape

HALF = np.dtype(np.uint16)
ALIGNMENT = 16
"""Bytes of a unit of them, and what they begin at a multiple of."""

CHANNELS = 8
"""Of a unit: what channels are a multiple of, in every group."""


def is_half(array: Any | None) -> bool:
    return array is not None and array.dtype == HALF


def types(**arrays: Any | None) -> dict[str, Any]:
    """The -D constants, by the names given, that tell a kernel of arrays with bf16 numbers."""
    return {name: "Bf16" for name, array in arrays.items() if is_half(array)}


def whole_units(operator: str, *arrays: Any | None) -> None:
    """ValueError for an array (None is skipped), of those that a kernel for bf16 numbers is given,
    that does not begin where units of 16 bytes do."""
    for array in arrays:
        if array is not None and array.ptr % ALIGNMENT:
            raise ValueError(
                f"{operator}: with bf16 numbers arrays are read and written in units of "
                f"{ALIGNMENT} bytes, and one of shape {tuple(array.shape)} begins "
                f"{array.ptr % ALIGNMENT} bytes behind a multiple of that"
            )


def to_bf16(x: Any, y: Any) -> None:
    """y (uint16) = x (float32, any shape) rounded to bf16. ValueError for shapes that differ."""
    operator = "to_bf16"
    same_shape(operator, x=x, y=y)
    if x.size:
        kernel = x.context.kernel("rounding.cu", operator)
        kernel(blocks_for(x.size), THREADS, x, y, x.size)
