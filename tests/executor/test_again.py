"""Results of batch norms that backward makes again: the bits of those kept, in less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly
from test_lifetimes import assert_apart, parts

from pygan import symbol as sym
from pygan.executor import launches

SHAPES = {"x": (2, 12, 12, 8)}
AGAIN = "batch_norm_forward_inference"


def layers() -> sym.Symbol:
    """Results that one convolution reads, and one that two do; one that a kernel in float32 could
    normalise, none in bf16."""
    y = sym.Variable("x")
    for i, stride in enumerate((1, 2, 1)):
        y = sym.Convolution(y, kernel=3, num_filter=16, stride=stride, pad=1, name=f"c{i}")
        y = sym.BatchNorm(y, fix_gamma=i == 1, name=f"n{i}")
        y = sym.LeakyReLU(y, slope=0.2, name=f"a{i}") if i else sym.Activation(y, kind="tanh")
    z = sym.Convolution(y, kernel=1, num_filter=16, name="c3")
    z = sym.Add(sym.Activation(sym.BatchNorm(z, name="n3"), kind="relu"), y)
    return sym.TransposedConvolution(z, kernel=4, num_filter=3, stride=2, pad=1, name="t4")


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "LEAST_AGAIN", 1)


def remakes(executor: Any, wanted: list[str] | None = None) -> int:
    names = list(executor.grad_dict) if wanted is None else wanted
    groups = executor._graph.backward([0], names)
    return sum(call.function == AGAIN for group in groups for call in group)


def results(executor: Any, wanted: Any, run: Any) -> dict[str, np.ndarray]:
    fill_randomly(executor, 3)
    for gradient in executor.grad_dict.values():
        gradient[...] = np.ones(gradient.shape, np.float32)
    run()
    found = {name: np.array(array) for name, array in executor.grad_dict.items()}
    return found | {name: np.array(array) for name, array in executor.aux_dict.items()}


@pytest.mark.parametrize("options", [{}, {"branches": True}, {"keep_forward": True}], ids=str)
@pytest.mark.parametrize("wanted", [None, ["c2_weight", "n0_beta"], ["x", "c1_bias"]], ids=str)
@pytest.mark.parametrize("storage", ["float32", "bf16"])
def test_same_bits(device: Any, storage: str, wanted: Any, options: dict[str, Any]) -> None:
    found = []
    halves = {"precision": "bf16", "storage": "bf16"} if storage == "bf16" else {}
    for lean in (False, True):
        executor = layers().bind(device, SHAPES, "add", lean=lean, **halves, **options)
        head = np.cos(np.arange(executor.outputs[0].size)).astype(np.float32)
        given = device.from_numpy(head.reshape(executor.outputs[0].shape))

        def run(executor: Any = executor, given: Any = given) -> None:
            executor.forward(is_train=True)
            for _ in range(1 + executor.keep_forward):
                executor.backward([given], wanted)

        found.append(results(executor, wanted, run))
    if device.name == "numpy":
        assert remakes(executor) == 0
    elif storage == "bf16":
        # The last is read twice; and nothing is made again that nobody reads.
        assert remakes(executor) == 2
        assert remakes(executor, ["c2_weight"]) == 1
        assert remakes(executor, ["x", "c1_bias"]) == 0
    for name, array in found[0].items():
        assert np.isfinite(array).all(), name
        np.testing.assert_array_equal(found[1][name], array, err_msg=name)


@pytest.mark.parametrize("order", ["submitted", "last"])
def test_same_bits_recorded(device: Any, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv("PYGAN_CPU_GRAPH_ORDER", order)
    found = []
    for lean in (False, True):
        executor = layers().bind(
            *(device, SHAPES, "write"),
            **{"lean": lean, "branches": True, "precision": "bf16", "storage": "bf16"},
        )
        given = device.from_numpy(np.ones(executor.outputs[0].shape, np.float32))

        def step(executor: Any = executor, given: Any = given) -> None:
            executor.forward(is_train=True)
            executor.backward([given])

        found.append(results(executor, None, step))
        found.append(results(executor, None, device.record(step).launch))
    for others in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_array_equal(others[name], array, err_msg=name)


@pytest.mark.parametrize("branches", [False, True])
def test_memory(device: Any, branches: bool) -> None:
    options = {"branches": branches, "precision": "bf16", "storage": "bf16"}
    kept, lean = (layers().bind(device, SHAPES, lean=lean, **options) for lean in (False, True))
    for wanted in parts(list(lean.grad_dict)):
        assert_apart(lean, wanted)
    if device.name == "numpy":
        assert lean.memory == kept.memory
    else:
        assert lean.memory.arrays < kept.memory.arrays


def test_small_results_are_kept(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    executor = layers().bind(device, SHAPES, lean=True, precision="bf16", storage="bf16")
    assert remakes(executor) == 0
