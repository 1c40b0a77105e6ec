"""A GAN of one class of CIFAR-10, the lesson's: dogs, by a network in the manner of Keras.

    pygan train cifar10 --data DIR                (or: python examples/cifar10_gan.py --data DIR)

Both networks, the optimizers and the step, `Cifar10Gan.train_batch`, are below. Generated and real
images share one batch of the discriminator, whose output is the probability of "generated": labels
are 1 and 0, plus a hundredth of a uniform number. The generator learns through the frozen
discriminator from the label 0. Every 100 iterations a strip of generated images, and one of real
images below it, is drawn.

Conventions are Keras's: leaky ReLU 0.3; weights with Glorot's variance, biases 0; RMSprop with
rho 0.9 and epsilon 1e-7 beside the root (TensorFlow's fused one has it inside), each value of a
gradient clipped to -1..1, the learning rate divided by 1 + 1e-8 times the updates done. Keras takes
the cross-entropy from probabilities that it keeps 1e-7 away from 0 and 1; here it comes from the
logits and is the same up to there, a logit of 16.1, and goes on beyond. Images come in a new random
order each time round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pygan import checkpoint, cli, initializer, optimizer, pictures, quality
from pygan import symbol as sym
from pygan.data import ImageSet
from pygan.data.cifar10 import CHANNELS, CLASS_NAMES, SIDE, load_cifar10
from pygan.device import Device
from pygan.errors import DataError
from pygan.executor import Executor
from pygan.training.colour_classifier import ColourClassifier
from pygan.training.command import run_system
from pygan.training.folder import RunFolder
from pygan.training.gan import Gan
from pygan.training.log import read_log
from pygan.training.sampling import GENERATORS, Generator, picture_state
from pygan.training.systems import System

ITERATIONS = 10_000
SHOWN = 10
SCALE = 2
AVERAGED = 100
JUDGED = 1000
DROPOUT_COUNTERS = {"discriminator": 1 << 56, "frozen": 1 << 57}


@dataclass(frozen=True)
class Settings:
    """The lesson's values as defaults. filters: of D's convolutions; G's have twice as many.
    decay: of the learning rates, for each update. label_noise: what is added to labels at most."""

    batch_size: int = 20
    seed: int = 0
    kind: str = "dog"
    filters: int = 128
    noise_size: int = 32
    discriminator_rate: float = 8e-4
    generator_rate: float = 4e-4
    clip: float = 1.0
    decay: float = 1e-8
    label_noise: float = 0.01
    dropout: float = 0.5

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def generator(filters: int) -> sym.Symbol:
    """noise (N, Z) -> images (N, 32, 32, 3) in (-1, 1), of which 0..1 can be seen."""
    x = sym.FullyConnected(sym.Variable("noise"), num_hidden=16 * 16 * filters, name="gen_fc1")
    x = leaky(x, "gen_act1")
    x = sym.Reshape(x, shape=(0, 16, 16, filters), name="gen_reshape")
    x = convolution(x, 2 * filters, 5, "gen_conv2", pad=2)
    x = leaky(x, "gen_act2")
    # 16x16 -> 32x32; a pad of 1 is Keras's "same" for a kernel of 4 and a stride of 2
    x = sym.TransposedConvolution(
        x, num_filter=2 * filters, kernel=4, stride=2, pad=1, no_bias=False, name="gen_deconv3"
    )
    x = leaky(x, "gen_act3")
    for layer in (4, 5):
        x = convolution(x, 2 * filters, 5, f"gen_conv{layer}", pad=2)
        x = leaky(x, f"gen_act{layer}")
    x = convolution(x, CHANNELS, 7, "gen_conv6", pad=3)
    return sym.Activation(x, kind="tanh", name="gen_out")


def discriminator(filters: int, dropout: float) -> sym.Symbol:
    """img (N, 32, 32, 3), label (N, 1) -> the mean cross-entropy (1,) and the probabilities (N, 1)
    of "generated"."""
    x = leaky(convolution(sym.Variable("img"), filters, 3, "dis_conv1"), "dis_act1")  # 30x30
    for layer in (2, 3, 4):  # 14x14, 6x6, 2x2
        x = convolution(x, filters, 4, f"dis_conv{layer}", stride=2)
        x = leaky(x, f"dis_act{layer}")
    x = sym.Dropout(sym.Flatten(x, name="dis_flat"), rate=dropout, name="dis_drop")
    logits = sym.FullyConnected(x, num_hidden=1, name="dis_fc5")
    return sym.SigmoidCrossEntropy(logits, sym.Variable("label"), name="dis")


def leaky(x: sym.Symbol, name: str) -> sym.Symbol:
    return sym.LeakyReLU(x, slope=0.3, name=name)


def convolution(
    x: sym.Symbol, filters: int, kernel: int, name: str, stride: int = 1, pad: int = 0
) -> sym.Symbol:
    return sym.Convolution(x, num_filter=filters, kernel=kernel, stride=stride, pad=pad, name=name)


@dataclass(frozen=True)
class Losses:
    """One iteration, numbered from 0: D's loss over its batch, G's, and the mean probability of
    "real" of real and of generated images, in D's batch."""

    batch: int
    d: float
    g: float
    score_real: float
    score_fake: float

    def text(self) -> str:
        return (
            f"D loss {self.d:.3f}  G loss {self.g:.3f}  "
            f"real for D: real {self.score_real:.3f}, generated {self.score_fake:.3f}"
        )


