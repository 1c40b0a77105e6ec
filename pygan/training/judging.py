"""Measures of a trained generator: its images against real ones it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygan import quality
from pygan.data import ImageSet, load_train_and_test
from pygan.data.cifar10 import CLASS_NAMES, load_cifar10
from pygan.data.resize import grey, resized, scaled
from pygan.training.classifier import DigitClassifier, TrainedClassifier
from pygan.training.colour_classifier import ColourClassifier, load_balanced
from pygan.training.conditional import CLASSES
from pygan.training.sampling import BATCH, Sampler, open_sampler, origin

if TYPE_CHECKING:
    from pygan.device import Device


@dataclass(frozen=True)
class Subject:
    """What a generator draws, and how it is judged.

    kind: what the classes are called. classifier: sees the images. load(where): training images and
    test images. fit(images, side): images (N, height, width, channels) float32 as the classifier
    takes them.
    """

    kind: str
    classifier: type[TrainedClassifier]
    load: Callable[[str], tuple[ImageSet, ImageSet]]
    fit: Callable[[np.ndarray, int], np.ndarray]

    def as_seen(self, images: np.ndarray) -> np.ndarray:
        shape = self.classifier.image_shape
        return images if images.shape[1:] == shape else self.fit(images, shape[0])


SUBJECTS = {
    "mnist": Subject("digit", DigitClassifier, load_train_and_test, grey),
    "cifar10": Subject(
        "class",
        ColourClassifier,
        lambda where: (load_balanced(where), load_cifar10(where, "test")),
        scaled,
    ),
}
"""By the data that a generator's settings name, or else the generator itself."""


def as_digits(images: np.ndarray) -> np.ndarray:
    """Images (N, height, width, channels) float32 in 0..1 as a `DigitClassifier` takes them."""
    return SUBJECTS["mnist"].as_seen(images)


def judge(
    device: Device,
    generator: str | Path,
    classifier: str | Path,
    where: str,
    count: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """The numbers of ``quality.measure`` for ``count`` images of a generator's checkpoint.

    The features are those of a classifier's checkpoint (`SUBJECTS` says of which network), the real
    images the test images of ``where``. A conditional generator is asked for 0 to 9 in turn, and
    ``agreement`` is the share in which the classifier sees the digit asked for. ``reference`` has
    the same numbers for training images in place of generated ones (as many, or all there are):
    what perfect images would reach; its agreement is the classifier's with the true labels.
    A generator of one class is judged by that class alone. Images of another size are brought to
    the classifier's, and to grey for digits; the training images of ``reference`` are brought to
    their size and back, for a fair comparison. Raises CheckpointError, DataError, and PyganError
    for too few images.
    """
    sampler, metadata = open_sampler(device, generator, BATCH)
    settings = metadata["settings"]
    subject = SUBJECTS[settings.get("dataset", sampler.generator.dataset)]
    network = subject.classifier(device)
    judged_by = network.load(classifier)
    if "kind" in settings:  # one class of CIFAR-10
        classes = [CLASS_NAMES.index(settings["kind"])]
        train, test = (load_cifar10(where, split, classes) for split in ("train", "test"))
    else:
        train, test = subject.load(where)
    asked = np.arange(count) % CLASSES if sampler.takes_digits else None
    images = subject.as_seen(sampler.images(sampler.draw_noise(count, seed), asked))
    chosen = np.random.default_rng(seed).permutation(len(train))[:count]
    perfect = ImageSet(train.images[chosen], train.labels[chosen], train.source)
    real, _ = network(test.images)
    return {
        **origin(metadata),
        "kind": subject.kind,
        "classifier_batches": judged_by["batches_done"],
        "device": device.name,
        "data": test.source,
        **quality.compare(real, *network(images), asked=asked, seed=seed),
        "reference": quality.compare(
            real, *network(_as_drawn(perfect, sampler, subject)), asked=perfect.labels, seed=seed
        ),
    }


def _as_drawn(images: ImageSet, sampler: Sampler, subject: Subject) -> np.ndarray:
    """Real images after the resizing that the generator's images go through."""
    if images.images.shape[1:] == sampler.image_shape:
        return images.images
    side, _, channels = sampler.image_shape
    return subject.as_seen(resized(images, side, channels).images / np.float32(255))


def table(result: Mapping[str, Any]) -> str:
    """The result of ``judge`` in lines for a terminal, with 95 % intervals."""
    rows = [
        ("Frechet distance", "frechet", "{:.3f}"),
        ("kernel distance (x 1000)", "kernel", "{:.3f}"),
        ("precision", "precision", "{:.1%}"),
        ("recall", "recall", "{:.1%}"),
        (f"{result['kind']} as asked", "agreement", "{:.2%}"),
    ]
    lines = [f"{'':26}{'generated':26}training images"]
    for title, key, form in rows:
        cells = []
        for entry in (result, result["reference"]):
            scale = 1000 if key == "kernel" else 1
            shown = [form.format(scale * value) for value in entry.get(key, {}).values()]
            cells.append("{} [{}, {}]".format(*shown) if shown else "-")
        lines.append(f"{title:26}{cells[0]:26}{cells[1]}")
    for title, entry in (("generated", result), ("training images", result["reference"])):
        spread = entry["classes"]
        counts = " ".join(f"{number:,}" for number in spread["histogram"])
        heading = f"images by {result['kind']}, 0 to 9, {title}"
        lines.append(f"{heading}: {counts} ({spread['covered']} covered)")
    return "\n".join(lines)
