"""Work shared over the processor's cores, and matrix products in parts.

numpy lets go of the interpreter while it computes, so threads of Python can work side by side. As
many do as BLAS is told to use (OPENBLAS_NUM_THREADS, OMP_NUM_THREADS, threadpoolctl, or else the
cores), and meanwhile BLAS itself stays on the thread that calls it: its own threads keep the cores
busy for a tenth of a second after every product, waiting for the next. Where BLAS cannot be told
(another than OpenBLAS with its own threads), it keeps its threads, and nothing else is shared.

How work falls into parts depends on its shape alone, and whoever is free takes the next part: the
number of threads changes no bit of what is shared.

It pays for large arrays, and for long calls of numpy. Between two calls a thread waits for the
interpreter, which takes as long as a pass over some ten thousand numbers; waking one takes longer;
and what another core wrote last takes longer to read, several times as long from one that shares no
cache. Graphs of small arrays therefore share convolutions of a millisecond and more, image by
image, and nothing else.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")

# Operations and rows (or columns) below which part of a matrix product is not worth a thread, and
# the most parts: every part packs the other factor anew.
LEAST_OPERATIONS = 128e6
LEAST_ROWS = 128
MOST_PARTS = 16
# Passes over a number in a part of elementwise work, some 60 us: the passes of numpy are then long
# beside the waits for the interpreter.
PASSES = 1 << 19
# Blocks from which on threads share them rather than what is in them.
FEW = 4
# Parts from which on work is shared where nothing is said about it.
MANY = 16
# A product with fewer results takes one thread the least time, however long its sums.
LEAST_RESULTS = 1 << 12
# A product of fewer operations stays on one thread in OpenBLAS whatever it is told.
LEAST_OPERATIONS_OF_BLAS = 1 << 19


def threads() -> int:
    """How many threads share the work of a call."""
    return _blas.allowed()


class sharing:
    """with sharing(on): whether calls of this thread share their work among threads.

    Off, they run on the thread alone, BLAS's products too, but for what is long: what another core
    writes or reads travels from cache to cache, for this call and again for the passes around it.
    Where cores share no cache, as those of a virtual machine need not, small arrays lose more by
    that than a second core gains. Outside of any such block, a call shares work that falls into
    MANY parts, and BLAS its products.
    """

    def __init__(self, on: bool) -> None:
        self._on = on
        self._before: list[bool | None] = []  # blocks nest

    def __enter__(self) -> None:
        self._before.append(_here.sharing)
        _here.sharing = self._on
        if not self._on:
            _blas.take()

    def __exit__(self, *_: object) -> None:
        _here.sharing = self._before.pop()
        if not self._on:
            _blas.give_back()


def run(task: Callable[[Item], None], items: Sequence[Item], long: bool = False) -> None:
    """task(item) for every item, on all threads; returns when all are done.

    long: each takes a millisecond or so, and is shared in small graphs as well.

    Tasks must not write what others of them read or write, and take working memory in frames of
    their own (scratch.py). Inside a task everything runs on its thread alone. The first exception
    of a task is raised here, when none runs any more; those not begun are left out.
    """
    if _here.inside or not _shared(len(items), long):
        for item in items:
            task(item)
        return
    _here.inside = True
    count = _blas.take()
    try:
        if count == 1 or len(items) == 1:
            for item in items:
                task(item)
        else:
            _workers.share(_Job(task, items), min(count, len(items)) - 1)
    finally:
        _blas.give_back()
        _here.inside = False


def run_blocks(task: Callable[[Item], None], blocks: Sequence[Item]) -> None:
    """task(block) for every block: side by side or, if they are few, one after the other with
    threads inside of each."""
    if len(blocks) == 1 or 2 < len(blocks) < FEW:
        for block in blocks:
            task(block)
    else:
        run(task, blocks, long=True)


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out (..., M, N) = a (..., M, K) @ b (..., K, N), in parts of rows or columns."""
    operations = 2 * out.size * a.shape[-1]

    def whole(_: None) -> None:
        np.matmul(a, b, out=out)

    if _here.inside or operations < LEAST_OPERATIONS_OF_BLAS:
        return np.matmul(a, b, out=out)
    if out.size < LEAST_RESULTS and _here.sharing is not False:
        with sharing(True):
            run(whole, (None,))
        return out
    rows, columns = out.shape[-2:]
    parts = int(min(operations / LEAST_OPERATIONS, max(rows, columns) / LEAST_ROWS, MOST_PARTS))
    wheres = split(max(rows, columns), power_of_two(parts))
    long = len(wheres) > 1
    if not _shared(len(wheres) * math.prod(out.shape[:-2]), long):
        return np.matmul(a, b, out=out)
    whichs = list(np.ndindex(out.shape[:-2]))
    a, b = (np.broadcast_to(each, (*out.shape[:-2], *each.shape[-2:])) for each in (a, b))

    def part(index: tuple[Any, ...]) -> None:
        *leading, where = index
        which = tuple(leading)
        if rows >= columns:
            np.matmul(a[which][where], b[which], out=out[which][where])
        else:
            np.matmul(a[which], b[which][:, where], out=out[which][:, where])

    run(part, [(*which, where) for where in wheres for which in whichs], long)
    return out


