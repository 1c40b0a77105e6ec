"""The DCGAN paper's experiments: each measure on what it must find, each command on tiny runs."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import pygan.device
from pygan import checkpoint, cli
from pygan.errors import PyganError
from pygan.examples.dcgan_paper import (
    __main__ as command,
)
from pygan.examples.dcgan_paper import (
    arithmetic,
    attributes,
    cut,
    discriminator,
    drop,
    features,
    guided,
    neighbours,
    walk,
)

NUMPY = ["--device", "numpy"]
FILTERS = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """CIFAR-10's files and MNIST's with images of ten classes: a bar that moves with the class."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(3)
    labels = np.arange(40) % 10
    for stem, cifar in (("train", "data_batch_1"), ("t10k", "test_batch")):
        digits = random.integers(0, 40, (40, 28, 28)).astype(np.uint8)
        planes = random.integers(0, 40, (40, 3, 32, 32)).astype(np.uint8)
        for digit, plane, label in zip(digits, planes, labels, strict=True):
            digit[4:24, 2 * label + 4 : 2 * label + 7] += 180
            plane[:, 4:28, 2 * label + 4 : 2 * label + 7] += 180
        records = np.concatenate([labels[:, None].astype(np.uint8), planes.reshape(40, -1)], axis=1)
        (folder / f"{cifar}.bin").write_bytes(records.tobytes())
        for name, array in (("images-idx3", digits), ("labels-idx1", labels.astype(np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{stem}-{name}-ubyte").write_bytes(head + array.tobytes())
    return folder


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, Path]:
    """Folders of runs of a few batches, by system."""
    out = tmp_path_factory.mktemp("runs")
    small = ["--ngf", str(FILTERS), "--ndf", str(FILTERS), "--dataset", "cifar10"]
    for system, options in {
        "dcgan": small,
        "conditional": ["--max-batches", "3"],
        "lesson": ["--max-batches", "3"],
        "classifier": ["--epochs", "10"],
    }.items():
        asked = ["--data", str(data), "--out", str(out / system), "--plain", "--batch-size", "4"]
        epochs = [] if "--epochs" in options else ["--epochs", "1"]
        assert cli.main(["train", system, *asked, *NUMPY, *options, *epochs]) == 0
        if system != "classifier":
            draw_something(out / system / "checkpoint.safetensors")
    return {path.name: path for path in out.iterdir()}


def draw_something(path: Path) -> None:
    """Weights of a generator so large that its images differ, which takes training long; and moving
    statistics that owe nothing to rounding."""
    tensors, metadata = checkpoint.load(path)
    random = np.random.default_rng(0)
    for name, array in sorted(tensors.items()):  # a file's tensors come in any order
        if name.startswith("generator/") and name.endswith("_weight"):
            array[...] = random.normal(0, 0.2, array.shape)
        elif name.startswith("generator_auxiliary/"):
            array[...] = float(name.endswith("_moving_var"))
    checkpoint.save(path, tensors, metadata)


@pytest.fixture(scope="module")
def numpy():
    return pygan.device.get("numpy")


def ask(experiment: str, run: Path, out: Path, *options: str) -> dict:
    arguments = [experiment, "--checkpoint", str(run), "--out", str(out), *NUMPY, *options]
    assert command.main(arguments) == 0
    assert Image.open(out / f"{experiment}.png").size[0] > 100
    return json.loads((out / f"{experiment}.json").read_text())


# Attributes


def bar(degrees: float, side: int = 28) -> np.ndarray:
    """A soft bar through the middle that leans to the right by so many degrees."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    distance = np.abs(x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees)))
    image = np.clip(2.5 - distance, 0, 1) * (np.abs(y) < side / 3) * (np.abs(x) < side / 3)
    return image[None, ..., None].astype(np.float32)


@pytest.mark.parametrize("degrees", [-30, -10, 0, 25])
def test_slant_is_that_of_a_bar(degrees):
    assert attributes.slant(bar(degrees))[0] == pytest.approx(degrees, abs=1.5)


def test_ink_is_the_mean_in_percent():
    images = np.zeros((2, 10, 10, 1), np.float32)
    images[1, :5] = 0.5
    np.testing.assert_allclose(attributes.ink(images), [0, 25])


def test_strokes_are_told_by_their_direction():
    """Along a bar, away from its ends: all of it is horizontal, or none."""
    for degrees, expected in ((90, 1.0), (75, 1.0), (45, 0.0), (0, 0.0)):
        image = bar(degrees)
        horizontal, other = attributes.horizontal_strokes(image)
        inked = image[..., 0] > attributes.INK
        np.testing.assert_array_equal(horizontal | other, inked)
        middle = np.zeros_like(inked)
        middle[:, 9:19, 9:19] = inked[:, 9:19, 9:19]
        assert horizontal[middle].mean() == pytest.approx(expected, abs=0.05), degrees


# The discriminator


def test_features_are_every_layer_pooled_to_four_by_four(numpy, runs):
    tensors, _ = discriminator.load(runs["dcgan"])
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = discriminator.Features(numpy, FILTERS, tensors)(images)
    layers = guided.Layers(numpy, FILTERS, tensors, 3)
    expected = []
    for maps in layers.forward(discriminator.pixels(images)):
        window = maps.shape[1] // 4
        pooled = maps.reshape(3, 4, window, 4, window, -1).max(axis=(2, 4))
        expected.append(pooled.reshape(3, -1))
    expected = np.concatenate(expected, axis=1)
    assert expected.shape == (3, 240 * FILTERS)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def positive(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights above 0 and batch norms that do nothing: a linear network on bright images."""
    kinds = {"_weight": np.abs, "_mean": np.zeros_like, "_var": np.ones_like}
    kinds |= {"_beta": np.zeros_like, "_gamma": np.ones_like}
    return {
        name: next((make(a) for end, make in kinds.items() if name.endswith(end)), a)
        for name, a in tensors.items()
    }


def test_the_guided_gradient_of_a_linear_network_is_its_gradient(numpy, runs):
    tensors = positive(discriminator.load(runs["dcgan"])[0])
    layers = guided.Layers(numpy, FILTERS, tensors, 2)
    random = np.random.default_rng(1)
    images = random.uniform(0.1, 1, (2, 64, 64, 3)).astype(np.float32)
    maps = layers.forward(images)
    gradient = layers.guided_gradient(maps, feature=5)
    place = maps[-1][..., 5].reshape(2, -1).argmax(axis=1)
    step = random.uniform(0, 0.1, images.shape).astype(np.float32)
    moved = layers.forward(images + step)[-1][..., 5].reshape(2, -1)
    gained = moved[[0, 1], place] - maps[-1][..., 5].reshape(2, -1)[[0, 1], place]
    expected = (gradient * step).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(gained, expected, rtol=1e-3)
    assert (gradient >= 0).all() and gradient.max() > 0


def test_the_guided_gradient_stops_where_it_lowers_the_feature(numpy, runs):
    """One channel of the third layer counts against the feature: nothing comes through it."""
    tensors = positive(discriminator.load(runs["dcgan"])[0])
    tensors["discriminator/d4_weight"][5, ..., 3] *= -0.01
    images = np.ones((1, 64, 64, 3), np.float32)
    first = guided.Layers(numpy, FILTERS, tensors, 1)
    found = first.guided_gradient(first.forward(images), feature=5)
    tensors["discriminator/d4_weight"][5, ..., 3] = 0
    second = guided.Layers(numpy, FILTERS, tensors, 1)
    without = second.guided_gradient(second.forward(images), feature=5)
    np.testing.assert_allclose(found, without, rtol=1e-6)
    tensors["discriminator/d4_weight"][5] *= -1  # the feature itself is off
    third = guided.Layers(numpy, FILTERS, tensors, 1)
    assert not third.guided_gradient(third.forward(images), feature=5).any()


def test_gradients_on_edges_and_off_them():
    image = np.zeros((16, 16, 3), np.float32)
    image[:, 8:] = 1
    on, off = np.full((2, 16, 16, 3), 0.1)
    on[:, 7:9], off[:, 2:4] = 1, 1
    assert guided.follows_edges(image, on) > 0.9 > 0 > guided.follows_edges(image, off)
    assert np.isnan(guided.follows_edges(image, np.zeros_like(on)))


def test_an_untrained_network_begins_as_training_does(numpy, data):
    """The same weights as a run of that seed, statistics of the images, nothing updated."""
    settings = {"ndf": FILTERS, "sigma": 0.02}
    images = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)
    tensors, again = (discriminator.untrained(numpy, settings, images, 3) for _ in range(2))
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, again[name])
    assert tensors["discriminator/d4_weight"].std() == pytest.approx(0.02, rel=0.05)
    assert (tensors["discriminator_auxiliary/dbn2_moving_var"] < 0.1).all()


