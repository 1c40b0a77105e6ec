"""A batch norm, and its activation, on the way into a convolution: kernels/normalised_sources.cuh.

plans/normalised.py tells which kernels can. A launch names the activation by number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .epilogue import OF_MANY_SUMS as KINDS
from .epilogue import Epilogue
from .plans.normalised import normalised_plan
from .plans.plan import Plan
from .validation import aligned, has_shape


class Prologue(NamedTuple):
    """normalisation (C, 4) of what is read, as kernels/normalisation.cuh has it, and the activation
    behind it."""

    normalisation: Any
    activation: str | None
    slope: float

    @property
    def arguments(self) -> tuple[Any, int, float]:
        """The last arguments of a kernel."""
        return self.normalisation, *Epilogue(None, self.activation, self.slope).arguments[1:]


def of_input(
    operator: str, normalisation: Any | None, x: Any, activation: str | None, slope: float
) -> Prologue | None:
    """What happens to x (..., C) on the way in, or None. ValueError for another shape of
    normalisation than (C, 4), and for an activation that is not applied there."""
    if activation not in KINDS or (normalisation is None and activation is not None):
        raise ValueError(
            f"{operator}: x_activation {activation!r} comes behind a normalisation, and is one of "
            f"{KINDS}; use activation_forward"
        )
    if normalisation is None:
        return None
    needed = (x.shape[-1], 4)
    has_shape(operator, "normalisation", normalisation, needed, f"x {tuple(x.shape)}")
    return Prologue(normalisation, activation, slope)


def normalising(operator: str, plan: Plan, *arrays: Any) -> Plan:
    """:func:`normalised_plan` for a launch with these arrays; ValueError where no kernel does it,
    or an array does not begin at a multiple of 16 bytes."""
    found = normalised_plan(operator, plan)
    if found is None or not aligned(*arrays):
        why = "no kernel normalises on the way into these shapes"
        if found is not None:
            why = "an array begins between multiples of 16 bytes"
        raise ValueError(
            f"{operator}: {why}; normalisation_gain() says where one does, and "
            "batch_norm_forward_training normalises anything"
        )
    return found
