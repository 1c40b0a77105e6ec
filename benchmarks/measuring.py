"""What the benchmarks share: timing on every device, the machine's description, records, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of several samples, and their 10th and 90th percentile.

    A sample is the mean of `calls` calls in a row.
    """

    median: float
    low: float
    high: float
    samples: int
    calls: int

    def divided(self, calls: int) -> Timing:
        """Of one call, where what was timed made `calls` calls itself."""
        times = (self.median / calls, self.low / calls, self.high / calls)
        return Timing(*times, samples=self.samples, calls=self.calls * calls)

    def __str__(self) -> str:
        unit, factor = ("ms", 1e3) if self.median >= 1e-3 else ("us", 1e6)
        if self.median >= 1:
            unit, factor = "s", 1.0
        low, middle, high = (factor * t for t in (self.low, self.median, self.high))
        return f"{middle:.3g} {unit} ({low:.3g}-{high:.3g})"


def measure(
    device: Any,
    works: Sequence[Callable[[], Any]],
    *,
    samples: int = 15,
    seconds: float = 0.02,
    warm_up: int = 2,
) -> Timing:
    """Times calls of `works`, taken in turn; all of them do the same on different memory.

    Each sample lasts about `seconds`, and so does the warm-up. On a GPU the device's own clock is
    read (events around the calls); elsewhere the host's.
    """
    for index in range(max(warm_up, 1)):
        works[index % len(works)]()
    device.synchronize()
    # Threads that an earlier work left spinning, caches and clocks: none of them is the work's own.
    started, once = time.perf_counter(), _elapsed(device, works, 1)
    while time.perf_counter() - started < seconds:
        once = min(once, _elapsed(device, works, 1))
    once = max(once, 1e-7)
    calls = max(1, min(10_000, round(seconds / once)))
    times = sorted(_elapsed(device, works, calls) / calls for _ in range(samples))
    return Timing(
        median=statistics.median(times),
        low=times[len(times) // 10],
        high=times[-1 - len(times) // 10],
        samples=samples,
        calls=calls,
    )


def _elapsed(device: Any, works: Sequence[Callable[[], Any]], calls: int) -> float:
    read = _start(device)
    for index in range(calls):
        works[index % len(works)]()
    return read()


def _start(device: Any) -> Callable[[], float]:
    """Starts a clock; the result, called once, waits for the device and gives the seconds since.

    What is no device of pygan's brings its own as `start_clock`.
    """
    if hasattr(device, "start_clock"):
        return device.start_clock()
    if device.name == "cuda":
        context = device.context
        start, end = context.cuda.Event(), context.cuda.Event()
        start.record(context.stream)

        def read_events() -> float:
            end.record(context.stream)
            end.synchronize()
            return 1e-3 * end.time_since(start)

        return read_events
    started = time.perf_counter()

    def read() -> float:
        device.synchronize()
        return time.perf_counter() - started

    return read


def host_seconds(
    device: Any, work: Callable[[], Any], read: Callable[[], Any], samples: int
) -> Timing:
    """The host's time for a step, the device not waited for: four at a time, so that no queue of
    launches fills. `read` empties what steps leave, outside of the timing."""
    times = []
    for _ in range(samples):
        read()
        device.synchronize()
        started = time.perf_counter()
        for _ in range(4):
            work()
        times.append((time.perf_counter() - started) / 4)
        device.synchronize()
    times.sort()
    return Timing(times[samples // 2], times[samples // 10], times[-1 - samples // 10], samples, 4)


def difference(name: str, got: Any, expected: np.ndarray, tolerance: float) -> float:
    """The largest |got - expected| as a share of `tolerance` times the largest |expected|.

    Raises AssertionError where it is above 1; NaN on one side only fails.
    """
    got = np.asarray(got)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise AssertionError(f"{name}: {got.dtype} {got.shape}, not {expected.dtype}")
    if expected.dtype.kind != "f":
        if not np.array_equal(got, expected):
            raise AssertionError(f"{name}: integers differ")
        return 0.0
    if not got.size:
        return 0.0
    scale = tolerance * max(float(np.abs(expected).max()), 1e-30)
    share = float(np.abs(got.astype(float) - expected).max()) / scale
    if not share <= 1:  # written so that NaN fails
        raise AssertionError(
            f"{name}: differs from its twin by {share:.3g} times what rounding allows"
        )
    return share


def machine() -> dict[str, Any]:
    """Processor, cores, versions and the commit: what a figure means nothing without."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    versions = {"python": platform.python_version()}
    for name in ("numpy", "pycuda", "torch", "jax"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load_before": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "commit": commit(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
        ).stdout.strip()

    sources = ("pygan", "bindings", "kernels", "benchmarks/*.py")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *sources)
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if changed else "")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    is_one = is_dataclass(value) and not isinstance(value, type)
    return asdict(value) if is_one else str(value)


def print_table(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Drawn by rich on a terminal, a Markdown table elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*titles, title=title)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    print(f"\n{title}\n")
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |")


def devices(names: Sequence[str]) -> list[Any]:
    """The devices by name; what cannot be used is said on stderr and left out, except when it was
    asked for by name."""
    import pygan.device

    found = []
    for name in names:
        try:
            found.append(pygan.device.get(name))
        except pygan.device.DeviceError as error:
            raise SystemExit(f"device {name}: {error}") from error
    return found


def default_devices() -> list[str]:
    """numpy, and cuda where a GPU answers, else cpu (a process has one CUDA driver)."""
    from pygan.bindings.context import gpu_answers

    return ["numpy", "cuda" if gpu_answers() else "cpu"]


def run_script(main: Callable[[], int]) -> NoReturn:
    """Ends the process with ``main()``'s status, or with the text of pygan's error (a device that
    cannot be used, data that are missing), which says what to do where a traceback would not."""
    from pygan.errors import PyganError

    try:
        sys.exit(main())
    except PyganError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
