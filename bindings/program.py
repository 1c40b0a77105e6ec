"""Programs: the launches of many small operators as one cooperative launch (kernels/program.cu).

A call of an operator is recorded instead of launched: what it would launch, with which arguments,
becomes jobs (job.py). Jobs that touch the same memory keep their order, with a barrier of the grid
between them; all others share the grid. A job computes what its launch would have, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import compiler, cooperative, job_batch_norm, job_elements, job_products
from . import signature as signatures
from .array import DeviceArray
from .errors import LaunchError
from .job import (
    BARRIER_MICROSECONDS,
    BLOCKS_PER_MULTIPROCESSOR,
    ENTRY,
    FILE,
    LAUNCH_MICROSECONDS,
    MOST_JOBS,
    MOST_MICROSECONDS,
    THREADS,
    Job,
    Launch,
    NotInProgram,
)
from .job_products import finished_by_last

if TYPE_CHECKING:
    from .context import Context

FUNCTIONS = frozenset(
    f"{kind}convolution_{pass_}"
    for kind in ("", "transposed_")
    for pass_ in ("forward", "backward_data", "backward_weight")
) | {
    "activation_forward",
    "activation_backward",
    "bias_backward",
    "pooling_forward",
    "pooling_backward",
    "sigmoid_cross_entropy_forward",
    "batch_norm_forward_training",
    "batch_norm_forward_inference",
    "batch_norm_backward",
}
"""Operators that do nothing but launch kernels, some of which have jobs."""

MAKERS = job_products.MAKERS | job_batch_norm.MAKERS | job_elements.MAKERS
"""By entry point, what makes jobs of a launch of it."""

_recording = threading.Lock()  # one call at a time; other threads launch meanwhile


def why_not(context: Context) -> str | None:
    """Why the context's device cannot run programs, or None."""
    return cooperative.why_not(context)


def jobs_of(
    context: Context, call: Callable[[], Any], most_microseconds: float = MOST_MICROSECONDS
) -> list[Job]:
    """What `call` would launch on the context, as jobs; nothing is launched.

    Raises NotInProgram where a launch has no job, or one that the model gives more than
    `most_microseconds`; what the call itself raises comes through."""
    jobs: list[Job] = []
    with _recorded(context, jobs, most_microseconds):
        call()
    return finished_by_last(jobs)


@contextmanager
def _recorded(context: Context, jobs: list[Job], most_microseconds: float) -> Iterator[None]:
    def kernel(file: str, entry: str, defines: dict[str, Any]) -> Callable[..., None]:
        make = MAKERS.get(entry)
        if make is None:
            raise NotInProgram(f"{entry} has no job in {FILE}")

        def launch(grid: Any, block: Any, *arguments: Any, shared_bytes: int = 0) -> None:
            parameters = _parameters(compiler.source_path(file), entry, tuple(defines.items()))
            by_name = dict(zip((p.name for p in parameters), arguments, strict=True))
            arrays = [a for p, a in zip(parameters, arguments, strict=True) if p.pointer]
            if any(a is not None and a.dtype != np.float32 for a in arrays):
                raise NotInProgram(f"{entry} has arrays of other numbers than float32")
            made = make(Launch(entry, defines, _tuple(grid), _tuple(block), by_name))
            for job in made:
                for parameter, array in zip(parameters, arguments, strict=True):
                    if job.is_launched and parameter.pointer and array is not None:
                        (job.reads if parameter.const else job.writes).append(array)
                if job.microseconds > most_microseconds:
                    raise NotInProgram(f"{entry} would take {job.microseconds:.1f} us in a program")
                if any(a is not None and a.ptr % 16 for a in job.arrays):
                    raise NotInProgram(
                        f"{entry} has arrays that do not begin at multiples of 16 bytes"
                    )
            jobs.extend(made)

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
def _parameters(
    path: Path, entry: str, defines: tuple[Any, ...]
) -> tuple[signatures.Parameter, ...]:
    return signatures.parse(path.read_text(encoding="utf-8"), dict(defines))[entry].parameters


class Program:
    """Jobs, ready to be launched together; call it to launch them on the context's stream.

    The order of jobs that depend on each other is kept. The arrays are kept alive; `barriers` says
    how often the grid waits, `grid` how many blocks it has, `microseconds` what the model expects
    of a launch on a large GPU.
    Raises DeviceUnavailable where the device has no cooperative launches, ValueError for no jobs or
    more than MOST_JOBS, LaunchError while launches are being recorded.
    """

    def __init__(self, context: Context, jobs: Sequence[Job]) -> None:
        if not 0 < len(jobs) <= MOST_JOBS:
            raise ValueError(f"a program has 1 to {MOST_JOBS} jobs, not {len(jobs)}")
        if context.recording:
            raise LaunchError(
                "a program copies its table to the device when it is made, which no recording "
                "allows; run the pass once before it is recorded"
            )
        self.jobs = list(jobs)
        self._kernel = context.cooperative_kernel(FILE, ENTRY, MOST_JOBS=MOST_JOBS)
        phases = in_phases(jobs)
        self.barriers = len(phases) - 1
        self.microseconds = LAUNCH_MICROSECONDS + BARRIER_MICROSECONDS * self.barriers
        self.microseconds += sum(max(j.microseconds + j.latency for j in p) for p in phases)
        self.grid = self._grid_for(context, max(sum(j.blocks for j in phase) for phase in phases))
        self._counts = DeviceArray.from_numpy(
            context, np.zeros(max(1, sum(job.counts for job in jobs)), np.uint32)
        )
        packed, counts = [], self._counts.ptr
        for number, phase in enumerate(phases):
            first = 0
            for place, job in enumerate(phase):
                waits = number > 0 and place == 0
                packed.append(job.packed(waits, first % self.grid, counts))
                first += job.blocks
                counts += 4 * job.counts
        # Arrays of an arena may begin at one place: their sizes tell them apart.
        touched = (array for job in jobs for array in (*job.reads, *job.writes))
        distinct = {(array.ptr, array.nbytes): array for array in touched}
        self._arrays = (*distinct.values(), self._counts)
        table = np.frombuffer(b"".join(packed), np.int64).copy()
        self._table = DeviceArray.from_numpy(context, table)
        self._arrivals = DeviceArray.from_numpy(context, np.zeros(1, np.uint64))

    def _grid_for(self, context: Context, blocks: int) -> int:
        most = self._kernel.most_blocks(THREADS)
        wanted = BLOCKS_PER_MULTIPROCESSOR * self._kernel.multiprocessors
        return min(blocks, most, max(wanted, 1) if context.name == "cuda" else most)

    def __call__(self) -> None:
        arguments = (self._table, len(self.jobs), self._arrivals)
        try:
            self._kernel(self.grid, THREADS, *arguments, behind=self._arrays)
        except LaunchError:
            if (
                self._kernel.context.name == "cpu"
            ):  # a GPU's context is lost, and the counts with it
                self._counts.fill(0)  # blocks have ended that others counted on
            raise

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
