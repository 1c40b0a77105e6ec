"""What an operator of a graph states about itself.

An operator is a frozen dataclass whose fields are its attributes. It names its arguments and
auxiliary states, infers shapes, and says forward and backward as lists of `Call`s of the kernel
interface (`device.ops`). Calls speak of symbolic `Array`s; memory is planned later, from the calls
alone: an array lives from the first call that mentions it to the last one. So the tensors that a
backward needs are exactly those that its calls mention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite, prod
from typing import Any, ClassVar

import numpy as np

from pygan.errors import GraphError, ShapeError

Shape = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Array:
    """A symbolic array: a name for messages, a shape, a dtype, and perhaps the array it views.

    half: it holds bf16 numbers, whatever the dtype that they lie in.
    """

    label: str
    shape: Shape
    dtype: str = "float32"
    base: Array | None = None
    half: bool = False

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def root(self) -> Array:
        """The array that owns the memory."""
        return self if self.base is None else self.base.root

    def view(self, shape: Shape) -> Array:
        """The same memory under another shape."""
        if prod(shape) != self.size:
            raise ShapeError(f"{self.label} of shape {self.shape} cannot be viewed as {shape}")
        return self if shape == self.shape else Array(self.label, shape, self.dtype, self.root)


@dataclass(slots=True)
class Call:
    """One call of the kernel interface: positional arrays, keyword attributes.

    workspace, precision, cooperative: whether it takes the executor's scratch memory, its
    precision, and whether it may launch cooperatively. apart:
    nothing else in its pass reads or writes what it writes, so it may run beside the calls that
    follow it. alone: it waits for what was set apart before it.
    """

    function: str
    arrays: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    workspace: bool = False
    apart: bool = False
    alone: bool = False
    precision: bool = False
    cooperative: bool = False


@dataclass(slots=True)
class Gradient:
    """Where the gradient of an input goes, and whether it is added to what is there; in_slices: as
    parts of it, (slices, ...), which its reader adds."""

    array: Array
    accumulate: bool
    in_slices: bool = False


@dataclass(slots=True)
class Normalised:
    """A batch norm that a convolution does on the way in: what it reads in place of its data, and
    the activation behind it."""

    data: Array
    normalisation: Array
    activation: str | None
    slope: float


@dataclass(slots=True)
class Arrays:
    """The arrays of one operator in a bound graph.

    `outputs` holds None for an optional output that nobody reads. `random_state` is the executor's
    uint64 (2,) {seed, counter}. `ahead`: the gradient of the first input, for a loss head that may
    write it in forward already, since nothing else adds to it. `left`: where a convolution leaves
    the slices of its output, bias not added, instead of writing it; `data_slices`, `data_bias`: the
    same for the batch norm that reads them; `gradient_slices`: the slices in which the gradient of
    its output arrives. `normalisation`: what a batch norm leaves of each channel instead of writing
    its output; `normalised`: the same for the convolution that reads it. `moments`: where a
    convolution leaves those of its output, in training, and a batch norm finds those of its data.
    """

    inputs: tuple[Array, ...]
    outputs: tuple[Array | None, ...]
    auxiliary: tuple[Array, ...]
    residuals: dict[str, Array]
    random_state: Array
    ahead: Array | None = None
    left: Array | None = None
    data_slices: Array | None = None
    data_bias: Array | None = None
    gradient_slices: Array | None = None
    normalisation: Array | None = None
    normalised: Normalised | None = None
    moments: Array | None = None

    @property
    def output(self) -> Array:
        """The first output, which no operator leaves out."""
        first = self.outputs[0]
        assert first is not None
        return first


@dataclass(slots=True)
class Shapes:
    """A completed inference: shapes of all inputs, outputs and auxiliary states."""

    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    auxiliary: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Operator:
    """Base of all operators; the class attributes are the defaults of the common case."""

    inputs: ClassVar[tuple[str, ...]] = ("data",)
    auxiliary: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[tuple[str, ...]] = ("output",)
    optional_outputs: ClassVar[frozenset[int]] = frozenset()
    """Outputs that the kernel can leave out when nobody reads them."""
    is_loss: ClassVar[bool] = False
    """A loss head: it starts the backward pass itself and ignores gradients handed to it."""
    is_view: ClassVar[bool] = False
    """The output is the input's memory under another shape; no calls."""
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ()
    """(input, output) pairs that may share memory when the input is not read afterwards."""
    gradient_in_place: ClassVar[bool] = False
    """Whether the gradient of the first input may share memory with that of the first output."""
    label_inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs that are data even where their shape is inferred: they are never parameters."""
    no_gradient: ClassVar[tuple[str, ...]] = ()
    """Inputs for which the operator states no gradient."""

    def _take(self, check: Callable[..., Any], *names: str, **limits: Any) -> None:
        """Replaces attributes by what `check` makes of each, which refuses what they cannot be."""
        for name in names:
            object.__setattr__(self, name, check(getattr(self, name), name, **limits))

    def argument_names(self) -> tuple[str, ...]:
        """Names of the inputs in order; parameters among them are created when not given."""
        return self.inputs

    def attributes(self) -> dict[str, Any]:
        """The attributes as plain values that JSON can hold."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.repr}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        """Complete the shapes; unknown inputs are None. Raises ShapeError naming both shapes."""
        raise NotImplementedError

    def residuals(self, shapes: Shapes) -> dict[str, tuple[Shape, str]]:
        """What a training forward leaves for backward beside inputs and outputs: name to shape and
        dtype ("" for the executor's own)."""
        return {}

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        raise NotImplementedError

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        """Calls that write the wanted gradients (None: not wanted), one entry per input."""
        raise NotImplementedError

    def update_statistics(self, arrays: Arrays) -> list[Call]:
        """Calls of a backward pass that wants none of the gradients that `backward` writes: moving
        statistics move in every pass."""
        return []


def only(gradients: Sequence[Gradient | None]) -> Gradient:
    """The gradient of an operator's one differentiable input, the first: nobody asks for its
    backward without wanting it."""
    target = gradients[0]
    assert target is not None
    return target


def data_shape(inputs: Sequence[Shape | None], rank: int | None = None, index: int = 0) -> Shape:
    """The shape of one data input, which must be known (and have `rank` axes)."""
    shape = inputs[index]
    if shape is None:
        raise ShapeError("the shape of its data is unknown; give the shapes of the input variables")
    if rank is not None and len(shape) != rank:
        raise ShapeError(f"data must have {rank} axes, but its shape is {shape}")
    return shape


def expect(given: Shape | None, needed: Shape, what: str, because: str) -> Shape:
    """`needed`, unless another shape was given."""
    if given is not None and tuple(given) != needed:
        raise ShapeError(f"{what} has shape {tuple(given)}, but {because} needs {needed}")
    return needed


def both(value: int | tuple[int, int]) -> tuple[int, int]:
    """A field of an operator as the pair that `pair` made of it."""
    return value if isinstance(value, tuple) else (value, value)


def pair(value: int | Sequence[int], name: str, least: int) -> tuple[int, int]:
    """An (h, w) attribute from one integer or two."""
    values = (value, value) if not isinstance(value, list | tuple) else value
    if len(values) != 2 or not all(_is_integer(v) for v in values):
        raise GraphError(f"{name} must be one integer or two (height, width), not {value!r}")
    if min(values) < least:
        raise GraphError(f"{name} must be at least {least}, not {value!r}")
    return int(values[0]), int(values[1])


def integer(value: int, name: str) -> int:
    if not _is_integer(value):
        raise GraphError(f"{name} must be an integer, not {value!r}")
    return int(value)


def positive(value: int, name: str) -> int:
    if not _is_integer(value) or value < 1:
        raise GraphError(f"{name} must be a positive integer, not {value!r}")
    return int(value)


def number(value: float, name: str) -> float:
    """A finite number, as JSON can hold it."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not isfinite(value):
        raise GraphError(f"{name} must be a finite number, not {value!r}")
    return value if isinstance(value, int | float) else float(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def choice(value: str, allowed: Sequence[str], name: str) -> str:
    if value not in allowed:
        raise GraphError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value
