"""Gradients set apart on a branch of a recorded pass: the same bits in any order that it allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly
from test_executor import everything

from pygan import symbol as sym

SHAPES = {"x": (4, 6, 6, 2), "gate": (1, 1, 1, 3)}


def shared_weight() -> sym.Symbol:
    """A weight whose gradient is written by a layer and added to by an operator of another kind."""
    w = sym.Variable("w", shape=(3, 2))
    y = sym.FullyConnected(sym.Variable("x"), weight=w, num_hidden=3, name="fc")
    return sym.group([y, sym.Multiply(w, w, name="square")])


def results(executor: Any, out_grads: list[Any], run: Any) -> dict[str, np.ndarray]:
    executor.random_state[...] = np.array([3, 5], np.uint64)
    for gradient in executor.grad_dict.values():
        gradient[...] = np.full(gradient.shape, np.nan, np.float32)
    run()
    return {name: np.array(gradient) for name, gradient in executor.grad_dict.items()}


@pytest.mark.parametrize("order", ["submitted", "last"])
@pytest.mark.parametrize(
    ("graph", "shapes"), [(everything, SHAPES), (shared_weight, {"x": (5, 2)})]
)
def test_a_recorded_pass_has_the_bits_of_calls(
    device: Any, graph: Any, shapes: Any, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv("PYGAN_CPU_GRAPH_ORDER", order)
    found = []
    for branches in (False, True):
        executor = graph().bind(device, shapes, branches=branches)
        fill_randomly(executor, 11)
        heads = [np.cos(np.arange(o.size)).reshape(o.shape) for o in executor.outputs]
        out_grads = [device.from_numpy(head.astype(np.float32)) for head in heads]

        def step(executor: Any = executor, out_grads: list[Any] = out_grads) -> None:
            executor.forward(is_train=True)
            executor.backward(out_grads)

        found.append(results(executor, out_grads, step))
        found.append(results(executor, out_grads, device.record(step).launch))
    expected = found[0]
    assert all(np.isfinite(array).all() for array in expected.values())
    for others in found[1:]:
        for name, array in expected.items():
            np.testing.assert_array_equal(others[name], array, err_msg=name)


def test_what_runs_beside_the_rest_keeps_its_memory(device: Any) -> None:
    from pygan import networks

    graph, shapes = networks.lesson_discriminator(), {"img": (32, 28, 28, 1)}
    plain, branched = (
        graph.bind(device, shapes, branches=branches).memory for branches in (False, True)
    )
    if device.branch().overlaps:
        assert plain.arrays < branched.arrays <= branched.unplanned
    else:
        assert branched == plain


def pyramid() -> sym.Symbol:
    """Layers of growing images, backwards: gradients must take memory that others have left."""
    y = sym.Variable("x")
    for i, channels in enumerate((8, 16, 8, 16, 8)):
        stride = 2 - i % 2
        y = sym.Convolution(y, kernel=3, num_filter=channels, stride=stride, pad=1, name=f"c{i}")
        y = sym.LeakyReLU(sym.BatchNorm(y, fix_gamma=False, name=f"b{i}"), slope=0.2)
    return y


@pytest.mark.parametrize("wanted", [None, ["c4_weight", "c0_weight"], ["c4_bias", "c3_bias", "x"]])
def test_memory_is_taken_over_when_a_branch_is_done(
    device: Any, wanted: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed as late as a branch may be, in whole passes and in those that leave forks out."""
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv("PYGAN_CPU_GRAPH_ORDER", "last")
    found, kept = [], []
    for branches in (False, True):
        executor = pyramid().bind(device, {"x": (2, 32, 32, 4)}, branches=branches)
        fill_randomly(executor, 11)
        shape = executor.outputs[0].shape
        head = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        out_grads = [device.from_numpy(head)]

        def step(executor: Any = executor, out_grads: list[Any] = out_grads) -> None:
            executor.forward(is_train=True)
            executor.backward(out_grads, wanted)

        run = device.record(step).launch if branches else step
        found.append(results(executor, out_grads, run))
        kept.append(executor.memory.arrays)
    for name, array in found[0].items():
        assert np.isfinite(array).all() == (wanted is None or name in wanted), name
        np.testing.assert_array_equal(found[1][name], array, err_msg=name)
    assert kept[1] < 1.2 * kept[0]


def test_gradients_that_others_touch_stay_in_line(device: Any) -> None:
    """w's gradient has two writers of different kinds: neither may run beside the other."""
    if not device.branch().overlaps:
        pytest.skip("everything runs in order")
    executor = shared_weight().bind(device, {"x": (5, 2)}, branches=True)
    passes = executor._graph.backward([0, 1], ["x", "w", "fc_bias"])
    apart = {call.function: call.apart for group in passes for call in group}
    assert apart["fully_connected_backward_weight"] is False
    assert apart["bias_backward"] is True
