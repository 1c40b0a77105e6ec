"""Batch norms that leave their normalising pass to the convolution that reads them: the bits of
both in turn, without the array between them."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import symbol as sym
from pygan.executor import lean_scope
from pygan.executor.lifetimes import lifetimes
from pygan.training.monitor import with_internals
from pygan.working_memory import WorkingMemory

SHAPES = {"x": (2, 6, 6, 16)}
LATE = ("batch_norm_normalisation_training", "batch_norm_normalisation_inference")


def layers() -> sym.Symbol:
    """Batch norms before a convolution, a transposed one, and one in groups; x as above."""
    with sym.name_scope():
        y = sym.BatchNorm(sym.Variable("x"), fix_gamma=False, name="n0")
        y = sym.Convolution(y, kernel=3, num_filter=24, pad=1, no_bias=True, name="c1")
        y = sym.LeakyReLU(sym.BatchNorm(y, fix_gamma=False, name="n1"), slope=0.2, name="a1")
        y = sym.TransposedConvolution(y, kernel=4, num_filter=40, stride=2, pad=1, name="t2")
        y = sym.Activation(sym.BatchNorm(y, name="n2"), kind="relu", name="a2")
        return sym.Convolution(y, kernel=4, num_filter=8, stride=2, pad=1, groups=2, name="c3")


def bind(device: Any, late: bool, graph: Any = layers, *arguments: Any, **options: Any) -> Any:
    """late: whether every batch norm that can leaves its normalising to its reader, or none; device
    numpy has twins for all."""
    with pytest.MonkeyPatch.context() as patch:
        if not late or device.name == "numpy":
            gain = 0.0 if late else -inf
            patch.setattr(device.ops, "normalisation_gain", lambda *_, **__: gain)
        return graph().bind(device, SHAPES, *arguments, lean=late, **options)


def late_norms(executor: Any) -> int:
    """Of a training step; inference has as many."""
    found = []
    for training in (True, False):
        calls = [call for group in executor._graph.forward(training) for call in group]
        found.append(Counter(call.function in LATE for call in calls)[True])
    assert found[0] == found[1]
    return found[0]


def results(executor: Any, wanted: Any = None) -> dict[str, np.ndarray]:
    rng = fill_randomly(executor, 3)
    for gradient in executor.grad_dict.values():
        gradient[...] = np.ones(gradient.shape, np.float32)
    found = {"used": np.array(executor.forward()[0])}
    executor.forward(is_train=True)
    heads = [rng.standard_normal(o.shape).astype(np.float32) for o in executor.outputs]
    for _ in range(2 if executor.keep_forward else 1):
        executor.backward(heads, wanted)
    found |= {n: np.array(a) for n, a in executor.output_dict.items()}
    found |= {f"{n} gradient": np.array(a) for n, a in executor.grad_dict.items()}
    return found | {n: np.array(a) for n, a in executor.aux_dict.items()}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray], device: Any) -> None:
    """Bit for bit on a device of kernels; the twins of batch norm may scale before they shift."""
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert np.isfinite(array).all(), name
        if device.name == "numpy":
            size = np.abs(right[name]).max() + 1
            np.testing.assert_allclose(array, right[name], rtol=0, atol=1e-5 * size, err_msg=name)
        else:
            np.testing.assert_array_equal(array, right[name], err_msg=name)


@pytest.mark.parametrize(
    ("request_", "wanted", "options"),
    [
        ("write", None, {}),
        ("add", None, {"branches": True}),
        ({"x": "null", "c1_weight": "null"}, None, {"keep_forward": True}),
        ("write", ["n1_gamma", "t2_weight"], {}),
    ],
)
def test_same_bits(device: Any, request_: Any, wanted: Any, options: dict[str, Any]) -> None:
    late, apart = (bind(device, each, layers, request_, **options) for each in (True, False))
    assert late_norms(late) == 3
    assert late_norms(apart) == 0
    assert_same(results(late, wanted), results(apart, wanted), device)


@pytest.mark.parametrize("storage", ["float32", "bf16"])
def test_tensor_cores_and_images(device: Any, storage: str) -> None:
    """Operands are rounded behind the normalisation; of bf16 arrays, what is read must be stored as
    what would be made is: the last batch norm's reader takes float32."""

    def graph() -> sym.Symbol:
        x = sym.Variable("x")
        y = sym.Convolution(x, kernel=3, num_filter=24, pad=1, name="c1")
        y = sym.LeakyReLU(sym.BatchNorm(y, fix_gamma=False, name="n1"), slope=0.2, name="a1")
        image = sym.TransposedConvolution(y, kernel=4, num_filter=3, stride=2, pad=1, name="t2")
        z = sym.Convolution(x, kernel=6, num_filter=16, name="c3")
        z = sym.Activation(sym.BatchNorm(z, name="n3"), kind="relu", name="a3")
        return sym.group([image, sym.Convolution(z, kernel=1, num_filter=1, name="c4")])

    options = {"precision": "bf16", "storage": storage}
    late, apart = (bind(device, each, graph, "write", **options) for each in (True, False))
    assert late_norms(late) >= 1
    if storage == "bf16":
        assert late_norms(late) == 1
    found, expected = results(late), results(apart)
    if device.name == "numpy":  # a product rounded to bf16 tells what is as near as 1e-5 apart
        return
    assert_same(found, expected, device)


