"""Compiles every kernel with real nvcc and reports what each entry point uses.

    python -m pygan.bindings.nvcc_report [--fetch] [--arch sm_90a ...] [--quick] [--json FILE]
                                         [FILE.cu ...]

Every file of ``kernels/`` is compiled for sm_75, sm_80, sm_90a and sm_100 with warnings as errors,
once per set of macros that its launchers use. A file names those sets in comment lines, several in
a line separated by ``|``; a file without such a line is compiled once, without macros:

    // variants: -DTILE=16 -DVECTOR=4 | -DTILE=32

What launchers always name, and a set leaves out because the file has it so by itself, a line tells
besides: ``// variants, unless they say: -DVECTOR=4``.

Sets that need newer hardware name the oldest architecture in brackets, ``// variants(sm_80): ...``;
older ones pass them over. One with an ``a``, ``sm_90a``, has instructions that no later one has:
such sets are compiled for it alone.

``--quick`` is what the test suite does: every set for sm_90a, the only architecture that has all of
them, and the first set of each file for sm_75, which lacks most.

The exit code is 0 if nothing warned and no entry point spills registers, 1 if something did, and 2
where there is no nvcc. Products of warpgroups that ptxas cannot leave under way (its remarks C7510
and following) count as warnings. ``--fetch`` gets nvcc from PyPI (about 130 MB, 320 MB unpacked)
into the cache folder; nothing is installed. Results are cached by content: a second run takes a
moment.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from . import cache, compiler
from .errors import CompileError, DeviceUnavailable

ARCHITECTURES = ("sm_75", "sm_80", "sm_90a", "sm_100")
MAIN, OLDEST = "sm_90a", "sm_75"
"""The architecture that no set of macros leaves out, and the one that lacks most."""
# The compiler, its own headers, the optimiser with libdevice, and cuda_runtime.h, which nvcc
# includes by itself; CUDA 13 is the first whose wheels hold nvcc.
WHEELS = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-runtime")
WHEEL_VERSION = ">=13,<14"
# ptxas -v reports each entry point; warnings are errors in the front end and in ptxas. The macro
# passes over C++17's special functions of the host, a fifth of a small compilation.
REPORT_FLAGS = (
    *("-std=c++17", "-Werror", "all-warnings", "-Xptxas", "-v"),
    "-D_GLIBCXX_BITS_SPECFUN_H=1",
    *compiler.ARITHMETIC_FLAGS,
)
SERIALIZED = re.compile(r"\(C75\d\d\)")
"""ptxas's remarks about products of warpgroups."""


@dataclass(frozen=True)
class Usage:
    """What one entry point uses on one architecture. Bytes are per thread, shared per block."""

    file: str
    defines: str
    entry: str
    arch: str
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int

    @property
    def spills(self) -> bool:
        return bool(self.spill_store_bytes or self.spill_load_bytes)


@dataclass(frozen=True)
class Report:
    """All usages, and what the compiler said where it refused, each text once."""

    nvcc: str
    usages: tuple[Usage, ...]
    failures: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.failures and not any(usage.spills for usage in self.usages)


def variants(source: str, arch: str | None = None) -> list[tuple[str, ...]]:
    """The sets of -D flags that a .cu text lists; the empty one where it lists none.

    arch: leave out the sets that need a newer architecture, or one that has what others lack.
    """
    found: list[tuple[str, ...]] = []
    lines = re.findall(r"^[ \t]*//[ \t]*variants(?:\((\w+)\))?:(.*)$", source, re.M)
    for oldest, line in lines:
        if not oldest or arch is None or _has(arch, oldest):
            found += [tuple(part.split()) for part in line.split("|")]
    for flag in (flag for flags in found for flag in flags):
        if not re.fullmatch(r"-D[A-Za-z_]\w*(=\S+)?", flag):
            raise ValueError(f"a variants line holds {flag!r}; only -DNAME or -DNAME=value may be")
    return list(dict.fromkeys(found)) if lines else [()]


