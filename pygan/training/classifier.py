"""The lesson's digit classifier: the layers of its discriminator, ten classes, supervised.

Its accuracy is a number of its own; its last layer's inputs are the features in which generated
digits are compared with real ones (``pygan.quality``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pygan import checkpoint, initializer, networks, optimizer, pictures, symbol
from pygan.data import ImageSet, ResidentImages, load_train_and_test
from pygan.errors import CheckpointError, DataError, StateError
from pygan.training.folder import RunFolder, read_log
from pygan.training.gan import IMAGE_SHAPE, load_network, network_shapes
from pygan.training.sampling import checkpoint_file

NETWORK = "digit-classifier"
CLASSES = 10
FEATURES = 64
BATCH = 100


@dataclass(frozen=True)
class ClassifierSettings:
    """The lesson's values as defaults; the weight decay is MXNet's, in the gradient."""

    batch_size: int = 20
    seed: int = 0
    learning_rate: float = 1e-3
    beta1: float = 0.9
    weight_decay: float = 1e-4
    initial_range: float = 0.05

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class ClassifierLoss:
    """One batch, numbered from 0 over the whole run; loss in nats per image and class."""

    batch: int
    loss: float

    def text(self) -> str:
        return f"loss {self.loss:.4f}"


class Classifier:
    """The network, its optimizer and its data: all that a step reads.

    Raises DataError for labels that are no digits.
    """

    network = NETWORK
    title = "digit classifier"

    def __init__(
        self, device, images: ImageSet, settings: ClassifierSettings, losses_kept: int = 20
    ) -> None:
        require_digits(images)
        self.device = device
        self.settings = settings
        self.data = ResidentImages(device, images, settings.batch_size, settings.seed)
        self.executor = symbol.bind(
            networks.classifier(CLASSES),
            device,
            shapes={
                "data": (settings.batch_size, *IMAGE_SHAPE),
                "label": (settings.batch_size, CLASSES),
            },
            grad_req={"data": "null", "label": "null"},
        )
        initial = initializer.Uniform(settings.initial_range)
        initial(self.executor, np.random.default_rng(settings.seed))
        self.adam = optimizer.Adam(
            self.executor,
            learning_rate=settings.learning_rate,
            beta1=settings.beta1,
            weight_decay=settings.weight_decay,
        )
        self.losses_kept = losses_kept
        self.batches_done = 0
        self._unread = 0
        self._losses = device.zeros((losses_kept,), np.float32)

    def start_epoch(self, epoch: int) -> None:
        """Draws the order of the images."""
        self.data.start_epoch(epoch)

    def step(self) -> None:
        """One batch forward, backward and an update. Raises StateError where losses kept were not
        read in time."""
        if self.losses_full:
            raise StateError(f"the losses of {self.losses_kept} batches wait for read_losses()")
        inputs = self.executor.arg_dict
        self.data.next_batch(inputs["data"], inputs["label"])
        self.executor.forward(is_train=True)
        self.executor.backward()
        self._losses[self._unread : self._unread + 1] = self.executor.outputs[0]
        self.adam.update()
        self.batches_done += 1
        self._unread += 1

    @property
    def losses_full(self) -> bool:
        """Whether ``read_losses`` must be called before the next step."""
        return self._unread == self.losses_kept

    def read_losses(self) -> list[ClassifierLoss]:
        """The losses of the batches since the last call. Waits for the device to finish them."""
        first = self.batches_done - self._unread
        losses = np.array(self._losses)[: self._unread]
        self._unread = 0
        return [ClassifierLoss(first + i, float(loss)) for i, loss in enumerate(losses)]

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that the next step depends on, as host arrays named part/array."""
        names = self.executor.parameter_names
        parts = {
            "classifier": {name: self.executor.arg_dict[name] for name in names},
            "classifier_auxiliary": dict(self.executor.aux_dict),
            "classifier_optimizer": self.adam.state_dict(),
            "data": self.data.state_dict(),
        }
        return {
            f"{part}/{name}": np.array(value)
            for part, arrays in parts.items()
            for name, value in arrays.items()
        }

    def load_state_dict(self, state: dict[str, np.ndarray], batches_done: int) -> None:
        """Continues from ``state_dict`` of a run of ``batches_done`` batches."""
        load_network(self.executor, state, "classifier")
        for part, target in (("classifier_optimizer", self.adam), ("data", self.data)):
            prefix = part + "/"
            target.load_state_dict(
                {name[len(prefix) :]: a for name, a in state.items() if name.startswith(prefix)}
            )
        self.batches_done = batches_done
        self._unread = 0


