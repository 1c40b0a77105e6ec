"""The lesson's conditional GAN: the generator draws the digit that it is asked for.

Mirza and Osindero, "Conditional generative adversarial nets" (2014, arXiv:1411.1784), in the form
of the lesson: noise and one-hot digit are concatenated for the generator, the image is multiplied
by the one-hot digit for the discriminator. The labels are soft and turned round (Salimans et al.,
"Improved techniques for training GANs", 2016, section 3.4, for their softening): generated images
have labels in [0.9, 1), real ones in [0, 0.1), and the generator aims at 0. D's output is therefore
the probability of "generated".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pygan import networks, symbol
from pygan.data import ImageSet
from pygan.errors import DataError
from pygan.flags import flag
from pygan.training.gan import IMAGE_SHAPE, NOISE_SIZE, Gan, GanSettings, Losses

if TYPE_CHECKING:
    from pygan.device import Device
    from pygan.executor import Executor

NETWORK = "conditional-gan"
CLASSES = 10
LABEL_DRAWS = 10
"""The lesson draws ten labels a batch and repeats them over it."""
REAL_LABELS = (0.0, 0.1)
FAKE_LABELS = (0.9, 1.0)


def bind_conditional_generator(device: Device, count: int, training: bool = False) -> Executor:
    """An executor of the generator: noise and digit (count, 1, 1, 10), the digit one-hot -> images
    (count, 28, 28, 1), 0..1."""
    training = flag(training, "training")
    return symbol.bind(
        networks.conditional_generator(),
        device,
        shapes={"noise": (count, 1, 1, NOISE_SIZE), "digit": (count, 1, 1, CLASSES)},
        grad_req={"noise": "null", "digit": "null"} if training else "null",
        branches=training,
    )


def bind_conditional_discriminator(device: Device, count: int) -> Executor:
    """An executor of the discriminator and its loss: img (count, 28, 28, 1), digit
    (count, 1, 1, 10), label (count, 1, 1, 1) -> loss (1,) and the score of each image."""
    return symbol.bind(
        networks.conditional_discriminator(),
        device,
        shapes={
            "img": (count, *IMAGE_SHAPE),
            "digit": (count, 1, 1, CLASSES),
            "label": (count, 1, 1, 1),
        },
        grad_req={"digit": "null", "label": "null"},
        branches=True,
    )


class SoftLabels:
    """Labels for a batch: ten uniform numbers drawn on the device, repeated over the batch."""

    def __init__(self, device: Device, count: int, interval: tuple[float, float]) -> None:
        self.device = device
        self.low, self.high = interval
        self.drawn = device.zeros((LABEL_DRAWS, 1, 1, 1), np.float32)
        self.order = device.from_numpy(np.arange(LABEL_DRAWS, dtype=np.int32))
        self.start = device.zeros((1,), np.int32)
        self.labels = device.zeros((count, 1, 1, 1), np.float32)

    def draw(self, random_state: Any) -> Any:
        """New labels (count, 1, 1, 1), in the same memory each time."""
        ops = self.device.ops
        ops.random_uniform(random_state, self.drawn, low=self.low, high=self.high)
        ops.gather_rows(self.drawn, self.order, self.start, self.labels)
        return self.labels


class ConditionalGan(Gan):
    """The conditional GAN. The digits asked of the generator are uniform, drawn once an epoch.

    ``Losses.score_real`` and ``score_fake`` are probabilities of "real", as in the lesson's GAN:
    one minus what this discriminator puts out.
    Raises DataError for labels that are no digits.
    """

    network = NETWORK
    title = "conditional GAN"

    def __init__(
        self, device: Device, images: ImageSet, settings: GanSettings, losses_kept: int = 20
    ) -> None:
        if images.labels.max() >= CLASSES:
            raise DataError(
                f"{images.source}: a label is {images.labels.max()}; digits are 0 to {CLASSES - 1}"
            )
        super().__init__(device, images, settings, losses_kept)
        count = settings.batch_size
        self.fake_labels = SoftLabels(device, count, FAKE_LABELS)
        self.real_labels = SoftLabels(device, count, REAL_LABELS)
        self.target = device.zeros((count, 1, 1, 1), np.float32)
        # The digits asked for are an order of their own through a table of the ten digits, walked
        # along the same cursor as the images.
        self.digits = device.from_numpy(np.arange(CLASSES, dtype=np.uint8))
        self.digit_order = device.zeros((len(images),), np.int32)

    def bind(self, device: Device, batch_size: int) -> tuple[Executor, Executor]:
        generator = bind_conditional_generator(device, batch_size, training=True)
        return generator, bind_conditional_discriminator(device, batch_size)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        # A third number keeps this stream apart from that of the images' order.
        random = np.random.default_rng((self.settings.seed, epoch, 1))
        self.digit_order[...] = random.integers(0, CLASSES, self.data.count, dtype=np.int32)

    def train_batch(self) -> None:
        """One batch: D on generated images, D on real images, then G through D.

        D's moving statistics move three times a step, G's once, as in the lesson's GAN.
        """
        generator, discriminator = self.generator, self.discriminator
        ops = self.device.ops
        wanted = generator.arg_dict["digit"]
        given = discriminator.arg_dict["digit"]
        rows = (self.settings.batch_size, CLASSES)

        ops.random_normal(self.random_state, generator.arg_dict["noise"])
        ops.gather_one_hot(self.digits, self.digit_order, self.data.cursor, wanted.reshape(rows))
        generator.forward(is_train=True)
        generated = generator.outputs[0]

        # D learns that these are generated, knowing which digits were asked for.
        label = self.fake_labels.draw(self.random_state)
        discriminator.forward(is_train=True, img=generated, digit=wanted, label=label)
        discriminator.backward(wanted=self.discriminator_weights)
        self._keep(0, *discriminator.outputs)
        self.discriminator_optimizer.update()

        # D learns that these are real, knowing which digits they show.
        self.data.next_batch(discriminator.arg_dict["img"], given.reshape(rows))
        label = self.real_labels.draw(self.random_state)
        discriminator.forward(is_train=True, label=label)
        discriminator.backward(wanted=self.discriminator_weights)
        self._keep(1, *discriminator.outputs)
        self.discriminator_optimizer.update()

        # G learns what would make D take its images for real ones of the digits asked for.
        discriminator.forward(is_train=True, img=generated, digit=wanted, label=self.target)
        discriminator.backward(wanted=["img"])
        self._keep(2, *discriminator.outputs)
        generator.backward(out_grads=[discriminator.grad_dict["img"]])
        self.generator_optimizer.update()

    def read_losses(self) -> list[Losses]:
        return [
            Losses(
                entry.batch,
                entry.d_fake,
                entry.d_real,
                entry.g,
                score_real=1 - entry.score_real,
                score_fake=1 - entry.score_fake,
            )
            for entry in super().read_losses()
        ]

    def state_dict(self) -> dict[str, np.ndarray]:
        return super().state_dict() | {"digits/order": np.array(self.digit_order)}

    def load_state_dict(self, state: dict[str, np.ndarray], batches_done: int) -> None:
        super().load_state_dict(state, batches_done)
        self.digit_order[...] = state["digits/order"]
