"""``pygan doctor``: what was found on this machine, which devices work, and what mends the others.

Looking changes nothing. Each device is tried by running one kernel in a child process, so a driver
that crashes or hangs is a line of the report and not the end of it.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata

from pygan.bindings import probe
from pygan.bindings.cache import cache_dir

TRIAL_SECONDS = 300.0  # the first trial of `cpu` compiles the driver
DEVICES = ("numpy", "cpu", "cuda")

# Runs in the child: y = 2 x on 1000 numbers, compared exactly (doubling rounds nothing).
_TRIAL = """
import sys
import numpy as np
import pygan.device
device = pygan.device.get(sys.argv[1])
x = np.arange(1000, dtype=np.float32)
source, target = device.from_numpy(x), device.empty((1000,), np.float32)
device.ops.axpy(source, target, alpha=2.0)
device.synchronize()
if not np.array_equal(np.asarray(target), 2 * x):
    sys.exit("the kernel ran and gave wrong numbers")
print(device.description)
"""


@dataclass(frozen=True)
class DeviceReport:
    """Whether a device ran a kernel; if not, why, and the command or step that mends it."""

    name: str
    works: bool
    description: str = ""
    why: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Report:
    """Everything found: (label, text) lines about the machine, and one report per device."""

    machine: dict[str, str]
    devices: tuple[DeviceReport, ...]

    @property
    def ok(self) -> bool:
        return any(device.works for device in self.devices)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> str:
    """The BLAS that numpy was built with, as numpy tells it."""
    try:
        import numpy as np

        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
    except (ImportError, KeyError, TypeError):
        return "unknown"


def _tool(found: probe.Tool | None) -> str:
    return f"{found.version} ({found.path})" if found else "not found"


def _driver(driver: probe.Driver) -> str:
    if not driver.found:
        return "not found"
    version = "CUDA {}.{}".format(*driver.cuda_version)
    if driver.stand_in:
        return f"{version}, pygan's CPU driver"
    return f"{version}, but {driver.error}" if driver.error else version


def _cache() -> str:
    try:
        folder = cache_dir()
    except OSError as error:
        return f"unusable: {error.strerror or error}"
    if not os.access(folder, os.W_OK):
        return f"{folder} (not writable; set PYGAN_CACHE to another folder)"
    return str(folder)


def describe_machine() -> dict[str, str]:
    """What was found, by label."""
    driver = probe.nvidia_driver()
    return {
        "pygan": _version("pygan") or "not installed",
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "numpy": f"{_version('numpy') or 'not installed'}, BLAS: {_blas()}",
        "PyCUDA": probe.pycuda_version() or "not installed",
        "g++": _tool(probe.tool("g++")),
        "clang++": _tool(probe.tool("clang++")),
        "nvcc": _tool(probe.nvcc()),
        "NVIDIA driver": _driver(driver),
        "GPUs": "; ".join(map(str, driver.gpus)) if driver.works else "none",
        "cache": _cache(),
        "data": os.environ.get("PYGAN_DATA") or "PYGAN_DATA is not set",
    }


def _try(name: str) -> tuple[bool, str]:
    """(works, description or reason) of running one kernel on device `name` in a child."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", _TRIAL, name],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=TRIAL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False, f"one small kernel did not end within {TRIAL_SECONDS:.0f} s"
    except OSError as error:
        return False, f"no child process could be started: {error}"
    if run.returncode == 0:
        lines = run.stdout.strip().splitlines()
        return True, lines[-1] if lines else name
    if run.returncode < 0:
        return False, f"one small kernel ended Python with signal {-run.returncode}"
    lines = run.stderr.strip().splitlines()
    return False, lines[-1] if lines else f"exit code {run.returncode}"


def _python(*arguments: str) -> str:
    return shlex.join([sys.executable, *arguments])


def _lacks_pycuda() -> tuple[str, str] | None:
    if probe.pycuda_version() is not None:
        return None
    return "PyCUDA is not installed", _python("-m", "pygan.bindings.build_pycuda")


