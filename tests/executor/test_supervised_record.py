"""Three steps of the variational auto-encoders and of LeNet against MXNet's records of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import supervised_record
from lesson_record import BATCH, STEPS, Record
from supervised_record import NETWORKS

from pygan import layout, networks, optimizer

LEARNING_RATE = 1e-3
POOLED = (4, 4, 20)  # LeNet's last image, flattened before fc1: (H, W, C)

# The spread of MXNet's own float32 variants against float64, and four times that; see the lesson's.
ALLOWANCE = 4
LOSSES = ALLOWANCE * 8e-8
GRADIENTS = {"vae32": ALLOWANCE * 7e-7, "vae2": ALLOWANCE * 7e-7, "lenet": ALLOWANCE * 4e-6}
PREDICTIONS = ALLOWANCE * 5e-7
PARAMETERS = ALLOWANCE * 2e-7


def tolerance(name: str, key: str) -> dict[str, float]:
    step, *rest = key.split("/")
    if step.startswith("after"):
        return {"absolute": PARAMETERS}
    if step == "eval":
        return {"relative": PREDICTIONS}
    return {"relative": LOSSES if rest[0] == "loss" else GRADIENTS[name]}


def ours(name: str, key: str, array: np.ndarray) -> np.ndarray:
    if (name, key) == ("lenet", "fc1_weight"):
        return layout.fully_connected_to_nhwc(array, POOLED)
    return layout.from_mxnet(array)


def mxnets(name: str, key: str, array: np.ndarray) -> np.ndarray:
    if (name, key) == ("lenet", "fc1_weight"):
        return layout.fully_connected_to_nchw(array, POOLED)
    return layout.to_mxnet(array)


def images(inputs: dict[str, np.ndarray], step: str) -> dict[str, np.ndarray]:
    names = ("data", "label", "encoder_noise")
    return {n: layout.from_mxnet(inputs[f"{step}/{n}"]) for n in names if f"{step}/{n}" in inputs}


def bind(name: str, device: Any, inputs: dict[str, np.ndarray]) -> Any:
    graph = networks.lenet() if name == "lenet" else networks.AUTOENCODERS[name].training_graph()
    return graph.bind(device, {n: array.shape for n, array in images(inputs, "it1").items()})


def run(name: str, device: Any) -> dict[str, np.ndarray]:
    """What the record holds, in MXNet's layout."""
    start, inputs = NETWORKS[name].start_and_inputs()
    net = bind(name, device, inputs)
    assert set(start) == set(net.parameter_names)
    for key, values in start.items():
        net.arg_dict[key][...] = ours(name, key, values)
    adam = optimizer.Adam(net, learning_rate=LEARNING_RATE, weight_decay=1e-4)
    losses = [i for i, n in enumerate(net.symbol.list_outputs()) if n.endswith("_loss")]
    found = {}
    for step in STEPS:
        net.forward(is_train=True, **images(inputs, step))
        net.backward()
        found[f"{step}/loss"] = sum(np.array(net.outputs[i], np.float64) for i in losses)
        if step == "it1":
            for key, gradient in net.grad_dict.items():
                found[f"it1/grad/{key}"] = mxnets(name, key, np.array(gradient))
        adam.update()
        if step in ("it1", "it3"):
            for key in net.parameter_names:
                values = mxnets(name, key, np.array(net.arg_dict[key]))
                found[f"after{step[2:]}/net/{key}"] = values
    evaluation = images(inputs, "eval")
    net.forward(**evaluation)
    if name == "lenet":
        found["eval/lenet"] = np.array(net.outputs[1])
    else:
        found["eval/decoder"] = layout.to_mxnet(np.array(net.outputs[-1]))
    if name == "vae32":
        found |= parts(net, device, evaluation["data"])
    return found


def parts(net: Any, device: Any, data: np.ndarray) -> dict[str, np.ndarray]:
    """Encoder and decoder alone, on the trained network's parameters."""
    vae = networks.AUTOENCODERS["vae32"]
    encoder = vae.encoder_graph().bind(device, {"data": data.shape}, "null", shared=net)
    decoder = vae.decoder_graph().bind(device, {"code": (BATCH, 32)}, "null", shared=net)
    mean, sd = encoder.forward(data=data)
    decoder.forward(code=mean)
    return {
        "eval/encoder_mean": np.array(mean),
        "eval/encoder_sd": np.array(sd),
        "eval/recon_from_mean": layout.to_mxnet(np.array(decoder.outputs[0])),
    }


def require_all(name: str, arrays: dict[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    record = Record(arrays)
    held = {key for key in record.results if supervised_record.is_result(key)}
    assert held == set(results)
    for key, values in results.items():
        record.require(key, values, **tolerance(name, key))


@pytest.fixture(scope="module", params=list(NETWORKS))
def name_and_results(request: pytest.FixtureRequest, device: Any) -> tuple[str, dict]:
    return request.param, run(request.param, device)


def test_three_steps_reproduce_mxnet(name_and_results: tuple[str, dict]) -> None:
    name, results = name_and_results
    with np.load(supervised_record.small_record(name)) as arrays:
        require_all(name, dict(arrays), results)


def test_three_steps_reproduce_every_recorded_element(
    golden_dir: Any, name_and_results: tuple[str, dict]
) -> None:
    name, results = name_and_results
    with np.load(golden_dir / f"e_{name}.npz") as arrays:
        require_all(name, dict(arrays), results)


def test_the_small_records_notice_a_forgotten_permutation(device: Any) -> None:
    """LeNet's fully connected weight left in MXNet's order, as a careless loader would."""
    results = run("lenet", device)
    key = "after1/net/fc1_weight"
    results[key] = layout.fully_connected_to_nhwc(results[key], POOLED)
    with np.load(supervised_record.small_record("lenet")) as file:
        arrays = dict(file)
    with pytest.raises(AssertionError, match=key):
        require_all("lenet", arrays, results)
