"""Three steps of the conditional GAN against MXNet's record of them."""

from __future__ import annotations

from typing import Any

import conditional_record
import numpy as np
import pytest
from conditional_record import BETA1, LEARNING_RATE
from lesson_record import BATCH, STEPS, Record

from pygan import layout, networks, optimizer

# As for the lesson's GAN: the spread of MXNet's own float32 variants, and four times that.
ALLOWANCE = 4
IMAGES = ALLOWANCE * 1.2e-6
LOSSES = ALLOWANCE * 1.5e-7
IMAGE_GRADIENTS = ALLOWANCE * 1e-5
GRADIENTS = ALLOWANCE * 1.5e-5
STATISTICS = ALLOWANCE * 3e-6
PREDICTIONS = ALLOWANCE * 1.6e-6
PARAMETERS = ALLOWANCE * 0.02 * LEARNING_RATE


def tolerance(key: str) -> dict[str, float]:
    step, *rest = key.split("/")
    if step.startswith("after"):
        statistics = rest[0].endswith("_aux")
        return {"relative": STATISTICS} if statistics else {"absolute": PARAMETERS}
    if step == "eval":
        return {"relative": PREDICTIONS}
    if rest[0].startswith("loss"):
        return {"relative": LOSSES}
    if rest[0].startswith("grad"):
        return {"relative": GRADIENTS}
    return {"relative": IMAGES if rest[0] == "gen_img" else IMAGE_GRADIENTS}


@pytest.fixture(scope="module")
def results(device: Any) -> dict[str, np.ndarray]:
    start, recorded = conditional_record.start_and_inputs()
    inputs = {name: layout.to_nhwc(values) for name, values in recorded.items()}
    one_each, noise, image = (BATCH, 1, 1, 1), (BATCH, 1, 1, 10), (BATCH, 28, 28, 1)
    gen = networks.conditional_generator().bind(device, {"noise": noise, "digit": noise})
    dis = networks.conditional_discriminator().bind(
        device, {"img": image, "digit": noise, "label": one_each}
    )
    executors = {"gen": gen, "dis": dis}
    for network, executor in executors.items():
        for name in executor.parameter_names:
            executor.arg_dict[name][...] = layout.from_mxnet(start[f"{network}/{name}"])
    adam = {"learning_rate": LEARNING_RATE, "beta1": BETA1}
    gen_adam, dis_adam = optimizer.Adam(gen, **adam), optimizer.Adam(dis, **adam)
    found = {}

    def keep(key: str, array: Any) -> None:
        found[key] = layout.to_mxnet(np.array(array))

    def keep_gradients(key: str, executor: Any) -> None:
        for name, gradient in executor.grad_dict.items():
            keep(f"{key}/{'data' if name == 'noise' else name}", gradient)

    def discriminate(step: str, which: str, image: Any, digit: str) -> None:
        given = {"digit": inputs[f"{step}/{digit}"], "label": inputs[f"{step}/label_{which}"]}
        dis.forward(is_train=True, img=image, **given)
        dis.backward()
        keep(f"{step}/loss_{which}", dis.outputs[0])

    for step in STEPS:
        digit = inputs[f"{step}/digit_fake"]
        gen.forward(is_train=True, noise=inputs[f"{step}/noise"], digit=digit)
        keep(f"{step}/gen_img", gen.outputs[0])
        for which, images in (("fake", gen.outputs[0]), ("real", inputs[f"{step}/img"])):
            discriminate(step, which, images, f"digit_{which}")
            if step == "it1":
                keep_gradients(f"it1/grad_{which}", dis)
            dis_adam.update()
        discriminate(step, "gen", gen.outputs[0], "digit_fake")
        keep(f"{step}/img_grad", dis.grad_dict["img"])
        gen.backward(out_grads=[dis.grad_dict["img"]])
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
    gen.forward(noise=inputs["eval/noise"], digit=inputs["eval/digit"])
    keep("eval/gen_img", gen.outputs[0])
    dis.forward(img=inputs["eval/img"], digit=inputs["eval/digit"])
    keep("eval/dis_pred", dis.outputs[1])
    return found


def require_all(record: Record, results: dict[str, np.ndarray]) -> None:
    """Every result of the record is computed, and agrees."""
    assert record.results == set(results)
    for key, values in results.items():
        record.require(key, values, **tolerance(key))


def test_three_steps_reproduce_mxnet(results: dict) -> None:
    with np.load(conditional_record.SMALL_RECORD) as arrays:
        require_all(Record(dict(arrays)), results)


def test_three_steps_reproduce_every_recorded_element(golden_dir: Any, results: dict) -> None:
    with np.load(golden_dir / "b_cgan.npz") as arrays:
        require_all(Record(dict(arrays)), results)
