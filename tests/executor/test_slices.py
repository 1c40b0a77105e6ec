"""Batch norms that add the slices of the convolutions around them: same bits, fewer launches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import symbol as sym
from pygan.training.monitor import with_internals
from pygan.working_memory import WorkingMemory

SHAPES = {"x": (2, 4, 4, 48)}


def deep() -> sym.Symbol:
    """Batch norms before and after convolutions that are deep for their few pixels; x as above."""
    with sym.name_scope():
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=128, pad=1, name="c1")
        y = sym.LeakyReLU(sym.BatchNorm(y, fix_gamma=False, name="n1"), slope=0.2, name="a1")
        y = sym.TransposedConvolution(y, kernel=4, num_filter=64, stride=2, pad=1, name="t2")
        y = sym.Activation(sym.BatchNorm(y, name="n2"), kind="relu", name="a2")
        y = sym.Convolution(y, kernel=4, num_filter=144, stride=2, pad=1, no_bias=True, name="c3")
        return sym.BatchNorm(y, fix_gamma=False, name="n3")


def bind(
    device: Any, gains: bool | None, graph: Any = deep, *arguments: Any, **options: Any
) -> Any:
    """gains: whether every convolution with slices leaves them, or (None) those that the model
    names."""
    with pytest.MonkeyPatch.context() as patch:
        if gains is not None and device.name != "numpy":
            from pygan.bindings.operators import slices

            patch.setattr(slices, "saved_microseconds", lambda *_, **__: 1.0 if gains else -1.0)
        return graph().bind(device, SHAPES, *arguments, **options)


def functions(executor: Any) -> Counter[str]:
    """Calls of a training step that know of slices."""
    graph = executor._graph
    passes = graph.forward(training=True) + graph.backward([0], list(executor.grad_dict))
    found: Counter[str] = Counter()
    for call in (call for calls in passes for call in calls):
        slices = call.attributes.get("in_slices") or any(
            array is not None and array.label.startswith("slices of") for array in call.arrays
        )
        found[call.function] += bool(slices)
    return +found


def results(executor: Any, wanted: Any = None) -> dict[str, np.ndarray]:
    rng = fill_randomly(executor, 3)
    for gradient in executor.grad_dict.values():
        gradient[...] = np.ones(gradient.shape, np.float32)
    found = {"used": np.array(executor.forward()[0])}
    for turn in range(2 if executor.keep_forward else 1):
        if turn == 0:
            executor.forward(is_train=True)
        heads = [rng.standard_normal(o.shape).astype(np.float32) for o in executor.outputs]
        executor.backward(heads, wanted)
    found |= {n: np.array(a) for n, a in executor.output_dict.items()}
    found |= {f"{n} gradient": np.array(a) for n, a in executor.grad_dict.items()}
    return found | {n: np.array(a) for n, a in executor.aux_dict.items()}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert np.isfinite(array).all(), name
        np.testing.assert_array_equal(array, right[name], err_msg=name)


@pytest.mark.parametrize(
    ("request_", "wanted", "options"),
    [
        ("write", None, {}),
        ("add", None, {"branches": True}),
        ({"x": "null", "c1_weight": "null", "c1_bias": "null"}, None, {"keep_forward": True}),
        ("write", ["x"], {}),
        ("write", ["n1_gamma"], {"precision": "tf32"}),
    ],
)
def test_same_bits(device: Any, request_: Any, wanted: Any, options: dict[str, Any]) -> None:
    fused, apart = (bind(device, gains, deep, request_, **options) for gains in (True, False))
    assert not functions(apart)
    if device.name == "numpy":
        assert not functions(fused)
    else:
        assert functions(fused) == {
            "convolution_forward": 2,
            "transposed_convolution_forward": 1,
            "batch_norm_forward_training": 3,
            "convolution_backward_data": 1,
            "transposed_convolution_backward_data": 1,
            "batch_norm_backward": 2,
        }
    assert_same(results(fused, wanted), results(apart, wanted))


def test_sums_stored_in_bf16(device: Any) -> None:
    """They are rounded as a second stage stores them; inference alone, which stores none, rounds
    less."""
    options = {"precision": "bf16", "storage": "bf16"}
    fused, apart = (bind(device, gains, deep, "write", **options) for gains in (True, False))
    assert not functions(apart)
    if device.name != "numpy":
        # gradients with slices arrive at n2, whose data is stored like its output, and not at n1
        assert functions(fused) == {
            "convolution_forward": 2,
            "transposed_convolution_forward": 1,
            "batch_norm_forward_training": 3,
            "convolution_backward_data": 1,
            "batch_norm_backward": 1,
        }
    found, expected = results(fused), results(apart)
    used, rounded = found.pop("used"), expected.pop("used")
    np.testing.assert_allclose(used, rounded, rtol=0, atol=2.0**-5 * np.abs(rounded).max())
    assert_same(found, expected)


def test_numbers_of_numpy(device: Any, numpy_device: Any) -> None:
    """The graph's numbers, by sums in another order."""
    found, expected = (results(bind(d, True)) for d in (device, numpy_device))
    for name, array in expected.items():
        size = np.abs(array).max() + 1
        np.testing.assert_allclose(found[name], array, rtol=0, atol=3e-5 * size, err_msg=name)


