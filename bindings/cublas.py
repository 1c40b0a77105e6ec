"""cuBLAS matrix products through scikit-cuda: a baseline for benchmarks, never used by operators.

scikit-cuda 0.5.3 (the last release, 2019) stands in its own way on a present system. This adapter
steps around what it can: the names of its libraries end at CUDA 10.1 (here newer ones are found,
also those of NVIDIA's wheels), it reads its own version through pkg_resources (gone from new
setuptools), and it makes a context at import to ask for cuBLAS's version (here the version is told
to it). It cannot do without a real driver and cuBLAS, nor on the CPU driver, and says so. Only
`skcuda.cublas` is imported: `skcuda.misc` and `skcuda.linalg` use names that numpy 1.24 removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import re
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ArgumentError, DeviceUnavailable

if TYPE_CHECKING:
    from .array import DeviceArray
    from .context import Context

DISTRIBUTION = "scikit-cuda"
ADVICE = "install pygan's extra `vendor` and cuBLAS (CUDA toolkit, or the wheel nvidia-cublas)"


class Cublas:
    """A cuBLAS handle on the context's stream.

    cuBLAS computes float32 products in float32 unless NVIDIA_TF32_OVERRIDE=1 is set.
    Raises DeviceUnavailable where the context is not on a GPU or a library is missing.
    """

    def __init__(self, context: Context) -> None:
        if context.name != "cuda":
            raise DeviceUnavailable(
                f"cuBLAS runs on an NVIDIA GPU; device {context.name!r} has none"
            )
        self._open(context)

    def _open(self, context: Context) -> None:
        self._library = load_skcuda_cublas()
        self.context = context
        try:
            self._handle = self._library.cublasCreate()
        except self._library.cublasError as error:
            raise DeviceUnavailable(f"cuBLAS does not start: {type(error).__name__}") from error
        self._library.cublasSetStream(self._handle, context.stream.handle)

    def sgemm(
        self,
        a: DeviceArray,
        b: DeviceArray,
        c: DeviceArray,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        """c = alpha * op(a) @ op(b) + beta * c for C-contiguous float32 matrices.

        op(a) is (M, K), op(b) (K, N), c (M, N). Raises ArgumentError for other shapes or dtypes.
        """
        m, k, n = self._sizes(a, b, c, transpose_a, transpose_b)
        # A row-major matrix is its column-major transpose: c^T = op(b)^T op(a)^T, same memory.
        self._library.cublasSgemm(
            self._handle,
            "T" if transpose_b else "N",
            "T" if transpose_a else "N",
            *(n, m, k, alpha),
            *(b.ptr, b.shape[1]),
            *(a.ptr, a.shape[1]),
            beta,
            *(c.ptr, n),
        )

    @staticmethod
    def _sizes(
        a: DeviceArray, b: DeviceArray, c: DeviceArray, transpose_a: bool, transpose_b: bool
    ) -> tuple[int, int, int]:
        for name, array in (("a", a), ("b", b), ("c", c)):
            if array.ndim != 2 or array.dtype != np.float32:
                raise ArgumentError(
                    f"sgemm takes float32 matrices; {name} is {array.dtype.name} {array.shape}"
                )
        m, k = a.shape[::-1] if transpose_a else a.shape
        k_of_b, n = b.shape[::-1] if transpose_b else b.shape
        if k != k_of_b or c.shape != (m, n) or 0 in (m, n, k):
            raise ArgumentError(
                f"sgemm: op(a) {(m, k)} @ op(b) {(k_of_b, n)} does not make c {c.shape}"
            )
        return m, k, n

    def close(self) -> None:
        """Frees the handle; the object cannot be used afterwards."""
        if self._handle is not None:
            self._library.cublasDestroy(self._handle)
            self._handle = None


def load_skcuda_cublas() -> Any:
    """The module skcuda.cublas. Raises DeviceUnavailable saying what is missing."""
    if "skcuda.cublas" in sys.modules:
        return sys.modules["skcuda.cublas"]
    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise DeviceUnavailable(f"{DISTRIBUTION} is not installed; {ADVICE}") from None
    libraries: dict[str, str] = {}
    for name in ("libcublas", "libcudart"):
        path = find_library(name)
        if path is None:
            raise DeviceUnavailable(f"no {name}.so was found; {ADVICE}")
        libraries[name] = path
    try:
        with _skcuda_at_home(version, {**libraries, "libcuda": "libcuda.so.1"}):
            return importlib.import_module("skcuda.cublas")
    except Exception as error:  # its import runs library calls: anything may come out
        raise DeviceUnavailable(
            f"{DISTRIBUTION} {version} cannot be imported: {type(error).__name__}: {error}; "
            f"it needs NVIDIA's driver and {libraries['libcublas']}"
        ) from error


def find_library(name: str) -> str | None:
    """The newest `name`.so in LD_LIBRARY_PATH, CUDA_HOME, NVIDIA's wheels or /usr/local/cuda, or
    the plain name where the system's loader knows it; None where there is none."""
    folders = [Path(each) for each in os.environ.get("LD_LIBRARY_PATH", "").split(":") if each]
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            folders.append(Path(os.environ[variable]) / "lib64")
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    folders += sorted(packages.glob("*/lib"), reverse=True)
    folders.append(Path("/usr/local/cuda/lib64"))
    for folder in folders:
        found = [
            path for path in folder.glob(f"{name}.so*") if re.search(r"\.so(\.\d+)*$", str(path))
        ]
        if found:
            return str(max(found, key=lambda path: _version(path.name)))
    plain = f"{name}.so"
    with contextlib.suppress(OSError):
        ctypes.CDLL(plain)
        return plain
    return None


def _version(file_name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", file_name.partition(".so")[2]))


@contextlib.contextmanager
def _skcuda_at_home(version: str, libraries: dict[str, str]) -> Iterator[None]:
    """While scikit-cuda is imported: its libraries are found, its version is known, and no
    cuBLAS context is made. Everything is put back afterwards."""
    load = ctypes.cdll.LoadLibrary

    def load_named(name: str) -> Any:
        return load(libraries.get(name.partition(".so")[0], name))

    stand_in = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("pkg_resources")
    except ImportError:
        stand_in = types.ModuleType("pkg_resources")
        vars(stand_in).update(
            declare_namespace=lambda name: None,
            require=lambda name: [types.SimpleNamespace(version=version)],
        )
        sys.modules["pkg_resources"] = stand_in
    vars(ctypes.cdll)["LoadLibrary"] = load_named
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in its strings
            utils = importlib.import_module("skcuda.utils")
            path = libraries["libcublas"]
            major, *rest = (*_version(path), 10, 0)
            vars(utils).update(
                find_lib_path=lambda name: path,
                get_soname=lambda path: f"libcublas.so.{major}.{rest[0]}",
            )
            yield
    finally:
        del vars(ctypes.cdll)["LoadLibrary"]
        if stand_in is not None:
            del sys.modules["pkg_resources"]
