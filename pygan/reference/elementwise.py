"""Elementwise sums, products and exponentials, broadcasting, and concatenation."""

from __future__ import annotations

import numpy as np

from . import shapes
from .store import store


def add_forward(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """y = a + b, one shape; y may be a or b."""
    shapes.check_same("add_forward", a=a, b=b, y=y)
    np.add(a, b, out=y)


def multiply_forward(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """y = a b elementwise, one shape; y may be a or b."""
    shapes.check_same("multiply_forward", a=a, b=b, y=y)
    np.multiply(a, b, out=y)


def multiply_backward(
    dy: np.ndarray, other: np.ndarray, da: np.ndarray, *, accumulate: bool = False
) -> None:
    """da = dy other: the gradient of one factor, given the other."""
    shapes.check_same("multiply_backward", dy=dy, other=other, da=da)
    if accumulate:
        da += dy * other
    else:
        np.multiply(dy, other, out=da)


def axpy(x: np.ndarray, y: np.ndarray, *, alpha: float = 1.0, accumulate: bool = False) -> None:
    """y = alpha x, or y += alpha x: copy, scale, and the gradient of a sum."""
    shapes.check_same("axpy", x=x, y=y)
    scaled = x if alpha == 1 else x * x.dtype.type(alpha)
    store(y, scaled, accumulate)


def broadcast_multiply_forward(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """y = a b with numpy's broadcasting, up to 4 axes (MXNet's broadcast_mul)."""
    _check_broadcast("broadcast_multiply_forward", a, b, y)
    np.multiply(a, b, out=y)


def broadcast_multiply_backward(
    dy: np.ndarray, other: np.ndarray, da: np.ndarray, *, accumulate: bool = False
) -> None:
    """da = dy other summed over the axes along which a was broadcast to dy."""
    _check_broadcast("broadcast_multiply_backward", da, other, dy)
    lead = dy.ndim - da.ndim
    stretched = tuple(
        axis
        for axis in range(dy.ndim)
        if axis < lead or (da.shape[axis - lead] == 1 and dy.shape[axis] != 1)
    )
    product = dy * other
    store(da, product.sum(axis=stretched).reshape(da.shape), accumulate)


def concatenate_forward(x: np.ndarray, y: np.ndarray, *, axis: int, offset: int) -> None:
    """y[.., offset : offset + x.shape[axis], ..] = x: one input's part of a concatenation."""
    y[_part("concatenate_forward", x, y, axis, offset)] = x


def concatenate_backward(
    dy: np.ndarray, dx: np.ndarray, *, axis: int, offset: int, accumulate: bool = False
) -> None:
    """dx = dy[.., offset : offset + dx.shape[axis], ..]: one input's gradient."""
    store(dx, dy[_part("concatenate_backward", dx, dy, axis, offset)], accumulate)


def exp_forward(x: np.ndarray, y: np.ndarray) -> None:
    """y = exp(x), any shape; y may be x. Its gradient is multiply_backward with y as the factor."""
    shapes.check_same("exp_forward", x=x, y=y)
    np.exp(x, out=y)


def reparametrization_forward(
    mean: np.ndarray, lnsd: np.ndarray, noise: np.ndarray, code: np.ndarray
) -> None:
    """code = mean + exp(lnsd) noise, one shape: a sample of N(mean, exp(lnsd)^2) for noise N(0, 1).

    Kingma and Welling, "Auto-encoding variational Bayes" (2014), section 2.4, with the logarithm of
    the standard deviation.
    """
    shapes.check_same("reparametrization_forward", mean=mean, lnsd=lnsd, noise=noise, code=code)
    sample = np.exp(lnsd)
    sample *= noise
    np.add(sample, mean, out=code)


def reparametrization_backward_lnsd(
    lnsd: np.ndarray,
    noise: np.ndarray,
    dcode: np.ndarray,
    dlnsd: np.ndarray,
    *,
    accumulate: bool = False,
) -> None:
    """dlnsd = dcode noise exp(lnsd); the mean's gradient is dcode itself."""
    operator = "reparametrization_backward_lnsd"
    shapes.check_same(operator, lnsd=lnsd, noise=noise, dcode=dcode, dlnsd=dlnsd)
    store(dlnsd, dcode * noise * np.exp(lnsd), accumulate)


def reparametrization_backward_noise(
    lnsd: np.ndarray, dcode: np.ndarray, dnoise: np.ndarray, *, accumulate: bool = False
) -> None:
    """dnoise = dcode exp(lnsd)"""
    shapes.check_same("reparametrization_backward_noise", lnsd=lnsd, dcode=dcode, dnoise=dnoise)
    store(dnoise, dcode * np.exp(lnsd), accumulate)


def fill(y: np.ndarray, *, value: float) -> None:
    """y = value, everywhere."""
    y.fill(value)


def _part(
    operator: str, part: np.ndarray, whole: np.ndarray, axis: int, offset: int
) -> tuple[slice, ...]:
    """The index of `part` in `whole`: all of every axis but `axis`, which starts at `offset`."""
    rank = len(whole.shape)
    if not -rank <= axis < rank:
        raise ValueError(f"{operator}: axis {axis} is not one of the {rank} of {whole.shape}")
    axis %= rank
    expected = list(whole.shape)
    if len(part.shape) == rank:
        expected[axis] = part.shape[axis]
    if tuple(part.shape) != tuple(expected) or not 0 <= offset <= (
        whole.shape[axis] - part.shape[axis]
    ):
        raise ValueError(
            f"{operator}: {part.shape} does not fit into {whole.shape} at {offset} of axis {axis}"
        )
    index = [slice(None)] * rank
    index[axis] = slice(offset, offset + part.shape[axis])
    return tuple(index)


def _check_broadcast(operator: str, a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    try:
        expected = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(f"{operator}: {a.shape} and {b.shape} do not broadcast") from None
    if len(expected) > 4:
        raise ValueError(f"{operator}: {a.shape} and {b.shape} broadcast to more than 4 axes")
    shapes.check_shape(
        operator, "the product", y, expected, f"the product of {a.shape} and {b.shape}"
    )