def launched(source: str, arch: str | None = None) -> list[dict[str, str]]:
    """The sets as launchers give them: macros by name."""
    always = re.findall(r"^[ \t]*//[ \t]*variants, unless they say:(.*)$", source, re.M)
    named = [_macros(line.split()) for line in always]
    given = {name: value for macros in named for name, value in macros.items()}
    return [given | _macros(flags) for flags in variants(source, arch)]


def _macros(flags: Sequence[str]) -> dict[str, str]:
    pairs = (flag.removeprefix("-D").partition("=") for flag in flags)
    return {name: value or "1" for name, _, value in pairs}


def _has(arch: str, needed: str) -> bool:
    """Whether `arch` has the instructions of `needed`."""
    if needed.endswith("a"):
        return arch == needed
    return _generation(arch) >= _generation(needed)


def _generation(arch: str) -> int:
    """90 of "sm_90a". Raises ValueError for what is no architecture."""
    match = re.fullmatch(r"sm_(\d+)[af]?", arch)
    if not match:
        raise ValueError(f"{arch!r} is no architecture; one is written as sm_80 or sm_90a")
    return int(match[1])


def parse_usages(text: str, file: str, defines: str) -> list[Usage]:
    """The entry points in what ``ptxas -v`` printed."""
    pattern = re.compile(
        r"Compiling entry function '(?P<entry>[^']+)' for '(?P<arch>[^']+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads\s*\n"
        r"ptxas info\s*: Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.S,
    )
    usages = []
    for match in pattern.finditer(text):
        shared = re.search(r"(\d+)(?:\+\d+)? bytes smem", match["rest"])
        usages.append(
            Usage(
                file=file,
                defines=defines,
                entry=match["entry"],
                arch=match["arch"],
                registers=int(match["registers"]),
                stack_bytes=int(match["stack"]),
                spill_store_bytes=int(match["stores"]),
                spill_load_bytes=int(match["loads"]),
                shared_bytes=int(shared[1]) if shared else 0,
            )
        )
    return usages


def compiled_sets(source: str, arch: str, quick: bool) -> list[tuple[str, ...]]:
    """The sets of -D flags for which a .cu text is compiled for `arch`. quick: all of them for
    MAIN, the first for OLDEST, none for others."""
    found = variants(source, arch)
    if not quick or arch == MAIN:
        return found
    return found[:1] if arch == OLDEST else []


def make_report(
    files: Sequence[Path],
    architectures: Sequence[str] = ARCHITECTURES,
    workers: int = 2,
    quick: bool = False,
) -> Report:
    """Compiles `files` for `architectures`, `workers` at a time; quick as in `compiled_sets`.

    Raises DeviceUnavailable where no nvcc is found.
    """
    nvcc = compiler.require_nvcc()
    jobs = [
        (path, flags, arch)
        for path in files
        for arch in architectures
        for flags in compiled_sets(path.read_text(encoding="utf-8"), arch, quick)
    ]
    usages: list[Usage] = []
    failures: dict[str, str] = {}  # by its text without the command, which differs per arch
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(lambda job: _compile(nvcc, *job), jobs):
            if isinstance(result, str):
                failures.setdefault(result.partition("\nthe command was: ")[0], result)
            else:
                usages += result
    version = compiler.nvcc_version(nvcc).strip().splitlines()[-1]
    return Report(f"{nvcc} ({version})", tuple(usages), tuple(failures.values()))


def _compile(nvcc: Path, path: Path, defines: Sequence[str], arch: str) -> list[Usage] | str:
    """The usages, or the compiler's text where it refused."""
    flags = ["-cubin", f"-arch={arch}", *REPORT_FLAGS, *defines]
    include_dirs = [path.parent, compiler.kernels_dir()]
    version = "report " + compiler.nvcc_version(nvcc)
    key = compiler.content_key(path, include_dirs, flags, version, anywhere=True)

    def build() -> bytes:
        return compiler.run_nvcc(nvcc, path, flags, include_dirs)[1].encode()

    try:
        text = compiler.cached(key, build).decode()
    except CompileError as error:
        return str(error)
    what = f"{path.name} {' '.join(defines)} for {arch}"
    if SERIALIZED.search(text):
        return f"{what}: products of warpgroups wait for each other:\n{text}"
    usages = parse_usages(text, path.name, " ".join(defines))
    if not usages:
        return f"{what}: nvcc reported no entry point:\n{text}"
    return usages


