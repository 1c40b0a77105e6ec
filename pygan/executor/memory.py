"""The memory of an executor: planned, made, and each array of its graph in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pygan.errors import OutOfDeviceMemory
from pygan.executor.blocks import Block, Stretch
from pygan.executor.flat_buffers import FlatBuffers
from pygan.executor.lending import Lending
from pygan.executor.lifetimes import Lifetime, lifetimes
from pygan.executor.memory_use import MemoryUse
from pygan.executor.planner import aligned
from pygan.lowering import LoweredGraph
from pygan.operators import Array, Call


class Memory:
    """Plans the memory of a graph's arrays; `make` makes it.

    adopted: arrays that lie in memory of the caller's, with it. shared: flat buffers of another
    executor to use instead of own ones. lending: what lives within a pass may lie in its block.
    workspace: the scratch memory that a call wants.

    Attributes: `arrays`, memory by symbolic array; `buffers`; `copies`, the bf16 copy of
    `buffers.parameters` (n,), where convolutions read one, else None; `rooms`, the arrays of calls'
    workspaces, and `in_place`, the arrays that take over the memory of another, with it
    (pygan.executor.lifetimes); `use`, in bytes.
    """

    def __init__(
        self,
        graph: LoweredGraph,
        device: Any,
        dtype: str,
        input_names: Sequence[str],
        adopted: dict[Array, Any],
        shared: FlatBuffers | None,
        lending: Lending,
        keep_forward: bool,
        workspace: Callable[[Call], Array | None],
    ) -> None:
        self._graph, self._device, self._dtype = graph, device, dtype
        self._lending = lending
        self.arrays: dict[Array, Any] = dict(adopted)
        self.copies: Any = None
        self.buffers = FlatBuffers(graph, input_names, dtype)
        if shared is not None:
            self.buffers.share(shared)
        self._inputs = self._inputs_of_its_own(input_names)
        persistent = self.buffers.symbols() | {*self._inputs, *self.arrays, *graph.copies}
        lives, self.in_place, self.rooms = lifetimes(graph, persistent, keep_forward, workspace)
        lives = [Lifetime(array, -1, graph.forever) for array in self._inputs] + lives
        passing = set(lending.passing(graph, lives))
        self._own = Block(life for life in lives if life not in passing)
        self._lent: Block | None = None
        if passing:
            lent = (life for life in lives if life in passing)
            self._lent = Block(lent, self._own, lending.areas)
        self._copied_to = self._reserve_copies()
        self.use = self._used(self.buffers.reserve(self._own))

    def _inputs_of_its_own(self, input_names: Sequence[str]) -> list[Array]:
        """Inputs, their gradients and the random state, but for those that lie in arrays of the
        caller's."""
        arguments, gradients = self._graph.arguments, self._graph.argument_gradients
        arrays = [arguments[name] for name in input_names]
        arrays += [array for name, array in gradients.items() if name in input_names]
        arrays.append(self._graph.random_state)
        return [array for array in arrays if array not in self.arrays]

    def _reserve_copies(self) -> Stretch | None:
        """Room for the bf16 copy of the flat buffer of parameters, where a call reads of it: as
        long as a pass lasts."""
        if not self._graph.copies:
            return None
        dtype = next(iter(self._graph.copies)).dtype
        block = self._own
        if self._lent is not None and self._lending.for_whole_passes:
            block = self._lent
        return block.reserve(self.buffers.size_of_parameters, dtype)

    def _used(self, flat: tuple[int, int, int]) -> MemoryUse:
        """What this executor will take, of a lent block what it adds to it; flat: bytes of its own
        flat buffers."""
        copied = 0 if self._copied_to is None else self._copied_to.nbytes
        arrays, unplanned = self._own.planned, self._own.unplanned
        unplanned += sum(aligned(array.nbytes) for array in self.in_place)
        if self._lent is not None:
            copies_lent = self._lent.nbytes - self._lent.planned  # all of them, or none
            grown = self._lending.grown(self._lent.nbytes)
            copies_grown = min(grown, copies_lent)
            copied += copies_grown - copies_lent
            arrays += grown - copies_grown
            unplanned += self._lent.unplanned
        return MemoryUse(*flat, arrays, copied, unplanned)

    def make(self, executor: Any, name: str, inputs: str) -> None:
        """Makes the memory for `executor`, which others with its `WorkingMemory` may `move` from
        now on. name, inputs: the graph and its shapes, for errors.

        Raises OutOfDeviceMemory where the device has less than it takes."""

        def arena(nbytes: int) -> Any:
            return self._arena(nbytes, f"binding {name} for {inputs} needs {self.use}")

        # The lent block last: from then on, others may move it.
        self._own.arena = arena(self._own.nbytes)
        if self._lent is not None:
            self._lent.arena = self._lending.block(executor, self._lent.nbytes, name, arena)
        self.buffers.make()
        if self._lending.lends:
            self._lending.lend(executor, name, self.buffers.areas_of_gradients())
        self.arrays.update(self.buffers.arrays())
        self._place()
        self._clear()

    def _arena(self, nbytes: int, needs: str) -> Any:
        information = self._device.memory_info()
        free = None if information is None else information[0]
        try:
            if free is not None and nbytes > free:
                raise MemoryError
            return self._device.arena(nbytes)
        except MemoryError as error:
            available = "" if free is None else f", of which {free:,} bytes are free"
            raise OutOfDeviceMemory(
                f"{needs} on device {self._device.name!r}{available}; reduce the batch size",
                nbytes,
                free,
            ) from (error if str(error) else None)

    def _place(self) -> None:
        """Gives every array of the blocks its place, and the copies of parameters theirs."""
        for block in (self._own, self._lent):
            if block is not None:
                self.arrays.update(block.arrays())
        for array, owner in self.in_place.items():
            self.arrays[array] = self.arrays[owner].reshape(array.shape)
        if self._copied_to is not None:
            self.copies = self._copied_to.array()
            copied = self.buffers.parameters_within(self.copies)
            for copy, parameter in self._graph.copies.items():
                self.arrays[copy] = copied[parameter]

    def _clear(self) -> None:
        """Starts inputs, their gradients and this executor's own flat buffers as documented."""
        fill = self._device.ops.fill
        buffers = self.buffers.own
        inputs = [self.arrays[a] for a in self._inputs if a.dtype == self._dtype]
        for buffer in buffers + inputs:
            if buffer.size:
                fill(buffer, value=0.0)
        self.arrays[self._graph.random_state][...] = np.zeros(2, np.uint64)
        if buffers:
            for name, array in self._graph.auxiliary.items():
                if name.endswith("_moving_var"):
                    fill(self.arrays[array], value=1.0)

    def move(self, arena: Any) -> None:
        """Takes another block for what lives within a pass, before the first one."""
        assert self._lent is not None, "only what is lent moves"
        self._lent.arena = arena
        self._place()

    def at_the_peak(self) -> list[Array]:
        """The arrays that live when most bytes of them do, largest first."""
        lives = [*self._own.lives, *([] if self._lent is None else self._lent.lives)]

        def alive(moment: float) -> list[Array]:
            return [life.array for life in lives if life.start <= moment <= life.end]

        moments = {life.start for life in lives}
        most = max((alive(moment) for moment in sorted(moments)), key=_bytes_of)
        return sorted(most, key=lambda array: -array.nbytes)

    def resolve(self, array: Array) -> Any:
        """The memory of an array, or of the one that it views, in its shape."""
        found = self.arrays.get(array)
        return self.arrays[array.root].reshape(array.shape) if found is None else found


def _bytes_of(arrays: Sequence[Array]) -> int:
    return sum(aligned(array.nbytes) for array in arrays)
