"""Batch norms that merge the moments which the tiles of the convolution before them leave: one
launch where there were two, and the numbers of two."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import symbol as sym

SHAPES = {"x": (2, 16, 16, 8)}


def shallow() -> sym.Symbol:
    """Convolutions with many pixels for their depth, which is not cut; x as above."""
    with sym.name_scope():
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=16, pad=1, name="c1")
        y = sym.LeakyReLU(sym.BatchNorm(y, fix_gamma=False, name="n1"), slope=0.2, name="a1")
        y = sym.TransposedConvolution(y, kernel=4, num_filter=8, stride=2, pad=1, name="t2")
        y = sym.Activation(sym.BatchNorm(y, name="n2"), kind="relu", name="a2")
        y = sym.Convolution(y, kernel=3, num_filter=12, no_bias=True, name="c3")
        return sym.BatchNorm(y, fix_gamma=False, name="n3")


def bind(
    device: Any, gains: bool | None, graph: Callable[[], Any] = shallow, **options: Any
) -> Any:
    """gains: whether every convolution that can leaves moments, or (None) those that the model
    names."""
    with pytest.MonkeyPatch.context() as patch:
        if gains is not None and device.name != "numpy":
            from pygan.bindings.operators import moments

            patch.setattr(moments, "saved_microseconds", lambda *_, **__: 1.0 if gains else -1.0)
            # batch norms that their readers normalise have no statistics launch to save
            patch.setattr(device.ops, "normalisation_gain", lambda *_, **__: -inf)
        return graph().bind(device, SHAPES, **options)


def left(executor: Any) -> list[str]:
    """Functions of a training step's forward that are given moments, in order."""
    calls = [call for calls in executor._graph.forward(training=True) for call in calls]
    found = []
    for call in calls:
        labels = [a.label for a in call.arrays if a is not None]
        found += [call.function] * any(label.startswith("moments of") for label in labels)
    return found


def results(executor: Any) -> dict[str, np.ndarray]:
    rng = fill_randomly(executor, 3)
    found = {"used": np.array(executor.forward()[0])}
    executor.forward(is_train=True)
    heads = [rng.standard_normal(o.shape).astype(np.float32) for o in executor.outputs]
    executor.backward(heads)
    found |= {n: np.array(a) for n, a in executor.output_dict.items()}
    found |= {f"{n} gradient": np.array(a) for n, a in executor.grad_dict.items()}
    return found | {n: np.array(a) for n, a in executor.aux_dict.items()}


def assert_alike(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], part: float) -> None:
    """`part` of an array's largest number may be the difference; gradients of biases before a batch
    norm are nothing but roundings."""
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.isfinite(found[name]).all(), name
        size = np.abs(array).max() + 1
        np.testing.assert_allclose(found[name], array, rtol=0, atol=part * size, err_msg=name)


MADE = ["convolution_forward", "batch_norm_forward_training"]
ALL = [*MADE, "transposed_convolution_forward", MADE[1], *MADE]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grad_req": "add", "branches": True, "keep_forward": True},
        {"precision": "tf32"},
    ],
    ids=str,
)
def test_statistics_of_two_launches(device: Any, options: dict[str, Any]) -> None:
    """Outputs, gradients and moving statistics, within roundings of sums in another order."""
    fused, apart = (bind(device, gains, **options) for gains in (True, False))
    assert not left(apart)
    if device.name == "numpy":
        assert not left(fused)
    elif "precision" not in options:  # tensor cores take tiles for so few channels that leave none
        assert left(fused) == ALL
    assert_alike(results(fused), results(apart), 3e-5)


def test_results_stored_in_bf16(device: Any) -> None:
    """Moments are of the rounded numbers, which batch norm reads; what it stores in turn is rounded
    the other way here and there."""
    options = {"precision": "bf16", "storage": "bf16"}
    fused, apart = (bind(device, gains, **options) for gains in (True, False))
    assert not left(apart)
    if device.name != "numpy":  # c1 and c3 have float32 on one side, where tiles are narrower
        assert left(fused) == ["transposed_convolution_forward", MADE[1]]
    found, wanted = results(fused), results(apart)
    alike = [name for name in wanted if "moving" in name or not name.endswith("gradient")]
    assert_alike({n: found[n] for n in alike}, {n: wanted[n] for n in alike}, 2.0**-6)


