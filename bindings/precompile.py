"""Compiles every kernel for a GPU before anything is launched, many at a time.

    python -m pygan.bindings.precompile [--arch sm_90a] [--workers N] [FILE.cu ...]

Kernels are compiled at their first launch, one after the other; on a machine with many cores this
fills the cache folder in a tenth of the time. Compiled are the sets of macros that each file lists
in its ``// variants:`` lines (see nvcc_report.py), which are those that launchers use. The
architecture is the GPU's unless ``--arch`` names one: a machine without a GPU can fill a folder
(``PYGAN_CACHE``) for one that has it, where nvcc is of the same version.

The exit code is 0 if all of them compiled, 1 if one did not, 2 without nvcc, or without a GPU to
ask for its architecture.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import compiler, probe
from .errors import CompileError, DeviceUnavailable
from .nvcc_report import launched


def precompile(files: Sequence[Path], arch: str, workers: int) -> tuple[int, list[str]]:
    """Fills the cache. Result: how many images there are, and what the compiler said of others.

    Raises DeviceUnavailable where no nvcc is found.
    """
    compiler.require_nvcc()
    jobs = [
        (path, defines)
        for path in files
        for defines in launched(path.read_text(encoding="utf-8"), arch)
    ]
    # What takes longest first, of which the length of a source with all it includes tells enough,
    # so that no long one is begun last.
    lengths = {path: _length(path) for path in files}
    jobs.sort(key=lambda job: -lengths[job[0]])
    with ThreadPoolExecutor(workers) as pool:
        said = list(pool.map(lambda job: _compile(job[0], job[1], arch), jobs))
    failures = [text for text in said if text is not None]
    return len(jobs) - len(failures), failures


def _length(path: Path) -> int:
    sources = (path, *compiler.included_files(path, [compiler.kernels_dir()]))
    return sum(source.stat().st_size for source in sources)


def _compile(path: Path, defines: dict[str, str], arch: str) -> str | None:
    try:
        compiler.compile_for_gpu(path, defines, arch)
    except CompileError as error:
        return str(error)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pygan.bindings.precompile",
        description="Compile every kernel for a GPU into the cache, many at a time.",
    )
    parser.add_argument("files", nargs="*", type=Path, help=".cu files (default: the library's)")
    parser.add_argument("--arch", help="as sm_90a (default: that of the GPU here)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="at a time")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers {options.workers} compile nothing; give 1 or more")
    arch = options.arch
    if arch is None:
        driver = probe.nvidia_driver()
        if not driver.works:
            print(
                "there is no GPU to compile for; name an architecture: --arch sm_90a",
                file=sys.stderr,
            )
            return 2
        arch = compiler.arch_of(driver.gpus[0].capability)
    began = time.perf_counter()
    try:
        files = [
            compiler.source_path(file.absolute() if file.exists() else file)
            for file in options.files
        ]
        files = files or sorted(compiler.kernels_dir().glob("*.cu"))
        count, failures = precompile(files, arch, options.workers)
    except (DeviceUnavailable, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    print(f"{count} kernel images for {arch} in {time.perf_counter() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
