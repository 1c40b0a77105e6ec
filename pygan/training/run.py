"""A whole run of a system: batches, progress, pictures, log, checkpoints, going on."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from pygan import checkpoint
from pygan.data import ImageSet
from pygan.errors import CheckpointError, PyganError, TrainingError
from pygan.executor import cooperative_scope, lean_scope, precision_scope, storage_scope
from pygan.progress import CompilingSaid, Progress, Status
from pygan.training import averaging, recording, sampling
from pygan.training.folder import RunFolder
from pygan.training.log import JsonLog
from pygan.training.pace import Pace
from pygan.training.run_options import RunOptions, kept_format, kept_settings, kept_switch
from pygan.training.stopping import StopRequest
from pygan.training.systems import SYSTEMS, System

if TYPE_CHECKING:
    from pathlib import Path

    from pygan.device import Device

BATCHES_PER_PICTURE = 100


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the batches done in all, and the signal that stopped it, if one did."""

    batches: int
    signal_number: int | None


def train(options: RunOptions, device: Device, progress: Progress) -> Outcome:
    """Trains until the epochs are done, a limit is reached, or SIGINT or SIGTERM arrives.

    A state is saved at the beginning, after each epoch, and when stopped; ``resume`` goes on from
    it with the very numbers that an unbroken run has (on the same device and library versions).
    A GAN of two whole epochs ends with the mean of its generators (`pygan.training.averaging`).
    Raises PyganError: see the classes in ``pygan.errors``. The checkpoint of the folder is whole
    whatever happens.
    """
    folder = RunFolder(options.out, resume=options.resume, overwrite=options.overwrite)
    try:
        with StopRequest() as stop, CompilingSaid(progress):
            run = Run(options, device, folder, progress)
            try:
                run.loop(stop)
            finally:
                run.log.close()
        return Outcome(run.model.batches_done, stop.signal_number)
    finally:
        folder.close()


