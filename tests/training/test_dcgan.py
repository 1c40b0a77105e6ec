"""DCGAN: its step, its runs, its pictures, and what users can ask wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_support import assert_same_run

import pygan.device
from pygan import cli
from pygan.data import ImageSet
from pygan.examples import dcgan
from pygan.executor import precision_scope, storage_scope
from pygan.training.folder import RunFolder
from pygan.training.log import read_log
from pygan.training.sampling import open_sampler

SMALL = ["--ngf", "2", "--ndf", "2", "--batch-size", "4", "--device", "numpy", "--plain"]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    """CIFAR-10's binary form with 20 images: 5 batches of 4 an epoch."""
    folder = tmp_path_factory.mktemp("cifar")
    random = np.random.default_rng(4)
    records = random.integers(0, 256, (20, 3073), np.uint8)
    records[:, 0] = np.arange(20) % 10
    (folder / "data_batch_1.bin").write_bytes(records.tobytes())
    return folder


def run(data: Path, out: Path, *options: str) -> int:
    return cli.main(["train", "dcgan", "--data", str(data), "--out", str(out), *SMALL, *options])


@pytest.fixture(scope="module")
def unbroken(cifar, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(cifar, out, "--dataset", "cifar10", "--epochs", "2") == 0
    return out


def test_a_run_leaves_its_pictures_and_numbers(unbroken):
    names = sorted(path.name for path in (unbroken / "samples").iterdir())
    parts = ("generated", "gradient", "real")
    assert names == [f"batch_{b:07d}_{part}.png" for b in (5, 10) for part in parts]
    result = json.loads((unbroken / "result.json").read_text())
    assert (result["system"], result["batches"]) == ("dcgan", 10)
    assert result["settings"]["dataset"] == "cifar10"
    entries = read_log(unbroken / "log.jsonl", "batch")
    assert result["g"] == pytest.approx(np.mean([entry["g"] for entry in entries]))
    assert (unbroken / "losses.png").exists()


def test_the_pictures_show_the_latest_batch(cifar, tmp_path, monkeypatch):
    """The real images of the second batch of the epoch, and the gradient that G learned from."""
    images = dcgan.load_images(str(cifar), dcgan.Settings(dataset="cifar10"))
    settings = dcgan.Settings(batch_size=4, ngf=2, ndf=2, dataset="cifar10")
    model = dcgan.Dcgan(pygan.device.get("numpy"), images, settings)
    model.start_epoch(0)
    model.step()
    model.step()
    drawn = {}
    monkeypatch.setattr(dcgan, "draw_grid", lambda images, path: drawn.update({path.stem: images}))
    dcgan.Report(model, "").samples(RunFolder(tmp_path), 2)
    order = np.array(model.data.order)[4:8]
    real, made = drawn["batch_0000002_real"], drawn["batch_0000002_generated"]
    np.testing.assert_allclose(real, images.images[order] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(made, model.on_generated.arg_dict["data"])
    # D's pass for G once more, with D as it now is: what it would hand back is what was drawn.
    gradient = drawn["batch_0000002_gradient"]
    assert np.abs(gradient).max() == pytest.approx(1, abs=1e-6)  # a product with 1 / the largest
    model.on_generated.forward(is_train=True)
    model.on_generated.backward(wanted=["data"])
    again = np.array(model.image_gradient)
    np.testing.assert_allclose(gradient, again / np.abs(again).max(), atol=1e-6)


def test_a_stopped_run_goes_on_to_the_bit(cifar, unbroken, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(cifar, out, "--dataset", "cifar10", "--epochs", "2", "--max-batches", "3") == 0
    assert "train dcgan --out" in capsys.readouterr().out
    # What is not asked again is taken from the run.
    assert cli.main(["train", "dcgan", "--out", str(out), "--resume", "--device", "numpy"]) == 0
    assert_same_run(out, unbroken)


def test_a_monitored_run_computes_the_same(cifar, unbroken, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(cifar, out, "--dataset", "cifar10", "--epochs", "2", "--monitor", "5") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("monitor")]
    assert {line.split()[2] for line in lines} == {"5", "10"}
    for name in ("G.gact1_output", "D.dact4_output", "D.dloss_output", "D.data_gradient"):
        assert sum(name in line for line in lines) == 2
    assert_same_run(out, unbroken)


def test_pictures_of_a_trained_generator(unbroken, tmp_path):
    """In colour, of the run's own number of filters, black and white where tanh ends."""
    out = tmp_path / "a.png"
    of_run = ["--checkpoint", str(unbroken), "--device", "numpy", "--scale", "1", "--out", str(out)]
    assert cli.main(["sample", *of_run, "--grid", "2x3", "--seed", "3"]) == 0
    assert Image.open(out).size == (3 * 66 + 2, 2 * 66 + 2) and Image.open(out).mode == "RGB"
    drawn = np.asarray(Image.open(out))[2:66, 2:66]

    sampler, _ = open_sampler(pygan.device.get("numpy"), unbroken, 6)
    sampler.executor.forward(is_train=False, rand=sampler.draw_noise(6, seed=3))
    expected = 127.5 * (sampler.executor.outputs[0][0] + 1)
    assert np.abs(drawn - expected).max() <= 0.51  # rounded to a byte

    assert cli.main(["interpolate", *of_run, "--rows", "1", "--steps", "4"]) == 0
    assert Image.open(out).size == (4 * 66 + 2, 66 + 2)


def test_a_digit_classifier_does_not_judge_other_things(unbroken, labelled_data, tmp_path, capsys):
    judge = ["train", "classifier", "--epochs", "1", "--plain", "--data", str(labelled_data)]
    assert cli.main([*judge, "--device", "numpy", "--out", str(tmp_path / "c")]) == 0
    command = ["quality", "--checkpoint", str(unbroken), "--classifier", str(tmp_path / "c")]
    assert cli.main([*command, "--device", "numpy", "--data", str(labelled_data)]) == 1
    error = capsys.readouterr().err
    assert "'digit-classifier', not 'colour-classifier'" in error
    assert "'pygan train colour-classifier' makes one" in error


def test_summary_has_both_networks(capsys):
    assert cli.main(["summary", "dcgan", "--batch-size", "64"]) == 0
    text = capsys.readouterr().out
    # 4x4 kernels, 100-512-256-128-64-3 channels, and gamma and beta of each batch norm.
    generator = 16 * (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
    assert f"{generator + 2 * (512 + 256 + 128 + 64):,} parameters" in text
    for part in ("gact5", "dloss", "64, 64, 64, 3"):
        assert part in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "cifar10", "--images", "21"], "--images 21: there are only 20"),
        (["--dataset", "cifar10", "--monitor", "1", "--monitor-pattern", "("], "regular"),
        (["--dataset", "cifar10", "--monitor", "1", "--monitor-pattern", "no"], "matches nothing"),
        (["--dataset", "mnist"], "no digits in"),
    ],
)
def test_requests_that_cannot_be_met(cifar, tmp_path, capsys, options, message):
    assert run(cifar, tmp_path / "run", *options) == 1
    assert message in capsys.readouterr().err


