"""The lesson's GAN with all that `hyperparameter_study` varies: networks, step, and what draws.

The networks are `generator` and `discriminator`, the step is `StudyGan.train_batch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pygan import optimizer, pictures
from pygan import symbol as sym
from pygan.data import ImageSet
from pygan.device import Device
from pygan.examples.study_report import COLUMNS, ROWS, SCALE
from pygan.executor import Executor
from pygan.training.folder import RunFolder
from pygan.training.gan import IMAGE_SHAPE, NOISE_SIZE, Gan, Losses, load_network
from pygan.training.gan_report import draw_gan_curves
from pygan.training.sampling import GENERATORS, Generator, draw_noise


@dataclass(frozen=True)
class Settings:
    """What the study varies, with the lesson's own values as defaults.

    momentum: SGD's, and Adam's beta1. ..._slope: of the leaky ReLU, 0 for ReLU. bounded: whether G
    ends in a sigmoid. passes: how D sees generated and real images in a step: "apart", with an
    update after each; "summed", apart, but one update for both; "joint", in one batch; "beside", in
    one batch, with the real images beside the generated ones in G's pass too.
    label_noise: labels lie up to so far from 0 and 1. wrong_labels: the share of D's labels that
    say the opposite. G aims at real_label.
    """

    batch_size: int = 32
    seed: int = 0
    optimizer: str = "adam"
    learning_rate: float = 2e-4
    momentum: float = 0.5
    generator_slope: float = 0.0
    discriminator_slope: float = 0.25
    bounded: bool = True
    passes: str = "apart"
    fake_label: float = 0.0
    real_label: float = 1.0
    label_noise: float = 0.0
    wrong_labels: float = 0.0
    initial_range: float = 0.01

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def activation(x: sym.Symbol, slope: float, name: str) -> sym.Symbol:
    if slope:
        return sym.LeakyReLU(x, slope=slope, name=name)
    return sym.Activation(x, kind="relu", name=name)


def generator(slope: float = 0.0, bounded: bool = True) -> sym.Symbol:
    """noise (N, 1, 1, 10) -> images (N, 28, 28, 1)."""
    x = sym.Variable("noise")
    # 4x4x256, 7x7x128, 14x14x64, 28x28x1
    for layer, (filters, kernel, pad) in enumerate([(256, 4, 0), (128, 3, 1), (64, 4, 1)], 1):
        x = sym.TransposedConvolution(
            x,
            num_filter=filters,
            kernel=kernel,
            stride=2,
            pad=pad,
            no_bias=True,
            name=f"gen_deconv{layer}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"gen_bn{layer}")
        x = activation(x, slope, f"gen_relu{layer}")
    x = sym.TransposedConvolution(
        x, num_filter=1, kernel=4, stride=2, pad=1, no_bias=True, name="gen_deconv4"
    )
    return sym.Activation(x, kind="sigmoid", name="gen_out") if bounded else x


def discriminator(slope: float = 0.25) -> sym.Symbol:
    """img (N, 28, 28, 1), label (N, 1, 1, 1) -> the mean loss (1,), scores (N, 1, 1, 1)."""
    x = sym.Variable("img")
    # 26x26x24, pooled to 13x13, 6x6x32, 4x4x64, 1x1x64
    layers = [(24, 3, 1), (32, 3, 2), (64, 3, 1), (64, 4, 1)]
    for layer, (filters, kernel, stride) in enumerate(layers, 1):
        x = sym.Convolution(
            x,
            num_filter=filters,
            kernel=kernel,
            stride=stride,
            no_bias=True,
            name=f"dis_conv{layer}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"dis_bn{layer}")
        x = activation(x, slope, f"dis_act{layer}")
        if layer == 1:
            x = sym.Pooling(x, kernel=2, stride=2, kind="avg", name="dis_pool1")
    logits = sym.Convolution(x, num_filter=1, kernel=1, name="dis_conv5")
    return sym.SigmoidCrossEntropy(logits, sym.Variable("label"), name="dis")


class StudyGan(Gan):
    """The lesson's GAN with whatever `Settings` say.

    ``Losses.d_fake`` and ``d_real`` are both the joint loss where D sees one batch.
    """

    network = "lesson-study"
    title = "lesson's GAN, varied"

    def __init__(
        self, device: Device, images: ImageSet, settings: Settings, losses_kept: int = 20
    ) -> None:
        super().__init__(device, images, settings, losses_kept)
        count = settings.batch_size
        # D's labels of a whole epoch, (M, 1, 1, 1) for fake and for real images, walked along the
        # cursor of the images.
        self.labels = [device.zeros((len(images), 1, 1, 1), np.float32) for _ in range(2)]
        self.places = device.from_numpy(np.arange(len(images), dtype=np.int32))
        self.target = device.from_numpy(np.full((count, 1, 1, 1), settings.real_label, np.float32))
        self.both: Executor | None = None
        if settings.passes in ("joint", "beside"):
            # The same parameters and statistics in a batch of twice the size.
            self.both = bind_discriminator(device, 2 * count, settings, shared=self.discriminator)
            img, label = self.both.arg_dict["img"], self.both.arg_dict["label"]
            self.both_images = img[:count], img[count:]
            self.both_labels = label[:count], label[count:]

    def bind(self, device: Device, batch_size: int) -> tuple[Executor, Executor]:
        settings = self.settings
        gen = generator(settings.generator_slope, settings.bounded)
        shape = (batch_size, 1, 1, NOISE_SIZE)
        return (
            gen.bind(device, {"noise": shape}, {"noise": "null"}),
            bind_discriminator(device, batch_size, settings),
        )

    def make_optimizer(self, executor: Executor) -> optimizer.Optimizer:
        """Adam, or what the settings have in its place."""
        rate, momentum = self.settings.learning_rate, self.settings.momentum
        if self.settings.optimizer == "sgd":
            return optimizer.SGD(executor, learning_rate=rate, momentum=momentum)
        return optimizer.Adam(executor, learning_rate=rate, beta1=momentum)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        settings = self.settings
        # A third number keeps this stream apart from that of the images' order.
        random = np.random.default_rng((settings.seed, epoch, 1))
        for table, label in zip(
            self.labels, (settings.fake_label, settings.real_label), strict=True
        ):
            table[...] = draw_labels(label, settings, random, self.data.count)

    def train_batch(self) -> None:
        """One batch: D on generated and real images, then G through D."""
        gen, dis = self.generator, self.discriminator
        self.device.ops.random_normal(self.random_state, gen.arg_dict["noise"])
        gen.forward(is_train=True)
        made = gen.outputs[0]

        both = self.both
        if both is not None:
            self._joint_pass(both, made)
        else:
            self._two_passes(made)

        if both is not None and self.settings.passes == "beside":
            # The real images are still there; all labels say "real". (The loss is a mean over twice
            # as many images, which Adam does not feel.)
            both.forward(is_train=True, label=self.settings.real_label)
            both.backward(wanted=["img"])
            self._keep(2, both.outputs[0], both.outputs[1][: self.settings.batch_size])
            gradient = both.grad_dict["img"][: self.settings.batch_size]
        else:
            dis.forward(is_train=True, img=made, label=self.target)
            dis.backward(wanted=["img"])
            self._keep(2, *dis.outputs)
            gradient = dis.grad_dict["img"]
        gen.backward(out_grads=[gradient])
        self.generator_optimizer.update()

    def _two_passes(self, made: Any) -> None:
        """D on generated, then on real images: batch norm sees each kind by itself."""
        dis = self.discriminator
        summed = self.settings.passes == "summed"
        if summed:
            dis.zero_gradients()

        self._next_labels(0, dis.arg_dict["label"])
        dis.forward(is_train=True, img=made)
        dis.backward(wanted=self.discriminator_weights)
        self._keep(0, *dis.outputs)
        if not summed:
            self.discriminator_optimizer.update()

        self._next_labels(1, dis.arg_dict["label"])
        self.data.next_batch(dis.arg_dict["img"])
        dis.forward(is_train=True)
        dis.backward(wanted=self.discriminator_weights)
        self._keep(1, *dis.outputs)
        self.discriminator_optimizer.update()

    def _joint_pass(self, both: Executor, made: Any) -> None:
        """D on generated and real images at once: batch norm's statistics are those of both."""
        for which, labels in enumerate(self.both_labels):
            self._next_labels(which, labels)
        fake, real = self.both_images
        fake[...] = made
        self.data.next_batch(real)
        both.forward(is_train=True)
        both.backward(wanted=self.discriminator_weights)
        self.discriminator_optimizer.update()

        loss, scores = both.outputs
        count = self.settings.batch_size
        self._keep(0, loss, scores[:count])
        self._keep(1, loss, scores[count:])

    def _next_labels(self, which: int, target: Any) -> None:
        """D's labels of this batch's generated (0) or real (1) images."""
        self.device.ops.gather_rows(self.labels[which], self.places, self.data.cursor, target)

    def read_losses(self) -> list[Losses]:
        """As ever; scores are probabilities of "real", whatever the labels."""
        entries = super().read_losses()
        if self.settings.real_label > self.settings.fake_label:
            return entries
        return [
            replace(e, score_real=1 - e.score_real, score_fake=1 - e.score_fake) for e in entries
        ]

    def state_dict(self) -> dict[str, np.ndarray]:
        fake, real = self.labels
        return super().state_dict() | {
            "labels/fake": np.array(fake),
            "labels/real": np.array(real),
        }

    def load_state_dict(self, state: dict[str, np.ndarray], batches_done: int) -> None:
        super().load_state_dict(state, batches_done)
        for table, name in zip(self.labels, ("fake", "real"), strict=True):
            table[...] = state[f"labels/{name}"]


