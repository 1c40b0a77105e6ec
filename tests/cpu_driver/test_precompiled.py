"""The precompiled vocabulary: it changes how long a module takes, never what becomes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pygan.bindings.cpu_driver import nvcc_standin, precompiled

SOURCE = """#include <limits.h>
__global__ void k(float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = tanhf(x[i]) + FLT_EPSILON;
}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "k.cu"
    path.write_text(SOURCE)
    return path


def header() -> Path:
    folder = nvcc_standin.precompiled_header(nvcc_standin.Build())
    if folder is None:
        pytest.skip("only GCC has precompiled headers that fit in here")
    return folder / f"{precompiled.HEADER}.gch"


def compile_anew(source: Path, *arguments: str) -> bytes:
    shutil.rmtree(nvcc_standin.cache_root() / "modules", ignore_errors=True)
    return nvcc_standin.compile_image(str(source), list(arguments))


def names_header(source: Path, *arguments: str) -> bool:
    folder = header().parent
    text = nvcc_standin.preprocess(
        str(source), list(arguments), nvcc_standin.Build(), header=folder
    )
    return str(folder) in text


def test_the_image_is_the_one_without_it(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_header(source)
    with_header = compile_anew(source)
    monkeypatch.setattr(nvcc_standin, "precompiled_header", lambda build: None)
    assert compile_anew(source) == with_header


def test_a_macro_that_the_vocabulary_looks_at_counts(source: Path) -> None:
    assert not names_header(source, "-Dtanhf=coshf")
    assert names_header(source, "-DTILE=16")
    assert compile_anew(source, "-Dtanhf=coshf") != compile_anew(source)
    with pytest.raises(nvcc_standin.CompileError, match="nowhere"):
        compile_anew(source, "-Dtanhf=nowhere")


def test_damage_is_made_good(source: Path) -> None:
    expected, file = compile_anew(source), header()
    good = file.read_bytes()
    third = len(good) // 3
    for damaged in (b"", good[:third], good[:third] + b"\xff" * 64 + good[third + 64 :]):
        file.write_bytes(damaged)
        assert compile_anew(source) == expected


def test_a_header_that_cannot_be_made_is_done_without(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = compile_anew(source)
    shutil.rmtree(header().parent.parent)
    (nvcc_standin.cache_root() / "headers").write_text("no folder")
    assert nvcc_standin.precompiled_header(nvcc_standin.Build()) is None
    assert compile_anew(source) == expected
