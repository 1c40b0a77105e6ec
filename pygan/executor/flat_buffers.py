"""Parameters, their gradients and the moving statistics, each kind in one flat buffer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from pygan.errors import ShapeError
from pygan.executor.blocks import Block, Stretch
from pygan.executor.planner import aligned
from pygan.lowering import LoweredGraph
from pygan.operators import Array
from pygan.working_memory import Area


class FlatBuffers:
    """The flat buffers of an executor: memory of its own, or that of another one.

    Attributes: `parameters` (n,), those with a gradient first; `gradients` (n of those,);
    `auxiliary` (n,). They are there once `share` or `make` was called.
    """

    def __init__(self, graph: LoweredGraph, input_names: Collection[str], dtype: str) -> None:
        names = [name for name in graph.arguments if name not in input_names]
        gradients = graph.argument_gradients
        trainable = [name for name in names if name in gradients]
        ordered = trainable + [name for name in names if name not in gradients]
        self._dtype = dtype
        self._flats = (
            _Flat([graph.arguments[name] for name in ordered], dtype),
            _Flat([gradients[name] for name in trainable], dtype),
            _Flat(list(graph.auxiliary.values()), dtype),
        )
        self._stretches: list[Stretch] = []
        self.parameters: Any = None
        self.gradients: Any = None
        self.auxiliary: Any = None

    def _hold(self, parameters: Any, gradients: Any, auxiliary: Any) -> None:
        self.parameters, self.gradients, self.auxiliary = parameters, gradients, auxiliary

    @property
    def own(self) -> list[Any]:
        """The buffers, as far as they are this executor's own."""
        return [self.parameters, self.gradients, self.auxiliary] if self._stretches else []

    @property
    def size_of_parameters(self) -> int:
        """Elements of `parameters`, also before they are there."""
        return self._flats[0].size if self.parameters is None else self.parameters.size

    def share(self, other: FlatBuffers) -> None:
        """Takes the buffers of `other`, and each array the place of the one of its name and shape.

        Raises ShapeError where there is none."""
        for mine, theirs in zip(self._flats, other._flats, strict=True):
            mine.lie_as(theirs)
        self._hold(other.parameters, other.gradients, other.auxiliary)

    def reserve(self, block: Block) -> tuple[int, int, int]:
        """Takes room in a block, unless the buffers are shared; gives the bytes of each."""
        if self.parameters is not None:
            return 0, 0, 0
        self._stretches = [block.reserve(flat.size, self._dtype) for flat in self._flats]
        parameters, gradients, auxiliary = self._stretches
        return parameters.nbytes, gradients.nbytes, auxiliary.nbytes

    def make(self) -> None:
        """Makes those that room was taken for, once the block is made."""
        if self._stretches:
            self._hold(*(stretch.array() for stretch in self._stretches))

    def symbols(self) -> set[Array]:
        """All arrays that lie in the buffers."""
        return {array for flat in self._flats for array in flat.arrays}

    def arrays(self) -> dict[Array, Any]:
        """Each array as a view of its buffer."""
        buffers = (self.parameters, self.gradients, self.auxiliary)
        return {
            array: view
            for flat, buffer in zip(self._flats, buffers, strict=True)
            for array, view in flat.within(buffer).items()
        }

    def parameters_within(self, buffer: Any) -> dict[Array, Any]:
        """Each parameter as a view of another buffer that is laid out as `parameters`."""
        return self._flats[0].within(buffer)

    def areas_of_gradients(self) -> list[Area]:
        """What gradients of their own memory cover without gaps, once it is made: the gaps, and
        the gradients before them, are left out."""
        found: list[Area] = []
        _, stretch, _ = self._stretches
        flat, itemsize = self._flats[1], np.dtype(self._dtype).itemsize
        for array, place in zip(flat.arrays, flat.places, strict=True):
            if array.nbytes != aligned(array.nbytes):
                continue
            start = offset = stretch.offset + place * itemsize
            if found and found[-1].offset + found[-1].nbytes == offset:
                start = found.pop().offset
            found.append(Area(stretch.block.arena, start, offset + array.nbytes - start))
        return found

    def places_of_gradients(self) -> list[slice]:
        """Where in `gradients`, and in `parameters`, each one lies that has a gradient, in the
        order of the graph's arguments."""
        flat = self._flats[1]
        return [
            slice(place, place + array.size)
            for array, place in zip(flat.arrays, flat.places, strict=True)
        ]


class _Flat:
    """Arrays one after the other in a flat buffer of `size` elements, each at a multiple of 256
    bytes: places, in elements."""

    def __init__(self, arrays: list[Array], dtype: str) -> None:
        self.arrays = arrays
        self.places: list[int] = []
        self.size = 0
        for array in arrays:
            self.places.append(self.size)
            self.size += aligned(array.nbytes) // np.dtype(dtype).itemsize

    def lie_as(self, other: _Flat) -> None:
        """Puts every array where `other` has the one of that name and shape."""
        known = {
            (array.label, array.shape): place
            for array, place in zip(other.arrays, other.places, strict=True)
        }
        missing = [a for a in self.arrays if (a.label, a.shape) not in known]
        if missing:
            listed = ", ".join(f"{array.label} {array.shape}" for array in missing)
            raise ShapeError(
                f"the executor to share with has no {listed}; parameters must agree in name and "
                "shape, and gradients must be bound there too"
            )
        self.places = [known[array.label, array.shape] for array in self.arrays]

    def within(self, buffer: Any) -> dict[Array, Any]:
        """Each array as a view of `buffer`."""
        return {
            array: buffer[place : place + array.size].reshape(array.shape)
            for array, place in zip(self.arrays, self.places, strict=True)
        }
