"""How quickly one core reads what another has just written.

Cores that share a cache pass a line on in a nanosecond or two, others take several times as long.
The virtual cores of a machine may be either, and change from minute to minute: the host moves them.
Steps whose arrays are small take up to a third longer then, in every library that uses two threads.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import dataclass

import numpy as np

LINES = 4096  # of 64 bytes: less than the cache of a core
LINE = 16  # float32 numbers in a line


@dataclass(frozen=True)
class Lines:
    """Nanoseconds for a line of the cache, read in random order: what another core wrote last, and
    what the reading one did."""

    other: float
    own: float


def between_cores(times: int = 40) -> Lines | None:
    """Measures the first two cores that this process may use; None with one core, or where threads
    cannot be tied to cores."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        return None
    here, there = sorted(allowed)[:2]
    numbers = np.zeros(LINES * LINE, np.float32)
    order = np.random.default_rng(0).permutation(LINES) * LINE
    read = np.empty(LINES, np.float32)
    wanted, written = threading.Semaphore(0), threading.Semaphore(0)

    def write() -> None:
        os.sched_setaffinity(0, {there})  # 0: this thread
        for _ in range(times):
            wanted.acquire()
            numbers.fill(1)
            written.release()

    def seconds() -> float:
        started = time.perf_counter()
        numbers.take(order, out=read, mode="clip")
        return time.perf_counter() - started

    writer = threading.Thread(target=write)
    writer.start()
    other, own = [], []
    os.sched_setaffinity(0, {here})
    try:
        for _ in range(times):
            wanted.release()
            written.acquire()
            other.append(seconds())
            numbers.fill(2)
            own.append(seconds())
    finally:
        os.sched_setaffinity(0, allowed)
    writer.join()
    return Lines(*(1e9 * statistics.median(each) / LINES for each in (other, own)))
