"""The moments that a convolution's tiles can leave of their channels where batch norm follows, in a
vector of tiles * (2 C + 1) numbers: kernels/tile_moments.cuh tells which. When it pays: moments.py.
"""

from __future__ import annotations

from typing import Any

from .plans import normalised, pipelined, tensor_core
from .plans.plan import Plan

FILES = (normalised.PIPELINED_VARIANT, pipelined.FILE, tensor_core.FILE)
"""Whose kernels, but for gradients of weights, have a parameter `moments`."""

RUN = 4
"""What channels of a group are a multiple of, where they leave moments."""

LEAST_COLUMNS = 32
"""Of a tile that leaves moments: narrower ones are for images, which no batch norm follows."""


def takes_moments(plan: Plan) -> bool:
    """Whether the kernel of a plan, unless it is a weight gradient's, has that parameter."""
    return plan.file in FILES


def tiles_of_moments(plan: Plan | None, channels: int) -> int:
    """How many tiles of a convolution's result can leave moments, those of all phases; 0 where its
    kernel leaves none, or finishes no sum, and without a plan."""
    if plan is None or not takes_moments(plan) or plan.slices != 1:
        return 0
    groups = plan.arguments[normalised.GROUPS]
    narrow = channels // groups % RUN or int(plan.defines["TILE_N"]) < LEAST_COLUMNS
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
    operator: str, plan: Plan, launched: Plan | None, channels: int, moments: Any
) -> Plan:
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
