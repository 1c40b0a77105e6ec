"""What makes the discriminator's features large: guided back-propagation to the image.

Section 6.2 of the paper (its figure 5), after J. T. Springenberg et al., "Striving for simplicity:
the all convolutional net" (2014). A feature's gradient goes back through the layers; on the way,
what is negative, and what meets a unit that is negative, is set to 0. What is left shows the pixels
that raise the feature.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from pygan import cli, pictures
from pygan.data.resize import resized
from pygan.examples.dcgan_paper import Results, discriminator
from pygan.examples.dcgan_paper.features import load

FEATURES = 6
IMAGES = 6
"""Features shown, and images of each."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="auto", metavar="DIR", help="the folder of the data set")
    parser.add_argument(
        "--dataset", choices=("cifar10", "mnist"), default="cifar10", help="(%(default)s)"
    )
    parser.add_argument(
        "--images", type=cli.positive, default=1000, metavar="N", help="searched (%(default)s)"
    )


class Layers:
    """The four layers, each an executor whose backward pass is called by hand."""

    def __init__(self, device: Any, ndf: int, tensors: dict[str, np.ndarray], count: int) -> None:
        self.executors = []
        side, channels = discriminator.SIDE, discriminator.CHANNELS
        for graph in discriminator.layer_graphs(ndf):
            requests = dict.fromkeys(graph.list_arguments(), "null") | {"data": "write"}
            shape = (count, side, side, channels)
            executor = graph.bind(device, {"data": shape}, requests)
            discriminator.fill(executor, tensors, "")
            self.executors.append(executor)
            _, side, _, channels = executor.outputs[0].shape

    def forward(self, images: np.ndarray) -> list[np.ndarray]:
        """The maps of each layer for images (count, 64, 64, 3) in -1..1."""
        maps, x = [], images
        for executor in self.executors:
            x = np.array(executor.forward(is_train=True, data=x)[0])
            maps.append(x)
        return maps

    def guided_gradient(self, maps: list[np.ndarray], feature: int) -> np.ndarray:
        """(count, 64, 64, 3): what raises the last layer's ``feature`` where it is largest in each
        image; maps are what ``forward`` gave last."""
        gradient = np.zeros_like(maps[-1])
        flat = gradient.reshape(len(gradient), -1, gradient.shape[-1])
        places = maps[-1].reshape(flat.shape)[..., feature].argmax(axis=1)
        flat[np.arange(len(flat)), places, feature] = 1
        for executor, made in zip(reversed(self.executors), reversed(maps), strict=True):
            # Only what raises the feature, through units that are on.
            gradient = np.where((gradient > 0) & (made > 0), gradient, np.float32(0))
            executor.backward(out_grads=gradient)
            gradient = np.array(executor.grad_dict["data"])
        return gradient


def run(device: Any, options: argparse.Namespace) -> Results:
    tensors, metadata = discriminator.load(options.checkpoint)
    settings = metadata["settings"]
    images, _ = load(options.data, options.dataset, options.images)
    images = resized(images, discriminator.SIDE, discriminator.CHANNELS)
    start = discriminator.untrained(device, settings, images.images, options.seed)
    networks = {"trained": tensors, "untrained": start}
    parts = {
        name: explain(device, settings["ndf"], t, images.images) for name, t in networks.items()
    }
    numbers = {
        "batches": metadata["batches_done"],
        "settings": settings,
        "data": images.source,
        "images": len(images),
        "gradient_on_edges": {name: part["on_edges"] for name, part in parts.items()},
    }
    shown = ", ".join(f"{name} {part['on_edges']:.3f}" for name, part in parts.items())
    text = f"correlation of the gradient's size with the image's edges: {shown}"
    return numbers, text, lambda path: draw(parts, path)


def explain(
    device: Any, ndf: int, tensors: dict[str, np.ndarray], images: np.ndarray
) -> dict[str, Any]:
    """The images (F, I, 64, 64, 3), 0..1, in which each of the last layer's first F features is
    largest, their guided gradients, and how well these follow the images' edges."""
    features = discriminator.Features(device, ndf, tensors)(images)
    last = features[:, -16 * 8 * ndf :].reshape(len(images), 16, 8 * ndf).max(axis=1)
    count = min(FEATURES, 8 * ndf)
    strongest = np.argsort(-last[:, :count], axis=0)[:IMAGES].T  # (F, I)
    layers = Layers(device, ndf, tensors, strongest.shape[1])
    gradients = []
    for feature, rows in enumerate(strongest):
        maps = layers.forward(discriminator.pixels(images[rows]))
        gradients.append(layers.guided_gradient(maps, feature))
    chosen = images[strongest] / np.float32(255)
    pairs = zip(chosen.reshape(-1, 64, 64, 3), np.concatenate(gradients), strict=True)
    correlations = [follows_edges(image, gradient) for image, gradient in pairs]
    return {
        "images": chosen,
        "gradients": np.stack(gradients),
        "on_edges": float(np.nanmean(correlations)),
    }


def follows_edges(image: np.ndarray, gradient: np.ndarray) -> float:
    """The correlation, over the pixels that the gradient reaches, of its size with how much the
    image (64, 64, 3) changes there; no number where either is even."""
    change = np.hypot(*np.gradient(image.mean(axis=2)))
    size = np.abs(gradient).sum(axis=2)
    reached = size > 0
    if reached.sum() < 2 or np.ptp(change[reached]) == 0 or np.ptp(size[reached]) == 0:
        return float("nan")
    return float(np.corrcoef(change[reached], size[reached])[0, 1])


def draw(parts: dict[str, dict[str, Any]], path: Path) -> None:
    """For each network a feature's images in a row, and their gradients below; grey is none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(parts), 11.5), layout="constrained")
    for axes, (name, part) in zip(figure.subplots(1, len(parts)), parts.items(), strict=True):
        rows = []
        for images, gradients in zip(part["images"], part["gradients"], strict=True):
            largest = np.abs(gradients).max(axis=(1, 2, 3), keepdims=True)
            rows += [images, 0.5 + 0.5 * gradients / np.maximum(largest, np.finfo("f4").tiny)]
        grid = pictures.grid(np.concatenate(rows), len(rows), rows[0].shape[0])
        axes.imshow(np.asarray(grid), interpolation="none")
        axes.set_title(f"{name}: six features of the last layer")
        axes.axis("off")
    pictures.save_figure(figure, path)
