"""Finding handwritten digits: a folder the user names, a download, or scikit-learn's own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pygan.data.download import download_mnist
from pygan.data.idx import read_idx
from pygan.data.image_set import ImageSet
from pygan.data.lesson_csv import read_lesson_csv
from pygan.data.scikit_digits import read_scikit_digits
from pygan.errors import DataError, MissingDataError

SIDE = 28
STEMS = {"train": "train", "test": "t10k"}
CSV_NAMES = {"train": ("train.csv", "mnist_train.csv"), "test": ("mnist_test.csv",)}
AUTO, DOWNLOAD, DIGITS = "auto", "download", "digits"


def load_digits(where: str | os.PathLike[str] = AUTO, split: str = "train") -> ImageSet:
    """Handwritten digits, images (M, 28, 28, 1) uint8 with labels (M,) uint8.

    where: a folder with MNIST's idx files (gzipped or plain) or the lesson's CSV, in itself or in
    its ``mnist/``; ``"download"`` for MNIST through the cache; ``"digits"`` for the 1,797 digits of
    scikit-learn; ``"auto"`` for the folder in the environment variable PYGAN_DATA where it is set,
    else the download, else scikit-learn's digits. split: ``"train"`` or ``"test"``; scikit-learn's
    digits have one split only.

    The result's ``describe()`` says what was taken and why. Raises DataError naming the file and
    what is wrong with it; a folder that was named and holds no digits is an error, never a reason
    to take other data.
    """
    if split not in STEMS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(STEMS)}")
    if not isinstance(where, str | os.PathLike):
        raise DataError(
            f"digits are found in a folder, or by {AUTO!r}, {DOWNLOAD!r} or {DIGITS!r}, "
            f"not {where!r}"
        )
    if str(where) == AUTO:
        return _automatic(split)
    if str(where) == DOWNLOAD:
        return _downloaded(split)
    if str(where) == DIGITS:
        return _scikit("as asked")
    return _from_folder(Path(where), split)


def _automatic(split: str) -> ImageSet:
    named = os.environ.get("PYGAN_DATA")
    if named:
        return _from_folder(Path(named), split, "the folder in PYGAN_DATA")
    try:
        return _downloaded(split, "no folder was named")
    except DataError as error:
        return _scikit(f"MNIST could not be had: {error}; --data DIR names a folder with it")


def _downloaded(split: str, reason: str = "") -> ImageSet:
    names = tuple(f"{STEMS[split]}-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
    folder = download_mnist(names)
    images, labels = _read_pair(folder / names[0], folder / names[1])
    return ImageSet(images, labels, f"MNIST, downloaded to {folder}", reason)


def _scikit(reason: str) -> ImageSet:
    images, labels = read_scikit_digits()
    return ImageSet(
        images, labels, "scikit-learn's handwritten digits (8x8, resized; not MNIST)", reason
    )


def _from_folder(folder: Path, split: str, reason: str = "") -> ImageSet:
    if not folder.exists():
        raise DataError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name the one that holds the MNIST files")
    for place in (folder, folder / "mnist"):
        images = _find(place, f"{STEMS[split]}-images", "idx3-ubyte")
        labels = _find(place, f"{STEMS[split]}-labels", "idx1-ubyte")
        if images and labels:
            return ImageSet(*_read_pair(images, labels), f"MNIST's idx files in {place}", reason)
        for present, kind in ((images, "labels-idx1"), (labels, "images-idx3")):
            if present:
                raise DataError(
                    f"{place} holds {present.name} but not {STEMS[split]}-{kind}-ubyte(.gz)"
                )
        for name in CSV_NAMES[split]:
            if (place / name).is_file():
                return ImageSet(
                    *read_lesson_csv(place / name), f"the lesson's CSV {place / name}", reason
                )
    stem = STEMS[split]
    raise MissingDataError(
        f"no digits in {folder}: looked there and in its mnist/ for {stem}-images-idx3-ubyte(.gz) "
        f"with {stem}-labels-idx1-ubyte(.gz), or {' or '.join(CSV_NAMES[split])}; "
        "--data download fetches MNIST, --data digits takes scikit-learn's digits"
    )


def _find(folder: Path, stem: str, kind: str) -> Path | None:
    for name in (f"{stem}-{kind}", f"{stem}.{kind}"):
        for suffix in (".gz", ""):
            if (folder / (name + suffix)).is_file():
                return folder / (name + suffix)
    return None


def _read_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels = read_idx(images, dimensions=3)
    if pixels.shape[1:] != (SIDE, SIDE):
        height, width = pixels.shape[1:]
        raise DataError(
            f"{images}: images of {height}x{width} pixels, expected {SIDE}x{SIDE}; "
            "the lesson's networks are made for that size"
        )
    digits = read_idx(labels, dimensions=1)
    if digits.size and digits.max() > 9:
        place = int(digits.argmax())
        raise DataError(
            f"{labels}: label {digits[place]} of image {place} is outside 0..9; these are no digits"
        )
    return pixels[..., None], digits
