"""What is compiled ahead is what a launch would compile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pygan.bindings import compiler, precompile, probe

SOURCE = """// variants, unless they say: -DTILE=4
// variants: -DN=1 | -DTILE=8 -DN=2
extern "C" __global__ void k(float* y) { y[threadIdx.x] = N; }
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if compiler.find_nvcc() is None:
        if os.environ.get("CI"):
            pytest.fail("no nvcc")
        pytest.skip("no nvcc; `pip install pygan[nvcc]` or nvcc_report --fetch brings one")
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "k.cu"
    path.write_text(SOURCE)
    return path


def test_launches_find_what_was_compiled_ahead(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert precompile.main([str(file), "--arch", "sm_90a", "--workers", "2"]) == 0
    assert "2 kernel images for sm_90a" in capsys.readouterr().out

    def compiles(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(compiler, "run_nvcc", compiles)
    images = {compiler.compile_for_gpu(file, {"N": 1, "TILE": 4}, "sm_90a")}
    images.add(compiler.compile_for_gpu(file, {"N": 2, "TILE": 8}, "sm_90a"))
    assert len(images) == 2 and all(image.startswith(b"\x7fELF") for image in images)
    # a copy of the sources elsewhere, another clone, has the same images
    elsewhere = file.parent / "clone" / file.name
    elsewhere.parent.mkdir()
    elsewhere.write_text(SOURCE)
    assert compiler.compile_for_gpu(elsewhere, {"N": 1, "TILE": 4}, "sm_90a") in images
    with pytest.raises(AssertionError, match="compiled again"):
        compiler.compile_for_gpu(file, {"N": 1, "TILE": 4}, "sm_80")


def test_what_does_not_compile_is_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(SOURCE.replace("-DN=2", "-DN=nothing"))
    assert precompile.main([str(file), "--arch", "sm_90a"]) == 1
    said = capsys.readouterr()
    assert "nothing" in said.err and "1 kernel images" in said.out


def test_without_a_gpu_an_architecture_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "nvidia_driver", lambda: probe.Driver(False))
    assert precompile.main([]) == 2
    assert "--arch" in capsys.readouterr().err


def test_what_cannot_be_meant_is_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(f"// variants(sm_80): -DN=3\n{SOURCE}")
    assert precompile.main([str(file), "--arch", "sm_3x"]) == 2
    assert "'sm_3x' is no architecture" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        precompile.main([str(file), "--arch", "sm_90a", "--workers", "0"])
    assert "--workers 0" in capsys.readouterr().err
