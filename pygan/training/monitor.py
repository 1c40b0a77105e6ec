"""A look inside a step: norms of chosen outputs and gradients every n batches.

After MXNet's Monitor, whose statistic it shares: the norm of an array over the square root of its
size, which is the root of the mean square of its elements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pygan.errors import PyganError
from pygan.symbol import Symbol, group


def with_internals(symbol: Symbol, pattern: str) -> Symbol:
    """The symbol with all outputs of operators inside it that match the pattern as further heads.

    pattern: a regular expression that the whole name of the output (``dact1_output``) must match.
    Outputs of the symbol itself, and variables, are not repeated.
    """
    known = set(symbol.list_outputs()) | set(symbol.list_arguments())
    inner = symbol.internals()
    wanted = [
        inner[name]
        for name in inner.list_outputs()
        if name not in known and _compiled(pattern).fullmatch(name)
    ]
    return group([symbol, *wanted]) if wanted else symbol


class Monitor:
    """Prints what passes through networks, every ``every`` batches.

    executors: by the name to print. pattern: a regular expression for names of outputs, as bound
    (see `with_internals`), and of gradients, ``d1_weight_gradient`` for the argument ``d1_weight``.

    Raises PyganError for a pattern that is no regular expression, or that matches nothing.
    """

    def __init__(self, executors: Mapping[str, Any], pattern: str, every: int) -> None:
        if every < 1:
            raise PyganError(f"a monitor prints every 1 or more batches, not {every}")
        self.every = every
        self._arrays = []
        known = []
        for network, executor in executors.items():
            named = dict(executor.output_dict)
            named |= {f"{name}_gradient": g for name, g in executor.grad_dict.items()}
            known += list(named)
            self._arrays += [
                (f"{network}.{name}", array)
                for name, array in named.items()
                if _compiled(pattern).fullmatch(name)
            ]
        if not self._arrays:
            raise PyganError(
                f"the monitor's pattern {pattern!r} matches nothing; there are {', '.join(known)}"
            )

    def norms(self) -> dict[str, float]:
        """Norm / sqrt(size) of each array, as it is now. Waits for the device."""
        result = {}
        for name, array in self._arrays:
            values = np.asarray(array, np.float64)
            result[name] = math.sqrt(float(np.vdot(values, values)) / values.size)
        return result

    def lines(self, batch: int) -> list[str]:
        """A line for each array after batch ``batch`` (from 1), none between the turns."""
        if batch % self.every:
            return []
        return [
            f"monitor: batch {batch:>6}  {name:32} {norm:.5g}"
            for name, norm in self.norms().items()
        ]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise PyganError(f"{pattern!r} is no regular expression: {error}") from None
