"""Adversarial training: what such systems share, and the lesson's step, pass by pass.

Goodfellow et al., "Generative adversarial nets" (2014), in the form of the lesson: two executors,
three passes through the discriminator a step, two Adam optimizers. The generator is trained by the
gradient that the discriminator hands back to its input image, with the label "real": it maximises
log D(G(z)) (the paper's section 3) rather than minimising log(1 - D(G(z))).

Everything a step touches is on the device, random numbers and losses included; nothing is copied
from or to the host until ``read_losses``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pygan import initializer, networks, optimizer, symbol
from pygan.data import ImageSet, ResidentImages
from pygan.errors import StateError
from pygan.flags import flag
from pygan.training.recording import Recording
from pygan.working_memory import WorkingMemory

if TYPE_CHECKING:
    from pygan.device import Device
    from pygan.executor import Executor

NOISE_SIZE = 10
IMAGE_SHAPE = (28, 28, 1)
NETWORK = "lesson-gan"


@dataclass(frozen=True)
class GanSettings:
    """What the lesson fixes, with its own values as defaults."""

    batch_size: int = 32
    seed: int = 0
    learning_rate: float = 2e-4
    beta1: float = 0.5
    initial_range: float = 0.01

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Losses:
    """One batch, numbered from 0 over the whole run.

    d_fake, d_real: the discriminator's two losses; g: the generator's (nats per image). score_real,
    score_fake: the mean of D(x) over real images and of D(G(z)) over generated ones, 0..1.
    """

    batch: int
    d_fake: float
    d_real: float
    g: float
    score_real: float
    score_fake: float

    def text(self) -> str:
        return (
            f"D loss {(self.d_fake + self.d_real) / 2:.3f}  G loss {self.g:.3f}  "
            f"D(x) {self.score_real:.3f}  D(G(z)) {self.score_fake:.3f}"
        )


def bind_generator(device: Device, count: int, training: bool = False, **options: Any) -> Executor:
    """An executor of the generator: noise (count, 1, 1, 10) -> images (count, 28, 28, 1), 0..1.
    options: of the Executor."""
    training = flag(training, "training")
    return symbol.bind(
        networks.lesson_generator(),
        device,
        shapes={"noise": (count, 1, 1, NOISE_SIZE)},
        grad_req={"noise": "null"} if training else "null",
        branches=training,
        **options,
    )


def bind_discriminator(device: Device, count: int, **options: Any) -> Executor:
    """An executor of the discriminator and its loss: img (count, 28, 28, 1), label (count, 1, 1, 1)
    -> loss (1,), the mean over the batch, and the score of each image. options: of the Executor."""
    return symbol.bind(
        networks.lesson_discriminator(),
        device,
        shapes={"img": (count, *IMAGE_SHAPE), "label": (count, 1, 1, 1)},
        grad_req={"label": "null"},
        branches=True,
        **options,
    )


class Gan:
    """Both networks, their optimizers, the data and the random state: all that a step reads.

    A system of its own binds its networks in ``bind`` and trains them in ``train_batch``, which
    keeps losses and scores (``_keep``, or ``_keep_all``).
    """

    network: ClassVar[str]
    """The name in checkpoints."""
    title: ClassVar[str]
    pixel_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """What black and white are to the networks."""
    settings: Any
    """`GanSettings`, or what a system has in its place, with ``batch_size`` and ``seed``."""

    def __init__(
        self, device: Device, images: ImageSet, settings: Any, losses_kept: int = 20
    ) -> None:
        self.device = device
        self.settings = settings
        batch_size = settings.batch_size
        self.data = ResidentImages(device, images, batch_size, settings.seed, self.pixel_range)

        self.generator, self.discriminator = self.bind(device, batch_size)
        host_random = np.random.default_rng(settings.seed)
        initial = self.initial()
        initial(self.generator, host_random)
        initial(self.discriminator, host_random)
        self.generator_optimizer = self.make_optimizer(self.generator)
        self.discriminator_optimizer = self.make_optimizer(self.discriminator)

        self.random_state = device.from_numpy(np.array([settings.seed, 0], np.uint64))
        self.discriminator_weights = [
            name
            for name in self.discriminator.parameter_names
            if name in self.discriminator.grad_dict
        ]

        self.losses_kept = losses_kept
        self.batches_done = 0
        self._unread = 0
        # A row is a batch: of each pass through D (on fake images, real ones, and G's) the loss and
        # the scores. Steps fill the rows in turn; which is next is on the device, as the host may
        # only replay the launches.
        self._passes = device.zeros((losses_kept, 3 * (1 + batch_size)), np.float32)
        self._place = device.zeros((1,), np.int32)
        self._first_unread = 0
        self._ops = device.ops
        self.recording = Recording(device)

    def bind(self, device: Device, batch_size: int) -> tuple[Executor, Executor]:
        """The generator's and the discriminator's executors."""
        raise NotImplementedError

    def initial(self) -> initializer.Initializer:
        """How both networks start."""
        return initializer.Uniform(self.settings.initial_range)

    def make_optimizer(self, executor: Executor) -> optimizer.Optimizer:
        """The optimizer of one of the networks: Adam, unless a system has another."""
        settings = self.settings
        return optimizer.Adam(executor, learning_rate=settings.learning_rate, beta1=settings.beta1)

    def step(self) -> None:
        """Trains on one batch. Raises StateError where losses kept were not read in time."""
        if self.losses_full:
            raise StateError(f"the losses of {self.losses_kept} batches wait for read_losses()")
        self.recording.run(self.train_batch)
        self.batches_done += 1
        self._unread += 1

    def train_batch(self) -> None:
        """The launches of a step, the same for every batch."""
        raise NotImplementedError

    def start_epoch(self, epoch: int) -> None:
        """Draws what is drawn once an epoch: the order of the images."""
        self.data.start_epoch(epoch)

    def _keep(self, which: int, loss: Any, scores: Any) -> None:
        """Copies a pass's loss (1,) and scores (batch, ...), each where it is not None, on the
        device, to where ``read_losses`` finds them. which: 0 on fake, 1 on real images, 2 for G;
        2 is kept in every batch, as its last."""
        self._store({which: (loss, scores)})

    def _keep_all(self, *passes: Sequence[Any]) -> None:
        """As ``_keep`` for (loss, scores) of all three passes, in one launch, for a system that has
        an executor for each."""
        self._store(dict(enumerate(passes)))

    def _store(self, passes: Mapping[int, Sequence[Any]]) -> None:
        parts, offsets = [], []
        for which, pair in passes.items():
            for place, array in enumerate(pair, which * (1 + self.settings.batch_size)):
                if array is not None:
                    parts.append(array)
                    offsets.append(place)
        self._ops.store_row(self._place, self._passes, *parts, offsets=offsets, advance=2 in passes)

    @property
    def losses_full(self) -> bool:
        """Whether ``read_losses`` must be called before the next step."""
        return self._unread == self.losses_kept

    def read_losses(self) -> list[Any]:
        """The `Losses`, or a system's own, of the batches since the last call. Waits for the device
        to finish them."""
        first = self.batches_done - self._unread
        passes = self._read_passes()
        scores = passes[:, :, 1:].astype(float).mean(axis=2)
        return [
            Losses(
                first + i,
                d_fake=float(row[0]),
                d_real=float(row[1]),
                g=float(row[2]),
                score_real=float(pair[1]),
                score_fake=float(pair[0]),
            )
            for i, (row, pair) in enumerate(zip(passes[:, :, 0], scores, strict=True))
        ]

    def _read_passes(self) -> np.ndarray:
        """(batches since the last call, 3 passes, 1 + batch size): loss and scores of each pass."""
        rows = (self._first_unread + np.arange(self._unread)) % self.losses_kept
        self._first_unread = (self._first_unread + self._unread) % self.losses_kept
        self._unread = 0
        return np.array(self._passes)[rows].reshape(len(rows), 3, 1 + self.settings.batch_size)

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that the next step depends on, as host arrays named part/array."""
        parts = {
            "generator": dict(_parameters(self.generator)),
            "generator_auxiliary": dict(self.generator.aux_dict),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator": dict(_parameters(self.discriminator)),
            "discriminator_auxiliary": dict(self.discriminator.aux_dict),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "random": {"state": self.random_state},
            "data": self.data.state_dict(),
        }
        return {
            f"{part}/{name}": np.array(value)
            for part, arrays in parts.items()
            for name, value in arrays.items()
        }

    def load_state_dict(self, state: dict[str, np.ndarray], batches_done: int) -> None:
        """Continues from ``state_dict`` of a run of ``batches_done`` batches.

        Names and shapes must be those of ``state_dict`` (``checkpoint.require_shapes`` tells).
        """
        load_network(self.generator, state, "generator")
        load_network(self.discriminator, state, "discriminator")
        self.generator_optimizer.load_state_dict(part_of(state, "generator_optimizer"))
        self.discriminator_optimizer.load_state_dict(part_of(state, "discriminator_optimizer"))
        self.random_state[...] = state["random/state"]
        self.data.load_state_dict(part_of(state, "data"))
        self.batches_done = batches_done
        self._read_passes()  # what was not read belongs to another run


