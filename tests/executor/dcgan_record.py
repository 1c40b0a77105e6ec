"""The recorded steps of MXNet's DCGAN example: how the record came about.

As in `lesson_record`, MXNet 1.9.1 ran three steps, here of batch 4 with ngf = ndf = 16. Start and
inputs come from one ``numpy.random.RandomState(79)``: the parameters uniform on [-0.05, 0.05);
then for each step and the evaluation the noise, standard normal, and the real images, uniform on
[0, 1). The example runs as an MXNet Module, which scales gradients by 1 / batch.
"""

from __future__ import annotations

import lesson_record
import numpy as np
from lesson_record import STEPS

SEED = 79
SCALE = 0.05
BATCH = 4
FILTERS = 16
NOISE = 100
LEARNING_RATE, BETA1 = 2e-4, 0.5
SMALL_RECORD = lesson_record.SMALL_RECORD.with_name("dcgan.npz")


def _shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    n = FILTERS
    gen: dict[str, tuple[int, ...]] = {}
    channels = [NOISE, 8 * n, 4 * n, 2 * n, n, 3]
    for i in range(1, 6):
        gen[f"g{i}_weight"] = (channels[i - 1], channels[i], 4, 4)
        if i < 5:
            gen[f"gbn{i}_gamma"] = gen[f"gbn{i}_beta"] = (channels[i],)
    dis: dict[str, tuple[int, ...]] = {}
    channels = [3, n, 2 * n, 4 * n, 8 * n, 1]
    for i in range(1, 6):
        dis[f"d{i}_weight"] = (channels[i], channels[i - 1], 4, 4)
        if 1 < i < 5:
            dis[f"dbn{i}_gamma"] = dis[f"dbn{i}_beta"] = (channels[i],)
    return {"gen": gen, "dis": dis}


PARAMETERS = _shapes()
"""Shapes in MXNet's layout."""


def start_and_inputs() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Initial parameters by ``gen/name`` or ``dis/name``, and inputs by ``it1/rand`` and so on."""
    rng = np.random.RandomState(SEED)
    start = {}
    for network, shapes in PARAMETERS.items():
        for name, shape in shapes.items():
            drawn = None if name.endswith("_gamma") else rng.uniform(-SCALE, SCALE, shape)
            values = np.ones(shape) if drawn is None else drawn
            start[f"{network}/{name}"] = values.astype(np.float32)
    inputs = {}
    for step in (*STEPS, "eval"):
        inputs[f"{step}/rand"] = rng.standard_normal((BATCH, NOISE, 1, 1))
        inputs[f"{step}/img"] = rng.uniform(0, 1, (BATCH, 3, 64, 64))
    return start, {name: values.astype(np.float32) for name, values in inputs.items()}


def is_result(key: str) -> bool:
    """Whether a key of the full record holds a result."""
    parts = key.split("/")
    given = len(parts) == 2 and parts[1] in ("rand", "img")
    return not given and parts[0] not in ("init", "module_rescale_grad")
