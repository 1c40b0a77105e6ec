"""Three steps of the digit classifier against MXNet's record of them.

The record's start is the trunk of a discriminator that was trained for three steps, with a new last
layer uniform on [-0.05, 0.05), so no seed draws it: the small record holds start, inputs and all
results but the large gradients and parameters, of which it holds digests.
"""

from __future__ import annotations

from typing import Any

import lesson_record
import numpy as np
import pytest
from lesson_record import BATCH, STEPS, Record

from pygan import layout, networks, optimizer

SMALL_RECORD = lesson_record.SMALL_RECORD.with_name("classifier.npz")
LEARNING_RATE = 1e-3

# The spread of MXNet's own float32 variants against float64, and four times that; see the lesson's.
ALLOWANCE = 4
LOSSES = ALLOWANCE * 1.1e-7
GRADIENTS = ALLOWANCE * 5e-6
STATISTICS = ALLOWANCE * 3e-6
PREDICTIONS = ALLOWANCE * 1.6e-6
PARAMETERS = ALLOWANCE * 0.0024 * LEARNING_RATE


def tolerance(key: str) -> dict[str, float]:
    step, *rest = key.split("/")
    if step.startswith("after"):
        statistics = rest[0].endswith("_aux")
        return {"relative": STATISTICS} if statistics else {"absolute": PARAMETERS}
    if step == "eval":
        return {"relative": PREDICTIONS}
    return {"relative": LOSSES if rest[0] == "loss" else GRADIENTS}


def run(device: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the record holds, from its own start and inputs, in MXNet's layout."""
    net = networks.classifier().bind(device, {"data": (BATCH, 28, 28, 1), "label": (BATCH, 10)})
    for name in net.parameter_names:
        net.arg_dict[name][...] = layout.from_mxnet(arrays[f"init/net/{name}"])
    adam = optimizer.Adam(net, learning_rate=LEARNING_RATE, weight_decay=1e-4)
    found = {}

    def keep(key: str, array: Any) -> None:
        found[key] = layout.to_mxnet(np.array(array))

    for step in STEPS:
        images = layout.to_nhwc(arrays[f"{step}/data"])
        net.forward(is_train=True, data=images, label=arrays[f"{step}/label"])
        net.backward()
        keep(f"{step}/loss", net.outputs[0])
        if step == "it1":
            for name, gradient in net.grad_dict.items():
                keep(f"it1/grad/{name}", gradient)
        adam.update()
        if step in ("it1", "it3"):
            for name in net.parameter_names:
                keep(f"after{step[2:]}/net/{name}", net.arg_dict[name])
            for name, array in net.aux_dict.items():
                keep(f"after{step[2:]}/net_aux/{name}", array)
    net.forward(data=layout.to_nhwc(arrays["eval/data"]))
    keep("eval/softmax", net.outputs[1])
    return found


def require_all(device: Any, arrays: dict[str, np.ndarray]) -> None:
    record, results = Record(arrays), run(device, arrays)
    # MXNet's head also states a gradient of the label; ours states none.
    assert record.results - {"it1/grad/label"} == set(results)
    for key, values in results.items():
        record.require(key, values, **tolerance(key))


def test_three_steps_reproduce_mxnet(device: Any) -> None:
    with np.load(SMALL_RECORD) as arrays:
        require_all(device, dict(arrays))


def test_three_steps_reproduce_every_recorded_element(golden_dir: Any, device: Any) -> None:
    with np.load(golden_dir / "d_classifier.npz") as arrays:
        require_all(device, dict(arrays))


def test_a_wrong_parameter_is_noticed(device: Any) -> None:
    with np.load(SMALL_RECORD) as file:
        arrays = dict(file)
    arrays["init/net/fc1_bias"] = arrays["init/net/fc1_bias"] * np.float32(1.001)
    with pytest.raises(AssertionError, match="computed"):
        require_all(device, arrays)
