"""Launchers of kernels/elementwise.cu; the maths is in pygan.reference.elementwise."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from .validation import THREADS, blocks_for, device_array, has_shape, same_shape

FILE = "elementwise.cu"
AXES = 4


def add_forward(a: Any, b: Any, y: Any) -> None:
    """y = a + b, one shape; y may be a or b. ValueError where shapes differ."""
    same_shape("add_forward", a=a, b=b, y=y)
    if y.size:
        kernel = y.context.kernel(FILE, "add_forward")
        kernel(blocks_for(y.size), THREADS, a, b, y, y.size)


def multiply_forward(a: Any, b: Any, y: Any) -> None:
    """y = a * b elementwise, one shape; y may be a or b. ValueError where shapes differ."""
    same_shape("multiply_forward", a=a, b=b, y=y)
    if y.size:
        kernel = y.context.kernel(FILE, "multiply_forward")
        kernel(blocks_for(y.size), THREADS, a, b, y, y.size)


def multiply_backward(dy: Any, other: Any, da: Any, *, accumulate: bool = False) -> None:
    """da = dy * other: the gradient of one factor, given the other; da may be dy."""
    same_shape("multiply_backward", dy=dy, other=other, da=da)
    if da.size:
        kernel = da.context.kernel(FILE, "multiply_backward")
        kernel(blocks_for(da.size), THREADS, dy, other, da, da.size, int(accumulate))


def axpy(x: Any, y: Any, *, alpha: float = 1.0, accumulate: bool = False) -> None:
    """y = alpha * x, or y += alpha * x: copy, scale, and the gradient of a sum."""
    same_shape("axpy", x=x, y=y)
    if y.size:
        kernel = y.context.kernel(FILE, "axpy")
        kernel(blocks_for(y.size), THREADS, x, y, y.size, alpha, int(accumulate))


def fill(y: Any, *, value: float) -> None:
    """y = value, everywhere; y float32."""
    device_array("fill", "y", y)
    if y.size:
        kernel = y.context.kernel(FILE, "fill")
        kernel(blocks_for(y.size), THREADS, y, y.size, value)


def exp_forward(x: Any, y: Any) -> None:
    """y = exp(x), any shape; y may be x. Its gradient is multiply_backward with y as the factor."""
    same_shape("exp_forward", x=x, y=y)
    if y.size:
        kernel = y.context.kernel(FILE, "exp_forward")
        kernel(blocks_for(y.size), THREADS, x, y, y.size)


def reparametrization_forward(mean: Any, lnsd: Any, noise: Any, code: Any) -> None:
    """code = mean + exp(lnsd) * noise, one shape. ValueError where shapes differ."""
    operator = "reparametrization_forward"
    same_shape(operator, mean=mean, lnsd=lnsd, noise=noise, code=code)
    if code.size:
        kernel = code.context.kernel(FILE, operator)
        kernel(blocks_for(code.size), THREADS, mean, lnsd, noise, code, code.size)


def reparametrization_backward_lnsd(
    lnsd: Any, noise: Any, dcode: Any, dlnsd: Any, *, accumulate: bool = False
) -> None:
    """dlnsd = dcode * noise * exp(lnsd); the mean's gradient is dcode itself."""
    operator = "reparametrization_backward_lnsd"
    same_shape(operator, lnsd=lnsd, noise=noise, dcode=dcode, dlnsd=dlnsd)
    n = dlnsd.size
    if n:
        kernel = dlnsd.context.kernel(FILE, operator)
        kernel(blocks_for(n), THREADS, lnsd, noise, dcode, dlnsd, n, int(accumulate))


def reparametrization_backward_noise(
    lnsd: Any, dcode: Any, dnoise: Any, *, accumulate: bool = False
) -> None:
    """dnoise = dcode * exp(lnsd)"""
    operator = "reparametrization_backward_noise"
    same_shape(operator, lnsd=lnsd, dcode=dcode, dnoise=dnoise)
    n = dnoise.size
    if n:
        kernel = dnoise.context.kernel(FILE, operator)
        kernel(blocks_for(n), THREADS, lnsd, dcode, dnoise, n, int(accumulate))


