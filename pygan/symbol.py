"""Symbols: graphs of named operators, in MXNet's terms.

A symbol is one or more outputs of a graph. Calling an operator with symbols extends the graph;
parameters that are not given (weights, biases, labels of losses) become variables named after the
operator, such as ``conv1_weight``. Nothing is computed before ``bind``.

    data = Variable("data")
    hidden = Activation(FullyConnected(data, num_hidden=64, name="fc1"), kind="relu")
    score = SigmoidCrossEntropy(FullyConnected(hidden, num_hidden=1, name="fc2"), name="loss")
    executor = score.bind(pygan.device.get("numpy"), shapes={"data": (32, 784)})
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygan import operators
from pygan.checkpoint import atomic_write
from pygan.errors import GraphError, ShapeError
from pygan.operators import OPERATORS, Operator, Shape

if TYPE_CHECKING:
    from pygan.executor import Executor
    from pygan.summary import Summary

FORMAT = "pygan-symbol"
FORMAT_VERSION = 1


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
        if not -len(self.heads) <= index < len(self.heads):
            raise IndexError(f"output {index} of a symbol with {len(self.heads)} outputs")
        return Symbol([self.heads[index]])

    def internals(self) -> Symbol:
        """A symbol whose outputs are all outputs of all nodes, to pick one from by name."""
        return Symbol([(node, i) for node in self.nodes() for i in range(len(node.output_names()))])

    def __add__(self, other: Symbol) -> Symbol:
        return Add(self, other)

    def __mul__(self, other: Symbol) -> Symbol:
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
        given = {name: _shape(name, shape) for name, shape in {**(shapes or {}), **named}.items()}
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
        device: Any,
        shapes: Mapping[str, Shape],
        grad_req: str | Mapping[str, str] = "write",
        **options: Any,
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
        nodes = self.nodes()
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
        heads = [[number[id(node)], index] for node, index in self.heads]
        document = {"format": FORMAT, "version": FORMAT_VERSION, "nodes": entries, "heads": heads}
        return json.dumps(document, indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the graph as JSON, whole or not at all. Raises OSError where that fails."""
        atomic_write(path, self.to_json().encode())


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
                shape = entry.get("shape")
                nodes.append(Node(entry["name"], None, shape=shape and tuple(shape)))
                continue
            operator = _operator(entry["operator"], entry["attributes"], entry["name"])
            inputs = tuple(_head(nodes, item) for item in entry["inputs"])
            if len(inputs) != len(operator.argument_names()):
                raise GraphError(
                    f"{entry['operator']} {entry['name']!r} has {len(inputs)} inputs, but takes "
                    f"{', '.join(operator.argument_names())}"
                )
            nodes.append(Node(entry["name"], operator, inputs))
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


def bind(symbol: Symbol, device: Any, *args: Any, **options: Any) -> Executor:
    """`symbol.bind(device, ...)`."""
    return symbol.bind(device, *args, **options)


def Variable(name: str, shape: Shape | None = None) -> Symbol:
    """A named input or parameter, with its shape where the graph cannot infer it."""
    shape = None if shape is None else _shape(name, shape)
    return Symbol([(Node(_checked(name), None, shape=shape), 0)])


def group(symbols: Sequence[Symbol]) -> Symbol:
    """One symbol with all outputs of several, in order."""
    for symbol in symbols:
        if not isinstance(symbol, Symbol):
            raise GraphError(f"group takes symbols, not {symbol!r}")
    heads = [head for symbol in symbols for head in symbol.heads]
    if not heads:
        raise GraphError("group needs at least one symbol")
    return Symbol(heads)


_counters: list[Counter[str]] = [Counter()]
_prefixes: list[str] = [""]


@contextmanager
def name_scope(prefix: str = "") -> Iterator[None]:
    """Automatic names inside start at 0 again and carry the prefix, whatever was built before."""
    _counters.append(Counter())
    _prefixes.append(_prefixes[-1] + prefix)
    try:
        yield
    finally:
        _counters.pop()
        _prefixes.pop()


def _automatic_name(kind: str) -> str:
    base = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", kind).lower()  # LeakyReLU: leaky_relu
    number = _counters[-1][base]
    _counters[-1][base] += 1
    return f"{_prefixes[-1]}{base}{number}"


