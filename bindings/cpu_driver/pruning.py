"""Keeps what is compiled into the cache folder below a limit: what was not used for longest goes.

Entries are files (images of kernels, objects of the driver) and folders (a library of the driver, a
precompiled header). Whoever takes one marks it as used; the mark is its time of modification. An
entry goes whole, and none that was used within the last hour does, so processes that share the
cache never lose what they are about to open; what is open already stays readable anyhow.

Standard library only: the nvcc stand-in runs this file by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_LIMIT = 2048
"""Megabytes (2^20 bytes); PYGAN_CACHE_LIMIT names another number, 0 for no limit."""

IN_USE = 3600.0
"""Seconds since its last use for which an entry is left alone; also between two looks for more."""

FILES = ("kernels/*/*", "cpu_driver/modules/*/*", "cpu_driver/driver/objects/*")
FOLDERS = ("cpu_driver/headers/*", "cpu_driver/driver/*")
KEPT = {".lock", "objects"}


@dataclass(frozen=True)
class Entry:
    """Something in the cache that goes whole: its bytes, and when it was used last."""

    path: Path
    nbytes: int
    used: float


def limit() -> int | None:
    """Bytes that PYGAN_CACHE_LIMIT allows, None for no limit. ValueError where it is no number."""
    named = os.environ.get("PYGAN_CACHE_LIMIT") or str(DEFAULT_LIMIT)
    if not named.strip().isdecimal():
        raise ValueError(
            f"PYGAN_CACHE_LIMIT is {named!r}; it must be a whole number of megabytes, or 0 for none"
        )
    return int(named) * 2**20 or None


def mark_used(path: Path) -> None:
    """Notes that the entry at (or with) this file was used now."""
    with contextlib.suppress(OSError):  # a cache that cannot be written is not pruned either
        os.utime(path)


def prune_now_and_then(root: Path) -> None:
    """`prune`, if nobody has for an hour. To be called when something was added.

    :raises ValueError: PYGAN_CACHE_LIMIT is no number
    """
    most = limit()
    stamp = root / ".pruned"
    with contextlib.suppress(OSError):
        if time.time() - stamp.stat().st_mtime < IN_USE:
            return
    with contextlib.suppress(OSError), open(stamp, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one process at a time; others go on
        os.utime(stamp)
        prune(root, most)


def prune(root: Path, most: int | None) -> int:
    """Removes what was not used for longest until `root` has at most `most` bytes of entries, or
    only such as were used within the last hour. Returns the bytes removed."""
    found = sorted(entries(root), key=lambda entry: entry.used)
    surplus = 0 if most is None else sum(entry.nbytes for entry in found) - most
    latest = time.time() - IN_USE
    removed = 0
    for entry in found:
        if removed >= surplus or entry.used > latest:
            break
        with contextlib.suppress(OSError):
            _remove(entry.path)
            removed += entry.nbytes
    return removed


def entries(root: Path) -> Iterator[Entry]:
    """All that can be removed below the cache folder, left-overs of killed processes included."""
    for pattern in (*FILES, *FOLDERS):
        for path in root.glob(pattern):
            if path.name in KEPT:
                continue
            with contextlib.suppress(OSError):  # gone meanwhile
                whole = [path, *path.rglob("*")] if path.is_dir() else [path]
                stats = [each.stat() for each in whole]
                # A folder's own time tells of files that come and go, not of a use.
                times = [s.st_mtime for s, p in zip(stats, whole, strict=True) if not p.is_dir()]
                yield Entry(path, sum(s.st_size for s in stats), max(times, default=0.0))


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    aside = path.with_name(f".old-{os.getpid()}-{path.name}")  # by renaming: whole or not at all
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)
