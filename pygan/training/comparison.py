"""Ways to train a network, compared over seeds: each way is trained once from each seed.

One seed gives all ways the same start and the same images where they have any in common, so their
numbers are compared in pairs. A comparison that was stopped goes on where it was, to the bit.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pygan import checkpoint, pictures
from pygan.data import ImageSet
from pygan.errors import CheckpointError, DataError, PyganError, TrainingError
from pygan.progress import Progress, Status, make_progress
from pygan.quality import LEVEL, student_quantile
from pygan.training import recording
from pygan.training.command import run_part
from pygan.training.folder import CHECKPOINT, RunFolder
from pygan.training.stopping import StopRequest
from pygan.training.systems import System

MEASUREMENTS = 5
"""Of the test accuracy, in each training."""
LEAST_FOR_INTERVAL = 4
"""Seeds that an interval needs: Student's quantile is not known well enough below three degrees."""


@dataclass(frozen=True)
class Session:
    """A run's folder while this process holds it, and what its user wants: go on with what is
    there, stop now, stop after so many batches in all (None: never), and whether steps are recorded
    (``recording.choose``)."""

    folder: RunFolder
    resume: bool
    stop: Callable[[], bool]
    limit: int | None
    progress: Progress
    graph: str = "auto"


def in_session(options: argparse.Namespace, work: Callable[[Session], int]) -> int:
    """Does ``work`` in the folder that the options name (those of ``cli.add_run_options``), for it
    to stop when a signal comes; the exit code, which is that of ``work`` where it is not 0.

    With ``--resume``, a comparison that was not begun begins. Raises TrainingError as RunFolder,
    and PyganError for ``--cooperative``, which the trainings of a comparison have not.
    """
    if options.cooperative:
        raise PyganError("--cooperative is not for comparisons of trainings; leave it out")
    resume = options.resume and (Path(options.out) / CHECKPOINT).exists()
    folder = RunFolder(options.out, resume=resume, overwrite=options.overwrite)
    progress = make_progress(plain=options.plain)
    try:
        with StopRequest() as stop:
            wishes = (options.max_batches, progress, options.graph)
            code = work(Session(folder, resume, lambda: bool(stop), *wishes))
    finally:
        progress.close()
        folder.close()
    return code or (0 if stop.signal_number is None else 128 + stop.signal_number)


def trained_gan(options: argparse.Namespace, session: Session, system: System) -> tuple[int, Path]:
    """The run, or a checkpoint, of the GAN that a comparison takes a network from: what the user
    named (``cli.add_gan_options``), or OUT/COMMAND, which is trained first; before it, that
    training's exit code.

    A comparison to resume takes the one that it began with, and does not train it further. Raises
    PyganError where ``--gan-batches`` differs from its.
    """
    if options.gan is not None:
        return 0, Path(options.gan)
    folder = session.folder.path / system.command
    if session.resume:
        saved = checkpoint.load(session.folder.checkpoint)[1]["plan"]
        if options.gan_batches is not None:
            _require_saved("gan_batches", options.gan_batches, saved["origin"]["batches"])
        return 0, Path(saved.get("gan", folder))
    own = {"epochs": None, "batch_size": None, "max_batches": None, "length": options.gan_batches}
    return run_part(options, system, folder, **own), folder


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


