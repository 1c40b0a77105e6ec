"""The recorded steps of the lesson's GAN: how the record came about, and how it is compared.

MXNet 1.9.1 (CPU, float32) ran three steps of batch 8. Its start and its inputs come from one
``numpy.random.RandomState(2334)``, whose stream numpy keeps for ever, so only results are stored:
the parameters of the generator, then of the discriminator, in the order of list_arguments and in
MXNet's layout, uniform on [-0.2, 0.2) (batch norm's gamma 1, its beta drawn too, moving means 0 and
variances 1); then for each of three steps and an evaluation the noise, standard normal, and the
real images, uniform on [0, 1). All are drawn in double and rounded to float32.

A large result is stored as a `Digest`: a sample of its elements, its largest magnitude, and a few
projections on random signs, to which every element contributes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

SEED = 2334
SCALE = 0.2
BATCH = 8
STEPS = ("it1", "it2", "it3")
LEARNING_RATE, BETA1 = 2e-4, 0.5
SMALL_RECORD = Path(__file__).resolve().parent.parent / "golden" / "lesson_gan.npz"

SAMPLE_SIZE = 256
PROJECTIONS = 4

PARAMETERS = {
    "gen": {
        "gen_deconv1_weight": (10, 256, 4, 4),
        "gen_bn1_gamma": (256,),
        "gen_bn1_beta": (256,),
        "gen_deconv2_weight": (256, 128, 3, 3),
        "gen_bn2_gamma": (128,),
        "gen_bn2_beta": (128,),
        "gen_deconv3_weight": (128, 64, 4, 4),
        "gen_bn3_gamma": (64,),
        "gen_bn3_beta": (64,),
        "gen_deconv4_weight": (64, 1, 4, 4),
    },
    "dis": {
        "dis_conv1_weight": (24, 1, 3, 3),
        "dis_bn1_gamma": (24,),
        "dis_bn1_beta": (24,),
        "dis_conv2_weight": (32, 24, 3, 3),
        "dis_bn2_gamma": (32,),
        "dis_bn2_beta": (32,),
        "dis_conv3_weight": (64, 32, 3, 3),
        "dis_bn3_gamma": (64,),
        "dis_bn3_beta": (64,),
        "dis_conv4_weight": (64, 64, 4, 4),
        "dis_bn4_gamma": (64,),
        "dis_bn4_beta": (64,),
        "dis_conv5_weight": (1, 64, 1, 1),
        "dis_conv5_bias": (1,),
    },
}
"""Shapes in MXNet's layout (NCHW, OIHW, and IOHW for transposed convolutions)."""


def start_and_inputs() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Initial parameters by ``gen/name`` or ``dis/name``, and inputs by ``it1/noise`` and so on."""
    rng = np.random.RandomState(SEED)
    start = {}
    for network, shapes in PARAMETERS.items():
        for name, shape in shapes.items():
            drawn = None if name.endswith("_gamma") else rng.uniform(-SCALE, SCALE, shape)
            values = np.ones(shape) if drawn is None else drawn
            start[f"{network}/{name}"] = values.astype(np.float32)
    inputs = {}
    for step in (*STEPS, "eval"):
        noise, images = (
            rng.standard_normal((BATCH, 10, 1, 1)),
            rng.uniform(0, 1, (BATCH, 1, 28, 28)),
        )
        inputs[f"{step}/noise"] = noise.astype(np.float32)
        inputs[f"{step}/img"] = images.astype(np.float32)
    return start, inputs


def is_result(key: str) -> bool:
    """Whether a key of the full record holds a result (and no start or input)."""
    given = ("noise", "img", "label_fake", "label_real", "label_gen")
    given += ("digit", "digit_fake", "digit_real", "data", "label")
    parts = key.split("/")
    return parts[0] != "init" and (len(parts) > 2 or parts[-1] not in given)


def sample_places(key: str, size: int) -> np.ndarray:
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    return np.sort(rng.choice(size, SAMPLE_SIZE, replace=False))


def projections(key: str, values: np.ndarray) -> np.ndarray:
    """Sums of all elements under random signs, float64 (PROJECTIONS,)."""
    rng = np.random.RandomState(zlib.crc32(key.encode()) ^ 1)
    signs = rng.randint(0, 2, (PROJECTIONS, values.size)).astype(np.int8) * 2 - 1
    return signs @ values.astype(np.float64).ravel()


def digest(key: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What the small record stores of one result."""
    is_image = values.shape == (BATCH, 1, 28, 28)
    if is_image or values.size <= 2 * SAMPLE_SIZE:
        yield key, values
    else:
        yield f"{key}/sample", values.ravel()[sample_places(key, values.size)]
        yield f"{key}/largest", np.abs(values).max()
        yield f"{key}/projections", projections(key, values)


class Record:
    """A record, full or small, against which results are compared."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.compared: set[str] = set()

    @property
    def results(self) -> set[str]:
        """Keys of all results that the record holds."""
        suffixes = ("/sample", "/largest", "/projections")
        keys = set()
        for key in self.arrays:
            for suffix in suffixes:
                key = key.removesuffix(suffix)
            if is_result(key):
                keys.add(key)
        return keys

    def require(
        self, key: str, values: np.ndarray, relative: float = 0.0, absolute: float = 0.0
    ) -> float:
        """Fails unless values (MXNet's layout) agree within `relative` times the largest recorded
        magnitude plus `absolute`, element by element; returns the share of it that was used.

        Under a projection, n errors of random sign and at most that size add up to a standard
        deviation of at most sqrt(n) times it; 5 of these are allowed.
        """
        self.compared.add(key)
        if key in self.arrays:
            recorded = self.arrays[key].astype(np.float64)
            largest, found = np.abs(recorded).max(), values.astype(np.float64)
            if found.size != recorded.size:
                raise AssertionError(f"{key}: {found.shape} against recorded {recorded.shape}")
            found = found.reshape(recorded.shape)
        else:
            recorded = self.arrays[f"{key}/sample"].astype(np.float64)
            largest = float(self.arrays[f"{key}/largest"])
            found = values.ravel()[sample_places(key, values.size)].astype(np.float64)
        allowed = relative * largest + absolute
        share = self._share(key, found, recorded, allowed)
        if key not in self.arrays:
            sums = self.arrays[f"{key}/projections"]
            spread = 5 * np.sqrt(values.size) * allowed
            self._share(f"{key} (projections)", projections(key, values), sums, spread)
        return share

    @staticmethod
    def _share(key: str, found: np.ndarray, recorded: np.ndarray, allowed: float) -> float:
        error = np.abs(found - recorded)
        worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        if not error[worst] <= allowed:  # NaN fails
            where = tuple(int(i) for i in worst)
            raise AssertionError(
                f"{key} at {where}: computed {found[worst]!r}, recorded {recorded[worst]!r}, "
                f"error {error[worst]:.3g}, allowed {allowed:.3g}"
            )
        return float(error[worst] / allowed) if allowed else 0.0
