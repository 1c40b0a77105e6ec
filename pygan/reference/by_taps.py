"""Convolutions of images so small that much of their patches is padding: tap by tap.

A tap (i, j) of the kernel joins those small pixels (p, q) whose large pixel lies in the image.
Their product with the tap's weight, (pixels, C') times (C', C), is all that the tap adds; a matrix
of whole patches multiplies zeros besides. From 4x4 to 7x7 pixels with a 3x3 kernel of stride 2 and
pad 1, 100 products of pixels do for 144. In return every tap costs copies and a sum of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import shapes
from .columns import Taps
from .parallel import matmul, power_of_two, run_blocks, split
from .scratch import Empty, frame
from .store import store

# Products within the image, of those of whole patches, up to which this is the faster way, and the
# channels on either side that make up for a tap's copies.
MOST_WITHIN = 0.75
LEAST_CHANNELS = 64
# Rows that a tap's product needs to reach its speed.
LEAST_ROWS = 128
# Rows of a tap's product from which on the images are shared too.
MOST_ROWS = 1024

Part = tuple[slice, slice, slice]


class Tap(NamedTuple):
    """Where a tap lies in the weight, and the pixels that it joins, of the large and small side."""

    weight: tuple[slice, int, int]
    large: Part
    small: Part
    pixels: int


def pays(large: np.ndarray, small: np.ndarray, taps: Taps, groups: int) -> bool:
    """Whether these functions take this convolution, and are the faster way to compute it."""
    if groups != 1 or min(small.shape[3], large.shape[3]) < LEAST_CHANNELS:
        return False
    joined = _joined(large.shape[1:3], small.shape[1:3], taps)
    within = sum(tap.pixels for tap in joined)
    height, width = small.shape[1:3]
    return within <= MOST_WITHIN * height * width * taps.kernel[0] * taps.kernel[1] and len(
        small
    ) * within >= LEAST_ROWS * len(joined)


def gather(
    large: np.ndarray, weight: np.ndarray, small: np.ndarray, taps: Taps, accumulate: bool
) -> None:
    """small (N, P, Q, C') = or += patches of large (N, H, W, C) times weight (C', kh, kw, C)."""
    joined = _joined(large.shape[1:3], small.shape[1:3], taps)

    def add_tap(tap: Tap, block: slice, total: np.ndarray) -> None:
        _add_product(large[block][tap.large], weight[tap.weight].T, total[tap.small])

    _sum_of_taps(add_tap, joined, small, accumulate)


def spread(
    small: np.ndarray, weight: np.ndarray, large: np.ndarray, taps: Taps, accumulate: bool
) -> None:
    """large (N, H, W, C) = or += the patches small (N, P, Q, C') times weight (C', kh, kw, C)."""
    joined = _joined(large.shape[1:3], small.shape[1:3], taps)

    def add_tap(tap: Tap, block: slice, total: np.ndarray) -> None:
        _add_product(small[block][tap.small], weight[tap.weight], total[tap.large])

    _sum_of_taps(add_tap, joined, large, accumulate)


def weigh(
    large: np.ndarray, small: np.ndarray, dw: np.ndarray, taps: Taps, accumulate: bool
) -> None:
    """dw (C', kh, kw, C) = or += small (N, P, Q, C') times patches of large (N, H, W, C)."""
    joined = _joined(large.shape[1:3], small.shape[1:3], taps)

    def weigh_tap(tap: Tap) -> None:
        with frame() as empty:
            a = _pixels(small[tap.small], empty)
            b = _pixels(large[tap.large], empty)
            product = matmul(a.T, b, empty((a.shape[1], b.shape[1]), dw.dtype))
            store(dw[tap.weight], product, accumulate)

    run_blocks(weigh_tap, joined)


def _sum_of_taps(
    add_tap: Callable[[Tap, slice, np.ndarray], None],
    joined: tuple[Tap, ...],
    target: np.ndarray,
    accumulate: bool,
) -> None:
    """target (N, ...) = or += what add_tap(tap, images, total) adds of every tap to a total.

    The taps fall into two halves, each with a total of its own: threads then make half as many
    calls, which take twice as long, as if they shared images.
    """
    rows = len(target) * sum(tap.pixels for tap in joined) // len(joined)
    blocks = split(len(target), power_of_two(rows // MOST_ROWS))
    halves = _halves(joined)
    with frame() as empty:
        other = empty(target.shape, target.dtype)

        def add_half(work: tuple[slice, int]) -> None:
            block, half = work
            total = (target, other)[half][block]
            if half or not accumulate:
                total[...] = 0
            for tap in halves[half]:
                add_tap(tap, block, total)

        run_blocks(add_half, [(block, half) for block in blocks for half in (0, 1)])
        target += other


def _halves(joined: tuple[Tap, ...]) -> tuple[list[Tap], list[Tap]]:
    """Taps, those of the most pixels first, in two lists of about as many pixels."""
    halves: tuple[list[Tap], list[Tap]] = ([], [])
    for tap in joined:
        min(halves, key=lambda half: sum(each.pixels for each in half)).append(tap)
    return halves


def _add_product(source: np.ndarray, weight: np.ndarray, target: np.ndarray) -> None:
    """target (n, h, w, B) += source (n, h, w, A) @ weight (A, B), views of images"""
    with frame() as empty:
        product = empty(target.shape, target.dtype)
        matmul(_pixels(source, empty), weight, product.reshape(-1, target.shape[3]))
        target += product


def _pixels(view: np.ndarray, empty: Empty) -> np.ndarray:
    """Pixels (n, h, w, C) as a matrix (n h w, C): a copy, unless they are an image of their own."""
    if not view.flags.c_contiguous:
        copy = empty(view.shape, view.dtype)
        copy[...] = view
        view = copy
    return view.reshape(-1, view.shape[3])


@functools.lru_cache(maxsize=1024)
def _joined(large: tuple[int, int], small: tuple[int, int], taps: Taps) -> tuple[Tap, ...]:
    """Every tap of the kernel, those of the most pixels first: threads end about the same time."""
    rows, columns = (
        [
            shapes.meeting(large[axis], small[axis], taps.stride[axis], taps.pad[axis], offset)
            for offset in range(0, taps.kernel[axis] * taps.dilation[axis], taps.dilation[axis])
        ]
        for axis in (0, 1)
    )
    every = slice(None)
    joined = [
        Tap((every, i, j), (every, h, w), (every, p, q), (p.stop - p.start) * (q.stop - q.start))
        for i, (h, p) in enumerate(rows)
        for j, (w, q) in enumerate(columns)
    ]
    return tuple(sorted(joined, key=lambda tap: -tap.pixels))
