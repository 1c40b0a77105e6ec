"""The GAN of one class of CIFAR-10: its step against an independent calculation in float64, its
runs, its pictures, and what users can ask wrongly."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_support import assert_same_run, chosen_devices, open_device

import pygan.device
from pygan import checkpoint, cli
from pygan.data import ImageSet
from pygan.errors import DataError
from pygan.examples import cifar10_gan as example
from pygan.training.gan import load_network
from pygan.training.log import read_log
from pygan.training.sampling import open_sampler

SMALL = ["--filters", "2", "--batch-size", "4", "--device", "numpy", "--plain"]


def dogs(count: int, seed: int = 0) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return ImageSet(images, np.full(count, 5, np.uint8), "dogs")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    """CIFAR-10's binary form with 12 dogs and 4 other images: 3 batches of 4 an epoch."""
    folder = tmp_path_factory.mktemp("cifar")
    records = np.random.default_rng(4).integers(0, 256, (16, 3073), np.uint8)
    records[:, 0] = [5, 5, 5, 1] * 4
    (folder / "data_batch_1.bin").write_bytes(records.tobytes())
    return folder


def run(data: Path, out: Path, *options: str) -> int:
    asked = ["train", "cifar10", "--data", str(data), "--out", str(out)]
    return cli.main([*asked, *SMALL, *options])


@pytest.fixture(scope="module")
def unbroken(cifar, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(cifar, out, "--epochs", "2") == 0
    return out


# An independent calculation: the network of the lesson in float64, from the words that describe it.


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.3 * x)


