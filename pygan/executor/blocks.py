"""Memory that is made at once, and the arrays in it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from pygan.executor.lifetimes import Lifetime
from pygan.executor.planner import Placed, Request, aligned, plan
from pygan.operators import Array
from pygan.working_memory import Area


class Block:
    """Memory made at once: arrays that take turns in it, and behind them stretches of their own.

    First it is planned (`nbytes` grows with every `reserve`); when `arena` is set, of that size or
    more, arrays and stretches can be had. among, areas: another block, between whose arrays some of
    these find room before they take any here, and then in the areas.

    Attributes: `lives`, with `requests` and `offsets` in their order. In bytes: `planned`, what the
    arrays take here; `unplanned`, what they would take without turns; `nbytes`, `planned` and the
    stretches.
    """

    def __init__(
        self,
        lives: Iterable[Lifetime],
        among: Block | None = None,
        areas: Sequence[Area] = (),
    ) -> None:
        self.lives = list(lives)
        self.requests = [Request(life.array.nbytes, life.start, life.end) for life in self.lives]
        # Offsets go through the other block, then the areas, and behind the last wall through here.
        self._among, self._areas = among, tuple(areas)  # more may be lent to others later
        sizes = [area.nbytes for area in areas]
        placed: list[Placed] = []
        if among is not None:
            sizes.insert(0, among.planned)
            placed = list(zip(among.offsets, among.requests, strict=True))
        self._walls = list(accumulate(sizes, initial=0))
        found = plan(self.requests, self._walls, placed)
        self.offsets: tuple[int, ...] = found.offsets
        self.planned: int = max(0, found.nbytes - self._walls[-1])
        self.nbytes = self.planned
        self.unplanned = sum(aligned(request.nbytes) for request in self.requests)
        self.arena: Any = None

    def reserve(self, size: int, dtype: str) -> Stretch:
        stretch = Stretch(self, self.nbytes, size, dtype)
        self.nbytes += stretch.nbytes
        return stretch

    def arrays(self) -> dict[Array, Any]:
        """Each array of the plan, in its place."""
        return {
            life.array: self._view(offset, life.array)
            for life, offset in zip(self.lives, self.offsets, strict=True)
        }

    def _view(self, offset: int, array: Array) -> Any:
        pieces = [(area.arena, area.offset) for area in self._areas]
        if self._among is not None:
            pieces.insert(0, (self._among.arena, 0))
        pieces.append((self.arena, 0))
        # An array of no bytes may lie at a wall: in the piece behind it, as every other that does.
        piece = bisect_right(self._walls, offset) - 1
        arena, start = pieces[piece]
        return arena.view(start + offset - self._walls[piece], array.shape, array.dtype)


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
