"""Builds PyCUDA once and keeps the wheel: ``python -m pygan.bindings.build_pycuda``.

PyPI has PyCUDA only as source, and its set-up wants a CUDA toolkit. Neither a toolkit nor a GPU is
needed to compile it, though:

- headers come from an installed toolkit (CUDA_HOME, CUDA_PATH, nvcc on PATH, /usr/local/cuda) or,
  where there is none, from NVIDIA's wheels on PyPI (``cuda.h`` and ``cudaProfiler.h``, 2.5 MB);
- the driver library is replaced at link time by an empty one that carries the driver's name
  (SONAME ``libcuda.so.1``). The extension then asks for ``libcuda.so.1`` when it is imported:
  NVIDIA's on a machine with a GPU, the CPU driver's elsewhere. Lazy binding lets it load on drivers
  that lack a function which is never called;
- cuRAND is left out: pygan has its own random numbers, and PyCUDA would then need libcurand at
  import. (``pycuda.curandom`` does not import from this build.)

The wheel and the wheels of what PyCUDA requires stay in the cache directory, by Python version,
PyCUDA version and CUDA major version, so the next environment installs them without a compiler or a
network. An installed PyCUDA is left alone, whoever built it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pygan.bindings import elf, probe
from pygan.bindings.cache import cache_dir

PYCUDA_VERSION = "2026.1"
DRIVER_SONAME = "libcuda.so.1"
HEADERS = ("cuda.h", "cudaProfiler.h")
# -O2 without debug information halves the compile time of the Boost.Python wrappers.
COMPILE_FLAGS = ("-O2", "-g0", "-w")
LOG_LINES = 25


class BuildError(RuntimeError):
    """PyCUDA cannot be built here; the text says why and what to do."""


def say(text: str) -> None:
    print(f"[pycuda] {text}", file=sys.stderr, flush=True)


def installed_version() -> str | None:
    """The version of the PyCUDA that is installed in this environment, or None."""
    importlib.invalidate_caches()
    try:
        return importlib.metadata.version("pycuda")
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip(arguments: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Runs pip of this Python; its last lines become the BuildError when it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    run = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if run.returncode == 0:
        return
    tail = "\n".join(run.stdout.strip().splitlines()[-LOG_LINES:])
    if "No module named pip" in run.stdout:
        advice = f"install pip for this Python: {sys.executable} -m ensurepip"
    elif any(sign in run.stdout for sign in ("Connection", "resolve", "timed out", "No matching")):
        advice = "is the Python package index reachable? The build needs the network once."
    else:
        advice = "the lines above are the end of pip's output."
    raise BuildError(f"{tail}\n`pip {' '.join(arguments)}` failed: {advice}")


def find_compiler() -> str:
    """The C++ compiler command: CXX if set, else g++, c++ or clang++. Raises BuildError."""
    chosen = os.environ.get("CXX")
    if chosen:
        if shutil.which(chosen.split()[0]) is None:
            raise BuildError(f"CXX names {chosen!r}, which is not on PATH; correct or unset it.")
        return chosen
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return name
    raise BuildError(f"no C++ compiler was found. Install one: {probe.install_command('g++')}")


def check_python_headers() -> None:
    """Raises BuildError if the C headers of this Python are absent."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    platform_header = Path(sysconfig.get_path("platinclude")) / "Python.h"
    if not header.exists() and not platform_header.exists():
        raise BuildError(
            f"the C headers of this Python are missing ({header}). "
            f"Install them: {probe.install_command('python-headers')}"
        )


def _has_headers(folder: Path) -> bool:
    return all((folder / name).is_file() for name in HEADERS)


def toolkit_headers() -> Path | None:
    """The include folder of an installed CUDA toolkit, or None."""
    roots = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT")]
    nvcc = shutil.which("nvcc")
    if nvcc:
        roots.append(str(Path(nvcc).resolve().parent.parent))
    roots.append("/usr/local/cuda")
    for root in roots:
        if root and _has_headers(Path(root) / "include"):
            return Path(root) / "include"
    return None


def header_packages(cuda_major: int) -> list[str]:
    """The PyPI wheels that hold cuda.h and cudaProfiler.h for a CUDA major version."""
    names = ["nvidia-cuda-runtime", "nvidia-cuda-profiler-api"]
    if cuda_major == 12:
        return [f"{name}-cu12" for name in names]
    return [f"{name}=={cuda_major}.*" for name in names]


