"""Training of the lessons' auto-encoders, and their use afterwards: codes, images, errors.

Kingma and Welling, "Auto-encoding variational Bayes" (2014), in the form of the lessons: mean
squared error, and a weighted prior or penalty of the code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pygan import checkpoint, networks, pictures
from pygan.data import ImageSet, ResidentImages, load_train_and_test
from pygan.training.folder import RunFolder
from pygan.training.log import read_log
from pygan.training.sampling import interpolate, picture_state
from pygan.training.supervised import Supervised, SupervisedSettings, load_trained

IMAGE_SHAPE = (28, 28, 1)
BATCH = 500
ROWS, COLUMNS = 6, 10
WALK = (6, 0)
STEPS = 10


def input_shapes(kind: str, count: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs of a training graph of `networks.AUTOENCODERS`, without its labels'."""
    network = networks.AUTOENCODERS[kind]
    shapes: dict[str, tuple[int, ...]] = {"data": (count, *IMAGE_SHAPE)}
    if network.variational:
        shapes["encoder_noise"] = (count, network.code)
    return shapes


class AutoencoderTraining(Supervised):
    """One of `networks.AUTOENCODERS`, trained to give its input back."""

    kind: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self, device: Any, images: ImageSet, settings: SupervisedSettings, losses_kept: int = 20
    ) -> None:
        graph = networks.AUTOENCODERS[self.kind].training_graph()
        shapes = input_shapes(self.kind, settings.batch_size)
        parameters = {n for n in graph.list_arguments() if n.endswith(("_weight", "_bias"))}
        requests = {n: "null" for n in graph.list_arguments() if n not in parameters}
        executor = graph.bind(device, shapes, requests)
        data = ResidentImages(device, images, settings.batch_size, settings.seed)
        super().__init__(device, settings, executor, {"data": data}, losses_kept)

    def feed(self) -> None:
        inputs = self.executor.arg_dict
        self.data.next_batch(inputs["data"])
        inputs["label"][...] = inputs["data"]
        if "encoder_noise" in inputs:
            self.device.ops.random_normal(self.random_state, inputs["encoder_noise"])


class PlainAutoencoder(AutoencoderTraining):
    kind, network = "plain", "autoencoder-plain"
    title = "Plain auto-encoder, code of 2"


class PenalisedAutoencoder(AutoencoderTraining):
    kind, network = "penalised", "autoencoder-penalised"
    title = "Auto-encoder with a penalised code of 2"


class Vae2(AutoencoderTraining):
    kind, network = "vae2", "vae-2"
    title = "Variational auto-encoder, code of 2"


class Vae32(AutoencoderTraining):
    kind, network = "vae32", "vae-32"
    title = "Variational auto-encoder, code of 32"


class AnomalyVae(AutoencoderTraining):
    kind, network = "anomaly", "vae-anomaly"
    title = "Variational auto-encoder of normal digits, code of 8"


class Codec:
    """Encoder and decoder of an auto-encoder, for any number of images or codes.

    training: the executor that is being trained, whose parameters are read as they stand; without
    it, parameters are those that ``load`` reads.
    """

    def __init__(self, device: Any, kind: str, training: Any = None) -> None:
        self.kind = kind
        self.network = networks.AUTOENCODERS[kind]
        if training is None:
            graph = self.network.training_graph()
            training = graph.bind(device, input_shapes(kind, 1), "null")
        self.parameters = training
        data, code = {"data": (BATCH, *IMAGE_SHAPE)}, {"code": (BATCH, self.network.code)}
        shared = {"grad_req": "null", "shared": training}
        self.encoder = self.network.encoder_graph().bind(device, data, **shared)
        self.decoder = self.network.decoder_graph().bind(device, code, **shared)

    def load(self, folder: str | Path, network: str) -> dict[str, Any]:
        """Takes over the network of a run's newest checkpoint; its metadata.

        Raises CheckpointError for a damaged file and for another network.
        """
        return load_trained(self.parameters, folder, network)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Codes (N, code) of images (N, 28, 28, 1) uint8; where variational, their means."""
        return in_batches(
            images, lambda part: self.encoder.forward(data=part.astype(np.float32) / 255)[0]
        )

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Images (N, 28, 28, 1) float32 of codes (N, code)."""
        return in_batches(codes, lambda part: self.decoder.forward(code=part)[0])

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images (N, 28, 28, 1) float32 of the codes of images uint8."""
        return self.decode(self.encode(images))

    def errors(self, images: np.ndarray) -> np.ndarray:
        """Mean squared error (N,) of each image's reconstruction, pixels in 0..1."""
        difference = self.reconstruct(images) - images.astype(np.float32) / 255
        return np.square(difference).mean(axis=(1, 2, 3))

    def random_codes(self, count: int, seed: int, like: np.ndarray) -> np.ndarray:
        """Normal codes (count, code), the same for the same seed: standard where variational, as
        the prior is; else of the mean and the deviation of each coordinate of `like` (N, code)."""
        device = self.parameters.device
        state = picture_state(device, seed)
        codes = device.empty((count, self.network.code), np.float32)
        device.ops.random_normal(state, codes)
        if self.network.variational:
            return np.array(codes)
        return like.mean(axis=0) + like.std(axis=0) * np.array(codes)


