"""The functions of a device (``device.ops``), which look at their arrays before they run.

Names and parameters are those of :mod:`pygan.reference` on every device, and its signatures tell
which parameters are arrays, and which of those may be None. What is no array of the device is an
ArrayError that names operator and parameter; without the look it would end in whatever a
function does with it first, or as a null pointer in a kernel.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import reference
from .errors import ArrayError


class DeviceOperators:
    """The public functions of a module, by name: ``device.ops.add_forward(a, b, y)``."""

    def __init__(self, functions: ModuleType, device: str, array_type: type) -> None:
        self._functions = functions
        self._device = device
        self._array_type = array_type

    def bind(self, name: str, *arrays: Any, **attributes: Any) -> Callable[[], Any]:
        """The call of an operator, to be made many times: its arrays are looked at here, once."""
        function = getattr(self, name)
        if (look := getattr(function, "look", None)) is not None:
            look(arrays, attributes)
            function = function.__wrapped__
        return partial(function, *arrays, **attributes)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in self._functions.__all__:
            raise AttributeError(f"device {self._device!r} has no operator {name!r}")
        function: Callable[..., Any] = getattr(self._functions, name)
        if parameters := _array_parameters(name):
            function = _looking(function, parameters, self._device, self._array_type)
        setattr(self, name, function)  # from now on found without this method
        return function

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._functions.__all__]

    def __repr__(self) -> str:
        return f"<operators of device {self._device!r}>"


class _ArrayParameter(NamedTuple):
    name: str
    may_be_none: bool
    required: bool


def _array_parameters(operator: str) -> list[_ArrayParameter]:
    """Those of an operator that take arrays, in order; none of a function that is no operator, such
    as workspace_size."""
    parameters = inspect.signature(getattr(reference, operator)).parameters.values()
    return [
        _ArrayParameter(each.name, "None" in each.annotation, each.default is each.empty)
        for each in parameters
        if each.kind is each.POSITIONAL_OR_KEYWORD and "np.ndarray" in each.annotation
    ]


def _looking(
    function: Callable[..., Any],
    parameters: list[_ArrayParameter],
    device: str,
    array_type: type,
) -> Callable[..., Any]:
    """`function` behind a look at what it is given. The types that passed once are remembered, so
    that a call costs little more than finding them."""
    names = [parameter.name for parameter in parameters]
    required = sum(parameter.required for parameter in parameters)
    optional = frozenset(names[required:])
    passed: set[tuple[type, ...]] = set()

    def look(arrays: tuple[Any, ...], attributes: dict[str, Any]) -> None:
        given = dict(zip(names, arrays, strict=False)) | attributes
        for name, may_be_none, _ in parameters:
            if name not in given:  # of which Python complains, or it has a default
                continue
            array = given[name]
            if not isinstance(array, array_type) and not (may_be_none and array is None):
                raise ArrayError(
                    f"{function.__name__}: {name} is {_described(array)}; it must be an array of "
                    f"device {device!r}{' or None' if may_be_none else ''}: device.from_numpy(...)"
                    f", device.zeros(...) and executors make them"
                )

    @wraps(function)
    def call(*arrays: Any, **attributes: Any) -> Any:
        types = (*map(type, arrays),)
        if types not in passed or (optional and not optional.isdisjoint(attributes)):
            look(arrays, attributes)
            if len(types) >= required:  # else some came by name
                passed.add(types)
        return function(*arrays, **attributes)

    call.look = look  # type: ignore[attr-defined]  # of DeviceOperators.bind
    return call


def _described(given: Any) -> str:
    if given is None:
        return "None"
    kind = type(given)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    if isinstance(given, np.ndarray) or hasattr(given, "context"):
        return f"a {name} of shape {tuple(given.shape)}"
    text = repr(given)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({name})"