def test_another_network_size_is_refused_on_resume(cifar, unbroken, capsys):
    assert run(cifar, unbroken, "--resume", "--ngf", "3") == 1
    assert "--ngf 3 differs from 2" in capsys.readouterr().err


def test_metrics_of_known_probabilities():
    found = dcgan.metrics(7, np.array([0.1, 0.6]), np.array([0.9, 0.8]), np.array([1.0, 0.0]))
    assert found.batch == 7
    assert found.d_fake == pytest.approx(-(np.log(0.9) + np.log(0.4)) / 2)
    assert found.d_real == pytest.approx(-(np.log(0.9) + np.log(0.8)) / 2)
    assert found.g == pytest.approx(-np.log(1e-12) / 2)
    assert (found.accuracy_fake, found.accuracy_real) == (0.5, 1.0)


def test_a_step_trains_both_networks_on_the_sum_of_two_gradients():
    """Against the same passes, one gradient at a time, in float64 sums of what they leave."""
    random = np.random.default_rng(0)
    images = ImageSet(
        random.integers(0, 256, (4, 64, 64, 3), np.uint8), np.zeros(4, np.uint8), "noise"
    )
    device = pygan.device.get("numpy")
    settings = dcgan.Settings(batch_size=4, ngf=2, ndf=2)
    model = dcgan.Dcgan(device, images, settings)
    twin = dcgan.Dcgan(device, images, settings)
    for each in (model, twin):
        each.start_epoch(0)
    model.step()

    gen, dis = twin.generator, twin.discriminator
    device.ops.random_normal(twin.random_state, gen.arg_dict["rand"])
    gen.forward(is_train=True)
    real = np.zeros((4, 64, 64, 3), np.float32)
    twin.data.next_batch(real)
    total = np.zeros(dis.gradients.shape)
    for data, label in ((gen.outputs[0], 0), (real, 1)):
        dis.zero_gradients()
        dis.forward(is_train=True, data=data, label=label)
        dis.backward()
        total += dis.gradients
    largest = np.abs(total).max()
    np.testing.assert_allclose(model.discriminator.gradients, total, atol=1e-6 * largest)
    # Adam's first step has the size of the learning rate wherever there is a gradient.
    moved = np.abs(model.discriminator.arg_dict["d5_weight"] - dis.arg_dict["d5_weight"])
    assert np.abs(np.median(moved) / settings.learning_rate - 1) < 0.01
    moved = np.abs(model.generator.arg_dict["g5_weight"] - gen.arg_dict["g5_weight"])
    assert np.abs(np.median(moved) / settings.learning_rate - 1) < 0.01


def test_a_step_with_activations_in_bf16_trains_as_in_float32():
    """The losses of the first steps stay near: weights apart by roundings to bf16 move a third loss
    by a few percent."""
    random = np.random.default_rng(0)
    images = ImageSet(
        random.integers(0, 256, (8, 64, 64, 3), np.uint8), np.zeros(8, np.uint8), "noise"
    )
    device = pygan.device.get("numpy")
    found = []
    for number in ("float32", "bf16"):
        with precision_scope(number), storage_scope(number):
            model = dcgan.Dcgan(device, images, dcgan.Settings(batch_size=4, ngf=8, ndf=8))
        assert any(array.half for array in model.generator._memory.arrays) == (number == "bf16")
        model.start_epoch(0)
        model.step()
        model.step()
        model.start_epoch(1)
        model.step()
        losses = model.read_losses()
        found.append(np.array([(each.d_fake, each.d_real, each.g) for each in losses]))
    assert found[0].shape == (3, 3)
    assert np.abs(found[1] - found[0]).max() <= 0.1 * np.abs(found[0]).max()
    assert not np.array_equal(*found)
