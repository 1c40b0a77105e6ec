"""Training and test digits together, never the same image in both."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from pygan.data.image_set import ImageSet
from pygan.data.mnist import load_digits
from pygan.errors import DataError, MissingDataError

HELD_OUT = 6
"""One image in six is held out where a source has no test images: MNIST's own share."""


def load_train_and_test(where: str | os.PathLike[str] = "auto") -> tuple[ImageSet, ImageSet]:
    """Digits to train on and others to test on, from where ``load_digits`` finds them.

    MNIST has its own 10,000 test images. Of a source without (scikit-learn's digits, the lesson's
    CSV), one in six images, drawn by a fixed seed, is held out; ``describe()`` says so. Raises
    DataError as ``load_digits`` does, and where test images come from another source than the
    training images.
    """
    train = load_digits(where)
    try:
        test = load_digits(where, "test")
    except MissingDataError:  # any other error, a damaged file, is the user's to know
        test = train
    if test.fingerprint != train.fingerprint:
        if ("scikit-learn" in test.source) != ("scikit-learn" in train.source):
            raise DataError(
                f"training images are from {train.source}, but test images from {test.source}; "
                "name the folder of the data with --data"
            )
        return train, test
    order = np.random.default_rng(0).permutation(len(train))
    held, kept = np.sort(order[::HELD_OUT]), np.sort(np.delete(order, np.s_[::HELD_OUT]))
    return (
        replace(train, **_chosen(train, kept), source=f"{train.source}, one in 6 held out"),
        replace(train, **_chosen(train, held), source=f"{train.source}, the one in 6 held out"),
    )


def some_of(images: ImageSet, count: int, seed: int) -> ImageSet:
    """``count`` of the images, drawn by the seed. Raises DataError where there are not as many."""
    if not 1 <= count <= len(images):
        raise DataError(f"{count:,} images asked for, of {len(images):,} in {images.source}")
    # A second number keeps this stream apart from those of weights and orders.
    rows = np.random.default_rng((seed, 2)).permutation(len(images))[:count]
    source = f"{count:,} of {images.source}"
    return replace(images, **_chosen(images, rows), source=source)


def _chosen(images: ImageSet, rows: np.ndarray) -> dict[str, Any]:
    return {"images": images.images[rows], "labels": images.labels[rows]}
