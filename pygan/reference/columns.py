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

from . import shapes

Pair = tuple[int, int]

# Below this many numbers per patch row (kw C), copies along image rows are the faster ones.
SHORT_RUN = 8
# Numbers in a block of patches, 8 MB of float32: BLAS wants large products, the caches small ones.
BLOCK = 1 << 21
# Rows that a matrix product needs to reach its speed.
LEAST_ROWS = 256


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


def blocks(
    large: np.ndarray, small: np.ndarray, taps: Taps, groups: int, least: int | None = None
) -> Iterator[slice]:
    """Runs of images whose patches fill about `least` numbers, enough of them for BLAS."""
    n, height, width, _ = small.shape
    rows = height * width
    patch = taps.kernel[0] * taps.kernel[1] * large.shape[3] // groups
    least = BLOCK if least is None else least
    images = max(1, least // (rows * patch), -(-LEAST_ROWS // rows))
    images = max(1, -(-n // max(1, -(-n // images))))
    for start in range(0, n, images):
        yield slice(start, start + images)


def patches(large: np.ndarray, height: int, width: int, taps: Taps) -> np.ndarray:
    """A view (n, height, width, kh, kw, C) of all patches of large (n, H, W, C), padded."""
    if taps.pad != (0, 0):
        n, rows, columns, channels = large.shape
        (top, left) = taps.pad
        padded = np.zeros((n, rows + 2 * top, columns + 2 * left, channels), large.dtype)
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


def matrix(large: np.ndarray, height: int, width: int, taps: Taps) -> np.ndarray:
    """All patches of large (n, H, W, C) as a matrix (n height width, kh kw C)."""
    view = patches(large, height, width, taps)
    rows = len(large) * height * width
    if taps_first(large, taps):
        return np.ascontiguousarray(view.transpose(3, 4, 5, 0, 1, 2)).reshape(-1, rows).T
    return np.ascontiguousarray(view).reshape(rows, -1)


def add_product(
    small: np.ndarray, weight: np.ndarray, large: np.ndarray, taps: Taps, accumulate: bool
) -> None:
    """large (n, H, W, C) = or += the patches small (n, P, Q, C') @ weight (C', kh kw C).

    Every tap lands on pixels `stride` apart: nothing is multiplied by an inserted zero. The first
    tap on each of these stride x stride sets of pixels is copied, which is cheaper than adding.
    """
    n, height, width, channels = small.shape
    rows = small.reshape(-1, channels)
    if taps_first(large, taps):
        product = (weight.T @ rows.T).reshape(*taps.kernel, large.shape[3], n, height, width)
        product = product.transpose(3, 4, 5, 0, 1, 2)
    else:
        product = (rows @ weight).reshape(n, height, width, *taps.kernel, large.shape[3])
    if not accumulate:
        # Pixels that no first tap reaches: those at the edges, and between wide strides.
        large[...] = 0
    row_taps, column_taps = (
        list(_axis_taps(large.shape[1 + axis], small.shape[1 + axis], axis, taps))
        for axis in (0, 1)
    )
    for i, (h, p, first_row) in enumerate(row_taps):
        for j, (w, q, first_column) in enumerate(column_taps):
            if first_row and first_column and not accumulate:
                large[:, h, w] = product[:, p, q, i, j]
            else:
                large[:, h, w] += product[:, p, q, i, j]


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
