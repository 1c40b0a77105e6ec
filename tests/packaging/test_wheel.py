"""What `pip install` brings: the library with kernel and driver sources, and nothing else."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

SOURCES = {".py", ".pyi", ".cu", ".cuh", ".cpp", ".cc", ".h", ".hpp"}


def package_folders(repository: Path) -> dict[str, str]:
    """Folder of the working copy -> folder in the wheel, as setup.py declares them."""
    tree = ast.parse((repository / "setup.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGE_DIR":
            declared = ast.literal_eval(node.value)
            return {folder: package.replace(".", "/") for package, folder in declared.items()}
    pytest.fail("setup.py declares no PACKAGE_DIR")


def copy_of_sources(repository: Path, target: Path) -> None:
    """Copies what a wheel is made of, so that the build leaves nothing in the working copy."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "*.o")
    for folder in package_folders(repository):
        shutil.copytree(repository / folder, target / folder, ignore=ignored)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / file, target / file)


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    copy_of_sources(repository, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    run = subprocess.run(
        [*command, "--wheel-dir", str(built), str(source)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = built.glob("pygan-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the wheel's files come before the working copy's."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return {**os.environ, "PYTHONPATH": str(target), "PYGAN_EXPECTED_ROOT": str(target)}


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_every_source_file_is_in_the_wheel(wheel: Path, repository: Path) -> None:
    places = package_folders(repository)
    expected = {
        f"{place}/{path.relative_to(repository / top).as_posix()}"
        for top, place in places.items()
        for path in (repository / top).rglob("*")
        if path.suffix in SOURCES
    }
    kinds = {Path(name).suffix for name in expected if name.startswith("pygan/bindings/cpu_driver")}
    assert {".py", ".cpp", ".h"} <= kinds
    assert any(name.endswith(".cu") for name in expected)
    assert expected <= names(wheel), sorted(expected - names(wheel))


def test_type_hints_are_declared(wheel: Path) -> None:
    assert "pygan/py.typed" in names(wheel)


def test_only_pygan_lands_in_site_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert tops == {"pygan", next(top for top in tops if top.endswith(".dist-info"))}
    assert wheel.name.endswith("-py3-none-any.whl")


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
        licence = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert licence
    assert "Requires-Python: >=3.10" in text
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist:")]
    base = [line for line in required if "extra ==" not in line]
    assert base and not any("cuda" in line for line in base), "the base install needs no CUDA"


def test_version_is_said_once(repository: Path) -> None:
    declared = re.search(r'^version = "(.+)"', (repository / "pyproject.toml").read_text(), re.M)
    assert declared
    version = declared.group(1)
    assert metadata.version("pygan") == version
    import pygan

    assert pygan.__version__ == version
    headings = re.findall(r"^## \[?([^\]\s]+)", (repository / "CHANGELOG.md").read_text(), re.M)
    assert version in headings


def test_formatters_are_pinned_alike(repository: Path) -> None:
    declared = set(re.findall(r'"((?:ruff|clang-format)==[\d.]+)"', _text(repository, "pyproject")))
    hooks = set(re.findall(r"\[((?:ruff|clang-format)==[\d.]+)\]", _text(repository, "hooks")))
    assert len(declared) == 2
    assert declared == hooks


def _text(repository: Path, which: str) -> str:
    files = {"pyproject": "pyproject.toml", "hooks": ".pre-commit-config.yaml"}
    return (repository / files[which]).read_text()


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_an_installed_wheel_runs_a_kernel(
    device: str, installed: dict[str, str], tmp_path: Path
) -> None:
    script = (
        "import os, sys, numpy as np, pygan, pygan.bindings, pygan.device\n"
        "root = os.environ['PYGAN_EXPECTED_ROOT']\n"
        "for module in (pygan, pygan.bindings):\n"
        "    assert module.__file__.startswith(root), module.__file__\n"
        f"device = pygan.device.get({device!r})\n"
        "x = device.from_numpy(np.arange(5, dtype=np.float32)); y = device.empty((5,))\n"
        "device.ops.axpy(x, y, alpha=-2.0)\n"
        "print(np.asarray(y).tolist())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], env=installed, cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[-0.0, -2.0, -4.0, -6.0, -8.0]"


def test_an_installed_wheel_has_the_command(installed: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from pygan.cli import main; sys.exit(main())"]
    run = subprocess.run(
        [*command, "doctor", "--json"], env=installed, cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert {device["name"]: device["works"] for device in report["devices"]}["numpy"]
