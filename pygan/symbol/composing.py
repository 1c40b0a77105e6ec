"""Operators called with symbols: attributes, inputs that become variables, automatic names."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any

from pygan.errors import GraphError
from pygan.operators import OPERATORS, Operator
from pygan.symbol.graph import Node, Symbol, checked_name

_counters: list[Counter[str]] = [Counter()]
_prefixes: list[str] = [""]


@contextmanager
def name_scope(prefix: str = "") -> Iterator[None]:
    """Automatic names inside start at 0 again and carry the prefix, whatever was built before."""
    if not isinstance(prefix, str):
        raise GraphError(f"a prefix of names is text, such as 'gen_', not {prefix!r}")
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


def make_operator(kind: str, attributes: Mapping[str, Any], name: str | None) -> Operator:
    """An operator. Raises GraphError for attributes that it has not, lacks or refuses."""
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
    operator = make_operator(kind, options, name)
    name = _automatic_name(kind) if name is None else checked_name(name)
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


def factory(operator: type[Operator]) -> Callable[..., Symbol]:
    """What makes a symbol of the operator, with its attributes in its signature."""
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
    # what inspect reads; typeshed's functions have no such attribute
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            parameter("inputs", parameter.VAR_POSITIONAL),
            *attributes,
            parameter("name", parameter.KEYWORD_ONLY, default=None),
        ]
    )
    return build
