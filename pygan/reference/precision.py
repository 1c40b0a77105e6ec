"""Precisions of the tensor cores, in numpy: operands rounded, then the twin in its own arithmetic.

An operand of TF32 keeps 11 significant bits (10 stored), rounded to nearest with ties away from
zero, as PTX's cvt.rna.tf32.f32 does; one of bf16 keeps 8 (7 stored), ties to even, as
cvt.rn.bf16x2.f32 does. Both have the exponents of float32. Products of two such numbers are exact
in float32, so what remains is the rounding of the sums, which a twin does in the dtype of its
arrays: with float64 arrays its result is exact for the rounded operands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from . import convolution, fully_connected
from .prologue import normalised

PRECISIONS = ("float32", "tf32", "bf16")


def rounded(array: np.ndarray, precision: str) -> np.ndarray:
    """`array` with every number rounded to `precision`, in the array's own dtype.

    float64 numbers are rounded to float32 first. NaN stays NaN. Numbers that pass the largest of
    the format become infinite. Raises ValueError for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    single = np.asarray(array, np.float32)
    if precision != "float32":
        bits = single.view(np.uint32)
        if precision == "tf32":
            kept = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
        else:
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            kept = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
        single = np.where(np.isnan(single), single, kept.view(np.float32))
    return single.astype(array.dtype, copy=False)


def to_bf16(x: np.ndarray, y: np.ndarray) -> None:
    """y = x (any shape) rounded to bf16: the upper halves of the numbers where y is uint16, as
    kernels hold them, else the numbers themselves."""
    single = rounded(x, "bf16")
    if y.dtype == np.uint16:
        y[...] = np.asarray(single, np.float32).view(np.uint32) >> np.uint32(16)
    else:
        y[...] = single


def with_precision(twin: Callable[..., None]) -> Callable[..., None]:
    """`twin`, whose first two arrays are the operands of its products, with one more attribute,
    `precision`: what the operands are rounded to first."""

    signature = inspect.signature(twin)
    names = list(signature.parameters)

    @wraps(twin)
    def chosen(*arrays: Any, precision: str = "float32", **attributes: Any) -> None:
        if precision != "float32":
            if "normalisation" in names:  # which comes before the rounding, and behind the result
                place, kind = names.index("normalisation"), attributes.pop("x_activation", None)
                given = arrays[place] if len(arrays) > place else None
                slope = attributes.pop("x_slope", 0.0)
                x = normalised(twin.__name__, arrays[0], given, kind, slope)
                arrays = (x, *arrays[1:place], None, *arrays[place + 1 :])
            arrays = (*(rounded(array, precision) for array in arrays[:2]), *arrays[2:])
        twin(*arrays, **attributes)

    parameter = inspect.Parameter(
        "precision", inspect.Parameter.KEYWORD_ONLY, default="float32", annotation="str"
    )
    parameters = [*signature.parameters.values(), parameter]
    # what inspect reads; typeshed's functions have no such attribute
    chosen.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    chosen.__doc__ = (
        f"{inspect.getdoc(twin)}\n\n"
        "precision: of the two operands of the products, 'float32' (as they are), 'tf32' or 'bf16' "
        "(rounded first; ValueError for another)."
    )
    return chosen


convolution_forward = with_precision(convolution.convolution_forward)
convolution_backward_data = with_precision(convolution.convolution_backward_data)
convolution_backward_weight = with_precision(convolution.convolution_backward_weight)
transposed_convolution_forward = with_precision(convolution.transposed_convolution_forward)
transposed_convolution_backward_data = with_precision(
    convolution.transposed_convolution_backward_data
)
transposed_convolution_backward_weight = with_precision(
    convolution.transposed_convolution_backward_weight
)
fully_connected_forward = with_precision(fully_connected.fully_connected_forward)
fully_connected_backward_data = with_precision(fully_connected.fully_connected_backward_data)
fully_connected_backward_weight = with_precision(fully_connected.fully_connected_backward_weight)