def test_not_fused(device: Any) -> None:
    """fuse=False has every activation as a step of its own, and none left to a reader."""
    late, apart = bind(device, True), bind(device, False, fuse=False)
    assert late_norms(bind(device, True, fuse=False)) == 0
    found, expected = results(late), results(apart)
    for name, array in expected.items():
        size = np.abs(array).max() + 1
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * size, err_msg=name)


def test_numbers_of_numpy(device: Any, numpy_device: Any) -> None:
    found, expected = results(bind(device, True)), results(bind(numpy_device, False))
    for name, array in expected.items():
        size = np.abs(array).max() + 1
        np.testing.assert_allclose(found[name], array, rtol=0, atol=3e-5 * size, err_msg=name)


def test_the_normalised_array_is_nowhere(device: Any) -> None:
    """Neither in the plan of a training executor nor in that of inference."""
    for request_ in ("write", "null"):
        late, apart = (bind(device, each, layers, request_) for each in (True, False))
        lives = [
            lifetimes(executor._graph, (), False, lambda _: None)[0] for executor in (late, apart)
        ]
        labels = [{life.array.label for life in each} for each in lives]
        assert labels[1] - labels[0] == {"n0_output", "a1_output", "a2_output"}
        assert late.memory.unplanned < apart.memory.unplanned


def test_what_others_read_is_there(device: Any) -> None:
    """A monitored output, one that two read, one that a fully connected layer reads, one with an
    activation that no prologue has."""

    def watched() -> sym.Symbol:
        return with_internals(layers(), "n0_output|a1_output")

    def shared() -> sym.Symbol:
        y = sym.BatchNorm(sym.Variable("x"), name="n0")
        return sym.Add(sym.Convolution(y, kernel=1, num_filter=16, name="c1"), y, name="sum")

    def flattened() -> sym.Symbol:
        y = sym.BatchNorm(sym.Variable("x"), name="n0")
        return sym.FullyConnected(y, num_hidden=8, name="f1")

    def smooth() -> sym.Symbol:
        y = sym.Activation(sym.BatchNorm(sym.Variable("x"), name="n0"), kind="tanh", name="a0")
        return sym.Convolution(y, kernel=1, num_filter=16, name="c1")

    for graph, count in ((watched, 1), (shared, 0), (flattened, 0), (smooth, 0)):
        late, apart = (bind(device, each, graph) for each in (True, False))
        assert late_norms(late) == count
        assert_same(results(late), results(apart), device)


