"""The colour classifier, and generators of colour images judged in its features."""

from __future__ import annotations

import numpy as np
import pytest

from pygan import cli, device
from pygan.data.cifar10 import load_cifar10
from pygan.data.resize import scaled
from pygan.errors import CheckpointError
from pygan.training.colour_classifier import ColourClassifier, load_balanced
from pygan.training.judging import judge

EACH = 12


def colours(labels: np.ndarray, seed: int) -> np.ndarray:
    """(N, 32, 32, 3) uint8: noise with a bright column in one channel, both told by the label."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (len(labels), 32, 32, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 6 * (label // 3) + 4 : 6 * (label // 3) + 8, label % 3] += 180
    return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CIFAR-10's files; of class 5 there are twice as many training images."""
    folder = tmp_path_factory.mktemp("colours")
    everyone = np.tile(np.arange(10), EACH).astype(np.uint8)
    train = np.concatenate([everyone, np.full(EACH, 5, np.uint8)])
    for name, labels, seed in (("data_batch_1", train, 1), ("test_batch", everyone, 2)):
        planes = colours(labels, seed).transpose(0, 3, 1, 2).reshape(len(labels), -1)
        (folder / f"{name}.bin").write_bytes(np.hstack([labels[:, None], planes]).tobytes())
    return folder


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "colour"
    command = ["train", "colour-classifier", "--data", str(folder), "--out", str(out), "--plain"]
    assert cli.main([*command, "--batch-size", "10", "--epochs", "4", "--device", "numpy"]) == 0
    return out


def test_each_class_is_learned_from_as_many_images(folder):
    images = load_balanced(str(folder))
    assert np.bincount(images.labels).tolist() == [EACH] * 10
    assert "12 of each class" in images.source
    whole = load_cifar10(folder)
    first = np.flatnonzero(whole.labels == 5)[:EACH]
    np.testing.assert_array_equal(images.images[images.labels == 5], whole.images[first])


def test_it_learns_classes_of_colour(trained, folder):
    classifier = ColourClassifier(device.get("numpy"))
    classifier.load(trained)
    test = load_cifar10(folder, "test")
    features, probabilities = classifier(test.images)
    assert features.shape == (10 * EACH, 128)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    # A guess is right on 12 of 120 images with a deviation of 3.3.
    assert (probabilities.argmax(axis=1) == test.labels).sum() > 60
    # uint8 and floats in 0..1 are the same images.
    again, _ = classifier(test.images.astype(np.float32) / 255)
    np.testing.assert_allclose(features, again, atol=1e-5)


def test_a_generator_trained_on_cifar10_is_judged_by_it(trained, folder, tmp_path, capsys):
    out = tmp_path / "dcgan"
    command = ["train", "dcgan", "--dataset", "cifar10", "--data", str(folder), "--out", str(out)]
    command += ["--ngf", "2", "--ndf", "2", "--batch-size", "4", "--max-batches", "2", "--plain"]
    assert cli.main([*command, "--device", "numpy"]) == 0
    found = judge(device.get("numpy"), out, trained, str(folder), 40)
    assert found["kind"] == "class" and sum(found["classes"]["histogram"]) == 40
    assert found["real_images"] == 10 * EACH
    # Real images, though resized to 64x64 and back, against noise.
    assert found["reference"]["frechet"]["value"] < found["frechet"]["value"]
    assert found["reference"]["agreement"]["value"] > 0.5
    command = ["quality", "--checkpoint", str(out), "--classifier", str(trained), "--count", "40"]
    capsys.readouterr()
    assert cli.main([*command, "--data", str(folder), "--device", "numpy"]) == 0
    printed = capsys.readouterr().out
    assert "images by class, 0 to 9, generated" in printed and "class as asked" in printed


def test_a_digit_classifier_cannot_judge_colour(trained, folder):
    with pytest.raises(CheckpointError, match="'pygan train classifier' makes one"):
        from pygan.training.classifier import DigitClassifier

        DigitClassifier(device.get("numpy")).load(trained)


def test_scaling_keeps_channels_apart():
    images = np.zeros((1, 4, 4, 3), np.float32)
    images[..., 1] = 0.25
    images[0, :, :, 2] = np.arange(4, dtype=np.float32)
    found = scaled(images, 2)
    assert found.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(found[..., 0], 0)
    np.testing.assert_allclose(found[..., 1], 0.25)
    # A triangle four pixels wide about each new pixel's centre, cut off at the edge.
    left = (3 * 0 + 3 * 1 + 1 * 2) / 7
    np.testing.assert_allclose(found[0, :, :, 2], [[left, 3 - left]] * 2, atol=1e-6)