def bind_discriminator(
    device: Device, count: int, settings: Settings, shared: Executor | None = None
) -> Executor:
    """D for batches of ``count``; its weights' gradients are summed where the settings say so."""
    symbol = discriminator(settings.discriminator_slope)
    request = "add" if settings.passes == "summed" else "write"
    requests = dict.fromkeys(symbol.list_arguments(), request) | {"img": "write", "label": "null"}
    shapes = {"img": (count, *IMAGE_SHAPE), "label": (count, 1, 1, 1)}
    return symbol.bind(device, shapes, requests, shared=shared)


def draw_labels(
    label: float, settings: Settings, random: np.random.Generator, count: int
) -> np.ndarray:
    """Labels (count, 1, 1, 1) about ``label``, 0 or 1, noisy and wrong as the settings say."""
    inwards = settings.label_noise * random.random((count, 1, 1, 1), np.float32)
    labels = label + (1 - 2 * label) * inwards
    wrong = random.random((count, 1, 1, 1), np.float32) < settings.wrong_labels
    return np.where(wrong, 1 - labels, labels).astype(np.float32)


class Report:
    """A grid of one fixed noise while training, and the loss curves."""

    def __init__(self, model: StudyGan, where: str) -> None:
        self.model = model
        self.draw = Drawing(model.device, model.settings, ROWS * COLUMNS, model.generator)

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        images = self.draw(ROWS * COLUMNS, self.model.settings.seed)
        picture = pictures.grid(images, ROWS, COLUMNS, SCALE)
        pictures.save_picture(picture, folder.sample(batches_done))

    def measure(self) -> dict[str, float]:
        """Nothing beyond the batches' own numbers; the study measures at its end."""
        return {}

    def page(self, folder: RunFolder, epoch: int) -> str:
        self.samples(folder, self.model.batches_done)
        return str(folder.sample(self.model.batches_done))

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        draw_gan_curves(self.model, folder, batches_per_epoch)

    def result(self, folder: RunFolder) -> str:
        return ""


