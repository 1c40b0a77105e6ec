"""Three steps of MXNet's DCGAN example against MXNet's record of them."""

from __future__ import annotations

from typing import Any

import dcgan_record
import numpy as np
import pytest
from dcgan_record import BATCH, BETA1, FILTERS, LEARNING_RATE, NOISE
from lesson_record import STEPS, Record

from pygan import layout, networks, optimizer

# As for the lesson's GAN: the spread of MXNet's own float32 variants, and four times that.
ALLOWANCE = 4
IMAGES = ALLOWANCE * 4e-6
PROBABILITIES = LOSSES = ALLOWANCE * 1.6e-6
IMAGE_GRADIENTS = ALLOWANCE * 3e-6
GRADIENTS = ALLOWANCE * 1e-5
STATISTICS = ALLOWANCE * 5e-6
PARAMETERS = ALLOWANCE * 0.055 * LEARNING_RATE


def tolerance(key: str) -> dict[str, float]:
    step, *rest = key.split("/")
    if step.startswith("after"):
        statistics = rest[0].endswith("_aux")
        return {"relative": STATISTICS} if statistics else {"absolute": PARAMETERS}
    if rest[0] == "gen_img":
        return {"relative": IMAGES}
    if rest[0] == "img_grad":
        return {"relative": IMAGE_GRADIENTS}
    if rest[0].startswith("grad"):
        return {"relative": GRADIENTS}
    return {"relative": LOSSES if rest[0].startswith("loss") else PROBABILITIES}


@pytest.fixture(scope="module")
def results(device: Any) -> dict[str, np.ndarray]:
    start, recorded = dcgan_record.start_and_inputs()
    inputs = {name: layout.to_nhwc(values) for name, values in recorded.items()}
    gen = networks.dcgan_generator(FILTERS).bind(device, {"rand": (BATCH, 1, 1, NOISE)})
    symbol = networks.dcgan_discriminator(FILTERS)
    shapes = {"data": (BATCH, 64, 64, 3), "label": (BATCH, 1)}
    added = dict.fromkeys(symbol.list_arguments(), "add") | {"data": "write", "label": "null"}
    dis = symbol.bind(device, shapes, added)
    # What the real pass alone adds is asked of a second executor.
    alone = symbol.bind(device, shapes, {"label": "null"})
    executors = {"gen": gen, "dis": dis}
    for network, executor in (*executors.items(), ("dis", alone)):
        for name in executor.parameter_names:
            executor.arg_dict[name][...] = layout.from_mxnet(start[f"{network}/{name}"])
    adam = {"learning_rate": LEARNING_RATE, "beta1": BETA1, "rescale_grad": 1 / BATCH}
    gen_adam, dis_adam = optimizer.Adam(gen, **adam), optimizer.Adam(dis, **adam)
    found = {}

    def keep(key: str, array: Any) -> None:
        found[key] = layout.to_mxnet(np.array(array))

    def keep_gradients(key: str, executor: Any, but: str = "") -> None:
        for name, gradient in executor.grad_dict.items():
            if name != but:
                keep(f"{key}/{name}", gradient)

    def discriminate(step: str, which: str, image: Any, label: float) -> None:
        dis.forward(is_train=True, data=image, label=label)
        dis.backward()
        keep(f"{step}/p_{which}", dis.outputs[0])
        right = np.abs(1 - label - np.array(dis.outputs[0], np.float64))
        keep(f"{step}/loss_{which}", -np.log(right).mean())

    alone.forward(is_train=True, data=inputs["it1/img"], label=1)
    alone.backward()
    keep_gradients("it1/grad_real", alone)
    for step in STEPS:
        gen.forward(is_train=True, rand=inputs[f"{step}/rand"])
        keep(f"{step}/gen_img", gen.outputs[0])
        dis.zero_gradients()
        discriminate(step, "fake", gen.outputs[0], 0)
        if step == "it1":
            keep_gradients("it1/grad_fake", dis)
        discriminate(step, "real", inputs[f"{step}/img"], 1)
        if step == "it1":
            keep_gradients("it1/grad_sum", dis, but="data")
        dis_adam.update()
        dis.zero_gradients()
        discriminate(step, "gen", gen.outputs[0], 1)
        keep(f"{step}/img_grad", dis.grad_dict["data"])
        gen.backward(out_grads=[dis.grad_dict["data"]])
        if step == "it1":
            keep_gradients("it1/grad_dgen", dis)
            keep_gradients("it1/grad_gen", gen)
        gen_adam.update()
        if step in ("it1", "it3"):
            for network, executor in executors.items():
                for name in executor.parameter_names:
                    keep(f"after{step[2:]}/{network}/{name}", executor.arg_dict[name])
                for name, array in executor.aux_dict.items():
                    keep(f"after{step[2:]}/{network}_aux/{name}", array)
    gen.forward(rand=inputs["eval/rand"])
    keep("eval/gen_img", gen.outputs[0])
    dis.forward(data=inputs["eval/img"])
    keep("eval/dis_pred", dis.outputs[0])
    return found


def require_all(arrays: dict[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    """Every result of the record is computed, and agrees."""
    record = Record(arrays)
    assert {key for key in record.results if dcgan_record.is_result(key)} == set(results)
    for key, values in results.items():
        record.require(key, values, **tolerance(key))


def test_three_steps_reproduce_mxnet(results: dict) -> None:
    with np.load(dcgan_record.SMALL_RECORD) as arrays:
        require_all(dict(arrays), results)


def test_three_steps_reproduce_every_recorded_element(golden_dir: Any, results: dict) -> None:
    with np.load(golden_dir / "c_dcgan.npz") as arrays:
        require_all(dict(arrays), results)