def _lacks_for_cpu() -> tuple[str, str] | None:
    """(why, mend) of the first thing that device `cpu` needs and this machine lacks."""
    named = os.environ.get("PYGAN_CXX") or os.environ.get("CXX")
    if not (named or probe.tool("g++") or probe.tool("clang++")):
        return "no C++ compiler was found", probe.install_command("g++")
    return _lacks_pycuda()


def _lacks_for_cuda() -> tuple[str, str] | None:
    """(why, mend) of the first thing that device `cuda` needs and this machine lacks."""
    driver = probe.nvidia_driver()
    if not driver.found or driver.stand_in:
        return (
            "there is no NVIDIA driver (libcuda.so.1)",
            "with an NVIDIA GPU, install its driver from https://www.nvidia.com/drivers; "
            "without one, use device numpy to train and cpu to run the kernels",
        )
    if driver.error:
        return (
            f"the NVIDIA driver answers with {driver.error}",
            "see what `nvidia-smi` says; after an update of the driver, restart the machine",
        )
    if not driver.gpus:
        return (
            "the NVIDIA driver shows no GPU",
            "check CUDA_VISIBLE_DEVICES, and `nvidia-smi`; in a container, start it with GPUs",
        )
    lacks_pycuda = _lacks_pycuda()
    if lacks_pycuda:
        return lacks_pycuda
    if probe.nvcc() is None:
        major = driver.cuda_version[0]
        package = f"nvidia-cuda-nvcc=={major}.*" if major >= 13 else "nvidia-cuda-nvcc-cu12"
        return "nvcc was not found", _python("-m", "pip", "install", package)
    return None


DEVICE_ERROR = "pygan.device.DeviceError: "
"""How Python begins the last line of such an error."""


def examine(name: str) -> DeviceReport:
    """Tries device `name` ("numpy", "cpu" or "cuda") and says why where it does not work."""
    lacks = {"cpu": _lacks_for_cpu, "cuda": _lacks_for_cuda}.get(name, lambda: None)()
    if lacks is not None:
        why, mend = lacks
        return DeviceReport(name, False, why=why, mend=mend)
    works, text = _try(name)
    if works:
        return DeviceReport(name, True, description=text)
    mend = f'see the whole error: {sys.executable} -c "import pygan.device as d; d.get({name!r})"'
    if name == "numpy":
        mend = _python("-m", "pip", "install", "--force-reinstall", "numpy")
    if text.startswith(DEVICE_ERROR):  # which says what to do behind a semicolon
        text, _, said = text.removeprefix(DEVICE_ERROR).partition("; ")
        mend = said or mend
    return DeviceReport(name, False, why=text, mend=mend)


def examine_all() -> Report:
    """The whole report; takes seconds (each device runs one kernel)."""
    return Report(describe_machine(), tuple(examine(name) for name in DEVICES))


def as_text(report: Report) -> str:
    """The report for people: a line per finding, then a line or three per device."""
    lines = [f"{label + ':':<15}{text}" for label, text in report.machine.items()]
    lines += ["", "Devices"]
    for device in report.devices:
        if device.works:
            lines.append(f"  {device.name:<7}works: {device.description}")
        else:
            lines.append(f"  {device.name:<7}does not work: {device.why}")
            lines.append(f"  {'':<7}to mend it: {device.mend}")
    if not report.ok:
        lines += ["", "No device works. Begin with the first `to mend it` above."]
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """The report for programs: {"machine": {...}, "devices": [{...}], "ok": bool}."""
    return json.dumps({**asdict(report), "ok": report.ok}, indent=2)


def main(arguments: Sequence[str] = ()) -> int:
    """Prints the report (``--json``: as JSON); 0 if at least one device works, else 1."""
    report = examine_all()
    print(as_json(report) if "--json" in arguments else as_text(report))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
