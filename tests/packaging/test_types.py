"""`make types`: benchmarks and every package are checked, these by the names they install as."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

needs_mypy = pytest.mark.skipif(
    shutil.which("make") is None or importlib.util.find_spec("mypy") is None,
    reason="make or mypy is not installed (make lint installs mypy)",
)


def packages(repository: Path) -> dict[str, str]:
    """The folder of each package, as setup.py has it."""
    tree = ast.parse((repository / "setup.py").read_text(encoding="utf-8"))
    (folders,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGE_DIR"
    )
    return ast.literal_eval(folders)


@pytest.fixture
def tree(repository: Path, tmp_path: Path) -> Path:
    """A tree of the repository's layout and settings, with a package `inner` in each of its own,
    and an environment in which everything is installed already."""
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(repository / name, tmp_path / name)
    for folder in packages(repository).values():
        for place in (tmp_path / folder, tmp_path / folder / "inner"):
            place.mkdir()
            (place / "__init__.py").touch()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "script.py").write_text("import beside\n")
    (tmp_path / "benchmarks" / "beside.py").touch()
    mypy = tmp_path / ".venv" / "bin" / "mypy"
    mypy.parent.mkdir(parents=True)
    mypy.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mypy "$@"\n')
    mypy.chmod(0o755)
    for stamp in (".python", ".base", ".lint"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def make_types(folder: Path) -> subprocess.CompletedProcess[str]:
    inherited = ("MAKE", "MFLAGS", "MYPY")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(inherited)}
    return subprocess.run(
        ["make", "types"], cwd=folder, env=environment, capture_output=True, text=True
    )


@needs_mypy
def test_an_error_is_found_in_every_package(repository: Path, tree: Path) -> None:
    folders = packages(repository).values()
    for folder in folders:
        for place in (tree / folder, tree / folder / "inner"):
            (place / "planted.py").write_text('number: int = "a text"\n')
    (tree / "pygan" / "across.py").write_text(
        "from pygan.kernels.inner.planted import number\n\ntext: str = number\n"
    )
    (tree / "bindings" / "untyped.py").write_text("def untyped(x):\n    return x\n")
    (tree / "benchmarks" / "beside.py").write_text('number: int = "a text"\n')
    run = make_types(tree)
    assert run.returncode != 0
    said = run.stdout + run.stderr
    for folder in folders:
        for file in (f"{folder}/planted.py", f"{folder}/inner/planted.py"):
            assert re.search(rf"^{file}:1: error: Incompatible types", said, re.M), said
    assert re.search(r"^pygan/across\.py:3: error: Incompatible types", said, re.M), said
    assert re.search(r"^bindings/untyped\.py:1: error: .*\[no-untyped-def\]", said, re.M), said
    assert f"Found {2 * len(folders) + 2} errors" in said
    assert re.search(r"^benchmarks/beside\.py:1: error: Incompatible types", said, re.M), said
    assert "Found 1 error in 1 file (checked 2 source files)" in said


@needs_mypy
def test_nothing_is_found_where_nothing_is_wrong(repository: Path, tree: Path) -> None:
    for folder in packages(repository).values():
        (tree / folder / "inner" / "right.py").write_text("number: int = 1\n")
    run = make_types(tree)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"no issues found in {3 * len(packages(repository))} source files" in run.stdout


def test_type_checkers_know_the_modules_of_pygan(repository: Path) -> None:
    """Those that `pygan.__getattr__` imports when they are asked for."""
    import pygan

    tree = ast.parse((repository / "pygan" / "__init__.py").read_text(encoding="utf-8"))
    told = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "pygan"
        for alias in node.names
    }
    assert told == set(pygan.__all__) - {"__version__"}
