"""Executors whose small layers run as programs: the numbers of separate launches."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import pygan.device
from pygan import networks, symbol
from pygan.bindings.errors import LaunchError
from pygan.bindings.job import MOST_JOBS
from pygan.errors import GraphError
from pygan.executor import cooperative_scope
from pygan.working_memory import WorkingMemory

BATCH = 3

# Sums of products are added in the same order, but those of batch norm in other groups where more
# blocks share its rows: a few roundings each, which the layers behind them grow. A loss near 0 has
# the absolute error of its logit as its relative one.
TOLERANCE = 2.0**-15


def bind(device: Any, network: str, request: str = "write", **options: Any) -> Any:
    if network == "discriminator":
        shapes = {"img": (BATCH, 28, 28, 1), "label": (BATCH, 1, 1, 1)}
        sym = networks.lesson_discriminator()
        requests = dict.fromkeys(sym.list_arguments(), request) | {"label": "null"}
        return symbol.bind(sym, device, shapes, requests, **options)
    shapes = {"noise": (BATCH, 1, 1, 10)}
    return symbol.bind(narrow_generator(), device, shapes, request, **options)


def narrow_generator() -> Any:
    """The lesson's, narrow enough for the CPU driver."""
    sym = symbol
    with sym.name_scope():
        x = sym.Variable("noise")
        x = sym.TransposedConvolution(x, kernel=4, num_filter=16, no_bias=True)
        x = sym.Activation(sym.BatchNorm(x, fix_gamma=False), kind="relu")
        x = sym.TransposedConvolution(x, kernel=3, stride=2, pad=1, num_filter=8, no_bias=True)
        x = sym.Activation(sym.BatchNorm(x), kind="relu")
        return sym.TransposedConvolution(x, kernel=4, stride=2, pad=1, num_filter=8)


def start(executor: Any) -> None:
    rng = np.random.default_rng(2)
    for array in executor.arg_dict.values():
        array[...] = (0.3 * rng.standard_normal(array.shape)).astype(np.float32)
    if "label" in executor.arg_dict:
        executor.arg_dict["label"][...] = 1.0