class LessonGan(Gan):
    """The lesson's unconditional GAN: hard labels, 0 for generated and 1 for real.

    Each of the three passes through D has an executor of its own, all with the parameters of
    `discriminator`, the one for real images. Their labels then stay as they are, the generated
    images are read where G left them, and so is G's gradient where D left it: no copies.
    """

    network = NETWORK
    title = "lesson's GAN"

    def __init__(
        self, device: Device, images: ImageSet, settings: GanSettings, losses_kept: int = 20
    ) -> None:
        super().__init__(device, images, settings, losses_kept)
        generator, real = self.generator, self.discriminator
        count = settings.batch_size
        options = {"shared": real, "inputs": {"img": generator.outputs[0]}}
        options["working_memory"] = self.working_memory
        self.on_fake = bind_discriminator(device, count, **options)
        self.on_generated = bind_discriminator(
            device, count, input_gradients={"img": generator.head_gradients[0]}, **options
        )
        for executor, label in ((self.on_fake, 0.0), (real, 1.0), (self.on_generated, 1.0)):
            device.ops.fill(executor.arg_dict["label"], value=label)
        self._beside = device.branch()

    def bind(self, device: Device, batch_size: int) -> tuple[Executor, Executor]:
        # Of D's three passes, which follow each other, between G's forward and its backward.
        self.working_memory = memory = WorkingMemory()
        generator = bind_generator(device, batch_size, training=True, scratch_memory=memory)
        return generator, bind_discriminator(device, batch_size, working_memory=memory)

    def train_batch(self) -> None:
        """One batch: update D on generated images, D on real images, then G through D.

        The batch norm layers of D see three batches a step and move their statistics three times,
        as they do in MXNet; G's move once.
        """
        generator, real, beside = self.generator, self.discriminator, self._beside

        # Until D sees the real images, they can be gathered beside the rest.
        beside.enter()
        self.data.next_batch(real.arg_dict["img"])
        beside.leave()

        self.device.ops.random_normal(self.random_state, generator.arg_dict["noise"])
        generator.forward(is_train=True)

        # D learns that these are generated. Nobody asks how to change the image: wanted leaves it.
        self.on_fake.forward(is_train=True)
        self.on_fake.backward(wanted=self.discriminator_weights)
        self.discriminator_optimizer.update()

        # D learns that these are real.
        beside.join()
        real.forward(is_train=True)
        real.backward(wanted=self.discriminator_weights)
        self.discriminator_optimizer.update()

        # G learns what would make D call its images real. Only D's image gradient is needed.
        self.on_generated.forward(is_train=True)
        beside.enter()
        self._keep_all(*(each.outputs for each in (self.on_fake, real, self.on_generated)))
        beside.leave()
        self.on_generated.backward(wanted=["img"])
        generator.backward(out_grads=[self.on_generated.grad_dict["img"]])
        self.generator_optimizer.update()
        beside.join()


