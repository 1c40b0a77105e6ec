"""Programs: the launches of many small operators as one cooperative launch (kernels/program.cu).

A call of an operator is recorded instead of launched: what it would launch, with which arguments,
becomes jobs. Jobs that touch the same memory keep their order, with a barrier of the grid between
them; all others share the grid. A job computes what its launch would have, bit for bit.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import compiler, cooperative
from . import signature as signatures
from .array import DeviceArray
from .errors import BindingsError

if TYPE_CHECKING:
    from .context import Context

FILE = "program.cu"
THREADS = 128
TILE_M, TILE_N, TILE_K = 64, 32, 16
MOST_JOBS = 48
MOST_EXTENT = 2**14
MOST_CHANNELS = 2**24
MOST_FOLDS = 4
BLOCKS_PER_MULTIPROCESSOR = 2
"""More blocks wait longer for each other than they gain."""

MULTIPROCESSORS = 132
STEP_MICROSECONDS = 0.38
"""Of a tile of 64 x 32 and a depth of 16: 396 cycles of instructions and 250 of waiting, as in
operators/tiling.py, at 1.7 GHz."""
BLOCK_BYTES_PER_MICROSECOND = 12_000
"""That 128 threads read: 8 kB are under way at a time, for some 0.7 us."""
MOST_MICROSECONDS = 7.0
"""A job that takes longer gains nothing: its own launch has tiles and threads of its own."""

OPERATIONS = (
    "forward",
    "backward_data",
    "backward_weight",
    "sum_partials",
    "sum_many_partials",
    "bias_backward",
    "batch_norm_forward_training",
    "batch_norm_statistics",
    "batch_norm_normalize",
    "batch_norm_backward",
    "batch_norm_gradient_sums",
    "batch_norm_backward_data",
)
"""In the order of kernels/program.cu."""

FUNCTIONS = frozenset(
    f"{kind}convolution_{pass_}"
    for kind in ("", "transposed_")
    for pass_ in ("forward", "backward_data", "backward_weight")
) | {
    "bias_backward",
    "batch_norm_forward_training",
    "batch_norm_forward_inference",
    "batch_norm_backward",
}
"""Operators that do nothing but launch kernels, some of which have jobs."""

LAYER = (
    *("batch", "height", "width", "x_channels", "y_height", "y_width", "y_channels"),
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
    *("dilation_h", "dilation_w", "groups"),
)

_recording = threading.Lock()  # one call at a time; other threads launch meanwhile

_JOB = struct.Struct("<8i24i4f12Q")


class NotInProgram(BindingsError):
    """A launch that no job of kernels/program.cu stands for, or that is too large for one."""


class Launch(NamedTuple):
    """What a launcher asked for: the kernel's parameters by name."""

    entry: str
    defines: dict[str, Any]
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: dict[str, Any]


@dataclass
class Job:
    """One launch, as program.cu plays it. reads, writes: arrays; grid: the blocks that are played;
    microseconds: what the model gives it, all multiprocessors its own."""

    operation: str
    grid: tuple[int, int, int]
    arrays: Sequence[DeviceArray | None]
    numbers: Sequence[int]
    microseconds: float
    reals: Sequence[float] = ()
    block: tuple[int, int] = (0, 0)
    reads: list[DeviceArray] = field(default_factory=list)
    writes: list[DeviceArray] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    def packed(self, waits: bool, first: int) -> bytes:
        numbers = [*self.numbers, *[0] * (24 - len(self.numbers))]
        reals = [*self.reals, *[0.0] * (4 - len(self.reals))]
        places = [0 if array is None else array.ptr for array in self.arrays]
        places += [0] * (12 - len(places))
        head = (OPERATIONS.index(self.operation), int(waits), first, self.blocks, *self.grid[:2])
        return _JOB.pack(*head, *self.block, *numbers, *reals, *places)

    def waits_for(self, other: Job) -> bool:
        """Whether both touch the same memory, and one of them writes it."""
        return (
            _overlap(self.reads, other.writes)
            or _overlap(self.writes, other.reads)
            or _overlap(self.writes, other.writes)
        )


