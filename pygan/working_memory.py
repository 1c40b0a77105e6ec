"""Memory that several executors work in by turns."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from .errors import GraphError

if TYPE_CHECKING:
    from .executor import Executor


class WorkingMemory:
    """What lives only within a pass (forward and its backward), for executors that take turns.

    A GAN's three passes through D need their activations one after the other, never at once:
    bound with the same `WorkingMemory`, the three executors lie in one block of memory. Inputs,
    their gradients, outputs and parameters stay where they are, and are valid whenever.

    The first executor bound makes the block as large as it needs it; one that needs more is
    refused, so bind the largest first. A backward whose forward another executor has since
    written over raises StateError.

    Attributes: `nbytes`, the size of the block (0 before the first executor).
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._arena: Any = None
        self._device: Any = None
        # Weak: executors hold this, and their memory shall go with the last of them at once.
        self._holder: weakref.ref[Executor] | None = None

    def __repr__(self) -> str:
        return f"WorkingMemory({self.nbytes:,} bytes)"

    @property
    def is_made(self) -> bool:
        return self._arena is not None

    def make(self, device: Any, arena: Any, nbytes: int) -> None:
        """Takes `arena`, of `nbytes` on `device`, as the block."""
        self._device, self._arena, self.nbytes = device, arena, nbytes

    def block(self, device: Any, nbytes: int, what: str) -> Any:
        """The block, for an executor of `device` that needs `nbytes`; `what` names it in errors."""
        if device is not self._device:
            raise GraphError(
                f"{what} is on device {device.name!r}, its working memory on {self._device.name!r}"
            )
        if nbytes > self.nbytes:
            raise GraphError(
                f"{what} needs {nbytes:,} bytes of working memory, and the executor that was bound "
                f"with it first took {self.nbytes:,}; bind the largest first"
            )
        return self._arena

    def take(self, executor: Executor) -> None:
        """A forward of `executor` writes over what the one before has left."""
        self._holder = weakref.ref(executor)

    def holds(self, executor: Executor) -> bool:
        """Whether the last forward here was this executor's."""
        return self._holder is not None and self._holder() is executor
