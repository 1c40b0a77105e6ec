"""The benchmark scripts run, check what they time, and write what they measured."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pygan.reference


@pytest.fixture
def run_script(repository: Path, context):
    # Small sizes gain nothing from threads, and threads that wait for each other on a busy
    # machine cost minutes.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYGAN_DATA", None)

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(repository / "benchmarks" / name), *arguments],
            capture_output=True,
            text=True,
            timeout=900,
            env=environment,
            check=False,
        )

    return run


def test_every_function_is_timed_and_right(run_script, tmp_path: Path, context) -> None:
    out = tmp_path / "kernels.json"
    done = run_script(
        "kernels.py", "--quick", "--devices", "numpy", context.name, "--json", str(out)
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["wrong"] == []
    names = {name for name, _ in inspect.getmembers(pygan.reference, inspect.isfunction)}
    families = ("forward", "backward", "_update", "random_", "gather_", "_cursor", "fill", "axpy")
    functions = {name for name in names if any(family in name for family in families)}
    assert {row["function"] for row in record["kernels"]} >= functions
    for row in record["kernels"]:
        for name in ("numpy", context.name):
            figure = row["devices"][name]
            assert 0 < figure["seconds"]["low"] <= figure["seconds"]["median"]
            assert 0 <= figure["share_of_tolerance"] <= 1
    assert {"processor", "cores", "versions", "commit", "command"} <= record["machine"].keys()
    assert "| batch_norm_backward" in done.stdout


def test_a_wrong_kernel_is_reported(repository: Path, monkeypatch, context, capsys) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import kernels

    monkeypatch.setattr(pygan.device.get(context.name).ops, "fill", lambda y, value: None)
    arguments = ["--quick", "--devices", context.name, "--only", "fill"]
    assert kernels.main(arguments) == 1
    assert "differs from its twin" in capsys.readouterr().err


def test_a_training_step_is_timed_on_every_device(run_script, tmp_path: Path, context) -> None:
    out = tmp_path / "step.json"
    pytest.importorskip("cuda.bindings", reason="--graph needs cuda-bindings")
    done = run_script(
        *("step.py", "--quick", "--graph", "--devices", "numpy", context.name),
        *("--json", str(out)),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert set(record["devices"]) == {"numpy", context.name, f"{context.name} graph"}
    for figure in record["devices"].values():
        assert figure["seconds"]["median"] > 0
        assert figure["images_per_second"] > 0
