"""A GAN of fully connected layers on handwritten digits: no convolution anywhere.

    pygan train fully-connected --data DIR        (or: python examples/fully_connected_gan.py ...)

The networks are `pygan.networks.fully_connected_generator` (100-256-512-784, batch norm, tanh) and
`fully_connected_discriminator` (1024-512-256-1, dropout); the step is
`FullyConnectedGan.train_batch` below. Ten epochs of 300 batches of 200 end in a table of losses, an
epoch a row. Goodfellow et al., "Generative adversarial nets" (2014), used such networks.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pygan import checkpoint, cli, networks, pictures
from pygan.data import ImageSet
from pygan.device import Device
from pygan.executor import Executor
from pygan.training import sampling
from pygan.training.command import run_system
from pygan.training.folder import RunFolder
from pygan.training.gan import IMAGE_SHAPE, Gan
from pygan.training.gan_report import draw_gan_curves
from pygan.training.log import read_log
from pygan.training.systems import System

EPOCHS = 10
ROWS, COLUMNS, SCALE = 6, 10, 2


@dataclass(frozen=True)
class Settings:
    """Batches of 200: 300 of them see MNIST's 60,000 images once."""

    batch_size: int = 200
    seed: int = 0
    noise_size: int = 100
    learning_rate: float = 2e-4
    beta1: float = 0.5
    dropout: float = 0.3
    initial_range: float = 0.05

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class FullyConnectedGan(Gan):
    """Both networks, their optimizers and the data, and the step."""

    network = sampling.FULLY_CONNECTED
    title = "fully connected GAN"
    pixel_range = (-1.0, 1.0)

    def __init__(
        self, device: Device, images: ImageSet, settings: Settings, losses_kept: int = 20
    ) -> None:
        super().__init__(device, images, settings, losses_kept)
        # Dropout draws from the executor's own stream, which the seed starts too.
        self.discriminator.random_state[...] = np.array([settings.seed, 1 << 56], np.uint64)

    def bind(self, device: Device, batch_size: int) -> tuple[Executor, Executor]:
        generator = networks.fully_connected_generator().bind(
            device,
            {"noise": (batch_size, self.settings.noise_size)},
            {"noise": "null"},
            branches=True,
        )
        discriminator = networks.fully_connected_discriminator(self.settings.dropout).bind(
            device,
            {"img": (batch_size, *IMAGE_SHAPE), "label": (batch_size, 1)},
            {"label": "null"},
            branches=True,
        )
        return generator, discriminator

    def train_batch(self) -> None:
        """One batch: D on generated images, D on real ones, an update each, then G through D."""
        gen, dis = self.generator, self.discriminator

        self.device.ops.random_normal(self.random_state, gen.arg_dict["noise"])
        gen.forward(is_train=True)
        made = gen.outputs[0]

        dis.forward(is_train=True, img=made, label=0.0)
        dis.backward(wanted=self.discriminator_weights)
        self._keep(0, *dis.outputs)
        self.discriminator_optimizer.update()

        self.data.next_batch(dis.arg_dict["img"])
        dis.forward(is_train=True, label=1.0)
        dis.backward(wanted=self.discriminator_weights)
        self._keep(1, *dis.outputs)
        self.discriminator_optimizer.update()

        dis.forward(is_train=True, img=made, label=1.0)
        dis.backward(wanted=["img"])
        self._keep(2, *dis.outputs)
        gen.backward(out_grads=[dis.grad_dict["img"]])
        self.generator_optimizer.update()

    def state_dict(self) -> dict[str, np.ndarray]:
        return super().state_dict() | {"dropout/state": np.array(self.discriminator.random_state)}

    def load_state_dict(self, state: dict[str, np.ndarray], batches_done: int) -> None:
        super().load_state_dict(state, batches_done)
        self.discriminator.random_state[...] = state["dropout/state"]


class Report:
    """A grid of one fixed noise, loss curves, and the table of losses."""

    def __init__(self, model: FullyConnectedGan, where: str) -> None:
        self.model = model
        count = ROWS * COLUMNS
        device, settings = model.device, model.settings
        # The training generator's own parameters and moving statistics, for another batch size.
        self.generator = networks.fully_connected_generator().bind(
            device, {"noise": (count, settings.noise_size)}, "null", shared=model.generator
        )
        state = sampling.picture_state(device, settings.seed)
        device.ops.random_normal(state, self.generator.arg_dict["noise"])

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        """The grid after a batch."""
        self.generator.forward(is_train=False)
        images = (np.array(self.generator.outputs[0]) + 1) / 2
        picture = pictures.grid(images, ROWS, COLUMNS, SCALE)
        pictures.save_picture(picture, folder.sample(batches_done))

    def measure(self) -> dict[str, float]:
        """Numbers for the log at the end of an epoch: none beyond the batches' own."""
        return {}

    def page(self, folder: RunFolder, epoch: int) -> str:
        """Draws the epoch's grid; its losses, means over the epoch."""
        self.samples(folder, self.model.batches_done)
        per_epoch = self.model.data.batches_per_epoch
        row = losses_by_epoch(read_log(folder.log, "batch"), per_epoch)[-1]
        return f"D loss {row['d']:.3f}, G loss {row['g']:.3f}"

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        draw_gan_curves(self.model, folder, batches_per_epoch)

    def result(self, folder: RunFolder) -> str:
        """Writes result.json; says the table of losses."""
        per_epoch = self.model.data.batches_per_epoch
        rows = losses_by_epoch(read_log(folder.log, "batch"), per_epoch)
        entry = {
            "system": self.model.network,
            "settings": self.model.settings.as_dict(),
            "device": self.model.device.name,
            "batches": self.model.batches_done,
            "batches_per_epoch": per_epoch,
            "epochs": rows,
        }
        checkpoint.write_json(folder.result, entry)
        lines = ["epoch  batches  D loss  G loss   D(x)  D(G(z))"]
        for row in rows:
            lines.append(
                f"{row['epoch']:5}  {row['batches']:7}  {row['d']:6.3f}  {row['g']:6.3f}  "
                f"{row['score_real']:5.3f}  {row['score_fake']:7.3f}"
            )
        return "\n".join([*lines, str(folder.result)])


def losses_by_epoch(entries: list[dict[str, Any]], batches_per_epoch: int) -> list[dict[str, Any]]:
    """Means over each epoch's batches, the last one's as far as it went. D's loss is the mean of
    its two, on generated and on real images (nats an image)."""
    rows = []
    for epoch, group in itertools.groupby(entries, lambda e: e["batch"] // batches_per_epoch):
        part = list(group)
        means = {
            name: float(np.mean([entry[name] for entry in part]))
            for name in ("d_fake", "d_real", "g", "score_real", "score_fake")
        }
        rows.append(
            {
                "epoch": epoch + 1,
                "batches": len(part),
                "d": (means["d_fake"] + means["d_real"]) / 2,
                **means,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as asked; 0, or 128 + the number of the signal that stopped it."""
    parser = argparse.ArgumentParser(
        prog="pygan train fully-connected", description=__doc__.splitlines()[0]
    )
    cli.add_run_options(parser, "fully-connected", EPOCHS, Settings.batch_size)
    options = parser.parse_args(arguments)
    system = System("fully-connected", FullyConnectedGan, Settings, Report, EPOCHS)
    return run_system(options, system)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
