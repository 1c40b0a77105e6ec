"""Patches of an image as a matrix, and a matrix of patches added back into an image.

These two turn convolutions into matrix products, which BLAS does near the machine's peak. A patch
is what one small pixel (p, q) meets of the large image (N, H, W, C): kh x kw pixels with all
their channels. One patch is a row of kh kw C numbers, in the order of a weight's last three axes.

Images with few channels are kept "taps first": the matrix is transposed, so that the copies run
along image rows instead of along a handful of channels. Both orders suit BLAS equally.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import parallel, shapes
from .scratch import Empty, frame
from .store import store

Pair = tuple[int, int]

# Below this many numbers per patch row (kw C), copies along image rows are the faster ones.
SHORT_RUN = 8
# Up to so many channels, a large image is put together plane by plane.
FEW_CHANNELS = 4
# Up to so many planes, products of pixels are transposed into them.
FEW_PLANES = 16
# With so many channels, products of a tap at a time are not much slower than one for all taps, and
# the copies of single pixels are short.
TAP_BY_TAP = range(16, 64)
# Rows that a matrix product needs to reach its speed.
LEAST_ROWS = 256
# Pixels of an image from which on a product for it alone is worth a call of BLAS.
LEAST_PIXELS = 128
# What it takes to copy a number of a patch, in operations of a matrix product.
OPERATIONS_PER_NUMBER = 100


class Taps(NamedTuple):
    """Which large pixels a small pixel meets: (p stride - pad + i dilation, ...), i < kernel."""

    kernel: Pair
    stride: Pair
    pad: Pair
    dilation: Pair

    @property
    def plain(self) -> bool:
        return self.pad == (0, 0) and self.dilation == (1, 1)


def whole_matrix(
    large: np.ndarray, small: np.ndarray, taps: Taps, groups: int
) -> np.ndarray | None:
    """The large image itself as its matrix of patches (N P Q, kh kw C), where it already is one.

    That is so for a 1x1 kernel of stride 1, and where one patch covers the whole image (P = Q = 1:
    a generator's first layer, a discriminator's last).
    """
    pointwise = taps.kernel == (1, 1) and taps.stride == (1, 1)
    covering = small.shape[1:3] == (1, 1) and taps.kernel == large.shape[1:3]
    if groups == 1 and taps.plain and (pointwise or covering):
        return large.reshape(small.shape[0] * small.shape[1] * small.shape[2], -1)
    return None


def taps_first(large: np.ndarray, taps: Taps) -> bool:
    return taps.kernel[1] * large.shape[3] < SHORT_RUN


def image_by_image(large: np.ndarray, height: int, width: int, taps: Taps) -> bool:
    """Whether products go image by image: with so few numbers to a patch, what BLAS reads of one
    image stays in the cache, where for all of them it is read several times."""
    return taps_first(large, taps) and height * width >= LEAST_PIXELS


def blocks(
    large: np.ndarray, small: np.ndarray, taps: Taps, groups: int, least: int = 0
) -> tuple[slice, ...]:
    """Runs of images, a power of two of them, whose patches have `least` numbers at least, and that
    are worth a thread and a matrix product of their own."""
    n, height, width, channels = small.shape
    rows = n * height * width
    patch = taps.kernel[0] * taps.kernel[1] * large.shape[3] // groups
    work = rows * patch * (2 * channels // groups + OPERATIONS_PER_NUMBER)
    most = min(rows * patch // max(1, least), rows // LEAST_ROWS, work // parallel.LEAST_OPERATIONS)
    return parallel.split(n, parallel.power_of_two(most))


def patches(large: np.ndarray, height: int, width: int, taps: Taps, empty: Empty) -> np.ndarray:
    """A view (n, height, width, kh, kw, C) of all patches of large (n, H, W, C), padded."""
    if taps.pad != (0, 0):
        n, rows, columns, channels = large.shape
        (top, left) = taps.pad
        padded = empty((n, rows + 2 * top, columns + 2 * left, channels), large.dtype)
        padded[:, :top] = padded[:, rows + top :] = 0
        padded[:, :, :left] = padded[:, :, columns + left :] = 0
        padded[:, top : top + rows, left : left + columns] = large
        large = padded
    batch, row, column, channel = large.strides
    return as_strided(
        large,
        (len(large), height, width, *taps.kernel, large.shape[3]),
        (
            batch,
            row * taps.stride[0],
            column * taps.stride[1],
            row * taps.dilation[0],
            column * taps.dilation[1],
            channel,
        ),
        writeable=False,
    )


def matrix(large: np.ndarray, height: int, width: int, taps: Taps, empty: Empty) -> np.ndarray:
    """All patches of large (n, H, W, C) as a stack of matrices (n, height width, kh kw C), or as
    one, (1, n height width, kh kw C); `rows` brings the small image to the same form."""
    view = patches(large, height, width, taps, empty)
    first, alone = taps_first(large, taps), image_by_image(large, height, width, taps)
    if first:
        view = view.transpose(0, 3, 4, 5, 1, 2) if alone else view.transpose(3, 4, 5, 0, 1, 2)
    copy = empty(view.shape, view.dtype)
    images = 3 if first and not alone else 0

    def fill(part: slice) -> None:
        index = (slice(None),) * images + (part,)
        copy[index] = view[index]

    parallel.run(fill, parallel.split_work(len(large), 2 * copy.size))
    if alone:
        return copy.reshape(len(large), -1, height * width).transpose(0, 2, 1)
    pixels = len(large) * height * width
    return copy.reshape(-1, pixels).T[None] if first else copy.reshape(1, pixels, -1)


def rows(small: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """small (n, P, Q, C') with the rows of `patches` (from `matrix`), a view."""
    return small.reshape(*patches.shape[:2], small.shape[3])


def add_product(
    small: np.ndarray, weight: np.ndarray, large: np.ndarray, taps: Taps, accumulate: bool
) -> None:
    """large (n, H, W, C) = or += the patches small (n, P, Q, C') @ weight (C', kh kw C)."""
    with frame() as empty:
        if _by_planes(large, taps):
            _add_planes(small, weight, large, taps, accumulate, empty)
        else:
            _add_taps(small, weight, large, taps, accumulate, empty)


def _by_planes(large: np.ndarray, taps: Taps) -> bool:
    whole = all(k % s == 0 for k, s in zip(taps.kernel, taps.stride, strict=True))
    return whole and taps.dilation == (1, 1) and large.shape[3] <= FEW_CHANNELS


def _add_planes(
    small: np.ndarray,
    weight: np.ndarray,
    large: np.ndarray,
    taps: Taps,
    accumulate: bool,
    empty: Empty,
) -> None:
    """add_product for few channels: large as planes, one for each pixel of a stride and channel.

    In a plane, what small pixels add lies side by side; at the end the planes are interleaved.
    """
    n, height, width, many = small.shape
    _, rows, columns, channels = large.shape
    (step_h, step_w), (top, left) = taps.stride, taps.pad
    taps_h, taps_w = taps.kernel[0] // step_h, taps.kernel[1] // step_w
    weight = weight.reshape(many, taps_h, step_h, taps_w, step_w, channels)
    per_plane = np.ascontiguousarray(weight.transpose(1, 3, 2, 4, 5, 0)).reshape(-1, many)
    product = empty((taps_h, taps_w, step_h * step_w * channels, n, height, width), large.dtype)
    _planes_of_product(small, per_plane.T, product.reshape(len(per_plane), -1), empty)
    # An output padding may reach beyond the last patch.
    tall = max(height + taps_h - 1, -(-(rows + top) // step_h))
    wide = max(width + taps_w - 1, -(-(columns + left) // step_w))
    planes = empty((step_h, step_w, channels, n, tall, wide), large.dtype)
    planes[...] = 0
    of_product = planes.reshape(-1, n, tall, wide)
    for i in range(taps_h):
        for j in range(taps_w):
            of_product[:, :, i : i + height, j : j + width] += product[i, j]
    image = empty((n, tall, step_h, wide, step_w, channels), large.dtype)
    image[...] = planes.transpose(3, 4, 0, 5, 1, 2)
    image = image.reshape(n, tall * step_h, wide * step_w, channels)
    store(large, image[:, top : top + rows, left : left + columns], accumulate)


def _planes_of_product(
    small: np.ndarray, weight: np.ndarray, out: np.ndarray, empty: Empty
) -> None:
    """out (K, n P Q) = (small (n, P, Q, C') @ weight (C', K))^T

    With very few K, BLAS takes half the time image by image for what is then transposed.
    """
    n, _, _, channels = small.shape
    if len(out) > FEW_PLANES:
        parallel.matmul(weight.T, small.reshape(-1, channels).T, out)
        return
    product = empty((n, out.shape[1] // n, len(out)), out.dtype)
    parallel.matmul(small.reshape(n, -1, channels), weight, product)
    out[...] = product.reshape(-1, len(out)).T


def _add_taps(
    small: np.ndarray,
    weight: np.ndarray,
    large: np.ndarray,
    taps: Taps,
    accumulate: bool,
    empty: Empty,
) -> None:
    """add_product, tap by tap.

    Every tap lands on pixels `stride` apart: nothing is multiplied by an inserted zero. The first
    tap on each of these stride x stride sets of pixels is copied, which is cheaper than adding.
    """
    n, height, width, channels = small.shape
    rows = small.reshape(-1, channels)
    if taps_first(large, taps):
        product = empty((*taps.kernel, large.shape[3], n, height, width), large.dtype)
        parallel.matmul(weight.T, rows.T, product.reshape(weight.shape[1], len(rows)))
        product = product.transpose(3, 4, 5, 0, 1, 2)
    elif large.shape[3] in TAP_BY_TAP:
        # What a tap adds lies side by side then, and where the stride is 1, so do whole rows.
        product = empty((*taps.kernel, n, height, width, large.shape[3]), large.dtype)
        by_taps = weight.reshape(channels, -1, large.shape[3]).transpose(1, 0, 2)
        parallel.matmul(rows, by_taps, product.reshape(-1, len(rows), large.shape[3]))
        product = product.transpose(2, 3, 4, 0, 1, 5)
    else:
        product = empty((n, height, width, *taps.kernel, large.shape[3]), large.dtype)
        parallel.matmul(rows, weight, product.reshape(len(rows), weight.shape[1]))
    row_taps, column_taps = (
        list(_axis_taps(large.shape[1 + axis], small.shape[1 + axis], axis, taps))
        for axis in (0, 1)
    )

    def add(part: slice) -> None:
        target, source = large[part], product[part]
        if not accumulate:
            # Pixels that no first tap reaches: those at the edges, and between wide strides.
            target[...] = 0
        for i, (h, p, first_row) in enumerate(row_taps):
            for j, (w, q, first_column) in enumerate(column_taps):
                if first_row and first_column and not accumulate:
                    target[:, h, w] = source[:, p, q, i, j]
                else:
                    target[:, h, w] += source[:, p, q, i, j]

    parallel.run(add, parallel.split_work(n, 2 * product.size))


def _axis_taps(
    large: int, small: int, axis: int, taps: Taps
) -> Iterator[tuple[slice, slice, bool]]:
    """Per tap along an axis: the large and small pixels it joins, and if it is the first there.

    Taps whose offsets differ by a multiple of the stride land on the same set of pixels.
    """
    seen = set()
    for tap in range(taps.kernel[axis]):
        offset = tap * taps.dilation[axis]
        phase = offset % taps.stride[axis]
        yield (
            *shapes.meeting(large, small, taps.stride[axis], taps.pad[axis], offset),
            phase not in seen,
        )
        seen.add(phase)
