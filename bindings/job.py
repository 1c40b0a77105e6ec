"""A job: what a launch becomes in a program (kernels/job.cuh), and what a model expects of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .array import DeviceArray
from .errors import BindingsError

FILE, ENTRY = "program.cu", "run_program"
THREADS = 128
MOST_JOBS = 48
MOST_ELEMENTS = 2**30
BLOCKS_PER_MULTIPROCESSOR = 2
"""More blocks wait longer for each other than they gain."""

MULTIPROCESSORS = 132
BLOCK_BYTES_PER_MICROSECOND = 12_000
"""That 128 threads read: 8 kB are under way at a time, for some 0.7 us."""
MOST_MICROSECONDS = 7.0
"""How long a job may take, unless said otherwise: one that takes longer gains nothing, since its
own launch has tiles and threads of its own."""

LAUNCH_MICROSECONDS = 2.6
"""Of a program and its table."""

BARRIER_MICROSECONDS = 1.0
"""An atomic and a poll through the second-level cache, each some 0.4 us, and what they wait for."""

LOAD_LATENCY = 0.6
"""Microseconds of a round of loads that the next one waits for."""

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
    "activation_forward",
    "activation_backward",
    "pooling_forward",
    "pooling_backward",
    "sigmoid_cross_entropy_forward",
)
"""In the order of kernels/job.cuh."""

PRODUCTS = OPERATIONS[:3]
ACTIVATIONS = ("none", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus")
"""In the order of kernels/activation.cuh."""

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
    counts: how many numbers it needs that are 0 between launches; microseconds: what the model
    gives its steps and bytes, all multiprocessors its own, and latency: what its blocks wait;
    is_launched: whether it touches the launch's arrays, or only those that it names itself;
    launches: for how many it stands."""

    operation: str
    grid: tuple[int, int, int]
    arrays: Sequence[DeviceArray | None]
    numbers: Sequence[int]
    microseconds: float
    latency: float
    reals: Sequence[float] = ()
    counts: int = 0
    block: tuple[int, int] = (0, 0)
    reads: list[DeviceArray] = field(default_factory=list)
    writes: list[DeviceArray] = field(default_factory=list)
    is_launched: bool = True
    launches: int = 1

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    def packed(self, waits: bool, first: int, counts: int = 0) -> bytes:
        """counts: where those are."""
        numbers = [*self.numbers, *[0] * (24 - len(self.numbers))]
        reals = [*self.reals, *[0.0] * (4 - len(self.reals))]
        places = [0 if array is None else array.ptr for array in self.arrays]
        places += [counts] if self.counts else []
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


def fours(entry: str, n: int) -> int:
    if n % 4 or n > MOST_ELEMENTS:
        raise NotInProgram(f"{entry}: {FILE} takes four elements at a time, of at most 2**30")
    return n


def flat(n: int) -> tuple[tuple[int, int, int], float]:
    """The grid of a job of n elements, four to a thread at a time, and its microseconds."""
    packs = -(-n // (4 * THREADS))
    blocks = min(packs, BLOCKS_PER_MULTIPROCESSOR * MULTIPROCESSORS)
    return (max(1, blocks), 1, 1), (-(-packs // max(1, blocks)) - 1) * LOAD_LATENCY


def moving(nbytes: int, grid: tuple[int, int, int]) -> float:
    """Microseconds of `nbytes` that these blocks share."""
    blocks = grid[0] * grid[1] * grid[2]
    together = min(blocks, BLOCKS_PER_MULTIPROCESSOR * MULTIPROCESSORS)
    return nbytes / (together * BLOCK_BYTES_PER_MICROSECOND)


def only(launch: Launch, *known: str) -> None:
    """Refuses parameters that the job would not heed."""
    for name, value in launch.arguments.items():
        if name not in known and value not in (None, 0):
            raise NotInProgram(f"{launch.entry}: {FILE} knows no {name}")
