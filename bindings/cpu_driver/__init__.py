"""A CUDA driver for machines without a GPU.

:func:`activate` loads a ``libcuda.so.1`` of our own, so that PyCUDA (and cuda-bindings) imported
afterwards run their kernels on the processor. The kernels are the same ``.cu`` files, compiled by a
stand-in for nvcc. The folder's README.md says how it works and what it lacks.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BindingsError, CompileError
from . import build, curandom_import, nvcc_standin, settings

_lock = threading.Lock()
_library: ctypes.CDLL | None = None


class DriverError(BindingsError, RuntimeError):
    """The CPU driver cannot be used in this process."""


def _loaded_libcuda() -> list[str]:
    """Paths of the libcuda libraries in this process."""
    try:
        with open("/proc/self/maps") as maps:
            lines = maps.read().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if "/libcuda.so" in line}
    return sorted(paths)


def is_active() -> bool:
    """Whether the CPU driver is this process's CUDA driver. Loads nothing."""
    return _library is not None


def activate() -> None:
    """Makes the CPU driver this process's CUDA driver; does nothing if it is already.

    Builds the driver the first time (about 20 s), loads it, and puts the stand-in for nvcc first on
    PATH. PyCUDA must be imported afterwards.

    :raises DriverError: another libcuda is loaded already, or a setting of the environment means
        nothing
    :raises CompileError: there is no C++ compiler, or it cannot build the driver
    """
    global _library
    with _lock:
        if _library is not None:
            return
        foreign = _loaded_libcuda()
        if foreign:
            raise DriverError(
                f"a CUDA driver is loaded already ({', '.join(foreign)}), so the CPU driver cannot "
                "take its place; choose the device before anything imports PyCUDA, or start the "
                "program with: python -m pygan.bindings.cpu_driver program.py"
            )
        try:
            settings.check()
        except ValueError as error:
            raise DriverError(str(error)) from None
        try:
            path = build.library()
            tools = build.nvcc_folder()
        except nvcc_standin.CompileError as error:
            raise CompileError(str(error)) from None
        _library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        curandom_import.install()
        os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"


def compile(
    source_path: str | os.PathLike[str],
    *,
    defines: Mapping[str, Any] | None = None,
    include_dirs: Sequence[str | os.PathLike[str]] = (),
    check: bool = False,
    fmad: bool = True,
) -> bytes:
    """Compiles a ``.cu`` file to an image for ``cuModuleLoadData``.

    :param defines: macros; a value of None defines the bare name
    :param check: compile with the hooks of check mode
    :param fmad: fuse products and sums wherever that can be, as nvcc does unless it is told
        ``-fmad=false``; fmaf in the source is fused in either case
    :raises CompileError: the compiler's text, with the user's file and line
    """
    arguments = [f"-I{os.fspath(folder)}" for folder in include_dirs]
    for name, value in (defines or {}).items():
        arguments.append(f"-D{name}" if value is None else f"-D{name}={value}")
    path = Path(source_path)
    if not path.is_file():
        raise CompileError(f"{path}: no such file")
    try:
        return nvcc_standin.compile_image(
            str(path), arguments, nvcc_standin.Build(check=check, fmad=fmad)
        )
    except nvcc_standin.CompileError as error:
        raise CompileError(str(error)) from None


def fingerprint(check: bool = False, fmad: bool = True) -> str:
    """A text that changes whenever the same source could give another image of :func:`compile`."""
    return nvcc_standin.fingerprint(nvcc_standin.Build(check=check, fmad=fmad))


@dataclass(frozen=True)
class Report:
    """One finding of check mode.

    kind: out_of_bounds, misaligned, race, uninitialised, divergent_barrier or dead_lane.
    kernel, file, line: where in the source. block, thread: indices (x, y, z) of the thread that was
    caught. variable: the kernel's argument or the shared array, empty where it is not known.
    """

    kind: str
    kernel: str
    file: str
    line: int
    variable: str
    block: tuple[int, int, int]
    thread: tuple[int, int, int]
    text: str

    def __str__(self) -> str:
        return self.text


def set_extents(arrays: Sequence[tuple[int, int]]) -> None:
    """Tells check mode which memory the next launch may touch, and nothing else.

    Without it a launch may touch all of any allocation, so that an index that leaves one array of
    an arena for the next one goes unseen.

    :param arrays: (address, bytes) of every pointer parameter, in order; (0, 0) for a null pointer
    """
    if _library is None:
        raise DriverError("the CPU driver is not active: call cpu_driver.activate() first")
    numbers = ctypes.c_size_t * len(arrays)
    _library.pygan_check_set_extents(
        numbers(*(address for address, _ in arrays)),
        numbers(*(size for _, size in arrays)),
        ctypes.c_size_t(len(arrays)),
    )


def take_reports() -> list[Report]:
    """What check mode has found since the last call, oldest first.

    The launch that was caught has raised the first of them already, as PyCUDA's exception.

    :raises DriverError: the CPU driver is not active
    """
    if _library is None:
        raise DriverError("the CPU driver is not active: call cpu_driver.activate() first")
    take = _library.pygan_check_take_reports
    take.restype, take.argtypes = ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t]
    capacity = 1 << 16
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        needed = take(buffer, capacity)
        if needed <= capacity:
            break
        capacity = needed
    reports = []
    for line in buffer.raw[:needed].decode("utf-8", "replace").splitlines():
        fields = json.loads(line)
        fields["block"], fields["thread"] = tuple(fields["block"]), tuple(fields["thread"])
        reports.append(Report(**fields))
    return reports
