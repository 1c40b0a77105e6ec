"""What becomes of the sums of a convolution before they are stored: kernels/epilogue.cuh.

A launch names the activation by number, so that no kernel is compiled for each of them. A thread
that finishes many sums can apply none, relu and leaky_relu to them; for the others a launch of
activation_forward follows. The second stage of a sum that is cut into slices can apply all.

Where batch norm follows, tiles can leave the moments of their channels instead, in a vector of
tiles * (2 C + 1) numbers: kernels/tile_moments.cuh tells which.
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


MOMENTS_FILES = (
    "convolution_normalised.cu",
    "convolution_pipelined.cu",
    "convolution_tensor_core.cu",
)
"""Whose kernels, but for gradients of weights, have a parameter `moments`."""

MOMENTS_RUN = 4
"""What channels of a group are a multiple of, where they leave moments."""

LEAST_COLUMNS = 32
"""Of a tile that leaves moments: narrower ones are for images, which no batch norm follows."""

GROUPS = 15
"""The place of `groups` among a kernel's arguments behind its arrays."""


def tiles_of_moments(plan: Any | None, channels: int) -> int:
    """How many tiles of a convolution's result can leave moments, those of all phases; 0 where its
    kernel leaves none, or finishes no sum, and without a plan."""
    if plan is None or plan.file not in MOMENTS_FILES or plan.slices != 1:
        return 0
    groups = plan.arguments[GROUPS]
    narrow = channels // groups % MOMENTS_RUN or plan.defines["TILE_N"] < LEAST_COLUMNS
    mixed = "ELEMENT" in plan.defines and "RESULT" not in plan.defines  # not compiled
    return 0 if narrow or mixed else plan.grid[0] * plan.grid[2] // groups


def moments_size(tiles: int, channels: int) -> int:
    """float32 elements: means, squared deviations, counts."""
    return tiles * (2 * channels + 1)


def alone_with_moments(
    operator: str, moments: Any | None, activation: str | None, accumulate: bool, in_slices: bool
) -> None:
    """ValueError for what a result cannot be that leaves moments."""
    if moments is not None and (activation is not None or accumulate or in_slices):
        raise ValueError(
            f"{operator}: moments are those of a finished sum that is written; activation, "
            "accumulate and in_slices do not go with them"
        )


def leaving_moments(
    operator: str, plan: Any, launched: Any | None, channels: int, moments: Any
) -> Any:
    """`plan` with tiles that leave them. ValueError where those of what is launched for it cannot,
    or for another size."""
    tiles = tiles_of_moments(launched, channels)
    needed = moments_size(tiles, channels)
    if not tiles or tuple(moments.shape) != (needed,):
        has = f"these shapes leave {needed} numbers" if tiles else "these shapes leave none"
        raise ValueError(
            f"{operator}: moments has shape {tuple(moments.shape)}, but {has}; ask "
            f"left_moments({operator!r}, ...), or give none"
        )
    return plan._replace(defines=plan.defines | {"MOMENTS": 1})