def test_a_linear_machine_learns_what_is_there():
    random = np.random.default_rng(0)
    labels = np.arange(300) % 10
    there = random.standard_normal((300, 40)).astype(np.float32)
    there[np.arange(300), labels] += 6
    learned = features.svm(there[:200], there[200:], labels[:200], labels[200:], seed=0)
    assert learned["accuracy"]["value"] > 0.9
    nothing = random.standard_normal((300, 40)).astype(np.float32)
    guessed = features.svm(nothing[:200], nothing[200:], labels[:200], labels[200:], seed=0)
    assert guessed["accuracy"]["value"] < 0.25
    assert learned["c"] * 40 in features.STRENGTHS
    assert len(learned["choosing"]) == len(features.STRENGTHS)


def test_features_of_fewer_numbers_are_the_same_to_a_linear_machine():
    from sklearn.svm import LinearSVC

    random = np.random.default_rng(0)
    rows = random.standard_normal((90, 200)).astype(np.float32)
    rows[:60] -= rows[:60].mean(axis=0)  # as features are: their products have no inverse
    labels = np.arange(60) % 3
    turned, judged = features.with_fewer_numbers(rows[:60], rows[60:])
    assert turned.shape == (60, 60) and judged.shape == (30, 60)
    assert turned.nnz == 60 * 61 / 2
    found, expected = (
        LinearSVC(C=0.01, dual=True, random_state=0, tol=1e-8, max_iter=10_000)
        .fit(learned, labels)
        .decision_function(asked)
        for learned, asked in ((turned, judged), (rows[:60], rows[60:]))
    )
    # The machine stops within 1e-8; a billionth is added to the products.
    np.testing.assert_allclose(found, expected, atol=1e-6)
    few = features.with_fewer_numbers(rows[:60, :60], rows[60:, :60])
    np.testing.assert_array_equal(few[0], rows[:60, :60])