def network_shapes(executor: Executor, part: str) -> dict[str, tuple[int, ...]]:
    """Names, as in a checkpoint, and shapes of a network's parameters and moving statistics."""
    named = {f"{part}/{name}": tuple(a.shape) for name, a in _parameters(executor)}
    named |= {f"{part}_auxiliary/{name}": tuple(a.shape) for name, a in executor.aux_dict.items()}
    return named


def load_network(executor: Executor, state: dict[str, np.ndarray], part: str) -> None:
    """Fills a network's parameters and moving statistics from a checkpoint's arrays."""
    for name, array in _parameters(executor):
        array[...] = state[f"{part}/{name}"]
    for name, array in executor.aux_dict.items():
        array[...] = state[f"{part}_auxiliary/{name}"]


def copy_network(source: Executor, target: Executor) -> None:
    """Copies parameters and moving statistics between executors of one network, on the device."""
    for name, array in _parameters(target):
        array[...] = source.arg_dict[name]
    for name, array in target.aux_dict.items():
        array[...] = source.aux_dict[name]


def _parameters(executor: Executor) -> list[tuple[str, Any]]:
    return [(name, executor.arg_dict[name]) for name in executor.parameter_names]


def part_of(state: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The arrays of ``state`` named part/array, by the name after the slash."""
    prefix = part + "/"
    return {name[len(prefix) :]: a for name, a in state.items() if name.startswith(prefix)}
