"""Transfer from the discriminator: its first layers start a classifier of digits.

    pygan train transfer --data DIR --discriminator runs/lesson

The discriminator of a run of `pygan train lesson` has seen all digits and no label (without
``--discriminator``, such a run comes first). Its layers up to the last become those of the lesson's
classifier; a fully connected layer and softmax follow, and the whole is trained on a small labelled
part of the training images. Radford et al., "Unsupervised representation learning with deep
convolutional generative adversarial networks" (2015), section 5, judge a GAN so. Three ways:

    scratch    all layers start at random
    transfer   the first layers start as the discriminator's: its parameters, not its moving
               statistics, as in the lesson
    frozen     ... and stay so: only the last layer learns

Each seed draws its own labelled part, start and order, which its three trainings share. Ends in
test accuracies, their differences by seed, both with 95 % intervals, and a picture.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pygan import checkpoint, cli, networks
from pygan import device as devices
from pygan.data import ImageSet, load_train_and_test, some_of
from pygan.errors import CheckpointError
from pygan.executor import precision_scope
from pygan.training import gan
from pygan.training.classifier import (
    CLASSES,
    Classifier,
    ClassifierSettings,
    DigitClassifier,
    count_right,
)
from pygan.training.comparison import Comparison, Plan, batches_of, digest
from pygan.training.comparison_session import Session, choose, in_session, trained_gan
from pygan.training.sampling import checkpoint_file
from pygan.training.systems import SYSTEMS

NAME = "transfer"
LESSON = SYSTEMS["lesson"]
WAYS = ("scratch", "transfer", "frozen")
DEFAULTS: dict[str, Any] = {
    "labelled": 1000,
    "epochs": 10,
    "batch_size": 20,
    "seed": 0,
    "seeds": 5,
    "precision": "float32",
    "data": "auto",
}


class TransferClassifier(Classifier):
    """The classifier with the start that a way has; its step is `Supervised.step`: forward,
    backward, Adam.

    layers: the discriminator's parameters by name.
    """

    def __init__(
        self,
        device: Any,
        images: ImageSet,
        settings: ClassifierSettings,
        way: str,
        layers: Mapping[str, np.ndarray],
    ) -> None:
        self.fixed = list(layers) if way == "frozen" else []
        super().__init__(device, images, settings)
        if way != "scratch":
            for name, values in layers.items():
                self.executor.arg_dict[name][...] = values

    def requests(self, arguments: list[str]) -> dict[str, str]:
        requests = super().requests(arguments) | dict.fromkeys(self.fixed, "null")
        # Where no gradient passes through a layer, backward leaves its moving statistics alone; the
        # frozen layers need theirs of the labelled images.
        return requests | {"data": "write"} if self.fixed else requests


def read_layers(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The parameters that discriminator and classifier have in common, and where they are from.

    Raises CheckpointError where the file holds no discriminator of the lesson.
    """
    tensors, metadata = checkpoint.load(path)
    if metadata.get("network") != LESSON.network:
        raise CheckpointError(
            f"{path}: a checkpoint of the network {metadata.get('network')!r}, not "
            f"{LESSON.network!r}; 'pygan train lesson' makes one"
        )
    shapes = {"data": (1, *gan.IMAGE_SHAPE), "label": (1, CLASSES)}
    inferred = networks.classifier(CLASSES).infer_shape(shapes).arguments
    names = [name for name in inferred if name.startswith("dis_")]
    prefix = "discriminator/"
    layers = {n: tensors[prefix + n] for n in names if prefix + n in tensors}
    wrong = [n for n in names if n not in layers or layers[n].shape != inferred[n]]
    if wrong:
        raise CheckpointError(f"{path}: its discriminator has no {wrong[0]} {inferred[wrong[0]]}")
    origin = {"network": LESSON.network, "batches": metadata["batches_done"]}
    return layers, {**origin, "source": metadata["source"], "layers": digest(layers.values())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, compares; 0, or 128 + the number of the signal that stopped it."""
    parser = argparse.ArgumentParser(
        prog="pygan train transfer", description=__doc__.splitlines()[0]
    )
    cli.add_run_options(parser, NAME, DEFAULTS["epochs"], DEFAULTS["batch_size"])
    cli.add_gan_options(parser, "--discriminator", "lesson")
    parser.add_argument("--labelled", type=cli.positive, metavar="N", help="labelled images (1000)")
    parser.add_argument("--seeds", type=cli.positive, metavar="N", help="how many seeds (5)")
    options = parser.parse_args(arguments)
    return in_session(options, lambda session: compare(options, session))


def compare(options: argparse.Namespace, session: Session) -> int:
    """All trainings, or those that are missing; 0, or the exit code of the GAN's where that was
    stopped."""
    asked = {name: getattr(options, name) for name in DEFAULTS}
    chosen = choose(session, NAME, asked, DEFAULTS)
    device = devices.get(options.device)
    data = chosen.pop("data")
    train, test = load_train_and_test(data)
    labelled, count = chosen["labelled"], chosen["batch_size"]
    batches = batches_of(train, labelled, count, chosen["epochs"])
    code, path = trained_gan(options, session, LESSON)
    if code:
        return code
    path = checkpoint_file(path)
    layers, origin = read_layers(path)
    lies = data, os.path.abspath(path)
    plan = Plan(NAME, WAYS, batches, *lies, train.fingerprint, chosen, origin)
    session.progress.say(
        f"data: {train.describe()}; {labelled:,} of them labelled\ndevice: {device.description}\n"
        f"discriminator: {path}, {origin['batches']:,} batches\n"
        f"seeds {plan.seeds[0]} to {plan.seeds[-1]}, {batches:,} batches of {count} each"
    )

    def accuracy(model: TransferClassifier) -> float:
        return count_right(DigitClassifier(device, model.executor), test) / len(test)

    comparison = Comparison(session, plan, device, accuracy)
    for way, seed in comparison.missing():
        images = some_of(train, labelled, seed)
        settings = ClassifierSettings(batch_size=count, seed=seed)
        with precision_scope(chosen["precision"]):
            model = TransferClassifier(device, images, settings, way, layers)
        for _ in comparison.batches(model):
            model.step()
    title = f"A classifier from the discriminator's layers: {labelled:,} labelled images"
    further = {"test_images": len(test), "test_source": test.source}
    session.progress.say(comparison.report(title, further))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
