"""Which calls of a backward may run beside those that follow them, and where it waits for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from pygan.operators import Array, Call

# What only an optimizer reads after the pass: the array of this place, by how functions' names end.
FINAL = {"_backward_weight": 2, "bias_backward": 1}


def written_apart(calls: Iterable[Iterable[Call]]) -> set[Array]:
    """Arrays that calls of FINAL write and no other call of the pass mentions."""
    final: set[Array] = set()
    others: set[Array] = set()
    for call in (call for group in calls for call in group):
        written = _final(call)
        if written is not None:
            final.add(written.root)
        given = [array for array in call.arrays if array is not None and array is not written]
        others.update(array.root for array in given)
    return final - others


def that_leave_no_room(
    calls: Iterable[Iterable[Call]], arrays: Collection[Array], leaves_room: Callable[[Call], bool]
) -> set[Array]:
    """Those of `arrays` whose calls of FINAL leave no room to what might run beside them."""
    found: set[Array] = set()
    for call in (call for group in calls for call in group):
        written = _final(call)
        if written is not None and written.root in arrays and not leaves_room(call):
            found.add(written.root)
    return found


def set_apart(
    calls: Iterable[Iterable[Call]], apart: Collection[Array], alone: Collection[Array]
) -> None:
    """Marks the calls of FINAL by whether their array is one of `apart`, or of `alone`."""
    for call in (call for group in calls for call in group):
        written = _final(call)
        if written is not None:
            call.apart, call.alone = written.root in apart, written.root in alone


def weights_first(group: list[Call]) -> list[Call]:
    """A group with the gradients of weights in line before that of the data, which need not be in
    memory then beside the slices of their sums."""
    at = next((i for i, call in enumerate(group) if call.function.endswith("backward_data")), None)
    if at is None:
        return group
    behind = group[at + 1 :]
    weights = [call for call in behind if call.function.endswith("_weight") and not call.apart]
    rest = [call for call in behind if call not in weights]
    return [*group[:at], *weights, group[at], *rest]


def forks_of(calls: Sequence[Iterable[Call]]) -> dict[int, bool]:
    """The groups that wait for what was set apart before, by their index, and whether for a call
    that is alone; the others set calls apart themselves."""
    return {
        index: any(call.alone for call in group)
        for index, group in enumerate(calls)
        if any(call.apart or call.alone for call in group)
    }


def _final(call: Call) -> Array | None:
    """The array of a call that FINAL names."""
    place = next((i for end, i in FINAL.items() if call.function.endswith(end)), None)
    return None if place is None else call.arrays[place]
