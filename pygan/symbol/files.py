"""Graphs as JSON text and files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pygan.errors import GraphError
from pygan.symbol.composing import make_operator
from pygan.symbol.graph import Node, Symbol, Variable, checked_name

FORMAT = "pygan-symbol"
FORMAT_VERSION = 1


def to_json(symbol: Symbol) -> str:
    """The graph as JSON text; `from_json` reads it back."""
    nodes = symbol.nodes()
    number = {id(node): i for i, node in enumerate(nodes)}
    entries = []
    for node in nodes:
        entry: dict[str, Any] = {"name": node.name}
        if node.operator is None:
            entry["operator"] = None
            if node.shape is not None:
                entry["shape"] = list(node.shape)
        else:
            entry["operator"] = type(node.operator).__name__
            entry["attributes"] = node.operator.attributes()
            entry["inputs"] = [[number[id(parent)], index] for parent, index in node.inputs]
        entries.append(entry)
    heads = [[number[id(node)], index] for node, index in symbol.heads]
    document = {"format": FORMAT, "version": FORMAT_VERSION, "nodes": entries, "heads": heads}
    return json.dumps(document, indent=1)


def from_json(text: str) -> Symbol:
    """The symbol that `Symbol.to_json` wrote. Raises GraphError where the text is no such."""
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or "format" not in document:
            raise GraphError(
                "this is no graph written by pygan, which says so in its 'format'; graphs of other "
                "systems are built anew, with the operators of pygan.symbol"
            )
        if document["format"] != FORMAT or document["version"] != FORMAT_VERSION:
            raise GraphError(
                f"the graph is of format {document['format']!r} version {document['version']!r}; "
                f"this pygan reads {FORMAT!r} version {FORMAT_VERSION}"
            )
        nodes: list[Node] = []
        for entry in document["nodes"]:
            if entry["operator"] is None:
                nodes.append(Variable(entry["name"], entry.get("shape")).heads[0][0])
                continue
            operator = make_operator(entry["operator"], entry["attributes"], entry["name"])
            inputs = tuple(_head(nodes, item) for item in entry["inputs"])
            if len(inputs) != len(operator.argument_names()):
                raise GraphError(
                    f"{entry['operator']} {entry['name']!r} has {len(inputs)} inputs, but takes "
                    f"{', '.join(operator.argument_names())}"
                )
            nodes.append(Node(checked_name(entry["name"]), operator, inputs))
        symbol = Symbol([_head(nodes, item) for item in document["heads"]])
        if not symbol.heads:
            raise GraphError("the graph has no outputs")
        symbol.nodes()
        return symbol
    except GraphError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise GraphError(f"this is no graph written by pygan: {error!r}") from None


def load(path: str | os.PathLike[str]) -> Symbol:
    """The symbol that `Symbol.save` wrote. Raises GraphError naming the file."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except (GraphError, UnicodeDecodeError) as error:
        raise GraphError(f"{path}: {error}") from None


def _head(nodes: list[Node], item: Any) -> tuple[Node, int]:
    number, index = item
    if not 0 <= number < len(nodes) or not 0 <= index < len(nodes[number].output_names()):
        raise GraphError(f"input {item} does not exist before its consumer")
    return nodes[number], index
