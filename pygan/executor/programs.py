"""Programs: cooperative launches that stand for several calls that follow each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pygan.errors import GraphError
from pygan.executor.scopes import COOPERATIVE, LIMIT, checked_limit, chosen
from pygan.executor.settings import Settings
from pygan.flags import flag

LEAST_LAUNCHES = 2
"""That a program stands for: a barrier costs less than a launch, from the first on."""
MOST_JOBS = 48
"""Of a program, as kernels/program.cu holds them."""


@dataclass(frozen=True)
class Prepared:
    """A call with its arrays, or a program of several; jobs: what a program would hold of it."""

    run: Callable[[], Any]
    apart: bool = False
    jobs: list[Any] | None = None
    joins: bool = False  # waits for the branch


def recorder(
    settings: Settings, cooperative: bool | None, limit: float | None
) -> Callable[..., list[Any] | None] | None:
    """What makes jobs of a call, given its function and the call itself, or None where programs
    were not asked for; `pygan.executor.Executor` tells what cooperative and limit are.

    Raises GraphError for a limit that is none, and where programs are not available."""
    limit = checked_limit(chosen(limit, LIMIT))
    if not flag(chosen(cooperative, COOPERATIVE), "cooperative"):
        return None
    if settings.storage == "bf16":
        raise GraphError(
            "cooperative=True is not available with storage 'bf16': programs read and write float32"
        )
    if (reason := settings.device.cannot_cooperate()) is not None:
        raise GraphError(f"cooperative=True is not available: {reason}")
    return partial(settings.device.jobs_of, most_microseconds=limit)


def with_programs(
    prepared: Iterable[Prepared], program_of: Callable[[list[Any]], Any]
) -> list[Prepared]:
    """The same steps, runs of those that have jobs as programs.

    What a program holds of the branch (its workspace, at least) must not be in use there."""
    result: list[Prepared] = []
    run: list[Prepared] = []

    def close() -> None:
        jobs = [job for step in run for job in step.jobs or ()]
        if sum(job.launches for job in jobs) < LEAST_LAUNCHES:
            result.extend(run)
        else:
            joins = any(step.apart or step.joins for step in run)
            result.append(Prepared(program_of(jobs), joins=joins))
        run.clear()

    for step in prepared:
        held = sum(len(other.jobs or ()) for other in run)
        if step.jobs is None or held + len(step.jobs) > MOST_JOBS:
            close()
        if step.jobs is None:
            result.append(step)
        else:
            run.append(step)
    close()
    return result
