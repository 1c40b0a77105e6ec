"""Working memory that is kept from call to call, one block for each thread.

Fresh memory costs a page fault every few kilobytes, as much time as some passes over it. Functions
that need working memory take it in a `with frame() as empty` and must not let it out of there:

    with frame() as empty:
        product = empty((rows, columns), dtype)

Frames nest; what an inner one took is free again after it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: a line of the cache

Empty = Callable[[Sequence[int], Any], np.ndarray]


class _Memory(threading.local):
    """One block, handed out from its start; `used` bytes are taken now, `most` ever."""

    def __init__(self) -> None:
        self.block = np.empty(0, np.uint8)
        self.used = self.most = 0

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An array of the shape, not initialised; beside the block while that is too small."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        start = self.used
        self.used += -(-nbytes // ALIGNMENT) * ALIGNMENT
        self.most = max(self.most, self.used)
        if self.used > len(self.block):
            return np.empty(shape, dtype)
        return self.block[start : start + nbytes].view(dtype).reshape(shape)


_memory = _Memory()


@contextmanager
def frame() -> Iterator[Empty]:
    """Gives the function that hands out arrays until the frame ends."""
    memory, start = _memory, _memory.used
    try:
        yield memory.empty
    finally:
        memory.used = start
        if start == 0 and memory.most > len(memory.block):
            block = np.empty(memory.most + ALIGNMENT, np.uint8)
            memory.block = block[-block.ctypes.data % ALIGNMENT :]
