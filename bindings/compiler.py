"""Turns a .cu file into a module image: by nvcc for a GPU, by the CPU driver's compiler for `cpu`.

Both go through one cache on disk. Its key covers everything the image depends on (the source, every
file it includes, the flags, the compiler's version), and a file appears in it whole or not at all,
so processes may share it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from . import cache, probe
from .cpu_driver import pruning
from .errors import CompileError, DeviceUnavailable

# Products and sums are fused where a kernel writes fmaf, and nowhere else: nvcc fuses others as
# they happen to stand, and two kernels that compute the same expression would differ in bits.
# The CPU driver is told the same.
FMAD = False
ARITHMETIC_FLAGS = (f"-fmad={str(FMAD).lower()}",)
NVCC_FLAGS = ("-std=c++17", "-lineinfo", *ARITHMETIC_FLAGS)

log = logging.getLogger("pygan.compiling")
"""Names each kernel file that is compiled, at level INFO: what the cache has is not."""


def kernels_dir() -> Path:
    """The folder with the .cu and .cuh files of the library."""
    import pygan.kernels

    return Path(next(iter(pygan.kernels.__path__)))


def source_path(file: str | os.PathLike[str]) -> Path:
    """A kernel file by name (in the library's folder) or by path; FileNotFoundError if absent."""
    path = Path(file)
    if not path.is_absolute():
        path = kernels_dir() / path
    if not path.is_file():
        known = ", ".join(sorted(each.name for each in kernels_dir().glob("*.cu"))) or "none"
        raise FileNotFoundError(f"there is no kernel file {path}; the library has: {known}")
    return path


def compile_for_cpu(path: Path, defines: Mapping[str, object], check: bool) -> bytes:
    """The image of `path` for the CPU driver; raises CompileError with the compiler's text."""
    from . import cpu_driver

    defines = {name: _macro(value) for name, value in defines.items()}
    include_dirs = [kernels_dir()]
    key = content_key(
        path,
        include_dirs,
        [*define_flags(defines), f"check={check}"],
        "cpu " + cpu_driver.fingerprint(check, FMAD),
    )

    def build() -> bytes:
        log.info("%s for device cpu", path.name)
        return cpu_driver.compile(
            path, defines=defines, include_dirs=include_dirs, check=check, fmad=FMAD
        )

    return cached(key, build)


def compile_for_gpu(
    path: Path, defines: Mapping[str, object], arch: str, extra_flags: Sequence[str] = ()
) -> bytes:
    """The cubin of `path` for `arch` (as "sm_90a"); raises CompileError with nvcc's text."""
    nvcc = require_nvcc()
    flags = ["-cubin", f"-arch={arch}", *NVCC_FLAGS, *extra_flags, *define_flags(defines)]
    include_dirs = [kernels_dir()]
    key = content_key(path, include_dirs, flags, "nvcc " + nvcc_version(nvcc), anywhere=True)

    def build() -> bytes:
        log.info("%s for %s", path.name, arch)
        return run_nvcc(nvcc, path, flags, include_dirs)[0]

    return cached(key, build)


def arch_of(capability: tuple[int, int]) -> str:
    """What nvcc compiles for; 9.0 with the `a` that the warp-group instructions need."""
    major, minor = capability
    return "sm_90a" if (major, minor) == (9, 0) else f"sm_{major}{minor}"


def define_flags(defines: Mapping[str, object]) -> list[str]:
    """-D flags in a fixed order; True and False become 1 and 0."""
    flags = []
    for name, value in sorted(defines.items()):
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"{name!r} cannot be the name of a macro")
        flags.append(f"-D{name}={_macro(value)}")
    return flags


