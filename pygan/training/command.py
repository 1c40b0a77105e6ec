"""From the options of ``pygan train`` to runs: one run, or one of several that a command makes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from pygan import device as devices
from pygan.progress import make_progress
from pygan.training.folder import CHECKPOINT
from pygan.training.run import train
from pygan.training.run_options import RunOptions
from pygan.training.systems import System


def run_system(
    options: argparse.Namespace, system: System, asked: Mapping[str, object] | None = None
) -> int:
    """Trains a system as ``pygan.cli.add_run_options`` parsed it; the exit code: 0, or 128 + the
    number of the signal that stopped it.

    asked: further settings of the system by name, None where the user left them out.
    """
    given = {**vars(options), "system": system, "asked": asked or {}}
    fields = RunOptions.__dataclass_fields__
    chosen = devices.get(options.device)
    progress = make_progress(plain=options.plain)
    try:
        known = {name: given[name] for name in fields if name in given}
        outcome = train(RunOptions(**known), chosen, progress)
    finally:
        progress.close()
    return 0 if outcome.signal_number is None else 128 + outcome.signal_number


def run_part(
    options: argparse.Namespace,
    system: System,
    folder: Path,
    asked: Mapping[str, object] | None = None,
    **others: object,
) -> int:
    """One of several runs of a command, in a folder of its own; the exit code.

    With ``--resume``, a part that was not begun begins. asked: as for `run_system`. others: options
    in place of those given.
    """
    begun = (folder / CHECKPOINT).exists()
    own = {"out": str(folder), "resume": options.resume and begun, "part": True}
    return run_system(argparse.Namespace(**{**vars(options), **own, **others}), system, asked)
