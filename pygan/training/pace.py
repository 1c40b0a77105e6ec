"""How quickly a run goes."""

from __future__ import annotations

import time
from typing import Any


class Pace:
    """Speed, measured between reads of the losses: only then has the device done the batches."""

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._time = self._lap = time.monotonic()
        self._seconds_per_batch: float | None = None

    def read(self, batches: int) -> None:
        now = time.monotonic()
        if batches > self._batches:
            latest = (now - self._time) / (batches - self._batches)
            before = self._seconds_per_batch
            self._seconds_per_batch = latest if before is None else 0.8 * before + 0.2 * latest
        self._batches, self._time = batches, now

    def images_per_second(self, settings: Any) -> float:
        return settings.batch_size / self._seconds_per_batch if self._seconds_per_batch else 0.0

    def lap(self) -> float:
        """Seconds since the last lap, or the start."""
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        return seconds
