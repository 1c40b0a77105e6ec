"""What is kept between runs, and when it is made anew."""

from __future__ import annotations

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pygan.bindings import cache, compiler


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PYGAN_CACHE", str(folder))
    return folder


def key(path: Path, flags: tuple[str, ...] = (), compiler_text: str = "g++ 12") -> str:
    return compiler.content_key(path, [path.parent / "include"], flags, compiler_text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "deep.cuh").write_text("#define A 1\n")
    (tmp_path / "near.cuh").write_text('#include "deep.cuh"\n')
    path = tmp_path / "k.cu"
    path.write_text('#include "near.cuh"\n#include <math.h>\n#include "absent.cuh"\n')
    return path


def test_a_key_covers_source_includes_flags_and_compiler(source: Path) -> None:
    before = key(source)
    assert key(source) == before
    assert key(source, ("-DA=2",)) != before
    assert key(source, compiler_text="g++ 13") != before
    folder = source.parent
    for file, text in (
        (folder / "include" / "deep.cuh", "#define A 2\n"),
        (folder / "near.cuh", '#include "deep.cuh"\n#define B 1\n'),
        (source, '#include "near.cuh"\n'),
    ):
        file.write_text(text)
        after = key(source)
        assert after != before, f"a change of {file.name} went unnoticed"
        before = after


def test_includes_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a.cuh").write_text('#include "b.cuh"\n')
    (tmp_path / "b.cuh").write_text('  #  include "a.cuh"\n')
    found = compiler.included_files(tmp_path / "a.cuh", [])
    assert [path.name for path in found] == ["a.cuh", "b.cuh"]


def test_built_once_and_again_when_damaged(own_cache: Path) -> None:
    built = []

    def build() -> bytes:
        built.append(1)
        return b"image" * 100

    for _ in range(2):
        assert compiler.cached("ab" * 32, build) == b"image" * 100
    assert len(built) == 1
    (file,) = [path for path in own_cache.rglob("[!.]*") if path.is_file()]
    file.write_bytes(file.read_bytes()[:-1])  # a disk that lost the end
    assert compiler.cached("ab" * 32, build) == b"image" * 100
    assert len(built) == 2


def test_those_who_want_one_image_at_a_time_share_one_build(own_cache: Path) -> None:
    built = []

    def build() -> bytes:
        built.append(1)
        time.sleep(0.2)  # long enough for the others to come
        return b"image"

    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: compiler.cached("ab" * 32, build), range(4)))
    assert images == [b"image"] * 4
    assert len(built) == 1


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    cache.atomic_write(path, b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.atomic_write(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_cache_that_cannot_be_made_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("PYGAN_CACHE", str(blocker / "below"))
    with pytest.raises(OSError, match="PYGAN_CACHE"):
        cache.cache_dir()
    with pytest.warns(RuntimeWarning, match="PYGAN_CACHE"):
        assert compiler.cached("cd" * 32, lambda: b"image") == b"image"


def test_the_variable_names_the_folder(own_cache: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.cache_dir() == own_cache
    assert own_cache.is_dir()


def test_defines_become_flags() -> None:
    assert compiler.define_flags({"TILE": 16, "FAST": True, "A": "x"}) == [
        *("-DA=x", "-DFAST=1", "-DTILE=16")
    ]
    with pytest.raises(ValueError, match="cannot be the name"):
        compiler.define_flags({"TILE SIZE": 1})


def test_a_missing_kernel_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.cu.*activation\.cu"):
        compiler.source_path("nothing.cu")
