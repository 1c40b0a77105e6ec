"""Where a GPU answers: arrays, launches, graphs and benchmarks a second time, on device `cuda`.

In a process of its own, because one process holds one CUDA driver and this one may hold the CPU's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pygan.bindings import probe


@pytest.mark.skipif(
    os.environ.get("PYGAN_TEST_DEVICES") == "cuda", reason="this run is already on the GPU"
)
def test_bindings_on_the_gpu() -> None:
    driver = probe.nvidia_driver()
    if not driver.works:
        pytest.skip(f"no GPU: {driver.error or 'no NVIDIA driver'}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(Path(__file__).parent)]
    environment = os.environ | {"PYGAN_TEST_DEVICES": "cuda"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
