"""Nodes, and the graphs that they form."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygan.checkpoint import atomic_write
from pygan.errors import GraphError, ShapeError
from pygan.operators import Operator, Shape

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pygan.device import Device
    from pygan.executor import Executor
    from pygan.executor.options import ExecutorOptions
    from pygan.summary import Summary


@dataclass(eq=False)
class Node:
    """A variable (operator None) or an operator with its inputs (node, output index)."""

    name: str
    operator: Operator | None
    inputs: tuple[tuple[Node, int], ...] = ()
    shape: Shape | None = field(default=None)

    def output_names(self) -> tuple[str, ...]:
        if self.operator is None:
            return (self.name,)
        return tuple(f"{self.name}_{output}" for output in self.operator.outputs)

    def auxiliary_names(self) -> tuple[str, ...]:
        if self.operator is None:
            return ()
        return tuple(f"{self.name}_{auxiliary}" for auxiliary in self.operator.auxiliary)

    def describe(self) -> str:
        kind = "Variable" if self.operator is None else type(self.operator).__name__
        return f"{kind} {self.name!r}"


@dataclass
class InferredShapes:
    """Shapes by name, in the order of list_arguments, list_outputs and list_auxiliary;
    `of` gives those of every (node, output) of the graph."""

    arguments: dict[str, Shape]
    outputs: dict[str, Shape]
    auxiliary: dict[str, Shape]
    of: dict[tuple[int, int], Shape] = field(repr=False)


class Symbol:
    """One or more outputs of a graph; see the module's text."""

    def __init__(self, heads: Sequence[tuple[Node, int]]) -> None:
        self.heads = tuple(heads)

    # Structure

    def nodes(self) -> list[Node]:
        """All nodes, inputs before their consumers, depth first. Names are checked.

        Raises GraphError where two nodes share a name or a parameter's name is taken.
        """
        order: list[Node] = []
        seen: set[int] = set()
        stack = [(node, False) for node, _ in reversed(self.heads)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend(
                    (parent, False) for parent, _ in reversed(node.inputs) if id(parent) not in seen
                )
        names = Counter(
            itertools.chain.from_iterable((n.name, *n.auxiliary_names()) for n in order)
        )
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise GraphError(
                f"the graph has more than one node or state named {', '.join(map(repr, twice))}; "
                "give each operator its own name="
            )
        return order

    def list_arguments(self) -> list[str]:
        """Names of all variables: inputs and parameters, depth first."""
        return [node.name for node in self.nodes() if node.operator is None]

    def list_auxiliary(self) -> list[str]:
        """Names of the states that no gradient reaches (moving statistics)."""
        return [name for node in self.nodes() for name in node.auxiliary_names()]

    def list_outputs(self) -> list[str]:
        return [node.output_names()[index] for node, index in self.heads]

    @property
    def name(self) -> str:
        return self.heads[0][0].name if len(self.heads) == 1 else "group"

    def __len__(self) -> int:
        return len(self.heads)

    def __iter__(self) -> Iterator[Symbol]:
        return (Symbol([head]) for head in self.heads)

    def __getitem__(self, index: int | str | slice) -> Symbol:
        """One output by position or by name (``"loss1_probabilities"``), or several by a slice."""
        if isinstance(index, slice):
            return group(list(self)[index])
        if isinstance(index, str):
            names = self.list_outputs()
            if index not in names:
                raise GraphError(f"no output is named {index!r}; there are {', '.join(names)}")
            index = names.index(index)
        if not isinstance(index, int | np.integer) or isinstance(index, bool):
            raise GraphError(
                f"an output is picked by its number, its name or a slice, not by {index!r}"
            )
        if not -len(self.heads) <= index < len(self.heads):
            raise IndexError(f"output {index} of a symbol with {len(self.heads)} outputs")
        return Symbol([self.heads[index]])

    def internals(self) -> Symbol:
        """A symbol whose outputs are all outputs of all nodes, to pick one from by name."""
        return Symbol([(node, i) for node in self.nodes() for i in range(len(node.output_names()))])

    def __add__(self, other: Symbol) -> Symbol:
        from pygan.symbol.operators import Add

        return Add(self, other)

    def __mul__(self, other: Symbol) -> Symbol:
        from pygan.symbol.operators import Multiply

        return Multiply(self, other)

    def __repr__(self) -> str:
        return f"<Symbol {', '.join(self.list_outputs())}>"

    # Shapes

    def infer_shape(
        self, shapes: Mapping[str, Shape] | None = None, **named: Shape
    ) -> InferredShapes:
        """Infers every shape from those of the inputs (by name).

        Raises ShapeError naming the operator and both shapes where they do not fit, or the
        variables whose shape stays unknown.
        """
        if not isinstance(shapes, Mapping | None):
            raise ShapeError(
                f"shapes are given by name, as in {{'data': (32, 28, 28, 1)}}, not as {shapes!r}"
            )
        asked = {**(shapes or {}), **named}
        given = {name: checked_shape(name, shape) for name, shape in asked.items()}
        nodes = self.nodes()
        variables = [node.name for node in nodes if node.operator is None]
        unknown = [name for name in given if name not in variables]
        if unknown:
            raise ShapeError(
                f"shapes are given for {', '.join(map(repr, unknown))}, but the arguments are "
                f"{', '.join(variables)}"
            )
        of: dict[tuple[int, int], Shape] = {}
        auxiliary: dict[str, Shape] = {}
        for node in nodes:
            if node.operator is None:
                shape = given.get(node.name, node.shape)
                if shape is not None:
                    of[id(node), 0] = shape
                continue
            keys = [(id(parent), index) for parent, index in node.inputs]
            try:
                result = node.operator.infer_shape([of.get(key) for key in keys])
            except ShapeError as error:
                sources = ", ".join(
                    f"{argument} from {parent.describe()}"
                    for argument, (parent, _) in zip(
                        node.operator.argument_names(), node.inputs, strict=True
                    )
                )
                raise ShapeError(f"{node.describe()}: {error} ({sources})") from None
            of.update(zip(keys, result.inputs, strict=True))
            of.update({(id(node), i): shape for i, shape in enumerate(result.outputs)})
            auxiliary.update(zip(node.auxiliary_names(), result.auxiliary, strict=True))
        missing = [n.name for n in nodes if n.operator is None and (id(n), 0) not in of]
        if missing:
            raise ShapeError(f"the shapes of {', '.join(map(repr, missing))} are not known")
        return InferredShapes(
            {n.name: of[id(n), 0] for n in nodes if n.operator is None},
            {
                name: of[id(n), i]
                for name, (n, i) in zip(self.list_outputs(), self.heads, strict=True)
            },
            auxiliary,
            of,
        )

    # Use

    def bind(
        self,
        device: Device | str,
        shapes: Mapping[str, Shape],
        grad_req: str | Mapping[str, str] = "write",
        **options: Unpack[ExecutorOptions],
    ) -> Executor:
        """An executor of this graph on a device of `pygan.device.get`, or of that name; see
        `pygan.executor.Executor`."""
        from pygan.executor import Executor

        return Executor(self, device, shapes, grad_req, **options)

    def summary(self, shapes: Mapping[str, Shape]) -> Summary:
        """The table of layers, shapes and parameters; `pygan.summary.summary` prints it."""
        from pygan.summary import summarize

        return summarize(self, shapes)

    def draw(self, path: str | os.PathLike[str], shapes: Mapping[str, Shape] | None = None) -> Path:
        """Draws the graph as SVG, PNG or PDF; see `pygan.drawing.draw`."""
        from pygan.drawing import draw

        return draw(self, path, shapes)

    # Files

    def to_json(self) -> str:
        """The graph as JSON text; `from_json` reads it back."""
        from pygan.symbol.files import to_json

        return to_json(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the graph as JSON, whole or not at all. Raises OSError where that fails."""
        atomic_write(path, self.to_json().encode())


def Variable(name: str, shape: Shape | None = None) -> Symbol:
    """A named input or parameter, with its shape where the graph cannot infer it."""
    shape = None if shape is None else checked_shape(name, shape)
    return Symbol([(Node(checked_name(name), None, shape=shape), 0)])


def group(symbols: Sequence[Symbol]) -> Symbol:
    """One symbol with all outputs of several, in order."""
    if not isinstance(symbols, Iterable):
        raise GraphError(f"group takes symbols, as in group([a, b]), not {symbols!r}")
    for symbol in symbols:
        if not isinstance(symbol, Symbol):
            raise GraphError(f"group takes symbols, not {symbol!r}")
    heads = [head for symbol in symbols for head in symbol.heads]
    if not heads:
        raise GraphError("group needs at least one symbol")
    return Symbol(heads)


def checked_name(name: str) -> str:
    """`name`. Raises GraphError for what cannot be a node's."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        raise GraphError(
            f"{name!r} is no name for a node: letters, digits, '_' and '.', no digit first"
        )
    return name


def checked_shape(name: str, shape: Any) -> Shape:
    """`shape` as a tuple. Raises ShapeError for what is none, of the variable `name`."""
    try:
        result = tuple(int(size) for size in shape)
        valid = all(
            size == given and not isinstance(given, bool)
            for size, given in zip(result, shape, strict=True)
        )
    except (TypeError, ValueError, OverflowError):
        valid, result = False, ()
    if not valid or not result or min(result) < 1:
        raise ShapeError(f"the shape of {name!r} must hold positive integers, not {shape!r}")
    return result


def bind(
    symbol: Symbol,
    device: Device | str,
    shapes: Mapping[str, Shape],
    grad_req: str | Mapping[str, str] = "write",
    **options: Unpack[ExecutorOptions],
) -> Executor:
    """`symbol.bind(device, ...)`. Raises GraphError where that is no symbol."""
    if not isinstance(symbol, Symbol):
        raise GraphError(f"bind takes a symbol and a device, not {symbol!r}")
    return symbol.bind(device, shapes, grad_req, **options)
