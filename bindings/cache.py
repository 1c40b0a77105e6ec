"""Where compiled things are kept between runs, and how they are written there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_dir() -> Path:
    """The folder for compiled kernels and drivers: PYGAN_CACHE, else the user's cache folder.

    The folder is created. Raises OSError naming PYGAN_CACHE where it cannot be.
    """
    named = os.environ.get("PYGAN_CACHE")
    if named:
        folder = Path(named).expanduser().absolute()
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches" / "pygan"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pygan"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot create the cache folder {folder} ({error.strerror}); "
            f"set PYGAN_CACHE to a folder that can be written",
        ) from error
    return folder


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_checked(path: Path) -> bytes | None:
    """What :func:`write_checked` put there; None where it is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, content = data[:32], data[32:]
    return content if hashlib.sha256(content).digest() == digest else None


def write_checked(path: Path, content: bytes) -> None:
    """Write `content` behind its SHA-256, so that a damaged file is noticed when it is read."""
    atomic_write(path, hashlib.sha256(content).digest() + content)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Holds back other processes and threads that are about to make `path`, or another file of its
    folder, until this one has made it."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # without a lock the work is done twice, not wrongly
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(open(path.parent / ".lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
