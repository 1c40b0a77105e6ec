"""Pointwise activations and their derivatives.

    relu        max(x, 0)                       derivative 0 at 0
    leaky_relu  x where x > 0, else slope x     derivative slope at 0
    elu         x where x > 0, else slope (exp(x) - 1)
    sigmoid     1 / (1 + exp(-x))
    tanh
    softplus    log(1 + exp(x))                 (MXNet's softrelu)

MXNet's Activation and LeakyReLU. The derivatives are taken from the output y where it says
enough, so that the input need not be kept: all kinds, if slope >= 0.
"""

from __future__ import annotations

import numpy as np

from . import shapes
from .parallel import run, split_work
from .scratch import frame

KINDS = ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus")
# The kinds whose derivative depends on the input's sign alone.
FROM_SIGN = ("relu", "leaky_relu")
# The kinds whose output tells the derivative in a few operations (softplus needs an exponential).
FROM_OUTPUT = ("relu", "leaky_relu", "elu", "sigmoid", "tanh")


def activation_forward(x: np.ndarray, y: np.ndarray, *, kind: str, slope: float = 0.0) -> None:
    """y = kind(x), any shape; y may be x. Raises ValueError for an unknown kind or shapes."""
    check_kind("activation_forward", kind)
    shapes.check_same("activation_forward", x=x, y=y)
    shapes.check_contiguous("activation_forward", y)
    x, y = x.reshape(-1), y.reshape(-1)
    run(lambda part: apply(x[part], y[part], kind, slope), split_work(x.size, 2 * x.size))


def activation_backward(
    x: np.ndarray | None,
    y: np.ndarray,
    dy: np.ndarray,
    dx: np.ndarray,
    *,
    kind: str,
    slope: float = 0.0,
    accumulate: bool = False,
) -> None:
    """dx = dy times the derivative of `kind`, any shape; dx may be dy unless accumulating.

    x may be None, except for leaky_relu and elu with a negative slope, whose output does not tell
    the sign of the input (ValueError).
    """
    operator = "activation_backward"
    check_kind(operator, kind)
    shapes.check_same(operator, y=y, dy=dy, dx=dx, x=x)
    if x is None and kind in ("leaky_relu", "elu") and slope < 0:
        raise ValueError(f"{operator}: {kind} with slope {slope} < 0 needs its input x")
    shapes.check_contiguous(operator, dx)
    x = None if x is None else x.reshape(-1)
    y, dy, dx = y.reshape(-1), dy.reshape(-1), dx.reshape(-1)

    def multiply(part: slice) -> None:
        with frame() as empty:
            given = None if x is None else x[part]
            factor = derivative(given, y[part], kind, slope, empty(y[part].shape, y.dtype))
            if accumulate:
                dx[part] += np.multiply(factor, dy[part], out=factor)
            else:
                np.multiply(factor, dy[part], out=dx[part])

    run(multiply, split_work(y.size, 3 * y.size))


def apply(x: np.ndarray, y: np.ndarray, kind: str | None, slope: float) -> None:
    """y = kind(x) in as few passes as numpy allows; y may be x; None copies."""
    if kind is None:
        if y is not x:
            y[...] = x
    elif kind == "relu":
        x.clip(0, np.inf, out=y)  # numpy's maximum with a number is three times slower
    elif kind == "leaky_relu":
        with frame() as empty:
            scaled = np.multiply(x, x.dtype.type(slope), out=empty(x.shape, x.dtype))
            if 0 <= slope <= 1:
                np.maximum(x, scaled, out=y)
            else:
                y[...] = np.where(x > 0, x, scaled)
    elif kind == "elu":
        # expm1 of the negative part alone: exp of a large positive x would overflow.
        negative = np.clip(x, -np.inf, 0)
        np.expm1(negative, out=negative)
        negative *= x.dtype.type(slope)
        np.clip(x, 0, np.inf, out=y)
        y += negative
    elif kind == "sigmoid":
        sigmoid(x, y)
    elif kind == "tanh":
        np.tanh(x, out=y)
    else:
        # max(x, 0) + log(1 + exp(-|x|))
        small = _exp_minus_abs(x)
        np.log1p(small, out=small)
        np.clip(x, 0, np.inf, out=y)
        y += small


def derivative(
    x: np.ndarray | None,
    y: np.ndarray | None,
    kind: str,
    slope: float,
    out: np.ndarray,
    zero: np.ndarray | float = 0,
) -> np.ndarray:
    """out = derivative of `kind`, from the output y, or its sign from the input x if given.

    y may be None for FROM_SIGN with x, whose input is then x - zero; out may be x or y. Raises
    ValueError where neither tells the derivative.
    """
    if y is None:
        if x is None or kind not in FROM_SIGN:
            raise ValueError(f"the derivative of {kind} needs its output")
        y = x  # only its sign is looked at
    # Where the slope lies in 0..1, minima and maxima choose the side: numpy's choice by a mask is
    # several times slower.
    of_sign = y if x is None else x
    if kind == "relu":
        np.greater(of_sign, zero, out=out)
    elif kind == "leaky_relu":
        np.greater(of_sign, zero, out=out)
        if 0 <= slope <= 1:
            out.clip(slope, 1, out=out)
        else:
            out[...] = np.where(out, out.dtype.type(1), out.dtype.type(slope))
    elif kind == "elu":
        # slope exp(x) = y + slope on the negative side.
        if 0 <= slope <= 1:
            exponential = np.clip(y, -np.inf, 0)
            exponential += y.dtype.type(slope)
            np.greater(of_sign, 0, out=out)
            np.maximum(out, exponential, out=out)
        else:
            out[...] = np.where(of_sign > 0, y.dtype.type(1), y + y.dtype.type(slope))
    elif kind == "sigmoid":
        np.multiply(1 - y, y, out=out)
    elif kind == "tanh":
        # (1 - y)(1 + y): 1 - y^2 would cancel where |y| is near 1.
        np.multiply(1 - y, 1 + y, out=out)
    else:
        # softplus' = sigmoid(x) = 1 - exp(-y)
        np.negative(y, out=out)
        np.expm1(out, out=out)
        np.negative(out, out=out)
    return out


def sigmoid(x: np.ndarray, y: np.ndarray) -> None:
    """y = 1 / (1 + exp(-x)); y may be x.

    With e = exp(-|x|), 1 / (1 + e) for x >= 0 and e / (1 + e) below: nothing overflows, and small
    results keep their digits, which (1 + tanh(x / 2)) / 2 would lose.
    """
    e = _exp_minus_abs(x)
    numerator = np.empty_like(e)
    np.greater_equal(x, 0, out=numerator)
    np.maximum(numerator, e, out=numerator)  # e is at most 1
    e += 1
    np.divide(numerator, e, out=y)


def _exp_minus_abs(x: np.ndarray) -> np.ndarray:
    e = np.abs(x)
    np.negative(e, out=e)
    return np.exp(e, out=e)


def check_kind(operator: str, kind: str) -> str:
    """`kind`, or ValueError for an unknown one."""
    if kind not in KINDS:
        raise ValueError(f"{operator}: activation {kind!r} is unknown; use one of {KINDS}")
    return kind


def check_from_output(operator: str, kind: str, slope: float) -> None:
    """ValueError unless a data gradient can be multiplied with the derivative as it is stored."""
    if check_kind(operator, kind) not in FROM_OUTPUT or slope < 0:
        raise ValueError(
            f"{operator}: the derivative of {kind} with slope {slope} is not taken from the output "
            f"here; use activation_backward (kinds that are: {FROM_OUTPUT}, slope >= 0)"
        )
