"""What `Executor` takes by keyword, for the functions that hand it on to one: `pygan.symbol.bind`
and `Symbol.bind`. For type checkers; a test holds it to `Executor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from pygan.executor.executor import Executor
    from pygan.working_memory import WorkingMemory


class ExecutorOptions(TypedDict, total=False):
    """See `pygan.executor.Executor`."""

    shared: Executor | None
    inputs: Mapping[str, Any] | None
    input_gradients: Mapping[str, Any] | None
    output_gradients: Mapping[str, Any] | None
    working_memory: WorkingMemory | None
    scratch_memory: WorkingMemory | None
    lend_gradients: bool
    fuse: bool
    lean: bool | None
    keep_forward: bool
    branches: bool
    dtype: str
    precision: str | None
    storage: str | None
    cooperative: bool | None
    cooperative_limit: float | None
