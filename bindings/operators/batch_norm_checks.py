"""What launchers of batch norm check, and how wide their accesses are.

Every check raises ValueError and names the operator; see validation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from .storage import is_half
from .tile_moments import moments_size
from .validation import countable, device_array, has_rank, has_shape, same_shape


def rows_of(shape: Sequence[int]) -> int:
    """Of (..., C)."""
    return prod(shape[:-1])


def width_for(channels: int, *arrays: Any | None) -> int:
    """Channels per thread: 4 where that makes every access to these arrays (None is skipped) one of
    16 bytes, else 1. ValueError for arrays of bf16 numbers that allow no such access."""
    if channels % 4 or any(array is not None and array.ptr % 16 for array in arrays):
        if any(map(is_half, arrays)):
            raise ValueError(
                f"batch norm takes arrays of bf16 numbers with channels (here {channels}) in "
                "fours, and all arrays at multiples of 16 bytes"
            )
        return 1
    return 4


def tiles_of(operator: str, moments: Any, channels: int, slices: Any | None) -> int:
    """How many tiles these moments are of. ValueError beside slices, and for a vector that is no
    multiple of tiles."""
    if slices is not None:
        raise ValueError(f"{operator}: moments are of an x that is finished, and not in slices")
    has_rank(operator, "moments", moments, 1, "a vector of float32")
    tiles, rest = divmod(moments.size, moments_size(1, channels))
    if rest or not tiles:
        raise ValueError(
            f"{operator}: moments has {moments.size} numbers, but those of tiles with {channels} "
            f"channels are a multiple of {moments_size(1, channels)}"
        )
    return tiles


def check_shapes(
    operator: str, x: Any, *, y: Any, dx: Any = None, **channel_arrays: Any
) -> tuple[int, int]:
    """(rows, channels) of x (..., C), where y and dx (None is skipped) have its shape, and all
    channel_arrays are (C,)."""
    shape = device_array(operator, "x", x).shape
    if len(shape) < 2 or not x.size:
        raise ValueError(
            f"{operator}: x has shape {tuple(shape)}; it must be (..., C) with at least one row "
            "and one channel"
        )
    same_shape(operator, x=x, the_other_side=y, dx=dx)
    for name, array in channel_arrays.items():
        has_shape(operator, name, array, shape[-1:], f"x {tuple(shape)}")
    rows = rows_of(shape)
    countable(operator, "rows", rows)
    return rows, shape[-1]


def check_one(operator: str, name: str, array: Any | None, slices: Any | None) -> None:
    """Either `array`, which is called `name`, or the slices that add up to it."""
    if (array is None) == (slices is None):
        raise ValueError(f"{operator}: give {name}, or the slices whose sum it would be")


def check_slices(
    operator: str,
    slices: Any | None,
    whole: Any,
    bias: Any | None,
    half_sum: bool,
    stored: Any | None = None,
) -> None:
    """slices (n, *whole.shape), or neither they nor what says how they are added. stored: the array
    whose numbers are such sums, or gradients of its shape."""
    if slices is not None:
        shape = (max(1, slices.shape[0]) if slices.shape else 1, *whole.shape)
        has_shape(operator, "slices", slices, shape, f"an array {tuple(whole.shape)}")
        if stored is not None and half_sum != is_half(stored):
            holds = "bf16" if is_half(stored) else "float32"
            raise ValueError(
                f"{operator}: half_sum is {half_sum}, but x holds {holds} numbers; sums are "
                f"rounded as x holds them, so pass half_sum={not half_sum}"
            )
    elif bias is not None or half_sum:
        what = "half_sum" if bias is None else "a bias"
        raise ValueError(f"{operator}: {what} comes with slices, and says how they are added")


def check_moving(
    operator: str, moving_mean: Any | None, moving_var: Any | None, momentum: float | None
) -> None:
    """All three, or none of them."""
    given = [each is not None for each in (moving_mean, moving_var, momentum)]
    if any(given) != all(given):
        raise ValueError(
            f"{operator}: moving_mean, moving_var and momentum (here {momentum}) go together: "
            "give all three, or none of them"
        )
