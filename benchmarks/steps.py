"""The training steps that step.py times: whose GAN and on which images; and what a peer needs to
start from the same weights and be held to the same first losses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cases import NETWORKS, Network

COMPARED_STEPS = 3
READ_EVERY = 20
# Largest difference of a loss to numpy's over three steps (apart_from). float32: see step.py. TF32
# keeps 10 bits of a factor and bfloat16 7 of every value, 2^-11 and 2^-8 a rounding: on losses near
# 0.7, through ten layers and three updates whose first steps have the size of the learning rate
# whatever the gradient's, some ten roundings of each are allowed.
TOLERANCES = {"fp32": 4e-3, "TF32": 10 * 2.0**-11, "bf16": 10 * 2.0**-8}
SEED = 11
DCGAN_IMAGES = 1024
"""Images of 64x64 pixels on the device: as many as any batch here, a few are as good as all."""


@dataclass(frozen=True)
class Steps:
    """The step of one GAN. `shapes` are those of its layers.

    joint: D's gradients of the two batches are summed for one update, instead of two updates.
    last: the generator's last activation. slope: of D's leaky ReLU. eps: of every batch norm.
    first_normalised: D's first layer with batch norm. pooled: whether D pools after its first.
    """

    name: str
    title: str
    shapes: Network
    joint: bool
    last: str
    slope: float
    eps: float
    first_normalised: int
    pooled: bool
    noise_name: str
    make: Callable[[Any, Any, int, bool, int], Any]
    load: Callable[[bool], Any]


def _make_lesson(device: Any, images: Any, batch: int, quick: bool, losses_kept: int) -> Any:
    from pygan.training.gan import GanSettings, LessonGan

    return LessonGan(device, images, GanSettings(batch_size=batch, seed=SEED), losses_kept)


def _make_dcgan(device: Any, images: Any, batch: int, quick: bool, losses_kept: int) -> Any:
    from pygan.examples.dcgan import Dcgan, Settings

    settings = Settings(batch_size=batch, seed=SEED)
    if quick:
        settings = replace(settings, ngf=4, ndf=4)
    return Dcgan(device, images, settings, losses_kept)


def _load_digits(quick: bool) -> Any:
    """Real digits where they can be had without a download, else scikit-learn's."""
    from pygan.data import load_digits

    where = os.environ.get("PYGAN_DATA")
    return load_digits(where if where and not quick else "digits")


def _load_large(quick: bool) -> Any:
    """The first of the digits, at 64x64 pixels in three channels."""
    from pygan.data import ImageSet
    from pygan.data.resize import resized

    found = _load_digits(quick)
    kept = slice(16 if quick else DCGAN_IMAGES)
    source = f"the first {kept.stop} of {found.source}"
    return resized(ImageSet(found.images[kept], found.labels[kept], source), 64, 3)


STEPS = {
    steps.name: steps
    for steps in (
        Steps(
            name="lesson",
            title="Lesson GAN",
            shapes=NETWORKS["lesson"],
            joint=False,
            last="sigmoid",
            slope=0.25,
            eps=1e-3,
            first_normalised=1,
            pooled=True,
            noise_name="noise",
            make=_make_lesson,
            load=_load_digits,
        ),
        Steps(
            name="dcgan",
            title="DCGAN, 64x64 pixels",
            shapes=NETWORKS["dcgan"],
            joint=True,
            last="tanh",
            slope=0.2,
            eps=1e-5 + 1e-12,
            first_normalised=2,
            pooled=False,
            noise_name="rand",
            make=_make_dcgan,
            load=_load_large,
        ),
    )
}


@dataclass(frozen=True)
class Start:
    """Weights, inputs and losses of the first steps on numpy, from which a peer is checked.

    flops: useful floating-point operations of a step.
    generator, discriminator: parameters by name. noises: (batch, 1, 1, n) of each step; reals:
    (batch, height, width, channels) in the networks' pixel range; losses: (steps, 3), of D on
    generated and on real images and of G.
    """

    generator: dict[str, np.ndarray]
    discriminator: dict[str, np.ndarray]
    noises: list[np.ndarray]
    reals: list[np.ndarray]
    losses: np.ndarray
    pixel_range: tuple[float, float]
    flops: float


def start_of(steps: Steps, device: Any, images: Any, batch: int, quick: bool) -> Start:
    """Makes the first steps on the numpy device."""
    gan = steps.make(device, images, batch, quick, COMPARED_STEPS)
    gan.start_epoch(0)
    generator, discriminator = (
        {name: np.array(network.arg_dict[name]) for name in network.parameter_names}
        for network in (gan.generator, gan.discriminator)
    )
    noises, reals = [], []
    for _ in range(COMPARED_STEPS):
        gan.step()
        noises.append(np.array(gan.generator.arg_dict[steps.noise_name]))
        reals.append(np.empty((batch, *images.images.shape[1:]), np.float32))
        gan.data.latest_batch(reals[-1])
    flops = _flops(steps.shapes, batch, generator, discriminator)
    losses = losses_of(gan)
    return Start(generator, discriminator, noises, reals, losses, gan.pixel_range, flops)


def _flops(
    shapes: Network, batch: int, generator: dict[str, np.ndarray], discriminator: dict
) -> float:
    """Three passes through G; of D, three forward, two backward in full and one to the image alone.

    A layer's multiply-adds are its weights times the pixels of its small side, the padding's and
    the generator's first layer's gradient of its input counted too (a few percent, below 1 %).
    """
    passes = 0.0
    for weights, sizes, count in (
        (generator, [layer[2] for layer in shapes.generator], 3),
        (discriminator, [layer[4] for layer in shapes.discriminator], 3 + 2 * 2 + 1),
    ):
        kernels = [array for name, array in weights.items() if name.endswith("_weight")]
        for kernel, size in zip(kernels, sizes, strict=True):
            passes += count * kernel.size * size**2
    return 2.0 * batch * passes


def difference_of_losses(found: np.ndarray, start: Start, tolerance: float) -> float:
    """The largest difference of first losses, (steps, 3), to numpy's. AssertionError where it is
    more than the tolerance."""
    apart = apart_from(start.losses, found)
    if not apart <= tolerance:  # NaN fails
        raise AssertionError(
            f"losses differ from numpy's by {apart:.3g}, more than {tolerance:.3g}: "
            f"{found.tolist()}, numpy {start.losses.tolist()}"
        )
    return apart


def ending(weights: dict[str, np.ndarray], end: str) -> list[np.ndarray]:
    """The parameters whose names end so, in the order of the layers."""
    return [array for name, array in weights.items() if name.endswith(end)]


def losses_of(gan: Any) -> np.ndarray:
    """(steps, 3): the losses that were not read yet."""
    return np.array([(each.d_fake, each.d_real, each.g) for each in gan.read_losses()])


def apart_from(expected: np.ndarray, losses: np.ndarray) -> float:
    """Largest difference of a loss, relative to it where it is above 1."""
    return float((np.abs(losses - expected) / np.maximum(1, np.abs(expected))).max())
