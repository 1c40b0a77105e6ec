"""Ways to train a network, compared over seeds: each way is trained once from each seed.

One seed gives all ways the same start and the same images where they have any in common, so their
numbers are compared in pairs. A comparison that was stopped goes on where it was, to the bit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from pygan import checkpoint
from pygan.data import ImageSet
from pygan.errors import CheckpointError, DataError, TrainingError
from pygan.progress import Status
from pygan.quality import LEVEL
from pygan.training import recording
from pygan.training.comparison_report import by_batches, draw, summarize, table
from pygan.training.comparison_session import Session, require_name

MEASUREMENTS = 5
"""Of the test accuracy, in each training."""


@dataclass(frozen=True)
class Plan:
    """What decides a comparison's numbers: a resumed one has the same, but for ``data`` and
    ``gan``, where the images and the GAN's checkpoint lie.

    name: the network in checkpoints. batches: of each training. fingerprint: of the images.
    settings: as ``choose`` gives them, ``seed`` and ``seeds`` among them. origin: all else.
    """

    name: str
    ways: tuple[str, ...]
    batches: int
    data: str
    gan: str
    fingerprint: str
    settings: Mapping[str, Any]
    origin: Mapping[str, Any]

    @property
    def seeds(self) -> range:
        first = self.settings["seed"]
        return range(first, first + self.settings["seeds"])

    @property
    def every(self) -> int:
        """The test accuracy is measured after so many batches, and after the last."""
        return max(1, self.batches // MEASUREMENTS)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ways": list(self.ways)}


def batches_of(images: ImageSet, labelled: int, batch_size: int, epochs: int) -> int:
    """The batches of so many epochs of a labelled part of the images. Raises DataError for a part
    of less than a batch, or of more than there are."""
    if not batch_size <= labelled <= len(images):
        raise DataError(
            f"--labelled {labelled:,} must lie between a batch, {batch_size:,}, and the "
            f"{len(images):,} images of {images.source}"
        )
    return labelled // batch_size * epochs


def digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of arrays' bytes (hex)."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


class Comparison:
    """The trainings of a plan, one after the other, in a run's folder.

    The loop is the caller's: ``for way, seed in comparison.missing()`` make a model, and
    ``for _ in comparison.batches(model)`` step. measure(model): the number to compare, 0..1. model:
    as in ``pygan.training.systems``, with losses that have ``loss``.

    Raises CheckpointError where the folder to resume holds another comparison.
    """

    def __init__(
        self, session: Session, plan: Plan, device: Any, measure: Callable[[Any], float]
    ) -> None:
        self.session = session
        self.folder, self.progress = session.folder, session.progress
        self.plan = plan
        self.device = device
        self.measure = measure
        self.finished: list[dict[str, Any]] = []
        self.stopped = False
        self._models = 0
        self._entry: dict[str, Any] = {}
        self._state: dict[str, np.ndarray] = {}
        if session.resume:
            self._restore()
        else:
            self.folder.clear()  # only now: a run is not overwritten by one that cannot start
            self._save({})

    @property
    def batches_done(self) -> int:
        """Of all trainings together."""
        return sum(entry["batches"] for entry in [*self.finished, self._entry] if entry)

    def missing(self) -> Iterator[tuple[str, int]]:
        """Way and seed of the trainings to do: all ways of a seed, then the next seed."""
        for seed in self.plan.seeds:
            for way in self.plan.ways:
                if (way, seed) in {(entry["way"], entry["seed"]) for entry in self.finished}:
                    continue
                if not self._state:
                    self._entry = {"way": way, "seed": seed, "batches": 0, "seconds": 0.0}
                    self._entry |= {"curve": [], "losses": []}
                yield way, seed
                if self.stopped:
                    return

    def batches(self, model: Any) -> Iterator[int]:
        """The batches of one training, each to be followed by a ``model.step()``.

        Draws each epoch's order, measures, saves, and ends early when it is to stop.
        """
        plan, entry = self.plan, self._entry
        said = recording.choose(self.session.graph, self.device, model)
        if said and self._models == 0:
            self.progress.say(said)
        self._models += 1
        if self._state:
            model.load_state_dict(self._state, entry["batches"])
            self._state = {}
        began = time.monotonic() - entry["seconds"]
        number = len(self.finished) + 1
        while model.batches_done < plan.batches:
            if self.session.stop() or self._enough():
                self._keep_losses(model)
                self._save(model.state_dict())
                self.stopped = True
                return
            epoch, batch = divmod(model.batches_done, model.data.batches_per_epoch)
            if batch == 0:
                model.start_epoch(epoch)
            yield model.batches_done
            entry["batches"] = done = model.batches_done
            entry["seconds"] = time.monotonic() - began
            if model.losses_full:
                self._keep_losses(model)
            if done % plan.every == 0 or done == plan.batches:
                self._measure(model)
            pace = done * model.settings.batch_size / max(entry["seconds"], 1e-9)
            status = (number, len(plan.ways) * len(plan.seeds), done, plan.batches, self._text())
            self.progress.show(Status(*status, pace, unit="training"))
        self._finish()

    def _enough(self) -> bool:
        return self.session.limit is not None and self.batches_done >= self.session.limit

    def _keep_losses(self, model: Any) -> None:
        losses = [losses.loss for losses in model.read_losses()]
        if not np.isfinite(losses).all():
            raise TrainingError(
                f"{self._text()}: the loss is no longer a finite number after batch "
                f"{model.batches_done:,}; {self.folder.checkpoint} keeps a state before"
            )
        self._entry["losses"] += losses

    def _measure(self, model: Any) -> None:
        """Adds batch, mean loss since the last measurement, and test accuracy; saves."""
        self._keep_losses(model)
        entry = self._entry
        loss, entry["losses"] = float(np.mean(entry["losses"])), []
        entry["curve"].append([model.batches_done, loss, self.measure(model)])
        if model.batches_done < self.plan.batches:
            self._save(model.state_dict())

    def _finish(self) -> None:
        entry, self._entry = self._entry, {}
        del entry["losses"]
        entry["accuracy"] = entry["curve"][-1][2]
        self.finished.append(entry)
        self._save({})
        self.progress.say(
            f"seed {entry['seed']}, {entry['way']}: test accuracy {entry['accuracy']:.2%} after "
            f"{entry['batches']:,} batches, {entry['seconds']:.0f} s"
        )

    def _text(self) -> str:
        entry = self._entry
        latest = f", {entry['curve'][-1][2]:.2%}" if entry["curve"] else ""
        return f"seed {entry['seed']}, {entry['way']}{latest}"

    def _save(self, state: dict[str, np.ndarray]) -> None:
        metadata = {
            "network": self.plan.name,
            "pygan": version("pygan"),
            "device": self.device.name,
            "plan": self.plan.as_dict(),
            "finished": self.finished,
            "under_way": self._entry,
            "batches_done": self.batches_done,
        }
        checkpoint.save(self.folder.checkpoint, state, metadata)

    def _restore(self) -> None:
        state, metadata = checkpoint.load(self.folder.checkpoint)
        require_name(self.folder, metadata, self.plan.name)
        saved, plan = metadata["plan"], self.plan.as_dict()
        lies = ("data", "gan")
        different = [name for name in plan if name not in lies and plan[name] != saved[name]]
        if different:
            name = different[0]
            raise CheckpointError(
                f"{self.folder.checkpoint}: the comparison to resume has {name} {saved[name]}, "
                f"not {plan[name]}; ask for the same, or start another in another folder"
            )
        if metadata["device"] != self.device.name:
            self.progress.say(
                f"the run was on device {metadata['device']}: on {self.device.name} it goes on, "
                "but sums are formed in another order, so not to the last bit"
            )
        self.finished, self._entry, self._state = metadata["finished"], {}, state
        if state:
            self._entry = metadata["under_way"]

    # What was found

    def report(self, title: str, further: Mapping[str, Any]) -> str:
        """Writes result.json, and comparison.png where a training is done; a table."""
        ways = summarize(self.finished, self.plan.ways)
        done = len(self.finished) == len(self.plan.ways) * len(self.plan.seeds)
        entry = {
            "system": self.plan.name,
            "complete": done,
            **further,
            "plan": self.plan.as_dict(),
            "device": self.device.name,
            "level": LEVEL,
            "ways": ways,
            "by_batches": by_batches(self.finished, self.plan.ways),
            "trainings": self.finished,
        }
        checkpoint.write_json(self.folder.result, entry)
        path = self.folder.path / "comparison.png"
        lines = [] if done else ["not all trainings are done; --resume goes on"]
        files = [str(self.folder.result)]
        if self.finished:
            draw(self.finished, ways, path, title)
            files.append(str(path))
        return "\n".join([table(ways), *lines, ", ".join(files)])
