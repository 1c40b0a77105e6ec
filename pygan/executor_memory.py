"""What an executor takes of its device's memory: blocks, the arrays in them, and the sum of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pygan.lifetimes import Lifetime
from pygan.operators import Array
from pygan.planner import Request, aligned, plan


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of an executor on its device.

    arrays is what inputs, activations, their gradients and the workspaces of kernels take as
    planned, unplanned what they would take without sharing; shared executors count no parameters of
    their own, and of a `WorkingMemory` only the first executor counts the block. workspace is a
    bf16 copy of the parameters, where convolutions read one. kept is working
    memory outside of the executor, not in the total: what device numpy's functions keep from call
    to call, for all executors together, when this was asked.
    """

    parameters: int
    gradients: int
    auxiliary: int
    arrays: int
    workspace: int
    unplanned: int
    kept: int = field(default=0, compare=False)

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.auxiliary + self.arrays + self.workspace

    def __str__(self) -> str:
        parts = ("parameters", "gradients", "auxiliary", "arrays", "workspace")
        listed = ", ".join(f"{part} {getattr(self, part):,}" for part in parts)
        text = f"{self.total:,} bytes ({listed}; arrays without sharing {self.unplanned:,})"
        return text + (f" and {self.kept:,} kept for all executors" if self.kept else "")


class Block:
    """Memory made at once: arrays that take turns in it, and behind them stretches of their own.

    First it is planned (`nbytes` grows with every `reserve`); when `arena` is set, of that size or
    more, arrays and stretches can be had.
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
        return self.block.arena.view(self.offset, (self.size,), self.dtype)


class Flat:
    """Arrays one after the other in a flat buffer of `size` elements, each at a multiple of 256
    bytes: places, in elements."""

    def __init__(self, arrays: list[Array], dtype: str) -> None:
        self.arrays = arrays
        self.places: list[int] = []
        self.size = 0
        for array in arrays:
            self.places.append(self.size)
            self.size += aligned(array.nbytes) // np.dtype(dtype).itemsize

    def within(self, buffer: Any) -> dict[Array, Any]:
        """Each array as a view of `buffer`."""
        return {
            array: buffer[place : place + array.size].reshape(array.shape)
            for array, place in zip(self.arrays, self.places, strict=True)
        }