def wheel_headers(cuda_major: int) -> Path:
    """The include folder filled from NVIDIA's wheels on PyPI; kept in the cache directory."""
    kept = cache_dir() / "cuda-headers" / f"cuda{cuda_major}"
    if _has_headers(kept):
        return kept
    say(f"no CUDA toolkit found: taking the CUDA {cuda_major} headers from PyPI")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        downloads, gathered = Path(scratch) / "wheels", Path(scratch) / "include"
        gathered.mkdir()
        _pip(["download", "--no-deps", "-d", str(downloads), *header_packages(cuda_major)])
        for wheel in sorted(downloads.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for entry in archive.namelist():
                    if Path(entry).name in HEADERS and Path(entry).parent.name == "include":
                        (gathered / Path(entry).name).write_bytes(archive.read(entry))
        if not _has_headers(gathered):
            raise BuildError(
                f"the wheels {', '.join(header_packages(cuda_major))} hold no "
                f"{' or no '.join(HEADERS)}. Install a CUDA toolkit and set CUDA_HOME to it."
            )
        try:
            gathered.rename(kept)
        except OSError:
            # Another process put its copy there first.
            if not _has_headers(kept):
                raise
    return kept


def cuda_major_of(include: Path) -> int:
    """The CUDA major version that a folder's cuda.h declares. Raises BuildError."""
    for line in (include / "cuda.h").read_text(errors="replace").splitlines():
        words = line.split()
        if words[:2] == ["#define", "CUDA_VERSION"] and words[2].isdigit():
            return int(words[2]) // 1000
    raise BuildError(f"{include / 'cuda.h'} declares no CUDA_VERSION; is it CUDA's header?")


def choose_headers() -> tuple[Path, int]:
    """(include folder, CUDA major version) to compile PyCUDA against.

    Without a toolkit the major version follows the NVIDIA driver, because headers newer than the
    driver would call functions that it lacks.
    """
    toolkit = toolkit_headers()
    if toolkit is not None:
        return toolkit, cuda_major_of(toolkit)
    driver = probe.nvidia_driver()
    major = 12 if driver.works and driver.cuda_version < (13, 0) else 13
    return wheel_headers(major), major


def make_stub_driver(folder: Path, compiler: str) -> Path:
    """Links an empty ``libcuda.so`` whose SONAME is ``libcuda.so.1`` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    source, library = folder / "stub.cpp", folder / "libcuda.so"
    source.write_text("// Empty on purpose: only the name of this library matters.\n")
    command = [*compiler.split(), "-shared", "-fPIC", f"-Wl,-soname,{DRIVER_SONAME}"]
    run = subprocess.run(
        [*command, "-o", str(library), str(source)], capture_output=True, text=True
    )
    if run.returncode != 0:
        raise BuildError(f"{run.stderr.strip()}\nthe C++ compiler {compiler!r} cannot link.")
    return library


def site_configuration(include: Path, stub_folder: Path) -> str:
    """The text of PyCUDA's ``siteconf.py``: these headers, the stub driver, no cuRAND."""
    settings = {
        "USE_SHIPPED_BOOST": True,
        "CUDA_ROOT": None,
        "CUDA_INC_DIR": [str(include)],
        "CUDADRV_LIB_DIR": [str(stub_folder)],
        "CUDADRV_LIBNAME": ["cuda"],
        "CUDA_ENABLE_CURAND": False,
        "CUDA_ENABLE_GL": False,
        "CXXFLAGS": list(COMPILE_FLAGS),
        "LDFLAGS": ["-Wl,-z,lazy"],
    }
    return "".join(f"{name} = {value!r}\n" for name, value in settings.items())


def check_wheel(wheel: Path) -> None:
    """Raises BuildError unless the wheel's extension needs ``libcuda.so.1`` and no cuRAND."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if Path(name).name.startswith("_driver.")]
        if not names:
            raise BuildError(f"{wheel.name} holds no _driver extension.")
        needed = elf.needed_libraries(archive.read(names[0]))
    if DRIVER_SONAME not in needed or any(name.startswith("libcurand") for name in needed):
        raise BuildError(
            f"{wheel.name} needs {', '.join(needed)}; it must need {DRIVER_SONAME} and no cuRAND. "
            "Does LDFLAGS or a compiler wrapper drop libraries?"
        )


def wheel_folder(cuda_major: int) -> Path:
    return cache_dir() / "wheels" / f"cuda{cuda_major}-{sys.implementation.cache_tag}"


def kept_wheel(version: str, cuda_major: int) -> Path | None:
    """The wheel of this PyCUDA for this Python, CUDA and processor in the cache, or None."""
    machine = platform.machine()
    for wheel in sorted(wheel_folder(cuda_major).glob(f"pycuda-{version}-*{machine}.whl")):
        return wheel
    return None


def _fetch_source(version: str, folder: Path) -> Path:
    _pip(
        ["download", "--no-deps", "--no-binary", "pycuda", "-d", str(folder), f"pycuda=={version}"]
    )
    archives = list(folder.glob("pycuda-*.tar.gz"))
    if len(archives) != 1:
        raise BuildError(f"PyPI gave no source archive of PyCUDA {version}.")
    with tarfile.open(archives[0]) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def build_wheel(version: str = PYCUDA_VERSION) -> Path:
    """The path of a PyCUDA wheel for this Python: the kept one, or one built now (about a minute).

    Raises BuildError when a compiler, headers or the network are missing, or the build fails.
    """
    include, major = choose_headers()
    kept = kept_wheel(version, major)
    if kept is not None:
        return kept
    compiler = find_compiler()
    check_python_headers()
    folder = wheel_folder(major)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    say(f"building PyCUDA {version} against {include} (once; about a minute)")
    with tempfile.TemporaryDirectory(prefix="pygan-pycuda-") as scratch:
        work = Path(scratch)
        stub = make_stub_driver(work / "stub", compiler)
        (work / "source").mkdir()
        source = _fetch_source(version, work / "source")
        (source / "siteconf.py").write_text(site_configuration(include, stub.parent))
        environment = dict(os.environ)
        # Linkers of some distributions drop libraries from which nothing is used yet.
        flags = ["-Wl,--no-as-needed", environment.get("LDFLAGS", "")]
        environment["LDFLAGS"] = " ".join(flags).strip()
        environment["CXX"] = compiler
        # Some versions of setuptools compile C++ with the C compiler's command.
        environment.setdefault("CC", compiler)
        built = work / "built"
        _pip(["wheel", "--wheel-dir", str(built), str(source)], environment)
        wheels = list(built.glob("pycuda-*.whl"))
        if len(wheels) != 1:
            raise BuildError(f"pip built {len(wheels)} wheels of PyCUDA where one was expected.")
        check_wheel(wheels[0])
        # PyCUDA's own wheel goes last: its presence says that the folder is complete.
        for wheel in sorted(built.glob("*.whl"), key=lambda path: path == wheels[0]):
            partial = folder / f".{wheel.name}.{os.getpid()}"
            shutil.copyfile(wheel, partial)
            partial.replace(folder / wheel.name)
    say(f"built in {time.monotonic() - start:.0f} s, kept in {folder}")
    return folder / wheels[0].name


def install(version: str = PYCUDA_VERSION) -> None:
    """Installs PyCUDA into this environment, building it first where no wheel is kept."""
    wheel = build_wheel(version)
    arguments = ["install", "--find-links", str(wheel.parent), str(wheel)]
    try:
        _pip([*arguments, "--no-index"])
    except BuildError:
        _pip(arguments)
    found = installed_version()
    if found != version:
        raise BuildError(f"pip installed PyCUDA {found} where {version} was expected.")
    say(f"PyCUDA {version} is installed")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pygan.bindings.build_pycuda", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--version", default=PYCUDA_VERSION, help="of PyCUDA (%(default)s)")
    parser.add_argument(
        "--wheel", action="store_true", help="build, print the path, do not install"
    )
    chosen = parser.parse_args(arguments)
    try:
        if chosen.wheel:
            print(build_wheel(chosen.version))
            return 0
        found = installed_version()
        if found is not None:
            say(f"PyCUDA {found} is already installed")
            return 0
        install(chosen.version)
    except (BuildError, OSError) as error:
        print(f"[pycuda] {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
