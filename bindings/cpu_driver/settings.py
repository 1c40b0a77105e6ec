"""The environment's settings of the CPU driver, looked at before it is loaded.

The driver's C++ reads them where they matter, and takes the default for what it cannot read; here
such a value is an error, with what it may be. README.md says what each means.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping

from . import pruning

LEAST_MEMORY = 2**20


def _whole(least: int) -> Callable[[str], bool]:
    return lambda text: text.isdecimal() and int(text) >= least


def _seconds(text: str) -> bool:
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False


def _one_of(*choices: str) -> Callable[[str], bool]:
    return lambda text: text in choices


ALLOWED: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "PYGAN_CPU_THREADS": (_whole(1), "a whole number of worker threads, at least 1"),
    "PYGAN_CPU_THREAD_ORDER": (
        lambda text: bool(re.fullmatch(r"ascending|random(:\d+)?", text)),
        "ascending, or random:SEED",
    ),
    "PYGAN_CPU_GRAPH_ORDER": (_one_of("submitted", "last"), "submitted, or last"),
    "PYGAN_CPU_MEMORY": (
        _whole(LEAST_MEMORY),
        f"a whole number of bytes, at least {LEAST_MEMORY:,} (without commas)",
    ),
    "PYGAN_CPU_TIMEOUT": (_seconds, "a number of seconds, 0 for no limit"),
    "PYGAN_CPU_CHECK": (_one_of("0", "1"), "1 for check mode, or 0"),
}


def check() -> None:
    """Raises ValueError for a setting with a value that means nothing; an empty one is none."""
    for name, (means_something, what) in ALLOWED.items():
        value = os.environ.get(name, "")
        if value and not means_something(value):
            raise ValueError(f"{name} is {value!r}; it must be {what}")
    pruning.limit()
