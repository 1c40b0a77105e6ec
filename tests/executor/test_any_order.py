"""Executors that share memory, in whatever order they are called: the numbers of executors that
share none, or a StateError."""

from __future__ import annotations

from typing import Any

import numpy as np
from graphs import IMAGE, fill_randomly, random_graphs, shapes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lent_gradients import spoil

from pygan import optimizer
from pygan import symbol as sym
from pygan.errors import StateError
from pygan.executor import Executor
from pygan.working_memory import WorkingMemory

CALLS = ("train", "train", "backward", "backward", "infer", "update", "zero")


def generator() -> sym.Symbol:
    """noise (2, 1, 1, 8) -> images of shape IMAGE; gradients with gaps between them and without."""
    with sym.name_scope():
        y = sym.FullyConnected(sym.Variable("noise"), num_hidden=12 * 16)
        y = sym.BatchNorm(sym.Reshape(y, shape=(2, 3, 4, 16)))
        y = sym.Convolution(sym.Activation(y, kind="relu"), kernel=3, num_filter=16, pad=1)
        y = sym.Activation(sym.BatchNorm(y, fix_gamma=False), kind="relu")
        return sym.Activation(sym.Convolution(y, kernel=3, num_filter=2, pad=1), kind="tanh")


def bound(device: Any, graph: sym.Symbol, memory: WorkingMemory | None) -> list[Executor]:
    """G, which lends its gradients, and two passes of what may read its images."""
    noise = {"noise": (2, 1, 1, 8)}
    g = generator().bind(
        *(device, noise, {"noise": "null"}),
        scratch_memory=memory,
        lend_gradients=memory is not None,
    )
    inputs = {"x": g.outputs[0]} if "x" in shapes_of(graph) else {}
    first = graph.bind(device, shapes_of(graph), inputs=inputs, working_memory=memory)
    second = graph.bind(device, shapes_of(graph), "add", shared=first, working_memory=memory)
    g.outputs[0][...] = np.zeros(IMAGE, np.float32)
    for seed, executor in enumerate((g, first, second)):
        for output in executor.outputs:
            output[...] = np.zeros(output.shape, np.float32)
        fill_randomly(executor, seed)
    return [g, first, second]


def call(what: str, executor: Executor, adam: optimizer.Optimizer) -> None:
    if what in ("train", "infer"):
        executor.forward(is_train=what == "train")
    elif what == "update":
        adam.update()
    elif what == "zero":
        executor.zero_gradients()
    else:
        waves = [
            None if a is None else np.cos(np.arange(a.size, dtype=np.float32)).reshape(a.shape)
            for a in executor.head_gradients
        ]
        executor.backward(waves)


def readable(executor: Executor) -> dict[str, np.ndarray]:
    """All that the executor lets be read."""
    found = {f"output {i}": np.array(array) for i, array in enumerate(executor.outputs)}
    found |= {name: np.array(array) for name, array in executor.arg_dict.items()}
    found |= {name: np.array(array) for name, array in executor.aux_dict.items()}
    for name in executor.grad_dict:
        try:
            found[f"gradient of {name}"] = np.array(executor.grad_dict[name])
        except StateError:
            assert executor.input_names == ["noise"] and name != "noise"  # G's, which are lent
    return found


@given(
    random_graphs(),
    st.lists(st.tuples(st.sampled_from(CALLS), st.integers(0, 2)), min_size=6, max_size=20),
)
@settings(max_examples=15, deadline=None)
def test_right_or_refused(device: Any, graph: sym.Symbol, calls: list[tuple[str, int]]) -> None:
    memory = WorkingMemory()
    ours, theirs = bound(device, graph, memory), bound(device, graph, None)
    if not ours[1].trainable():
        return
    adams = [[optimizer.Adam(each, learning_rate=0.01) for each in es] for es in (ours, theirs)]
    with np.errstate(all="ignore"):
        for what, which in calls:
            # What a backward may go on with is left alone, and gradients that can be read.
            if not any(memory.holds(each) and not each._state for each in ours[1:]):
                lost = not any(name.startswith("gradient") for name in readable(ours[0]))
                spoil(device, memory, gradients=lost)
            try:
                call(what, ours[which], adams[0][which])
            except StateError:
                continue
            call(what, theirs[which], adams[1][which])
            for mine, other in zip(ours, theirs, strict=True):
                expected = readable(other)
                for name, array in readable(mine).items():
                    np.testing.assert_array_equal(array, expected[name], err_msg=f"{name} {what}")