def _checked(name: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        raise GraphError(
            f"{name!r} is no name for a node: letters, digits, '_' and '.', no digit first"
        )
    return name


def _shape(name: str, shape: Any) -> Shape:
    try:
        result = tuple(int(size) for size in shape)
        valid = all(size == given for size, given in zip(result, shape, strict=True))
    except (TypeError, ValueError):
        valid, result = False, ()
    if not valid or not result or min(result) < 1:
        raise ShapeError(f"the shape of {name!r} must hold positive integers, not {shape!r}")
    return result


def _head(nodes: list[Node], item: Any) -> tuple[Node, int]:
    number, index = item
    if not 0 <= number < len(nodes) or not 0 <= index < len(nodes[number].output_names()):
        raise GraphError(f"input {item} does not exist before its consumer")
    return nodes[number], index


def _operator(kind: str, attributes: Mapping[str, Any], name: str | None) -> Operator:
    if kind not in OPERATORS:
        raise GraphError(f"there is no operator {kind!r}; there are {', '.join(sorted(OPERATORS))}")
    known = [item.name for item in fields(OPERATORS[kind]) if item.repr]
    unknown = [key for key in attributes if key not in known]
    if unknown:
        raise GraphError(
            f"{kind} has no attribute {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(known) or 'none'}"
        )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in attributes.items()}
    where = f"{kind} {name!r}" if name else kind
    needed = [f.name for f in fields(OPERATORS[kind]) if f.default is f.default_factory is MISSING]
    missing = [key for key in needed if key not in values]
    if missing:
        raise GraphError(f"{where} needs {', '.join(f'{key}=' for key in missing)}")
    try:
        return OPERATORS[kind](**values)
    except (GraphError, TypeError) as error:
        raise GraphError(f"{where}: {error}") from None


def _compose(kind: str, args: Sequence[Symbol], options: dict[str, Any]) -> Symbol:
    name = options.pop("name", None)
    inputs = {key: options.pop(key) for key in list(options) if isinstance(options[key], Symbol)}
    if kind == "Concat":
        options.setdefault("count", len(args) + len(inputs))
    operator = _operator(kind, options, name)
    name = _automatic_name(kind) if name is None else _checked(name)
    names = operator.argument_names()
    described = f"{kind} {name!r}"
    if len(args) > len(names):
        raise GraphError(
            f"{described} takes {len(names)} inputs ({', '.join(names)}), not {len(args)}"
        )
    for argument, value in zip(names, args, strict=False):
        if argument in inputs:
            raise GraphError(f"{described}: input {argument!r} is given twice")
        if value is not None:
            inputs[argument] = value
    unknown = [key for key in inputs if key not in names]
    if unknown:
        raise GraphError(
            f"{described} has no input {', '.join(map(repr, unknown))}; it has {', '.join(names)}"
        )
    automatic = _automatic_inputs(operator)
    heads = []
    for argument in names:
        given = inputs.get(argument)
        if given is None and argument in automatic:
            given = Symbol([(Node(f"{name}_{argument}", None), 0)])
        if not isinstance(given, Symbol):
            raise GraphError(f"{described}: input {argument!r} must be a symbol, not {given!r}")
        if len(given.heads) != 1:
            raise GraphError(
                f"{described}: input {argument!r} has {len(given.heads)} outputs "
                f"({', '.join(given.list_outputs())}); choose one, as in symbol[0]"
            )
        heads.append(given.heads[0])
    node = Node(name, operator, tuple(heads))
    return Symbol([(node, index) for index in range(len(operator.outputs))])


def _automatic_inputs(operator: Operator) -> tuple[str, ...]:
    """Inputs that become variables when they are not given: parameters and labels."""
    return tuple({"weight", "bias", "gamma", "beta", *operator.label_inputs})


def _factory(operator: type[Operator]) -> Callable[..., Symbol]:
    kind = operator.__name__

    def build(*args: Symbol, **options: Any) -> Symbol:
        return _compose(kind, args, options)

    parameter = inspect.Parameter
    attributes = [
        parameter(
            item.name,
            parameter.KEYWORD_ONLY,
            default=item.default
            if isinstance(item.default, int | float | str)
            else parameter.empty,
        )
        for item in fields(operator)
        if item.repr
    ]
    build.__name__ = build.__qualname__ = kind
    build.__doc__ = operator.__doc__
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            parameter("inputs", parameter.VAR_POSITIONAL),
            *attributes,
            parameter("name", parameter.KEYWORD_ONLY, default=None),
        ]
    )
    return build


Activation = _factory(operators.Activation)
Add = _factory(operators.Add)
BatchNorm = _factory(operators.BatchNorm)
BroadcastMultiply = _factory(operators.BroadcastMultiply)
Concat = _factory(operators.Concat)
Convolution = _factory(operators.Convolution)
Dropout = _factory(operators.Dropout)
Exp = _factory(operators.Exp)
Flatten = _factory(operators.Flatten)
FullyConnected = _factory(operators.FullyConnected)
KullbackLeibler = _factory(operators.KullbackLeibler)
LeakyReLU = _factory(operators.LeakyReLU)
LogisticRegressionOutput = _factory(operators.LogisticRegressionOutput)
MeanSquaredError = _factory(operators.MeanSquaredError)
Multiply = _factory(operators.Multiply)
Pooling = _factory(operators.Pooling)
Reparametrization = _factory(operators.Reparametrization)
Reshape = _factory(operators.Reshape)
SigmoidCrossEntropy = _factory(operators.SigmoidCrossEntropy)
Softmax = _factory(operators.Softmax)
SoftmaxCrossEntropy = _factory(operators.SoftmaxCrossEntropy)
TransposedConvolution = _factory(operators.TransposedConvolution)
