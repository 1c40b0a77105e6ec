"""The recorded steps of the conditional GAN: how the record came about.

As in `lesson_record`, MXNet 1.9.1 ran three steps of batch 8. Start and inputs come from one
``numpy.random.RandomState(148)``: the parameters uniform on [-0.05, 0.05); then for each step the
noise, the real images, the digits of the real and of the generated images, ten label values on
[0, 0.1) for real images and ten on [0.9, 1) for generated ones, of which the batch takes the first
eight. The evaluation has noise, images and the digits 0 to 7. The generator's target is 0.
"""

from __future__ import annotations

import lesson_record
import numpy as np
from lesson_record import BATCH, STEPS

SEED = 148
SCALE = 0.05
LEARNING_RATE, BETA1 = 2e-4, 0.5
SMALL_RECORD = lesson_record.SMALL_RECORD.with_name("conditional_gan.npz")

PARAMETERS = {
    "gen": lesson_record.PARAMETERS["gen"] | {"gen_deconv1_weight": (20, 256, 4, 4)},
    "dis": lesson_record.PARAMETERS["dis"] | {"dis_conv1_weight": (24, 10, 3, 3)},
}
"""Shapes in MXNet's layout."""


def start_and_inputs() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Initial parameters by ``gen/name`` or ``dis/name``, and inputs by ``it1/noise`` and so on."""
    rng = np.random.RandomState(SEED)

    def digits() -> np.ndarray:
        return np.eye(10)[rng.randint(0, 10, BATCH)].reshape(BATCH, 10, 1, 1)

    def labels(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, 10)[:BATCH].reshape(BATCH, 1, 1, 1)

    start = {}
    for network, shapes in PARAMETERS.items():
        for name, shape in shapes.items():
            drawn = None if name.endswith("_gamma") else rng.uniform(-SCALE, SCALE, shape)
            values = np.ones(shape) if drawn is None else drawn
            start[f"{network}/{name}"] = values.astype(np.float32)
    inputs = {}
    for step in (*STEPS, "eval"):
        inputs[f"{step}/noise"] = rng.standard_normal((BATCH, 10, 1, 1))
        inputs[f"{step}/img"] = rng.uniform(0, 1, (BATCH, 1, 28, 28))
        if step == "eval":
            inputs["eval/digit"] = np.eye(10)[:BATCH].reshape(BATCH, 10, 1, 1)
            continue
        inputs[f"{step}/digit_real"] = digits()
        inputs[f"{step}/digit_fake"] = digits()
        inputs[f"{step}/label_real"] = labels(0, 0.1)
        inputs[f"{step}/label_fake"] = labels(0.9, 1)
        inputs[f"{step}/label_gen"] = np.zeros((BATCH, 1, 1, 1))
    return start, {name: values.astype(np.float32) for name, values in inputs.items()}
