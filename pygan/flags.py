"""Options that are on or off: any text, "no" too, would count as on."""

from __future__ import annotations

from typing import Any

import numpy as np

from pygan.errors import GraphError


def flag(value: Any, name: str, error: type[Exception] = GraphError) -> bool:
    """`value` as a bool. Raises `error` for what is neither a bool nor a numpy one."""
    if not isinstance(value, bool | np.bool_):
        raise error(f"{name} must be True or False, not {value!r}")
    return bool(value)
