"""`pygan doctor` with things missing: it names them, says what mends them, and never crashes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from pygan import doctor
from pygan.bindings import probe

GPU = probe.Gpu("NVIDIA H200", (9, 0), 141 * 2**30)


@pytest.fixture(autouse=True)
def fresh_answers() -> Iterator[None]:
    """The driver is asked once per process; these tests change what it would answer."""
    probe.nvidia_driver.cache_clear()
    yield
    probe.nvidia_driver.cache_clear()


def set_driver(monkeypatch: pytest.MonkeyPatch, driver: probe.Driver) -> None:
    monkeypatch.setattr(probe, "nvidia_driver", lambda: driver)


def make_library(folder: Path, body: str) -> dict[str, str]:
    """Builds a libcuda.so.1 from `body` and returns an environment that finds it first."""
    source = folder / "driver.cpp"
    source.write_text(textwrap.dedent(body))
    library = folder / "libcuda.so.1"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def ask_driver(environment: dict[str, str]) -> str:
    script = (
        "from pygan.bindings import probe; d = probe.nvidia_driver()\n"
        "print(d.found, d.works, d.cuda_version, d.error, *d.gpus, sep='|')"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


ONE_GPU = """
    #include <cstring>
    extern "C" {
    int cuDriverGetVersion(int* v) { *v = 12040; return 0; }
    int cuInit(unsigned) { return INIT; }
    int cuGetErrorName(int, const char** s) { *s = "CUDA_ERROR_SYSTEM_NOT_READY"; return 0; }
    int cuDeviceGetCount(int* n) { *n = 1; return 0; }
    int cuDeviceGet(int* d, int i) { *d = i; return 0; }
    int cuDeviceGetName(char* s, int, int) { std::strcpy(s, "Imagined GPU"); return 0; }
    int cuDeviceGetAttribute(int* v, int a, int) { *v = a == 75 ? 8 : 6; return 0; }
    int cuDeviceTotalMem_v2(unsigned long* b, int) { *b = 3ul << 30; return 0; }
    }
"""


def test_a_driver_is_asked_for_its_gpus(tmp_path: Path) -> None:
    environment = make_library(tmp_path, ONE_GPU.replace("INIT", "0"))
    assert ask_driver(environment) == "True|True|(12, 4)|None|Imagined GPU (sm_86, 3 GiB)"


def test_a_driver_that_fails_says_its_error(tmp_path: Path) -> None:
    environment = make_library(tmp_path, ONE_GPU.replace("INIT", "802"))
    answer = ask_driver(environment)
    assert answer == "True|False|(12, 4)|cuInit: CUDA_ERROR_SYSTEM_NOT_READY"


def test_a_driver_that_crashes_is_an_answer(tmp_path: Path) -> None:
    body = ONE_GPU.replace("return INIT", "return *static_cast<volatile int*>(nullptr)")
    found, works, *_ = ask_driver(make_library(tmp_path, body)).split("|")
    assert (found, works) == ("True", "False")


def test_a_driver_that_hangs_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = ONE_GPU.replace("return INIT", "for (volatile int i = 0; i == 0;) { } return 0")
    for name, value in make_library(tmp_path, body).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(probe, "DRIVER_SECONDS", 1.0)
    driver = probe.nvidia_driver()
    assert not driver.works
    assert "did not answer within 1 s" in str(driver.error)


def test_no_driver_points_to_the_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, probe.Driver(found=False))
    report = doctor.examine("cuda")
    assert not report.works
    assert "no NVIDIA driver" in report.why
    assert "numpy" in report.mend and "cpu" in report.mend


def test_no_gpu_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, probe.Driver(True, None, (13, 0)))
    report = doctor.examine("cuda")
    assert not report.works
    assert "shows no GPU" in report.why
    assert "CUDA_VISIBLE_DEVICES" in report.mend


@pytest.mark.parametrize(
    ("version", "package"),
    [((13, 2), "nvidia-cuda-nvcc==13.*"), ((12, 4), "nvidia-cuda-nvcc-cu12")],
)
def test_no_nvcc_names_the_package_for_the_driver(
    version: tuple[int, int], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, probe.Driver(True, None, version, (GPU,)))
    monkeypatch.setattr(probe, "pycuda_version", lambda: "2026.1")
    monkeypatch.setattr(probe, "nvcc", lambda: None)
    report = doctor.examine("cuda")
    assert (report.works, report.why) == (False, "nvcc was not found")
    assert package in report.mend


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_pycuda_names_the_command_that_builds_it(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, probe.Driver(True, None, (13, 0), (GPU,)))
    monkeypatch.setattr(probe, "pycuda_version", lambda: None)
    report = doctor.examine(device)
    assert (report.works, report.why) == (False, "PyCUDA is not installed")
    assert report.mend == f"{sys.executable} -m pygan.bindings.build_pycuda"


def test_no_compiler_names_the_system_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = tmp_path / "dnf"
    manager.write_text("#!/bin/sh\n")
    manager.chmod(manager.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("PYGAN_CXX", raising=False)
    report = doctor.examine("cpu")
    assert (report.works, report.why) == (False, "no C++ compiler was found")
    assert report.mend.endswith("dnf install gcc-c++")


def test_a_trial_that_kills_python_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TRIAL", "import os, signal; os.kill(os.getpid(), 11)")
    report = doctor.examine("numpy")
    assert not report.works
    assert "signal 11" in report.why


def test_a_trial_that_hangs_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TRIAL", "import time; time.sleep(600)")
    monkeypatch.setattr(doctor, "TRIAL_SECONDS", 0.5)
    report = doctor.examine("numpy")
    assert not report.works
    assert "did not end" in report.why


def test_an_error_of_the_device_says_itself_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycuda")
    monkeypatch.setenv("PYGAN_CPU_THREADS", "many")
    report = doctor.examine("cpu")
    assert not report.works and report.why.endswith("PYGAN_CPU_THREADS is 'many'")
    assert report.mend.startswith("it must be a whole number")


def test_wrong_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TRIAL", doctor._TRIAL.replace("alpha=2.0", "alpha=2.001"))
    report = doctor.examine("numpy")
    assert (report.works, report.why) == (False, "the kernel ran and gave wrong numbers")


def test_exit_code_and_text_when_nothing_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = doctor.DeviceReport("numpy", False, why="it is broken", mend="mend it")
    monkeypatch.setattr(doctor, "examine", lambda name: broken)
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert "No device works" in text
    assert "it is broken" in text and "mend it" in text


def test_the_real_report(tmp_path: Path) -> None:
    """Without any tool on PATH and with a cache that cannot be made, there still is a report."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    environment = {**os.environ, "PATH": str(tmp_path), "PYGAN_CACHE": str(blocked / "cache")}
    run = subprocess.run(
        [sys.executable, "-m", "pygan.doctor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    devices = {device["name"]: device for device in report["devices"]}
    assert report["ok"] and devices["numpy"]["works"]
    assert not devices["cpu"]["works"]
    assert report["machine"]["g++"] == "not found"
    assert report["machine"]["cache"].startswith("unusable")


def test_asking_loads_no_driver_here(tmp_path: Path) -> None:
    environment = make_library(tmp_path, ONE_GPU.replace("INIT", "0"))
    script = (
        "from pygan.bindings import probe; assert probe.nvidia_driver().works\n"
        "assert 'libcuda' not in open('/proc/self/maps').read()"
    )
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