def choose(
    session: Session, name: str, asked: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a comparison: those asked for (not None), else those of the comparison to
    resume, else the defaults; and ``data``, which may differ.

    Raises PyganError where one asked for differs from the one saved, CheckpointError where the
    folder holds another system's run.
    """
    given = {key: value for key, value in asked.items() if value is not None}
    saved: dict[str, Any] = {}
    if session.resume:
        _, metadata = checkpoint.load(session.folder.checkpoint)
        _require_name(session.folder, metadata, name)
        saved = {**metadata["plan"]["settings"], "data": metadata["plan"]["data"]}
    for key, value in given.items():
        if key != "data":
            _require_saved(key, value, saved.get(key, value))
    chosen = {**defaults, **saved, **given}
    if os.path.isdir(chosen["data"]):
        chosen["data"] = os.path.abspath(chosen["data"])
    return chosen


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
        _require_name(self.folder, metadata, self.plan.name)
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


def summarize(
    finished: Sequence[Mapping[str, Any]], ways: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By way: seeds, the mean accuracy with its 95 % interval over seeds, and the same of the
    difference from the first way, seed by seed; None where no seed has both."""
    accuracies = {
        way: {e["seed"]: e["accuracy"] for e in finished if e["way"] == way} for way in ways
    }
    first = accuracies[ways[0]]
    result = {}
    for way, by_seed in accuracies.items():
        pairs = [value - first[seed] for seed, value in by_seed.items() if seed in first]
        result[way] = {
            "seeds": len(by_seed),
            "accuracy": mean_interval(list(by_seed.values())),
            "difference": None if way == ways[0] else mean_interval(pairs),
        }
    return result


def by_batches(
    finished: Sequence[Mapping[str, Any]], ways: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """``summarize`` at each measurement, by the batches done then."""
    places = [row[0] for row in finished[0]["curve"]] if finished else []
    return {
        str(batches): summarize([{**e, "accuracy": e["curve"][place][2]} for e in finished], ways)
        for place, batches in enumerate(places)
    }


def mean_interval(values: Sequence[float]) -> dict[str, float | None] | None:
    """Mean and Student's 95 % interval of independent values, the interval from four values on;
    None of no values."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) < LEAST_FOR_INTERVAL:
        return {"value": mean, "low": None, "high": None}
    spread = student_quantile(LEVEL, len(values) - 1) * np.std(values, ddof=1)
    margin = float(spread / math.sqrt(len(values)))
    return {"value": mean, "low": mean - margin, "high": mean + margin}


def table(ways: Mapping[str, Mapping[str, Any]]) -> str:
    """The result of ``summarize`` in lines for a terminal."""

    def shown(interval: Mapping[str, Any] | None, form: str) -> str:
        if interval is None:
            return "-"
        parts = [form.format(100 * v) for v in interval.values() if v is not None]
        return parts[0] + (f" [{parts[1]}, {parts[2]}]" if parts[1:] else "")

    wide = max(24, *(len(way) + 2 for way in ways))
    lines = [f"{'':{wide}}{'seeds':>5}  {'test accuracy in %':26}difference, paired by seed"]
    for way, row in ways.items():
        lines.append(
            f"{way:{wide}}{row['seeds']:5}  {shown(row['accuracy'], '{:.2f}'):26}"
            f"{shown(row['difference'], '{:+.2f}')}"
        )
    return "\n".join(lines)


def draw(
    finished: Sequence[Mapping[str, Any]],
    ways: Mapping[str, Mapping[str, Any]],
    path: Path,
    title: str,
) -> None:
    """Left: the error on test images against batches, a thin line a training, their mean strong.
    Right: the accuracies reached, a line joining each seed's, means and intervals in black."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for colour, way in zip(pictures.COLOURS, ways, strict=False):
        curves = [np.array(e["curve"])[:, [0, 2]] for e in finished if e["way"] == way]
        for curve in curves:
            left.plot(curve[:, 0], 100 - 100 * curve[:, 1], color=colour, lw=0.6, alpha=0.35)
        if curves:
            mean = np.mean(curves, axis=0)
            left.plot(mean[:, 0], 100 - 100 * mean[:, 1], color=colour, lw=2, label=way)
    left.set(xlabel="batches", ylabel="error on test images (%)", yscale="log")
    for set_formatter in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.legend(frameon=False)

    names = list(ways)
    for seed in sorted({entry["seed"] for entry in finished}):
        of_seed = {e["way"]: 100 * e["accuracy"] for e in finished if e["seed"] == seed}
        places = [names.index(way) for way in names if way in of_seed]
        values = [of_seed[way] for way in names if way in of_seed]
        right.plot(places, values, "o-", color="0.65", ms=3, lw=0.8)
    for place, row in enumerate(ways.values()):
        mean = row["accuracy"]
        if mean is None:
            continue
        ends = [0, 0]
        if mean["low"] is not None:
            ends = [100 * (mean["value"] - mean["low"]), 100 * (mean["high"] - mean["value"])]
        margins = np.reshape(ends, (2, 1))
        right.errorbar(place, 100 * mean["value"], margins, fmt="s", color="black", capsize=5)
    right.set_xticks(range(len(names)), names)
    right.set(ylabel="test accuracy (%)", xlim=(-0.4, len(names) - 0.6))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    pictures.save_figure(figure, path)


def _require_saved(name: str, asked: Any, saved: Any) -> None:
    if asked != saved:
        raise PyganError(
            f"--{name.replace('_', '-')} {asked} differs from {saved} of the run to resume; leave "
            "it out, or start a run in another folder"
        )


def _require_name(folder: RunFolder, metadata: Mapping[str, Any], name: str) -> None:
    if metadata.get("network") != name:
        raise CheckpointError(
            f"{folder.checkpoint}: a checkpoint of {metadata.get('network')!r}, where one of "
            f"{name!r} is needed"
        )
