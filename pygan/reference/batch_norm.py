"""Batch normalisation over the last axis, fused with the activation that follows.

    y = act(gamma (x - mean) / sqrt(var + eps) + beta), statistics per channel over all other axes

Ioffe and Szegedy, "Batch Normalization" (2015), with MXNet's conventions: biased variance
everywhere, and with `fix_gamma` gamma is 1, its gradient 0, and the gamma array is set to 1.

For speed an array (..., C) is seen as wide rows, each holding several pixels, so that numpy's
inner loops run over some thousand numbers instead of C; and the work goes part by part of the rows,
whose intermediate results stay in the processor's cache, and which threads can share (parallel.py).
"""

from __future__ import annotations

import functools

import numpy as np

from . import activation as activations
from . import shapes
from .moments import merge_moments
from .parallel import power_of_two, run, split
from .precision import to_bf16
from .scratch import frame
from .store import store

# A wide row has at most this many numbers; in so small arrays rows of C are as quick.
WIDE = 8192
SMALL = 4096
# Numbers of a part, at most about twice as many: smaller ones stay nearer in the cache, and lose
# more by their calls of numpy.
PART = 1 << 18
# Deviations from 0 within which a mean need not be subtracted before a product.
NEAR = 16
# Numbers from which the centre of the statistics is guessed.
SAMPLE = 1 << 14


