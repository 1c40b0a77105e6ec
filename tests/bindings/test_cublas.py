"""The scikit-cuda adapter: what it says where cuBLAS cannot be used, and its products where a
library answers."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pygan.bindings import cublas
from pygan.bindings.array import DeviceArray
from pygan.bindings.errors import ArgumentError, DeviceUnavailable


def skcuda_source() -> str | None:
    try:
        files = importlib.metadata.files("scikit-cuda") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next(Path(f.locate()).read_text() for f in files if f.name == "cublas.py")


def test_the_cpu_driver_is_refused(context) -> None:
    if context.name != "cpu":
        pytest.skip("on a GPU cuBLAS may work")
    with pytest.raises(DeviceUnavailable, match="NVIDIA GPU; device 'cpu'"):
        cublas.Cublas(context)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cublas, "DISTRIBUTION", "scikit-cuda-that-is-not-here")
    monkeypatch.delitem(__import__("sys").modules, "skcuda.cublas", raising=False)
    with pytest.raises(DeviceUnavailable, match="not installed; install pygan's extra `vendor`"):
        cublas.load_skcuda_cublas()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cublas, "DISTRIBUTION", "numpy")
    monkeypatch.setattr(cublas, "find_library", lambda name: None)
    monkeypatch.delitem(__import__("sys").modules, "skcuda.cublas", raising=False)
    with pytest.raises(DeviceUnavailable, match=r"no libcublas\.so was found; .*nvidia-cublas"):
        cublas.load_skcuda_cublas()


def test_the_newest_library_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("libcublas.so.9.2", "libcublas.so.13", "libcublas.so.12.8.4", "libcublas.so.txt"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    assert cublas.find_library("libcublas") == str(tmp_path / "libcublas.so.13")
    assert cublas.find_library("libnothing") is None


@pytest.fixture
def stand_in_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A libcublas that works on host memory: SGEMM in column-major order as its manual defines it,
    and the names of everything else that scikit-cuda binds at import."""
    source = skcuda_source()
    if source is None:
        pytest.skip("scikit-cuda is not installed")
    names = set(re.findall(r"_libcublas\.(\w+)", source)) - {"cublasCreate_v2", "cublasSgemm_v2"}
    (tmp_path / "cublas.cpp").write_text(
        'extern "C" int cublasCreate_v2(void** h) { *h = (void*)16; return 0; }\n'
        'extern "C" int cublasSgemm_v2(void*, int ta, int tb, int m, int n, int k,\n'
        "    const float* alpha, const float* a, int lda, const float* b, int ldb,\n"
        "    const float* beta, float* c, int ldc) {\n"
        "  for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) {\n"
        "    float s = 0;\n"
        "    for (int l = 0; l < k; l++) {\n"
        "      const float p = ta ? a[l + i * lda] : a[i + l * lda];\n"
        "      s += p * (tb ? b[j + l * ldb] : b[l + j * ldb]);\n"
        "    }\n"
        "    c[i + j * ldc] = *alpha * s + *beta * c[i + j * ldc];\n"
        "  }\n"
        "  return 0;\n"
        "}\n" + "".join(f'extern "C" int {name}() {{ return 0; }}\n' for name in sorted(names))
    )
    runtime = re.findall(r"_libcudart\.(\w+)", (Path(_skcuda_folder()) / "cudart.py").read_text())
    (tmp_path / "cudart.cpp").write_text(
        "".join(f'extern "C" int {name}() {{ return 0; }}\n' for name in sorted(set(runtime)))
    )
    for name, number in (("cublas", 13), ("cudart", 13)):
        subprocess.run(
            [
                *("g++", "-shared", "-fPIC", str(tmp_path / f"{name}.cpp")),
                *("-o", str(tmp_path / f"lib{name}.so.{number}")),
            ],
            check=True,
        )
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


def _skcuda_folder() -> Path:
    files = importlib.metadata.files("scikit-cuda") or []
    return next(Path(f.locate()).parent for f in files if f.name == "cudart.py")


def test_products_through_the_real_scikit_cuda(context, stand_in_library) -> None:
    if context.name != "cpu":
        pytest.skip("the stand-in library works on host memory")
    handle = object.__new__(cublas.Cublas)
    handle._open(context)
    rng = np.random.default_rng(3)
    a, b, c = (rng.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 4), (5, 4)))
    for transpose_a in (False, True):
        for transpose_b in (False, True):
            device = [
                DeviceArray.from_numpy(context, np.ascontiguousarray(host))
                for host in (a.T if transpose_a else a, b.T if transpose_b else b, c)
            ]
            handle.sgemm(
                *device, transpose_a=transpose_a, transpose_b=transpose_b, alpha=2.0, beta=-0.5
            )
            # seven products and two scalings in float32, each within half an ulp
            expected = 2.0 * (a.astype(float) @ b) - 0.5 * c
            bound = 16 * 2.0**-24 * (2.0 * np.abs(a).astype(float) @ np.abs(b) + np.abs(c))
            assert (np.abs(np.asarray(device[2]) - expected) <= bound).all()
    with pytest.raises(ArgumentError, match=r"op\(a\) \(5, 7\) @ op\(b\) \(5, 7\)"):
        arrays = [DeviceArray.from_numpy(context, host) for host in (a, a, c)]
        handle.sgemm(*arrays)
    handle.close()