def in_batches(values: np.ndarray, function: Callable[[np.ndarray], Any]) -> np.ndarray:
    """`function` over parts of BATCH, the last one filled up with zeros."""
    results = []
    for start in range(0, len(values), BATCH):
        part = values[start : start + BATCH]
        padded = np.zeros((BATCH, *values.shape[1:]), values.dtype)
        padded[: len(part)] = part
        results.append(np.array(function(padded))[: len(part)])
    return np.concatenate(results)


class AutoencoderReport:
    """Pictures of held-out digits above their reconstructions, and the error over all of them.

    At the end of a run: the codes by digit, a walk from a 6 to a 0, and decoded random codes.

    Held-out digits are no training digits: see `load_train_and_test`.
    """

    def __init__(self, model: AutoencoderTraining, where: str) -> None:
        self.model = model
        self.codec = Codec(model.device, model.kind, model.executor)
        _, self.held_out = load_train_and_test(where)
        self.shown = self.held_out.images[:COLUMNS]

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        picture = pictures.grid(self._pairs(), 2, COLUMNS, 2)
        pictures.save_picture(picture, folder.sample(batches_done))

    def measure(self) -> dict[str, float]:
        """The mean squared error over the held-out digits, of the codes' means."""
        return {"held_out_error": float(self.codec.errors(self.held_out.images).mean())}

    def page(self, folder: RunFolder, epoch: int) -> str:
        pictures.save_page(self._pairs(), folder.page(epoch), 2, COLUMNS)
        return str(folder.page(epoch))

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        save_loss_curves(folder, batches_per_epoch, self._title())

    def result(self, folder: RunFolder) -> str:
        """Writes codes.png, walk.png, random.png and result.json; says the error reached."""
        codes = self.codec.encode(self.held_out.images)
        plane, axes = in_the_plane(codes)
        title = f"{self._title()}: codes of {len(codes):,} held-out digits"
        pictures.save_scatter(plane, self.held_out.labels, axes, folder.path / "codes.png", title)

        walk = medoid_walk(codes, self.held_out.labels)
        if walk is not None:
            picture = pictures.grid(self._clipped(walk), 1, STEPS, 3)
            pictures.save_picture(picture, folder.path / "walk.png")
        seed = self.model.settings.seed
        drawn = self._clipped(self.codec.random_codes(ROWS * COLUMNS, seed, codes))
        picture = pictures.grid(drawn, ROWS, COLUMNS, 2)
        pictures.save_picture(picture, folder.path / "random.png")

        numbers = self.measure()
        entry = {
            "network": self.model.network,
            **numbers,
            "held_out_images": len(self.held_out),
            "held_out_source": self.held_out.source,
            "batches": self.model.batches_done,
            "device": self.model.device.name,
            "settings": self.model.settings.as_dict(),
        }
        checkpoint.write_json(folder.result, entry)
        error = numbers["held_out_error"]
        return f"mean squared error of held-out digits {error:.5f}; {folder.result}"

    def _title(self) -> str:
        settings = self.model.settings
        return f"{self.model.title}, batch {settings.batch_size}, seed {settings.seed}"

    def _clipped(self, codes: np.ndarray) -> np.ndarray:
        return np.clip(self.codec.decode(codes), 0, 1)

    def _pairs(self) -> np.ndarray:
        originals = self.shown.astype(np.float32) / 255
        return np.concatenate([originals, self.codec.reconstruct(self.shown)])


def medoid_walk(codes: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Codes (STEPS, code) on the straight line from a 6's code to a 0's; None without one of them.

    Of each digit the code is taken that lies nearest to the mean of its codes.
    """
    ends: list[np.ndarray] = []
    for digit in WALK:
        of_digit = codes[labels == digit]
        if not len(of_digit):
            return None
        distances = np.square(of_digit - of_digit.mean(axis=0)).sum(axis=1)
        ends.append(of_digit[np.argmin(distances)])
    first, last = ends
    return interpolate(first, last, STEPS, "linear")


def in_the_plane(codes: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Codes (N, code) as points (N, 2), and what the two axes are: the code itself where it has two
    dimensions, else its first two principal components."""
    if codes.shape[1] == 2:
        return codes, ("code 1", "code 2")
    centred = codes.astype(np.float64) - codes.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
    shares = np.linalg.eigvalsh(centred.T @ centred)[::-1] / np.square(centred).sum()
    first, second = (
        f"principal component {i + 1} ({shares[i]:.0%} of the variance)" for i in (0, 1)
    )
    return centred @ vectors[:, :-3:-1], (first, second)


def save_loss_curves(folder: RunFolder, batches_per_epoch: int, title: str) -> None:
    """The losses of a run's log against epochs, and the error of held-out images where it was
    measured."""
    entries = read_log(folder.log, "batch")
    series = {"loss": [entry["loss"] for entry in entries]}
    if any(entry["penalty"] for entry in entries):
        series["penalty of the code"] = [entry["penalty"] for entry in entries]
    batches = [entry["batch"] + 1 for entry in entries]
    ends = {entry["epoch"]: entry for entry in read_log(folder.log, "epoch")}
    held_out = {n: e["held_out_error"] for n, e in ends.items() if "held_out_error" in e}
    path = folder.losses
    pictures.save_series(batches, series, held_out, batches_per_epoch, path, title)