def batch_norm_forward_training(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    y: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    slices: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    moments: np.ndarray | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
    half_sum: bool = False,
    cooperative: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """y (..., C) = normalised x (..., C); mean and var (C,) receive the batch's statistics.

    var is the biased variance, taken around the mean: a mean of 1e4 with deviation 1 survives.
    slices (n, ..., C), where given: x is their sum, + bias (C,) if any, and is written; with
    half_sum rounded to bf16, before anything reads it. moments (t (2 C + 1),), where given: those
    that convolution_forward has left of x, which are merged into mean and var. cooperative: how
    kernels may launch. Raises ValueError where shapes misfit or the activation is unknown.
    """
    operator = "batch_norm_forward_training"
    _check(operator, x, activation, y=y, gamma=gamma, beta=beta, mean=mean, var=var, bias=bias)
    _check_slices(operator, slices, x.shape, bias, half_sum)
    if slices is not None:
        _add_slices(slices, bias, x, half_sum)
    shapes.check_contiguous(operator, y)
    x_rows, y_rows, repeat = _wide(x, y)
    _batch_statistics(operator, x_rows, moments, slices, mean, var)
    if fix_gamma:
        gamma[...] = 1
    normalise = _Normalise(mean, var, gamma, beta, eps, repeat)
    normalise.activated(x_rows, y_rows, activation, slope)


def batch_norm_forward_inference(
    x: np.ndarray | None,
    gamma: np.ndarray,
    beta: np.ndarray,
    moving_mean: np.ndarray,
    moving_var: np.ndarray,
    y: np.ndarray,
    slices: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
    half_sum: bool = False,
) -> None:
    """y (..., C) = x (..., C) normalised by the moving statistics (C,).

    slices (n, ..., C), where given: their sum, + bias (C,) if any, is meant in place of x, which is
    None; with half_sum rounded to bf16. Raises ValueError where shapes misfit or the activation is
    unknown.
    """
    operator = "batch_norm_forward_inference"
    _check_one(operator, "x", x, slices)
    _check_slices(operator, slices, y.shape, bias, half_sum)
    if slices is not None:
        shapes.check_contiguous(operator, y)
        shapes.check_shape(operator, "bias", bias, y.shape[-1:], f"y {y.shape}")
        _add_slices(slices, bias, y, half_sum)
        x = y  # normalised in place
    assert x is not None  # or _check_one had raised
    _check(operator, x, activation, y=y, gamma=gamma, beta=beta)
    _check(operator, x, activation, moving_mean=moving_mean, moving_var=moving_var)
    shapes.check_contiguous(operator, y)
    if fix_gamma:
        gamma[...] = 1
    x_rows, y_rows, repeat = _wide(x, y)
    normalise = _Normalise(moving_mean, moving_var, gamma, beta, eps, repeat)
    normalise.activated(x_rows, y_rows, activation, slope)


def batch_norm_backward(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    dy: np.ndarray | None,
    dx: np.ndarray | None,
    dgamma: np.ndarray | None,
    dbeta: np.ndarray | None,
    moving_mean: np.ndarray | None = None,
    moving_var: np.ndarray | None = None,
    slices: np.ndarray | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    use_global_stats: bool,
    momentum: float | None = None,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    accumulate_gamma: bool = False,
    accumulate_beta: bool = False,
    half_sum: bool = False,
    cooperative: bool = False,
    workspace: np.ndarray | None = None,
) -> None:
    """Gradients of x (..., C), gamma and beta (C,) from dy (..., C), the activated output's.

    With g = dy act'(z), z recomputed from x, n the rows, xhat = (x - mean) / sqrt(var + eps):
    dbeta = sum g, dgamma = sum g xhat, dx = gamma / sqrt(var + eps) (g - dbeta/n - xhat dgamma/n).
    `use_global_stats`: mean and var are constants (the moving ones) and dx = gamma / sqrt(..) g.
    Each of dx, dgamma, dbeta may be None; dx may be dy. fix_gamma: dgamma is 0, or unchanged if
    accumulating. moving_mean, moving_var (C,), where given with momentum, move as
    batch_norm_update_moving has it. slices (n, ..., C), where given: their sum is meant in place of
    dy, which is None, with half_sum rounded to bf16; neither accumulate nor use_global_stats then.
    """
    operator = "batch_norm_backward"
    _check_one(operator, "dy", dy, slices)
    _check_slices(operator, slices, x.shape, None, half_sum)
    if slices is not None:
        if accumulate or use_global_stats:
            raise ValueError(
                f"{operator}: slices take neither accumulate nor use_global_stats; add them first "
                "(in_slices=False of the operator that leaves them)"
            )
        dy = np.empty_like(slices[0])
        _add_slices(slices, None, dy, half_sum)
    assert dy is not None  # or _check_one had raised
    _check(
        operator,
        x,
        activation,
        y=dy,
        dx=dx,
        gamma=gamma,
        beta=beta,
        mean=mean,
        var=var,
        dgamma=dgamma,
        dbeta=dbeta,
    )
    if moving_mean is not None and moving_var is not None and momentum is not None:
        batch_norm_update_moving(mean, var, moving_mean, moving_var, momentum=momentum)
    elif moving_mean is not None or moving_var is not None or momentum is not None:
        raise ValueError(
            f"{operator}: moving_mean, moving_var and momentum (here {momentum}) go together: "
            "give all three, or none of them"
        )
    shapes.check_contiguous(operator, dx)
    channels = x.shape[-1]
    count = x.size // channels
    x_rows, dy_rows, repeat = _wide(x, dy)
    normalise = _Normalise(mean, var, None if fix_gamma else gamma, beta, eps, repeat)

    # g is kept in dx, where that may be overwritten.
    in_place = None if dx is None or accumulate else dx.reshape(x_rows.shape)
    with frame() as empty:
        g_rows = empty(x_rows.shape, x.dtype) if in_place is None else in_place
        parts = _parts(x_rows)
        sums = empty((2, len(parts), x_rows.shape[1]), x.dtype)

        def sum_up(part: int) -> None:
            which = parts[part]
            g, rows = g_rows[which], x_rows[which]
            with frame() as empty:
                z = empty(g.shape, g.dtype)
                normalise.gradient(rows, dy_rows[which], z, g, activation, slope)
                _sum_rows(g, sums[0, part])
                np.einsum("ij,ij->j", g, normalise.shifted(rows, z), out=sums[1, part])

        run(sum_up, range(len(parts)))
        sum_g, sum_g_x = _fold(sums, channels)
        sum_g_xhat = (sum_g_x - normalise.remainder * sum_g) * normalise.inverse

        if dx is not None:
            dx_rows = dx.reshape(x_rows.shape)
            # dx = scale g - (constant + slope_of_x (x - mean))
            scale = normalise.per_channel / count
            slope_of_x = scale * normalise.inverse * sum_g_xhat
            constant = _tiled(scale * sum_g - slope_of_x * normalise.remainder, repeat)
            slope_of_x = _tiled(slope_of_x, repeat)

            def finish(part: slice) -> None:
                g = g_rows[part]
                g *= normalise.scale
                if not use_global_stats:
                    with frame() as empty:
                        term = empty(g.shape, g.dtype)
                        np.multiply(normalise.shifted(x_rows[part], term), slope_of_x, out=term)
                        term += constant
                        g -= term
                if in_place is None:
                    dx_rows[part] += g

            run(finish, parts[::-1])  # what was made last is still in the cache
    for output, value, adding in (
        (dgamma, np.zeros_like(gamma) if fix_gamma else sum_g_xhat, accumulate_gamma),
        (dbeta, sum_g, accumulate_beta),
    ):
        if output is not None:
            store(output, value, adding)


def batch_norm_update_moving(
    mean: np.ndarray,
    var: np.ndarray,
    moving_mean: np.ndarray,
    moving_var: np.ndarray,
    *,
    momentum: float,
) -> None:
    """moving = momentum moving + (1 - momentum) batch, for mean and biased variance (C,)."""
    shapes.check_same(
        "batch_norm_update_moving",
        mean=mean,
        var=var,
        moving_mean=moving_mean,
        moving_var=moving_var,
    )
    keep = mean.dtype.type(momentum)
    for batch, moving in ((mean, moving_mean), (var, moving_var)):
        moving *= keep
        moving += (1 - keep) * batch


class _Normalise:
    """z = gamma (x - mean) / sqrt(var + eps) + beta, the one expression of all passes.

    Where every |mean| is at most NEAR deviations, z = x scale + shift is nearly as exact and saves
    passes over x: it rounds by the size of the mean, and so has x been, where it came from a sum.
    Otherwise the mean is subtracted first. `shifted` is the x that is meant, x or x - mean, and
    `remainder` what is still to be subtracted from it: mean or 0. `inverse` (C,) is
    1 / sqrt(var + eps), `per_channel` the scale; gamma None stands for 1.
    """

    def __init__(
        self,
        mean: np.ndarray,
        var: np.ndarray,
        gamma: np.ndarray | None,
        beta: np.ndarray,
        eps: float,
        repeat: int,
    ) -> None:
        self.inverse = 1 / np.sqrt(var + var.dtype.type(eps))
        self.per_channel = self.inverse if gamma is None else gamma * self.inverse
        small = _mean_is_small(mean, var, NEAR)
        self.centre = None if small else _tiled(mean, repeat)
        self.remainder = mean if small else np.zeros_like(mean)
        self.scale = _tiled(self.per_channel, repeat)
        self.shift = _tiled(beta - self.remainder * self.per_channel, repeat)

    def shifted(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        return rows if self.centre is None else np.subtract(rows, self.centre, out=out)

    def apply(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        np.multiply(self.shifted(rows, out), self.scale, out=out)
        out += self.shift
        return out

    def gradient(
        self,
        rows: np.ndarray,
        dy: np.ndarray,
        z: np.ndarray,
        g: np.ndarray,
        activation: str | None,
        slope: float,
    ) -> None:
        """g = dy act'(z); z is scratch; g may be dy."""
        if activation is None:
            if g is not dy:
                g[...] = dy
            return
        if activation in activations.FROM_SIGN:
            # x scale + shift is above 0 where x scale is above -shift, rounded or not.
            np.multiply(self.shifted(rows, z), self.scale, out=z)
            activations.derivative(z, None, activation, slope, z, zero=-self.shift)
        else:
            self.apply(rows, z)
            y = np.empty_like(z)
            activations.apply(z, y, activation, slope)
            activations.derivative(z, y, activation, slope, z)
        np.multiply(z, dy, out=g)

    def activated(
        self, rows: np.ndarray, out: np.ndarray, activation: str | None, slope: float
    ) -> None:
        """out = act(z), both wide rows."""

        def work(part: slice) -> None:
            z = self.apply(rows[part], out[part])
            activations.apply(z, z, activation, slope)

        run(work, _parts(rows)[::-1])  # what the statistics read last is still in the cache


def _batch_statistics(
    operator: str,
    rows: np.ndarray,
    moments: np.ndarray | None,
    slices: np.ndarray | None,
    mean: np.ndarray,
    var: np.ndarray,
) -> None:
    """mean and biased variance (C,) of wide rows: from their moments, where those are given."""
    count = rows.size // len(mean)
    if moments is None:
        _statistics(rows, count, mean, var)
    elif slices is None:
        merge_moments(operator, moments, count, mean, var)
    else:
        raise ValueError(f"{operator}: moments are of an x that is finished, and not in slices")


def _statistics(rows: np.ndarray, count: int, mean: np.ndarray, var: np.ndarray) -> None:
    """mean and biased variance (C,) of wide rows, in one pass over them.

    With d = x - centre, mean = centre + E[d] and var = E[d^2] - E[d]^2, which loses at most a
    factor of five in precision where |E[d]| is within twice the deviation. The centre is 0 if that
    will do for the first rows, else their mean. If the whole array disagrees with its first rows,
    its mean is the next centre.
    """
    repeat = rows.shape[1] // len(mean)
    first = rows[: max(1, SAMPLE // rows.shape[1])]
    centre = None
    for sample in (first, rows, rows) if rows.size > 8 * SAMPLE else (rows, rows):
        sums = _sums(sample, None if centre is None else _tiled(centre, repeat), len(mean))
        sums /= count * len(sample) // len(rows)
        missed, squares = sums
        np.subtract(squares, missed * missed, out=var)
        np.maximum(var, 0, out=var)
        small = _mean_is_small(missed, var, 2)
        np.copyto(mean, missed) if centre is None else np.add(missed, centre, out=mean)
        if not small:
            centre = mean.copy()
        elif sample is rows:
            break


def _sums(rows: np.ndarray, centre: np.ndarray | None, channels: int) -> np.ndarray:
    """Sums of d = x - centre and of d^2 over wide rows, part by part and then folded: (2, C)."""
    parts = _parts(rows)
    sums = np.empty((2, len(parts), rows.shape[1]), rows.dtype)

    def add_up(part: int) -> None:
        with frame() as empty:
            d = rows[parts[part]]
            squared = empty(d.shape, d.dtype)
            if centre is not None:
                d = np.subtract(d, centre, out=squared)
            _sum_rows(d, sums[0, part])
            _sum_rows(np.square(d, out=squared), sums[1, part])

    run(add_up, range(len(parts)))
    return _fold(sums, channels)


def _mean_is_small(mean: np.ndarray, var: np.ndarray, deviations: int) -> bool:
    return bool((mean * mean <= deviations**2 * var).all())


def _wide(x: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """x and other (..., C) as (rows, repeat C), views, with the largest fitting repeat."""
    channels = x.shape[-1]
    count = x.size // channels
    repeat = _largest_divisor(count, WIDE // channels) if x.size > SMALL else 1
    shape = (count // repeat, repeat * channels)
    return x.reshape(shape), other.reshape(shape), repeat


@functools.lru_cache(maxsize=1024)
def _largest_divisor(number: int, limit: int) -> int:
    return next((d for d in range(min(number, limit), 1, -1) if number % d == 0), 1)


def _parts(rows: np.ndarray) -> tuple[slice, ...]:
    return split(len(rows), power_of_two(-(-rows.size // PART)))


def _tiled(channels: np.ndarray, repeat: int) -> np.ndarray:
    """(C,) as a wide row (repeat C,)."""
    if repeat == 1:
        return channels
    wide = np.empty((repeat, len(channels)), channels.dtype)
    wide[...] = channels
    return wide.reshape(-1)


def _sum_rows(rows: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Sums over the rows of (.., rows, columns) are products with ones: BLAS adds several times
    faster than numpy's sum."""
    return np.matmul(_ones(rows.shape[-2], rows.dtype), rows, out=out)


@functools.lru_cache(maxsize=64)
def _ones(count: int, dtype: np.dtype) -> np.ndarray:
    ones = np.ones(count, dtype)
    ones.setflags(write=False)
    return ones


def _fold(sums: np.ndarray, channels: int) -> np.ndarray:
    """Sums of several kinds over parts and the pixels of their wide rows: (k, parts, repeat C) to
    (k, C)."""
    sums = sums.reshape(len(sums), -1, channels)
    if sums.shape[1] == 1:
        return sums[:, 0].copy()
    return _sum_rows(sums, np.empty((len(sums), channels), sums.dtype))


def _add_slices(
    slices: np.ndarray, bias: np.ndarray | None, out: np.ndarray, half_sum: bool
) -> None:
    """out (..., C) = the sum of slices (n, ..., C) + bias (C,), rounded to bf16 if asked."""
    np.add.reduce(slices, axis=0, out=out)
    if bias is not None:
        out += bias
    if half_sum:
        to_bf16(out, out)


def _check_one(
    operator: str, name: str, array: np.ndarray | None, slices: np.ndarray | None
) -> None:
    if (array is None) == (slices is None):
        raise ValueError(f"{operator}: give {name}, or the slices whose sum it would be")


def _check_slices(
    operator: str,
    slices: np.ndarray | None,
    whole: tuple[int, ...],
    bias: np.ndarray | None,
    half_sum: bool,
) -> None:
    if slices is not None:
        needed = (max(1, len(slices)) if slices.ndim else 1, *whole)
        shapes.check_shape(operator, "slices", slices, needed, f"an array {whole}")
    elif bias is not None or half_sum:
        what = "half_sum" if bias is None else "a bias"
        raise ValueError(f"{operator}: {what} comes with slices, and says how they are added")


def _check(
    operator: str,
    x: np.ndarray,
    activation: str | None,
    y: np.ndarray | None = None,
    dx: np.ndarray | None = None,
    **channel_arrays: np.ndarray | None,
) -> None:
    if activation is not None and activation not in activations.KINDS:
        raise ValueError(
            f"{operator}: activation {activation!r} is unknown; "
            f"use one of {activations.KINDS} or None"
        )
    if x.size == 0:
        raise ValueError(f"{operator}: x {x.shape} needs at least one row to have statistics")
    because = f"x {x.shape}"
    for array in (y, dx):
        shapes.check_shape(operator, "the other side", array, x.shape, because)
    for name, array in channel_arrays.items():
        shapes.check_shape(operator, name, array, x.shape[-1:], because)
