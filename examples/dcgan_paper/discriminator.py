"""DCGAN's discriminator in use: all its layers' features at once, or layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pygan import checkpoint, initializer, networks
from pygan import symbol as sym
from pygan.errors import CheckpointError
from pygan.training.gan import load_network, network_shapes
from pygan.training.sampling import DCGAN, checkpoint_file

LAYERS = (1, 2, 3, 4)
SIDE, CHANNELS = 64, 3
GRID = 4
"""Each layer's maps are pooled to 4x4 places."""
BATCH = 100
SETTLING_BATCHES = 30


def feature_graph(ndf: int) -> sym.Symbol:
    """data (N, 64, 64, 3) -> (N, 240 ndf): the maps of every layer, (N, 32, 32, ndf) to
    (N, 4, 4, 8 ndf), max-pooled to 4x4, flattened and concatenated."""
    inner = networks.dcgan_discriminator(ndf).internals()
    parts = []
    for layer in LAYERS:
        x = inner[f"dact{layer}_output"]
        window = (SIDE >> layer) // GRID
        if window > 1:
            x = sym.Pooling(x, kernel=window, stride=window, kind="max", name=f"pool{layer}")
        parts.append(sym.Flatten(x, name=f"flat{layer}"))
    return sym.Concat(*parts, name="features")


def layer_graphs(ndf: int) -> list[sym.Symbol]:
    """Each of the four layers alone, data -> its maps, by the moving statistics."""
    graphs = []
    for layer, multiple in zip(LAYERS, (1, 2, 4, 8), strict=True):
        x = sym.Convolution(
            sym.Variable("data"),
            num_filter=multiple * ndf,
            kernel=4,
            stride=2,
            pad=1,
            no_bias=True,
            name=f"d{layer}",
        )
        if layer > 1:
            x = sym.BatchNorm(x, eps=networks.DCGAN_EPS, use_global_stats=True, name=f"dbn{layer}")
        graphs.append(sym.LeakyReLU(x, slope=0.2, name=f"dact{layer}"))
    return graphs


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of a checkpoint of ``pygan train dcgan``.

    Raises CheckpointError for a damaged file and for another network."""
    path = checkpoint_file(path)
    tensors, metadata = checkpoint.load(path)
    if metadata.get("network") != DCGAN:
        raise CheckpointError(
            f"{path}: a checkpoint of the network {metadata.get('network')!r}, where one of "
            f"{DCGAN!r} is needed; 'pygan train dcgan' makes one"
        )
    return tensors, metadata


def fill(executor: Any, tensors: dict[str, np.ndarray], path: str | Path) -> None:
    """Fills an executor of a graph above, or of part of one, from a checkpoint's arrays."""
    expected = network_shapes(executor, "discriminator")
    used = {name: tensors[name] for name in expected if name in tensors}
    checkpoint.require_shapes(Path(path), used, expected)
    load_network(executor, used, "discriminator")


def untrained(
    device: Any, settings: dict[str, Any], images: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Arrays, named as in a checkpoint, of the network as training with that seed begins.

    Its moving statistics have seen images (M, 64, 64, 3) uint8, so that its activations have the
    scale of a trained network's."""
    network = networks.dcgan_discriminator(settings["ndf"])
    shapes = {"data": (BATCH, SIDE, SIDE, CHANNELS), "label": (BATCH, 1)}
    executor = network.bind(device, shapes, {"data": "null", "label": "null"})
    random = np.random.default_rng(seed)
    initializer.Normal(settings["sigma"])(executor, random)
    for _ in range(SETTLING_BATCHES):
        chosen = random.integers(0, len(images), BATCH)
        executor.forward(is_train=True, data=pixels(images[chosen]), label=1.0)
        executor.backward(wanted=["d5_weight"])  # moves the statistics; nothing is updated
    tensors = {
        f"discriminator/{name}": executor.arg_dict[name] for name in executor.parameter_names
    }
    tensors |= {f"discriminator_auxiliary/{name}": a for name, a in executor.aux_dict.items()}
    return {name: np.array(array) for name, array in tensors.items()}


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 images as the network takes them, float32 in -1..1."""
    return images.astype(np.float32) / np.float32(127.5) - 1


class Features:
    """The features of images, by the moving statistics, ``BATCH`` images at a time."""

    def __init__(
        self, device: Any, ndf: int, tensors: dict[str, np.ndarray], path: str = ""
    ) -> None:
        shape = (BATCH, SIDE, SIDE, CHANNELS)
        self.executor = feature_graph(ndf).bind(device, {"data": shape}, "null")
        fill(self.executor, tensors, path)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(M, 240 ndf) float32 of images (M, 64, 64, 3) uint8."""
        result = np.empty((len(images), self.executor.outputs[0].shape[1]), np.float32)
        batch = np.zeros((BATCH, SIDE, SIDE, CHANNELS), np.float32)
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            batch[: len(part)] = pixels(part)
            made = self.executor.forward(is_train=False, data=batch)[0]
            result[start : start + BATCH] = np.array(made)[: len(part)]
        return result
