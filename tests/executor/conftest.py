"""The devices on which graphs are tested.

``PYGAN_TEST_DEVICES`` (comma-separated: cpu, cpu-check, cuda; default cpu) as for the kernels, with
numpy always before them. One process holds one CUDA driver, so cuda stands alone.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

import pygan.device


def chosen_devices() -> list[str]:
    names = os.environ.get("PYGAN_TEST_DEVICES", "cpu").split(",")
    return ["numpy", *(name.strip() for name in names if name.strip() != "numpy")]


@pytest.fixture(scope="session", params=chosen_devices())
def device(request: pytest.FixtureRequest) -> Any:
    name, _, mode = request.param.partition("-")
    return pygan.device.get(name, check=mode == "check")


@pytest.fixture(scope="session")
def numpy_device() -> Any:
    return pygan.device.get("numpy")
