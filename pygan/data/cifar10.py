"""CIFAR-10 in its binary form (Krizhevsky, "Learning multiple layers of features from tiny images",
2009): records of one label byte and 3,072 pixel bytes, the red, green and blue planes of 32x32.

https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pygan.data.image_set import ImageSet
from pygan.errors import DataError

SIDE = 32
CHANNELS = 3
RECORD = 1 + CHANNELS * SIDE * SIDE
FOLDER = "cifar-10-batches-bin"
PATTERNS = {"train": "data_batch_*.bin", "test": "test_batch.bin"}
CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
AUTO = "auto"


def load_cifar10(
    where: str | os.PathLike[str] = AUTO, split: str = "train", classes: Sequence[int] | None = None
) -> ImageSet:
    """Images (M, 32, 32, 3) uint8, red, green, blue, with labels (M,) uint8, in the files' order.

    where: the folder with data_batch_1.bin and so on, or the one that holds cifar-10-batches-bin;
    ``"auto"`` for the folder in the environment variable PYGAN_DATA. split: ``"train"`` reads all
    data_batch files that are there, which ``describe()`` counts, ``"test"`` test_batch.bin.
    classes: labels to keep (5 is dogs; see CLASS_NAMES), None for all.

    Raises DataError for a folder without the files, a truncated or empty file, a label above 9, and
    classes that are none of the ten or of which there is no image.
    """
    if split not in PATTERNS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(PATTERNS)}")
    wrong = [c for c in classes or () if not (isinstance(c, int | np.integer) and 0 <= c <= 9)]
    if wrong:
        raise DataError(f"CIFAR-10 has the classes 0 to 9, not {', '.join(map(repr, wrong))}")
    files = _files(where, split)
    parts = [read_cifar10_file(file) for file in files]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    source = f"CIFAR-10's {', '.join(file.name for file in files)} in {files[0].parent}"
    if classes is not None:
        kept = np.isin(labels, np.asarray(list(classes), np.uint8))
        names = ", ".join(CLASS_NAMES[c] for c in classes)
        if not kept.any():
            raise DataError(f"{source}: no image of {names or 'no class'} among {len(labels):,}")
        images, labels = images[kept], labels[kept]
        source = f"{names} of {source}"
    return ImageSet(images, labels, source)


def read_cifar10_file(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (M, 32, 32, 3) uint8 and labels (M,) uint8 of one file.

    Raises DataError for a missing, truncated or empty file and for a label above 9."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    count, rest = divmod(len(content), RECORD)
    if rest or not count:
        raise DataError(
            f"{path}: truncated, or not CIFAR-10's binary form: {len(content):,} bytes are "
            f"{count:,} records of {RECORD:,} bytes and {rest:,} more; copy or unpack it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, RECORD)
    labels = records[:, 0].copy()
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise DataError(
            f"{path}: record {first + 1:,} has the label {labels[first]}, expected 0 to 9; "
            "this is not CIFAR-10's binary form (CIFAR-100 has two label bytes)"
        )
    planes = records[:, 1:].reshape(count, CHANNELS, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _files(where: str | os.PathLike[str], split: str) -> list[Path]:
    if str(where) == AUTO:
        named = os.environ.get("PYGAN_DATA")
        if not named:
            raise DataError(
                f"CIFAR-10 needs a folder: --data DIR, or PYGAN_DATA, names the one with {FOLDER} "
                "(cifar-10-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked)"
            )
        where = named
    folder = Path(where)
    if not folder.is_dir():
        raise DataError(
            f"no such folder: {folder}; CIFAR-10 is read from the one that holds {FOLDER}"
        )
    for place in (folder, folder / FOLDER):
        files = sorted(place.glob(PATTERNS[split]))
        if files:
            return files
    raise DataError(
        f"no CIFAR-10 in {folder}: looked there and in its {FOLDER}/ for {PATTERNS[split]}; unpack "
        "cifar-10-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html there"
    )
