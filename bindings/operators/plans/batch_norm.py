"""How batch norm cuts its rows and channels into blocks: the numbers of the launch contract of
kernels/batch_norm.cu."""

from __future__ import annotations

from typing import NamedTuple

from ..validation import THREADS

WHOLE = 512
"""Most threads of a block that has its channels to itself."""
WHOLE_FLOATS = 32768
"""Most numbers (128 kB) that such a block may read in a pass; beyond, its rows are split."""
SPLIT_BLOCKS = 264
"""Blocks of a pass whose rows are split: two for each multiprocessor of the largest GPUs."""
MERGED_FLOATS = 2048
"""Most means (and as many squares) that each block of the second launch may have to merge."""


class BatchNormPlan(NamedTuple):
    """How (rows, channels) is cut.

    It depends on the shape and on `width` alone, not on the device, so that sums have the same
    bits everywhere. `splits` is 1 where a block has its channels to itself.
    """

    width: int
    block: tuple[int, int]
    columns: int
    rows_per_split: int
    splits: int

    @property
    def numbers(self) -> int:
        """Of a block's rows and channels."""
        return self.rows_per_split * self.block[0] * self.width


def whole_plan(rows: int, channels: int, width: int, arrays: int) -> BatchNormPlan | None:
    """One launch: a block reads all rows of 8 channels (a sector of 32 bytes), or of 4, in
    `arrays` arrays; None where that is too much for a block."""
    for most in (8, 4):
        group = min(most, _power_of_two(channels))
        if rows * group * arrays <= WHOLE_FLOATS:
            x = group // width
            # a thread has at least one batch of rows, and a block at least a warp
            y = _power_of_two(-(-rows // _batch(width)))
            block = (x, max(min(y, WHOLE // x), 32 // x))
            return BatchNormPlan(width, block, -(-channels // group), rows, 1)
    return None


def split_plan(rows: int, channels: int, width: int) -> BatchNormPlan:
    """Rows split over blocks of 16 channels, or of 8 where half of the last 16 would idle."""
    group = _group(channels)
    return _split(rows, channels, width, group, MERGED_FLOATS // group)


def tiles_plan(rows: int, channels: int, width: int, tiles: int) -> BatchNormPlan:
    """As :func:`split_plan`, where every block has the moments of so many tiles to merge, which are
    less of fewer channels."""
    group = _group(channels)
    group = group if tiles * group <= MERGED_FLOATS else min(8, group)
    return _split(rows, channels, width, group, rows)


def merging_plan(channels: int, width: int) -> BatchNormPlan:
    """Blocks that merge moments, and do nothing else: one for all rows of 8 channels, a sector."""
    group = min(8, _power_of_two(channels))
    x = group // width
    return BatchNormPlan(width, (x, THREADS // x), -(-channels // group), 0, 1)


def _group(channels: int) -> int:
    """Channels of a block that has not all rows of them."""
    group = min(16, _power_of_two(channels))
    return 8 if group == 16 and -channels % 16 >= 8 else group


def _split(rows: int, channels: int, width: int, group: int, most_splits: int) -> BatchNormPlan:
    x = group // width
    block = (x, THREADS // x)
    columns = -(-channels // group)
    most_splits = min(-(-SPLIT_BLOCKS // columns), most_splits, rows // (_batch(width) * block[1]))
    rows_per_split = -(-rows // max(1, most_splits))
    return BatchNormPlan(width, block, columns, rows_per_split, -(-rows // rows_per_split))


def _power_of_two(n: int) -> int:
    """The least one that is not below n."""
    return 1 << (n - 1).bit_length()


def _batch(width: int) -> int:
    """BATCH of batch_norm.cu: the rows that a thread has in flight."""
    return 4 if width == 4 else 8