def passes(executor: Any) -> dict[str, np.ndarray]:
    """Everything that a forward and a backward leave behind."""
    start(executor)
    outputs = [np.array(output) for output in executor.forward(is_train=True)]
    given = None
    if executor.head_gradients[0] is not None:
        rng = np.random.default_rng(3)
        given = [rng.standard_normal(outputs[0].shape).astype(np.float32)]
    executor.backward(given)
    found = {f"output {i}": output for i, output in enumerate(outputs)}
    found |= {f"gradient {name}": np.array(g) for name, g in executor.grad_dict.items()}
    found |= {f"moved {name}": np.array(a) for name, a in executor.aux_dict.items()}
    inference = executor.forward(is_train=False)
    return found | {f"inference {i}": np.array(output) for i, output in enumerate(inference)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        allowed = TOLERANCE * np.abs(array).max()
        np.testing.assert_allclose(found[name], array, rtol=0, atol=allowed, err_msg=name)


@pytest.fixture(params=os.environ.get("PYGAN_TEST_DEVICES", "cpu").split(","))
def kernels(request: pytest.FixtureRequest) -> Any:
    """A device that launches."""
    name, _, mode = request.param.strip().partition("-")
    return pygan.device.get(name, check=mode == "check")


@pytest.mark.parametrize("network", ["discriminator", "generator"])
@pytest.mark.parametrize("branches", [False, True])
def test_passes_agree_with_separate_launches(kernels: Any, network: str, branches: bool) -> None:
    apart = bind(kernels, network, branches=branches)
    together = bind(kernels, network, branches=branches, cooperative=True)
    assert apart.programs == []
    expected = passes(apart)
    assert_same(passes(together), expected)
    sizes = sorted(len(program.jobs) for program in together.programs)
    if network == "discriminator":
        # inference and forward: all layers and the loss; backward: all but the first's weights
        assert sizes == [12, 13, 15]
    else:
        assert len(sizes) >= 3
    # again, on what the first left behind
    assert_same(passes(together), passes(apart))


def test_passes_in_check_mode() -> None:
    """Every access is one of an array of the program, and no job races with another."""
    if "cuda" in os.environ.get("PYGAN_TEST_DEVICES", ""):
        pytest.skip("check mode is the CPU driver's")
    checked = pygan.device.get("cpu", check=True)
    for network in ("discriminator", "generator"):
        together = bind(checked, network, branches=True, cooperative=True)
        assert together.programs
        assert_same(passes(together), passes(bind(checked, network)))


@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_gradients_are_added(kernels: Any, network: str) -> None:
    found = []
    for cooperative in (False, True):
        executor = bind(kernels, network, "add", cooperative=cooperative)
        executor.gradients.fill(0.5)
        image = "img" if network == "discriminator" else "noise"
        executor.grad_dict[image].fill(0.25)
        found.append(passes(executor))
    assert_same(found[1], found[0])


def test_two_executors_in_one_working_memory(kernels: Any) -> None:
    """Each of their programs finds its own numbers, whatever the other's have left behind."""
    apart = bind(kernels, "discriminator")
    expected = passes(apart)
    working = WorkingMemory()
    first = bind(kernels, "discriminator", cooperative=True, working_memory=working)
    options = {"shared": first, "working_memory": working, "cooperative": True}
    second = bind(kernels, "discriminator", **options)
    statistics = np.array(first.auxiliary)
    for executor in (first, second, first):
        executor.auxiliary[...] = statistics
        assert_same(passes(executor), expected)


def test_more_calls_than_a_program_holds_are_several_programs(kernels: Any) -> None:
    with symbol.name_scope():
        x = symbol.Variable("x")
        for _ in range(MOST_JOBS + 4):
            x = symbol.Convolution(x, kernel=1, num_filter=1, no_bias=True)
    found, images = [], np.linspace(-2, 2, 6).reshape(2, 3, 1, 1)
    for cooperative in (False, True):
        executor = x.bind(kernels, {"x": images.shape}, cooperative=cooperative)
        kernels.ops.fill(executor.parameters, value=1.01)
        found.append(np.array(executor.forward(x=images)[0]))
    assert np.array_equal(found[1], found[0]) and np.all(np.abs(found[0]) > 0.4)
    sizes = [len(program.jobs) for program in executor.programs]
    assert sizes == 2 * [MOST_JOBS, 4]


def test_the_limit_says_which_layers_are_small(kernels: Any) -> None:
    most = {}
    for limit in (0.5, 7.0, 1e6):
        executor = bind(kernels, "discriminator", cooperative=True, cooperative_limit=limit)
        jobs = [job for program in executor.programs for job in program.jobs]
        assert all(job.microseconds <= limit for job in jobs)
        most[limit] = len(jobs)
    assert 0 < most[0.5] < most[7.0] <= most[1e6]
    with cooperative_scope(limit=0.5):
        executor = bind(kernels, "discriminator")
    assert sum(len(program.jobs) for program in executor.programs) == most[0.5]
    for limit in (0, "7", float("nan")):
        with pytest.raises(GraphError, match="cooperative_limit is"):
            bind(kernels, "discriminator", cooperative=True, cooperative_limit=limit)


def test_recorded_passes(kernels: Any) -> None:
    if (reason := kernels.cannot_record()) is not None:
        pytest.skip(reason)
    executor = bind(kernels, "discriminator", branches=True, cooperative=True)
    expected = passes(executor)

    def both() -> None:
        executor.forward(is_train=True)
        executor.backward()

    recorded = kernels.record(both)
    apart = bind(kernels, "discriminator", branches=True)
    passes(apart)

    def separate() -> None:
        apart.forward(is_train=True)
        apart.backward()

    assert recorded.nodes < kernels.record(separate).nodes - 15
    for name in executor.grad_dict:
        executor.grad_dict[name].fill(np.nan)
    start(executor)
    recorded.launch()
    for name, gradient in executor.grad_dict.items():
        np.testing.assert_array_equal(gradient, expected[f"gradient {name}"], err_msg=name)


def test_a_backward_that_never_ran_is_not_recorded(kernels: Any) -> None:
    if (reason := kernels.cannot_record()) is not None:
        pytest.skip(reason)
    executor = bind(kernels, "discriminator", cooperative=True)
    executor.forward(is_train=True)
    with pytest.raises(LaunchError, match="run the pass once before it is recorded"):
        kernels.record(executor.backward)


def test_scope_and_refusal(kernels: Any) -> None:
    with cooperative_scope():
        assert bind(kernels, "discriminator").programs
        assert not bind(kernels, "discriminator", cooperative=False).programs
    assert not bind(kernels, "discriminator").programs
    with pytest.raises(GraphError, match="cooperative=True is not available: device numpy"):
        bind(pygan.device.get("numpy"), "discriminator", cooperative=True)
    with pytest.raises(GraphError, match="device numpy"), cooperative_scope():
        bind(pygan.device.get("numpy"), "discriminator")


def test_products_in_other_precisions_are_launched(kernels: Any) -> None:
    executor = bind(kernels, "discriminator", cooperative=True, precision="bf16")
    operations = {job.operation for program in executor.programs for job in program.jobs}
    assert not operations & {"forward", "backward_data", "backward_weight"}