def convolution(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, pad: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    size = (x.shape[1] - w.shape[1]) // stride + 1
    y = np.zeros((len(x), size, size, len(w))) + b
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            last = stride * (size - 1) + 1
            y += x[:, i : i + last : stride, j : j + last : stride] @ w[:, i, j].T
    return y


def doubled(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The transposed convolution 4x4 of stride 2, a border of 1 cut off."""
    n = x.shape[1]
    y = np.zeros((len(x), 2 * n + 2, 2 * n + 2, w.shape[3]))
    for i in range(4):
        for j in range(4):
            y[:, i : i + 2 * n : 2, j : j + 2 * n : 2] += x @ w[:, i, j]
    return y[:, 1:-1, 1:-1] + b


def generate(p: dict[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
    x = leaky(noise @ p["gen_fc1_weight"].T + p["gen_fc1_bias"]).reshape(len(noise), 16, 16, -1)
    x = leaky(convolution(x, p["gen_conv2_weight"], p["gen_conv2_bias"], 1, 2))
    x = leaky(doubled(x, p["gen_deconv3_weight"], p["gen_deconv3_bias"]))
    for layer in ("gen_conv4", "gen_conv5"):
        x = leaky(convolution(x, p[f"{layer}_weight"], p[f"{layer}_bias"], 1, 2))
    return np.tanh(convolution(x, p["gen_conv6_weight"], p["gen_conv6_bias"], 1, 3))


def probability(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Of "generated", without dropout."""
    x = leaky(convolution(x, p["dis_conv1_weight"], p["dis_conv1_bias"], 1, 0))
    for layer in ("dis_conv2", "dis_conv3", "dis_conv4"):
        x = leaky(convolution(x, p[f"{layer}_weight"], p[f"{layer}_bias"], 2, 0))
    logits = x.reshape(len(x), -1) @ p["dis_fc5_weight"].T + p["dis_fc5_bias"]
    return 1 / (1 + np.exp(-logits))


def cross_entropy(p: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))


def parameters(executor) -> dict[str, np.ndarray]:
    return {n: np.array(executor.arg_dict[n], np.float64) for n in executor.parameter_names}


def require_rmsprop_step(executor, before, loss, rate: float, seed: int) -> None:
    """The executor's gradients are those of ``loss(parameters)`` by central differences, and its
    parameters those that Keras's first RMSprop step makes of them; three places of each array."""
    after, random = parameters(executor), np.random.default_rng(seed)
    for name, array in before.items():
        gradient = np.array(executor.grad_dict[name])
        largest = np.abs(gradient).max()
        assert largest > 0
        for place in random.choice(array.size, min(3, array.size), replace=False):
            place = np.unravel_index(place, array.shape)
            shifted = []
            for step in (1e-7, -1e-7):
                moved = {**before, name: array.copy()}
                moved[name][place] += step
                shifted.append(loss(moved))
            expected = (shifted[0] - shifted[1]) / 2e-7
            # Sums of some thousand float32 products; the points are so close that hardly any
            # leaky ReLU's input changes sign between them.
            assert abs(gradient[place] - expected) < 1e-4 * largest + 1e-7, (name, place)
            clipped = np.clip(float(gradient[place]), -1, 1)
            moved = array[place] - rate * clipped / (np.sqrt(0.1 * clipped**2) + 1e-7)
            assert abs(after[name][place] - moved) < 1e-5 * rate + 1e-7, (name, place)


def test_a_step_is_the_lesson_s_by_an_independent_calculation():
    """D's batch, both losses, both gradients by finite differences, and the parameters after."""
    device = pygan.device.get("numpy")
    images = dogs(2)
    settings = example.Settings(batch_size=2, filters=2, dropout=0.0, seed=3)
    model = example.Cifar10Gan(device, images, settings)
    gen, dis = model.generator, model.discriminator
    before_gen, before_dis = parameters(gen), parameters(dis)
    noise = device.empty((2, 32), np.float32)
    device.ops.random_normal(np.array(model.random_state), noise)
    model.start_epoch(0)
    model.step()

    drawn = generate(before_gen, noise.astype(float))
    batch = np.array(dis.arg_dict["img"], np.float64)
    np.testing.assert_allclose(batch[:2], drawn, atol=2e-6)
    np.testing.assert_allclose(
        batch[2:], images.images[np.array(model.data.order)] / 255, atol=1e-7
    )
    labels = np.array(dis.arg_dict["label"], np.float64)
    assert (labels[:2] >= 1).all() and (labels[:2] <= 1.01 + 1e-6).all()
    assert (labels[2:] >= 0).all() and (labels[2:] <= 0.01).all() and len(np.unique(labels)) == 4

    (losses,) = model.read_losses()
    guess = probability(before_dis, batch)
    assert losses.d == pytest.approx(cross_entropy(guess, labels), rel=1e-5)
    assert losses.score_fake == pytest.approx(1 - guess[:2].mean(), abs=1e-5)
    assert losses.score_real == pytest.approx(1 - guess[2:].mean(), abs=1e-5)

    def d_loss(p):
        return cross_entropy(probability(p, batch), labels)

    require_rmsprop_step(dis, before_dis, d_loss, settings.discriminator_rate, seed=1)

    # Fresh noise; D as it is after its update, and as it stays in G's.
    second = np.array(gen.arg_dict["noise"], np.float64)
    assert np.abs(second - noise).min() > 0
    frozen = parameters(dis)

    def g_loss(p):
        return cross_entropy(probability(frozen, generate(p, second)), np.zeros((2, 1)))

    assert losses.g == pytest.approx(g_loss(before_gen), rel=1e-5)
    require_rmsprop_step(gen, before_gen, g_loss, settings.generator_rate, seed=2)


def test_later_steps_follow_keras_s_rmsprop():
    """The second step: averages of squares with rho 0.9, a rate that decayed, values clipped."""
    settings = example.Settings(batch_size=4, filters=2, decay=0.5, clip=1e-3)
    model = example.Cifar10Gan(pygan.device.get("numpy"), dogs(4), settings)
    model.start_epoch(0)
    squares, before = {}, {}
    for step in range(2):
        before = {n: parameters(e) for n, e in (("g", model.generator), ("d", model.discriminator))}
        model.step()
        for network, executor in (("g", model.generator), ("d", model.discriminator)):
            rate = settings.generator_rate if network == "g" else settings.discriminator_rate
            for name, old in before[network].items():
                gradient = np.clip(np.array(executor.grad_dict[name], np.float64), -1e-3, 1e-3)
                square = 0.9 * squares.get(name, 0) + 0.1 * gradient**2
                squares[name] = square
                change = rate / (1 + 0.5 * step) * gradient / (np.sqrt(square) + 1e-7)
                new = np.array(executor.arg_dict[name])
                np.testing.assert_allclose(new, old - change, rtol=0, atol=2e-5 * rate + 1e-7)
    assert (np.abs(model.discriminator.gradients) > 1e-3).any()  # something was clipped


def test_devices_train_alike():
    """Two steps; the second D has seen what the first G's update drew."""
    kept = {}
    for name in chosen_devices():
        model = example.Cifar10Gan(
            open_device(name), dogs(3), example.Settings(batch_size=3, filters=2)
        )
        model.start_epoch(0)
        model.step()
        model.step()
        kept[name] = [(entry.d, entry.g, entry.score_real) for entry in model.read_losses()]
        dropped = np.array(model.frozen.random_state)[1] - np.uint64(1 << 57)
        assert dropped > 0  # dropout draws in G's pass too
    for found in kept.values():
        # RMSprop's first step is the sign of a gradient: a value near 0 may go either way.
        np.testing.assert_allclose(found, kept["numpy"], rtol=1e-4)


def test_the_networks_have_the_sizes_of_the_lesson_s():
    """Parameters of the layers as the lesson describes them, counted by hand."""
    shapes = example.generator(128).infer_shape(noise=(20, 32))
    count = sum(prod(s) for n, s in shapes.arguments.items() if n != "noise")
    middle = 5 * 5 * 256 * 256 + 256
    expected = 33 * 16 * 16 * 128 + 5 * 5 * 128 * 256 + 256 + 4 * 4 * 256 * 256 + 256
    assert count == expected + 2 * middle + 7 * 7 * 256 * 3 + 3 == 6_264_579
    assert list(shapes.outputs.values()) == [(20, 32, 32, 3)]
    shapes = example.discriminator(128, 0.5).infer_shape(img=(40, 32, 32, 3), label=(40, 1))
    count = sum(prod(s) for n, s in shapes.arguments.items() if n not in ("img", "label"))
    assert count == 3 * 3 * 3 * 128 + 128 + 3 * (4 * 4 * 128 * 128 + 128) + 512 + 1 == 790_913


def test_a_run_leaves_strips_curves_and_numbers(unbroken):
    names = sorted(path.name for path in (unbroken / "samples").iterdir())
    assert names == ["batch_0000003.png", "batch_0000006.png"]
    # Ten generated images; below them the four real ones of the latest batch.
    picture = Image.open(unbroken / "samples" / names[-1])
    assert picture.size == (10 * 66 + 2, 2 * 66 + 2) and picture.mode == "RGB"
    result = json.loads((unbroken / "result.json").read_text())
    assert (result["system"], result["iterations"], result["images"]) == ("cifar10-gan", 6, 12)
    entries = read_log(unbroken / "log.jsonl", "batch")
    assert result["g"] == pytest.approx(np.mean([entry["g"] for entry in entries]))
    assert set(entries[0]) == {"kind", "batch", "d", "g", "score_real", "score_fake"}
    assert (unbroken / "losses.png").exists()


def test_its_images_are_judged_against_test_images_of_the_class(cifar, unbroken, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("data_batch_1", "test_batch"):
        records = np.random.default_rng(7).integers(0, 256, (60, 3073), np.uint8)
        records[:, 0] = np.arange(60) % 10
        records[10:20, 0] = 5
        (data / f"{name}.bin").write_bytes(records.tobytes())
    judge, out = str(tmp_path / "judge"), tmp_path / "judged"
    command = ["train", "colour-classifier", "--data", str(data), "--out", judge, "--epochs", "1"]
    assert cli.main([*command, "--batch-size", "10", "--device", "numpy", "--plain"]) == 0
    assert run(data, out, "--max-batches", "2", "--classifier", judge) == 0
    found = json.loads((out / "result.json").read_text())["quality"]
    assert (found["real_images"], found["generated_images"]) == (15, 1000)
    assert found["frechet"]["value"] > 0 and sum(found["classes"]["histogram"]) == 1000
    assert "quality" not in json.loads((unbroken / "result.json").read_text())
    # Its checkpoints are drawn with and judged as other generators' are.
    command = ["--checkpoint", str(unbroken), "--device", "numpy"]
    quality = ["--classifier", judge, "--data", str(data), "--count", "40"]
    told = tmp_path / "quality.json"
    assert cli.main(["quality", *command, *quality, "--out", str(told)]) == 0
    found = json.loads(told.read_text())
    assert (found["real_images"], found["averaged"]) == (15, [3, 6])
    assert found["reference"]["generated_images"] == 15
    # A folder without test images is an error before any training.
    assert run(cifar, tmp_path / "none", "--classifier", judge) == 1
    assert not (tmp_path / "none" / "result.json").exists()


def test_its_checkpoints_are_drawn_with(unbroken, tmp_path):
    command = ["--device", "numpy", "--checkpoint", str(unbroken / "checkpoint.safetensors")]
    walk = ["--rows", "1", "--steps", "3", "--scale", "1", "--out", str(tmp_path / "walk.png")]
    assert cli.main(["interpolate", *command, *walk]) == 0
    assert Image.open(tmp_path / "walk.png").size == (3 * 34 + 2, 34 + 2)
    numpy = pygan.device.get("numpy")
    sampler, _ = open_sampler(numpy, unbroken / "checkpoint.safetensors", 4)
    noise = sampler.draw_noise(6, 0)
    images = sampler.images(noise)
    tensors, metadata = checkpoint.load(unbroken / "checkpoint.safetensors")
    filters = metadata["settings"]["filters"]
    executor = example.generator(filters).bind(numpy, {"noise": noise.shape}, "null")
    load_network(executor, tensors, "generator")
    raw = np.array(executor.forward(is_train=False, noise=noise)[0])
    # Sums of another batch size's products; what lies outside black and white is cut off.
    np.testing.assert_allclose(images, np.clip(raw, 0, 1), atol=1e-5)
    assert raw.min() < 0


def test_a_stopped_run_goes_on_to_the_bit(cifar, unbroken, tmp_path):
    out = tmp_path / "run"
    assert run(cifar, out, "--epochs", "2", "--max-batches", "4") == 0
    # What is not asked again is taken from the run.
    assert cli.main(["train", "cifar10", "--out", str(out), "--resume", "--device", "numpy"]) == 0
    assert_same_run(out, unbroken)


def test_five_thousand_images_are_gone_through_for_ten_thousand_iterations():
    assert example.SYSTEM.epochs_of(5000 // 20) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "truck"], "no image of truck"),
        (["--batch-size", "13"], "12 images do not fill a batch of 13"),
    ],
)
def test_requests_that_cannot_be_met(cifar, tmp_path, capsys, options, message):
    assert run(cifar, tmp_path / "run", *options) == 1
    assert message in capsys.readouterr().err


def test_another_network_is_refused_on_resume(cifar, unbroken, capsys):
    assert run(cifar, unbroken, "--resume", "--filters", "3") == 1
    assert "--filters 3 differs from 2" in capsys.readouterr().err
    with pytest.raises(DataError, match="do not fill"):
        example.Cifar10Gan(pygan.device.get("numpy"), dogs(3), example.Settings(filters=2))
