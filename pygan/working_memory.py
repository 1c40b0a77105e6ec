"""Memory that several executors work in by turns."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pygan.errors import GraphError


@dataclass(frozen=True)
class Area:
    """A part of an executor's memory that it lends: `nbytes` of an arena from `offset` on, both
    multiples of 256."""

    arena: Any
    offset: int
    nbytes: int


class Borrower(Protocol):
    """What works in the block: an executor."""

    device: Any

    def move(self, arena: Any) -> None:
        """Takes another block, before the first pass."""

    def lose_gradients(self) -> None:
        """Others write over the gradients that it has lent."""


class WorkingMemory:
    """What lives only within a pass (forward and its backward), for executors that take turns.

    A GAN's three passes through D need their activations one after the other, never at once:
    bound with the same `WorkingMemory`, the three executors lie in one block of memory. Inputs,
    their gradients, outputs, `head_gradients` and parameters stay where they are, and are valid
    whenever (in `head_gradients`, until the backward that reads them).

    The block is as large as the executor that needs most of it. An executor that needs more than
    those bound before makes it anew, which moves them; once one of them has run, it is refused, as
    recordings may hold the old block. A backward whose forward another executor has since written
    over raises StateError.

    An executor whose forward and backward have such passes between them can lend it for what lives
    within one of the two: `bind(..., scratch_memory=)`. Its gradients, which it needs from its
    backward to its optimizer's update, can lend their memory to the executors that are bound after
    it: `bind(..., lend_gradients=True)`.

    Attributes: `nbytes`, the size of the block (0 before the first executor); `areas`, what was
    lent beside it.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self.areas: list[Area] = []
        self._arena: Any = None
        self._device: Any = None
        self._has_run = False
        # Weak: executors hold this, and their memory shall go with the last of them at once.
        self._executors: list[weakref.ref[Borrower]] = []
        self._lenders: list[weakref.ref[Borrower]] = []
        self._holder: weakref.ref[Borrower] | None = None

    def __repr__(self) -> str:
        return f"WorkingMemory({self.nbytes:,} bytes)"

    def block(self, executor: Borrower, nbytes: int, what: str, arena: Callable[[int], Any]) -> Any:
        """The block, for an executor that needs `nbytes` of it; arena makes one of so many bytes,
        and `what` names the executor in errors."""
        self._stay_on(executor.device, what)
        if self._arena is None or nbytes > self.nbytes:
            if self._has_run:
                raise GraphError(
                    f"{what} needs {nbytes:,} bytes of working memory, and the executors that were "
                    f"bound with it and have run since have {self.nbytes:,}; bind all of them "
                    "before the first pass, or the largest first"
                )
            self._arena, self.nbytes = arena(nbytes), nbytes
            for other in self._executors:
                if (bound := other()) is not None:
                    bound.move(self._arena)
        self._executors.append(weakref.ref(executor))
        return self._arena

    def _stay_on(self, device: Any, what: str) -> None:
        """All memory here is of one device, the first executor's."""
        if self._device not in (None, device):
            raise GraphError(
                f"{what} is on device {device.name!r}, its working memory on {self._device.name!r}"
            )
        self._device = device

    def lend(self, executor: Borrower, what: str, areas: Sequence[Area]) -> None:
        """Lends memory of `executor`, which writes there in its backward, to those bound later."""
        self._stay_on(executor.device, what)
        self.areas += areas
        self._lenders.append(weakref.ref(executor))

    def take(self, executor: Borrower, writes: bool = True) -> None:
        """A pass of `executor` runs, and if it writes here, over what the one before has left."""
        self._has_run = True
        if not writes:
            return
        self._holder = weakref.ref(executor)
        for lender in self._lenders:
            if (bound := lender()) is not None and bound is not executor:
                bound.lose_gradients()

    def holds(self, executor: Borrower) -> bool:
        """Whether the last forward here was this executor's."""
        return self._holder is not None and self._holder() is executor
