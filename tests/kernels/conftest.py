"""The devices on which every kernel test runs.

``PYGAN_TEST_DEVICES`` is a comma-separated choice of ``cpu`` (the CPU driver), ``cpu-check`` (the
CPU driver in check mode) and ``cuda``; the default is ``cpu,cpu-check``. One process holds one CUDA
driver, so ``cuda`` cannot be combined with the others: test_on_gpu.py runs this folder a second
time on ``cuda`` where a GPU answers.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

import pygan.device

KNOWN = ("cpu", "cpu-check", "cuda")


def chosen_devices() -> list[str]:
    names = os.environ.get("PYGAN_TEST_DEVICES", "cpu,cpu-check").split(",")
    names = [name.strip() for name in names]
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise pytest.UsageError(f"PYGAN_TEST_DEVICES names {unknown}; known are {', '.join(KNOWN)}")
    if "cuda" in names and len(names) > 1:
        raise pytest.UsageError("PYGAN_TEST_DEVICES=cuda stands alone: one driver per process")
    return names


@pytest.fixture(scope="session", params=chosen_devices())
def device(request: pytest.FixtureRequest) -> Any:
    name, _, mode = request.param.partition("-")
    return pygan.device.get(name, check=mode == "check")
