"""What a lowered graph is made of: steps, which are operators with their arrays, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pygan.operators import Array, Arrays, Convolution, Operator, TransposedConvolution

CONVOLUTIONS = (Convolution, TransposedConvolution)

Key = tuple[int, int]
"""A node's output: (id of the node, output index)."""


@dataclass(eq=False)
class Step:
    """One operator of the lowered graph; `keys` are the graph's names of inputs and outputs."""

    name: str
    operator: Operator
    arrays: Arrays
    input_keys: tuple[Key, ...]
    output_keys: tuple[Key, ...]

    def differentiable(self) -> list[Key]:
        """The inputs that the operator states a gradient for."""
        names = self.operator.argument_names()
        return [
            key
            for name, key in zip(names, self.input_keys, strict=True)
            if name not in self.operator.no_gradient
        ]


@dataclass(eq=False)
class Steps:
    """The steps of a graph in the order of forward, and its arrays.

    heads: keys of the outputs, in their order. consumers: how often a key is read, by steps or as
    an output. arrays: by key; an optional output that nobody reads has none. arguments, auxiliary:
    by name.
    """

    dtype: str
    heads: list[Key]
    consumers: Mapping[Key, int]
    random_state: Array
    in_order: list[Step] = field(default_factory=list)
    arrays: dict[Key, Array] = field(default_factory=dict)
    arguments: dict[str, Array] = field(default_factory=dict)
    argument_keys: dict[str, Key] = field(default_factory=dict)
    auxiliary: dict[str, Array] = field(default_factory=dict)

    def makers(self) -> dict[Key, Step]:
        """The step that makes a key, its first output."""
        return {step.output_keys[0]: step for step in self.in_order}

    def readers(self) -> dict[Key, Step]:
        """The last step that reads a key: the only one, where `consumers` counts one."""
        return {key: step for step in self.in_order for key in step.input_keys}


@dataclass
class Head:
    """An output of the executor: its key and array, whether a loss head makes it, where a gradient
    from outside lands (None where none is needed), and the output's own gradient where that is
    another array."""

    key: Key
    array: Array
    is_loss: bool
    landing: Array | None = None
    gradient: Array | None = None
