"""Measures of a trained generator of digits: its images against real ones it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pygan import quality
from pygan.data import ImageSet, load_train_and_test
from pygan.data.resize import grey, resized
from pygan.errors import PyganError
from pygan.training.classifier import DigitClassifier
from pygan.training.conditional import CLASSES
from pygan.training.gan import IMAGE_SHAPE
from pygan.training.sampling import BATCH, Sampler, open_sampler


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
    Images of another size or in colour are judged as grey images of 28x28 pixels, and the training
    images of ``reference`` are brought to their size and back, for a fair comparison.
    Raises CheckpointError, DataError, and PyganError for too few images and for a generator of
    other things than digits.
    """
    network = DigitClassifier(device)
    judged_by = network.load(classifier)
    sampler, metadata = open_sampler(device, generator, BATCH)
    dataset = metadata["settings"].get("dataset", "mnist")
    if dataset != "mnist":
        raise PyganError(
            f"{generator}: trained on {dataset}, and a digit classifier judges only digits; choose "
            "a generator trained on them"
        )
    train, test = load_train_and_test(where)
    asked = np.arange(count) % CLASSES if sampler.takes_digits else None
    images = as_digits(sampler.images(sampler.draw_noise(count, seed), asked))
    chosen = np.random.default_rng(seed).permutation(len(train))[:count]
    perfect = ImageSet(train.images[chosen], train.labels[chosen], train.source)
    real, _ = network(test.images)
    return {
        "network": metadata["network"],
        "batches": metadata["batches_done"],
        "classifier_batches": judged_by["batches_done"],
        "device": device.name,
        "data": test.source,
        **quality.compare(real, *network(images), asked=asked, seed=seed),
        "reference": quality.compare(
            real, *network(_as_drawn(perfect, sampler)), asked=perfect.labels, seed=seed
        ),
    }


def as_digits(images: np.ndarray) -> np.ndarray:
    """Images (N, height, width, channels) float32 in 0..1 as a `DigitClassifier` takes them."""
    return images if images.shape[1:] == IMAGE_SHAPE else grey(images, IMAGE_SHAPE[0])


def _as_drawn(images: ImageSet, sampler: Sampler) -> np.ndarray:
    """Real digits (N, 28, 28, 1) after the resizing that the generator's images go through."""
    if images.images.shape[1:] == sampler.image_shape:
        return images.images
    side, _, channels = sampler.image_shape
    return as_digits(resized(images, side, channels).images / np.float32(255))


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
