"""4x4 kernels of stride 2 and pad 1, with 9 products for every 16: Winograd's F(2, 2), twice.

S. Winograd, "Arithmetic complexity of computations" (1980); A. Lavin and S. Gray, "Fast algorithms
for convolutional neural networks" (2016), which transform as here, but for kernels of stride 1.

On one axis, call large pixels 2u - 1 and 2u "unit" u, and taps 0, 1 and 2, 3 of the kernel g0 and
g1. Then small[p] = unit[p] g0 + unit[p + 1] g1: a kernel of two over units, whose stride is 1. Two
neighbours p share a unit, and three products do for the four:

    small[p]     = m0 + m1     m0 = (unit[p] - unit[p + 1]) g0       m1 = unit[p + 1] (g0 + g1)
    small[p + 1] = m1 - m2     m2 = (unit[p + 1] - unit[p + 2]) g1

Read backwards, the same three products give the large side and the weight's gradient:

    unit[p]     += m0             m0 = small[p] g0
    unit[p + 1] += m1 - m0 - m2   m1 = (small[p] + small[p + 1]) (g0 + g1)
    unit[p + 2] += m2             m2 = small[p + 1] g1

    dg0 = m0 + m1              m0 = small[p] (unit[p] - unit[p + 1])
    dg1 = m1 - m2              m1 = (small[p] + small[p + 1]) unit[p + 1], m2 as above

Rows and columns together make 3 x 3 products of 2 x 2 small pixels, a "tile", instead of 4 x 4.
A unit is then 2 x 2 large pixels. Where P or Q is odd, the last tiles reach over the edge, where
pixels are 0: with P' for P rounded up to an even number there are P' Q' / 4 tiles. Written as a
matrix product, "planes" (3, 3, tiles, channels) times planes (3, 3, channels, channels).

Rounding: factors and results are sums of up to four numbers each, so that an error is about twice
as large as the plain sum's, relative to the largest values near a pixel instead of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .columns import Taps
from .parallel import matmul, run, run_blocks, split_work
from .scratch import Empty, frame
from .store import store

TAPS = Taps(kernel=(4, 4), stride=(2, 2), pad=(1, 1), dilation=(1, 1))
# Tiles in a block of images: matrix products of so many rows reach their speed, and what they read
# and write stays in the cache.
TILES = 512
# A block may have half as many where the whole has no more than TILES: threads take one each.
LEAST_TILES_OF_BLOCK = 256
# Channels on either side, and tiles, from which the products saved outweigh the sums made; and how
# many pixels the tiles may have for every pixel of the small image.
LEAST_CHANNELS = 32
LEAST_TILES = 64
MOST_PIXELS = 4 / 3


def pays(large: np.ndarray, small: np.ndarray, taps: Taps, groups: int) -> bool:
    """Whether these functions take this convolution, and are the faster way to compute it.

    Never in float64, which is for checking: there the plain sum is wanted.
    """
    n, height, width, channels = small.shape
    rows, columns = _tiles(small)
    return (
        taps == TAPS
        and groups == 1
        and large.dtype == np.float32
        and large.shape[1:3] == (2 * height, 2 * width)
        and n * rows * columns >= LEAST_TILES
        and 4 * rows * columns <= MOST_PIXELS * height * width
        and min(channels, large.shape[3]) >= LEAST_CHANNELS
    )


def gather(large: np.ndarray, weight: np.ndarray, small: np.ndarray, accumulate: bool) -> None:
    """small (N, P, Q, C') = or += patches of large (N, 2P, 2Q, C) times weight (C', 4, 4, C)."""
    with frame() as empty:
        kernel = _kernel_planes(weight, empty).transpose(0, 1, 3, 2)

        def gather_block(block: slice) -> None:
            with frame() as empty:
                product = _product(_large_planes(large[block], empty), kernel, empty)
                _store_corners(product, small[block], accumulate)

        run_blocks(gather_block, list(_blocks(small, TILES)))


def spread(small: np.ndarray, weight: np.ndarray, large: np.ndarray, accumulate: bool) -> None:
    """large (N, 2P, 2Q, C) = or += the patches small (N, P, Q, C') times weight (C', 4, 4, C)."""
    with frame() as empty:
        kernel = _kernel_planes(weight, empty)

        def spread_block(block: slice) -> None:
            with frame() as empty:
                product = _product(_small_planes(small[block], empty), kernel, empty)
                _store_units(product, large[block], accumulate)

        run_blocks(spread_block, list(_blocks(small, TILES)))


def weigh(large: np.ndarray, small: np.ndarray, dw: np.ndarray, accumulate: bool) -> None:
    """dw (C', 4, 4, C) = or += small (N, P, Q, C') times patches of large (N, 2P, 2Q, C)."""
    # Every block costs a pass over the sum, so that a block is not smaller than it.
    blocks = list(_blocks(small, max(TILES, len(dw))))
    with frame() as empty:
        beside = len(blocks) == 2  # each has a sum of its own
        totals = empty((1 + beside, 3, 3, len(dw), 4 * dw.shape[3]), dw.dtype)

        def weigh_block(index: int) -> None:
            with frame() as empty:
                a = _small_planes(small[blocks[index]], empty).transpose(0, 1, 3, 2)
                b = _large_planes(large[blocks[index]], empty)
                if index < len(totals):
                    matmul(a, b, totals[index])
                else:
                    totals[0] += _product(a, b, empty)

        if beside:
            run_blocks(weigh_block, range(2))
            totals[0] += totals[1]
        else:
            for index in range(len(blocks)):
                weigh_block(index)
        taps = _tap_pairs(dw)
        store(taps, _pairs(totals[0]).reshape(taps.shape), accumulate)


def _product(a: np.ndarray, b: np.ndarray, empty: Empty) -> np.ndarray:
    """The nine matrix products of planes."""
    return matmul(a, b, empty((3, 3, a.shape[2], b.shape[3]), a.dtype))


def _tiles(small: np.ndarray) -> tuple[int, int]:
    """Rows and columns of tiles of small (n, P, Q, C')."""
    return (small.shape[1] + 1) // 2, (small.shape[2] + 1) // 2


def _blocks(small: np.ndarray, tiles: int) -> Iterator[slice]:
    rows, columns = _tiles(small)
    images = max(1, tiles // (rows * columns))
    if len(small) * rows * columns >= 2 * LEAST_TILES_OF_BLOCK:
        images = min(images, -(-len(small) // 2))
    for start in range(0, len(small), images):
        yield slice(start, start + images)


def _corners(small: np.ndarray) -> np.ndarray:
    """The view (2, 2, n, P/2, Q/2, C') of small (n, P, Q, C'), P and Q even: pixels of tiles."""
    n, height, width, channels = small.shape
    tiles = small.reshape(n, height // 2, 2, width // 2, 2, channels)
    return tiles.transpose(2, 4, 0, 1, 3, 5)


def _even(small: np.ndarray, empty: Empty) -> np.ndarray:
    """Memory (n, P', Q', C') for small (n, P, Q, C'); small itself where P and Q are even."""
    rows, columns = _tiles(small)
    shape = (len(small), 2 * rows, 2 * columns, small.shape[3])
    return small if small.shape == shape else empty(shape, small.dtype)


def _tap_pairs(weight: np.ndarray) -> np.ndarray:
    """The view (2, 2, C', 2, 2C) of a weight (C', 4, 4, C): g0 and g1 on both axes."""
    few, _, _, channels = weight.shape
    return weight.reshape(few, 2, 2, 2, 2 * channels).transpose(1, 3, 0, 2, 4)


def _small_planes(small: np.ndarray, empty: Empty) -> np.ndarray:
    """(3, 3, tiles, C') of small (n, P, Q, C')."""
    _, height, width, channels = small.shape
    even = _even(small, empty)
    if even is not small:
        even[:, height:] = even[:, :, width:] = 0
        even[:, :height, :width] = small
    return _sums(_corners(even), empty).reshape(3, 3, -1, channels)


def _store_corners(m: np.ndarray, small: np.ndarray, accumulate: bool) -> None:
    """small (n, P, Q, C') = or += the pixels of tiles of m (3, 3, tiles, C'), which changes."""
    n, height, width, channels = small.shape
    m = m.reshape(3, 3, n, *_tiles(small), channels)

    def store_part(part: slice) -> None:
        with frame() as empty:
            result, pixels = _pairs(m[:, :, part]), small[part]
            even = _even(pixels, empty)
            store(_corners(even), result, accumulate and even is pixels)
            if even is not pixels:
                store(pixels, even[:, :height, :width], accumulate)

    run(store_part, split_work(n, m.size))


def _kernel_planes(weight: np.ndarray, empty: Empty) -> np.ndarray:
    """(3, 3, C', 4C) of weight (C', 4, 4, C)."""
    return _sums(_tap_pairs(weight), empty).reshape(3, 3, len(weight), -1)


def _sums(pairs: np.ndarray, empty: Empty) -> np.ndarray:
    """(a, a + b, b) on both axes: (3, 3, n, ...) of pairs (2, 2, n, ...)."""
    whole = empty((3, 3, *pairs.shape[2:]), pairs.dtype)

    def add_up(part: slice) -> None:
        planes = whole[:, :, part]
        planes[::2, ::2] = pairs[:, :, part]
        np.add(planes[::2, 0], planes[::2, 2], out=planes[::2, 1])
        np.add(planes[0], planes[2], out=planes[1])

    run(add_up, split_work(pairs.shape[2], whole.size))
    return whole


def _pairs(m: np.ndarray) -> np.ndarray:
    """(m0 + m1, m1 - m2) on both axes of m (3, 3, ...), in place: a view (2, 2, ...)."""
    m[0] += m[1]
    m[1] -= m[2]
    m[:2, 0] += m[:2, 1]
    m[:2, 1] -= m[:2, 2]
    return m[:2, :2]


def _tiles_of_large(large: np.ndarray) -> tuple[int, int]:
    """Rows and columns of tiles of large (n, 2P, 2Q, C)."""
    return (large.shape[1] + 2) // 4, (large.shape[2] + 2) // 4


def _padded(large: np.ndarray, empty: Empty) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory for large (n, 2P, 2Q, C) and what the tiles cover around it.

    Returns all of it (n, 2P' + 2, 2Q' + 2, C), the large pixels in it, and the units
    (n, P' + 1, Q' + 1, 2, 2C), the latter two as views.
    """
    n, height, width, channels = large.shape
    rows, columns = (2 * tiles + 1 for tiles in _tiles_of_large(large))
    padded = empty((n, 2 * rows, 2 * columns, channels), large.dtype)
    units = padded.reshape(n, rows, 2, columns, 2 * channels).transpose(0, 1, 3, 2, 4)
    return padded, padded[:, 1 : 1 + height, 1 : 1 + width], units


def _large_planes(large: np.ndarray, empty: Empty) -> np.ndarray:
    """(3, 3, tiles, 4C) of large (n, 2P, 2Q, C): differences of neighbouring units."""
    planes = empty((3, 3, len(large), *_tiles_of_large(large), 2, 2 * large.shape[3]), large.dtype)
    parts = split_work(len(large), planes.size)
    run(lambda part: _differences(large[part], planes[:, :, part]), parts)
    return planes.reshape(3, 3, -1, 4 * large.shape[3])


def _differences(large: np.ndarray, planes: np.ndarray) -> None:
    """What _large_planes has, of some images: planes (3, 3, n, P'/2, Q'/2, 2, 2C)."""
    _, height, width, _ = large.shape
    with frame() as empty:
        padded, inside, units = _padded(large, empty)
        padded[:, 0] = padded[:, 1 + height :] = 0
        padded[:, :, 0] = padded[:, :, 1 + width :] = 0
        inside[...] = large
        # Units by the parity of row and column; even ones stand at the ends of tiles, odd ones,
        # of which there is one fewer, in the middle.
        even_even, even_odd, odd_even = (
            _copy(units[:, row::2, column::2], empty) for row, column in ((0, 0), (0, 1), (1, 0))
        )
        planes[1, 1] = units[:, 1::2, 1::2]
        rows = empty(odd_even.shape, large.dtype)
        np.subtract(even_odd[:, :-1], planes[1, 1], out=planes[0, 1])
        np.subtract(planes[1, 1], even_odd[:, 1:], out=planes[2, 1])
        for i in range(3):
            if i == 0:
                np.subtract(even_even[:, :-1], odd_even, out=rows)
            elif i == 2:
                np.subtract(odd_even, even_even[:, 1:], out=rows)
            even = odd_even if i == 1 else rows
            np.subtract(even[:, :, :-1], planes[i, 1], out=planes[i, 0])
            np.subtract(planes[i, 1], even[:, :, 1:], out=planes[i, 2])


def _copy(view: np.ndarray, empty: Empty) -> np.ndarray:
    out = empty(view.shape, view.dtype)
    out[...] = view
    return out


def _store_units(m: np.ndarray, large: np.ndarray, accumulate: bool) -> None:
    """large (n, 2P, 2Q, C) = or += the units of m (3, 3, tiles, 4C), added where they overlap."""
    m = m.reshape(3, 3, len(large), *_tiles_of_large(large), 2, 2 * large.shape[3])

    def store_part(part: slice) -> None:
        with frame() as empty:
            _, inside, units = _padded(large[part], empty)
            # (3, n, P'/2 or one more, Q'/2, 2, 2C)
            for row, rows in enumerate(_overlapping(m[:, :, part], empty)):
                for column, both in enumerate(_overlapping(rows, empty)):
                    units[:, row::2, column::2] = both
            store(large[part], inside, accumulate)

    run(store_part, split_work(len(large), m.size))


def _overlapping(m: np.ndarray, empty: Empty) -> tuple[np.ndarray, np.ndarray]:
    """Even and odd units of m (3, a, b, tiles, ...); m[1] is overwritten.

    An even unit is the last of one tile and the first of the next; there is one more of them.
    """
    first, odd, last = m
    odd -= first
    odd -= last
    a, b, tiles, *rest = first.shape
    even = empty((a, b, tiles + 1, *rest), m.dtype)
    even[:, :, :-1] = first
    even[:, :, -1] = 0
    even[:, :, 1:] += last
    return even, odd