def fetch() -> Path:
    """Puts PyPI's nvcc into the cache folder, whole or not at all, and returns its path.

    Raises DeviceUnavailable with pip's text where that fails.
    """
    target = compiler.fetched_dir()
    with tempfile.TemporaryDirectory(dir=cache.cache_dir(), prefix=".nvcc-") as folder:
        packages = [name + WHEEL_VERSION for name in WHEELS]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--target", folder]
        done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceUnavailable(
                f"pip could not fetch nvcc ({', '.join(packages)}):\n{done.stderr.strip()}"
            )
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        (Path(folder) / "nvidia").rename(target / "nvidia")
    compiler.require_nvcc.cache_clear()
    nvcc = compiler.find_nvcc()
    if nvcc is None:
        raise DeviceUnavailable(f"the packages {', '.join(WHEELS)} hold no nvcc")
    return nvcc


def rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """(column titles, rows): one row per entry point and macro set, one column per architecture.

    A cell is registers / shared bytes, with the spilled bytes where there are any.
    """
    architectures = list(dict.fromkeys(usage.arch for usage in report.usages))
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for usage in report.usages:
        cell = f"{usage.registers} / {usage.shared_bytes}"
        if usage.stack_bytes:
            cell += f", stack {usage.stack_bytes}"
        if usage.spills:
            cell += f", SPILLS {usage.spill_store_bytes}+{usage.spill_load_bytes}"
        cells.setdefault((usage.file, usage.entry, usage.defines), {})[usage.arch] = cell
    titles = ["file", "entry point", "macros", *architectures]
    table = [
        [*key, *(of_arch.get(arch, "-") for arch in architectures)]
        for key, of_arch in sorted(cells.items())
    ]
    return titles, table


def print_report(report: Report) -> None:
    """The table: drawn by rich on a terminal, plain columns elsewhere."""
    titles, table = rows(report)
    caption = f"registers per thread / static shared bytes per block; {report.nvcc}"
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawing = Table(*titles, caption=caption)
        for row in table:
            drawing.add_row(*row, style="red" if any("SPILLS" in cell for cell in row) else None)
        Console().print(drawing)
    else:
        widths = [max(map(len, column)) for column in zip(titles, *table, strict=True)]
        for row in (titles, *table):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())
        print(caption)
    for failure in report.failures:
        print(f"\n{failure}", file=sys.stderr)
    spilling = sorted({usage.entry for usage in report.usages if usage.spills})
    if spilling:
        print(f"\nthese entry points spill registers: {', '.join(spilling)}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pygan.bindings.nvcc_report",
        description="Compile every kernel with nvcc, warnings as errors, and show what it uses.",
    )
    parser.add_argument("files", nargs="*", type=Path, help=".cu files (default: the library's)")
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), help="architectures")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"all sets of macros for {MAIN}, the first of each file for {OLDEST}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the usages here")
    parser.add_argument("--fetch", action="store_true", help="get nvcc from PyPI if there is none")
    parser.add_argument("--workers", type=int, default=2, help="compilations at a time")
    options = parser.parse_args(arguments)
    try:
        if options.fetch and compiler.find_nvcc() is None:
            print(f"fetching nvcc from PyPI: {', '.join(WHEELS)}", file=sys.stderr)
            fetch()
        files = [
            compiler.source_path(file.absolute() if file.exists() else file)
            for file in options.files
        ]
        files = files or sorted(compiler.kernels_dir().glob("*.cu"))
        report = make_report(files, options.arch, options.workers, options.quick)
    except (DeviceUnavailable, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    print_report(report)
    if options.json:
        content = {
            "nvcc": report.nvcc,
            "good": report.good,
            "failures": report.failures,
            "usages": [asdict(usage) for usage in report.usages],
        }
        cache.atomic_write(options.json, (json.dumps(content, indent=1) + "\n").encode())
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
