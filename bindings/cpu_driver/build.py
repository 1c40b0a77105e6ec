"""Builds the driver's library, libcuda.so.1, once per source and compiler into the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import nvcc_standin

HERE = Path(__file__).resolve().parent
FLAGS = [
    "-std=c++17",
    "-O2",
    "-g",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
    "-U_FORTIFY_SOURCE",
    "-fno-strict-aliasing",
]
LINK_FLAGS = ["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,nodelete", "-pthread", "-ldl"]


def sources() -> list[Path]:
    return sorted(HERE.glob("*.cpp"))


def _key(compiler: str, extra: list[str]) -> str:
    digest = hashlib.sha256()
    headers = [*HERE.glob("*.h"), *(HERE / "include").glob("*.h")]
    for path in [*sources(), *sorted(headers)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    version = nvcc_standin.compiler_version(compiler)
    digest.update("\0".join([compiler, version, *FLAGS, *LINK_FLAGS, *extra]).encode())
    return digest.hexdigest()[:24]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise nvcc_standin.CompileError(
            f"the CPU driver could not be built:\n{' '.join(command)}\n{result.stderr}"
        )


def library(extra_flags: tuple[str, ...] = ()) -> Path:
    """Path of libcuda.so.1, built if it is not there yet (about 20 s on two cores).

    :param extra_flags: more compiler flags; each set gives a library of its own
    :raises nvcc_standin.CompileError: no compiler, or it refuses the sources
    """
    compiler = nvcc_standin.find_compiler()
    extra = list(extra_flags)
    folder = nvcc_standin.cache_root() / "driver" / _key(compiler, extra)
    result = folder / "libcuda.so.1"
    if result.exists():
        return result
    folder.mkdir(parents=True, exist_ok=True)
    # Processes that start together wait for the first one's build instead of repeating it.
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if result.exists():
            return result
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as temporary:
            objects = [Path(temporary) / f"{source.stem}.o" for source in sources()]
            commands = [
                [compiler, *FLAGS, *extra, "-c", str(source), "-o", str(target)]
                for source, target in zip(sources(), objects, strict=True)
            ]
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
                list(pool.map(_run, commands))
            built = Path(temporary) / "libcuda.so.1"
            _run([compiler, "-o", str(built), *map(str, objects), *LINK_FLAGS])
            os.replace(built, result)
    return result


def nvcc_folder() -> Path:
    """A folder with an executable ``nvcc`` that starts the stand-in, for PATH."""
    script = (
        "#!/bin/sh\n"
        f'exec {_quoted(sys.executable)} -I -S {_quoted(str(HERE / "nvcc_standin.py"))} "$@"\n'
    )
    key = hashlib.sha256(script.encode()).hexdigest()[:16]
    folder = nvcc_standin.cache_root() / "bin" / key
    path = folder / "nvcc"
    if not path.exists():
        nvcc_standin.write_atomically(path, script.encode())
        path.chmod(0o755)
    return folder


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"
