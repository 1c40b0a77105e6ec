"""Three steps of the lesson's GAN against MXNet's record of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lesson_record
import numpy as np
import pytest
from lesson_record import BATCH, BETA1, LEARNING_RATE, STEPS, Record

from pygan import layout, networks, optimizer

# The spread of MXNet's own float32 variants (two backends, one thread or two) against a float64
# calculation, worst array, relative to its largest magnitude; a fourfold allowance covers another
# order of summation. Parameters are compared absolutely: where a gradient is nearly 0, Adam's first
# steps have the size of the learning rate and the sign of the rounding error.
ALLOWANCE = 4
IMAGES = ALLOWANCE * 1.3e-6
LOSSES = ALLOWANCE * 3e-7
IMAGE_GRADIENTS = ALLOWANCE * 6e-6
GRADIENTS = ALLOWANCE * 1.2e-5
STATISTICS = ALLOWANCE * 3e-6
PREDICTIONS = ALLOWANCE * 1.6e-6
PARAMETERS = ALLOWANCE * 0.05 * LEARNING_RATE


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


class Steps:
    """The lesson's three-pass step, keeping what the record holds, in MXNet's layout."""

    def __init__(self, device: Any) -> None:
        noise, image, label = (BATCH, 1, 1, 10), (BATCH, 28, 28, 1), (BATCH, 1, 1, 1)
        self.gen = networks.lesson_generator().bind(device, {"noise": noise})
        self.dis = networks.lesson_discriminator().bind(device, {"img": image, "label": label})
        self.networks = {"gen": self.gen, "dis": self.dis}
        start, self.inputs = lesson_record.start_and_inputs()
        for network, executor in self.networks.items():
            for name in executor.parameter_names:
                executor.arg_dict[name][...] = layout.from_mxnet(start[f"{network}/{name}"])
        adam = {"learning_rate": LEARNING_RATE, "beta1": BETA1}
        self.gen_adam = optimizer.Adam(self.gen, **adam)
        self.dis_adam = optimizer.Adam(self.dis, **adam)
        self.results: dict[str, np.ndarray] = {}

    def keep(self, key: str, array: Any) -> None:
        self.results[key] = layout.to_mxnet(np.array(array))

    def keep_gradients(self, key: str, executor: Any) -> None:
        for name, gradient in executor.grad_dict.items():
            self.keep(f"{key}/{'data' if name == 'noise' else name}", gradient)

    def run(self) -> dict[str, np.ndarray]:
        for step in STEPS:
            self.step(step)
        self.evaluate()
        return self.results

    def step(self, step: str) -> None:
        gen, dis = self.gen, self.dis
        gen.forward(is_train=True, noise=layout.to_nhwc(self.inputs[f"{step}/noise"]))
        self.keep(f"{step}/gen_img", gen.outputs[0])
        real = layout.to_nhwc(self.inputs[f"{step}/img"])
        for name, image, label in (("fake", gen.outputs[0], 0), ("real", real, 1)):
            dis.forward(is_train=True, img=image, label=label)
            dis.backward()
            self.keep(f"{step}/loss_{name}", dis.outputs[0])
            if step == "it1":
                self.keep_gradients(f"it1/grad_{name}", dis)
            self.dis_adam.update()
        dis.forward(is_train=True, img=gen.outputs[0], label=1)
        dis.backward()
        self.keep(f"{step}/loss_gen", dis.outputs[0])
        self.keep(f"{step}/img_grad", dis.grad_dict["img"])
        gen.backward(out_grads=[dis.grad_dict["img"]])
        if step == "it1":
            self.keep_gradients("it1/grad_dgen", dis)
            self.keep_gradients("it1/grad_gen", gen)
        self.gen_adam.update()
        if step in ("it1", "it3"):
            for network, executor in self.networks.items():
                for name in executor.parameter_names:
                    self.keep(f"after{step[2:]}/{network}/{name}", executor.arg_dict[name])
                for name, array in executor.aux_dict.items():
                    self.keep(f"after{step[2:]}/{network}_aux/{name}", array)

    def evaluate(self) -> None:
        self.gen.forward(noise=layout.to_nhwc(self.inputs["eval/noise"]))
        self.keep("eval/gen_img", self.gen.outputs[0])
        self.dis.forward(img=layout.to_nhwc(self.inputs["eval/img"]))
        self.keep("eval/dis_pred", self.dis.outputs[1])


@pytest.fixture(scope="module")
def results(device: Any) -> dict[str, np.ndarray]:
    return Steps(device).run()


@pytest.fixture(scope="module")
def small_record() -> Iterator[Record]:
    with np.load(lesson_record.SMALL_RECORD) as arrays:
        yield Record(dict(arrays))


def require_all(record: Record, results: dict[str, np.ndarray]) -> None:
    """Every result of the record is computed, and agrees."""
    assert record.results == set(results)
    for key, values in results.items():
        record.require(key, values, **tolerance(key))


def test_three_steps_reproduce_mxnet(small_record: Record, results: dict) -> None:
    require_all(small_record, results)


def test_three_steps_reproduce_every_recorded_element(golden_dir: Any, results: dict) -> None:
    with np.load(golden_dir / "a_gan.npz") as arrays:
        require_all(Record(dict(arrays)), results)


@pytest.mark.parametrize("key", ["it1/grad_gen/gen_deconv2_weight", "it1/gen_img", "it2/loss_gen"])
def test_the_comparison_notices_what_is_wrong(key: str) -> None:
    """NaN anywhere, a small error everywhere, and two elements exchanged, outside a sample too."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal(3 * 5 * 7 * 11).astype(np.float32)
    record = Record(dict(lesson_record.digest(key, values)))
    assert (key in record.arrays) == (values.size <= 2 * lesson_record.SAMPLE_SIZE)
    record.require(key, values, **tolerance(key))
    place = next(i for i in range(values.size) if i not in lesson_record.sample_places(key, 1155))
    poisoned, shifted, exchanged = values.copy(), values * np.float32(1.001), values.copy()
    poisoned[place] = np.nan
    exchanged[place : place + 2] = values[place : place + 2][::-1]
    for wrong in (poisoned, shifted, exchanged):
        with pytest.raises(AssertionError, match=key):
            record.require(key, wrong, **tolerance(key))
