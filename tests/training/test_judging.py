"""``pygan quality``: a generator's checkpoint judged by a classifier's, on digits of a folder."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from run_support import Trainer

from pygan import cli, device
from pygan.data import load_digits
from pygan.data.resize import grey
from pygan.errors import CheckpointError
from pygan.training.judging import judge

COUNT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """MNIST's four files with noisy images of ten classes."""
    folder = tmp_path_factory.mktemp("digits")
    random = np.random.default_rng(4)
    for stem in ("train", "t10k"):
        labels = np.arange(COUNT).astype(np.uint8) % 10
        images = random.integers(0, 60, (COUNT, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label + 4 : 2 * label + 6] += 180
        for name, array in ((f"{stem}-images-idx3", images), (f"{stem}-labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{name}-ubyte").write_bytes(head + array.tobytes())
    return folder


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Folders of short runs by system; the classifier learns the ten classes."""
    out = tmp_path_factory.mktemp("runs")
    for system, epochs in (("lesson", 1), ("conditional", 1), ("classifier", 8)):
        Trainer(folder)(out / system, system=system, epochs=epochs)
    return out


def test_the_command_prints_and_writes_what_judge_measures(folder, runs, tmp_path, capsys):
    out = tmp_path / "result.json"
    command = ["quality", "--checkpoint", str(runs / "conditional"), "--data", str(folder)]
    command += ["--classifier", str(runs / "classifier"), "--device", "numpy", "--count", "40"]
    assert cli.main([*command, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for part in ("40 images", "60 real", "Frechet", "recall", "digit as asked", "10 covered"):
        assert part in text
    found = json.loads(out.read_text())
    expected = judge(
        device.get("numpy"), runs / "conditional", runs / "classifier", str(folder), count=40
    )
    assert found == expected
    assert found["generated_images"] == 40 and found["real_images"] == COUNT
    assert sum(found["classes"]["histogram"]) == 40
    # Images of the classes it was trained on against noise of a generator of one epoch.
    assert found["reference"]["agreement"]["value"] > 0.8
    assert found["reference"]["frechet"]["value"] < found["frechet"]["value"]


def test_the_unconditional_generator_is_asked_for_no_digit(folder, runs):
    found = judge(device.get("numpy"), runs / "lesson", runs / "classifier", str(folder), 30)
    assert "agreement" not in found and "agreement" in found["reference"]


def test_the_reference_are_training_images(folder, runs):
    numpy = device.get("numpy")
    found = judge(numpy, runs / "lesson", runs / "classifier", str(folder), COUNT)
    labels = load_digits(folder).labels
    histogram = found["reference"]["classes"]["histogram"]
    right = found["reference"]["agreement"]["value"]
    moved = np.abs(np.array(histogram) - np.bincount(labels, minlength=10)).sum()
    assert moved <= 2 * COUNT * (1 - right) + 1e-9


def test_larger_images_in_colour_are_judged_as_grey_digits(folder, runs, tmp_path):
    """The reference's images are resized as the generator's are: the noise in them is smoothed."""
    out = tmp_path / "dcgan"
    command = ["train", "dcgan", "--data", str(folder), "--out", str(out), "--ngf", "2"]
    command += ["--ndf", "2", "--batch-size", "4", "--max-batches", "2", "--device", "numpy"]
    assert cli.main([*command, "--plain"]) == 0
    found = judge(device.get("numpy"), out, runs / "classifier", str(folder), COUNT)
    plain = judge(device.get("numpy"), runs / "lesson", runs / "classifier", str(folder), COUNT)
    assert found["network"] == "dcgan" and sum(found["classes"]["histogram"]) == COUNT
    unmoved, resized = (entry["reference"]["frechet"]["value"] for entry in (plain, found))
    assert unmoved < 0.1 < resized < found["frechet"]["value"]
    assert found["reference"]["agreement"]["value"] > 0.8


def test_grey_is_the_mean_of_channels_and_of_pixels():
    images = np.zeros((2, 4, 4, 3), np.float32)
    images[0, :, :, 0] = 0.6
    images[1] = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
    found = grey(images, 2)
    assert found.shape == (2, 2, 2, 1) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], 0.2, atol=1e-6)
    # A triangle four pixels wide about each new pixel's centre, cut off at the edge.
    left = (3 * 0 + 3 * 1 + 1 * 2) / 7
    np.testing.assert_allclose(found[1, :, :, 0], [[left, 3 - left]] * 2, atol=1e-6)


def test_networks_in_the_wrong_place_are_refused(folder, runs):
    numpy = device.get("numpy")
    with pytest.raises(CheckpointError, match="'lesson-gan', not 'digit-classifier'"):
        judge(numpy, runs / "conditional", runs / "lesson", str(folder), 20)
    with pytest.raises(CheckpointError, match="'digit-classifier', this command draws"):
        judge(numpy, runs / "classifier", runs / "classifier", str(folder), 20)


def test_too_few_images_are_an_error_of_one_line(folder, runs, capsys):
    command = ["quality", "--checkpoint", str(runs / "lesson"), "--data", str(folder)]
    command += ["--classifier", str(runs / "classifier"), "--device", "numpy", "--count", "3"]
    assert cli.main(command) == 1
    assert "pygan: error: 3 images" in capsys.readouterr().err
