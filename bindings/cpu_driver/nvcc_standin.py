"""A stand-in for ``nvcc``: compiles CUDA C++ for the CPU driver with the host's C++ compiler.

As a program it takes the command line that PyCUDA gives to nvcc (``--cubin``, ``--fatbin``,
``--preprocess``, ``--version``, ``-arch``, ``-I``, ``-D``, ``-o``, ``--keep``, ...). Options that
speak of GPU code are accepted and have no effect. As a module it gives :func:`compile_image` to the
package. The result is an ELF shared object, which the driver's ``cuModuleLoadData`` takes.

Standard library only, and no import of the package: PyCUDA starts this file by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import precompiled, pruning, source_rewriter
else:
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import precompiled
    import pruning
    import source_rewriter

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
RELEASE = "13.0"

DEFINES = [
    "-D__CUDACC__=1",
    "-D__NVCC__=1",
    "-D__CUDACC_VER_MAJOR__=13",
    "-D__CUDACC_VER_MINOR__=0",
    "-D__CUDACC_VER_BUILD__=0",
    "-DPYGAN_CPU_DRIVER=1",
]
COMMON_FLAGS = [
    "-fPIC",
    "-w",
    "-fvisibility=hidden",
    "-fno-semantic-interposition",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-stack-protector",
    "-U_FORTIFY_SOURCE",
]
PLAIN_FLAGS = ["-O3", "-march=native"]
# The hooks are called by the compiler's instrumentation and supplied by the driver.
CHECK_FLAGS = [
    "-O1",
    "-gdwarf-4",
    "-g1",  # lines and inlined functions; variables would take the compiler a third longer
    "-fno-omit-frame-pointer",
    "-fsanitize=thread,bounds,alignment",
    "-fno-sanitize-recover=bounds,alignment",
    "-DCPU_DRIVER_CHECK=1",
]

TAKES_VALUE = {
    "-arch", "--gpu-architecture", "-code", "--gpu-code", "-gencode", "--generate-code",
    "-Xcompiler", "--compiler-options", "-Xptxas", "--ptxas-options", "-Xlinker",
    "--linker-options", "-ccbin", "--compiler-bindir", "-maxrregcount", "--maxrregcount",
    "-diag-suppress", "--diag-suppress", "-diag-error", "--diag-error", "-O", "--optimize", "-l",
    "--library", "-L", "--library-path", "-x", "--x", "-t", "--threads", "-rdc",
    "--relocatable-device-code", "-odir", "--output-directory", "-keep-dir", "--keep-dir",
    "-default-stream", "--default-stream", "-Werror", "--Werror",
}  # fmt: skip
TARGETS = {
    "--cubin": "cubin", "-cubin": "cubin", "--fatbin": "fatbin", "-fatbin": "fatbin",
    "--ptx": "ptx", "-ptx": "ptx",
}  # fmt: skip


class CompileError(Exception):
    """The compiler refused the source; the message is the compiler's own text."""


@dataclass(frozen=True)
class Build:
    """How a module is compiled, whatever its source and macros are.

    check: with the hooks of check mode. fmad: products and sums are fused wherever the compiler
    can, nvcc's default, and not only where the source says fmaf.
    """

    check: bool = False
    fmad: bool = True
    standard: str = "gnu++17"


@dataclass
class Request:
    """What a command line asks for."""

    source: str | None = None
    output: str | None = None
    target: str = "cubin"
    preprocess: bool = False
    version: bool = False
    keep: bool = False
    no_markers: bool = False
    build: Build = Build()
    arguments: list[str] = field(default_factory=list)  # -I, -D, -U, -include


