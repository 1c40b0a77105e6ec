"""What can go wrong that the user can put right.

Every message names the value, the limit and the next step; the command line prints it without a
traceback.
"""

from __future__ import annotations


class PyganError(Exception):
    """Base of all errors of pygan that a user can put right."""


class DataError(PyganError):
    """A data file or folder that is missing, damaged or of another kind."""


class CheckpointError(PyganError):
    """A checkpoint that cannot be written, read, or belongs to something else."""


class TrainingError(PyganError):
    """Training that cannot go on, such as losses that are no longer numbers."""
