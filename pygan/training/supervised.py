"""Training of one network by its own losses: what auto-encoders and classifiers share.

Everything a step touches is on the device, random numbers and losses included; nothing is copied
from or to the host until ``read_losses``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pygan import checkpoint, initializer, optimizer
from pygan.data import ResidentImages
from pygan.errors import CheckpointError, StateError
from pygan.training.gan import load_network, network_shapes, part_of
from pygan.training.recording import Recording
from pygan.training.sampling import checkpoint_file

PART = "network"
"""What stands before a parameter's name in checkpoints."""


@dataclass(frozen=True)
class SupervisedSettings:
    """Adam's settings and the batch; the lessons' values as defaults."""

    batch_size: int = 50
    seed: int = 0
    learning_rate: float = 1e-3
    beta1: float = 0.9
    weight_decay: float = 1e-4

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SmallBatches(SupervisedSettings):
    batch_size: int = 20


class Supervised:
    """A network, its Adam, its images and the random state: all that a step reads.

    executor: a bound training graph; its outputs named ``..._loss`` are kept. tables: the images a
    step visits, ``data`` among them, which sets the length of an epoch. A system states its inputs
    in ``feed``, and in ``initial`` and ``losses_of`` what it has otherwise than here.
    """

    network: ClassVar[str]
    """The name in checkpoints."""
    part: ClassVar[str] = PART
    optimizer_part: ClassVar[str] = "optimizer"
    draws: ClassVar[bool] = True
    """Whether ``feed`` draws from ``random_state``, which is saved then."""

    def __init__(
        self,
        device: Any,
        settings: SupervisedSettings,
        executor: Any,
        tables: Mapping[str, ResidentImages],
        losses_kept: int = 20,
    ) -> None:
        self.device = device
        self.settings = settings
        self.executor = executor
        self.tables = dict(tables)
        self.data = self.tables["data"]
        self.initial()(executor, np.random.default_rng(settings.seed))
        self.adam = optimizer.Adam(
            executor,
            learning_rate=settings.learning_rate,
            beta1=settings.beta1,
            weight_decay=settings.weight_decay,
        )
        self.random_state = device.from_numpy(np.array([settings.seed, 0], np.uint64))
        # Inputs may have a gradient that nobody reads.
        self.trained = list(executor.trainable())
        self.loss_names = [n for n in executor.output_dict if n.endswith("_loss")]
        self.losses_kept = losses_kept
        self.batches_done = 0
        self._unread = 0
        # A row is a batch. Steps fill the rows in turn; which is next is on the device, as the host
        # may only replay the launches.
        self._losses = device.zeros((losses_kept, len(self.loss_names)), np.float32)
        self._place = device.zeros((1,), np.int32)
        self._first_unread = 0
        self.recording = Recording(device)

    def initial(self) -> initializer.Initializer:
        """How the network starts: weights uniform with Xavier's variance, biases as 0."""
        return initializer.Xavier()

    def feed(self) -> None:
        """Writes the next batch into the executor's inputs, by the same launches each time."""
        raise NotImplementedError

    def losses_of(self, batch: int, row: np.ndarray) -> Any:
        """The entry of a batch in the log, from its losses in the order of ``loss_names``."""
        return SupervisedLosses(batch, float(row[0]), float(sum(row[1:])))

    def start_epoch(self, epoch: int) -> None:
        """Draws the order of an epoch's images."""
        for table in self.tables.values():
            table.start_epoch(epoch)

    def step(self) -> None:
        """One batch. Raises StateError where the losses kept were not read in time."""
        if self.losses_full:
            raise StateError(f"the losses of {self.losses_kept} batches wait for read_losses()")
        self.recording.run(self._train_batch)
        self.batches_done += 1
        self._unread += 1

    def _train_batch(self) -> None:
        """The launches of a step, the same for every batch."""
        executor, ops = self.executor, self.device.ops
        self.feed()
        executor.forward(is_train=True)
        executor.backward(wanted=self.trained)
        losses = [executor.output_dict[name] for name in self.loss_names]
        places = range(len(losses))
        ops.store_row(self._place, self._losses, *losses, offsets=places, advance=True)
        self.adam.update()

    @property
    def losses_full(self) -> bool:
        """Whether ``read_losses`` must be called before the next step."""
        return self._unread == self.losses_kept

    def read_losses(self) -> list[Any]:
        """The losses of the batches since the last call. Waits for the device to finish them."""
        first = self.batches_done - self._unread
        return [self.losses_of(first + i, row) for i, row in enumerate(self._read_rows())]

    def _read_rows(self) -> np.ndarray:
        """(batches since the last call, losses), float64."""
        rows = (self._first_unread + np.arange(self._unread)) % self.losses_kept
        self._first_unread = (self._first_unread + self._unread) % self.losses_kept
        self._unread = 0
        return np.array(self._losses, float)[rows]

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that the next step depends on, as host arrays named part/array."""
        executor = self.executor
        parts = {
            self.part: {name: executor.arg_dict[name] for name in executor.parameter_names},
            f"{self.part}_auxiliary": executor.aux_dict,
            self.optimizer_part: self.adam.state_dict(),
            "random": {"state": self.random_state} if self.draws else {},
            **{name: table.state_dict() for name, table in self.tables.items()},
        }
        return {
            f"{part}/{name}": np.array(value)
            for part, arrays in parts.items()
            for name, value in arrays.items()
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray], batches_done: int) -> None:
        """Continues from ``state_dict`` of a run of ``batches_done`` batches.

        Names and shapes must be those of ``state_dict`` (``checkpoint.require_shapes`` tells).
        """
        load_network(self.executor, dict(state), self.part)
        self.adam.load_state_dict(part_of(state, self.optimizer_part))
        if self.draws:
            self.random_state[...] = state["random/state"]
        for name, table in self.tables.items():
            table.load_state_dict(part_of(state, name))
        self.batches_done = batches_done
        self._read_rows()  # what was not read belongs to another run


@dataclass(frozen=True)
class SupervisedLosses:
    """One batch, numbered from 0 over the whole run: the first loss, and the sum of the others (the
    prior or the penalty of a code; 0 where there is none), weighted as they are trained."""

    batch: int
    loss: float
    penalty: float

    def text(self) -> str:
        return f"loss {self.loss:.5f}" + (f"  penalty {self.penalty:.5f}" if self.penalty else "")


def load_trained(
    executor: Any, path: str | Path, network: str, part: str = PART, advice: str = ""
) -> dict[str, Any]:
    """Fills an executor's parameters from a checkpoint (a file, or a run's folder); its metadata.

    Raises CheckpointError for a damaged file and for another network (then with the advice).
    """
    path = checkpoint_file(path)
    tensors, metadata = checkpoint.load(path)
    if metadata.get("network") != network:
        raise CheckpointError(
            f"{path}: a checkpoint of the network {metadata.get('network')!r}, not {network!r}"
            + (advice and f"; {advice}")
        )
    checkpoint.require_shapes(path, tensors, network_shapes(executor, part))
    load_network(executor, tensors, part)
    return metadata
