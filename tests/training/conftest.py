"""A small set of digits in a folder, and a run of a few batches on it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from run_support import IMAGES, Trainer


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """MNIST's files with 40 blurred blobs: 10 batches of 4 an epoch."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(2)
    y, x = np.mgrid[:28, :28]
    centre = random.uniform(8, 20, (IMAGES, 2, 1, 1))
    blobs = 255 * np.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / 20)
    for name, array in (
        ("train-images-idx3-ubyte", blobs.astype(np.uint8)),
        ("train-labels-idx1-ubyte", np.zeros(IMAGES, np.uint8)),
    ):
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / name).write_bytes(head + array.tobytes())
    return folder


@pytest.fixture
def trainer(small_data) -> Trainer:
    return Trainer(small_data)


@pytest.fixture(scope="session")
def unbroken(small_data, tmp_path_factory) -> Path:
    """The folder of a run of 30 batches (3 epochs) that nothing stopped."""
    out = tmp_path_factory.mktemp("unbroken")
    Trainer(small_data)(out, epochs=3)
    return out
