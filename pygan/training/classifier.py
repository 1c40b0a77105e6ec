"""The lesson's digit classifier: the layers of its discriminator, ten classes, supervised.

Its accuracy is a number of its own; its last layer's inputs are the features in which generated
digits are compared with real ones (``pygan.quality``). ``pygan.training.colour_classifier`` is the
same for colour images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pygan import checkpoint, initializer, networks, pictures, symbol
from pygan.data import ImageSet, ResidentImages, load_train_and_test
from pygan.errors import DataError
from pygan.training.folder import RunFolder
from pygan.training.gan import IMAGE_SHAPE
from pygan.training.log import read_log
from pygan.training.supervised import Supervised, SupervisedSettings, load_trained

if TYPE_CHECKING:
    from pygan.device import Device
    from pygan.executor import Executor

NETWORK = "digit-classifier"
PART = "classifier"
CLASSES = 10
FEATURES = 64
BATCH = 100


@dataclass(frozen=True)
class ClassifierSettings(SupervisedSettings):
    """The lesson's values as defaults; the weight decay is MXNet's, in the gradient."""

    batch_size: int = 20
    initial_range: float = 0.05


@dataclass(frozen=True)
class ClassifierLoss:
    """One batch, numbered from 0 over the whole run; loss in nats per image and class."""

    batch: int
    loss: float

    def text(self) -> str:
        return f"loss {self.loss:.4f}"


class Classifier(Supervised):
    """`networks.classifier`, trained on images with their digits.

    Raises DataError for labels that are no digits.
    """

    network = NETWORK
    title = "digit classifier"
    part = PART
    optimizer_part = f"{PART}_optimizer"
    draws = False
    graph: ClassVar[staticmethod[[int], symbol.Symbol]] = staticmethod(networks.classifier)
    image_shape: ClassVar[tuple[int, ...]] = IMAGE_SHAPE
    settings: ClassifierSettings

    def __init__(
        self, device: Any, images: ImageSet, settings: ClassifierSettings, losses_kept: int = 20
    ) -> None:
        require_digits(images)
        count = settings.batch_size
        shapes = {"data": (count, *self.image_shape), "label": (count, CLASSES)}
        graph = self.graph(CLASSES)
        executor = graph.bind(device, shapes, self.requests(graph.list_arguments()))
        tables = self.tables_of(device, images, settings)
        super().__init__(device, settings, executor, tables, losses_kept)

    def requests(self, arguments: list[str]) -> dict[str, str]:
        """``grad_req`` of those arguments that are not trained."""
        return {"data": "null", "label": "null"}

    def tables_of(
        self, device: Any, images: ImageSet, settings: ClassifierSettings
    ) -> dict[str, ResidentImages]:
        """What batches are taken from, ``data`` among it."""
        return {"data": ResidentImages(device, images, settings.batch_size, settings.seed)}

    def initial(self) -> initializer.Initializer:
        return initializer.Uniform(self.settings.initial_range)

    def feed(self) -> None:
        inputs = self.executor.arg_dict
        self.data.next_batch(inputs["data"], inputs["label"])

    def losses_of(self, batch: int, row: np.ndarray) -> ClassifierLoss:
        return ClassifierLoss(batch, float(row[0]))

    def test_images(self, where: str) -> ImageSet:
        """What its accuracy is measured on."""
        _, test = load_train_and_test(where)
        require_digits(test)
        return test

    def in_use(self) -> TrainedClassifier:
        """The network as it stands, for any number of images."""
        return DigitClassifier(self.device, self.executor)


def require_digits(images: ImageSet) -> None:
    """Raises DataError for labels beyond 9."""
    if images.labels.max() >= CLASSES:
        raise DataError(
            f"{images.source}: a label is {images.labels.max()}; digits are 0 to {CLASSES - 1}"
        )


class TrainedClassifier:
    """A trained classifier in use, by its moving statistics, ``BATCH`` images at a time.

    trained: the executor of a ``Classifier``, whose parameters are used as they stand; without,
    ``load`` brings them from a checkpoint.
    """

    network: ClassVar[str]
    """The name in checkpoints."""
    graph: ClassVar[staticmethod[[int], symbol.Symbol]]
    """Its outputs are features and probabilities."""
    image_shape: ClassVar[tuple[int, ...]]
    advice: ClassVar[str]
    """What makes a checkpoint of it."""

    def __init__(self, device: Device, trained: Executor | None = None) -> None:
        self.executor = symbol.bind(
            self.graph(CLASSES),
            device,
            shapes={"data": (BATCH, *self.image_shape)},
            grad_req="null",
            shared=trained,
        )

    def load(self, path: str | Path) -> dict[str, Any]:
        """Takes over a checkpoint (a file, or a run's folder); its metadata.

        Raises CheckpointError for a damaged file and for another network.
        """
        return load_trained(self.executor, path, self.network, PART, self.advice)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, D) and probabilities (N, 10), float32, of images (N, *image_shape), which
        are uint8 or floats in 0..1."""
        kept = [
            np.empty((len(images), *output.shape[1:]), np.float32)
            for output in self.executor.outputs
        ]
        scale = np.float32(1 / 255 if images.dtype == np.uint8 else 1)
        batch = np.zeros((BATCH, *self.image_shape), np.float32)
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            batch[: len(part)] = part * scale
            outputs = self.executor.forward(is_train=False, data=batch)
            for array, output in zip(kept, outputs, strict=True):
                array[start : start + BATCH] = np.array(output)[: len(part)]
        features, probabilities = kept
        return features, probabilities


class DigitClassifier(TrainedClassifier):
    """`networks.classifier_outputs` in use: images (N, 28, 28, 1), 64 features."""

    network = NETWORK
    graph = staticmethod(networks.classifier_outputs)
    image_shape = IMAGE_SHAPE
    advice = "'pygan train classifier' makes one"


def count_right(classifier: TrainedClassifier, images: ImageSet) -> int:
    """How many images show the class that the classifier finds most probable."""
    _, probabilities = classifier(images.images)
    return int((probabilities.argmax(axis=1) == images.labels).sum())


class ClassifierReport:
    """What a run of the classifier shows: accuracy on the test images, and the loss."""

    def __init__(self, model: Classifier, where: str) -> None:
        self.model = model
        self.test = model.test_images(where)
        self.trained = model.in_use()
        self.right = 0

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        """A classifier draws nothing."""

    def measure(self) -> dict[str, float]:
        """The test accuracy, 0..1, for the log."""
        self.right = count_right(self.trained, self.test)
        return {"test_accuracy": self.right / len(self.test)}

    def page(self, folder: RunFolder, epoch: int) -> str:
        """The accuracy measured last, to be said."""
        return self._text()

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        """Loss and accuracy of the whole log."""
        entries = read_log(folder.log, "batch")
        epochs = read_log(folder.log, "epoch")
        settings = self.model.settings
        pictures.save_learning_curves(
            [entry["batch"] + 1 for entry in entries],
            [entry["loss"] for entry in entries],
            {entry["epoch"]: entry["test_accuracy"] for entry in epochs},
            batches_per_epoch,
            folder.losses,
            f"The {self.model.title}, batch {settings.batch_size}, seed {settings.seed}",
        )

    def result(self, folder: RunFolder) -> str:
        """Measures, writes result.json, and says the accuracy."""
        numbers = self.measure()
        settings = self.model.settings.as_dict()
        entry = {
            "network": self.model.network,
            **numbers,
            "test_images": len(self.test),
            "test_source": self.test.source,
            "batches": self.model.batches_done,
            "device": self.model.device.name,
            "settings": settings,
        }
        checkpoint.write_json(folder.result, entry)
        return f"{self._text()}; {folder.result}"

    def _text(self) -> str:
        share = self.right / len(self.test)
        return f"test accuracy {share:.2%} ({self.right:,} of {len(self.test):,})"
