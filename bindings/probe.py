"""What this machine offers: driver, GPUs, compilers, PyCUDA, and the command that mends what lacks.

Every question is answered without touching this process: the NVIDIA driver is asked in a child
process through ctypes, so that no driver library stays loaded here, no context is made, and a
broken driver cannot crash or hang the caller.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .cache import cache_dir

DRIVER_SECONDS = 30.0  # a GPU that wakes up may need seconds; a hung driver must not hang us
COMMAND_SECONDS = 20.0

# Runs in the child. CUdevice attributes 75, 76: compute capability (cuda.h, CUdevice_attribute).
_ASK_DRIVER = """
import ctypes, json, sys
report = {"found": False, "error": None, "version": 0, "devices": [], "stand_in": False}
def finish():
    print(json.dumps(report)); sys.stdout.flush()
    import os; os._exit(0)
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    report["error"] = str(error); finish()
report["found"] = True
report["stand_in"] = hasattr(cuda, "pygan_cpu_driver")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(text))
        report["error"] = "%s: %s" % (name, (text.value or b"error %d" % code).decode())
        finish()
try:
    number = ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(number))
    report["version"] = number.value
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(number))
    for index in range(number.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name, total = ctypes.create_string_buffer(256), ctypes.c_size_t()
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDeviceGetName", name, 256, device)
        call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
        call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
        call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
        report["devices"].append([name.value.decode(), major.value, minor.value, total.value])
except AttributeError as error:
    report["error"] = str(error)
finish()
"""


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, compute capability, and memory in bytes."""

    name: str
    capability: tuple[int, int]
    memory: int

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name} (sm_{major}{minor}, {self.memory / 2**30:.0f} GiB)"


@dataclass(frozen=True)
class Driver:
    """The answer of ``libcuda.so.1``, asked in a child process."""

    found: bool
    error: str | None = None
    cuda_version: tuple[int, int] = (0, 0)
    gpus: tuple[Gpu, ...] = field(default=())
    stand_in: bool = False  # pygan's CPU driver answered, not NVIDIA's

    @property
    def works(self) -> bool:
        """An NVIDIA driver answered and has at least one GPU."""
        return self.found and self.error is None and bool(self.gpus) and not self.stand_in


@dataclass(frozen=True)
class Tool:
    """A command on this machine: its path and the version it states."""

    path: str
    version: str


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    """The finished command, or None if it could not be started or took too long."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


@functools.cache
def nvidia_driver() -> Driver:
    """Asks the driver library, once per process. Never raises, makes no context.

    CUDA_VISIBLE_DEVICES is obeyed, as the driver itself does.
    """
    run = _run([sys.executable, "-c", _ASK_DRIVER], DRIVER_SECONDS)
    if run is None:
        return Driver(True, f"the NVIDIA driver did not answer within {DRIVER_SECONDS:.0f} s")
    try:
        report = json.loads(run.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return Driver(True, f"asking the NVIDIA driver ended with exit code {run.returncode}")
    version = report["version"]
    return Driver(
        found=report["found"],
        error=report["error"],
        cuda_version=(version // 1000, version % 1000 // 10),
        gpus=tuple(Gpu(name, (a, b), total) for name, a, b, total in report["devices"]),
        stand_in=report["stand_in"],
    )


def tool(name: str, pattern: str = r"(\d+\.\d+(?:\.\d+)?)") -> Tool | None:
    """The command `name` (on PATH, or a path) with the version it prints, or None if absent.

    The version is the last match of `pattern` in the first matching line of ``--version``.
    """
    path = shutil.which(name)
    if path is None:
        return None
    run = _run([path, "--version"], COMMAND_SECONDS)
    if run is None or run.returncode != 0:
        return Tool(path, "does not run")
    matches = (re.findall(pattern, line) for line in run.stdout.splitlines())
    return Tool(path, next((found[-1] for found in matches if found), "unknown version"))


def nvcc() -> Tool | None:
    """nvcc on PATH, in CUDA_HOME or /usr/local/cuda, or from NVIDIA's wheels; None if absent.

    The stand-in that an active CPU driver puts on PATH does not count.
    """
    folders = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.getenv(name)]
    folders.append(Path("/usr/local/cuda"))
    roots = [sysconfig.get_path("purelib"), *filter(None, sys.path)]
    with contextlib.suppress(OSError):  # no cache folder: nothing is kept in it either
        roots.append(str(cache_dir() / "nvcc"))  # python -m pygan.bindings.nvcc_report --fetch
    for root in dict.fromkeys(roots):
        folders += sorted((Path(root) / "nvidia").glob("cu*"), reverse=True)
    path = os.environ.get("PATH", "").split(os.pathsep)
    on_path = [str(Path(folder) / "nvcc") for folder in path if folder]
    for candidate in (*on_path, *(str(folder / "bin" / "nvcc") for folder in folders)):
        if _is_stand_in(candidate):
            continue
        found = tool(candidate, r"release (\d+\.\d+)")
        if found is not None:
            return found
    return None


def _is_stand_in(path: str) -> bool:
    """Whether this nvcc is the script of pygan.bindings.cpu_driver.build.nvcc_folder."""
    try:
        with open(path, "rb") as file:
            return b"nvcc_standin" in file.read(4096)
    except OSError:
        return False


def pycuda_version() -> str | None:
    """The version of the installed PyCUDA, without importing it (that would load a driver)."""
    importlib.invalidate_caches()
    try:
        return importlib.metadata.version("pycuda")
    except importlib.metadata.PackageNotFoundError:
        return None


_PACKAGES = {
    "apt-get": {"g++": "g++", "python-headers": "python3-dev", "venv": "python3-venv"},
    "dnf": {"g++": "gcc-c++", "python-headers": "python3-devel", "venv": "python3"},
    "zypper": {"g++": "gcc-c++", "python-headers": "python3-devel", "venv": "python3"},
    "pacman": {"g++": "gcc", "python-headers": "python", "venv": "python"},
}
_INSTALL = {"pacman": "pacman -S", "zypper": "zypper install"}


def install_command(thing: str) -> str:
    """The command that installs "g++", "python-headers" or "venv" with this system's packages.

    Where no known package manager is found, Debian's command is given.
    """
    manager = next((name for name in _PACKAGES if shutil.which(name)), "apt-get")
    install = _INSTALL.get(manager, f"{manager} install")
    prefix = "" if os.geteuid() == 0 else "sudo "
    return f"{prefix}{install} {_PACKAGES[manager][thing]}"


def main(arguments: Sequence[str]) -> int:
    """``python -m pygan.bindings.probe gpu|nvcc``: exit code 0 if there is one, 1 if not."""
    questions = {"gpu": lambda: nvidia_driver().works, "nvcc": lambda: nvcc() is not None}
    if len(arguments) != 1 or arguments[0] not in questions:
        print(f"usage: python -m pygan.bindings.probe {'|'.join(questions)}", file=sys.stderr)
        return 2
    return 0 if questions[arguments[0]]() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
