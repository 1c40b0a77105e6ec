"""The README does what it says: its example runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def text(repository: Path, name: str = "README.md") -> str:
    return (repository / name).read_text(encoding="utf-8")


def test_the_example_runs(repository: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", text(repository), re.M | re.S)
    assert len(example.splitlines()) < 35
    script = tmp_path / "example.py"
    script.write_text(example)
    run = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("numpy")
    loss = re.search(r"^generator's loss ([\d.]+)$", run.stdout, re.M)
    assert loss, run.stdout
    # log 2 is the loss of a discriminator that cannot tell; after 20 steps it is near that.
    assert 0.2 < float(loss.group(1)) < 3


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(repository: Path, name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text(repository, name)):
        if not target.startswith("http"):
            assert (repository / target).exists(), f"{name} links to {target}"


def test_folders_of_the_table_exist(repository: Path) -> None:
    folders = re.findall(r"^\| `([\w/]+/)` \|", text(repository), re.M)
    assert len(folders) > 5
    for folder in folders:
        assert (repository / folder).is_dir(), folder


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(repository: Path, name: str) -> None:
    declared = re.search(r"^\.PHONY: (.*)$", text(repository, "Makefile"), re.M)
    assert declared
    used = re.findall(r"(?:^ {4}|`|DIR |cuda )make ([a-z-]+)", text(repository, name), re.M)
    assert used
    assert set(used) <= set(declared.group(1).split())


@pytest.mark.parametrize("command", ["train lesson", "sample", "interpolate", "doctor"])
def test_commands_and_options_exist(repository: Path, command: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pygan", *command.split(), "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for line in re.findall(rf"pygan {command} (.*)", text(repository)):
        for option in re.findall(r"--[a-z]+", line):
            assert option in run.stdout, f"pygan {command} has no {option}"
