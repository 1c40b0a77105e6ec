"""Images from a generator: from noise of a seed, and along walks through the latent space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pygan import checkpoint
from pygan.errors import CheckpointError, PyganError
from pygan.training.gan import (
    NETWORK,
    NOISE_SIZE,
    bind_generator,
    copy_network,
    load_network,
    network_shapes,
)

CHECKPOINT_NAME = "checkpoint.safetensors"
# Far beyond what training draws from the same seed, so that pictures never repeat its noise.
PICTURE_COUNTER = 1 << 60
BATCH = 64


def draw_noise(device, count: int, seed: int) -> np.ndarray:
    """Standard normal noise (count, 1, 1, 10) float32 on the host, the same for the same seed."""
    state = device.from_numpy(np.array([seed, PICTURE_COUNTER], np.uint64))
    noise = device.empty((count, 1, 1, NOISE_SIZE), np.float32)
    device.ops.random_normal(state, noise)
    return np.array(noise)


class Sampler:
    """A generator for pictures: ``count`` images at a time, by the moving statistics."""

    def __init__(self, device, count: int) -> None:
        self.executor = bind_generator(device, count)
        self.count = count

    def copy_from(self, generator) -> None:
        """Takes over parameters and moving statistics of a generator being trained."""
        copy_network(generator, self.executor)

    def load(self, path: str | Path) -> dict:
        """Takes over the generator of a checkpoint (a file, or a run's folder); its metadata.

        Raises CheckpointError for a damaged file and for another network.
        """
        path = Path(path)
        if path.is_dir():
            path = path / CHECKPOINT_NAME
        tensors, metadata = checkpoint.load(path)
        if metadata.get("network") != NETWORK:
            raise CheckpointError(
                f"{path}: a checkpoint of the network {metadata.get('network')!r}, "
                f"this command draws {NETWORK!r}"
            )
        checkpoint.require_shapes(path, tensors, network_shapes(self.executor, "generator"))
        load_network(self.executor, tensors, "generator")
        return metadata

    def images(self, noise: np.ndarray) -> np.ndarray:
        """Images (N, 28, 28, 1) float32 in 0..1 for noise (N, 1, 1, 10), any N."""
        parts = []
        for start in range(0, len(noise), self.count):
            part = noise[start : start + self.count]
            padded = np.zeros((self.count, *noise.shape[1:]), np.float32)
            padded[: len(part)] = part
            self.executor.forward(is_train=False, noise=padded)
            parts.append(np.array(self.executor.outputs[0])[: len(part)])
        return np.concatenate(parts)


def interpolate(first: np.ndarray, last: np.ndarray, steps: int, mode: str) -> np.ndarray:
    """Noise (steps, ...) from ``first`` to ``last``, both included and of any one shape.

    linear: along the straight line. spherical: along the great circle, the length going evenly from
    one's to the other's (K. Shoemake, "Animating rotation with quaternion curves", 1985): random
    noise of n numbers lies near the sphere of radius sqrt(n), and the straight line leaves it.
    Raises PyganError for fewer than two steps and an unknown mode.
    """
    if steps < 2:
        raise PyganError(f"a walk needs at least 2 steps, not {steps}")
    along = np.linspace(0.0, 1.0, steps).reshape(-1, *[1] * first.ndim)
    a, b = first.astype(np.float64), last.astype(np.float64)
    if mode == "linear":
        walk = (1 - along) * a + along * b
    elif mode == "spherical":
        length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
        angle = np.arccos(np.clip(np.vdot(a, b) / (length_a * length_b), -1.0, 1.0))
        if np.sin(angle) < 1e-6:  # the same direction, or opposite ones: no circle is singled out
            return interpolate(first, last, steps, "linear")
        direction = np.sin((1 - along) * angle) * (a / length_a)
        direction = (direction + np.sin(along * angle) * (b / length_b)) / np.sin(angle)
        walk = direction * ((1 - along) * length_a + along * length_b)
    else:
        raise PyganError(f"unknown kind of walk {mode!r}; choose linear or spherical")
    return walk.astype(np.float32)
