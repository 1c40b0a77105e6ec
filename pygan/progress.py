"""What a training run shows while it runs: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

PLAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Status:
    """Where a run stands: epoch (from 1) of epochs, batches done in it, the latest numbers. unit:
    what an epoch is called."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    numbers: str
    images_per_second: float
    unit: str = "epoch"

    def text(self) -> str:
        return f"{self.numbers}  {self.images_per_second:,.0f} images/s"


class Progress(Protocol):
    """Shows a run. ``show`` is called often; ``say`` prints one line that stays."""

    def show(self, status: Status) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class PlainProgress:
    """Lines for logs and pipes: one every ten seconds and one at the end of each epoch."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.last = -PLAIN_SECONDS

    def show(self, status: Status) -> None:
        now = time.monotonic()
        if now - self.last < PLAIN_SECONDS and status.batch < status.batches:
            return
        self.last = now
        self.say(
            f"{status.unit} {status.epoch}/{status.epochs}  batch {status.batch}/{status.batches}  "
            + status.text()
        )

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        pass


class LiveProgress:
    """A bar over the whole run that moves, with the latest numbers under it, by rich."""

    def __init__(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        self.console = Console(highlight=False)
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            expand=True,
        )
        self.numbers = Text()
        self.live = Live(Group(self.bar, self.numbers), console=self.console, refresh_per_second=5)
        self.task: Any = None

    def show(self, status: Status) -> None:
        total = status.epochs * status.batches
        done = (status.epoch - 1) * status.batches + status.batch
        description = f"{status.unit} {status.epoch}/{status.epochs}"
        if self.task is None:
            self.task = self.bar.add_task(description, total=total, completed=done)
            self.live.start()
        self.bar.update(self.task, description=description, completed=done)
        self.numbers.plain = status.text()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        self.live.stop()


class CompilingSaid(logging.Handler):
    """While entered, a run says that kernels are being compiled, which its first step waits for:
    once, and then how many at most every ten seconds."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self.progress = progress
        self.logger = logging.getLogger("pygan.compiling")
        self.count = 0
        self.last = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        now = time.monotonic()
        if self.count == 1:
            self.progress.say("compiling kernels, which are kept for later runs")
        elif now - self.last >= PLAIN_SECONDS:
            self.progress.say(f"compiling kernels: {self.count - 1} done")
        else:
            return
        self.last = now

    def __enter__(self) -> CompilingSaid:
        self.before = self.logger.level
        self.logger.setLevel(logging.INFO)
        self.logger.addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self.logger.removeHandler(self)
        self.logger.setLevel(self.before)


def make_progress(plain: bool = False) -> Progress:
    """The live bar where standard output is a terminal, else plain lines."""
    return LiveProgress() if sys.stdout.isatty() and not plain else PlainProgress()
