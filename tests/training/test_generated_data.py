"""A classifier helped by generated images: its batches, its runs, what users can ask wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_support import Trainer

import pygan.device
from pygan import cli
from pygan.data import ImageSet
from pygan.examples import generated_data
from pygan.training.classifier import ClassifierSettings

SMALL = ["--labelled", "12", "--epochs", "2", "--batch-size", "4", "--seeds", "2"]


def run(out: Path, *options: str, small=SMALL) -> int:
    asked = ["--out", str(out), "--device", "numpy", "--plain"]
    return cli.main(["train", "generated-data", *asked, *small, *options])


@pytest.fixture(scope="module")
def generator(labelled_data, tmp_path_factory) -> Path:
    """The folder of a conditional GAN after 2 batches."""
    out = tmp_path_factory.mktemp("conditional")
    Trainer(labelled_data)(out, system="conditional", max_batches=2)
    return out


@pytest.fixture(scope="module")
def compared(labelled_data, generator, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "run"
    data = ["--data", str(labelled_data), "--generator", str(generator)]
    assert run(out, *data, "--generated", "50") == 0
    return out


def numbers(out: Path) -> list[dict]:
    entries = json.loads((out / "result.json").read_text())["trainings"]
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


def test_half_of_a_batch_is_generated():
    """Real images are dark with even digits, generated ones bright with odd digits."""
    real = ImageSet(np.full((6, 28, 28, 1), 51, np.uint8), np.arange(0, 6) % 3 * 2, "real")
    drawn = ImageSet(np.full((9, 28, 28, 1), 204, np.uint8), np.arange(0, 9) % 4 * 2 + 1, "made")
    real, drawn = (ImageSet(i.images, i.labels.astype(np.uint8), i.source) for i in (real, drawn))
    settings = ClassifierSettings(batch_size=5)
    device = pygan.device.get("numpy")
    model = generated_data.HelpedClassifier(device, real, settings, drawn)
    assert model.data.batches_per_epoch == 2  # three real images a batch
    model.start_epoch(0)
    seen = {0: [], 1: []}
    for _ in range(2):
        model.step()
        inputs = model.executor.arg_dict
        np.testing.assert_allclose(inputs["data"][:3], 0.2, atol=1e-6)
        np.testing.assert_allclose(inputs["data"][3:], 0.8, atol=1e-6)
        digits = np.array(inputs["label"]).argmax(axis=1)
        seen[0] += digits[:3].tolist()
        seen[1] += digits[3:].tolist()
    assert sorted(seen[0]) == [0, 0, 2, 2, 4, 4]
    assert all(digit % 2 == 1 for digit in seen[1])
    alone = generated_data.HelpedClassifier(device, drawn, settings, None)
    alone.start_epoch(0)
    alone.step()
    np.testing.assert_allclose(alone.executor.arg_dict["data"], 0.8, atol=1e-6)


def test_a_comparison_leaves_numbers_and_pictures(compared):
    result = json.loads((compared / "result.json").read_text())
    found = [(entry["seed"], entry["way"]) for entry in result["trainings"]]
    assert found == [(seed, way) for seed in (0, 1) for way in generated_data.WAYS]
    assert result["complete"] and result["plan"]["batches"] == 6
    assert result["plan"]["origin"]["batches"] == 2
    assert Image.open(compared / "generated.png").size == (10 * 58 + 2, 8 * 58 + 2)
    assert Image.open(compared / "comparison.png").size == (1320, 552)


def test_generated_images_are_labelled_with_the_digits_asked_for(generator):
    device = pygan.device.get("numpy")
    path = generator / "checkpoint.safetensors"
    drawn, origin = generated_data.draw_images(device, path, 25, seed=1)
    assert drawn.images.shape == (25, 28, 28, 1) and drawn.images.dtype == np.uint8
    assert drawn.labels.tolist() == [i % 10 for i in range(25)]
    again, other = generated_data.draw_images(device, path, 25, seed=1)
    assert again.fingerprint == drawn.fingerprint and other == origin
    assert generated_data.draw_images(device, path, 25, seed=2)[0].fingerprint != drawn.fingerprint


def test_a_stopped_run_goes_on_to_the_bit(compared, labelled_data, generator, tmp_path):
    out = tmp_path / "run"
    given = ["--generator", str(generator)]
    data = ["--data", str(labelled_data), "--generated", "50"]
    assert run(out, *given, *data, "--max-batches", "9") == 0
    assert run(out, "--resume", small=[]) == 0  # the generator is taken from the run too
    assert numbers(out) == numbers(compared)


def test_without_a_generator_one_is_trained_first(labelled_data, tmp_path):
    out = tmp_path / "run"
    small = ["--labelled", "4", "--epochs", "1", "--batch-size", "4", "--seeds", "1"]
    assert run(out, "--data", str(labelled_data), "--gan-batches", "1", small=small) == 0
    assert json.loads((out / "result.json").read_text())["plan"]["origin"]["batches"] == 1
    assert (out / "conditional" / "checkpoint.safetensors").exists()


def test_ways_are_chosen(labelled_data, generator, tmp_path, capsys):
    out = tmp_path / "run"
    data = ["--data", str(labelled_data), "--generator", str(generator), "--seeds", "1"]
    assert run(out, *data, "--ways", "generated,real") == 0
    assert list(json.loads((out / "result.json").read_text())["ways"]) == ["generated", "real"]
    for wrong in ("real,real", "fake", ""):
        assert run(tmp_path / "other", *data, "--ways", wrong) == 1
        assert "choose from real, both, generated, each once" in capsys.readouterr().err
    assert run(tmp_path / "other", *data, "--batch-size", "1") == 1
    assert "--batch-size 1: the way 'both' needs 2 images" in capsys.readouterr().err


def test_a_generator_that_takes_no_digits_is_refused(labelled_data, unbroken, tmp_path, capsys):
    data = ["--data", str(labelled_data), "--generator", str(unbroken)]
    assert run(tmp_path / "run", *data) == 1
    assert "cannot be asked for a digit" in capsys.readouterr().err
    assert run(tmp_path / "run", *data, "--labelled", "99") == 1
    assert "--labelled 99 must lie between" in capsys.readouterr().err
