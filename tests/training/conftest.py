"""A small set of digits in a folder, a run of a few batches on it, and the devices to train on."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from run_support import IMAGES, Trainer, chosen_devices, open_device

from pygan.training import averaging


@pytest.fixture(scope="session", autouse=True)
def few_batches():
    """The mean that a GAN's run ends with has statistics of few batches, to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averaging, "FORGET", 2)
        patch.setattr(averaging, "BATCHES", 2)
        yield


@pytest.fixture(scope="session", params=chosen_devices())
def device(request):
    return open_device(request.param)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """MNIST's files with 40 blurred blobs: 10 batches of 4 an epoch."""
    return write_blobs(tmp_path_factory.mktemp("data"), np.zeros(IMAGES, np.uint8))


@pytest.fixture(scope="session")
def labelled_data(tmp_path_factory) -> Path:
    """The same images with the digits 0 to 9 in turn."""
    labels = np.arange(IMAGES).astype(np.uint8) % 10
    return write_blobs(tmp_path_factory.mktemp("labelled"), labels)


@pytest.fixture(scope="session")
def many_twos(tmp_path_factory) -> Path:
    """The same images as 2s (24 of them), 3s (8) and 0s (8)."""
    labels = np.repeat([2, 3, 0], [24, 8, 8]).astype(np.uint8)
    return write_blobs(tmp_path_factory.mktemp("twos"), labels)


def write_blobs(folder: Path, labels: np.ndarray) -> Path:
    random = np.random.default_rng(2)
    y, x = np.mgrid[:28, :28]
    centre = random.uniform(8, 20, (IMAGES, 2, 1, 1))
    blobs = 255 * np.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / 20)
    for name, array in (
        ("train-images-idx3-ubyte", blobs.astype(np.uint8)),
        ("train-labels-idx1-ubyte", labels),
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
