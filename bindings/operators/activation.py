"""Launchers of kernels/activation.cu; the maths is in pygan.reference.activation."""

from __future__ import annotations

from typing import Any

from .storage import types
from .validation import THREADS, blocks_for, same_shape

KINDS = ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus")


def check_kind(operator: str, kind: str | None) -> str:
    """The enumerator of kernels/activation.cuh for `kind`; None is no activation."""
    if kind is None:
        return "none"
    if kind not in KINDS:
        raise ValueError(f"{operator}: activation {kind!r} is unknown; use one of {KINDS}")
    return kind


def activation_forward(x: Any, y: Any, *, kind: str, slope: float = 0.0) -> None:
    """y = kind(x), any shape; y may be x; both may hold bf16 numbers. ValueError for an unknown
    kind or shapes that differ."""
    operator = "activation_forward"
    if kind is None:
        raise ValueError(f"{operator}: activation None is unknown; use one of {KINDS}")
    check_kind(operator, kind)
    same_shape(operator, x=x, y=y)
    if x.size:
        # FROM_INPUT only matters to the backward, but shares one compilation with it
        variant = {"ACTIVATION": kind, "FROM_INPUT": 0} | types(ELEMENT=y)
        kernel = x.context.kernel("activation.cu", operator, **variant)
        kernel(blocks_for(x.size), THREADS, x, y, x.size, slope)


def activation_backward(
    x: Any | None,
    y: Any,
    dy: Any,
    dx: Any,
    *,
    kind: str,
    slope: float = 0.0,
    accumulate: bool = False,
) -> None:
    """dx = dy times the derivative of `kind`, any shape; dx may be dy; all of them may hold bf16
    numbers.

    x may be None, except for leaky_relu and elu with a negative slope, whose output does not tell
    the sign of the input (ValueError).
    """
    operator = "activation_backward"
    if kind is None:
        raise ValueError(f"{operator}: activation None is unknown; use one of {KINDS}")
    check_kind(operator, kind)
    same_shape(operator, y=y, dy=dy, dx=dx, x=x)
    from_input = kind in ("leaky_relu", "elu") and slope < 0
    if from_input and x is None:
        raise ValueError(f"{operator}: {kind} with slope {slope} < 0 needs its input x")
    if y.size:
        variant = {"ACTIVATION": kind, "FROM_INPUT": int(from_input)} | types(ELEMENT=dx)
        kernel = y.context.kernel("activation.cu", operator, **variant)
        source = x if from_input else y
        kernel(blocks_for(y.size), THREADS, source, dy, dx, y.size, slope, int(accumulate))
