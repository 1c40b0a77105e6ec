"""Arrays that a user hands to an executor: those it shall work in, and those it copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pygan.errors import GraphError, ShapeError
from pygan.operators import Array, Shape


def adopted(
    device: Any,
    symbolic: Mapping[str, Array],
    given: Mapping[str, Any] | None,
    what: str,
    names: Sequence[str],
) -> dict[Array, Any]:
    """The memory of arrays that lie in the caller's: of those `symbolic` ones, by name, that
    `given` names, and of what they view. what: what they are, such as "gradient of input"; names:
    which of them may lie elsewhere.

    Raises GraphError for other names, and for what is no array that the device can work in;
    ShapeError for another shape or dtype."""
    given = given or {}
    if not isinstance(given, Mapping):
        raise GraphError(f"arrays for each {what} are given by name, not as {given!r}")
    memory: dict[Array, Any] = {}
    for name, array in given.items():
        if name not in names or name not in symbolic:
            raise GraphError(
                f"there is no {what} {name!r} to lie in an array of yours; "
                f"{what.rpartition(' ')[2]}s are {', '.join(names) or 'none'}"
            )
        wanted = symbolic[name]
        _require_own(device, array, f"{what} {name!r}")
        if tuple(array.shape) != wanted.shape or array.dtype != wanted.dtype:
            raise ShapeError(
                f"{what} {name!r} is {wanted.dtype} of shape {wanted.shape}; the array that it "
                f"shall lie in is {array.dtype} of shape {tuple(array.shape)}"
            )
        if wanted.base is not None:
            memory[wanted.root] = array.reshape(wanted.root.shape)
        memory[wanted] = array
    return memory


def _require_own(device: Any, array: Any, what: str) -> None:
    """Raises GraphError unless an array is one that this device can work in."""
    if device.name == "numpy":
        own = isinstance(array, np.ndarray) and array.flags.c_contiguous
    else:
        own = getattr(array, "context", None) is device.context
    if not own:
        given = array if hasattr(array, "context") else type(array).__name__
        raise GraphError(
            f"{what} lies in a C-contiguous array of device {device.name!r}, such as "
            f"device.from_numpy(...) makes, and cannot lie in the {given} that was given"
        )


def copied(value: Any, shape: Shape, dtype: str, name: str) -> Any:
    """`value` as it is copied into an array `name` of that shape: an array of a device as it is,
    what numpy can read as a C-contiguous one of `dtype`.

    Raises ShapeError for another shape, GraphError for what holds no real numbers."""
    if not hasattr(value, "context"):  # of no device: the host's, or what numpy can read
        try:
            value = np.asarray(value)
        except ValueError:  # lists within it differ in length
            raise ShapeError(
                f"{name!r} has shape {shape}, but what was given is no array: its lists differ "
                "in length"
            ) from None
        except (TypeError, RuntimeError) as error:  # tensors of a GPU, or of numbers numpy has not
            raise GraphError(f"{name!r} takes what numpy can read as an array: {error}") from None
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
        raise GraphError(f"{name!r} takes real numbers, but {value.dtype} was given")
    if tuple(value.shape) != shape:
        raise ShapeError(f"{name!r} has shape {shape}, but an array of {value.shape} was given")
    if hasattr(value, "context") and value.dtype != dtype:
        raise GraphError(
            f"{name!r} holds {dtype}, and an array of the device is copied as it is, but one of "
            f"{value.dtype} was given"
        )
    return np.ascontiguousarray(value, dtype) if isinstance(value, np.ndarray) else value
