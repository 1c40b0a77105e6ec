"""Which calls of a backward may run beside those that follow them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

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


def set_apart(calls: Iterable[Iterable[Call]], arrays: Collection[Array]) -> None:
    """Marks the calls of FINAL whose array is one of `arrays`."""
    for call in (call for group in calls for call in group):
        written = _final(call)
        if written is not None:
            call.apart = written.root in arrays


def forks_of(calls: Sequence[Iterable[Call]]) -> list[int]:
    """The groups that set calls apart, by their index."""
    return [i for i, group in enumerate(calls) if any(call.apart for call in group)]


def _final(call: Call) -> Array | None:
    """The array of a call that FINAL names."""
    place = next((i for end, i in FINAL.items() if call.function.endswith(end)), None)
    return None if place is None else call.arrays[place]
