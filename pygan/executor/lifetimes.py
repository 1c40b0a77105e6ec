"""When each array of a lowered graph is needed, from the calls alone, and which work in place.

Time i is the forward of step i, time n the arrival of the output gradients, times n + 1 ... 2n the
backward of steps n - 1 ... 0; forever is behind all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pygan.lowering import LoweredGraph
from pygan.operators import Array, Call


@dataclass(eq=False)
class Lifetime:
    """An array that owns memory, and the first and last time a call mentions it; the last is
    `LoweredGraph.forever` where it outlives the pass."""

    array: Array
    start: float
    end: float


Room = tuple[int, str]
"""The workspace of calls: when their group runs, and their function."""

APART = 0.5
"""Time from the beginning of a group of backward to that of what it sets apart."""


def lifetimes(
    graph: LoweredGraph,
    persistent: Collection[Array],
    keep_forward: bool,
    workspace: Callable[[Call], Array | None],
) -> tuple[list[Lifetime], dict[Array, Array], dict[Room, Array]]:
    """When each array that is not persistent is needed, and which arrays work in place.

    An output of the graph lives from its making on, and what a call set apart mentions until the
    next fork, or the end of the pass, when that call is done at the latest. The calls of a group of
    backward have times of their own, since a pass that lacks some keeps the order of the others.
    keep_forward: what a backward reads lives until the next forward too, so that backward can run
    again. workspace: what a call wants. The second result maps an array to the one whose memory it
    takes over; the third are the workspaces, each the largest that calls of its room want.
    """
    n, forever = len(graph.steps), graph.forever
    found: dict[Array, Lifetime] = {}
    rooms: dict[Room, Lifetime] = {}

    def give_room(call: Call, time: int, start: float, end: float) -> None:
        wanted = workspace(call) if call.workspace else None
        if wanted is not None:
            room = rooms.setdefault((time, call.function), Lifetime(wanted, start, end))
            room.start, room.end = min(room.start, start), max(room.end, end)
            if room.array.size < wanted.size:
                room.array = wanted

    def mention(array: Array | None, time: float) -> None:
        if array is None or array.root in persistent:
            return
        life = found.setdefault(array.root, Lifetime(array.root, time, time))
        life.start = min(life.start, time)
        life.end = max(life.end, time)

    for training in (True, False):
        for time, calls in enumerate(graph.forward(training)):
            for call in calls:
                give_room(call, time, time, time)
                for array in call.arrays:
                    mention(array, time)
    made_by_forward = set(found)
    if graph.argument_gradients:
        for head in graph.heads:
            mention(head.landing, n)
        whole = graph.whole_backward()
        joins = [n + index + _join(whole[index]) for index in graph.forks]
        for time, calls in enumerate(whole, n):
            for place, call in enumerate(calls):
                start = end = time + _moment(calls, place)
                if call.apart:
                    # It begins when what was set apart before is done; what follows in its group
                    # runs beside it, and so do the next ones.
                    start = time + APART
                    end = next((join for join in joins if join > start), 2 * n + APART)
                elif any(before.apart for before in calls[:place]):
                    end = time + APART
                give_room(call, time, start, end)
                for array in call.arrays:
                    if keep_forward and array is not None and array.root in made_by_forward:
                        mention(array, forever)
                    mention(array, start)
                    mention(array, end)
    for head in graph.heads:
        mention(head.array, forever)
    lives, in_place = _share_in_place(graph, found)
    lives += rooms.values()
    return lives, in_place, {room: life.array for room, life in rooms.items()}


def _moment(group: list[Call], place: float) -> float:
    """From the beginning of a group of backward to the call at that place in line."""
    return APART * place / (len(group) + 1)


def _join(group: list[Call]) -> float:
    """Until when, after the beginning of a group at a fork, what was set apart before may run."""
    alone = (place for place, call in enumerate(group) if call.alone)
    return _moment(group, next(alone, len(group) + 1) - 0.5)


def _share_in_place(
    graph: LoweredGraph, found: dict[Array, Lifetime]
) -> tuple[list[Lifetime], dict[Array, Array]]:
    taken: dict[Array, Array] = {}

    def owner(array: Array) -> Array:
        while array in taken:
            array = taken[array]
        return array

    for time, step in enumerate(graph.steps):
        for source, target in step.operator.in_place:
            x, y = step.arrays.inputs[source], step.arrays.outputs[target]
            if y is None or y in taken or y not in found:
                continue
            held = owner(x.root)
            if (
                held in found
                and found[held].end == time
                and x.size == y.size
                and x.dtype == y.dtype
                and sum(other.root is x.root for other in step.arrays.inputs) == 1
            ):
                taken[y] = held
                found[held].end = found.pop(y).end
    for time, step in enumerate(reversed(graph.steps), len(graph.steps) + 1):
        dy, dx = graph.gradients_of(step)
        if not step.operator.gradient_in_place or dy is None or dx is None or dx not in found:
            continue
        held = owner(dy.root)
        if (
            held in found
            and found[held].end == time == found[dx].start
            and (dy.size, dy.dtype, dy.half) == (dx.size, dx.dtype, dx.half)
        ):
            taken[dx] = held
            found[held].end = found.pop(dx).end
    return list(found.values()), {array: owner(array) for array in taken}
