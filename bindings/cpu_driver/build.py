"""Builds the driver's library, libcuda.so.1, once per source and compiler into the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import nvcc_standin, pruning

HERE = Path(__file__).resolve().parent
FLAGS = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
    "-U_FORTIFY_SOURCE",
    "-fno-strict-aliasing",
]
LINK_FLAGS = ["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,nodelete", "-pthread", "-ldl"]


def sources() -> list[Path]:
    return sorted(HERE.glob("*.cpp"))


def _inputs(source: Path) -> list[Path]:
    """A source and every header of the driver that it includes, directly or not."""
    found = [source]
    for path in found:  # grows meanwhile
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            header = (path.parent / name).resolve()
            if header not in found:
                found.append(header)
    return found


def _object_path(compiler: str, source: Path, extra: list[str]) -> Path:
    """Where the object of `source` is kept. A macro makes another object only of a source that
    looks at it, and a change only of those that read the changed file."""
    texts = [path.read_text() for path in _inputs(source)]
    looked_at = [
        flag
        for flag in extra
        if not flag.startswith("-D") or any(flag[2:].partition("=")[0] in text for text in texts)
    ]
    version = nvcc_standin.compiler_version(compiler)
    parts = [compiler, version, nvcc_standin.c_library(), *FLAGS, *looked_at, source.name, *texts]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    return nvcc_standin.cache_root() / "driver" / "objects" / f"{key}.o"


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
    objects = {source: _object_path(compiler, source, list(extra_flags)) for source in sources()}
    names = "\0".join([*(path.name for path in objects.values()), *LINK_FLAGS])
    key = hashlib.sha256(names.encode()).hexdigest()[:24]
    folder = nvcc_standin.cache_root() / "driver" / key
    result = folder / "libcuda.so.1"
    if result.exists():
        pruning.mark_used(result)
        return result
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "objects").mkdir(exist_ok=True)
    # Processes that start together wait for the first one's build instead of repeating it.
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if result.exists():
            return result
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as temporary:

            def compile_object(source: Path) -> None:
                target = objects[source]
                if target.exists():
                    pruning.mark_used(target)
                    return
                built = Path(temporary) / target.name
                _run([compiler, *FLAGS, *extra_flags, "-c", str(source), "-o", str(built)])
                os.replace(built, target)

            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
                list(pool.map(compile_object, objects))
            linked = Path(temporary) / "libcuda.so.1"
            _run([compiler, "-o", str(linked), *map(str, objects.values()), *LINK_FLAGS])
            os.replace(linked, result)
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
