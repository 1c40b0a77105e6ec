"""Makes ``pycuda.curandom`` importable with a PyCUDA that was built without cuRAND.

That module holds two things: random numbers by MD5 (``pycuda.curandom.rand``), which need no
cuRAND, and wrappers of cuRAND's generators. It asks the compiled part of PyCUDA for the version of
cuRAND while it is imported, and fails where the question itself was not compiled in. The finder
below answers in its place, just before the import: version 0, so that the MD5 numbers work and the
generators are not offered.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType

NO_CURAND = (0, 0, 0)


def _no_curand_version() -> tuple[int, int, int]:
    return NO_CURAND


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        if name == "pycuda.curandom":
            with contextlib.suppress(ImportError):  # the import itself will say it better
                driver = importlib.import_module("pycuda._driver")
                if not hasattr(driver, "get_curand_version"):
                    vars(driver)["get_curand_version"] = _no_curand_version
        return None  # the ordinary finders load the module


def install() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
