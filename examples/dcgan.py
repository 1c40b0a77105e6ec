"""DCGAN at 64x64 pixels, as in MXNet's example, on MNIST or CIFAR-10.

    pygan train dcgan --data DIR                          (or: python examples/dcgan.py --data DIR)
    pygan train dcgan --data DIR --dataset cifar10

A. Radford, L. Metz and S. Chintala, "Unsupervised representation learning with deep convolutional
generative adversarial networks" (2015, arXiv:1511.06434). The networks are
`pygan.networks.dcgan_generator` and `dcgan_discriminator`; the step is `Dcgan.train_batch` below.
Every 100 batches three pictures are drawn: what the generator made, the gradient that the
discriminator hands back to it, and the real images of the batch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygan import checkpoint, cli, initializer, networks, optimizer, pictures
from pygan.data import ImageSet, load_digits
from pygan.data.cifar10 import load_cifar10
from pygan.data.resize import resized
from pygan.device import Device
from pygan.errors import PyganError
from pygan.executor import Executor
from pygan.training import sampling
from pygan.training.command import run_system
from pygan.training.folder import RunFolder
from pygan.training.gan import Gan, Losses
from pygan.training.gan_report import draw_gan_curves
from pygan.training.log import read_log
from pygan.training.monitor import Monitor, with_internals
from pygan.training.systems import System
from pygan.working_memory import WorkingMemory

SIDE, CHANNELS = 64, 3
EPOCHS = 100
PICTURE_SIDE = 8
MONITOR_PATTERN = r"(gact\d|dact\d|dloss)_output|(data|d\d_weight|g\d_weight)_gradient"


@dataclass(frozen=True)
class Settings:
    """MXNet's example's own values as defaults. images: take only so many, None for all."""

    batch_size: int = 64
    seed: int = 0
    dataset: str = "mnist"
    images: int | None = None
    ngf: int = 64
    ndf: int = 64
    noise_size: int = 100
    learning_rate: float = 2e-4
    beta1: float = 0.5
    sigma: float = 0.02

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Metrics(Losses):
    """`Losses` and what the example prints besides: how often D is right, of 1."""

    accuracy_fake: float
    accuracy_real: float

    def text(self) -> str:
        accuracy = (self.accuracy_fake + self.accuracy_real) / 2
        return f"{super().text()}  D right {accuracy:.0%}"


class Dcgan(Gan):
    """Both networks, their optimizers and the data, and the example's step.

    Each of the three passes through D has an executor of its own, all with the parameters of
    `discriminator`, the one for real images: nothing is copied between D and G, and the gradients
    of generated images are written where those of real ones are added.
    """

    network = sampling.DCGAN
    title = "DCGAN"
    pixel_range = (-1.0, 1.0)
    monitor_pattern = ""
    """Outputs inside the networks to keep for a monitor."""

    def __init__(
        self, device: Device, images: ImageSet, settings: Settings, losses_kept: int = 20
    ) -> None:
        super().__init__(device, images, settings, losses_kept)
        options = {"shared": self.discriminator, "inputs": {"data": self.generator.outputs[0]}}
        options["working_memory"] = self.working_memory
        bind, count = self._bind_discriminator, settings.batch_size
        self.on_fake = bind(device, count, {"data": "null"}, **options)
        self.on_generated = bind(
            device, count, {}, input_gradients={"data": self.image_gradient}, **options
        )
        passes = ((self.on_fake, 0.0), (self.discriminator, 1.0), (self.on_generated, 1.0))
        for executor, label in passes:
            device.ops.fill(executor.arg_dict["label"], value=label)
        self._beside = device.branch()

    def bind(self, device: Device, batch_size: int) -> tuple[Executor, Executor]:
        settings = self.settings
        # What the monitor watches inside the networks becomes an output of them.
        gen = with_internals(networks.dcgan_generator(settings.ngf, CHANNELS), self.monitor_pattern)
        # Where D leaves the image gradient and G takes it; it can be looked at after the step.
        self.image_gradient = device.zeros((batch_size, SIDE, SIDE, CHANNELS), np.float32)
        # Of D's three passes, which follow each other, between G's forward and its backward.
        self.working_memory = memory = WorkingMemory()
        generator = gen.bind(
            device,
            {"rand": (batch_size, 1, 1, settings.noise_size)},
            {"rand": "null"},
            branches=True,
            output_gradients={gen.list_outputs()[0]: self.image_gradient},
            scratch_memory=memory,
            # Read by the update that follows G's backward, and then not before the next one.
            lend_gradients=True,
        )
        # D's gradients of two passes are summed: those of real images are the second.
        weights = networks.dcgan_discriminator(settings.ndf).list_arguments()
        requests = dict.fromkeys(weights, "add") | {"data": "null"}
        return generator, self._bind_discriminator(
            device, batch_size, requests, working_memory=memory
        )

    def _bind_discriminator(
        self, device: Device, batch_size: int, requests: dict[str, str], **options: Any
    ) -> Executor:
        """An executor of D, with the gradient requests that are not "write"."""
        plain = networks.dcgan_discriminator(self.settings.ndf)
        dis = with_internals(plain, self.monitor_pattern)
        shapes = {"data": (batch_size, SIDE, SIDE, CHANNELS), "label": (batch_size, 1)}
        return dis.bind(device, shapes, requests | {"label": "null"}, branches=True, **options)

    def initial(self) -> initializer.Initializer:
        return initializer.Normal(self.settings.sigma)

    def make_optimizer(self, executor: Executor) -> optimizer.Adam:
        # LogisticRegressionOutput does not divide by the batch; MXNet's Module does it here.
        return optimizer.Adam(
            executor,
            learning_rate=self.settings.learning_rate,
            beta1=self.settings.beta1,
            rescale_grad=1 / self.settings.batch_size,
        )

    def train_batch(self) -> None:
        """One batch: D learns from generated and real images in one update, then G through D."""
        gen, real, beside = self.generator, self.discriminator, self._beside

        # Until D sees the real images, they can be gathered beside the rest.
        beside.enter()
        self.data.next_batch(real.arg_dict["data"])
        beside.leave()

        self.device.ops.random_normal(self.random_state, gen.arg_dict["rand"])
        gen.forward(is_train=True)

        self.on_fake.forward(is_train=True)
        self.on_fake.backward(wanted=self.discriminator_weights)

        beside.join()
        real.forward(is_train=True)
        real.backward(wanted=self.discriminator_weights)
        self.discriminator_optimizer.update()

        self.on_generated.forward(is_train=True)
        beside.enter()
        passes = (self.on_fake, real, self.on_generated)
        self._keep_all(*((None, executor.outputs[0]) for executor in passes))
        beside.leave()
        self.on_generated.backward(wanted=["data"])
        gen.backward(out_grads=[self.image_gradient, *[None] * (len(gen.outputs) - 1)])
        self.generator_optimizer.update()
        beside.join()

    def read_losses(self) -> list[Metrics]:
        """The metrics of the batches since the last call. Waits for the device to finish them."""
        first = self.batches_done - self._unread
        passes = self._read_passes()[:, :, 1:].astype(np.float64)
        return [metrics(first + i, *three) for i, three in enumerate(passes)]


def metrics(batch: int, fake: np.ndarray, real: np.ndarray, gen: np.ndarray) -> Metrics:
    """The example's metrics of D's probabilities of "real", float64 (N,), of the three passes."""
    tiny = 1e-12  # the example's, so that a probability of 0 has a logarithm
    return Metrics(
        batch=batch,
        d_fake=float(-np.log(1 - fake + tiny).mean()),
        d_real=float(-np.log(real + tiny).mean()),
        g=float(-np.log(gen + tiny).mean()),
        score_real=float(real.mean()),
        score_fake=float(fake.mean()),
        accuracy_fake=float((fake <= 0.5).mean()),
        accuracy_real=float((real > 0.5).mean()),
    )


class Report:
    """Three pictures of the latest batch, loss curves, and the numbers reached."""

    def __init__(self, model: Dcgan, where: str) -> None:
        self.model = model

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        """What G made, the gradient that it got for it, and the real images, of one batch."""
        model = self.model
        gradient = np.array(model.image_gradient)
        # Grey is no gradient; the largest of the batch is black or white.
        gradient *= 1 / max(float(np.abs(gradient).max()), float(np.finfo(np.float32).tiny))
        parts = {
            "generated": np.array(model.generator.outputs[0]),
            "gradient": gradient,
            "real": np.array(model.discriminator.arg_dict["data"]),
        }
        for name, images in parts.items():
            path = folder.sample(batches_done)
            draw_grid(images[: PICTURE_SIDE**2], path.with_stem(f"{path.stem}_{name}"))

    def measure(self) -> dict[str, float]:
        """Numbers for the log at the end of an epoch: none beyond the batches' own."""
        return {}

    def page(self, folder: RunFolder, epoch: int) -> str:
        """Draws the three pictures of the epoch's last batch; where they are."""
        self.samples(folder, self.model.batches_done)
        return f"pictures of batch {self.model.batches_done:,} in {folder.path / 'samples'}"

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        draw_gan_curves(self.model, folder, batches_per_epoch)

    def result(self, folder: RunFolder) -> str:
        """Writes result.json: means over the last 100 batches; says them."""
        latest = read_log(folder.log, "batch")[-100:]
        names = [name for name in latest[0] if name not in ("kind", "batch")]
        means = {name: float(np.mean([entry[name] for entry in latest])) for name in names}
        entry = {
            "system": self.model.network,
            "settings": self.model.settings.as_dict(),
            "device": self.model.device.name,
            "batches": self.model.batches_done,
            "averaged_batches": len(latest),
            **means,
        }
        checkpoint.write_json(folder.result, entry)
        listed = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        return f"{folder.result}: last {len(latest)} batches: {listed}"


