"""A table of a network: layer, output shape, parameters."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TextIO

from pygan.errors import ShapeError
from pygan.operators import Shape
from pygan.symbol import Symbol


@dataclass(frozen=True)
class Layer:
    """One operator: its name, kind, first output's shape, inputs and parameter elements."""

    name: str
    kind: str
    output_shape: Shape
    inputs: tuple[str, ...]
    parameters: int
    auxiliary: int


@dataclass(frozen=True)
class Summary:
    """The table; `str()` of it is plain text. A parameter used twice counts once."""

    title: str
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def auxiliary(self) -> int:
        return sum(layer.auxiliary for layer in self.layers)

    HEADINGS = ("layer", "operator", "output shape", "inputs", "parameters")

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (
                layer.name,
                layer.kind,
                " x ".join(map(str, layer.output_shape)),
                ", ".join(layer.inputs),
                f"{layer.parameters:,}" if layer.parameters else "",
            )
            for layer in self.layers
        ]

    def totals(self) -> str:
        return (
            f"{self.parameters:,} parameters ({4 * self.parameters:,} bytes in float32), "
            f"{self.auxiliary:,} moving statistics"
        )

    def __str__(self) -> str:
        rows = [self.HEADINGS, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.HEADINGS))]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
            lines.append("  ".join([*cells, row[-1].rjust(widths[-1])]).rstrip())
        rule = "-" * max(map(len, lines))
        return "\n".join([self.title, rule, lines[0], rule, *lines[1:], rule, self.totals()])


def summarize(symbol: Symbol, shapes: Mapping[str, Shape]) -> Summary:
    """The summary of a graph for input shapes (name to shape). Raises ShapeError as bind does."""
    inferred = symbol.infer_shape(shapes)
    counted: set[str] = set()
    layers = []
    for node in symbol.nodes():
        if node.operator is None:
            continue
        parameters, inputs = 0, []
        for argument, (parent, _) in zip(node.operator.argument_names(), node.inputs, strict=True):
            is_label = argument in node.operator.label_inputs
            if parent.operator is not None or parent.name in shapes or is_label:
                inputs.append(parent.name)
            elif parent.name not in counted:
                counted.add(parent.name)
                parameters += prod(inferred.arguments[parent.name])
        layers.append(
            Layer(
                node.name,
                type(node.operator).__name__,
                inferred.of[id(node), 0],
                tuple(inputs),
                parameters,
                sum(prod(inferred.auxiliary[name]) for name in node.auxiliary_names()),
            )
        )
    if not layers:
        raise ShapeError(f"{symbol.name!r} holds no operator to summarize")
    given = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    return Summary(f"{symbol.name}: {given}", tuple(layers))


def summary(symbol: Symbol, shapes: Mapping[str, Shape], file: TextIO | None = None) -> Summary:
    """Prints the table (with rich on a terminal, as plain text elsewhere) and returns it."""
    file = sys.stdout if file is None else file
    result = summarize(symbol, shapes)
    if file.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=result.title, caption=result.totals(), title_justify="left")
        for heading in Summary.HEADINGS:
            table.add_column(heading, justify="right" if heading == "parameters" else "left")
        for row in result.rows():
            table.add_row(*row)
        Console(file=file).print(table)
    else:
        print(result, file=file)
    return result
