"""The build of PyCUDA: what it is built against, what is kept, and what it complains of."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from pygan.bindings import build_pycuda, elf, probe


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_toolkit(root: Path, version: int = 12080) -> Path:
    (root / "include").mkdir(parents=True)
    (root / "include" / "cuda.h").write_text(f"#define CUDA_VERSION {version}\n")
    (root / "include" / "cudaProfiler.h").write_text("")
    return root


def test_stub_driver_keeps_the_name_of_the_real_one(tmp_path: Path) -> None:
    stub = build_pycuda.make_stub_driver(tmp_path, build_pycuda.find_compiler())
    source = tmp_path / "user.cpp"
    source.write_text("int nothing;\n")
    user = tmp_path / "user.so"
    command = ["g++", "-shared", "-fPIC", "-Wl,--no-as-needed", "-o", user, source]
    subprocess.run([*command, f"-L{stub.parent}", "-lcuda"], check=True)
    assert build_pycuda.DRIVER_SONAME in elf.needed_libraries(user.read_bytes())


def test_needed_libraries_are_those_of_the_link_line(tmp_path: Path) -> None:
    source = tmp_path / "plain.cpp"
    source.write_text("#include <cmath>\ndouble f(double x) { return std::sin(x); }\n")
    library = tmp_path / "plain.so"
    command = ["g++", "-shared", "-fPIC", "-Wl,--no-as-needed", "-nodefaultlibs", "-o", library]
    subprocess.run([*command, source, "-lm", "-lc"], check=True)
    assert elf.needed_libraries(library.read_bytes()) == ["libm.so.6", "libc.so.6"]


@pytest.mark.parametrize("image", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + bytes(58)])
def test_needed_libraries_refuses_other_files(image: bytes) -> None:
    with pytest.raises(elf.NotElfError):
        elf.needed_libraries(image)


def test_a_cut_off_library_is_no_crash(tmp_path: Path) -> None:
    stub = build_pycuda.make_stub_driver(tmp_path, build_pycuda.find_compiler())
    image = stub.read_bytes()
    for length in range(0, 1200, 40):
        with pytest.raises(elf.NotElfError):
            elf.needed_libraries(image[:length])


def test_the_installed_pycuda_asks_for_the_driver_by_name() -> None:
    """So whichever driver is loaded under that name, NVIDIA's or the CPU driver, serves PyCUDA."""
    files = metadata.files("pycuda") or []
    extensions = [file for file in files if file.name.startswith("_driver.")]
    assert extensions
    needed = elf.needed_libraries(Path(extensions[0].locate()).read_bytes())
    assert "libcuda.so.1" in needed


def test_an_installed_pycuda_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = metadata.version("pycuda")
    assert build_pycuda.main([]) == 0
    assert "already installed" in capsys.readouterr().err
    assert metadata.version("pycuda") == before


def test_headers_of_an_installed_toolkit_come_first(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "toolkit")))
    assert build_pycuda.choose_headers() == (tmp_path / "toolkit" / "include", 12)


@pytest.mark.parametrize(
    ("driver", "major"),
    [
        (probe.Driver(found=False), 13),
        (probe.Driver(True, None, (13, 1), (probe.Gpu("GPU", (9, 0), 1),)), 13),
        (probe.Driver(True, None, (12, 4), (probe.Gpu("GPU", (9, 0), 1),)), 12),
    ],
)
def test_headers_are_no_newer_than_the_driver(
    driver: probe.Driver, major: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_pycuda, "toolkit_headers", lambda: None)
    monkeypatch.setattr(probe, "nvidia_driver", lambda: driver)
    kept = fake_toolkit(cache / "cuda-headers", major * 1000) / "include"
    kept.rename(cache / "cuda-headers" / f"cuda{major}")
    include, found = build_pycuda.choose_headers()
    assert (include.name, found) == (f"cuda{major}", major)


def test_a_header_without_a_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cuda.h").write_text("// not CUDA's\n#define CUDA_VERSION_TEXT\n")
    with pytest.raises(build_pycuda.BuildError, match="declares no CUDA_VERSION"):
        build_pycuda.cuda_major_of(tmp_path)


def test_no_compiler_names_the_command(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "toolkit")))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build_pycuda, "installed_version", lambda: None)
    assert build_pycuda.main([]) == 1
    error = capsys.readouterr().err
    assert "no C++ compiler" in error and "install g" in error


def test_a_wrong_cxx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(build_pycuda.BuildError, match="no-such-compiler"):
        build_pycuda.find_compiler()


def test_no_network_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip pointed at a port where nobody listens, as on a machine without a network."""
    monkeypatch.setattr(build_pycuda, "toolkit_headers", lambda: None)
    monkeypatch.setattr(build_pycuda, "installed_version", lambda: None)
    monkeypatch.setattr(probe, "nvidia_driver", lambda: probe.Driver(found=False))
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    assert build_pycuda.main([]) == 1
    assert "is the Python package index reachable?" in capsys.readouterr().err


def test_the_kept_wheel_is_used_without_a_compiler(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "toolkit")))
    folder = build_pycuda.wheel_folder(12)
    folder.mkdir(parents=True)
    name = f"pycuda-{build_pycuda.PYCUDA_VERSION}-x-x-linux_{platform.machine()}.whl"
    (folder / name).write_bytes(b"kept")
    (folder / "pycuda-1.0-x-x-linux_other.whl").write_bytes(b"another")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build_pycuda.build_wheel() == folder / name
    assert build_pycuda.kept_wheel("1.0", 12) is None


def test_a_wheel_that_lost_the_driver_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "driver.cpp"
    source.write_text("int nothing;\n")
    library = tmp_path / "_driver.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    wheel = tmp_path / "pycuda-1-cp3-cp3-linux.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(library, "pycuda/_driver.so")
    with pytest.raises(build_pycuda.BuildError, match=r"it must need libcuda\.so\.1"):
        build_pycuda.check_wheel(wheel)


def test_the_site_configuration_is_python_that_pycuda_reads(tmp_path: Path) -> None:
    text = build_pycuda.site_configuration(tmp_path / "include", tmp_path / "stub")
    file = tmp_path / "siteconf.py"
    file.write_text(text)
    specification = importlib.util.spec_from_file_location("siteconf", file)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.CUDA_ENABLE_CURAND is False
    folders = {name: getattr(module, name) for name in ("CUDA_INC_DIR", "CUDADRV_LIB_DIR")}
    assert folders["CUDA_INC_DIR"] == [str(tmp_path / "include")]
    assert folders["CUDADRV_LIB_DIR"] == [str(tmp_path / "stub")]


def test_the_command_line_knows_its_options() -> None:
    command = [sys.executable, "-m", "pygan.bindings.build_pycuda", "--help"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "--wheel" in run.stdout
