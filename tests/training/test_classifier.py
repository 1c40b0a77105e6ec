"""The digit classifier: it learns, goes on to the bit, and tells digits from a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from run_support import Trainer, assert_same_run

import pygan.device
from pygan import checkpoint, cli
from pygan.data import ImageSet, load_train_and_test
from pygan.errors import CheckpointError, DataError, StateError
from pygan.training.classifier import Classifier, ClassifierSettings, DigitClassifier
from pygan.training.log import read_log


def bars(count: int, seed: int) -> ImageSet:
    """Images with a bright column whose place is the label, in noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count).astype(np.uint8)
    images = random.integers(0, 60, (count, 28, 28, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label + 4 : 2 * label + 6] += 180
    return ImageSet(images, labels, "bars")


@pytest.fixture(scope="module")
def trained(labelled_data, tmp_path_factory):
    """The folder of a run of 16 batches (2 epochs) that nothing stopped."""
    out = tmp_path_factory.mktemp("classifier")
    Trainer(labelled_data)(out, system="classifier", epochs=2)
    return out


def test_it_learns_and_its_features_come_from_the_same_network(device):
    model = Classifier(device, bars(400, seed=1), ClassifierSettings(batch_size=20))
    for epoch in range(2):
        model.start_epoch(epoch)
        for _ in range(20):
            model.step()
        losses = model.read_losses()
        assert [entry.batch for entry in losses] == list(range(20 * epoch, 20 * epoch + 20))
        if epoch == 0:
            # A tenth of the cross-entropy of ten equally likely classes.
            assert abs(losses[0].loss - np.log(10) / 10) < 0.05
    unseen = bars(150, seed=2)
    features, probabilities = DigitClassifier(device, model.executor)(unseen.images)
    assert features.shape == (150, 64) and probabilities.shape == (150, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    # 150 images; a classifier that guesses is right on 15 with a deviation of 3.7.
    assert (probabilities.argmax(axis=1) == unseen.labels).mean() > 0.5
    state = model.state_dict()
    weight = state["classifier/fc1_weight"].astype(float)
    logits = features @ weight.T + state["classifier/fc1_bias"]
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    # 64 products in another order, then a softmax.
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_checkpoints_of_earlier_versions_are_those_of_this_one(trained):
    """Every name and shape that a checkpoint has had since the first one."""
    layers = {1: (24, 3, 3, 1), 2: (32, 3, 3, 24), 3: (64, 3, 3, 32), 4: (64, 4, 4, 64)}
    parameters = {f"dis_conv{n}_weight": shape for n, shape in layers.items()}
    for n, shape in layers.items():
        parameters |= dict.fromkeys((f"dis_bn{n}_gamma", f"dis_bn{n}_beta"), shape[:1])
    parameters |= {"fc1_weight": (10, 64), "fc1_bias": (10,)}
    expected = {f"classifier/{name}": shape for name, shape in parameters.items()}
    for n, shape in layers.items():
        for name in (f"dis_bn{n}_moving_mean", f"dis_bn{n}_moving_var"):
            expected[f"classifier_auxiliary/{name}"] = shape[:1]
    for buffer in "mv":
        expected |= {f"classifier_optimizer/{buffer}/{n}": s for n, s in parameters.items()}
    expected |= dict.fromkeys(["classifier_optimizer/step", "data/cursor"], (1,))
    expected |= {"classifier_optimizer/learning_rate": (1,), "data/order": (33,)}
    state, metadata = checkpoint.load(trained / "checkpoint.safetensors")
    assert {name: array.shape for name, array in state.items()} == expected
    assert metadata["network"] == "digit-classifier"
    names = "batch_size seed learning_rate beta1 weight_decay initial_range"
    assert set(metadata["settings"]) == set(names.split())


def test_losses_must_be_read_in_time():
    model = Classifier(
        pygan.device.get("numpy"), bars(40, 1), ClassifierSettings(batch_size=4), losses_kept=1
    )
    model.start_epoch(0)
    model.step()
    with pytest.raises(StateError, match="1 batches wait"):
        model.step()


def test_labels_that_are_no_digits_are_refused():
    images = ImageSet(np.zeros((4, 28, 28, 1), np.uint8), np.full(4, 10, np.uint8), "letters")
    with pytest.raises(DataError, match="letters: a label is 10"):
        Classifier(pygan.device.get("numpy"), images, ClassifierSettings(batch_size=2))


def test_a_run_leaves_accuracies_curves_and_a_result(trained, labelled_data):
    epochs = read_log(trained / "log.jsonl", "epoch")
    result = json.loads((trained / "result.json").read_text())
    assert [entry["epoch"] for entry in epochs] == [1, 2]
    assert epochs[-1]["test_accuracy"] == result["test_accuracy"]
    _, test = load_train_and_test(labelled_data)
    assert result["test_images"] == len(test) and "held out" in result["test_source"]
    assert result["batches"] == len(read_log(trained / "log.jsonl", "batch"))
    assert Image.open(trained / "losses.png").size == (960, 720)
    numpy_classifier = DigitClassifier(pygan.device.get("numpy"))
    numpy_classifier.load(trained)
    _, probabilities = numpy_classifier(test.images)
    assert result["test_accuracy"] == (probabilities.argmax(axis=1) == test.labels).mean()


@pytest.mark.parametrize("stops", [(5,), (8, 11)])
def test_resumed_runs_have_the_bits_of_an_unbroken_one(labelled_data, tmp_path, trained, stops):
    trainer = Trainer(labelled_data)
    for index, stop in enumerate(stops):
        trainer(tmp_path, system="classifier", epochs=2, max_batches=stop, resume=index > 0)
        assert "test accuracy" in trainer.text
    asked = {"data": None, "batch_size": None, "seed": None}
    trainer(tmp_path, system="classifier", resume=True, **asked)
    assert_same_run(tmp_path, trained)


def test_bytes_and_floats_are_the_same_image(trained):
    classifier = DigitClassifier(pygan.device.get("numpy"))
    classifier.load(trained)
    images = bars(130, seed=3).images
    for found, expected in zip(
        classifier(images.astype(np.float32) / 255), classifier(images), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_another_networks_checkpoint_is_refused(unbroken):
    classifier = DigitClassifier(pygan.device.get("numpy"))
    with pytest.raises(CheckpointError, match=r"'lesson-gan'.*pygan train classifier"):
        classifier.load(unbroken)


def test_a_damaged_test_file_is_no_reason_to_hold_training_images_out(labelled_data, tmp_path):
    for file in labelled_data.iterdir():
        for stem in ("train", "t10k"):
            (tmp_path / file.name.replace("train", stem)).write_bytes(file.read_bytes())
    damaged = tmp_path / "t10k-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte"):
        load_train_and_test(tmp_path)


def test_held_out_images_are_no_training_images(labelled_data):
    train, test = load_train_and_test(labelled_data)
    assert len(train) + len(test) == 40 and len(test) == 7
    for images in (train, test):
        assert "held out" in images.describe()
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)
    again = load_train_and_test(labelled_data)
    assert [part.fingerprint for part in again] == [train.fingerprint, test.fingerprint]


def test_mnist_keeps_its_own_test_images(data_dir):
    train, test = load_train_and_test(data_dir)
    assert (len(train), len(test)) == (60_000, 10_000)


def test_train_command(labelled_data, tmp_path, capsys):
    command = ["train", "classifier", "--data", str(labelled_data), "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--device", "numpy", "--batch-size", "4", "--epochs", "1"]) == 0
    assert "test accuracy" in capsys.readouterr().out
