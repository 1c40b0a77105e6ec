"""The context on which arrays and launches are tested: `cpu`, or `cuda` where
PYGAN_TEST_DEVICES=cuda asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pygan.bindings.context import Context


@pytest.fixture(scope="session")
def context() -> Context:
    return Context.get("cuda" if os.environ.get("PYGAN_TEST_DEVICES") == "cuda" else "cpu")


@pytest.fixture(scope="session")
def kernel_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a .cu file and returns its path; the same text gives the same path."""
    folder = tmp_path_factory.mktemp("kernels")
    known: dict[str, Path] = {}

    def write(source: str) -> Path:
        if source not in known:
            known[source] = folder / f"k{len(known)}.cu"
            known[source].write_text(source)
        return known[source]

    return write


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script in a fresh interpreter, for what can happen once per process."""

    def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, **environment},
            check=False,
        )

    return run
