"""A classifier of CIFAR-10's ten classes, in whose features generated colour images are judged.

The training of ``pygan.training.classifier`` with ``networks.colour_classifier``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pygan import initializer, networks
from pygan.data import ImageSet
from pygan.data.cifar10 import CHANNELS, SIDE, load_cifar10
from pygan.training.classifier import Classifier, TrainedClassifier
from pygan.training.supervised import SupervisedSettings

NETWORK = "colour-classifier"
SHAPE = (SIDE, SIDE, CHANNELS)


@dataclass(frozen=True)
class ColourSettings(SupervisedSettings):
    """Choices made here; no lesson has this network."""


class ColourClassifier(TrainedClassifier):
    """`networks.colour_classifier_outputs` in use: images (N, 32, 32, 3), 128 features."""

    network = NETWORK
    graph = staticmethod(networks.colour_classifier_outputs)
    image_shape = SHAPE
    advice = "'pygan train colour-classifier' makes one"


class ColourClassifierTraining(Classifier):
    """`networks.colour_classifier`, trained on CIFAR-10."""

    network = NETWORK
    title = "colour classifier"
    graph = staticmethod(networks.colour_classifier)
    image_shape = SHAPE

    def initial(self) -> initializer.Initializer:
        return initializer.Xavier()

    def test_images(self, where: str) -> ImageSet:
        return load_cifar10(where, "test")

    def in_use(self) -> ColourClassifier:
        return ColourClassifier(self.device, self.executor)


def load_balanced(where: str, settings: ColourSettings | None = None) -> ImageSet:
    """CIFAR-10's training images, of each class that is there as many as of the rarest.

    Folders with a part of CIFAR-10 may hold one class whole. Raises DataError as `load_cifar10`.
    """
    images = load_cifar10(where)
    counts = np.bincount(images.labels)
    share = counts[counts > 0].min()
    if (counts[counts > 0] == share).all():
        return images
    firsts = [np.flatnonzero(images.labels == label)[:share] for label in range(len(counts))]
    kept = np.sort(np.concatenate(firsts))
    source = f"{share:,} of each class of {images.source}"
    return ImageSet(images.images[kept], images.labels[kept], source)