def test_what_others_read_is_whole(device: Any) -> None:
    """A monitored sum, one that two read, one that an activation follows, and constant statistics;
    in each case the sum must exist."""

    def watched() -> sym.Symbol:
        return with_internals(deep(), "c1_output|a1_output")

    def shared() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=128, pad=1, name="c1")
        return sym.Add(sym.BatchNorm(y, name="n1"), y, name="sum")

    def activated() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=128, pad=1, name="c1")
        return sym.BatchNorm(sym.Activation(y, kind="relu", name="a1"), name="n1")

    def constant() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=128, pad=1, name="c1")
        y = sym.BatchNorm(y, use_global_stats=True, name="n1")
        return sym.Convolution(y, kernel=3, num_filter=32, pad=1, name="c2")

    for graph, sums in ((watched, 3), (shared, 0), (activated, 0), (constant, 0)):
        fused, apart = (bind(device, gains, graph) for gains in (True, False))
        assert sum(functions(fused).values()) == (0 if device.name == "numpy" else 2 * sums)
        assert_same(results(fused), results(apart))


def test_an_input_that_is_normalised_keeps_its_gradient(device: Any) -> None:
    """n1's data is an argument, whose gradient may be added to: its backward takes no slices, but
    the sum that n2 reads comes in some."""

    def graph() -> sym.Symbol:
        y = sym.BatchNorm(sym.Variable("x"), fix_gamma=False, name="n1")
        y = sym.Convolution(y, kernel=4, num_filter=64, stride=2, pad=1, name="c1")
        return sym.BatchNorm(y, name="n2")

    fused, apart = (bind(device, gains, graph, {"x": "add"}) for gains in (True, False))
    if device.name != "numpy":
        assert functions(fused) == {"convolution_forward": 1, "batch_norm_forward_training": 1}
    assert_same(results(fused), results(apart))


def test_fully_connected_layers(device: Any) -> None:
    """One that reads a batch norm's images as rows has a gradient of other channels than these."""

    def graph() -> sym.Symbol:
        y = sym.FullyConnected(sym.Variable("x"), num_hidden=96, name="f1")
        y = sym.LeakyReLU(sym.BatchNorm(y, fix_gamma=False, name="n1"), slope=0.2, name="a1")
        y = sym.FullyConnected(y, num_hidden=256, no_bias=True, name="f2")
        return sym.BatchNorm(y, name="n2")

    def flattened() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=128, pad=1, name="c1")
        return sym.FullyConnected(sym.BatchNorm(y, name="n1"), num_hidden=256, name="f1")

    expected = {
        graph: {
            "fully_connected_forward": 1,
            "batch_norm_forward_training": 1,
            "fully_connected_backward_data": 1,
            "batch_norm_backward": 1,
        },
        flattened: {"convolution_forward": 1, "batch_norm_forward_training": 1},
    }
    for make, calls in expected.items():
        for precision in ("float32", "tf32"):
            fused, apart = (
                bind(device, gains, make, "write", precision=precision) for gains in (True, False)
            )
            if device.name != "numpy" and precision == "float32":
                assert functions(fused) == calls
            assert_same(results(fused), results(apart))


def test_fuse_and_programs(device: Any) -> None:
    assert not functions(bind(device, True, deep, "write", fuse=False))
    if device.cannot_cooperate() is None:
        assert not functions(bind(device, True, deep, "write", cooperative=True))


def test_recorded(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording has a launch less for each sum; its bits are those of calls, in any order."""
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv("PYGAN_CPU_GRAPH_ORDER", "last")
    nodes, found = [], []
    for gains in (True, False):
        executor = bind(device, gains, deep, "write", branches=True)
        fill_randomly(executor, 5)
        head = device.from_numpy(np.cos(np.arange(executor.outputs[0].size)).astype(np.float32))

        def step(executor: Any = executor, head: Any = head) -> None:
            executor.forward(is_train=True)
            executor.backward([head.reshape(executor.outputs[0].shape)])

        recording = device.record(step)
        nodes.append(recording.nodes)
        recording.launch()
        found.append({n: np.array(a) for n, a in executor.grad_dict.items()})
    assert nodes[0] == nodes[1] - 5
    assert_same(*found)


def test_working_memory(device: Any) -> None:
    """Slices lie in the block that executors take turns with, and take no workspace."""
    memory = WorkingMemory()
    first, second = (bind(device, True, deep, "write", working_memory=memory) for _ in range(2))
    assert_same(results(first), results(second))
    assert_same(results(second), results(bind(device, False)))


def test_the_models_choice(device: Any) -> None:
    """Unpatched, batch norm adds what gains: a small sum of a few slices does, many rows of one
    block do not."""
    if device.name == "numpy":
        return
    executor = bind(device, None)
    assert functions(executor)["batch_norm_forward_training"] == 3
    assert_same(results(executor), results(bind(device, False)))
