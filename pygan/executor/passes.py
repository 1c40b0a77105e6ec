"""The passes of an executor: lists of prepared calls, each on its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pygan.errors import GraphError
from pygan.executor.launches import Launches
from pygan.executor.memory import Memory
from pygan.executor.programs import Prepared, with_programs
from pygan.lowering import LoweredGraph
from pygan.operators import Call
from pygan.reference.precision import to_bf16


class Passes:
    """Forward and backward of a graph; run, the calls of a list make the pass.

    branch: of the device, where calls that are set apart run. jobs_of: what makes jobs of calls
    (pygan.executor.programs.recorder), or None.

    Attributes: `training`, `inference`, the two forwards; `programs`, of all passes bound so far.
    """

    def __init__(
        self,
        graph: LoweredGraph,
        memory: Memory,
        launches: Launches,
        branch: Any,
        jobs_of: Callable[..., list[Any] | None] | None,
    ) -> None:
        self._graph, self._memory, self._launches = graph, memory, launches
        self._device, self._branch, self._jobs_of = launches.device, branch, jobs_of
        self.bind()

    def bind(self) -> None:
        """Prepares both forwards on the memory as it now is, and forgets the backwards."""
        self.programs: list[Any] = []
        self.training = self._bound(self._graph.forward(training=True))
        self.inference = self._bound(self._graph.forward(training=False))
        self._backwards: dict[Any, list[Callable[[], None]]] = {}

    def backward(
        self, given: tuple[int, ...], wanted: tuple[str, ...] | None
    ) -> list[Callable[[], None]]:
        """The calls of a backward, prepared when it is first asked for. given: outputs whose
        gradient has arrived; wanted: arguments whose gradient is needed, None for all.

        Raises GraphError for a name without a gradient."""
        calls = self._backwards.get((given, wanted))
        if calls is None:
            names = self._names(wanted)
            calls = self._bound(self._graph.backward(given, names), forward=False)
            self._backwards[given, wanted] = calls
        return calls

    def _names(self, wanted: tuple[str, ...] | None) -> list[str]:
        """Of the arguments whose gradient is needed, each once."""
        graph = self._graph
        bound = [name for name in graph.arguments if name in graph.argument_gradients]
        unknown = [name for name in wanted or () if name not in bound]
        if unknown:
            raise GraphError(
                f"no gradient is bound for {', '.join(map(repr, unknown))}; gradients are bound "
                f"for {', '.join(bound)}"
            )
        return bound if wanted is None else list(dict.fromkeys(wanted))

    def _bound(
        self, calls: Iterable[Iterable[Call]], forward: bool = True
    ) -> list[Callable[[], None]]:
        """A pass: prepared calls, in programs where those are made, on the branch where they are
        set apart."""
        prepared = self.prepared(calls, forward)
        if forward and self._memory.copies is not None:
            parameters, copies = self._memory.buffers.parameters, self._memory.copies
            prepared.insert(0, Prepared(self._device.ops.bind("to_bf16", parameters, copies)))
        bound: list[Callable[[], None]] = []
        apart = forked = False
        for step in with_programs(prepared, self._program):
            if step.joins and forked:
                if apart:
                    bound.append(self._branch.leave)
                bound.append(self._branch.join)
                apart = forked = False
            if step.apart != apart:
                bound.append(self._branch.leave if apart else self._branch.enter)
                apart, forked = step.apart, True
            bound.append(step.run)
        if apart:
            bound.append(self._branch.leave)
        if forked:
            bound.append(self._branch.join)
        return bound

    def _program(self, jobs: list[Any]) -> Any:
        program = self._device.program(jobs)
        self.programs.append(program)
        return program

    def prepared(self, calls: Iterable[Iterable[Call]], forward: bool) -> list[Prepared]:
        """The calls with their arrays. At a fork of the graph what was set apart before is waited
        for before the first call set apart, or behind the group where this pass has none there; or
        before the call that is alone, or the whole group where this pass lacks that."""
        forks = {} if forward else self._graph.forks
        start = 0 if forward else len(self._graph.steps)
        prepared: list[Prepared] = []
        waiting = False
        for index, group in enumerate(calls):
            steps = [self.prepare(call, start + index) for call in group]
            at: int | None = 0
            if not waiting:
                waits = (i for i, call in enumerate(group) if call.apart or call.alone)
                at = next(waits, 0 if forks[index] else None) if index in forks else None
                waiting = index in forks and (at is None or not steps)
            if at is not None and steps:
                steps[at] = replace(steps[at], joins=True)
                waiting = False
            prepared += steps
        return prepared

    def prepare(self, call: Call, time: int) -> Prepared:
        """A call on its memory. time: the index of its group, those of backward behind those of
        forward."""
        resolve, attributes = self._memory.resolve, self._launches.attributes(call)
        if call.workspace:
            room = self._memory.rooms.get((time, call.function))
            attributes["workspace"] = None if room is None else resolve(room)
        arrays = [None if array is None else resolve(array) for array in call.arrays]
        run = self._device.ops.bind(call.function, *arrays, **attributes)
        if self._device.name == "numpy":
            halves = [array for array in call.arrays if array is not None and array.half]
            run = _then_rounded(run, [resolve(array) for array in halves])
        jobs = None if self._jobs_of is None else self._jobs_of(call.function, run)
        return Prepared(run, call.apart, jobs)


def _then_rounded(run: Callable[[], Any], arrays: Sequence[np.ndarray]) -> Callable[[], Any]:
    """`run`, and then those of its arrays rounded that hold bf16 numbers: what it only read stays
    as it is."""
    if not arrays:
        return run

    def rounding() -> None:
        run()
        for array in arrays:
            to_bf16(array, array)

    return rounding