def _macro(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def included_files(path: Path, include_dirs: Iterable[Path]) -> list[Path]:
    """Every file that `path` includes by quotes, directly or not, where it can be found."""
    include_dirs = [Path(each) for each in include_dirs]
    found: dict[Path, None] = {}
    waiting = [Path(path)]
    while waiting:
        current = waiting.pop()
        text = current.read_text(encoding="utf-8", errors="replace")
        for name in re.findall(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', text, re.M):
            for folder in (current.parent, *include_dirs):
                candidate = (folder / name).resolve()
                if candidate.is_file():
                    if candidate not in found:
                        found[candidate] = None
                        waiting.append(candidate)
                    break
    return sorted(found)


def content_key(
    path: Path,
    include_dirs: Sequence[Path],
    flags: Sequence[str],
    compiler: str,
    anywhere: bool = False,
) -> str:
    """A cache key of everything that an image depends on. anywhere: but for the folder that the
    sources lie in, which images name only to find lines (check mode tells them to people)."""
    digest = hashlib.sha256()
    place = path.name if anywhere else str(path)
    parts = [compiler.encode(), "\0".join(flags).encode(), place.encode(), path.read_bytes()]
    for each in included_files(path, include_dirs):
        parts += [each.name.encode(), each.read_bytes()]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def cached(key: str, build: Callable[[], bytes]) -> bytes:
    """What `build` makes, kept on disk under `key`, until there is no room for what was not used
    for longest (cpu_driver/pruning.py). Where the cache cannot be written, a warning says so and
    the result is made anew each time."""
    try:
        file = cache.cache_dir() / "kernels" / key[:2] / key[2:]
    except OSError as error:
        warnings.warn(f"compiled kernels are not kept: {error}", RuntimeWarning, stacklevel=3)
        return build()
    image = cache.read_checked(file)
    if image is not None:
        pruning.mark_used(file)
    else:
        with cache.one_at_a_time(file):
            image = cache.read_checked(file)  # another process may have made it meanwhile
            if image is None:
                image = _built(build, file)
    return image


def _built(build: Callable[[], bytes], file: Path) -> bytes:
    image = build()
    try:
        cache.write_checked(file, image)
        pruning.prune_now_and_then(cache.cache_dir())
    except OSError as error:
        warnings.warn(
            f"the compiled kernel could not be kept in {file.parent} ({error}); "
            f"set PYGAN_CACHE to a folder that can be written",
            RuntimeWarning,
            stacklevel=4,
        )
    return image


def run_nvcc(
    nvcc: Path, path: Path, flags: Sequence[str], include_dirs: Sequence[Path]
) -> tuple[bytes, str]:
    """(image, everything nvcc said). Raises CompileError with its text and the command."""
    includes = [f"-I{folder}" for folder in (*include_dirs, *wheel_include_dirs(nvcc))]
    with tempfile.TemporaryDirectory(prefix="pygan-nvcc-") as folder:
        output = Path(folder) / "image"
        command = [str(nvcc), *flags, *includes, str(path), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(
                f"nvcc could not compile {path.name}:\n{(done.stdout + done.stderr).strip()}\n"
                f"the command was: {' '.join(command)}"
            )
        return output.read_bytes(), done.stdout + done.stderr


def find_nvcc() -> Path | None:
    """nvcc from PATH, CUDA_HOME or CUDA_PATH, /usr/local/cuda, PyPI's wheels, or what
    ``python -m pygan.bindings.nvcc_report --fetch`` brought; None where there is none."""
    installed = probe.nvcc()
    if installed is not None:
        return Path(installed.path)
    fetched = sorted(fetched_dir().glob("nvidia/*/bin/nvcc"))
    return fetched[-1] if fetched else None


@functools.lru_cache(maxsize=1)
def require_nvcc() -> Path:
    """:func:`find_nvcc`, once per process; DeviceUnavailable where there is none."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise DeviceUnavailable(
            "no nvcc was found (looked on PATH, in CUDA_HOME, in /usr/local/cuda and among the "
            "installed nvidia-cuda-nvcc wheels); install the CUDA toolkit, or let "
            "python -m pygan.bindings.nvcc_report --fetch get it from PyPI"
        )
    return nvcc


def fetched_dir() -> Path:
    """Where ``nvcc_report --fetch`` unpacks PyPI's nvcc."""
    return cache.cache_dir() / "nvcc"


def wheel_include_dirs(nvcc: Path) -> list[Path]:
    """Header folders beside an nvcc of the PyPI wheels whose parts are packages of their own."""
    if nvcc.parents[2].name != "nvidia":
        return []
    own = nvcc.parents[1] / "include"
    return [each for each in sorted(nvcc.parents[2].glob("*/include")) if each != own]


@functools.lru_cache(maxsize=8)
def nvcc_version(nvcc: Path) -> str:
    """The text of ``nvcc --version``; part of every cache key."""
    done = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{nvcc} --version failed:\n{done.stderr.strip()}")
    return done.stdout.strip()
