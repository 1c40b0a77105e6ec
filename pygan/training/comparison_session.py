"""What a user asks of a comparison of trainings: its folder, the GAN it builds on, its settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygan import checkpoint
from pygan.errors import CheckpointError, PyganError
from pygan.progress import Progress, make_progress
from pygan.training.command import run_part
from pygan.training.folder import CHECKPOINT, RunFolder
from pygan.training.stopping import StopRequest
from pygan.training.systems import System


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
    and PyganError for ``--cooperative`` and ``--storage``, which the trainings of a comparison have
    not.
    """
    for name in ("cooperative", "storage"):
        if getattr(options, name) not in (None, False, "float32"):
            raise PyganError(f"--{name} is not for comparisons of trainings; leave it out")
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
        require_name(session.folder, metadata, name)
        saved = {**metadata["plan"]["settings"], "data": metadata["plan"]["data"]}
    for key, value in given.items():
        if key != "data":
            _require_saved(key, value, saved.get(key, value))
    chosen = {**defaults, **saved, **given}
    if os.path.isdir(chosen["data"]):
        chosen["data"] = os.path.abspath(chosen["data"])
    return chosen


def _require_saved(name: str, asked: Any, saved: Any) -> None:
    if asked != saved:
        raise PyganError(
            f"--{name.replace('_', '-')} {asked} differs from {saved} of the run to resume; leave "
            "it out, or start a run in another folder"
        )


def require_name(folder: RunFolder, metadata: Mapping[str, Any], name: str) -> None:
    if metadata.get("network") != name:
        raise CheckpointError(
            f"{folder.checkpoint}: a checkpoint of {metadata.get('network')!r}, where one of "
            f"{name!r} is needed"
        )
