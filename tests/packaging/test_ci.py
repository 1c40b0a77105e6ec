"""`.ci/run` on a machine that lacks things: it installs them, and nothing that is there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

GOALS = ["lint", "report", "test"]
"""Of make, in their order."""


@pytest.fixture
def machine(repository: Path, tmp_path: Path) -> Path:
    """A copy of the script beside a PATH folder in which apt-get and make only write down."""
    copy, commands = tmp_path / "clone", tmp_path / "bin"
    (copy / ".ci").mkdir(parents=True)
    shutil.copy(repository / ".ci" / "run", copy / ".ci" / "run")
    commands.mkdir()
    for name in ("bash", "dirname", "sh"):
        (commands / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    script(commands / "apt-get", f'echo apt-get "$@" "${{PYGAN_DATA:-}}" >> {tmp_path}/log')
    script(commands / "make", f'echo make "$@" "${{PYGAN_DATA:-}}" >> {tmp_path}/log')
    return tmp_path


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(machine: Path) -> tuple[int, list[str]]:
    environment = {"PATH": str(machine / "bin"), "HOME": os.environ.get("HOME", "/")}
    command = [str(machine / "bin" / "bash"), str(machine / "clone" / ".ci" / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, (machine / "log").read_text().splitlines()


def test_a_bare_machine_gets_python_and_a_compiler(machine: Path) -> None:
    code, log = run(machine)
    assert code == 0
    assert log[0].startswith("apt-get update")
    installed = log[1].split()
    for package in ("python3", "python3-venv", "python3-dev", "g++", "git"):
        assert package in installed
    assert "make" not in installed
    assert [line.split()[1] for line in log[2:]] == GOALS


def test_what_is_there_is_not_installed(machine: Path) -> None:
    for name in ("g++", "git", "python3"):
        script(machine / "bin" / name, "exit 0")
    code, log = run(machine)
    assert code == 0
    assert [line.split()[:2] for line in log] == [["make", goal] for goal in GOALS]


@pytest.mark.parametrize("failing", GOALS)
def test_a_failure_is_the_exit_code_and_tests_run_anyway(machine: Path, failing: str) -> None:
    for name in ("g++", "git", "python3"):
        script(machine / "bin" / name, "exit 0")
    body = f'echo make "$@" >> {machine}/log; test "$1" != {failing} || exit 3'
    script(machine / "bin" / "make", body)
    code, log = run(machine)
    assert code == 3
    assert [line.split()[1] for line in log] == GOALS
