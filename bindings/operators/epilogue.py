"""What becomes of the sums of a convolution before they are stored: kernels/epilogue.cuh.

A launch names the activation by number, so that no kernel is compiled for each of them. A thread
that finishes many sums can apply none, relu and leaky_relu to them; for the others a launch of
activation_forward follows. The second stage of a sum that is cut into slices can apply all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .activation import KINDS, activation_forward, check_kind
from .validation import same_shape

FROM_OUTPUT = ("relu", "leaky_relu", "elu", "sigmoid", "tanh")
"""The kinds whose output tells the derivative in a few operations (softplus needs an exponential).
"""

OF_MANY_SUMS = (None, "relu", "leaky_relu")
FEW_SUMS = 8
"""Of kernels/product.cuh: the most sums of a thread to which any activation is applied."""


class Epilogue(NamedTuple):
    """An activation to apply; or, with `activated` (what it gave), to multiply its derivative."""

    activated: Any | None = None
    activation: str | None = None
    slope: float = 0.0

    @property
    def arguments(self) -> tuple[Any, int, float]:
        """The last arguments of a kernel: `activated`, the enumerator's number, `slope`."""
        number = 0 if self.activation is None else 1 + KINDS.index(self.activation)
        return self.activated, number, self.slope

    def fits(self, sums: int) -> bool:
        """Whether a thread that finishes `sums` sums can do it."""
        return self.activated is not None or sums <= FEW_SUMS or self.activation in OF_MANY_SUMS

    def run(self, out: Any) -> None:
        """By a launch of its own, for a kernel that it does not fit."""
        if self.activation is not None:
            activation_forward(out, out, kind=self.activation, slope=self.slope)


NOTHING = Epilogue()


def of_output(operator: str, activation: str | None, slope: float) -> Epilogue:
    """Applies `activation`, if any. ValueError for an unknown one."""
    check_kind(operator, activation)
    return NOTHING if activation is None else Epilogue(None, activation, slope)


def of_gradient(
    operator: str, x: Any | None, dx: Any, activation: str | None, slope: float
) -> Epilogue:
    """Multiplies dx with the derivative of the activation that gave x, both or neither given.

    ValueError for another shape than dx's, and where x does not tell the derivative."""
    if (x is None) != (activation is None):
        raise ValueError(f"{operator}: x and activation (here {activation!r}) go together")
    if x is None:
        return NOTHING
    if check_kind(operator, activation) not in FROM_OUTPUT or slope < 0:
        raise ValueError(
            f"{operator}: the derivative of {activation} with slope {slope} is not taken from the "
            f"output here; use activation_backward (kinds that are: {FROM_OUTPUT}, slope >= 0)"
        )
    same_shape(operator, dx=dx, x=x)
    return Epilogue(x, activation, slope)
