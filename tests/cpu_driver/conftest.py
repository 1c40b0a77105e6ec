"""A current context on the CPU driver, for tests that speak to PyCUDA directly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pygan.bindings import cpu_driver


@pytest.fixture
def drv() -> Iterator[Any]:
    """pycuda.driver with a context of the CPU driver current."""
    pytest.importorskip("pycuda")
    try:
        cpu_driver.activate()
    except cpu_driver.DriverError as error:
        pytest.skip(str(error))
    import pycuda.driver

    pycuda.driver.init()
    context = pycuda.driver.Device(0).retain_primary_context()
    context.push()
    yield pycuda.driver
    context.pop()
