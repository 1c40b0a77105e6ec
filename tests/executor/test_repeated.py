"""The same pass again and again: same bits each time, launched and replayed with its branches.

A barrier that lacks, a copy that is read too early or memory that nothing wrote shows on a GPU as a
result that now and then differs; so a GPU repeats it often. The CPU driver, whose order of events
is always the same, does it to keep the test itself right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly
from test_executor import everything

import pygan.device
from pygan import networks
from pygan.bindings.operators.plans.choice import plan_of_sides
from pygan.optimizer import Adam

REPEATS = {"cpu": 2, "cuda": 60}
WAYS = {
    "float32": {},
    "cooperative": {"cooperative": True},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "bf16 stored": {"precision": "bf16", "storage": "bf16"},
    "tf32 wgmma": {"precision": "tf32"},
    "bf16 wgmma": {"precision": "bf16"},
    "bf16 stored wgmma": {"precision": "bf16", "storage": "bf16"},
}


@pytest.fixture(params=WAYS)
def options(
    request: pytest.FixtureRequest, device: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    if device.name == "numpy" or device.check:
        pytest.skip("launches of a device that has some, at full speed")
    if device.name == "cpu" and request.param not in ("float32", "cooperative"):
        pytest.skip("emulated tensor cores take long, and their order of events is always the same")
    wgmma = request.param.endswith("wgmma")
    if wgmma and device.context.device.compute_capability() != (9, 0):
        pytest.skip("wgmma is for GPUs of compute capability 9.0")
    monkeypatch.setenv("PYGAN_WGMMA", "1" if wgmma else "0")
    plan_of_sides.cache_clear()
    yield WAYS[request.param]
    plan_of_sides.cache_clear()


def bound(network: str, device: Any, options: dict[str, Any]) -> Any:
    """A network of the lesson's or of DCGAN's, as wide as tiles are where that takes no time."""
    few = device.name == "cpu"
    graph, shapes = {
        "lesson generator": (networks.lesson_generator, {"noise": (1 if few else 32, 1, 1, 10)}),
        "lesson discriminator": (
            networks.lesson_discriminator,
            {"img": (2 if few else 32, 28, 28, 1), "label": (2 if few else 32, 1, 1, 1)},
        ),
        "dcgan generator": (
            lambda: networks.dcgan_generator(2 if few else 64),
            {"rand": (1 if few else 16, 1, 1, 100)},
        ),
        "dcgan discriminator": (
            lambda: networks.dcgan_discriminator(2 if few else 64),
            {"data": (1 if few else 16, 64, 64, 3)},
        ),
    }[network]
    symbol = graph()
    shapes = {name: shape for name, shape in shapes.items() if name in symbol.list_arguments()}
    return symbol.bind(device, shapes, branches=True, **options)


def step_of(executor: Any, device: Any) -> Callable[[], None]:
    """A pass forward and backward, on numbers that leave all sums of order 1."""
    fill_randomly(executor, 3)
    for name, array in executor.arg_dict.items():
        if name.endswith("weight"):
            array[...] = np.asarray(array) / np.sqrt(np.prod(array.shape[1:]) + array.shape[0])
    heads = [
        None
        if given is None
        else device.from_numpy(np.cos(np.arange(given.size, dtype=np.float32)).reshape(given.shape))
        for given in executor.head_gradients
    ]

    def step() -> None:
        executor.forward(is_train=True)
        executor.backward(heads)

    return step


def results(executor: Any) -> dict[str, np.ndarray]:
    outputs = {f"output {i}": np.array(output) for i, output in enumerate(executor.outputs)}
    return outputs | {f"gradient {n}": np.array(g) for n, g in executor.grad_dict.items()}


@pytest.mark.parametrize(
    "network",
    ["lesson generator", "lesson discriminator", "dcgan generator", "dcgan discriminator"],
)
def test_the_bits_of_every_run(device: Any, network: str, options: dict[str, Any]) -> None:
    if device.name == "cpu" and network.endswith("generator"):
        pytest.skip("takes long, and has no launches that the others have not")
    executor = bound(network, device, options)
    step = step_of(executor, device)
    step()
    expected = results(executor)
    assert all(np.isfinite(array).all() for array in expected.values())
    runs = [("launched", step)]
    if device.cannot_record() is None:
        runs.append(("replayed", device.record(step).launch))
    for how, run in runs:
        for number in range(REPEATS[device.name]):
            for array in (*executor.outputs, *executor.grad_dict.values()):
                array.fill(np.nan)
            run()
            for name, array in results(executor).items():
                same = np.array_equal(array, expected[name])
                assert same, f"{name} of {network}, {how}: other bits in run {number}"


def test_check_mode_has_the_bits_of_full_speed(device: Any) -> None:
    """What is found right there is right here: the compiler fuses no products and sums of its own
    in either, though only one of them is compiled for this processor's instructions."""
    if device.name != "cpu" or device.check:
        pytest.skip("the CPU driver has a check mode, and is compared with it once")
    found = []
    for each in (device, pygan.device.get("cpu", check=True)):
        executor = everything().bind(each, {"x": (4, 6, 6, 2), "gate": (1, 1, 1, 3)})
        step = step_of(executor, each)
        optimizer = Adam(executor, learning_rate=0.1, weight_decay=0.01)
        for _ in range(2):
            step()
            optimizer.update()
        found.append(results(executor) | {n: np.array(a) for n, a in executor.arg_dict.items()})
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)
