"""The folder of a run: what lies where, and who may write to it."""

from __future__ import annotations

import fcntl
import shlex
from pathlib import Path

from pygan import checkpoint
from pygan.errors import TrainingError

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
RESULT = "result.json"
AVERAGED = "averaged.safetensors"
LOCK = ".lock"
PATTERNS = (
    CHECKPOINT,
    LOG,
    RESULT,
    AVERAGED,
    "losses.png",
    "checkpoints/epoch_*.safetensors",
    "samples/batch_*.png",
    "pages/epoch_*.pdf",
)


class RunFolder:
    """A run's folder, held by one process at a time.

    checkpoint.safetensors is the newest state, checkpoints/epoch_0001.safetensors the state after
    each epoch, log.jsonl the losses (one JSON object a batch, one an epoch), samples/ the grids,
    pages/ the PDF pages, losses.png the curves, result.json the numbers reached,
    averaged.safetensors the mean of several epochs' generators (``pygan average``).

    Raises TrainingError where the folder cannot be made, holds a run that is neither to be resumed
    nor overwritten, holds none that could be resumed, or is in use by another process.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        quoted = shlex.quote(str(path))
        if resume and not self.checkpoint.exists():
            raise TrainingError(
                f"{path} holds no checkpoint to resume; leave --resume out to start a run there"
            )
        if self.holds_run() and not (resume or overwrite):
            raise TrainingError(
                f"{path} already holds a run: --resume goes on with it, --overwrite starts anew, "
                f"or choose another folder than --out {quoted}"
            )
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"{path} cannot be written: it is a file; name a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Held until the process ends, however it ends.
            self._lock = open(self.path / LOCK, "w")  # noqa: SIM115
        except OSError as error:
            raise TrainingError(f"{path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise TrainingError(f"another process is training in {path}") from None
        checkpoint.remove_parts(self.path, [CHECKPOINT])
        checkpoint.remove_parts(self.path / "checkpoints", ["epoch_*.safetensors"])

    def clear(self) -> None:
        """Removes the files of an earlier run, and nothing else."""
        for pattern in PATTERNS:
            for file in self.path.glob(pattern):
                file.unlink()

    def close(self) -> None:
        """Lets others write to the folder."""
        self._lock.close()

    def holds_run(self) -> bool:
        return self.checkpoint.exists() or self.log.exists()

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def log(self) -> Path:
        return self.path / LOG

    @property
    def result(self) -> Path:
        return self.path / RESULT

    @property
    def losses(self) -> Path:
        return self.path / "losses.png"

    def epoch_checkpoint(self, epoch: int) -> Path:
        return self.path / "checkpoints" / f"epoch_{epoch:04d}.safetensors"

    def sample(self, batch: int) -> Path:
        return self.path / "samples" / f"batch_{batch:07d}.png"

    def page(self, epoch: int) -> Path:
        return self.path / "pages" / f"epoch_{epoch:04d}.pdf"
