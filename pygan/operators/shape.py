"""Operators that only move or rename data: flatten, reshape, concatenate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from pygan.errors import GraphError, ShapeError
from pygan.operators.base import (
    Array,
    Arrays,
    Call,
    Gradient,
    Operator,
    Shape,
    Shapes,
    data_shape,
    integer,
    only,
    positive,
)


@dataclass(frozen=True)
class _View(Operator):
    is_view: ClassVar[bool] = True

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        return []

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        # Only where the input's gradient has other contributors too; else both share memory.
        dy, target = output_gradients[0], only(gradients)
        assert dy is not None
        attributes = {"accumulate": target.accumulate}
        return [Call("axpy", (dy, target.array.view(dy.shape)), attributes)]


@dataclass(frozen=True)
class Flatten(_View):
    """(N, ...) to (N, D) without a copy; images flatten in NHWC order."""

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        return Shapes((data,), ((data[0], prod(data[1:])),))


@dataclass(frozen=True)
class Reshape(_View):
    """The same values in row-major order under another shape, without a copy.

    In `shape`, 0 copies the input's axis at that place and one -1 takes what is left.
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        given = self.shape if isinstance(self.shape, list | tuple) else (self.shape,)
        shape = tuple(integer(size, "each size of shape") for size in given)
        if not shape or min(shape) < -1:
            raise GraphError(f"shape must hold integers of at least -1, not {self.shape!r}")
        if shape.count(-1) > 1:
            raise GraphError(f"shape may hold -1 once, not {shape}")
        object.__setattr__(self, "shape", shape)

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        if any(v == 0 and axis >= len(data) for axis, v in enumerate(self.shape)):
            raise ShapeError(f"shape {self.shape} copies an axis that data of {data} has not")
        shape = [data[axis] if v == 0 else v for axis, v in enumerate(self.shape)]
        if -1 in shape:
            known = prod(v for v in shape if v != -1)
            shape[shape.index(-1)] = prod(data) // known if known else 0
        if prod(shape) != prod(data):
            raise ShapeError(f"data of shape {data} cannot be reshaped to {self.shape}")
        return Shapes((data,), (tuple(shape),))


@dataclass(frozen=True)
class Concat(Operator):
    """Joins its inputs along one axis (default: the last, the channels); the others agree."""

    axis: int = -1
    count: int = 2

    def __post_init__(self) -> None:
        self._take(positive, "count")
        self._take(integer, "axis")

    def argument_names(self) -> tuple[str, ...]:
        return tuple(f"data{i}" for i in range(self.count))

    def _axis(self, rank: int) -> int:
        if not -rank <= self.axis < rank:
            raise ShapeError(f"axis {self.axis} does not exist in inputs with {rank} axes")
        return self.axis % rank

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        shapes = tuple(data_shape(inputs, index=i) for i in range(self.count))
        first = shapes[0]
        axis = self._axis(len(first))
        for index, shape in enumerate(shapes):
            others = shape[:axis] + shape[axis + 1 :]
            if len(shape) != len(first) or others != first[:axis] + first[axis + 1 :]:
                raise ShapeError(
                    f"data{index} has shape {shape}, which does not fit data0's {first} along "
                    f"axis {axis}: all other axes must be equal"
                )
        total = sum(shape[axis] for shape in shapes)
        return Shapes(shapes, ((*first[:axis], total, *first[axis + 1 :]),))

    def _parts(self, arrays: Arrays) -> list[dict[str, int]]:
        axis = self._axis(len(arrays.inputs[0].shape))
        parts, offset = [], 0
        for array in arrays.inputs:
            parts.append({"axis": axis, "offset": offset})
            offset += array.shape[axis]
        return parts

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        y = arrays.outputs[0]
        return [
            Call("concatenate_forward", (x, y), part)
            for x, part in zip(arrays.inputs, self._parts(arrays), strict=True)
        ]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        return [
            Call(
                "concatenate_backward",
                (output_gradients[0], target.array),
                part | {"accumulate": target.accumulate},
            )
            for target, part in zip(gradients, self._parts(arrays), strict=True)
            if target is not None
        ]