def test_features_command(runs, data, tmp_path):
    found = ask("features", runs["dcgan"], tmp_path, "--data", str(data), "--untrained", "2")
    assert (found["train_images"], found["test_images"]) == (40, 40)
    sizes = {
        name: [part["features"] for part in parts] for name, parts in found["accuracies"].items()
    }
    assert sizes == {"trained": [480], "untrained": [480, 480], "pixels": [3072]}
    # A bright bar in one of ten places.
    assert found["accuracies"]["pixels"][0]["accuracy"]["value"] > 0.9


def test_guided_command(runs, data, tmp_path):
    found = ask("guided", runs["dcgan"], tmp_path, "--data", str(data), "--images", "20")
    assert found["images"] == 20
    assert set(found["gradient_on_edges"]) == {"trained", "untrained"}


# The generator


def test_the_walk_is_closed_and_even(runs, tmp_path):
    found = ask("walk", runs["dcgan"], tmp_path, "--steps", "3")
    assert 0 < found["mean_step"] <= found["largest_step"]
    assert Image.open(tmp_path / "walk.png").size == (3 * 66 + 2, 9 * 66 + 2)
    told = ask("walk", runs["conditional"], tmp_path, "--steps", "2", "--digit", "4")
    assert told["digit"] == 4


def test_distances_are_roots_of_mean_squares():
    a, b = np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 1))
    b[1] += 0.5
    np.testing.assert_allclose(walk.distances(a, b), [0, 0.5])


class Bright:
    """A generator whose image is as bright as its code's first number; the second is the digit."""

    def images(self, codes: np.ndarray) -> np.ndarray:
        brightness = codes.reshape(len(codes), -1)[:, 0]
        return np.tile(brightness[:, None, None, None], (1, 28, 28, 1)).astype(np.float32)


def pool_of(codes: np.ndarray, digits: np.ndarray) -> SimpleNamespace:
    pool = SimpleNamespace(codes=codes, digits=digits, sure=np.ones(len(digits), bool))
    pool.values = {"ink": 100 * codes[:, 0]}
    pool.rows = lambda *asked: arithmetic.Pool.rows(pool, *asked)
    return pool


def test_arithmetic_gains_what_it_asks_for_where_codes_are_linear():
    random = np.random.default_rng(0)
    digits = np.repeat([2, 7], 100)
    codes = random.uniform(0.2, 0.4, (200, 3)).astype(np.float32)
    pool = pool_of(codes, digits)
    terms = arithmetic.choose(pool, "ink", 4, random)
    assert terms.shape == (8, 4, 3)  # 2 and 7, 7 and 2
    strong, usual, _, control = np.moveaxis(codes[terms, 0], 1, 0)
    for digit in (2, 7):
        values = codes[digits == digit, 0]
        of_digit = digits[terms[:, 0, 0]] == digit
        assert (strong[of_digit] >= np.quantile(values, 0.9) - 1e-6).all()
        assert (np.abs(usual[of_digit] - np.median(values)) < 0.06).all()
    assert all(len(np.intersect1d(*pair)) == 0 for pair in terms[:, [1, 3]])
    assert (digits[terms[:, 2]] != digits[terms[:, 0]]).all()

    def classifier(images):
        return None, np.eye(10)[np.full(len(images), 7)]

    found = arithmetic.measure(Bright(), classifier, pool, "ink", terms)
    assert found["gained"]["value"] == pytest.approx(100 * (strong - control).mean(), rel=1e-4)
    assert found["asked_for"] == pytest.approx(100 * (strong - usual).mean(), rel=1e-4)
    assert found["gained_in"]["value"] == 1
    assert found["digit_after"]["value"] == np.mean(digits[terms[:, 2, 0]] == 7)
    assert "100%" in arithmetic.table({"ink": {"single_codes": found}})


