"""Images from a generator: from noise of a seed, and along walks through the latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygan import checkpoint, networks
from pygan.errors import CheckpointError, PyganError
from pygan.training import conditional, gan
from pygan.training.folder import AVERAGED, CHECKPOINT
from pygan.training.gan import NOISE_SIZE, copy_network, load_network, network_shapes

if TYPE_CHECKING:
    from pygan.device import Device
    from pygan.executor import Executor

# Far beyond what training draws from the same seed.
PICTURE_COUNTER = 1 << 60
BATCH = 64
DCGAN, FULLY_CONNECTED = "dcgan", "fully-connected-gan"
DCGAN_CHANNELS = 3


@dataclass(frozen=True)
class Generator:
    """How a trained generator is bound for pictures, and what it draws.

    bind(device, count, settings): its executor, for the settings of the run (their defaults where
    one is missing). noise: the name of its noise. black: what the darkest pixel is, -1 or 0.
    dataset: what it draws, "mnist" or "cifar10", unless the settings of the run say so.
    """

    bind: Callable[[Device, int, Mapping[str, Any]], Executor]
    noise: str = "noise"
    black: float = 0.0
    dataset: str = "mnist"


def _bind_dcgan(device: Device, count: int, settings: Mapping[str, Any]) -> Executor:
    """rand (count, 1, 1, Z) -> images (count, 64, 64, 3), -1..1."""
    shape = (count, 1, 1, settings.get("noise_size", 100))
    network = networks.dcgan_generator(settings.get("ngf", 64), DCGAN_CHANNELS)
    return network.bind(device, {"rand": shape}, "null")


def _bind_fully_connected(device: Device, count: int, settings: Mapping[str, Any]) -> Executor:
    """noise (count, Z) -> images (count, 28, 28, 1), -1..1."""
    shape = (count, settings.get("noise_size", 100))
    return networks.fully_connected_generator().bind(device, {"noise": shape}, "null")


GENERATORS = {
    gan.NETWORK: Generator(lambda device, count, _: gan.bind_generator(device, count)),
    conditional.NETWORK: Generator(
        lambda device, count, _: conditional.bind_conditional_generator(device, count)
    ),
    DCGAN: Generator(_bind_dcgan, noise="rand", black=-1.0),
    FULLY_CONNECTED: Generator(_bind_fully_connected, black=-1.0),
}
"""The generators that pictures are drawn with, by their networks' names in checkpoints."""
SCRIPTS = {"cifar10-gan": "cifar10_gan", "lesson-study": "study_gan"}
"""Networks that a script of ``pygan.examples`` has written out; imported, it adds its generator to
``GENERATORS``."""


def known_networks() -> list[str]:
    """The names that `find_generator` knows."""
    return sorted(GENERATORS.keys() | SCRIPTS)


def find_generator(network: str) -> Generator:
    """The generator of that name in checkpoints: of ``GENERATORS``, or of ``SCRIPTS``."""
    if network not in GENERATORS:
        import_module(f"pygan.examples.{SCRIPTS[network]}")
    return GENERATORS[network]


def picture_state(device: Device, seed: int, further: int = 0) -> Any:
    """The state, on the device, of random numbers for pictures and for what is measured on images:
    none that training drew from the same seed. further: so many numbers on."""
    return device.from_numpy(np.array([seed, PICTURE_COUNTER + further], np.uint64))


def draw_noise(
    device: Device, count: int, seed: int, shape: tuple[int, ...] = (1, 1, NOISE_SIZE)
) -> np.ndarray:
    """Standard normal noise (count, *shape) float32 on the host, the same for the same seed."""
    state = picture_state(device, seed)
    noise = device.empty((count, *shape), np.float32)
    device.ops.random_normal(state, noise)
    return np.array(noise)


