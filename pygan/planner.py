"""Where arrays live: offsets in one block of memory, from the time each array is needed.

The plan is greedy by size: large arrays first, each at the lowest offset where it meets no array
that lives at the same time (Pisarchyk and Lee 2020, arXiv:2001.03288, call it greedy by size). It
is within a few percent of the lower bound on chains such as networks, and takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 256
"""Bytes; offsets are multiples of it, so that every array can be read in vectors of 16 bytes."""


@dataclass(frozen=True)
class Request:
    """Memory of `nbytes` needed from time `start` to time `end`, both included."""

    nbytes: int
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """Byte offsets, one per request, and the bytes of the whole block."""

    offsets: tuple[int, ...]
    nbytes: int


def aligned(nbytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def plan(requests: Sequence[Request]) -> Plan:
    """Offsets such that no two requests that live at the same time share a byte."""
    offsets = [0] * len(requests)
    placed: list[int] = []
    by_size = sorted(range(len(requests)), key=lambda i: (-requests[i].nbytes, requests[i].start))
    for index in by_size:
        request = requests[index]
        size = aligned(request.nbytes)
        neighbours = sorted(
            (offsets[other], offsets[other] + aligned(requests[other].nbytes))
            for other in placed
            if requests[other].start <= request.end and request.start <= requests[other].end
        )
        offset = 0
        for start, end in neighbours:
            if start - offset >= size:
                break
            offset = max(offset, end)
        offsets[index] = offset
        placed.append(index)
    ends = (o + aligned(r.nbytes) for o, r in zip(offsets, requests, strict=True))
    return Plan(tuple(offsets), max(ends, default=0))


def lower_bound(requests: Sequence[Request]) -> int:
    """The most bytes that live at any one time: no plan can need fewer."""
    return max(
        (
            sum(aligned(r.nbytes) for r in requests if r.start <= moment.start <= r.end)
            for moment in requests
        ),
        default=0,
    )
