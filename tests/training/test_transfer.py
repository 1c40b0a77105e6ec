"""Transfer from the discriminator: what starts as what, which layers learn, and runs that go on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pygan.device
from pygan import checkpoint, cli, layout
from pygan.data import ImageSet, load_train_and_test, some_of
from pygan.examples import transfer
from pygan.training.classifier import ClassifierSettings
from pygan.training.gan import LessonGan

SMALL = ["--labelled", "12", "--epochs", "2", "--batch-size", "4", "--seeds", "2"]


def run(out: Path, *options: str, small=SMALL) -> int:
    asked = ["--out", str(out), "--device", "numpy", "--plain"]
    return cli.main(["train", "transfer", *asked, *small, *options])


@pytest.fixture(scope="module")
def compared(labelled_data, unbroken, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("transfer") / "run"
    data = ["--data", str(labelled_data), "--discriminator", str(unbroken)]
    assert run(out, *data) == 0
    return out


def test_ways_differ_in_their_start_and_in_what_learns(device, unbroken):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 28, 28, 1), np.uint8)
    images = ImageSet(images, np.arange(8, dtype=np.uint8), "noise")
    layers, _ = transfer.read_layers(unbroken / "checkpoint.safetensors")
    saved, _ = checkpoint.load(unbroken / "checkpoint.safetensors")
    settings = ClassifierSettings(batch_size=4, seed=1)
    models = {
        way: transfer.TransferClassifier(device, images, settings, way, layers)
        for way in transfer.WAYS
    }
    start = {way: model.state_dict() for way, model in models.items()}
    for name, layer in layers.items():
        key = f"classifier/{name}"
        np.testing.assert_array_equal(layer, saved[f"discriminator/{name}"])
        for way in ("transfer", "frozen"):
            np.testing.assert_array_equal(start[way][key], layer)
        if name.endswith("weight"):
            assert np.abs(start["scratch"][key] - layer).max() > 0.01
    # Batch norm starts anew, and what the discriminator has not is drawn alike.
    for way in transfer.WAYS:
        assert (start[way]["classifier_auxiliary/dis_bn1_moving_mean"] == 0).all()
        weight = start[way]["classifier/fc1_weight"]
        np.testing.assert_array_equal(weight, start["scratch"]["classifier/fc1_weight"])

    for way, model in models.items():
        model.start_epoch(0)
        model.step()
        state = model.state_dict()
        learned = {n for n in layers if (state[f"classifier/{n}"] != layers[n]).any()}
        weights = {n for n in layers if n.endswith("weight")}
        assert learned == set() if way == "frozen" else learned >= weights, way
        assert (state["classifier/fc1_weight"] != start[way]["classifier/fc1_weight"]).mean() > 0.9
        assert (state["classifier_auxiliary/dis_bn1_moving_mean"] != 0).all()


def test_the_start_of_mxnet_s_record_is_reached(repository, unbroken, tmp_path):
    """MXNet's record of the classifier starts as a discriminator: read from a checkpoint, those
    layers give its first loss."""
    with np.load(repository / "tests" / "golden" / "classifier.npz") as file:
        record = dict(file)
    tensors, metadata = checkpoint.load(unbroken / "checkpoint.safetensors")
    for name in tensors:
        part, _, layer = name.partition("/")
        if part == "discriminator" and f"init/net/{layer}" in record:
            tensors[name] = layout.from_mxnet(record[f"init/net/{layer}"]).astype(np.float32)
    checkpoint.save(tmp_path / "trunk.safetensors", tensors, metadata)
    layers, _ = transfer.read_layers(tmp_path / "trunk.safetensors")
    images = ImageSet(np.zeros((8, 28, 28, 1), np.uint8), np.zeros(8, np.uint8), "none")
    settings = ClassifierSettings(batch_size=8)
    numpy = pygan.device.get("numpy")
    model = transfer.TransferClassifier(numpy, images, settings, "transfer", layers)
    for name in ("fc1_weight", "fc1_bias"):
        model.executor.arg_dict[name][...] = record[f"init/net/{name}"]
    data = layout.to_nhwc(record["it1/data"])
    (loss, _) = model.executor.forward(is_train=True, data=data, label=record["it1/label"])
    # Four times the spread of MXNet's own float32 variants.
    np.testing.assert_allclose(loss, record["it1/loss"], rtol=4.4e-7)


def test_a_comparison_leaves_numbers_and_a_picture(compared, labelled_data):
    result = json.loads((compared / "result.json").read_text())
    found = [(entry["seed"], entry["way"]) for entry in result["trainings"]]
    assert found == [(seed, way) for seed in (0, 1) for way in transfer.WAYS]
    assert result["complete"] and result["test_images"] == 7
    assert result["plan"]["batches"] == 6 and result["plan"]["origin"]["batches"] == 30
    for way in transfer.WAYS:
        of_way = [e["accuracy"] for e in result["trainings"] if e["way"] == way]
        assert result["ways"][way]["accuracy"]["value"] == pytest.approx(np.mean(of_way))
    assert Image.open(compared / "comparison.png").size == (1320, 552)


def test_a_stopped_run_goes_on_to_the_bit(compared, labelled_data, unbroken, tmp_path, capsys):
    def numbers(out: Path) -> list[dict]:
        entries = json.loads((out / "result.json").read_text())["trainings"]
        return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]

    out = tmp_path / "run"
    data = ["--data", str(labelled_data), "--discriminator", str(unbroken)]
    assert run(out, *data, "--max-batches", "8") == 0
    assert "not all trainings are done" in capsys.readouterr().out
    # What is not asked again is taken from the run, the discriminator too.
    assert run(out, "--resume", "--max-batches", "21", small=[]) == 0
    assert run(out, "--resume", small=[]) == 0
    assert numbers(out) == numbers(compared)
    assert not (out / "lesson").exists()


def test_labelled_parts_are_drawn_by_the_seed(labelled_data):
    train, _ = load_train_and_test(labelled_data)
    parts = [some_of(train, 12, seed) for seed in (0, 0, 1)]
    assert parts[0].fingerprint == parts[1].fingerprint != parts[2].fingerprint
    images = {
        image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)
    }
    for image, label in zip(parts[2].images, parts[2].labels, strict=True):
        assert images[image.tobytes()] == label


def test_without_a_discriminator_one_is_trained_first(labelled_data, tmp_path):
    out = tmp_path / "run"
    small = ["--labelled", "4", "--epochs", "1", "--batch-size", "4", "--seeds", "1"]
    assert run(out, "--data", str(labelled_data), "--gan-batches", "2", small=small) == 0
    _, metadata = checkpoint.load(out / "lesson" / "checkpoint.safetensors")
    assert (metadata["network"], metadata["batches_done"]) == ("lesson-gan", 2)
    result = json.loads((out / "result.json").read_text())
    assert result["plan"]["origin"]["batches"] == 2


def test_the_gan_s_length_is_kept_and_a_compared_gan_is_not_trained_further(
    labelled_data, tmp_path, monkeypatch, capsys
):
    def batches() -> int:
        path = out / "lesson" / "checkpoint.safetensors"
        return checkpoint.load(path)[1]["batches_done"]

    step = LessonGan.step

    def stopped(gan):
        step(gan)
        if gan.batches_done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(LessonGan, "step", stopped)
    out = tmp_path / "run"
    small = ["--labelled", "4", "--epochs", "2", "--batch-size", "4", "--seeds", "1"]
    small += ["--data", str(labelled_data)]
    assert run(out, "--gan-batches", "5", small=small) == 128 + signal.SIGTERM
    assert batches() == 2 and not (out / "checkpoint.safetensors").exists()
    assert "The same command with --resume goes on" in capsys.readouterr().out
    monkeypatch.undo()
    assert run(out, "--resume", "--max-batches", "1", small=small) == 0
    assert batches() == 5
    # More of it now would be another discriminator than the one that the trainings began with.
    assert run(out, "--resume", "--gan-batches", "7", small=[]) == 1
    assert "--gan-batches 7 differs from 5 of the run to resume" in capsys.readouterr().err
    assert run(out, "--resume", small=[]) == 0
    assert batches() == 5
    assert json.loads((out / "result.json").read_text())["complete"]


def test_requests_are_checked_before_a_gan_is_trained(labelled_data, tmp_path, capsys):
    data = ["--data", str(labelled_data), "--labelled", "34"]
    assert run(tmp_path / "run", *data) == 1
    assert "--labelled 34 must lie between" in capsys.readouterr().err
    assert not (tmp_path / "run" / "lesson").exists()


def test_the_precision_asked_for_is_that_of_the_training(
    compared, labelled_data, unbroken, tmp_path, capsys
):
    out = tmp_path / "run"
    data = ["--data", str(labelled_data), "--discriminator", str(unbroken), "--seeds", "1"]
    assert run(out, *data, "--precision", "bf16") == 0
    found = json.loads((out / "result.json").read_text())["trainings"]
    honest = json.loads((compared / "result.json").read_text())["trainings"][: len(found)]
    for entry, other in zip(found, honest, strict=True):
        # Operands keep 8 bits: the losses of six batches are near those of float32, and not them.
        loss, other_loss = entry["curve"][0][1], other["curve"][0][1]
        assert loss != other_loss and abs(loss - other_loss) < 0.05 * other_loss
    assert run(out, *data[2:], "--resume", "--precision", "tf32", small=[]) == 1
    assert "--precision tf32 differs from bf16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labelled", "34"], "--labelled 34 must lie between a batch, 4, and the 33 images"),
        (["--labelled", "3"], "--labelled 3 must lie between"),
        (["--discriminator", "nowhere"], "nowhere: no such checkpoint"),
        (["--discriminator", "CLASSIFIER"], "not 'lesson-gan'; 'pygan train lesson' makes one"),
        (["--data", "nowhere"], "no such folder: nowhere"),
        (["--plain", "--cooperative"], "--cooperative is not for comparisons"),
        (["--precision", "bf16", "--storage", "bf16"], "--storage is not for comparisons"),
    ],
)
def test_requests_that_cannot_be_met(labelled_data, unbroken, tmp_path, capsys, options, message):
    if options[1] == "CLASSIFIER":
        checkpoint.save(tmp_path / "other", {}, {"network": "digit-classifier"})
        options = ["--discriminator", str(tmp_path / "other")]
    data = ["--data", str(labelled_data), "--discriminator", str(unbroken)]
    assert run(tmp_path / "run", *data, *options) == 1
    assert message in capsys.readouterr().err


def test_another_discriminator_is_not_gone_on_with(compared, unbroken, capsys):
    other = unbroken / "checkpoints" / "epoch_0001.safetensors"
    assert run(compared, "--discriminator", str(other), "--resume", small=[]) == 1
    assert "the comparison to resume has origin" in capsys.readouterr().err
