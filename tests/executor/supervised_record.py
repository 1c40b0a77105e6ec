"""The recorded steps of the auto-encoders and of LeNet, and how the records came about.

MXNet 1.9.1 (CPU, float32) ran three steps of batch 8 of each network. Start and inputs come from
one ``numpy.random.RandomState``, so the small records hold results alone: all parameters, biases
too, in the order of list_arguments and in MXNet's layout, uniform on [-0.05, 0.05); then for each
of three steps and an evaluation the images, uniform on [0, 1), and the noise of the code, standard
normal. An auto-encoder's label is its image; LeNet's first four images are anomalies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lesson_record
import numpy as np
from lesson_record import BATCH, STEPS

SCALE = 0.05


@dataclass(frozen=True)
class Supervised:
    """A recorded network: its seed, its parameters in MXNet's order and layout, its code's size."""

    seed: int
    parameters: Mapping[str, tuple[int, ...]]
    code: int = 0

    def start_and_inputs(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Initial parameters by name, and inputs by ``it1/data`` and so on."""
        rng = np.random.RandomState(self.seed)
        start = {
            name: rng.uniform(-SCALE, SCALE, shape).astype(np.float32)
            for name, shape in self.parameters.items()
        }
        inputs = {}
        for step in (*STEPS, "eval"):
            images = rng.uniform(0, 1, (BATCH, 1, 28, 28)).astype(np.float32)
            inputs[f"{step}/data"] = inputs[f"{step}/label"] = images
            if self.code:
                noise = rng.standard_normal((BATCH, self.code))
                inputs[f"{step}/encoder_noise"] = noise.astype(np.float32)
            else:
                anomalous = np.arange(BATCH) < BATCH // 2
                inputs[f"{step}/label"] = anomalous.astype(np.float32)[:, None]
        return start, inputs


def _layers(*sizes: tuple[str, int, int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, units, inputs in sizes:
        shapes |= {f"{name}_weight": (units, inputs), f"{name}_bias": (units,)}
    return shapes


NETWORKS = {
    "vae32": Supervised(
        3,
        _layers(
            ("fc1", 128, 784),
            ("encoder_lnsd", 32, 128),
            ("encoder_mean", 32, 128),
            ("fc2", 128, 32),
            ("fc3", 784, 128),
        ),
        code=32,
    ),
    "vae2": Supervised(
        36,
        _layers(
            ("fc2", 8, 784),
            ("encoder_lnsd", 2, 8),
            ("encoder_mean", 2, 8),
            ("fc3", 8, 2),
            ("fc4", 64, 8),
            ("fc5", 784, 64),
        ),
        code=2,
    ),
    "lenet": Supervised(
        25,
        {
            "conv1_weight": (10, 1, 5, 5),
            "conv1_bias": (10,),
            "conv2_weight": (20, 10, 5, 5),
            "conv2_bias": (20,),
            **_layers(("fc1", 150, 320), ("fc2", 1, 150)),
        },
    ),
}


def small_record(name: str) -> Path:
    return lesson_record.SMALL_RECORD.with_name(f"{name}.npz")


def is_result(key: str) -> bool:
    """Whether a key of the full record holds a result (and no start or input)."""
    parts = key.split("/")
    is_input = len(parts) == 2 and parts[1] in ("data", "label", "encoder_noise")
    return parts[0] != "init" and not is_input
