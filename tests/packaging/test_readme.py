"""The README does what it says: its example runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pygan import reference
from pygan.bindings import signature

DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "kernels/README.md", "examples/README.md"),
    *("benchmarks/README.md", "benchmarks/records/PREDICTIONS.md"),
    *("benchmarks/records/kernels-cpu-xeon-2-cores.md", "bindings/cpu_driver/README.md"),
)


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
            place = (repository / name).parent
            assert (place / target).exists(), f"{name} links to {target}"


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


def kernel_rows(repository: Path) -> dict[str, str]:
    """File name -> the rest of its row, of both tables of kernels/README.md."""
    rows = re.findall(
        r"^\| \[([\w.]+)\]\(\1\) \| (.*)$", text(repository, "kernels/README.md"), re.M
    )
    assert len({name for name, _ in rows}) == len(rows), "a file has two rows"
    return dict(rows)


def test_the_list_of_kernels_is_complete(repository: Path) -> None:
    rows = kernel_rows(repository)
    files = {path.name: path for path in (repository / "kernels").glob("*.cu*")}
    assert rows.keys() == files.keys(), "kernels/README.md has a row for each file, and no other"
    for name, row in rows.items():
        listed = re.findall(r"`(\w+)`", row) if name.endswith(".cu") else []
        declared = signature.parse(files[name].read_text(encoding="utf-8"), {})
        assert sorted(listed) == sorted(declared), f"entry points of {name} in kernels/README.md"


def test_entry_points_stand_beside_the_module_of_their_twins(repository: Path) -> None:
    with_twin = 0
    for name, row in kernel_rows(repository).items():
        modules = re.findall(r"\(\.\./pygan/reference/(\w+)\.py\)", row)
        assert bool(modules) == name.endswith(".cu")
        for entry in re.findall(r"`(\w+)`", row) if modules else []:
            twin = getattr(reference, entry, None)
            if twin is not None:
                with_twin += 1
                assert twin.__module__.rpartition(".")[2] in modules, entry
    assert with_twin > 40


def test_the_kernel_of_the_reading_guide_runs(repository: Path) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```", text(repository, "kernels/README.md"), re.M | re.S
    )
    run = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "[0. 0. 0. 1. 2.] twin: [0. 0. 0. 1. 2.]" in run.stdout
