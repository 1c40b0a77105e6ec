"""Runs of a few batches on the small set, when two count as the same, and on which devices."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from pygan import checkpoint, device
from pygan.progress import PlainProgress
from pygan.training.log import read_log
from pygan.training.run import train
from pygan.training.run_options import RunOptions

IMAGES = 40
BATCH_SIZE = 4


def chosen_devices() -> list[str]:
    """numpy, and what ``PYGAN_TEST_DEVICES`` names: cpu (default), cpu-check, cuda."""
    names = os.environ.get("PYGAN_TEST_DEVICES", "cpu").split(",")
    return ["numpy", *(name.strip() for name in names if name.strip() != "numpy")]


def open_device(name: str) -> Any:
    """One of ``chosen_devices()``."""
    name, _, mode = name.partition("-")
    return device.get(name, check=mode == "check")


class Trainer:
    """Runs ``pygan.training.run.train`` on the small set; ``text`` is what it printed."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.text = ""

    def __call__(self, out: Path, **options):
        asked = {"data": str(self.data), "batch_size": BATCH_SIZE, "seed": 5, **options}
        stream = io.StringIO()
        try:
            return train(
                RunOptions(out=str(out), **asked), device.get("numpy"), PlainProgress(stream)
            )
        finally:
            self.text = stream.getvalue()

    def state(self, out: Path) -> dict[str, np.ndarray]:
        return checkpoint.load(out / "checkpoint.safetensors")[0]

    def log(self, out: Path) -> list[dict]:
        return read_log(out / "log.jsonl", "batch")


def assert_same_run(found: Path, expected: Path) -> None:
    """The same bits in every array of the checkpoint, and the same losses of every batch."""
    assert_same_state(found, expected)
    assert read_log(found / "log.jsonl", "batch") == read_log(expected / "log.jsonl", "batch")


def assert_same_state(found: Path, expected: Path) -> None:
    """The same bits in every array of the checkpoint."""
    first, _ = checkpoint.load(found / "checkpoint.safetensors")
    second, _ = checkpoint.load(expected / "checkpoint.safetensors")
    assert first.keys() == second.keys()
    different = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    assert not different
