"""What of an executor's memory a `WorkingMemory` lends, and when that is its own."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    ValuesView,
)
from typing import Any

from pygan.errors import GraphError, StateError
from pygan.executor.lifetimes import Lifetime
from pygan.lowering import LoweredGraph
from pygan.named_arrays import NamedArrays
from pygan.working_memory import Area, WorkingMemory


class Lending:
    """The block that an executor was bound with as `working_memory`, for whole passes, or as
    `scratch_memory`, for what lives within one way of them; or none.

    lends: whether the executor's gradients lend the others there their memory.

    Raises GraphError for another type, for both at once, for `working_memory` with `keep_forward`,
    and for `lends` without `scratch_memory`.

    Attributes: `memory`, what lends, until `passing` has found nothing to lend, nor to be lent;
    `for_whole_passes`, whether it is `working_memory`; `lends`.
    """

    def __init__(
        self,
        working_memory: WorkingMemory | None,
        scratch_memory: WorkingMemory | None,
        keep_forward: bool,
        lends: bool = False,
    ) -> None:
        lent = {"working_memory": working_memory, "scratch_memory": scratch_memory}
        for name, memory in lent.items():
            if not isinstance(memory, WorkingMemory | None):
                raise GraphError(f"{name}= takes a WorkingMemory, not a {type(memory).__name__}")
        if None not in lent.values():
            raise GraphError(
                "working_memory holds what scratch_memory would: bind with one of them"
            )
        if keep_forward and working_memory is not None:
            raise GraphError(
                "keep_forward keeps what working_memory gives to the next executor: bind with one "
                "of the two"
            )
        if lends and scratch_memory is None:
            raise GraphError(
                "lend_gradients=True lends to the executors of scratch_memory: bind with both"
            )
        self.lends = lends
        self.memory = scratch_memory if working_memory is None else working_memory
        self.for_whole_passes = working_memory is not None
        self._in_forward = self._in_backward = True  # which ways of a pass write there

    def passing(self, graph: LoweredGraph, lives: Iterable[Lifetime]) -> list[Lifetime]:
        """Those that lie in the block: what lives within a pass, or within one way of it. Where
        that is nothing, the block is none of this executor's business from now on."""
        if self.memory is None:
            return []
        n, forever = len(graph.steps), graph.forever
        if self.for_whole_passes:
            # `head_gradients` are the caller's to hold, and to bind others with: no block moves
            # them.
            held = {head.landing.root for head in graph.heads if head.landing is not None}
            passing = [life for life in lives if life.end < forever and life.array not in held]
        else:
            in_forward = [life for life in lives if life.end < n]
            in_backward = [life for life in lives if n < life.start <= life.end < forever]
            passing = in_forward + in_backward
            self._in_forward = bool(in_forward)
            self._in_backward = bool(in_backward) or self.lends
        if not passing and not self.lends:
            self.memory = None
        return passing

    @property
    def areas(self) -> Sequence[Area]:
        """What was lent beside the block by those bound before."""
        return self._lender().areas

    def lend(self, executor: Any, what: str, areas: Sequence[Area]) -> None:
        """Lends memory of the executor's gradients, as `WorkingMemory.lend` takes it."""
        self._lender().lend(executor, what, areas)

    def grown(self, nbytes: int) -> int:
        """Bytes that a block of `nbytes` has more than what has been lent to others."""
        return max(0, nbytes - self._lender().nbytes)

    def block(self, executor: Any, nbytes: int, what: str, arena: Callable[[int], Any]) -> Any:
        """The block, as `WorkingMemory.block` gives it."""
        return self._lender().block(executor, nbytes, what, arena)

    def _lender(self) -> WorkingMemory:
        assert self.memory is not None, "nothing is lent"
        return self.memory

    def begin_forward(self, executor: Any) -> None:
        """To be called before a forward writes."""
        if self.memory is not None:
            self.memory.take(executor, writes=self._in_forward)

    def require_forward(self, executor: Any) -> None:
        """Raises StateError where another executor has written over what a forward has left."""
        if self.memory is None or not self.for_whole_passes or self.memory.holds(executor):
            return
        raise StateError(
            "another executor with the same working_memory has run since the last forward, and "
            "written over what backward needs; run each backward before the next forward"
        )

    def begin_backward(self, executor: Any) -> None:
        """To be called before a backward writes."""
        if self.memory is not None and not self.for_whole_passes:
            self.memory.take(executor, writes=self._in_backward)


def require_kept(lost: Collection[str], names: Collection[str] | None = None) -> None:
    """Raises StateError for parameters (None: all) whose gradients were lent, and are `lost`."""
    found = sorted(lost if names is None else set(names).intersection(lost))
    if found:
        raise StateError(
            f"the gradients of {len(found)} parameters, {found[0]!r} among them, lie in memory "
            "that was lent to executors that have run since; read and update right after the "
            "backward that writes all of them, or bind with lend_gradients=False"
        )


class LentArrays(NamedArrays):
    """Gradients by name, StateError for those that others have written over: `lost`, a set that
    grows and shrinks."""

    def __init__(self, name: str, arrays: Mapping[str, Any], lost: Collection[str]) -> None:
        super().__init__(name, arrays)
        self._lost = lost

    def __getitem__(self, key: str) -> Any:
        require_kept(self._lost, [key])
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:  # its own: dict(self) copies a plain one's items unasked
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        require_kept(self._lost, [key])
        return super().get(key, default)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        require_kept(self._lost)
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        require_kept(self._lost)
        return super().items()

    def copy(self) -> dict[str, Any]:
        return dict(self.items())