class Run:
    """One run between its start, or resumption, and its end."""

    def __init__(
        self, options: RunOptions, device: Device, folder: RunFolder, progress: Progress
    ) -> None:
        self.device = device
        self.folder = folder
        self.progress = progress
        system = options.system
        self.system = system if isinstance(system, System) else SYSTEMS[system]
        saved: dict[str, Any] = {}
        state: dict[str, np.ndarray] = {}
        if options.resume:
            state, saved = checkpoint.load(folder.checkpoint)
            _require_network(folder, saved, self.system.network)
        self.settings = kept_settings(options, saved, self.system.settings)
        self.precision = kept_format("precision", options.precision, saved)
        self.storage = kept_format("storage", options.storage, saved)
        self.lean = kept_switch("lean", options.lean, saved)
        self.cooperative = kept_switch("cooperative", options.cooperative, saved)
        if self.storage == "bf16" and self.precision != "bf16":
            raise PyganError("--storage bf16 goes with --precision bf16 alone; ask for both")
        if self.lean and self.cooperative:
            raise PyganError("--lean saves nothing with --cooperative; leave one of them out")
        self.max_batches = options.max_batches
        self.part = options.part
        self.where = options.data or saved.get("data", "auto")
        if os.path.isdir(self.where):
            self.where = os.path.abspath(self.where)

        images = self.system.load(self.where, self.settings)
        self.source, self.fingerprint = images.source, images.fingerprint
        progress.say(f"data: {images.describe()}")
        progress.say(f"device: {device.description}\nseed: {self.settings.seed}")
        if self.lean and device.name == "numpy":
            progress.say("lean: no saving on device numpy, whose batch norms keep their pass")
        self.model = self._make_model(images)
        if said := recording.choose(options.graph, device, self.model):
            progress.say(said)
        self.per_epoch = self.model.data.batches_per_epoch
        self.epochs = options.epochs or saved.get("epochs", self.system.epochs_of(self.per_epoch))
        if self.epochs != (options.epochs or saved.get("epochs", self.system.epochs)):
            progress.say(
                f"epochs: {self.epochs}, as one is {self.per_epoch} "
                f"batch{'es' if self.per_epoch > 1 else ''}; --epochs asks for another number"
            )
        self.length = options.length or (None if options.epochs else saved.get("length"))
        self.total = self.length or self.epochs * self.per_epoch
        self.report = self.system.report(self.model, self.where)
        if options.resume:
            self._restore(state, saved)
        else:
            folder.clear()  # only now: a run is not overwritten by one that cannot start
        self.log = JsonLog(folder.log, self.model.batches_done, self.per_epoch)
        if self.log.missing:
            progress.say(self._without_log())
        self.pace = Pace(self.model.batches_done)
        self.latest: Any = None

    def loop(self, stop: StopRequest) -> None:
        model = self.model
        total = self.total
        if self.max_batches is not None:
            total = min(total, self.max_batches)
        if model.batches_done >= total:
            self.progress.say(
                f"nothing to do: {model.batches_done:,} batches are done, {total:,} were asked for"
            )
            return
        if model.batches_done == 0:
            self._save()
        began = time.monotonic()
        first = model.batches_done
        while model.batches_done < total and not stop:
            epoch, batch = divmod(model.batches_done, self.per_epoch)
            if batch == 0:
                model.start_epoch(epoch)
            model.step()
            if self.system.watch is not None:
                for line in self.system.watch(model):
                    self.progress.say(line)
            if model.losses_full:
                self._read_losses()
            if model.batches_done % BATCHES_PER_PICTURE == 0:
                self.report.samples(self.folder, model.batches_done)
            if model.batches_done % self.per_epoch == 0:
                self._end_epoch(epoch + 1)
            else:
                self._show()
        self._finish(stop, total, model.batches_done - first, time.monotonic() - began)

    def _finish(self, stop: StopRequest, total: int, batches: int, seconds: float) -> None:
        """Saves what the epochs' ends did not, draws the curves, and says how the run ended."""
        ended = self.model.batches_done % self.per_epoch == 0
        if not ended:
            self._read_losses()
            self._save()
        if batches:
            self.progress.say(
                f"{batches:,} batch{'es' if batches > 1 else ''} in {seconds:.1f} s: "
                f"{1000 * seconds / batches:.1f} ms a batch, "
                f"{batches * self.settings.batch_size / seconds:,.0f} images/s"
            )
            if not ended:
                self.report.samples(self.folder, self.model.batches_done)
            self.report.curves(self.folder, self.per_epoch)
            if result := self.report.result(self.folder):
                self.progress.say(result)
            if self.model.batches_done == self.total:
                self._average()
        if self.model.batches_done < self.total:
            why = "stopped" if stop else "stopped as asked"
            if self.part:
                how = "The same command with --resume goes on"
            else:
                out = shlex.quote(str(self.folder.path))
                how = (
                    f"To go on:\n  {_program()} train {self.system.command} --out {out} --resume "
                    f"--device {self.device.name}"
                )
            self.progress.say(
                f"{why} after batch {self.model.batches_done:,}; everything is saved. {how}"
            )
        else:
            self.progress.say(f"done; pictures, log and checkpoints are in {self.folder.path}")

    def _average(self) -> None:
        """The mean of a GAN's generators, which draws better than the last of them."""
        if self.system.network not in sampling.known_networks():
            return
        if len(averaging.epochs_of(self.folder.path)) < averaging.LEAST:
            return
        seed = self.settings.seed
        path, metadata = averaging.average_run(self.device, self.folder.path, seed=seed)
        self.progress.say(f"{path}: {sampling.described(metadata)}; 'pygan sample' draws with it")

    def _make_model(self, images: ImageSet) -> Any:
        try:
            with (
                precision_scope(self.precision),
                storage_scope(self.storage),
                lean_scope(self.lean),
                cooperative_scope(self.cooperative),
            ):
                return self.system.model(self.device, images, self.settings)
        except MemoryError as error:
            table = images.images.nbytes / 2**20
            raise TrainingError(
                f"out of memory on device {self.device.name}: {error}. The images alone need "
                f"{table:,.0f} MiB; a smaller --batch-size (now {self.settings.batch_size}) "
                "needs less"
            ) from None

    def _restore(self, state: dict[str, np.ndarray], saved: dict[str, Any]) -> None:
        path = self.folder.checkpoint
        expected = {name: array.shape for name, array in self.model.state_dict().items()}
        if saved["fingerprint"] != self.fingerprint:
            named = "digits" if "scikit-learn" in saved["source"] else saved["data"]
            raise CheckpointError(
                f"{path} was trained on other data: {saved['source']}, not {self.source}; name "
                f"that with --data ({named}), or start a run in another folder with --out"
            )
        checkpoint.require_shapes(path, state, expected)
        self.model.load_state_dict(state, saved["batches_done"])
        if saved["device"] != self.device.name:
            self.progress.say(
                f"the run was on device {saved['device']}: on {self.device.name} it goes on, but "
                "sums are formed in another order, so not to the last bit"
            )
        self.progress.say(f"going on after batch {saved['batches_done']:,}")

    def _without_log(self) -> str:
        """What to say where the log was removed, cut or changed. The checkpoint has all else."""
        done, missing = self.model.batches_done, self.log.missing
        if missing == done:
            return f"{self.log.path} has none of the {done:,} batches done: the log begins anew"
        return (
            f"{self.log.path} lacks {missing:,} of the {done:,} batches done: curves and means "
            "leave them out"
        )

    def _read_losses(self) -> None:
        """Reads the losses of the last batches, logs them, and stops where one is no number."""
        losses = self.model.read_losses()
        for entry in losses:
            values = dataclasses.asdict(entry)
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                self._stop_at(entry, bad)
            self.log.write({"kind": "batch", **values})
        self.log.flush()
        if losses:
            self.latest = losses[-1]
            self.pace.read(self.model.batches_done)

    def _stop_at(self, entry: Any, bad: list[str]) -> None:
        self.log.flush()
        epoch, batch = divmod(entry.batch, self.per_epoch)
        shown = ", ".join(f"{name} = {getattr(entry, name)}" for name in bad)
        done = checkpoint.load(self.folder.checkpoint)[1]["batches_done"]
        raise TrainingError(
            f"the losses are no longer finite numbers from epoch {epoch + 1}, batch {batch + 1} on "
            f"({shown}); {self.folder.checkpoint} keeps the state after batch {done:,}"
        )

    def _end_epoch(self, epoch: int) -> None:
        self._read_losses()
        self._show()
        seconds = self.pace.lap()
        numbers = self.report.measure()
        self.log.write(
            {
                "kind": "epoch",
                "epoch": epoch,
                "seconds": round(seconds, 3),
                "images_per_second": round(self.pace.images_per_second(self.settings), 1),
                **numbers,
            }
        )
        self._save(self.folder.epoch_checkpoint(epoch))
        self.progress.say(
            f"epoch {epoch} took {seconds:.0f} s; {self.report.page(self.folder, epoch)}"
        )

    def _save(self, copy: Path | None = None) -> None:
        """Saves the state; a state with a number that is not finite is refused, not saved."""
        state = self.model.state_dict()
        for name, array in state.items():
            if not np.isfinite(array).all():
                raise TrainingError(
                    f"after batch {self.model.batches_done:,} {name} holds a number that is not "
                    f"finite; {self.folder.checkpoint} keeps the state before"
                )
        self.log.flush(to_disk=True)
        metadata = {
            "network": self.system.network,
            "pygan": version("pygan"),
            "device": self.device.name,
            "settings": self.settings.as_dict(),
            "precision": self.precision,
            "storage": self.storage,
            "lean": self.lean,
            "cooperative": self.cooperative,
            "epochs": self.epochs,
            "length": self.length,
            "batches_done": self.model.batches_done,
            "batches_per_epoch": self.per_epoch,
            "data": self.where,
            "source": self.source,
            "fingerprint": self.fingerprint,
        }
        checkpoint.save(self.folder.checkpoint, state, metadata)
        if copy is not None:
            copy.parent.mkdir(exist_ok=True)
            copy.unlink(missing_ok=True)
            try:
                # A second name for the same bytes: the next save replaces only the first name.
                os.link(self.folder.checkpoint, copy)
            except OSError:  # a file system without links
                checkpoint.save(copy, state, metadata)

    def _show(self) -> None:
        if self.latest is None:
            return
        epoch, batch = divmod(self.model.batches_done - 1, self.per_epoch)
        self.progress.show(
            Status(
                epoch=epoch + 1,
                epochs=self.epochs,
                batch=batch + 1,
                batches=self.per_epoch,
                numbers=self.latest.text(),
                images_per_second=self.pace.images_per_second(self.settings),
            )
        )


def _program() -> str:
    """How the user called this program, so that a command printed for them works as it is."""
    called = sys.argv[0]
    if os.path.basename(called) != "pygan":
        return f"{shlex.quote(sys.executable)} -m pygan"
    found = shutil.which("pygan")
    same = found is not None and os.path.realpath(found) == os.path.realpath(called)
    return "pygan" if same else shlex.quote(called)


def _require_network(folder: RunFolder, saved: dict[str, Any], network: str) -> None:
    if saved.get("network") != network:
        raise CheckpointError(
            f"{folder.checkpoint}: a checkpoint of the network {saved.get('network')!r}, "
            f"this command trains {network!r}"
        )
