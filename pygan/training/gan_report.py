"""What a run of a GAN shows of itself: sample grids, the lesson's pages, loss curves."""

from __future__ import annotations

import numpy as np

from pygan import pictures
from pygan.training import conditional
from pygan.training.folder import RunFolder
from pygan.training.gan import Gan
from pygan.training.log import read_log
from pygan.training.sampling import Sampler, draw_noise

SCALE = 4


class GanReport:
    """Pictures of one fixed noise: a grid of 3x3 draws.

    A generator that takes digits draws a row of each of three noises with the columns 0 to 9.
    """

    rows, columns = 3, 3

    def __init__(self, model: Gan, where: str) -> None:
        self.model = model
        self.digits = None
        if model.network == conditional.NETWORK:
            self.columns = conditional.CLASSES
            self.digits = list(range(self.columns)) * self.rows
        self.sampler = Sampler(model.device, self.rows * self.columns, model.network)
        noise = draw_noise(model.device, self.sampler.count, model.settings.seed)
        if self.digits:
            noise = noise[: self.rows].repeat(self.columns, axis=0)
        self.noise = noise

    def images(self) -> np.ndarray:
        """(rows * columns, 28, 28, 1) by the generator as it stands."""
        self.sampler.copy_from(self.model.generator)
        return self.sampler.images(self.noise, self.digits)

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        """The grid after a batch."""
        picture = pictures.grid(self.images(), self.rows, self.columns, SCALE)
        pictures.save_picture(picture, folder.sample(batches_done))

    def measure(self) -> dict[str, float]:
        """Numbers for the log at the end of an epoch: none beyond the batches' own."""
        return {}

    def page(self, folder: RunFolder, epoch: int) -> str:
        """Writes the epoch's page; its path, to be said."""
        pictures.save_page(self.images(), folder.page(epoch), self.rows, self.columns)
        return str(folder.page(epoch))

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        """Losses and scores of the whole log."""
        draw_gan_curves(self.model, folder, batches_per_epoch)

    def result(self, folder: RunFolder) -> str:
        """Writes the number reached and says it; a GAN's is measured apart (``pygan.quality``)."""
        return ""


def draw_gan_curves(model: Gan, folder: RunFolder, batches_per_epoch: int) -> None:
    """Losses and scores of the whole log."""
    entries = read_log(folder.log, "batch")
    settings = model.settings
    pictures.save_loss_curves(
        [entry["batch"] + 1 for entry in entries],
        {
            "discriminator (mean of its two)": [
                (entry["d_fake"] + entry["d_real"]) / 2 for entry in entries
            ],
            "generator": [entry["g"] for entry in entries],
        },
        {
            "D(x), real images": [entry["score_real"] for entry in entries],
            "D(G(z)), generated": [entry["score_fake"] for entry in entries],
        },
        batches_per_epoch,
        folder.losses,
        f"The {model.title}, batch {settings.batch_size}, seed {settings.seed}",
    )