class Cifar10Gan(Gan):
    """Both networks, their optimizers and the images, and the lesson's step."""

    network = "cifar10-gan"
    title = "GAN of one class of CIFAR-10"

    def __init__(
        self, device: Device, images: ImageSet, settings: Settings, losses_kept: int = 20
    ) -> None:
        if len(images) < settings.batch_size:
            raise DataError(
                f"{images.source}: {len(images)} images do not fill a batch of "
                f"{settings.batch_size}; a smaller --batch-size does"
            )
        super().__init__(device, images, settings, losses_kept)
        count = settings.batch_size
        # D as G sees it: the same parameters, which get no gradient, on generated images alone.
        graph = discriminator(settings.filters, settings.dropout)
        requests = dict.fromkeys(graph.list_arguments(), "null") | {"img": "write"}
        shapes = {"img": (count, SIDE, SIDE, CHANNELS), "label": (count, 1)}
        self.frozen = graph.bind(device, shapes, requests, shared=self.discriminator)
        for name, start in DROPOUT_COUNTERS.items():
            state = getattr(self, name).random_state
            state[...] = np.array([settings.seed, start], np.uint64)

    def bind(self, device: Device, batch_size: int) -> tuple[Executor, Executor]:
        settings = self.settings
        gen = generator(settings.filters).bind(
            device, {"noise": (batch_size, settings.noise_size)}, {"noise": "null"}
        )
        shapes = {"img": (2 * batch_size, SIDE, SIDE, CHANNELS), "label": (2 * batch_size, 1)}
        dis = discriminator(settings.filters, settings.dropout).bind(
            device, shapes, {"img": "null", "label": "null"}
        )
        return gen, dis

    def initial(self) -> initializer.Initializer:
        return initializer.Xavier()

    def make_optimizer(self, executor: Executor) -> optimizer.RMSprop:
        """What this system has in Adam's place."""
        settings = self.settings
        of_generator = executor is self.generator
        return optimizer.RMSprop(
            executor,
            learning_rate=settings.generator_rate if of_generator else settings.discriminator_rate,
            rho=0.9,
            eps=1e-7,
            clip_gradient=settings.clip,
            learning_rate_decay=settings.decay,
        )

    def train_batch(self) -> None:
        """One iteration: D on generated and real images in one batch, then G through D."""
        ops, settings, state = self.device.ops, self.settings, self.random_state
        gen, dis, frozen = self.generator, self.discriminator, self.frozen
        count, most = settings.batch_size, settings.label_noise

        ops.random_normal(state, gen.arg_dict["noise"])
        gen.forward()  # nothing is learned from this pass
        images, labels = dis.arg_dict["img"], dis.arg_dict["label"]
        images[:count] = gen.outputs[0]
        self.data.next_batch(images[count:])
        ops.random_uniform(state, labels[:count], low=1.0, high=1.0 + most)
        ops.random_uniform(state, labels[count:], low=0.0, high=most)
        dis.forward(is_train=True)
        dis.backward()
        loss, guesses = dis.outputs
        self._keep(0, loss, guesses[:count])
        self._keep(1, None, guesses[count:])
        self.discriminator_optimizer.update()

        # What would make D, as it is now, take these for real ones? Other noise than before.
        ops.random_normal(state, gen.arg_dict["noise"])
        gen.forward(is_train=True)
        frozen.forward(is_train=True, img=gen.outputs[0], label=0.0)
        frozen.backward()
        self._keep(2, frozen.outputs[0], None)
        gen.backward(out_grads=[frozen.grad_dict["img"]])
        self.generator_optimizer.update()

    def read_losses(self) -> list[Losses]:
        """The losses of the iterations since the last call. Waits for the device to finish."""
        first = self.batches_done - self._unread
        passes = self._read_passes()
        real = 1 - passes[:, :, 1:].astype(float).mean(axis=2)
        return [
            Losses(first + i, *map(float, (*losses, scores[1], scores[0])))
            for i, (losses, scores) in enumerate(zip(passes[:, ::2, 0], real, strict=True))
        ]

    def state_dict(self) -> dict[str, np.ndarray]:
        states = {f"dropout/{n}": np.array(getattr(self, n).random_state) for n in DROPOUT_COUNTERS}
        return super().state_dict() | states

    def load_state_dict(self, state: dict[str, np.ndarray], batches_done: int) -> None:
        super().load_state_dict(state, batches_done)
        for name in DROPOUT_COUNTERS:
            getattr(self, name).random_state[...] = state[f"dropout/{name}"]