def draw_grid(images: np.ndarray, path: Path) -> None:
    """Images (N, 64, 64, channels) in -1..1 in the squarest grid."""
    rows, columns = pictures.grid_shape(len(images))
    pictures.save_picture(pictures.grid((images + 1) / 2, rows, columns), path)


def load_images(where: str, settings: Settings) -> ImageSet:
    """Images (M, 64, 64, 3) uint8 of the data set that the settings name."""
    load = {"mnist": load_digits, "cifar10": load_cifar10}[settings.dataset]
    found = load(where)
    if settings.images is not None:
        if settings.images > len(found):
            raise PyganError(f"--images {settings.images:,}: there are only {len(found):,}")
        source = f"the first {settings.images:,} of {found.source}"
        kept = slice(settings.images)
        found = ImageSet(found.images[kept], found.labels[kept], source, found.reason)
    return resized(found, SIDE, CHANNELS)


def make_system(every: int, pattern: str) -> System:
    """The system for `pygan.training.run`, watched by a monitor where ``every`` is above 0."""

    class Watched(Dcgan):
        monitor_pattern = pattern if every else ""
        monitor: Monitor | None = None

    def watch(model: Watched) -> list[str]:
        if model.monitor is None:
            networks = {"G": model.generator, "D": model.on_generated}
            model.monitor = Monitor(networks, pattern, every)
        return model.monitor.lines(model.batches_done)

    return System("dcgan", Watched, Settings, Report, EPOCHS, load_images, watch if every else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as asked; 0, or 128 + the number of the signal that stopped it."""
    parser = argparse.ArgumentParser(prog="pygan train dcgan", description=__doc__.splitlines()[0])
    cli.add_run_options(parser, "dcgan", EPOCHS, Settings.batch_size, lean=True)
    parser.add_argument(
        "--dataset",
        choices=("mnist", "cifar10"),
        help="images (mnist); --data names the folder of cifar-10-batches-bin for cifar10",
    )
    parser.add_argument(
        "--images", type=cli.positive, metavar="N", help="only the first N images (all)"
    )
    parser.add_argument("--ngf", type=cli.positive, metavar="N", help="G's filters (64)")
    parser.add_argument("--ndf", type=cli.positive, metavar="N", help="D's filters (64)")
    parser.add_argument(
        "--monitor", type=cli.positive, metavar="N", help="print norms every N batches (never)"
    )
    parser.add_argument(
        "--monitor-pattern",
        default=MONITOR_PATTERN,
        metavar="REGEX",
        help="which outputs and gradients the monitor prints (%(default)s)",
    )
    options = parser.parse_args(arguments)
    asked = {name: getattr(options, name) for name in ("dataset", "images", "ngf", "ndf")}
    return run_system(options, make_system(options.monitor or 0, options.monitor_pattern), asked)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
