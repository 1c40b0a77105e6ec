"""Test digits told by their nearest neighbour among drawn digits, or among real ones.

The paper's table of MNIST: a conditional generator draws a training set, each image labelled with
the digit asked for, and the nearest neighbour (Euclidean, pixels) in it names a test digit. How
often that is wrong tells whether the draws are right and cover what digits look like.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from pygan import cli, pictures, quality
from pygan.data import load_train_and_test
from pygan.errors import PyganError
from pygan.examples.dcgan_paper import Results
from pygan.training.sampling import BATCH, open_sampler, origin

CHUNK = 1000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="auto", metavar="DIR", help="the real digits")
    parser.add_argument(
        "--counts",
        type=lambda text: sorted(cli.positive(part) for part in text.split(",")),
        default="1000,10000,60000",
        metavar="LIST",
        help="sizes of the training sets (%(default)s)",
    )


def run(device: Any, options: argparse.Namespace) -> Results:
    sampler, metadata = open_sampler(device, options.checkpoint, BATCH)
    if not sampler.takes_digits:
        raise PyganError(
            f"{options.checkpoint}: this generator cannot be asked for a digit, so its images have "
            "no label; name a run of 'pygan train conditional'"
        )
    counts = options.counts
    train, test = load_train_and_test(options.data)
    print(f"train: {train.describe()}\ntest: {test.describe()}", flush=True)
    judged = flat(test.images / np.float32(255))
    order = np.random.default_rng(options.seed).permutation(len(train))
    asked = np.arange(counts[-1]) % 10
    drawn = flat(sampler.images(sampler.draw_noise(counts[-1], options.seed), asked))
    real = flat(train.images[order] / np.float32(255))
    sets = {"drawn": (drawn, asked), "real": (real, train.labels[order])}
    errors: dict[str, dict[str, Any]] = {}
    mistakes = {}  # of the largest set
    for name, (images, labels) in sets.items():
        errors[name] = {}
        for count in (c for c in counts if c <= len(images)):
            nearest = nearest_rows(images[:count], judged)
            wrong = labels[nearest] != test.labels
            errors[name][str(count)] = vars(quality.proportion(int(wrong.sum()), len(wrong)))
            mistakes[name] = (nearest, wrong)
            print(
                f"{name:6} {count:7,} images: {wrong.mean():.2%} of test digits wrong", flush=True
            )
    numbers = {
        **origin(metadata),
        "data": test.source,
        "test_images": len(test),
        "errors": errors,
    }
    shape = (-1, *sampler.image_shape)
    pair = judged.reshape(shape), drawn.reshape(shape)
    return numbers, table(errors), lambda path: draw(errors, *pair, *mistakes["drawn"], path)


def flat(images: np.ndarray) -> np.ndarray:
    """(N, pixels)"""
    return np.ascontiguousarray(images.reshape(len(images), -1))


def nearest_rows(images: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """The row of the nearest of images (N, P) for each of judged (M, P)."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(images)
    parts = [judged[start : start + CHUNK] for start in range(0, len(judged), CHUNK)]
    return np.concatenate([search.kneighbors(part, return_distance=False)[:, 0] for part in parts])


def table(errors: dict[str, Any]) -> str:
    lines = []
    for name, by_count in errors.items():
        for count, e in by_count.items():
            interval = f"{100 * e['low']:.2f}-{100 * e['high']:.2f}"
            lines.append(f"{int(count):>9,} {name:6} digits: {e['value']:.2%} wrong ({interval})")
    return "\n".join(lines)


def draw(
    errors: dict[str, Any],
    judged: np.ndarray,
    drawn: np.ndarray,
    nearest: np.ndarray,
    wrong: np.ndarray,
    path: Path,
) -> None:
    """The error by the size of the set; and test digits above their nearest drawn ones: the first
    ten that are told right, the first ten that are not."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(2, 1))
    for colour, (name, by_count) in zip(pictures.COLOURS, errors.items(), strict=False):
        values = [100 * e["value"] for e in by_count.values()]
        upper.plot([int(c) for c in by_count], values, "o-", color=colour, label=f"{name} digits")
    upper.set(xscale="log", xlabel="images to be near to", ylabel="test digits wrong (%)")
    upper.grid(alpha=0.3)
    upper.legend(frameon=False)
    chosen = np.concatenate([np.flatnonzero(rows)[:10] for rows in (~wrong, wrong)])
    grid = pictures.grid(
        np.concatenate([judged[chosen], drawn[nearest[chosen]]]), 2, len(chosen), 2
    )
    lower.imshow(np.asarray(grid), cmap="gray", vmin=0, vmax=255)
    lower.set_title("test digits above the nearest drawn ones: ten right, ten wrong", fontsize=9)
    lower.axis("off")
    pictures.save_figure(figure, path)
