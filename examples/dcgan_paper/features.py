"""How well a linear SVM tells images by the discriminator's features: trained, untrained, pixels.

Section 5.1 of the paper, which trained the network on ImageNet and the SVM on all 50,000 images of
CIFAR-10. Here the network is the checkpoint's, and both see the same images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from pygan import cli, pictures, quality
from pygan.data import ImageSet
from pygan.data.cifar10 import load_cifar10
from pygan.data.mnist import load_digits
from pygan.data.resize import resized
from pygan.errors import PyganError
from pygan.examples.dcgan_paper import Results, discriminator

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""C times the number of features: the loss allowed against the weights' squares."""
HELD_OUT = 5
"""One training image in five chooses C."""
Parts = tuple[Any, np.ndarray]
"""Features learned from, an array or a sparse matrix of scipy's, and features judged."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="auto", metavar="DIR", help="the folder of the data set")
    parser.add_argument(
        "--dataset", choices=("cifar10", "mnist"), default="cifar10", help="(%(default)s)"
    )
    parser.add_argument(
        "--images", type=cli.positive, metavar="N", help="training images of the SVM (all)"
    )
    parser.add_argument(
        "--untrained", type=cli.positive, default=3, metavar="N", help="untrained networks (3)"
    )


def run(device: Any, options: argparse.Namespace) -> Results:
    tensors, metadata = discriminator.load(options.checkpoint)
    settings = metadata["settings"]
    train, test = load(options.data, options.dataset, options.images)
    print(f"train: {train.describe()}\ntest: {test.describe()}", flush=True)
    larger = [
        resized(images, discriminator.SIDE, discriminator.CHANNELS) for images in (train, test)
    ]

    def of_network(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        network = discriminator.Features(device, settings["ndf"], arrays, options.checkpoint)
        return network(larger[0].images), network(larger[1].images)

    rows = {}
    found = of_network(tensors)
    rows["trained"] = [svm(*found, train.labels, test.labels, options.seed)]
    rows["untrained"] = []
    for seed in range(options.seed, options.seed + options.untrained):
        start = discriminator.untrained(device, settings, larger[0].images, seed)
        rows["untrained"].append(svm(*of_network(start), train.labels, test.labels, options.seed))
    raw = (train.images, test.images)
    learned, judged = (part.reshape(len(part), -1).astype(np.float32) for part in raw)
    rows["pixels"] = [svm(learned, judged, train.labels, test.labels, options.seed)]

    lines = [f"{'features of':12}{'numbers':>9}  test accuracy"]
    for name, parts in rows.items():
        shown = ", ".join(f"{part['accuracy']['value']:.2%}" for part in parts)
        lines.append(f"{name:12}{parts[0]['features']:9,}  {shown}")
    numbers = {
        "batches": metadata["batches_done"],
        "network_data": metadata["source"],
        "settings": settings,
        "data": train.source,
        "train_images": len(train),
        "test_images": len(test),
        "accuracies": rows,
    }
    return numbers, "\n".join(lines), lambda path: draw(rows, path)


def load(where: str, dataset: str, count: int | None) -> tuple[ImageSet, ImageSet]:
    """Training images, the first ``count``, and test images."""
    read = {"mnist": load_digits, "cifar10": load_cifar10}[dataset]
    train, test = read(where), read(where, "test")
    if count is not None:
        if count > len(train):
            raise PyganError(f"--images {count:,}: there are only {len(train):,}")
        source = f"the first {count:,} of {train.source}"
        train = ImageSet(train.images[:count], train.labels[:count], source)
    return train, test


def svm(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, test_labels: np.ndarray, seed: int
) -> dict[str, Any]:
    """Accuracy on test features (M, D) of a linear L2-SVM (squared hinge, one against the rest)
    that learned training features (N, D).

    Both are changed in place: to mean 0 and deviation 1 over the training images. C is the best of
    ``STRENGTHS`` / D on one training image in five, then all are learned.
    """
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[deviation == 0] = 1
    for rows in (train, test):
        rows -= mean
        rows /= deviation
    order = np.random.default_rng(seed).permutation(len(train))
    choosing, learning = order[::HELD_OUT], np.delete(order, np.s_[::HELD_OUT])
    width = train.shape[1]

    def accuracy(strength: float, pair: Parts, kept: np.ndarray, truth: np.ndarray) -> float:
        from sklearn.svm import LinearSVC

        learned, judged = pair
        # Of the dual problem, whose size is the number of images and not of features.
        machine = LinearSVC(C=strength / width, dual=True, random_state=0)
        machine.fit(learned, labels[kept])
        return float((machine.predict(judged) == truth).mean())

    parts = with_fewer_numbers(train[learning], train[choosing])
    tried = {s: accuracy(s, parts, learning, labels[choosing]) for s in STRENGTHS}
    best = max(tried, key=tried.__getitem__)
    reached = accuracy(best, with_fewer_numbers(train[order], test), order, test_labels)
    hits = round(reached * len(test))
    print(f"{width:,} features: C {best / width:.2g}, {reached:.2%}", flush=True)
    return {
        "features": width,
        "c": best / width,
        "choosing": {str(s / width): share for s, share in tried.items()},
        "accuracy": vars(quality.proportion(hits, len(test))),
    }


def with_fewer_numbers(learned: np.ndarray, judged: np.ndarray) -> Parts:
    """Features (N, D) and (M, D) turned so that N of an image's D numbers hold all that those of
    ``learned`` have; as they are where N is not fewer.

    A linear machine with a penalty on the weights' squares sees only products of features, which
    the turn keeps. Its N axes are taken one image after the other (the Cholesky factor of their
    products), so that half of the numbers learned from are 0, which scikit-learn's machine leaves
    out.
    """
    from scipy.linalg import solve_triangular
    from scipy.sparse import csr_matrix

    if len(learned) >= learned.shape[1]:
        return learned, judged
    learned = learned.astype(np.float64)
    products = learned @ learned.T
    # Rows of mean 0 depend on each other; a billionth of their squares makes up for rounding.
    products[np.diag_indices_from(products)] += 1e-9 * np.trace(products) / len(products)
    factor = np.linalg.cholesky(products)
    turned = solve_triangular(factor, learned @ judged.T, lower=True).T
    return csr_matrix(factor), turned


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """A bar for each kind of features, at the mean of its networks, with the 95 % interval of the
    first; a dot for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for place, parts in enumerate(rows.values()):
        values = np.array([part["accuracy"]["value"] for part in parts])
        first = parts[0]["accuracy"]
        reach = np.maximum([[values[0] - first["low"]], [first["high"] - values[0]]], 0)
        axes.barh(place, 100 * values.mean(), color=pictures.COLOURS[place], alpha=0.6)
        axes.errorbar(100 * values[0], place, xerr=100 * reach, color="0.2", capsize=3)
        axes.plot(100 * values, [place] * len(values), "o", color="0.2", ms=4)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy of a linear SVM (%)")
    axes.grid(alpha=0.3, axis="x")
    pictures.save_figure(figure, path)
