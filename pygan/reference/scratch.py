"""Working memory that is kept from call to call, one block for each thread.

Fresh memory costs a page fault every few kilobytes, as much time as some passes over it. Functions
that need working memory take it in a `with frame() as empty` and must not let it out of there:

    with frame() as empty:
        product = empty((rows, columns), dtype)

Frames nest; what an inner one took is free again after it.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: a line of the cache

Empty = Callable[[Sequence[int], Any], np.ndarray]


class _Size:
    """Bytes of a thread's block, gone with the thread."""

    nbytes = 0


_sizes: weakref.WeakSet[_Size] = weakref.WeakSet()
_sizes_lock = threading.Lock()


def _after_fork() -> None:
    """Another thread may have held the lock, which then nobody would release."""
    global _sizes_lock
    _sizes_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def kept_bytes() -> int:
    """Working memory that the process keeps now, of all threads."""
    with _sizes_lock:
        return sum(size.nbytes for size in _sizes)


class _Memory(threading.local):
    """One block, handed out from its start; `used` bytes are taken now, `most` ever."""

    def __init__(self) -> None:
        self.block: np.ndarray = np.empty(0, np.uint8)
        self.used = self.most = 0
        self.size = _Size()
        with _sizes_lock:
            _sizes.add(self.size)

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An array of the shape, not initialised; beside the block while that is too small."""
        dtype = np.dtype(dtype)
        start = self.used
        self.used = start + -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        if self.used > len(self.block):
            self.most = max(self.most, self.used)
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, self.block, start)


_memory = _Memory()


class frame:
    """with frame() as empty: what empty(shape, dtype) gives is free again at the end."""

    __slots__ = ("_memory", "_start")

    def __enter__(self) -> Empty:
        self._memory = _memory
        self._start = _memory.used
        return _memory.empty

    def __exit__(self, *_: object) -> None:
        memory = self._memory
        memory.used = self._start
        if self._start == 0 and memory.most > len(memory.block):
            block = np.empty(memory.most + ALIGNMENT, np.uint8)
            memory.block = block[-block.ctypes.data % ALIGNMENT :]
            memory.size.nbytes = block.nbytes
