"""The cache of compiled things stays below a limit, and nobody loses what it is using."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from pygan.bindings import compiler
from pygan.bindings.cpu_driver import nvcc_standin, pruning

HOUR = 3600.0


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(path: Path, nbytes: int, hours_ago: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(nbytes))
    used = time.time() - hours_ago * HOUR
    os.utime(path, (used, used))
    return path


def test_what_was_not_used_for_longest_goes_first(root: Path) -> None:
    image = put(root / "kernels" / "ab" / "c0", 1000, 5)
    module = put(root / "cpu_driver" / "modules" / "12" / "34.so", 1000, 9)
    oldest = put(root / "cpu_driver" / "driver" / "objects" / "a.o", 1000, 20)
    header = put(root / "cpu_driver" / "headers" / "x-gnu++17" / "cuda.h.gch", 1000, 7)
    put(header.parent / ".lock", 0, 30)
    library = put(root / "cpu_driver" / "driver" / "1f" / "libcuda.so.1", 1000, 2)
    others = [put(root / "nvcc" / "bin" / "nvcc", 10**6, 99), put(root / "data" / "x", 10**6, 99)]
    locks = [put(root / "kernels" / "ab" / ".lock", 0, 99)]

    assert pruning.prune(root, None) == 0
    folders = 2 * os.stat(root).st_size  # a folder counts with what it takes itself
    assert pruning.prune(root, 5000 + folders) == 0
    assert pruning.prune(root, 3500 + folders) == 2000
    assert not oldest.exists() and not module.exists() and header.exists()
    assert pruning.prune(root, 0) > 0
    assert not any(path.exists() for path in (image, header, header.parent, library.parent))
    assert all(path.exists() for path in others + locks)


def test_what_is_in_use_stays_whatever_the_limit(root: Path) -> None:
    fresh = put(root / "kernels" / "ab" / "c0", 1000, 0.5)
    used = put(root / "kernels" / "ab" / "c1", 1000, 50)
    pruning.mark_used(used)
    left = put(root / "kernels" / "ab" / ".c2.killed", 1000, 50)
    pruning.prune(root, 0)
    assert fresh.exists() and used.exists() and not left.exists()


def test_taking_from_the_cache_counts_as_use(root: Path) -> None:
    source = root.parent / "k.cu"
    source.write_text("__global__ void k(int *x) { *x = 1; }\n")
    nvcc_standin.compile_image(str(source), [])
    compiler.cached("ab" * 32, lambda: b"image")
    found = {entry.path for entry in pruning.entries(root)}
    for path in found:
        for file in [path, *path.rglob("*")]:
            os.utime(file, (1.0, 1.0))
    nvcc_standin.compile_image(str(source), [])
    compiler.cached("ab" * 32, lambda: b"another")
    assert {entry.path for entry in pruning.entries(root)} == found
    assert all(entry.used > 1.0 for entry in pruning.entries(root))


def test_it_looks_once_an_hour(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYGAN_CACHE_LIMIT", "1")
    old = [put(root / "kernels" / "ab" / f"c{i}", 2**20, 9) for i in range(3)]
    compiler.cached("cd" * 32, lambda: b"image")
    assert sum(path.exists() for path in old) < 2
    late = put(root / "kernels" / "ab" / "late", 2**21, 9)
    compiler.cached("ce" * 32, lambda: b"image")
    assert late.exists()
    os.utime(root / ".pruned", (1.0, 1.0))
    compiler.cached("cf" * 32, lambda: b"image")
    assert not late.exists()


def test_the_limit_is_a_number(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pruning.limit() == pruning.DEFAULT_LIMIT * 2**20
    monkeypatch.setenv("PYGAN_CACHE_LIMIT", "0")
    assert pruning.limit() is None
    monkeypatch.setenv("PYGAN_CACHE_LIMIT", "2 GB")
    with pytest.raises(ValueError, match=r"PYGAN_CACHE_LIMIT is '2 GB'.*megabytes"):
        compiler.cached("ab" * 32, lambda: b"image")
    source = root.parent / "k.cu"
    source.write_text("__global__ void k(int *x) { *x = 1; }\n")
    with pytest.raises(nvcc_standin.CompileError, match="PYGAN_CACHE_LIMIT"):
        nvcc_standin.compile_image(str(source), [])


@pytest.mark.filterwarnings("ignore:the compiled kernel could not be kept")
def test_who_loses_an_entry_makes_it_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even without the hour of grace: others read, write and remove the same entries meanwhile."""
    monkeypatch.setattr(pruning, "IN_USE", -1.0)
    stop, failures = threading.Event(), []

    def use(name: str) -> None:
        try:
            while not stop.is_set():
                assert compiler.cached(name * 32, name.encode) == name.encode()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(name,)) for name in ("ab", "ab", "cd")]
    for thread in threads:
        thread.start()
    removed = 0
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        removed += pruning.prune(root, 0)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures and removed > 0
