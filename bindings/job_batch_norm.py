"""Jobs of batch normalisation (kernels/job_batch_norm.cuh)."""

from __future__ import annotations

from typing import Any

from .array import DeviceArray
from .job import (
    BARRIER_MICROSECONDS,
    BLOCK_BYTES_PER_MICROSECOND,
    BLOCKS_PER_MULTIPROCESSOR,
    FILE,
    LOAD_LATENCY,
    MULTIPROCESSORS,
    OPERATIONS,
    THREADS,
    Job,
    Launch,
    NotInProgram,
    only,
)

MOST_FOLDS = 4
_CHANNELWISE = ("x", "gamma", "beta")
_FORWARD = (*_CHANNELWISE, "y", "mean", "var", "partial")
_GRADIENTS = ("dy", "dx", "dgamma", "dbeta")
_BACKWARD = (*_CHANNELWISE, "mean", "var", *_GRADIENTS, "moving_mean", "moving_var", "partial")
_MODES = ("fix_gamma", "constant_statistics", "accumulate", "accumulate_gamma", "accumulate_beta")


_HALVES = {
    "batch_norm_forward_training": ("batch_norm_statistics", "batch_norm_normalize"),
    "batch_norm_backward": ("batch_norm_gradient_sums", "batch_norm_backward_data"),
}
"""What a launch of one block for all rows becomes where more blocks are quicker."""

_PASSES = {
    "batch_norm_forward_training": 2,
    "batch_norm_statistics": 1,
    "batch_norm_normalize": 1,
    "batch_norm_backward": 4,
}
"""Over the rows' bytes; of the others 2."""

_MOST_TOGETHER = BLOCKS_PER_MULTIPROCESSOR * MULTIPROCESSORS


def _batch_norm(launch: Launch) -> list[Job]:
    a = launch.arguments
    if launch.defines["VECTOR"] != 4:
        raise NotInProgram(f"{launch.entry}: {FILE} takes four channels at a time")
    kind = launch.defines["ACTIVATION"]
    if kind not in ("none", "relu", "leaky_relu"):
        raise NotInProgram(f"{launch.entry}: {FILE} has no {kind}")
    only(launch, *_FORWARD, *_BACKWARD, *_MODES, "rows", "channels", "rows_per_split", "splits",
         "eps", "slope", "momentum")  # fmt: skip
    # Channels know nothing of each other: a block of several columns of threads is played as
    # several blocks, until there are threads for it.
    width, rows = launch.block
    while width > 1 and width * rows > THREADS:
        width //= 2
    if rows > MOST_FOLDS * THREADS // width:
        raise NotInProgram(f"{launch.entry}: blocks of {launch.block} threads")
    splits = launch.grid[1] if len(launch.grid) > 1 else 1
    whole = [_job(launch.entry, a, kind, (width, rows), splits)]
    halves = _in_halves(launch, kind) if launch.entry in _HALVES else []
    gains = halves and _time(halves) + BARRIER_MICROSECONDS < _time(whole)
    return halves if gains else whole


def _time(jobs: list[Job]) -> float:
    return sum(job.microseconds + job.latency for job in jobs)


def _in_halves(launch: Launch, kind: str) -> list[Job]:
    """The same in two jobs, with a row or two for each thread of as many blocks as there are; or
    nothing, where one block has too few rows to share."""
    a = launch.arguments
    width, rows = launch.block[0], 1
    while 2 * rows * width <= THREADS:
        rows *= 2
    columns = -(-a["channels"] // (4 * width))
    # A thread of each row adds up what one split left: so many, in one round of loads.
    splits = min(_MOST_TOGETHER // columns, -(-a["rows"] // rows), rows)
    if splits < 2:
        return []
    rows_per_split = -(-a["rows"] // splits)
    splits = -(-a["rows"] // rows_per_split)
    partial = DeviceArray.empty(a["x"].context, (2 * splits * a["channels"],))
    given = a | {"partial": partial, "rows_per_split": rows_per_split, "splits": splits}
    first, second = (
        _job(entry, given, kind, (width, rows), splits) for entry in _HALVES[launch.entry]
    )
    read = ("x",) if launch.entry == "batch_norm_forward_training" else _BACKWARD[:6]
    first.reads, first.writes, first.is_launched = [a[name] for name in read], [partial], False
    second.reads, second.launches = [partial], 0
    return [first, second]


def _job(entry: str, a: dict[str, Any], kind: str, block: tuple[int, int], splits: int) -> Job:
    """A job of `splits` played blocks for the rows of as many channels as `block` has."""
    slope = 1.0 if kind == "none" else a.get("slope", 0.0)
    sizes = (int(kind == "relu"), a["rows"], a["channels"], a.get("rows_per_split", a["rows"]))
    reals: tuple[float, ...] = (a.get("eps", 0.0), slope)
    arrays: tuple[Any, ...]
    numbers: tuple[int, ...]
    if entry == "batch_norm_statistics":
        arrays, numbers = (a["x"], a["partial"]), sizes
    elif entry in ("batch_norm_forward_training", "batch_norm_normalize"):
        arrays = tuple(a.get(name) for name in _FORWARD)
        numbers = (*sizes, a["fix_gamma"])
    else:
        arrays = tuple(a.get(name) for name in _BACKWARD)
        modes = tuple(a.get(name, 0) for name in _MODES)
        numbers = (*sizes, *modes, a.get("splits", 0))
        reals = (*reals, a.get("momentum", 0.0))
    columns = -(-a["channels"] // (4 * block[0]))
    moved = _PASSES.get(entry, 2) * 16 * block[0] * min(a["rows"], sizes[3])
    waves = -(-columns * splits // _MOST_TOGETHER)
    time = waves * moved / BLOCK_BYTES_PER_MICROSECOND
    rounds = 1 if entry in ("batch_norm_statistics", "batch_norm_gradient_sums") else 2
    grid = (columns, splits, 1)
    return Job(entry, grid, arrays, numbers, time, rounds * LOAD_LATENCY, reals, block=block)


MAKERS = {name: _batch_norm for name in OPERATIONS if name.startswith("batch_norm")}
