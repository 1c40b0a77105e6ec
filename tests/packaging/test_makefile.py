"""What the Makefile tells a newcomer whose machine lacks something."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    shutil.copy(repository / "Makefile", tmp_path / "Makefile")
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(repository / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # What an outer make hands down would change what this one prints and which variables it has.
    inherited = ("MAKE", "MFLAGS", "DATA", "EPOCHS", "OUT", "DEVICE", "PYTEST_ARGS", "PYGAN_DATA")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(inherited)}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def fake_python(folder: Path, body: str) -> str:
    path = folder / "fakepython"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_every_target_is_listed(copy: Path) -> None:
    run = make(copy)
    assert run.returncode == 0
    declared = re.search(r"^\.PHONY: (.*)$", (copy / "Makefile").read_text(), re.M)
    assert declared
    for target in declared.group(1).split():
        assert re.search(rf"^  make {target}\b", run.stdout, re.M), target


def test_no_python(copy: Path) -> None:
    run = make(copy, "test", "PYTHON=python-that-is-absent")
    assert run.returncode != 0
    assert "python-that-is-absent is not on PATH" in run.stdout + run.stderr
    assert "apt-get install python3" in run.stdout + run.stderr


def test_old_python(copy: Path) -> None:
    old = fake_python(copy, 'case "$1" in --version) echo Python 3.8.1;; *) exit 1;; esac')
    run = make(copy, "train", f"PYTHON={old}")
    assert run.returncode != 0
    assert "is Python 3.8.1; Python 3.10 or newer is needed" in run.stdout + run.stderr


def test_python_without_venv(copy: Path) -> None:
    bare = fake_python(copy, 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    run = make(copy, "train", f"PYTHON={bare}")
    assert run.returncode != 0
    assert "apt-get install python3-venv" in run.stdout + run.stderr


def test_train_passes_its_variables_on(copy: Path) -> None:
    arguments = ("EPOCHS=3", "DATA=a folder", "OUT=runs/y", "DEVICE=numpy", "TRAIN_ARGS=--seed 7")
    run = make(copy, "--dry-run", "train", *arguments)
    assert run.returncode == 0, run.stderr
    line = run.stdout.strip().splitlines()[-1]
    assert '--data "a folder"' in line
    assert "--epochs 3" in line and '--out "runs/y"' in line
    assert "--device numpy" in line and line.endswith("--seed 7")
