"""The log of a run: a JSON object a line, one for each batch and one for each epoch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pygan import checkpoint
from pygan.errors import TrainingError


class JsonLog:
    """The file of a run that begins, or goes on after ``batches_done`` batches: the entries up to
    there are kept. Later ones, which a killed run leaves, and lines that are none go.

    missing: how many of those batches have no entry, as the file was removed, cut or changed.

    Raises TrainingError where the file cannot be written.
    """

    def __init__(self, path: Path, batches_done: int = 0, batches_per_epoch: int = 1) -> None:
        self.path = path
        with self._explained("cannot be written"):
            content = path.read_bytes() if path.exists() else b""
            kept, known = _up_to(content, batches_done, batches_done // batches_per_epoch)
            if not content.startswith(kept):
                checkpoint.atomic_write(path, kept)
            self._file = open(path, "ab")  # noqa: SIM115
            self._file.truncate(len(kept))
        self.missing = batches_done - known

    def write(self, entry: dict[str, Any]) -> None:
        with self._explained("could not be written", "; the last checkpoint is whole"):
            self._file.write(json.dumps(entry).encode() + b"\n")

    def flush(self, to_disk: bool = False) -> None:
        """Hands lines to the system (and the disk)."""
        with self._explained("could not be written", "; the last checkpoint is whole"):
            self._file.flush()
            if to_disk:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        # What cannot be written any more was reported by the flush before.
        with contextlib.suppress(OSError):
            self._file.close()

    @contextlib.contextmanager
    def _explained(self, what: str, consequence: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(f"{self.path} {what}: {error.strerror}{consequence}") from None


def read_log(path: Path, kind: str) -> list[dict[str, Any]]:
    """The entries of one kind (``"batch"`` or ``"epoch"``) in a log, in order; batches may lack,
    see `JsonLog.missing`."""
    found = (_entry(line) for line in path.read_bytes().splitlines())
    return [entry for entry in found if entry["kind"] == kind]


def _up_to(content: bytes, batches: int, epochs: int) -> tuple[bytes, int]:
    """The lines of the first batches and epochs, each once and in order, and of how many batches
    they are."""
    lines: list[bytes] = []
    limits = {"batch": batches, "epoch": epochs + 1}  # batches are numbered from 0, epochs from 1
    latest = {"batch": -1, "epoch": 0}
    known = 0
    for line in content.splitlines(keepends=True):
        entry = _entry(line)
        kind = entry["kind"]
        if kind not in limits or not line.endswith(b"\n"):
            continue
        number = entry.get(kind)
        if isinstance(number, int) and latest[kind] < number < limits[kind]:
            lines.append(line)
            latest[kind] = number
            known += kind == "batch"
    return b"".join(lines), known


def _entry(line: bytes) -> dict[str, Any]:
    """What a line says; of no kind where it is not whole."""
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and isinstance(found.get("kind"), str):
            return found
    return {"kind": ""}
