"""Settings of all executors that are bound inside a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

from pygan.errors import GraphError
from pygan.flags import flag
from pygan.lowering.storage import STORAGES
from pygan.reference.precision import PRECISIONS

COOPERATIVE_LIMIT = 7.0
"""Microseconds that a layer of a program may take, by default."""

STORAGE: ContextVar[str] = ContextVar("storage", default="float32")
PRECISION: ContextVar[str] = ContextVar("precision", default="float32")
LEAN: ContextVar[bool] = ContextVar("lean", default=False)
COOPERATIVE: ContextVar[bool] = ContextVar("cooperative", default=False)
LIMIT: ContextVar[float] = ContextVar("cooperative_limit", default=COOPERATIVE_LIMIT)

T = TypeVar("T")


def precision_scope(precision: str) -> AbstractContextManager[None]:
    """Executors bound inside without a `precision` of their own have this one."""
    if precision not in PRECISIONS:
        raise GraphError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    return _within((PRECISION, precision))


def storage_scope(storage: str) -> AbstractContextManager[None]:
    """Executors bound inside without a `storage` of their own have this one."""
    if storage not in STORAGES:
        raise GraphError(f"storage {storage!r} is not one of {', '.join(STORAGES)}")
    return _within((STORAGE, storage))


def lean_scope(lean: bool = True) -> AbstractContextManager[None]:
    """Executors bound inside without a `lean` of their own have this one."""
    return _within((LEAN, flag(lean, "lean")))


def cooperative_scope(
    cooperative: bool = True, limit: float = COOPERATIVE_LIMIT
) -> AbstractContextManager[None]:
    """Executors bound inside without a `cooperative` (a `cooperative_limit`) of their own have
    these."""
    cooperative = flag(cooperative, "cooperative")
    return _within((COOPERATIVE, cooperative), (LIMIT, checked_limit(limit)))


def checked_limit(limit: float) -> float:
    """`limit`. Raises GraphError for what is no time."""
    real = isinstance(limit, int | float | np.number) and not isinstance(limit, bool)
    if not real or not limit > 0:
        raise GraphError(
            f"cooperative_limit is {limit!r}; it is the microseconds that a layer of a program "
            f"may take, above 0 ({COOPERATIVE_LIMIT} unless given)"
        )
    return limit


def chosen(own: T | None, setting: ContextVar[T]) -> T:
    """An executor's own setting, or that of the scopes around."""
    return setting.get() if own is None else own


@contextmanager
def _within(*settings: tuple[ContextVar[Any], Any]) -> Iterator[None]:
    before = [(variable, variable.set(value)) for variable, value in settings]
    try:
        yield
    finally:
        for variable, token in before:
            variable.reset(token)