def test_data_in_slices(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch norm that adds the slices of its data does so in its statistics."""
    if device.name == "numpy":
        return
    from pygan.bindings.operators import slices
    from pygan.bindings.operators.plans import choice, pipelined
    from pygan.bindings.operators.plans.plan import Tiles

    def graph() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=64, pad=1, name="c1")
        y = sym.LeakyReLU(sym.BatchNorm(y, name="n1"), slope=0.2, name="a1")
        return sym.Convolution(y, kernel=3, num_filter=8, pad=1, name="c2")

    monkeypatch.setattr(slices, "saved_microseconds", lambda *_, **__: 1.0)
    tiles = Tiles(pipelined.TILES[-1], 2)
    monkeypatch.setattr(pipelined, "candidates", lambda *_: [tiles])
    choice.plan_of_sides.cache_clear()
    late, apart = (bind(device, each, graph) for each in (True, False))
    calls = [call for group in late._graph.forward(True) for call in group]
    assert [len(call.arrays) for call in calls if call.function in LATE] == [8]
    found, expected = results(late), results(apart)
    for name, array in expected.items():  # two launches merge moments in another order than one
        size = np.abs(array).max() + 1
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * size, err_msg=name)
    monkeypatch.undo()
    choice.plan_of_sides.cache_clear()


def test_recorded(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many launches, the same bits, in any order."""
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv("PYGAN_CPU_GRAPH_ORDER", "last")
    found = []
    for late in (True, False):
        executor = bind(device, late, layers, "write", branches=True)
        fill_randomly(executor, 5)
        head = device.from_numpy(np.cos(np.arange(executor.outputs[0].size)).astype(np.float32))

        def step(executor: Any = executor, head: Any = head) -> None:
            executor.forward(is_train=True)
            executor.backward([head.reshape(executor.outputs[0].shape)])

        device.record(step).launch()
        found.append({n: np.array(a) for n, a in executor.grad_dict.items()})
    assert_same(*found, device)


def test_lean_scope(device: Any) -> None:
    """Executors of a training made inside have it, and one may say otherwise."""
    if device.name == "numpy":
        return
    with lean_scope():
        assert late_norms(layers().bind(device, SHAPES)) == 3
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(device.ops, "normalisation_gain", lambda *_, **__: -1.0)
            assert late_norms(layers().bind(device, SHAPES)) == 3
            assert late_norms(layers().bind(device, SHAPES, lean=False)) == 0


def test_programs_and_constant_statistics(device: Any) -> None:
    """Programs know no launch that normalises on the way; constant statistics need no pass."""
    if device.cannot_cooperate() is None:
        assert late_norms(bind(device, True, layers, "write", cooperative=True)) == 0

    def constant() -> sym.Symbol:
        y = sym.BatchNorm(sym.Variable("x"), use_global_stats=True, name="n0")
        return sym.Convolution(y, kernel=3, num_filter=8, pad=1, name="c1")

    late, apart = (bind(device, each, constant) for each in (True, False))
    assert late_norms(late) == 1
    assert_same(results(late), results(apart), device)


def test_working_memory(device: Any) -> None:
    memory = WorkingMemory()
    first, second = (bind(device, True, working_memory=memory) for _ in range(2))
    assert_same(results(first), results(second), device)
    assert_same(results(second), results(bind(device, False)), device)


def test_the_models_choice(device: Any) -> None:
    """Unless asked for, a batch norm leaves its pass only where the model expects no loss."""
    gain = device.ops.normalisation_gain
    one = {"stride": (1, 1), "pad": (0, 0), "dilation": (1, 1), "groups": 1}
    large = (64, 64, 64, 32)
    pointwise = ("convolution_forward", (large, (32, 1, 1, 32), None, large), one)
    near = one | {"pad": (2, 2)}
    wide = ("convolution_forward", (large, (256, 5, 5, 32), None, (*large[:3], 256)), near)
    few = (
        "convolution_forward",
        (large, (3, 1, 1, 32), None, (*large[:3], 3)),
        one | {"groups": 2},
    )
    if device.name == "numpy":
        assert gain(large, [pointwise]) == -inf
        return
    assert gain(large, [pointwise]) > 0 > gain(large, [wide]) > -inf
    with pytest.raises(ValueError, match="groups 2"):
        gain(large, [few])
    assert gain(large, [("fully_connected_forward", ((2, 4), (4, 4), None, (2, 4)), {})]) == -inf