def test_numbers_of_numpy(device: Any, numpy_device: Any) -> None:
    assert_alike(results(bind(device, True)), results(bind(numpy_device, True)), 3e-5)


def test_fuse_and_programs(device: Any) -> None:
    assert not left(bind(device, True, fuse=False))
    assert_alike(results(bind(device, True)), results(bind(device, True, fuse=False)), 3e-5)
    if device.cannot_cooperate() is None:
        assert not left(bind(device, True, cooperative=True))


def test_batch_norms_that_others_normalise(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They merge moments and do nothing else; so do those behind convolutions that normalise."""

    def late(gains: bool) -> Any:
        from pygan.bindings.operators import moments

        with monkeypatch.context() as patch:
            patch.setattr(moments, "saved_microseconds", lambda *_, **__: 1.0 if gains else -1.0)
            patch.setattr(device.ops, "normalisation_gain", lambda *_, **__: 0.0)
            return shallow().bind(device, SHAPES)

    if device.name == "numpy":
        return
    fused, apart = late(True), late(False)
    merged = "batch_norm_normalisation_training"
    assert left(fused) == [MADE[0], merged, "transposed_convolution_forward", merged, *MADE]
    assert not left(apart)
    assert_alike(results(fused), results(apart), 3e-5)


def test_who_else_reads(device: Any) -> None:
    """Several batch norms may merge the same moments, and others read the convolution's result;
    where an activation or slices come between, or statistics are constant, there are none."""

    def shared() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=16, pad=1, name="c1")
        both = sym.Add(sym.BatchNorm(y, name="n1"), sym.BatchNorm(y, eps=0.5, name="n2"), name="s")
        return sym.Add(both, y, name="sum")

    def activated() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=16, pad=1, name="c1")
        return sym.BatchNorm(sym.Activation(y, kind="relu", name="a1"), name="n1")

    def constant() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=16, pad=1, name="c1")
        return sym.BatchNorm(y, use_global_stats=True, name="n1")

    def image() -> sym.Symbol:
        return sym.BatchNorm(sym.Variable("x"), name="n1")

    for graph, found in ((shared, [*MADE, MADE[1]]), (activated, []), (constant, []), (image, [])):
        fused, apart = (bind(device, gains, graph) for gains in (True, False))
        assert left(fused) == ([] if device.name == "numpy" else found)
        assert_alike(results(fused), results(apart), 3e-5)


def test_recorded(device: Any) -> None:
    """A batch norm of many rows has one launch in a recording, where it had two."""
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)

    def many() -> sym.Symbol:
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=64, pad=1, name="c1")
        return sym.BatchNorm(y, name="n1")

    nodes, found = [], []
    for gains in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SHAPES, "x", (9, 32, 32, 4))
            executor = bind(device, gains, many)
        fill_randomly(executor, 5)
        recording = device.record(lambda executor=executor: executor.forward(is_train=True))
        nodes.append(recording.nodes)
        recording.launch()
        found.append({"output": np.array(executor.outputs[0])})
    assert nodes == [2, 3]
    assert_alike(*found, 3e-5)


def test_the_models_choice(device: Any) -> None:
    """Unpatched, moments are left where two launches become one, and not where x is small."""
    if device.name == "numpy":
        return

    def sizes(batch: int) -> list[str]:
        def graph() -> sym.Symbol:
            y = sym.Convolution(
                sym.Variable("x"), kernel=4, num_filter=128, stride=2, pad=1, name="c1"
            )
            return sym.BatchNorm(y, name="n1")

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SHAPES, "x", (batch, 32, 32, 64))
            return left(bind(device, None, graph))

    assert sizes(64) == MADE
    assert sizes(1) == []
