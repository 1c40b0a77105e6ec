"""Reading CIFAR-10, resizing image sets, and an error for each thing that can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pygan.data import ImageSet
from pygan.data.cifar10 import CLASS_NAMES, FOLDER, RECORD, load_cifar10
from pygan.data.resize import resized
from pygan.errors import DataError


def write(path: Path, labels, seed: int = 0) -> np.ndarray:
    """A file of random images in CIFAR-10's form; the images as (M, 32, 32, 3)."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    content = b""
    for label, image in zip(labels, images, strict=True):
        content += bytes([label])
        for channel in range(3):  # red, green and blue planes
            content += image[:, :, channel].tobytes()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return images


@pytest.mark.parametrize("place", [".", FOLDER])
def test_all_training_files_are_read_in_order(tmp_path, place):
    first = write(tmp_path / place / "data_batch_1.bin", [3, 9], seed=1)
    second = write(tmp_path / place / "data_batch_2.bin", [0], seed=2)
    test = write(tmp_path / place / "test_batch.bin", [7], seed=3)
    found = load_cifar10(tmp_path)
    np.testing.assert_array_equal(found.images, np.concatenate([first, second]))
    assert found.labels.tolist() == [3, 9, 0]
    assert "data_batch_1.bin, data_batch_2.bin" in found.describe()
    np.testing.assert_array_equal(load_cifar10(tmp_path, "test").images, test)


def test_classes_are_picked(tmp_path):
    images = write(tmp_path / "data_batch_1.bin", [5, 1, 5, 2])
    dogs = load_cifar10(tmp_path, classes=[CLASS_NAMES.index("dog")])
    np.testing.assert_array_equal(dogs.images, images[[0, 2]])
    assert "dog" in dogs.describe()


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write(tmp_path / FOLDER / "data_batch_1.bin", [1])
    monkeypatch.setenv("PYGAN_DATA", str(tmp_path))
    assert len(load_cifar10()) == 1
    monkeypatch.delenv("PYGAN_DATA")
    with pytest.raises(DataError, match="PYGAN_DATA"):
        load_cifar10()


@pytest.mark.parametrize("left", [0, 1, RECORD - 1, RECORD + 5])
def test_truncated_files_are_named(tmp_path, left):
    file = tmp_path / "data_batch_1.bin"
    write(file, [1, 2])
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(DataError, match=f"data_batch_1.bin: truncated.* {left:,} bytes"):
        load_cifar10(tmp_path)


def test_a_label_above_nine_is_named(tmp_path):
    write(tmp_path / "data_batch_1.bin", [1, 10])
    with pytest.raises(DataError, match="record 2 has the label 10"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, "unknown split 'valid'"),
        ({"classes": [10]}, "classes 0 to 9, not 10"),
        ({"classes": [4]}, "no image of deer"),
        ({"classes": []}, "no image of no class"),
        ({"split": "test"}, "test_batch.bin"),
    ],
)
def test_requests_that_cannot_be_met(tmp_path, options, message):
    write(tmp_path / "data_batch_1.bin", [1])
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path, **options)


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_cifar10(tmp_path / "nowhere")


def test_the_real_files(data_dir):
    """Planes in the wrong order or transposed would not be so smooth."""
    found = load_cifar10(data_dir, "test")
    pixels = found.images.astype(float)
    assert found.images.shape[1:] == (32, 32, 3)
    across = np.abs(np.diff(pixels, axis=2)).mean()
    down = np.abs(np.diff(pixels, axis=1)).mean()
    assert max(across, down) < 0.25 * pixels.std()
    # Skies and water make the upper half bluer than the lower one.
    blue_over_red = (pixels[..., 2] - pixels[..., 0]).mean(axis=(0, 2))
    assert blue_over_red[:16].mean() > blue_over_red[16:].mean() + 2


def test_resizing_is_bilinear_and_repeats_grey():
    ramp = np.arange(0, 252, 9, dtype=np.uint8)[None, None, :, None].repeat(28, axis=1)
    result = resized(ImageSet(ramp, np.zeros(1, np.uint8), "ramp"), 64, 3)
    assert result.images.shape == (1, 64, 64, 3)
    assert (result.images == result.images[:, :1, :, :1]).all()
    # Pixel i of 64 has its centre at (i + 1/2) * 28 / 64 of the 28; ends repeat the border.
    places = np.clip((np.arange(64) + 0.5) * 28 / 64 - 0.5, 0, 27)
    expected = np.interp(places, np.arange(28), ramp[0, 0, :, 0].astype(float))
    assert np.abs(result.images[0, 0, :, 0] - expected).max() <= 0.51
    assert "resized from 28x28" in result.describe()


def test_colour_is_not_made_grey():
    colour = ImageSet(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.uint8), "colour")
    with pytest.raises(DataError, match="3 channels do not fit 1"):
        resized(colour, 64, 1)
