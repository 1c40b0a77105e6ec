"""Anomaly detection of the lessons: the digits 2 and 3 are the anomalies among handwritten digits.

Known at training time are all other digits, ten labelled 2s, and no 3. A classifier (LeNet) learns
from batches of half anomalies and half normal digits; a variational auto-encoder learns the normal
ones alone, and its reconstruction error is the score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pygan import networks
from pygan.data import ImageSet, ResidentImages, load_train_and_test
from pygan.errors import DataError
from pygan.training.autoencoder import BATCH, IMAGE_SHAPE, in_batches, save_loss_curves
from pygan.training.folder import RunFolder
from pygan.training.supervised import Supervised, SupervisedSettings, load_trained

ANOMALIES = (2, 3)
LABELLED_DIGIT = 2
LABELLED = 10


def load_normal_digits(where: str) -> ImageSet:
    """The training digits that are no anomalies."""
    digits, _ = load_train_and_test(where)
    normal = ~np.isin(digits.labels, ANOMALIES)
    return _subset(digits, normal, "without 2 and 3")


def load_digits_but_3(where: str) -> ImageSet:
    """The training digits with the 2s, of which ten are used, and without the 3s."""
    digits, _ = load_train_and_test(where)
    return _subset(digits, digits.labels != 3, "without 3")


def _subset(digits: ImageSet, chosen: np.ndarray, text: str) -> ImageSet:
    source = f"{digits.source}, {text}"
    return ImageSet(digits.images[chosen], digits.labels[chosen], source, digits.reason)


class AnomalyClassifier(Supervised):
    """LeNet on batches whose first half are the ten labelled 2s, and the others normal digits.

    The ten are drawn from the seed. Raises DataError where there are not as many 2s.
    """

    network = "anomaly-lenet"

    def __init__(
        self, device: Any, images: ImageSet, settings: SupervisedSettings, losses_kept: int = 20
    ) -> None:
        twos = np.flatnonzero(images.labels == LABELLED_DIGIT)
        if len(twos) < LABELLED:
            raise DataError(f"{images.source}: {len(twos)} images of a 2; {LABELLED} are needed")
        count, half = settings.batch_size, settings.batch_size // 2
        shapes = {"data": (count, *IMAGE_SHAPE), "label": (count, 1)}
        executor = networks.lenet().bind(device, shapes, {"data": "null", "label": "null"})
        chosen = np.zeros(len(images), bool)
        # A second number keeps this stream apart from that of the initial weights.
        rng = np.random.default_rng((settings.seed, 1))
        chosen[rng.choice(twos, LABELLED, replace=False)] = True
        normal = ~np.isin(images.labels, ANOMALIES)
        parts = {
            "data": (normal, count - half, "normal"),
            "anomalies": (chosen, half, f"{LABELLED} labelled anomalies"),
        }
        tables = {
            name: ResidentImages(device, _subset(images, rows, text), size, settings.seed)
            for name, (rows, size, text) in parts.items()
        }
        super().__init__(device, settings, executor, tables, losses_kept)
        self.half = half
        executor.arg_dict["label"][...] = (np.arange(count) < half).astype(np.float32)[:, None]

    def feed(self) -> None:
        data = self.executor.arg_dict["data"]
        self.tables["anomalies"].next_batch(data[: self.half])
        self.data.next_batch(data[self.half :])


class AnomalyScores:
    """LeNet's probability that an image is an anomaly.

    training: the executor that is being trained, whose parameters are read as they stand; without
    it, parameters are those that ``load`` reads.
    """

    def __init__(self, device: Any, training: Any = None) -> None:
        shapes = {"data": (BATCH, *IMAGE_SHAPE), "label": (BATCH, 1)}
        self.executor = networks.lenet().bind(device, shapes, "null", shared=training)

    def load(self, folder: str | Path) -> dict[str, Any]:
        """Takes over the network of a run's newest checkpoint; its metadata.

        Raises CheckpointError for a damaged file and for another network.
        """
        return load_trained(self.executor, folder, AnomalyClassifier.network)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(N,) for images (N, 28, 28, 1) uint8."""

        def forward(part: np.ndarray) -> Any:
            return self.executor.forward(data=part.astype(np.float32) / 255)[1]

        return in_batches(images, forward)[:, 0]


class ClassifierReport:
    """The mean score of held-out anomalies and of held-out normal digits; no pictures."""

    def __init__(self, model: AnomalyClassifier, where: str) -> None:
        self.scores = AnomalyScores(model.device, model.executor)
        _, held_out = load_train_and_test(where)
        self.images = held_out.images
        self.anomalous = np.isin(held_out.labels, ANOMALIES)

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        """Nothing: a classifier draws no images."""

    def measure(self) -> dict[str, float]:
        scores = self.scores(self.images)
        return {
            "score_of_anomalies": float(scores[self.anomalous].mean()),
            "score_of_normal": float(scores[~self.anomalous].mean()),
        }

    def page(self, folder: RunFolder, epoch: int) -> str:
        numbers = self.measure()
        return ", ".join(f"{name.replace('_', ' ')} {v:.3f}" for name, v in numbers.items())

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        save_loss_curves(folder, batches_per_epoch, "LeNet: anomalies against normal digits")

    def result(self, folder: RunFolder) -> str:
        """The mean scores, said; `examples/anomaly_detection.py` measures both detectors."""
        return self.page(folder, 0)