def _overlap(some: Sequence[DeviceArray], others: Sequence[DeviceArray]) -> bool:
    return any(a.ptr < b.ptr + b.nbytes and b.ptr < a.ptr + a.nbytes for a in some for b in others)


def why_not(context: Context) -> str | None:
    """Why the context's device cannot run programs, or None."""
    return cooperative.why_not(context)


def jobs_of(context: Context, call: Callable[[], Any]) -> list[Job]:
    """What `call` would launch on the context, as jobs; nothing is launched.

    Raises NotInProgram where a launch has no job, or one that would take longer than it gains;
    what the call itself raises comes through."""
    jobs: list[Job] = []
    with _recorded(context, jobs):
        call()
    return jobs


@contextmanager
def _recorded(context: Context, jobs: list[Job]) -> Iterator[None]:
    def kernel(file: str, entry: str, defines: dict[str, Any]) -> Callable[..., None]:
        make = _MAKERS.get(entry)
        if make is None:
            raise NotInProgram(f"{entry} has no job in {FILE}")

        def launch(grid: Any, block: Any, *arguments: Any, shared_bytes: int = 0) -> None:
            parameters = _parameters(compiler.source_path(file), entry, tuple(defines.items()))
            by_name = dict(zip((p.name for p in parameters), arguments, strict=True))
            asked = Launch(entry, defines, _tuple(grid), _tuple(block), by_name)
            job = make(asked)
            for parameter, array in zip(parameters, arguments, strict=True):
                if parameter.pointer and array is not None:
                    (job.reads if parameter.const else job.writes).append(array)
            if job.microseconds > MOST_MICROSECONDS:
                raise NotInProgram(f"{entry} would take {job.microseconds:.1f} us in a program")
            if any(a is not None and a.ptr % 16 for a in job.arrays):
                raise NotInProgram(f"{entry} has arrays that do not begin at multiples of 16 bytes")
            jobs.append(job)

        return launch

    with _recording:
        context.recorder = (threading.get_ident(), kernel)
        try:
            yield
        finally:
            context.recorder = None


def _tuple(size: Any) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, Sequence) else (size,)


@lru_cache(maxsize=256)
def _parameters(path: Path, entry: str, defines: tuple) -> tuple[signatures.Parameter, ...]:
    return signatures.parse(path.read_text(encoding="utf-8"), dict(defines))[entry].parameters


class Program:
    """Jobs, ready to be launched together; call it to launch them on the context's stream.

    The order of jobs that depend on each other is kept. The arrays are kept alive; `barriers` says
    how often the grid waits, `grid` how many blocks it has.
    Raises DeviceUnavailable where the device has no cooperative launches, ValueError for no jobs or
    more than MOST_JOBS.
    """

    def __init__(self, context: Context, jobs: Sequence[Job]) -> None:
        if not 0 < len(jobs) <= MOST_JOBS:
            raise ValueError(f"a program has 1 to {MOST_JOBS} jobs, not {len(jobs)}")
        self.jobs = list(jobs)
        self._kernel = context.cooperative_kernel(FILE, "run_program", MOST_JOBS=MOST_JOBS)
        phases = in_phases(jobs)
        self.barriers = len(phases) - 1
        self.grid = self._grid_for(context, max(sum(j.blocks for j in phase) for phase in phases))
        packed = []
        for number, phase in enumerate(phases):
            first = 0
            for place, job in enumerate(phase):
                packed.append(job.packed(number > 0 and place == 0, first % self.grid))
                first += job.blocks
        # Arrays of an arena may begin at one place: their sizes tell them apart.
        touched = (array for job in jobs for array in (*job.reads, *job.writes))
        self._arrays = tuple({(array.ptr, array.nbytes): array for array in touched}.values())
        table = np.frombuffer(b"".join(packed), np.int64).copy()
        self._table = DeviceArray.from_numpy(context, table)
        self._arrivals = DeviceArray.from_numpy(context, np.zeros(1, np.uint64))

    def _grid_for(self, context: Context, blocks: int) -> int:
        most = self._kernel.most_blocks(THREADS)
        wanted = BLOCKS_PER_MULTIPROCESSOR * self._kernel.multiprocessors
        return min(blocks, most, max(wanted, 1) if context.name == "cuda" else most)

    def __call__(self) -> None:
        arguments = (self._table, len(self.jobs), self._arrivals)
        self._kernel(self.grid, THREADS, *arguments, behind=self._arrays)

    def __repr__(self) -> str:
        return f"<program of {len(self.jobs)} jobs, {self.barriers} barriers, {self.grid} blocks>"