def find_compiler() -> str:
    """The C++ compiler: PYGAN_CXX, else CXX, g++, clang++ or c++ on PATH.

    :raises CompileError: there is none, or PYGAN_CXX names none
    """
    named = os.environ.get("PYGAN_CXX", "").strip()
    if named and not shutil.which(named.split()[0]):
        raise CompileError(
            f"PYGAN_CXX is {named!r}, which is not on PATH; name a C++ compiler that is, or leave "
            "it unset to take CXX, g++ or clang++"
        )
    for name in (os.environ.get("PYGAN_CXX"), os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (found := shutil.which(name.split()[0])):
            return found
    raise CompileError(
        "no C++ compiler found (g++ or clang++ on PATH, or named by PYGAN_CXX); install one, for "
        "example with: apt-get install g++"
    )


@lru_cache(maxsize=8)
def compiler_version(compiler: str) -> str:
    result = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.partition("\n")[0]


@lru_cache(maxsize=1)
def processor_features() -> str:
    """What ``-march=native`` depends on."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        lines = {
            line.strip()
            for line in file
            if line.startswith(("flags", "Features", "model name", "CPU part", "CPU implementer"))
        }
        return "\n".join(sorted(lines))
    return ""


@lru_cache(maxsize=8)
def flags_of(build: Build) -> list[str]:
    """The flags of a module, from its first reading to its image."""
    flags = [*COMMON_FLAGS, *(CHECK_FLAGS if build.check else PLAIN_FLAGS)]
    flags += [f"-std={build.standard}", f"-ffp-contract={'fast' if build.fmad else 'off'}"]
    clang = is_clang(find_compiler())
    # PyCUDA's header has a constexpr function that can never be one, an error to clang alone.
    flags.append("-Wno-invalid-constexpr" if clang else "-fno-gnu-unique")
    if build.check:  # a loop turned into memset would escape the hooks
        flags.append("-fno-builtin" if clang else "-fno-tree-loop-distribute-patterns")
    return flags


def is_clang(compiler: str) -> bool:
    return "clang" in compiler_version(compiler)


def c_library() -> str:
    """Name and version of the C library; the C++ library belongs to the compiler."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    return ""


@lru_cache(maxsize=8)
def fingerprint(build: Build = Build()) -> str:
    """Changes whenever the same source could give another image: vocabulary, rewriting, compiler,
    libraries, flags, processor."""
    digest = hashlib.sha256()
    own = [HERE / name for name in ("nvcc_standin.py", "precompiled.py", "source_rewriter.py")]
    for path in [*sorted(INCLUDE.iterdir()), *own]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    compiler = find_compiler()
    of_machine = [compiler, compiler_version(compiler), c_library(), processor_features()]
    digest.update("\0".join(of_machine).encode())
    digest.update("\0".join(flags_of(build)).encode())
    return digest.hexdigest()[:32]


def cache_root() -> Path:
    """The folder for images: PYGAN_CACHE, else the user's cache folder."""
    named = os.environ.get("PYGAN_CACHE")
    base = Path(named) if named else Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    ) / "pygan"  # fmt: skip
    return base / "cpu_driver"


def _run(command: list[str]) -> str:
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
        env=os.environ | {"LC_ALL": "C"},  # messages in one language, with plain quotes
    )
    if result.returncode != 0:
        raise CompileError(result.stderr or f"{command[0]} exited with {result.returncode}")
    return result.stdout


def preprocess(
    source: str, arguments: list[str], build: Build, *, header: Path | None = None
) -> str:
    """The source with includes and macros expanded, with line markers.

    :param header: the folder of :func:`precompiled_header`; its vocabulary stands in the result as
        one line that names the precompiled file
    """
    return _run(
        [
            find_compiler(),
            *flags_of(build),
            *DEFINES,
            *["-E", "-x", "c++"],
            *arguments,
            *(["-fpch-preprocess", "-isystem", str(header)] if header else []),
            "-isystem",
            str(INCLUDE),
            "-include",
            precompiled.HEADER,  # found through -isystem: the rewriter passes system headers by
            source,
        ]
    )


def precompiled_header(build: Build) -> Path | None:
    """The folder with the vocabulary precompiled for these flags, or None: see precompiled.py."""
    compiler = find_compiler()
    if is_clang(compiler):
        return None
    flags = [*flags_of(build), *DEFINES]
    folder = cache_root() / "headers" / fingerprint(build)
    return precompiled.folder_with_header(compiler, flags, INCLUDE, folder)


def compile_image(source: str, arguments: list[str], build: Build = Build()) -> bytes:
    """Compiles a CUDA source file to an image for the CPU driver, or takes it from the cache.

    The cache is keyed by the preprocessed text (thus by every included file), the flags, the
    compiler and the processor, and is written by renaming, so that processes can share it; see
    pruning.py for how large it may grow.

    :param arguments: ``-I``, ``-D`` and the like
    :raises CompileError: with the compiler's text, which names the user's file and line
    """
    header = precompiled_header(build)
    try:
        return _compile_image(source, arguments, build, header)
    except CompileError as error:
        # A damaged header, or one that GCC cannot map where it was made for, is no fault of the
        # source.
        if header is None or not re.search(r"\bPCH\b|\.gch\b|internal compiler error", str(error)):
            raise
        precompiled.discard(header)
        return _compile_image(source, arguments, build, None)


def _compile_image(source: str, arguments: list[str], build: Build, header: Path | None) -> bytes:
    expanded = preprocess(source, arguments, build, header=header)
    key = hashlib.sha256(
        "\0".join([fingerprint(build), expanded]).encode("utf-8", "surrogateescape")
    ).hexdigest()
    cached = cache_root() / "modules" / key[:2] / f"{key}.so"
    with contextlib.suppress(OSError):
        image = cached.read_bytes()
        pruning.mark_used(cached)
        return image
    try:
        rewritten = source_rewriter.rewrite(expanded, checked=build.check)
    except source_rewriter.RewriteError as error:
        raise CompileError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="pygan-nvcc-") as folder:
        text = Path(folder) / "module.ii"
        unlinked = Path(folder) / "module.o"
        linked = Path(folder) / "module.so"
        text.write_text(rewritten.text)
        compiler = find_compiler()
        flags = [*flags_of(build), "-x", "c++-cpp-output"]
        if not is_clang(compiler):
            flags.append("-fpreprocessed")  # and take up the precompiled header
        _run([compiler, *flags, "-c", str(text), "-o", str(unlinked)])
        # Linked by itself: in check mode the sanitizer's own library must stay out.
        _run([compiler, "-shared", "-o", str(linked), str(unlinked)])
        image = linked.read_bytes()
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to fail
        write_atomically(cached, image)
        prune_cache()
    return image