class Judge:
    """Generated images against test images of the class, in a colour classifier's features.

    Raises CheckpointError where ``classifier`` is none, DataError without test images.
    """

    def __init__(self, device: Device, classifier: str, where: str, kind: str) -> None:
        self.network = ColourClassifier(device)
        self.network.load(classifier)
        test = load_cifar10(where, "test", [CLASS_NAMES.index(kind)])
        self.real, _ = self.network(test.images)

    def __call__(self, images: np.ndarray, seed: int) -> dict[str, Any]:
        """The numbers of ``quality.compare`` for images (N, 32, 32, 3) in 0..1."""
        return quality.compare(self.real, *self.network(images), seed=seed)


class Report:
    """Strips of images, curves of the losses, and the numbers reached.

    classifier: a run of ``pygan train colour-classifier`` to judge the last images, or None.
    """

    def __init__(self, model: Cifar10Gan, where: str, classifier: str | None = None) -> None:
        self.model = model
        device, settings = model.device, model.settings
        self.sampler = generator(settings.filters).bind(
            device, {"noise": (SHOWN, settings.noise_size)}, "null", shared=model.generator
        )
        state = picture_state(device, settings.seed)
        device.ops.random_normal(state, self.sampler.arg_dict["noise"])
        self.real = device.empty((settings.batch_size, SIDE, SIDE, CHANNELS), np.float32)
        self.judge = classifier and Judge(device, classifier, where, settings.kind)

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        """A strip drawn from one fixed noise, and the latest batch's real images below it."""
        self.sampler.forward()
        self.model.data.latest_batch(self.real)
        made = np.clip(np.array(self.sampler.outputs[0]), 0, 1)
        strips = np.concatenate([made, np.array(self.real)[:SHOWN]])
        pictures.save_picture(pictures.grid(strips, 2, SHOWN, SCALE), folder.sample(batches_done))

    def measure(self) -> dict[str, float]:
        """Numbers for the log at the end of an epoch: none beyond the iterations' own."""
        return {}

    def page(self, folder: RunFolder, epoch: int) -> str:
        """The epoch's last picture; where it is."""
        self.samples(folder, self.model.batches_done)
        return str(folder.sample(self.model.batches_done))

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        entries = read_log(folder.log, "batch")
        series = {name: [entry[name] for entry in entries] for name in entries[0]}
        settings = self.model.settings
        pictures.save_loss_curves(
            [number + 1 for number in series["batch"]],
            {"discriminator": series["d"], "generator": series["g"]},
            {"real images": series["score_real"], "generated": series["score_fake"]},
            batches_per_epoch,
            folder.losses,
            f"The GAN of CIFAR-10's {settings.kind}s, batch {settings.batch_size}, "
            f"seed {settings.seed}",
        )

    def result(self, folder: RunFolder) -> str:
        """Writes result.json: means over the last 100 iterations; says them."""
        latest = read_log(folder.log, "batch")[-AVERAGED:]
        names = [name for name in latest[0] if name not in ("kind", "batch")]
        means = {name: float(np.mean([entry[name] for entry in latest])) for name in names}
        entry = {
            "system": self.model.network,
            "settings": self.model.settings.as_dict(),
            "device": self.model.device.name,
            "images": self.model.data.count,
            "iterations": self.model.batches_done,
            "averaged_iterations": len(latest),
            **means,
        }
        if self.judge:
            entry["quality"] = self.judge(self._draw(JUDGED), self.model.settings.seed)
        checkpoint.write_json(folder.result, entry)
        listed = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        if self.judge:
            distance = entry["quality"]["frechet"]
            listed += (
                f"; Frechet distance of {JUDGED:,} images "
                f"{distance['value']:.2f} ({distance['low']:.2f}-{distance['high']:.2f})"
            )
        return f"{folder.result}: last {len(latest)} iterations: {listed}"

    def _draw(self, count: int) -> np.ndarray:
        """(count, 32, 32, 3) in 0..1, from other noise than the strips'."""
        device, noise = self.model.device, self.sampler.arg_dict["noise"]
        kept = np.array(noise)
        random_state = picture_state(device, self.model.settings.seed, further=kept.size)
        parts = []
        for _ in range(0, count, SHOWN):
            device.ops.random_normal(random_state, noise)
            self.sampler.forward()
            parts.append(np.array(self.sampler.outputs[0]))
        noise[...] = kept
        return np.clip(np.concatenate(parts)[:count], 0, 1)


