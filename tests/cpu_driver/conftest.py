"""A current context on the CPU driver, for tests that speak to PyCUDA directly."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def drv() -> Any:
    """pycuda.driver with the process's context on the CPU driver current.

    The context is pygan's own, which stays current in the main thread until the process ends: two
    owners that push and pop would leave each other's behind.
    """
    pytest.importorskip("pycuda")
    from pygan.bindings.context import Context
    from pygan.bindings.errors import DeviceUnavailable

    try:
        return Context.get("cpu").cuda
    except DeviceUnavailable as error:
        pytest.skip(str(error))