def require_digits(images: ImageSet) -> None:
    """Raises DataError for labels beyond 9."""
    if images.labels.max() >= CLASSES:
        raise DataError(
            f"{images.source}: a label is {images.labels.max()}; digits are 0 to {CLASSES - 1}"
        )


class DigitClassifier:
    """A trained classifier in use, by its moving statistics, ``BATCH`` images at a time.

    trained: the executor of a ``Classifier``, whose parameters are used as they stand; without,
    ``load`` brings them from a checkpoint.
    """

    def __init__(self, device, trained=None) -> None:
        self.executor = symbol.bind(
            networks.classifier_outputs(CLASSES),
            device,
            shapes={"data": (BATCH, *IMAGE_SHAPE)},
            grad_req="null",
            shared=trained,
        )

    def load(self, path: str | Path) -> dict:
        """Takes over a checkpoint (a file, or a run's folder); its metadata.

        Raises CheckpointError for a damaged file and for another network.
        """
        path = checkpoint_file(path)
        tensors, metadata = checkpoint.load(path)
        if metadata.get("network") != NETWORK:
            raise CheckpointError(
                f"{path}: a checkpoint of the network {metadata.get('network')!r}, where a "
                f"{NETWORK!r} is needed; 'pygan train classifier' makes one"
            )
        checkpoint.require_shapes(path, tensors, network_shapes(self.executor, "classifier"))
        load_network(self.executor, tensors, "classifier")
        return metadata

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, 64) and probabilities (N, 10), float32, of images (N, 28, 28, 1), which are
        uint8 or floats in 0..1."""
        features = np.empty((len(images), FEATURES), np.float32)
        probabilities = np.empty((len(images), CLASSES), np.float32)
        scale = np.float32(1 / 255 if images.dtype == np.uint8 else 1)
        batch = np.zeros((BATCH, *IMAGE_SHAPE), np.float32)
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            batch[: len(part)] = part * scale
            outputs = self.executor.forward(is_train=False, data=batch)
            for kept, output in zip((features, probabilities), outputs, strict=True):
                kept[start : start + BATCH] = np.array(output)[: len(part)]
        return features, probabilities


class ClassifierReport:
    """What a run of the classifier shows: accuracy on the test images, and the loss."""

    def __init__(self, model: Classifier, where: str) -> None:
        self.model = model
        _, self.test = load_train_and_test(where)
        require_digits(self.test)
        self.trained = DigitClassifier(model.device, model.executor)
        self.right = 0

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        """A classifier draws nothing."""

    def measure(self) -> dict[str, float]:
        """The test accuracy, 0..1, for the log."""
        _, probabilities = self.trained(self.test.images)
        self.right = int((probabilities.argmax(axis=1) == self.test.labels).sum())
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
            "network": NETWORK,
            **numbers,
            "test_images": len(self.test),
            "test_source": self.test.source,
            "batches": self.model.batches_done,
            "device": self.model.device.name,
            "settings": settings,
        }
        checkpoint.atomic_write(folder.result, (json.dumps(entry, indent=2) + "\n").encode())
        return f"{self._text()}; {folder.result}"

    def _text(self) -> str:
        share = self.right / len(self.test)
        return f"test accuracy {share:.2%} ({self.right:,} of {len(self.test):,})"
