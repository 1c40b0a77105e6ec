"""How an executor's device launches calls: with which attributes, in how much scratch memory, and
what they can leave to the calls that follow them.

The device answers from shapes, attributes and dtypes alone, before there is any memory.
"""

from __future__ import annotations

from math import inf
from typing import Any

from pygan.errors import ShapeError
from pygan.executor.settings import Settings
from pygan.operators import Array, Call, Shape

BESIDE = "convolution_backward_weight"
"""How the names of functions end that a device's `leaves_room` knows."""

LEAST_AGAIN = 1 << 20
"""Bytes of a result that make it worth another launch to have its memory."""


class Launches:
    """A device's answers about the calls of one executor; `pygan.lowering.Advice` is among them.

    what: the name of the graph, for errors. lean: batch norms leave their normalising pass wherever
    a kernel can do it, not only where that gains. cooperative: calls may launch cooperatively.
    """

    def __init__(self, settings: Settings, what: str, lean: bool, cooperative: bool) -> None:
        self.device = settings.device
        self._dtype = settings.dtype
        self._precision = settings.precision
        self._what = what
        self._lean = lean
        self._cooperative = cooperative

    def attributes(self, call: Call) -> dict[str, Any]:
        """What the call is launched with, but for its arrays and its workspace."""
        attributes = dict(call.attributes)
        if call.precision and self._precision != "float32":
            attributes["precision"] = self._precision
        if call.cooperative and self._cooperative:
            attributes["cooperative"] = True
        return attributes

    def workspace(self, call: Call) -> Array | None:
        """The scratch memory (size,) that a call asks for, if any.

        Raises ShapeError where its shapes are more than one launch can take."""
        shapes, attributes = self._described(call)
        try:
            size = self.device.ops.workspace_size(call.function, *shapes, **attributes)
        except ValueError as error:
            raise ShapeError(f"binding {self._what}: {error}") from None
        return Array(f"workspace of {call.function}", (int(size),), self._dtype) if size else None

    def left_slices(self, call: Call) -> int:
        """How many slices a convolution leaves to the batch norm that reads it."""
        shapes, attributes = self._described(call)
        try:
            return self.device.ops.left_slices(call.function, *shapes, **attributes)
        except ValueError:  # more than one launch can take; `workspace` says so
            return 1

    def left_moments(self, call: Call, merged: bool) -> int:
        """How many numbers of the moments of its result a convolution leaves, likewise; merged: to
        one that merges them and leaves the rest to its own reader."""
        shapes, attributes = self._described(call)
        try:
            return self.device.ops.left_moments(call.function, *shapes, merged=merged, **attributes)
        except ValueError:  # as above
            return 0

    def normalises(self, shape: Shape, calls: list[Call], slices: int) -> bool:
        """Whether a batch norm of that shape leaves its normalising pass to these calls."""
        described = [(call.function, *self._described(call)) for call in calls]
        try:
            gain = self.device.ops.normalisation_gain(shape, described, slices=slices)
        except ValueError:  # as above
            return False
        return gain > -inf if self._lean else gain >= 0

    def makes_again(self, result: Array) -> bool:
        """Whether a backward should make the result of a batch norm again: with lean, where that
        saves enough. The twins' inference may round otherwise than their training."""
        return self._lean and self.device.name != "numpy" and result.nbytes >= LEAST_AGAIN

    def leaves_room(self, call: Call) -> bool:
        """Whether what runs beside this gradient would gain by it."""
        if not call.function.endswith(BESIDE):
            return True
        shapes, attributes = self._described(call)
        try:
            return self.device.ops.leaves_room(
                call.function, *shapes, lean=self._lean, **attributes
            )
        except ValueError:  # as above
            return True

    def _described(self, call: Call) -> tuple[list[Shape | None], dict[str, Any]]:
        """Shapes and attributes by which the device says what memory a call takes."""
        shapes = [None if array is None else array.shape for array in call.arrays]
        attributes = {k: v for k, v in self.attributes(call).items() if k != "accumulate"}
        if any(array is not None and array.half for array in call.arrays):
            dtypes = [None if array is None else array.dtype for array in call.arrays]
            attributes["dtypes"] = dtypes
        return shapes, attributes
