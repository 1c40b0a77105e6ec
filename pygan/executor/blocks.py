"""Memory that is made at once, and the arrays in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pygan.executor.lifetimes import Lifetime
from pygan.executor.planner import Request, aligned, plan
from pygan.operators import Array


class Block:
    """Memory made at once: arrays that take turns in it, and behind them stretches of their own.

    First it is planned (`nbytes` grows with every `reserve`); when `arena` is set, of that size or
    more, arrays and stretches can be had.

    Attributes, in bytes: `planned`, what the arrays take; `unplanned`, what they would take without
    turns; `nbytes`, `planned` and the stretches.
    """

    def __init__(self, lives: Iterable[Lifetime]) -> None:
        self.lives = list(lives)
        requests = [Request(life.array.nbytes, life.start, life.end) for life in self.lives]
        self._planned = plan(requests)
        self.planned = self.nbytes = self._planned.nbytes
        self.unplanned = sum(aligned(request.nbytes) for request in requests)
        self.arena: Any = None

    def reserve(self, size: int, dtype: str) -> Stretch:
        stretch = Stretch(self, self.nbytes, size, dtype)
        self.nbytes += stretch.nbytes
        return stretch

    def arrays(self) -> dict[Array, Any]:
        """Each array of the plan, in its place."""
        return {
            life.array: self.arena.view(offset, life.array.shape, life.array.dtype)
            for life, offset in zip(self.lives, self._planned.offsets, strict=True)
        }


@dataclass(frozen=True)
class Stretch:
    """`size` elements of a block, from a byte offset on, that nothing else lies in."""

    block: Block
    offset: int
    size: int
    dtype: str

    @property
    def nbytes(self) -> int:
        return aligned(self.size * np.dtype(self.dtype).itemsize)

    def array(self) -> Any:
        """The elements (size,), once the block is made."""
        return self.block.arena.view(self.offset, (self.size,), self.dtype)
