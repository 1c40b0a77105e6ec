"""Launchers of kernels/partial_sums.cu: the gradient of a bias, and the second stage of sums that
were cut into slices; the maths is in pygan.reference.convolution.

A sliced sum lies in a workspace of as many copies of the result as there are slices, or in a result
(slices, ...) where whoever reads it adds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

from .epilogue import NOTHING, Epilogue
from .plans.general import ENOUGH_BLOCKS
from .plans.model import MOST_SLICES
from .storage import types
from .validation import THREADS, aligned, device_array, has_shape, has_workspace

FILE = "partial_sums.cu"
FEW_SLICES = 8
"""Up to which one thread adds the slices of an element; 8 threads share longer sums."""

PARTIALS_COLUMNS = 32
"""Elements per block of sum_many_partials."""

BIAS_COLUMNS = 32
"""Channels per block of bias_backward."""

BIAS_ROWS = 256
"""Rows that make a slice of bias_backward worth its share of a second launch."""


def bias_backward(
    dy: Any, dbias: Any, *, accumulate: bool = False, workspace: Any | None = None
) -> None:
    """dbias (C,) = the sum of dy (..., C), which may hold bf16 numbers, over all axes but the last.

    Raises ValueError where shapes do not fit."""
    operator = "bias_backward"
    if not device_array(operator, "dy", dy).shape:
        raise ValueError(f"{operator}: dy has no axes; it must be (..., C)")
    has_shape(operator, "dbias", dbias, dy.shape[-1:], f"dy {tuple(dy.shape)}")
    channels = dy.shape[-1]
    if not channels:
        return
    rows = dy.size // channels
    columns, slices = _bias_grid(rows, channels)
    written = target(operator, dbias, workspace, slices)
    vector = 4 if channels % 4 == 0 and aligned(dy, written) else 1
    kernel = dy.context.kernel(FILE, operator, VECTOR=vector, **types(ELEMENT=dy))
    adding = int(accumulate) if slices == 1 else 0
    kernel((columns, slices), THREADS // vector, dy, written, rows, channels, adding)
    if slices > 1:
        sum_partials(workspace, None, dbias, slices, accumulate)


def sum_partials(
    workspace: Any,
    bias: Any,
    out: Any,
    slices: int,
    accumulate: bool,
    end: Epilogue = NOTHING,
) -> None:
    """out (+)= the sum of the `slices` copies of it in `workspace`, + bias along the last axis, and
    what `end` does to it."""
    many = slices > FEW_SLICES
    entry = "sum_many_partials" if many else "sum_partials"
    whole = out.size if bias is None else out.shape[-1]
    vector = 4 if whole % 4 == 0 and aligned(workspace, out, end.activated) else 1
    kernel = out.context.kernel(FILE, entry, VECTOR=vector, **types(RESULT=out))
    blocks = -(-out.size // (PARTIALS_COLUMNS if many else THREADS))
    sizes = (out.size, out.shape[-1], slices, int(accumulate))
    kernel(blocks, THREADS // vector, workspace, bias, out, *sizes, *end.arguments)


def target(operator: str, out: Any, workspace: Any, slices: int, in_slices: bool = False) -> Any:
    """What a sliced kernel writes: `out`, or the workspace after its size was checked; in_slices:
    where slices_of() says. ValueError for another size than that of so many slices."""
    if in_slices and workspace.size != out.size * slices:
        raise ValueError(
            f"{operator}: the result is for {workspace.size // max(1, out.size)} slices, but the "
            f"sum has {slices}; ask left_slices({operator!r}, ...), or leave in_slices=False"
        )
    has_workspace(operator, workspace, out.size * slices if slices > 1 else 0)
    return workspace if slices > 1 else out


def slices_of(
    operator: str, result: Any, bias: Any, activation: str | None, accumulate: bool
) -> tuple[Any, Any]:
    """(out, workspace) of a result (slices, ...) whose slices are to be left unadded, and which
    therefore is nothing but a sum. ValueError where more is asked for."""
    if len(result.shape) < 2 or not result.shape[0]:
        raise ValueError(
            f"{operator}: in_slices takes a result (slices, ...), not {tuple(result.shape)}"
        )
    if bias is not None or activation is not None or accumulate:
        raise ValueError(
            f"{operator}: in_slices leaves a sum unfinished; bias, activation and accumulate "
            "belong to whoever adds the slices"
        )
    return result[0], result.reshape(result.size)


@lru_cache(maxsize=4096)
def _bias_grid(rows: int, channels: int) -> tuple[int, int]:
    """(blocks across the channels, slices of the rows) of bias_backward."""
    columns = -(-channels // BIAS_COLUMNS)
    slices = max(1, min(ENOUGH_BLOCKS // columns, rows // BIAS_ROWS, MOST_SLICES))
    return columns, slices


def _bias_workspace(dy: Sequence[int], dbias: Sequence[int], **_: Any) -> int:
    *rows, channels = dy
    slices = _bias_grid(prod(rows), channels)[1] if channels else 1
    return channels * slices if slices > 1 else 0


WORKSPACE = {"bias_backward": _bias_workspace}
"""float32 elements of workspace: by operator, a function of its arrays' shapes and attributes."""