def _shared(parts: int, long: bool) -> bool:
    if _here.sharing is None:
        return parts >= MANY
    return _here.sharing or (long and parts > 1)


@functools.lru_cache(maxsize=1024)
def split(count: int, parts: int) -> tuple[slice, ...]:
    """0..count in at most so many runs of about the same length, of multiples of 16 where long."""
    length = -(-count // max(1, parts))
    if length > 64:
        length = -(-length // 16) * 16
    starts = range(0, count, max(1, length))
    return tuple(slice(start, min(start + length, count)) for start in starts)


def split_work(count: int, passes: int) -> tuple[slice, ...]:
    """0..count in parts that take at least PASSES of the `passes` over single numbers, a power of
    two of them."""
    return split(count, power_of_two(passes // PASSES))


def power_of_two(most: int) -> int:
    """The largest that is not above `most`, and at least 1."""
    return 1 << max(0, int(most).bit_length() - 1)


class _Job:
    """Items that several threads take, the caller from their start and its helpers from their end:
    from call to call a thread sees the same images, which are in its own cache.

    The caller waits at the end for those helpers alone that have begun: one that comes late finds
    the job closed.
    """

    def __init__(self, task: Callable[[Any], None], items: Sequence[Any]) -> None:
        self._task, self._items = task, deque(items)
        self._lock = threading.Lock()
        self._all_done = threading.Lock()
        self._all_done.acquire()
        self._helpers = 0
        self._closed = False
        self._error: BaseException | None = None

    def help(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._helpers += 1
        _here.inside = True
        self._work(self._items.pop)
        _here.inside = False
        with self._lock:
            self._helpers -= 1
            last = self._closed and self._helpers == 0
        if last:
            self._all_done.release()

    def finish(self) -> None:
        self._work(self._items.popleft)
        with self._lock:
            self._closed = True
            waiting = self._helpers > 0
        while waiting:
            try:
                self._all_done.acquire()
                waiting = False
            except BaseException as error:  # Ctrl-C: helpers still write to arrays of the caller
                self._error = self._error or error
        if self._error is not None:
            raise self._error

    def _work(self, take: Callable[[], Any]) -> None:
        try:
            while self._items:
                try:
                    item = take()
                except IndexError:  # another thread was quicker
                    return
                self._task(item)
        except BaseException as error:
            self._items.clear()
            self._error = self._error or error


class _Workers:
    """Threads that wait for jobs, made when first wanted. They end with the interpreter."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0

    def share(self, job: _Job, helpers: int) -> None:
        if self._count < helpers:
            self._grow(helpers)
        for _ in range(helpers):
            self._jobs.put(job)
        job.finish()

    def _grow(self, helpers: int) -> None:
        with self._lock:
            while self._count < helpers:
                name = f"pygan-numpy-{self._count + 1}"
                try:
                    threading.Thread(target=self._serve, name=name, daemon=True).start()
                except RuntimeError:  # no more threads, or the interpreter ends: callers do it all
                    return
                self._count += 1

    def _serve(self) -> None:
        while True:
            self._jobs.get().help()


class _Blas:
    """The number of threads that BLAS uses; one of its own while a call shares its work."""

    def __init__(self) -> None:
        self._get, self._set = _thread_functions()
        self._lock = threading.Lock()
        self._callers = 0
        self._own = 1

    def allowed(self) -> int:
        with self._lock:
            return self._own if self._callers else self._get()

    def take(self) -> int:
        """BLAS stays on the calling threads from now on; returns how many it had."""
        with self._lock:
            if self._callers == 0:
                self._own = self._get()
                if self._own != 1:
                    self._set(1)
            self._callers += 1
            return self._own

    def give_back(self) -> None:
        with self._lock:
            self._callers -= 1
            if self._callers == 0 and self._own != 1:
                self._set(self._own)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._callers:  # of threads that the child does not have
            self._callers = 0
            self._set(self._own)


def _thread_functions() -> tuple[Callable[[], int], Callable[[int], Any]]:
    """OpenBLAS's functions that get and set its number of threads."""
    alone = (lambda: 1), (lambda _: None)
    core = "_core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "core"
    try:
        numpy = importlib.import_module(f"numpy.{core}._multiarray_umath")
        library = ctypes.CDLL(numpy.__file__)
    except OSError:  # numpy is built into the interpreter
        return alone
    for name in ("scipy_openblas_%s64_", "scipy_openblas_%s", "openblas_%s64_", "openblas_%s"):
        try:
            parallel, get, set_ = (
                getattr(library, name % what)
                for what in ("get_parallel", "get_num_threads", "set_num_threads")
            )
        except AttributeError:
            continue
        if parallel() == 1:  # threads of its own: OpenMP's have a number for every caller
            set_.restype = None
            return get, set_
    return alone


class _Here(threading.local):
    inside = False  # a task
    sharing: bool | None = None


_here = _Here()
_blas = _Blas()
_workers = _Workers()


def _after_fork() -> None:
    """A child has none of the threads, and no lock that one of them holds is ever released."""
    global _workers
    _workers = _Workers()
    _blas.after_fork()
    _here.inside = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
