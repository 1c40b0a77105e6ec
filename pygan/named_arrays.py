"""The arrays of an executor, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from pygan.errors import GraphError


class NamedArrays(dict[str, Any]):
    """A dictionary of arrays that passes already work on: they are written in place,
    ``executor.arg_dict["data"][...] = values``. Another array under the name would change nothing
    that is computed, so putting one there raises GraphError; a name that is not there raises
    KeyError listing those that are."""

    def __init__(self, name: str, arrays: Mapping[str, Any]) -> None:
        super().__init__(arrays)
        self._name = name

    def __missing__(self, key: object) -> NoReturn:
        known = ", ".join(self) or "nothing"
        raise KeyError(f"{self._name} has no {key!r}; it has {known}")

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise GraphError(
            f"the arrays of {self._name} cannot be exchanged: the executor works on their memory. "
            f"Write into it, {self._name}[name][...] = values; dict({self._name}) is a dictionary "
            "of your own"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)