class Drawing:
    """A generator of the study in use, by its moving statistics, ``count`` images at a time.

    trained: an executor whose parameters are used as they stand; else ``load`` brings them.
    """

    def __init__(
        self, device: Device, settings: Settings, count: int, trained: Executor | None = None
    ) -> None:
        shape = {"noise": (count, 1, 1, NOISE_SIZE)}
        graph = generator(settings.generator_slope, settings.bounded)
        self.count = count
        self.executor = graph.bind(device, shape, "null", shared=trained)

    def load(self, state: dict[str, np.ndarray]) -> None:
        load_network(self.executor, state, "generator")

    def __call__(self, count: int, seed: int) -> np.ndarray:
        """Images (count, 28, 28, 1), what an unbounded G puts beyond black and white cut off."""
        images = np.empty((count, *IMAGE_SHAPE), np.float32)
        noise = np.zeros((self.count, 1, 1, NOISE_SIZE), np.float32)
        drawn = draw_noise(self.executor.device, count, seed)
        for start in range(0, count, self.count):
            part = drawn[start : start + self.count]
            noise[: len(part)] = part
            made = np.array(self.executor.forward(is_train=False, noise=noise)[0])[: len(part)]
            images[start : start + self.count] = np.clip(made, 0, 1)
        return images


def bind_sampler(device: Device, count: int, settings: Mapping[str, Any]) -> Executor:
    """noise (count, 1, 1, 10) -> images (count, 28, 28, 1), for `pygan.training.sampling`."""
    return Drawing(device, Settings(**settings), count).executor


GENERATORS[StudyGan.network] = Generator(bind_sampler)