def broadcast_multiply_forward(a: Any, b: Any, y: Any) -> None:
    """y = a * b with numpy's broadcasting, up to 4 axes. ValueError where it does not fit."""
    operator = "broadcast_multiply_forward"
    _check_broadcast(operator, a, b, y)
    if y.size:
        kernel = y.context.kernel(FILE, operator)
        extents = _four(y.shape)
        kernel(
            blocks_for(y.size, THREADS),
            THREADS,
            a,
            b,
            y,
            *extents,
            *_strides(_four(a.shape)),
            *_strides(_four(b.shape)),
        )


def broadcast_multiply_backward(dy: Any, other: Any, da: Any, *, accumulate: bool = False) -> None:
    """da = dy * other summed over the axes along which a was broadcast to dy."""
    operator = "broadcast_multiply_backward"
    _check_broadcast(operator, da, other, dy)
    if not da.size:
        return
    whole, kept = _four(dy.shape), _four(da.shape)
    repeated = tuple(n if k == 1 else 1 for n, k in zip(whole, kept, strict=True))
    # Threads per sum: one where sums are short, a block where they are long.
    terms = prod(repeated)
    lanes = 1 if terms < 16 else 32 if terms < 4096 else THREADS
    variant = {} if lanes == 32 else {"LANES_PER_SUM": lanes}  # 32 is the file's default
    kernel = da.context.kernel(FILE, operator, **variant)
    sums = da.size // 4 if kept[-1] % 4 == 0 else da.size
    kernel(
        blocks_for(sums, THREADS // lanes),
        THREADS,
        dy,
        other,
        da,
        *kept,
        *repeated,
        *_strides(whole),
        *_strides(_four(other.shape)),
        int(accumulate),
    )


def concatenate_forward(x: Any, y: Any, *, axis: int, offset: int) -> None:
    """y[.., offset : offset + x.shape[axis], ..] = x: one input's part of a concatenation."""
    operator = "concatenate_forward"
    rows = _check_part(operator, x, y, axis, offset)
    if x.size:
        kernel = y.context.kernel(FILE, operator)
        kernel(blocks_for(x.size, THREADS), THREADS, x, y, x.size, *rows)


def concatenate_backward(
    dy: Any, dx: Any, *, axis: int, offset: int, accumulate: bool = False
) -> None:
    """dx = dy[.., offset : offset + dx.shape[axis], ..]: one input's gradient."""
    operator = "concatenate_backward"
    rows = _check_part(operator, dx, dy, axis, offset)
    if dx.size:
        kernel = dx.context.kernel(FILE, operator)
        kernel(blocks_for(dx.size, THREADS), THREADS, dy, dx, dx.size, *rows, int(accumulate))


def _four(shape: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (AXES - len(shape)) + tuple(shape)


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements between neighbours along each axis, 0 along axes of extent 1."""
    return tuple(0 if n == 1 else prod(shape[axis + 1 :]) for axis, n in enumerate(shape))


def _check_broadcast(operator: str, a: Any, b: Any, y: Any) -> None:
    one = tuple(device_array(operator, "a", a).shape)
    other = tuple(device_array(operator, "b", b).shape)
    if max(len(one), len(other)) > AXES:
        raise ValueError(f"{operator}: {one} and {other} broadcast to more than {AXES} axes")
    product = []
    for m, n in zip(_four(one), _four(other), strict=True):
        if m != n and 1 not in (m, n):
            raise ValueError(f"{operator}: {one} and {other} do not broadcast")
        product.append(n if m == 1 else m)
    expected = tuple(product[AXES - max(len(one), len(other)) :])
    has_shape(operator, "the product", y, expected, f"the product of {one} and {other}")


def _check_part(
    operator: str, part: Any, whole: Any, axis: int, offset: int
) -> tuple[int, int, int]:
    """(x_row, y_row, y_offset) of elementwise.cu: floats from the joined axis inwards."""
    inside = tuple(device_array(operator, "the part", part).shape)
    outside = tuple(device_array(operator, "the whole", whole).shape)
    rank = len(outside)
    if not -rank <= axis < rank:
        raise ValueError(f"{operator}: axis {axis} is not one of the {rank} of {outside}")
    axis %= rank
    fits = (
        len(inside) == rank
        and inside[:axis] == outside[:axis]
        and inside[axis + 1 :] == outside[axis + 1 :]
        and 0 <= offset <= outside[axis] - inside[axis]
    )
    if not fits:
        raise ValueError(
            f"{operator}: {inside} does not fit into {outside} at {offset} of axis {axis}"
        )
    inner = prod(outside[axis + 1 :])
    return inside[axis] * inner, outside[axis] * inner, offset * inner