def in_phases(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in as few groups as dependencies allow: none of a group waits for another of it."""
    levels: list[int] = []
    for i, job in enumerate(jobs):
        before = [levels[k] + 1 for k in range(i) if job.waits_for(jobs[k])]
        levels.append(max(before, default=0))
    phases: list[list[Job]] = [[] for _ in range(max(levels) + 1)]
    for level, job in zip(levels, jobs, strict=True):
        phases[level].append(job)
    return phases


# From launches to jobs.


def _product(launch: Launch) -> Job:
    operation = launch.entry.removeprefix("convolution_").removesuffix("_pipelined")
    a = launch.arguments
    layer = {name: a[name] for name in LAYER}
    slices, groups = a["slices"], layer["groups"]
    taps = layer["kernel_h"] * layer["kernel_w"]
    group_x, group_y = layer["x_channels"] // groups, layer["y_channels"] // groups
    pixels = layer["batch"] * layer["y_height"] * layer["y_width"]
    products = groups
    if operation == "forward":
        lines, columns, depth = pixels, group_y, taps * group_x
        arrays = (a["x"], a["w"], a["bias"], a["y"])
    elif operation == "backward_weight":
        lines, columns, depth = taps * group_x, group_y, pixels
        arrays = (a["x"], a["dy"], None, a["dw"])
    else:
        stride = (layer["stride_h"], layer["stride_w"])
        across = -(-layer["height"] // stride[0]) * -(-layer["width"] // stride[1])
        products *= stride[0] * stride[1]
        lines, columns = layer["batch"] * across, group_x
        depth = -(-taps * group_y * groups // products)
        arrays = (a["dy"], a["w"], a["bias"], a["dx"])
    extents = (
        layer["height"] + 2 * layer["pad_h"],
        layer["width"] + 2 * layer["pad_w"],
        layer["kernel_h"] * layer["dilation_h"],
        layer["kernel_w"] * layer["dilation_w"],
    )
    channels = (layer["x_channels"], layer["y_channels"])
    if max(extents) >= MOST_EXTENT or max(channels) >= MOST_CHANNELS:
        raise NotInProgram(f"{launch.entry}: images or channels beyond what {FILE} counts")
    _only(launch, *LAYER, "slices", "accumulate", "x", "w", "bias", "y", "dy", "dx", "dw")
    grid = (-(-lines // TILE_M), -(-columns // TILE_N), products * slices)
    steps = -(-depth // (TILE_K * slices)) * -(-grid[0] * grid[1] * grid[2] // MULTIPROCESSORS)
    numbers = (*layer.values(), slices, a["accumulate"])
    return Job(operation, grid, arrays, numbers, steps * STEP_MICROSECONDS)


def _sum(launch: Launch) -> Job:
    a = launch.arguments
    _only(launch, "partials", "bias", "y", "size", "channels", "slices", "accumulate")
    columns = 32 if launch.entry == "sum_many_partials" else THREADS
    if a["size"] >= 2**31:
        raise NotInProgram(f"{launch.entry}: {a['size']} elements are beyond what {FILE} counts")
    grid = (-(-a["size"] // columns), 1, 1)
    numbers = (a["size"], a["channels"], a["slices"], a["accumulate"])
    moved = 4 * a["size"] * (a["slices"] + 1)
    arrays = (a["partials"], a["bias"], a["y"])
    return Job(launch.entry, grid, arrays, numbers, _moving(moved, grid))


def _bias(launch: Launch) -> Job:
    a = launch.arguments
    _only(launch, "dy", "partials", "rows", "channels", "accumulate")
    grid = (launch.grid[0], launch.grid[1], 1)
    numbers = (a["rows"], a["channels"], a["accumulate"], grid[1])
    moved = 4 * a["rows"] * a["channels"]
    return Job(launch.entry, grid, (a["dy"], a["partials"]), numbers, _moving(moved, grid))


_CHANNELWISE = ("x", "gamma", "beta")
_FORWARD = (*_CHANNELWISE, "y", "mean", "var", "partial")
_BACKWARD = (*_CHANNELWISE, "mean", "var", "dy", "dx", "dgamma", "dbeta", "moving_mean")
_BACKWARD = (*_BACKWARD, "moving_var", "partial")
_MODES = ("fix_gamma", "constant_statistics", "accumulate", "accumulate_gamma", "accumulate_beta")


def _batch_norm(launch: Launch) -> Job:
    a = launch.arguments
    if launch.defines["VECTOR"] != 4:
        raise NotInProgram(f"{launch.entry}: {FILE} takes four channels at a time")
    kind = launch.defines["ACTIVATION"]
    if kind not in ("none", "relu", "leaky_relu"):
        raise NotInProgram(f"{launch.entry}: {FILE} has no {kind}")
    slope = 1.0 if kind == "none" else a.get("slope", 0.0)
    sizes = (int(kind == "relu"), a["rows"], a["channels"], a.get("rows_per_split", a["rows"]))
    _only(launch, *_FORWARD, *_BACKWARD, *_MODES, "rows", "channels", "rows_per_split", "splits",
          "eps", "slope", "momentum")  # fmt: skip
    passes, reals = 2, (a.get("eps", 0.0), slope)
    if launch.entry == "batch_norm_statistics":
        arrays, numbers, passes = (a["x"], a["partial"]), sizes, 1
    elif launch.entry in ("batch_norm_forward_training", "batch_norm_normalize"):
        arrays = tuple(a.get(name) for name in _FORWARD)
        numbers = (*sizes, a["fix_gamma"])
        passes = 1 if launch.entry == "batch_norm_normalize" else 2
    else:
        arrays = tuple(a.get(name) for name in _BACKWARD)
        modes = tuple(a.get(name, 0) for name in _MODES)
        numbers = (*sizes, *modes, a.get("splits", 0))
        reals = (*reals, a.get("momentum", 0.0))
        passes = 4 if launch.entry == "batch_norm_backward" else 2
    # Channels know nothing of each other: a block of several columns of threads is played as
    # several blocks, until there are threads for it.
    width, rows = launch.block
    while width > 1 and width * rows > THREADS:
        width //= 2
    if rows > MOST_FOLDS * THREADS // width:
        raise NotInProgram(f"{launch.entry}: blocks of {launch.block} threads")
    columns = -(-a["channels"] // (4 * width))
    splits = launch.grid[1] if len(launch.grid) > 1 else 1
    moved = passes * 16 * width * min(a["rows"], sizes[3])
    waves = -(-columns * splits // (BLOCKS_PER_MULTIPROCESSOR * MULTIPROCESSORS))
    time = waves * moved / BLOCK_BYTES_PER_MICROSECOND
    return Job(launch.entry, (columns, splits, 1), arrays, numbers, time, reals, (width, rows))


def _moving(nbytes: int, grid: tuple[int, int, int]) -> float:
    """Microseconds of `nbytes` that these blocks share."""
    blocks = grid[0] * grid[1] * grid[2]
    together = min(blocks, BLOCKS_PER_MULTIPROCESSOR * MULTIPROCESSORS)
    return nbytes / (together * BLOCK_BYTES_PER_MICROSECOND)


def _only(launch: Launch, *known: str) -> None:
    """Refuses parameters that the job would not heed."""
    for name, value in launch.arguments.items():
        if name not in known and value not in (None, 0):
            raise NotInProgram(f"{launch.entry}: {FILE} knows no {name}")


_MAKERS: dict[str, Callable[[Launch], Job]] = (
    {
        f"convolution_{operation}{way}": _product
        for operation in OPERATIONS[:3]
        for way in ("", "_pipelined")
    }
    | {name: _sum for name in ("sum_partials", "sum_many_partials")}
    | {"bias_backward": _bias}
    | {name: _batch_norm for name in OPERATIONS if name.startswith("batch_norm")}
)
