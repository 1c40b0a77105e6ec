"""What every launcher checks before a kernel runs, and how it sizes its grids and accesses.

Every check raises ValueError (TypeError for something that is no device array) and names the
operator, the value, and what was expected. The checks look at shapes only: the dtype of each array
is checked by the launch itself, against the C declaration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

THREADS = 256
"""Threads of a block, in every kernel that does not say otherwise."""

MAX_BLOCKS = 4096
"""Of kernels that stride over their work: enough to fill any GPU several times over."""

MAX_COUNT = 2**31 - 2**16
"""What kernels count in an int, with room for the stride of a loop; offsets are 64 bits wide."""


ALIGNMENT = 16
"""Bytes: where arrays must begin that are read and written 4 numbers at a time."""


def blocks_for(n: int, per_block: int = 4 * THREADS, most: int = MAX_BLOCKS) -> int:
    """Blocks for n elements at `per_block` each: at least 1, at most `most`."""
    return max(1, min(-(-n // per_block), most))


def device_array(operator: str, name: str, array: Any) -> Any:
    """`array`, if it lies on a device."""
    if not hasattr(array, "context"):
        raise TypeError(
            f"{operator}: {name} is a {type(array).__name__}, not an array on a device; "
            "make one with device.from_numpy(...), or take the operators of pygan.reference"
        )
    return array


def aligned(*arrays: Any) -> bool:
    """Whether all arrays (None is skipped) begin where 4 numbers at a time can be read."""
    return all(array is None or array.ptr % ALIGNMENT == 0 for array in arrays)


def same_shape(operator: str, **arrays: Any) -> None:
    """All arrays given (None is skipped) have one shape."""
    first = None
    for name, array in arrays.items():
        if array is None:
            continue
        shape = device_array(operator, name, array).shape
        if first is None:
            first_name, first = name, shape
        elif shape != first:
            raise ValueError(
                f"{operator}: {name} has shape {tuple(shape)} but {first_name} has "
                f"{tuple(first)}; they must be the same"
            )


def has_shape(operator: str, name: str, array: Any, expected: Sequence[int], because: str) -> None:
    """`array` (None passes) has the shape `expected`, which follows from `because`."""
    if array is None:
        return
    if tuple(device_array(operator, name, array).shape) != tuple(expected):
        raise ValueError(
            f"{operator}: {name} has shape {tuple(array.shape)} but {because} needs "
            f"{tuple(expected)}"
        )


def has_rank(operator: str, name: str, array: Any, rank: int, layout: str) -> None:
    if len(device_array(operator, name, array).shape) != rank:
        raise ValueError(f"{operator}: {name} has shape {tuple(array.shape)}; it must be {layout}")


def countable(operator: str, what: str, n: int) -> None:
    """n fits the int in which a kernel counts `what`."""
    if n > MAX_COUNT:
        raise ValueError(
            f"{operator}: {n} {what} are more than the {MAX_COUNT} that a kernel can count; "
            "split the batch"
        )


def has_workspace(operator: str, workspace: Any, needed: int) -> None:
    """`workspace` is a vector of at least `needed` float32 elements; None counts as none."""
    if workspace is not None:
        has_rank(operator, "workspace", workspace, 1, "a vector of float32")
    have = 0 if workspace is None else workspace.size
    if have < needed:
        raise ValueError(
            f"{operator}: workspace has {have} float32 elements but these shapes need {needed}; "
            f"allocate what workspace_size({operator!r}, ...) says"
        )


def in_range(operator: str, name: str, value: float, low: float, high: float) -> None:
    """low <= value < high, written so that NaN fails."""
    if not low <= value < high:
        raise ValueError(f"{operator}: {name} is {value}; it must lie in {low} <= {name} < {high}")