def load_images(where: str, settings: Settings) -> ImageSet:
    """Images (M, 32, 32, 3) uint8 of the one class."""
    return load_cifar10(where, classes=[CLASS_NAMES.index(settings.kind)])


SYSTEM = System(
    "cifar10", Cifar10Gan, Settings, Report, epochs=1, load=load_images, least_batches=ITERATIONS
)


def bind_sampler(device: Device, count: int, settings: Mapping[str, Any]) -> Executor:
    """noise (count, Z) -> images (count, 32, 32, 3), for `pygan.training.sampling`."""
    known = Settings(**settings)
    return generator(known.filters).bind(device, {"noise": (count, known.noise_size)}, "null")


GENERATORS[Cifar10Gan.network] = Generator(bind_sampler, dataset="cifar10")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as asked; 0, or 128 + the number of the signal that stopped it."""
    parser = argparse.ArgumentParser(
        prog="pygan train cifar10", description=__doc__.splitlines()[0]
    )
    epochs = ITERATIONS * Settings.batch_size // 5000  # of as many images
    cli.add_run_options(parser, "cifar10", epochs, Settings.batch_size, cli.CIFAR10)
    parser.add_argument("--kind", choices=CLASS_NAMES, help="the class of images (dog)")
    parser.add_argument(
        "--filters", type=cli.positive, metavar="N", help="of D's convolutions, G's are twice (128)"
    )
    parser.add_argument(
        "--classifier",
        metavar="RUN",
        help="a run of 'pygan train colour-classifier', to measure the last images' quality",
    )
    options = parser.parse_args(arguments)
    asked = {"kind": options.kind, "filters": options.filters}
    system = replace(SYSTEM, report=partial(Report, classifier=options.classifier))
    return run_system(options, system, asked)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
