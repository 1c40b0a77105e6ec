"""What can go wrong that the user can put right.

Every message names the value, the limit and the next step; the command line prints it without a
traceback.
"""

from __future__ import annotations


class PyganError(Exception):
    """Base of all errors of pygan that a user can put right."""


class GraphError(PyganError, ValueError):
    """A graph that cannot be: duplicate names, missing inputs, unknown attributes."""


class ShapeError(PyganError, ValueError):
    """Shapes that do not fit together, or that cannot be inferred from what was given."""


class ArrayError(PyganError, TypeError):
    """Something that is no array of the device, given to one of its operators for an array."""


class StateError(PyganError, RuntimeError):
    """A call that comes at the wrong moment, such as backward before a training forward."""


class OutOfDeviceMemory(PyganError, MemoryError):
    """The planned memory of an executor does not fit the device.

    needed_bytes: what the executor needs; free_bytes: what the device has, None where unknown.
    """

    def __init__(self, message: str, needed_bytes: int, free_bytes: int | None) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class DataError(PyganError):
    """A data file or folder that is missing, damaged or of another kind."""


class MissingDataError(DataError):
    """A folder without the files of a data set, or of a part of it."""


class CheckpointError(PyganError):
    """A checkpoint that cannot be written, read, or belongs to something else."""


class TrainingError(PyganError):
    """Training that cannot go on, such as losses that are no longer numbers."""