def test_arithmetic_command(runs, tmp_path, monkeypatch):
    """Where a generator draws no digits, a classifier is not sure of any."""
    monkeypatch.setattr(arithmetic, "CONFIDENT", 0.0)
    options = ["--classifier", str(runs["classifier"]), "--images", "300", "--repeats", "1"]
    found = ask("arithmetic", runs["lesson"], tmp_path, *options)
    assert sum(found["digits"]) == 300
    for kinds in found["attributes"].values():
        assert kinds["single_codes"]["equations"] == kinds["means_of_3"]["equations"] >= 2


def test_drop_command(runs, tmp_path):
    options = ["--images", "60", "--classifier", str(runs["classifier"])]
    found = ask("drop", runs["lesson"], tmp_path, *options)
    assert found["maps"] == 128 and 0 < found["dropped"] < 128
    assert found["ink_left"]["whole"] == {"horizontal": 1, "other": 1}
    assert np.sum(found["digits"]["from_to"]) == 60


@pytest.mark.parametrize("system", ["dcgan", "lesson", "conditional"])
def test_a_cut_generator_draws_what_the_whole_one_does(numpy, runs, system):
    generator = cut.CutGenerator(numpy, str(runs[system]))
    maps = generator.maps(7, seed=2)
    digits = [i % 10 for i in range(7)] if generator.sampler.takes_digits else None
    whole = generator.sampler.images(generator.sampler.draw_noise(7, seed=2), digits)
    np.testing.assert_allclose(generator.images(maps), whole, atol=1e-5)
    assert np.abs(generator.images(maps * 0) - whole).max() > 1e-3


def test_maps_of_horizontal_strokes_have_positive_weights():
    random = np.random.default_rng(0)
    images = np.concatenate([bar(angle) for angle in random.permutation([0, 90] * 20)])
    horizontal, other = attributes.horizontal_strokes(images)
    places = [p.reshape(40, 14, 2, 14, 2).mean(axis=(2, 4)) for p in (horizontal, other)]
    noise = random.uniform(0, 1, (40, 14, 14))
    maps = np.stack([*places, noise], axis=3).astype(np.float32)
    weights, told = drop.stroke_weights(maps, images, seed=0)
    assert weights[0] > 0 > weights[1] and abs(weights[2]) < weights[0] / 5
    assert told > 0.9
    with pytest.raises(PyganError, match="only 0 places to learn 3 weights from"):
        drop.stroke_weights(maps, images * 0, seed=0)


def test_what_is_left_is_counted_in_each_kind_of_stroke():
    before = np.concatenate([bar(0), bar(90)])
    horizontal, _ = attributes.horizontal_strokes(before)
    after = np.where(horizontal[..., None], 0, before)
    assert drop.left_over(before, before) == {"horizontal": 1, "other": 1}
    assert drop.left_over(before, after) == {"horizontal": 0, "other": 1}


def test_nearest_rows_are_those_of_all_distances():
    random = np.random.default_rng(0)
    images, judged = random.random((50, 9)), random.random((20, 9))
    distances = np.square(images[None] - judged[:, None]).sum(axis=2)
    np.testing.assert_array_equal(neighbours.nearest_rows(images, judged), distances.argmin(axis=1))


def test_neighbours_command(runs, data, tmp_path):
    options = ["--data", str(data), "--counts", "40,20,80"]
    found = ask("neighbours", runs["conditional"], tmp_path, *options)["errors"]
    assert list(found["drawn"]) == ["20", "40", "80"] and list(found["real"]) == ["20", "40"]
    assert found["real"]["40"]["value"] < 0.1 < found["drawn"]["80"]["value"]


@pytest.mark.parametrize(
    ("experiment", "system", "options", "message"),
    [
        ("features", "lesson", [], "'lesson-gan', where one of 'dcgan' is needed"),
        ("features", "dcgan", ["--images", "41"], "--images 41: there are only 40"),
        ("neighbours", "lesson", [], "cannot be asked for a digit"),
        ("arithmetic", "conditional", ["--classifier", "CLASSIFIER"], "told the digit"),
        ("walk", "classifier", [], "this command draws"),
    ],
)
def test_requests_that_cannot_be_met(
    runs, data, tmp_path, capsys, experiment, system, options, message
):
    options = [str(runs["classifier"]) if text == "CLASSIFIER" else text for text in options]
    if experiment in ("features", "neighbours"):
        options += ["--data", str(data)]
    asked = ["--checkpoint", str(runs[system]), "--out", str(tmp_path), *NUMPY, *options]
    assert command.main([experiment, *asked]) == 1
    error = capsys.readouterr().err
    assert error.startswith("pygan: error: ") and message in error