def prune_cache() -> None:
    """Keeps the cache folder below its limit: see pruning.py."""
    try:
        pruning.prune_now_and_then(cache_root().parent)
    except ValueError as error:
        raise CompileError(str(error)) from None


def write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def parse(arguments: list[str]) -> Request:
    """Reads an nvcc command line.

    :raises CompileError: no source file, or several
    """
    request = Request()
    rest = list(arguments)
    sources = []

    def value(option: str, current: str) -> str:
        if current.startswith(option + "="):
            return current[len(option) + 1 :]
        if current != option:
            return current[len(option) :]
        if not rest:
            raise CompileError(f"nvcc stand-in: option {option} needs a value")
        return rest.pop(0)

    while rest:
        item = rest.pop(0)
        name = item.partition("=")[0]
        if item in ("--version", "-V"):
            request.version = True
        elif item in ("--preprocess", "-E"):
            request.preprocess = True
        elif item in TARGETS:
            request.target = TARGETS[item]
        elif item in ("--keep", "-keep"):
            request.keep = True
        elif item == "--cpu-driver-check":
            request.build = replace(request.build, check=True)
        elif name in ("-o", "--output-file"):
            request.output = value(name, item)
        elif name in ("-std", "--std"):
            standard = value(name, item).replace("c++", "gnu++").replace("gnugnu", "gnu")
            request.build = replace(request.build, standard=standard)
        elif name in ("-fmad", "--fmad"):
            request.build = replace(request.build, fmad=_truth(name, value(name, item)))
        elif name in ("-include", "--pre-include"):
            request.arguments += ["-include", value(name, item)]
        elif name in ("--include-path", "--define-macro", "--undefine-macro"):
            letter = {"--include-path": "I", "--define-macro": "D", "--undefine-macro": "U"}[name]
            request.arguments += [f"-{letter}{part}" for part in value(name, item).split(",")]
        elif name == "-isystem" or name == "--system-include":
            request.arguments += ["-I" + value(name, item)]
        elif item[:2] in ("-I", "-D", "-U"):
            # value() would take the = of -DNAME=1 for its own.
            request.arguments += [item[:2] + (item[2:] or value(item[:2], item))]
        elif name in TAKES_VALUE:
            given = value(name, item)
            if name in ("-Xcompiler", "--compiler-options") and "-P" in given.split(","):
                request.no_markers = True
        elif item.startswith("-") and item != "-":
            continue  # --expt-*, -lineinfo, -use_fast_math, -m64, -w, -g, -G, -rdc=true, ...
        else:
            sources.append(item)
    if request.version:
        return request
    if len(sources) != 1:
        raise CompileError(
            f"nvcc stand-in: one source file is expected, got {sources or 'none'} "
            "(linking several is not supported by the CPU driver)"
        )
    request.source = sources[0]
    return request


def _truth(option: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise CompileError(f"nvcc stand-in: {option} is true or false, not {value!r}")
    return value == "true"


def version_text(build: Build) -> str:
    """What ``--version`` prints. PyCUDA keeps images under a key that this text is part of, so it
    must tell images for check mode from others."""
    compiler = find_compiler()
    return (
        "nvcc: stand-in of pygan's CPU driver\n"
        f"Cuda compilation tools, release {RELEASE}, V{RELEASE}.0\n"
        f"Built on {compiler_version(compiler)}, fingerprint {fingerprint(build)}\n"
    )


def expanded_only(request: Request) -> str:
    """``--preprocess``: the source with includes and macros expanded, without the vocabulary."""
    assert request.source is not None
    command = [find_compiler(), *DEFINES, "-E", "-x", "c++", f"-std={request.build.standard}"]
    command += [*request.arguments, "-isystem", str(INCLUDE), request.source]
    if request.no_markers:
        command.append("-P")
    return _run(command)


def main(arguments: list[str]) -> int:
    try:
        request = parse(arguments)
        build = request.build
        if os.environ.get("PYGAN_CPU_CHECK", "0") not in ("", "0"):
            build = replace(build, check=True)
        if request.version:
            sys.stdout.write(version_text(build))
            return 0
        if request.preprocess:
            sys.stdout.write(expanded_only(request))
            return 0
        assert request.source is not None
        image = compile_image(request.source, request.arguments, build)
        output = request.output or f"{Path(request.source).stem}.{request.target}"
        Path(output).write_bytes(image)
        if request.keep:
            expanded = preprocess(request.source, request.arguments, build)
            kept = Path(output).with_suffix(".cpu_driver.ii")
            kept.write_text(source_rewriter.rewrite(expanded, checked=build.check).text)
    except CompileError as error:
        sys.stderr.write(re.sub(r"\n*\Z", "\n", str(error)))
        return 1
    except OSError as error:
        sys.stderr.write(f"nvcc stand-in: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
