"""Which arguments of a symbol are inputs, and what a user asks of each one's gradient."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pygan.errors import GraphError
from pygan.operators import Shape
from pygan.symbol import Symbol

REQUESTS = ("write", "add", "null")


def names_of_inputs(symbol: Symbol, shapes: Mapping[str, Shape]) -> list[str]:
    """Arguments whose shape was given, and the labels of losses."""
    labels = set()
    for node in symbol.nodes():
        if node.operator is None:
            continue
        for argument, (parent, _) in zip(node.operator.argument_names(), node.inputs, strict=True):
            if parent.operator is None and argument in node.operator.label_inputs:
                labels.add(parent.name)
    return [name for name in symbol.list_arguments() if name in shapes or name in labels]


def checked_requests(symbol: Symbol, grad_req: str | Mapping[str, str]) -> dict[str, str]:
    """The request of every argument, by name. Raises GraphError for what is no request, or for a
    name that is no argument."""
    arguments = symbol.list_arguments()
    if isinstance(grad_req, str):
        result = dict.fromkeys(arguments, grad_req)
    elif not isinstance(grad_req, Mapping):
        raise GraphError(
            f"grad_req is one of {', '.join(REQUESTS)}, or names arguments with one each, as in "
            f"{{'data': 'null'}}; it is {grad_req!r}"
        )
    else:
        unknown = [name for name in grad_req if name not in arguments]
        if unknown:
            raise GraphError(
                f"grad_req names {', '.join(map(repr, unknown))}, but the arguments are "
                f"{', '.join(arguments)}"
            )
        result = {name: grad_req.get(name, "write") for name in arguments}
    for name, request in result.items():
        if request not in REQUESTS:
            raise GraphError(
                f"grad_req of {name!r} must be one of {', '.join(REQUESTS)}, not {request!r}"
            )
    return result


def wanted_names(wanted: str | Iterable[str]) -> tuple[str, ...]:
    """The arguments whose gradient a backward is to compute. Raises GraphError for no names."""
    given = (wanted,) if isinstance(wanted, str) or not isinstance(wanted, Iterable) else wanted
    names = tuple(given)
    if not all(isinstance(name, str) for name in names):
        raise GraphError(
            f"wanted names an argument, or several, as in ['data', 'conv1_weight'], not {wanted!r}"
        )
    return names


def require_lendable(
    requests: Mapping[str, str], input_names: Collection[str], shared: bool
) -> None:
    """Raises GraphError where gradients of parameters are another executor's, or must outlive what
    is done with their memory in between."""
    if shared:
        raise GraphError(
            "lend_gradients=True needs gradients of its own, not those of a shared executor"
        )
    for name, request in requests.items():
        if request == "add" and name not in input_names:
            raise GraphError(
                f"grad_req of {name!r} is 'add', but gradients that are lent are lost between two "
                "passes: use 'write', or lend_gradients=False"
            )


def require_gradients(grad_req: str | Mapping[str, str], stated: Collection[str]) -> None:
    """Raises GraphError for a gradient that was asked for by name, if it is not among those that
    operators have `stated`."""
    if isinstance(grad_req, str):
        return
    for name, request in grad_req.items():
        if request != "null" and name not in stated:
            raise GraphError(
                f"grad_req of {name!r} is {request!r}, but no operator that reads it states a "
                "gradient for it; use 'null'"
            )
