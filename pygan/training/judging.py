"""Measures of a trained generator of digits: its images against real ones it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pygan import quality
from pygan.data import load_train_and_test
from pygan.training.classifier import DigitClassifier
from pygan.training.conditional import CLASSES
from pygan.training.sampling import BATCH, draw_noise, open_sampler


def judge(
    device,
    generator: str | Path,
    classifier: str | Path,
    where: str,
    count: int = 10_000,
    seed: int = 0,
) -> dict:
    """The numbers of ``quality.measure`` for ``count`` images of a generator's checkpoint.

    The features are those of a classifier's checkpoint, the real images the test digits of
    ``where`` (``pygan.data.load_train_and_test``). A conditional generator is asked for 0 to 9 in
    turn, and ``agreement`` is the share in which the classifier sees the digit asked for.
    ``reference`` has the same numbers for as many training images in place of generated ones: what
    perfect images would reach; its agreement is the classifier's with the true labels.
    Raises CheckpointError, DataError, and PyganError for too few images.
    """
    network = DigitClassifier(device)
    judged_by = network.load(classifier)
    sampler, metadata = open_sampler(device, generator, BATCH)
    train, test = load_train_and_test(where)
    asked = np.arange(count) % CLASSES if sampler.takes_digits else None
    images = sampler.images(draw_noise(device, count, seed), asked)
    chosen = np.random.default_rng(seed).permutation(len(train))[:count]
    return {
        "network": metadata["network"],
        "batches": metadata["batches_done"],
        "classifier_batches": judged_by["batches_done"],
        "device": device.name,
        "data": test.source,
        **quality.measure(network, test.images, images, asked=asked, seed=seed),
        "reference": quality.measure(
            network, test.images, train.images[chosen], asked=train.labels[chosen], seed=seed
        ),
    }


def table(result: dict) -> str:
    """The result of ``judge`` in lines for a terminal, with 95 % intervals."""
    rows = [
        ("Frechet distance", "frechet", "{:.3f}"),
        ("kernel distance (x 1000)", "kernel", "{:.3f}"),
        ("precision", "precision", "{:.1%}"),
        ("recall", "recall", "{:.1%}"),
        ("digit as asked", "agreement", "{:.2%}"),
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
        histogram = " ".join(f"{number:,}" for number in spread["histogram"])
        lines.append(f"digits 0 to 9, {title}: {histogram} ({spread['covered']} covered)")
    return "\n".join(lines)