class Sampler:
    """A generator for pictures: ``count`` images at a time, by the moving statistics.

    network: as for `find_generator`. settings: those of its run, where they tell its size.
    ``noise_shape`` is that of one image's noise, ``image_shape`` that of one image;
    ``takes_digits`` says whether it draws the digits asked for.
    """

    def __init__(
        self,
        device: Device,
        count: int,
        network: str = gan.NETWORK,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.device = device
        self.network = network
        self.generator = find_generator(network)
        self.executor = self.generator.bind(device, count, settings or {})
        self.count = count
        self.noise_shape = tuple(self.executor.arg_dict[self.generator.noise].shape[1:])
        self.image_shape = tuple(self.executor.outputs[0].shape[1:])
        self.takes_digits = "digit" in self.executor.arg_dict

    def draw_noise(self, count: int, seed: int) -> np.ndarray:
        """`draw_noise` of this generator's shape."""
        return draw_noise(self.device, count, seed, self.noise_shape)

    def copy_from(self, generator: Executor) -> None:
        """Takes over parameters and moving statistics of a generator being trained."""
        copy_network(generator, self.executor)

    def load(self, path: str | Path) -> dict[str, Any]:
        """Takes over the generator of a checkpoint (`generator_file`); its metadata.

        Raises CheckpointError for a damaged file and for another network.
        """
        path = generator_file(path)
        tensors, metadata = checkpoint.load(path)
        _require_network(path, metadata, [self.network])
        self.load_tensors(path, tensors)
        return metadata

    def load_tensors(self, path: Path, tensors: dict[str, np.ndarray]) -> None:
        """Takes over the generator among a checkpoint's tensors; ``path`` is for error messages."""
        checkpoint.require_shapes(path, tensors, network_shapes(self.executor, "generator"))
        load_network(self.executor, tensors, "generator")

    def images(
        self, noise: np.ndarray, digits: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """Images (N, *image_shape) float32 in 0..1 for noise (N, *noise_shape), any N.

        digits: N numbers 0 to 9, for a generator that takes digits and no other. Raises PyganError
        where they are missing, too many, or of no use.
        """
        name, black = self.generator.noise, self.generator.black
        inputs = {name: noise}
        if self.takes_digits:
            inputs["digit"] = _one_hot(digits, len(noise))
        elif digits is not None:
            raise PyganError(
                f"{self.network} draws whatever digit comes; only a generator trained by "
                "'pygan train conditional' draws the digits asked for"
            )
        parts = []
        for start in range(0, len(noise), self.count):
            part = {key: array[start : start + self.count] for key, array in inputs.items()}
            size = len(part[name])
            padded = {
                key: np.concatenate([array, np.zeros((self.count - size, *array.shape[1:]), "f4")])
                for key, array in part.items()
            }
            self.executor.forward(is_train=False, **padded)
            parts.append(np.array(self.executor.outputs[0])[:size])
        images = np.concatenate(parts)
        # Some generators go beyond black and white.
        return np.clip((images - black) / (1 - black) if black else images, 0, 1)


def open_sampler(device: Device, path: str | Path, count: int) -> tuple[Sampler, dict[str, Any]]:
    """The sampler that a checkpoint's own network needs (`generator_file`), loaded, and the
    checkpoint's metadata.

    Raises CheckpointError for a damaged file and for a network that draws no images.
    """
    path = generator_file(path)
    tensors, metadata = checkpoint.load(path)
    _require_network(path, metadata, known_networks())
    sampler = Sampler(device, count, metadata["network"], metadata["settings"])
    sampler.load_tensors(path, tensors)
    return sampler, metadata


def checkpoint_file(path: str | Path) -> Path:
    """A checkpoint's file, where ``path`` is that file or a run's folder."""
    path = Path(path)
    return path / CHECKPOINT if path.is_dir() else path


def generator_file(path: str | Path) -> Path:
    """A generator's file, where ``path`` is that file or a run's folder. Of a folder, the mean of
    its generators where there is one that ends with the run's last whole epoch, else the newest
    state: the mean draws better than any of them (`pygan.training.averaging`)."""
    newest = checkpoint_file(path)
    mean = Path(path) / AVERAGED
    if newest == Path(path) or not mean.exists():
        return newest
    state = checkpoint.load(newest)[1]
    per_epoch = state["batches_per_epoch"]
    whole_epochs = state["batches_done"] // per_epoch * per_epoch
    return mean if checkpoint.load(mean)[1]["batches_done"] == whole_epochs else newest


def origin(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Which generator a checkpoint holds, for results: network, batches trained for and, of a mean,
    the batches of each."""
    found = {"network": metadata["network"], "batches": metadata["batches_done"]}
    return found | ({"averaged": metadata["averaged"]} if "averaged" in metadata else {})


def described(metadata: Mapping[str, Any]) -> str:
    """The same, or an `origin`, to be said: "a generator trained for 1,000 batches"."""
    batches = metadata.get("averaged")
    if batches is None:
        done = metadata["batches_done"] if "batches_done" in metadata else metadata["batches"]
        return f"a generator trained for {done:,} batches"
    return f"the mean of {len(batches)} generators, after {batches[0]:,} to {batches[-1]:,} batches"


def _require_network(path: Path, metadata: Mapping[str, Any], known: list[str]) -> None:
    if metadata.get("network") not in known:
        raise CheckpointError(
            f"{path}: a checkpoint of the network {metadata.get('network')!r}, "
            f"this command draws {', '.join(map(repr, known))}"
        )


def _one_hot(digits: Sequence[int] | np.ndarray | None, count: int) -> np.ndarray:
    """(count, 1, 1, 10) float32"""
    if digits is None or len(digits) != count:
        given = "none" if digits is None else len(digits)
        raise PyganError(f"this generator draws digits asked for: {count} needed, {given} given")
    asked = np.asarray(digits, int)
    if asked.min() < 0 or asked.max() >= conditional.CLASSES:
        raise PyganError(f"digits are 0 to 9, not {asked.min()} to {asked.max()}")
    return np.eye(conditional.CLASSES, dtype=np.float32)[asked].reshape(count, 1, 1, -1)


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
