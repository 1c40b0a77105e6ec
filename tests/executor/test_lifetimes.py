"""What is alive at once shares no byte: checked call by call against the plan, in whatever order
branches may run, for whole passes and for passes that want a part of the gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import random_graphs, shapes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_branches import pyramid
from test_executor import everything

from pygan import networks
from pygan import symbol as sym
from pygan.executor import Executor
from pygan.operators import Array


def place(executor: Executor, array: Array) -> tuple[int, int]:
    """First byte and the one behind the last."""
    found = executor._memory.resolve(array.root)
    start = found.__array_interface__["data"][0] if isinstance(found, np.ndarray) else found.ptr
    return start, start + array.root.nbytes


def lives(executor: Executor, wanted: list[str] | None) -> dict[Array, tuple[int, int]]:
    """The first and the last call of a forward and its backward that an array is needed for, where
    what is set apart runs on until it is waited for."""
    graph = executor._graph
    forward = graph.forward(training=True)
    given = [i for i, head in enumerate(graph.heads) if head.landing is not None]
    names = list(executor.grad_dict) if wanted is None else wanted
    backward = graph.backward(given, names) if names else []
    found: dict[Array, tuple[int, int]] = {}
    now, beside = 0, []

    def mention(array: Array, time: int) -> None:
        first, last = found.get(array.root, (time, time))
        found[array.root] = min(first, time), max(last, time)

    groups = [(time, calls, True) for time, calls in enumerate(forward)]
    groups += [(len(forward) + i, calls, False) for i, calls in enumerate(backward)]
    joins = [
        p.joins
        for way in (forward, backward)
        for p in executor._passes.prepared(way, way is forward)
    ]
    for time, calls, ahead in groups:
        for call in calls:
            if joins[now]:
                beside = []
            now += 1
            arrays = [array for array in call.arrays if array is not None]
            room = executor._memory.rooms.get((time, call.function)) if call.workspace else None
            if room is not None:
                arrays.append(room)
            if call.apart:
                beside += arrays
            for array in [*arrays, *beside]:
                mention(array, now)
        if ahead and time == len(forward) - 1:
            for head in graph.heads:
                if head.landing is not None:
                    mention(head.landing, now)
    end = now + 1
    for head in graph.heads:
        mention(head.array, end)
    return found


def assert_apart(executor: Executor, wanted: list[str] | None) -> int:
    """How many pairs of arrays were found to take turns in the same bytes."""
    found = lives(executor, wanted)
    places = {array: place(executor, array) for array in found}
    taken = executor._memory.in_place
    turns = 0
    arrays = list(found)
    for index, one in enumerate(arrays):
        for other in arrays[:index]:
            (a, b), (c, d) = places[one], places[other]
            if max(a, c) >= min(b, d):
                continue
            (_, last), (start, _) = sorted((found[one], found[other]))
            owners = {taken.get(one, one), taken.get(other, other)}
            # What takes an array's memory over is written by the last call that reads it.
            assert last < start or (len(owners) == 1 and last == start), (one, other)
            turns += 1
    return turns


def parts(names: list[str]) -> list[list[str] | None]:
    """What passes may want: everything, one kind of gradient, every second."""
    kinds = [[n for n in names if n.endswith(end)] for end in ("weight", "bias", "beta", "x")]
    return [None, *(kind for kind in kinds if kind), names[::2], names[1::2] or names]


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("crowded", ["none", "all", "some"])
@pytest.mark.parametrize("which", ["everything", "pyramid", "generator", "discriminator"])
def test_arrays_of_networks(
    device: Any, which: str, crowded: str, branches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """crowded: which gradients of weights are taken to leave no room to what runs beside them."""
    asked: list[str] = []

    def leaves_room(name: str, *shapes: Any, **attributes: Any) -> bool:
        asked.append(name)
        return crowded == "none" or (crowded == "some" and len(asked) % 2 == 0)

    monkeypatch.setattr(device.ops, "leaves_room", leaves_room)
    graph, shapes = {
        "everything": (everything, {"x": (4, 6, 6, 2), "gate": (1, 1, 1, 3)}),
        "pyramid": (pyramid, {"x": (2, 32, 32, 4)}),
        "generator": (lambda: networks.dcgan_generator(8, 3), {"rand": (2, 1, 1, 8)}),
        "discriminator": (lambda: networks.dcgan_discriminator(8), {"data": (2, 64, 64, 3)}),
    }[which]
    executor = graph().bind(device, shapes, branches=branches)
    assert bool(asked) == (branches and device.branch().overlaps)
    turns = [assert_apart(executor, wanted) for wanted in parts(list(executor.grad_dict))]
    assert min(turns) > 0 and max(turns) > 10


@given(random_graphs(), st.booleans(), st.booleans(), st.data())
@settings(max_examples=25, deadline=None)
def test_arrays_of_random_graphs(
    device: Any, graph: sym.Symbol, branches: bool, keep_forward: bool, data: Any
) -> None:
    executor = graph.bind(device, shapes_of(graph), branches=branches, keep_forward=keep_forward)
    names = list(executor.grad_dict)
    wanted = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else None
    for each in (None, wanted):
        assert_apart(executor, each)


def test_gradients_that_fill_a_gpu_stay_in_line(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of DCGAN's weights take all places of the model's GPU; the slices of their sums then
    leave memory to the data's gradient. The twins, which have no branches, leave room always."""
    shapes = {"data": (64, 64, 64, 3)}
    graph = networks.dcgan_discriminator(64)
    executor = graph.bind(device, shapes, branches=True)
    calls = [call for group in executor._graph.whole_backward() for call in group]
    alone = {call.arrays[2].label for call in calls if call.alone}
    monkeypatch.setattr(device.ops, "leaves_room", lambda *_, **__: True)
    roomy = graph.bind(device, shapes, branches=True).memory
    if device.branch().overlaps:
        assert alone == {"gradient of d2_weight", "gradient of d3_weight"}
        assert executor.memory.arrays < 0.9 * roomy.arrays
    else:
        assert alone == set() and executor.memory == roomy


def test_who_can_leave_room(device: Any) -> None:
    with pytest.raises(ValueError, match="leaves_room: 'bias_backward' is not one of"):
        device.ops.leaves_room("bias_backward", (2, 4), (4,))
