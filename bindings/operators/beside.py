"""Which gradients of weights gain by running beside the rest of a recorded pass.

A product whose blocks take every place on the multiprocessors leaves none to what runs beside it:
on a branch it would take as long as in line, and hold what it reads for longer. One that leaves
places idle lends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

from .plans import pipelined, tensor_core, wgmma
from .plans.choice import plan_of
from .plans.model import MULTIPROCESSORS
from .plans.plan import Plan

BESIDE = ("convolution_backward_weight", "transposed_convolution_backward_weight")

FULL = 0.9
"""Part of the places, in all rounds of blocks, from which on what is left is not worth a branch."""


BUSY = 2
"""Blocks that keep a multiprocessor's schedulers busy: while one waits for a step, the other
multiplies, by the model in plans/model.py."""


def leaves_room(
    name: str, *shapes: Sequence[int] | None, lean: bool = False, **attributes: Any
) -> bool:
    """Whether the operator `name`, a convolution's gradient of its weights, leaves places of a
    large GPU to what may run beside it; lean: or at least instructions that its multiprocessors
    could issue, of which two blocks of products each leave next to none.

    `shapes` are those of its arrays, and `attributes` its attributes, with `dtypes`, a list like
    shapes, where arrays hold bf16 numbers. Raises ValueError for a name that is no such gradient.
    """
    if name not in BESIDE:
        raise ValueError(f"leaves_room: {name!r} is not one of {BESIDE}")
    plan = plan_of(name, shapes, **attributes)
    blocks, resident = prod(plan.grid), _resident(plan)
    if not resident:
        return True
    if lean:
        return blocks < FULL * min(BUSY, resident) * MULTIPROCESSORS
    places = resident * MULTIPROCESSORS
    return blocks < FULL * places * ceil(blocks / places)


def _resident(plan: Plan) -> int:
    """Blocks that a multiprocessor holds, 0 of kernels that have no such tiles."""
    tiles: dict[str, Sequence[Any]] = {
        pipelined.FILE: pipelined.SINGLES if "VECTOR" in plan.defines else pipelined.TILES,
        tensor_core.FILE: tensor_core.TILES_OF_HALVES
        if "ELEMENT" in plan.defines
        else tensor_core.TILES,
        wgmma.FILE: wgmma.TILES,
        wgmma.FILE_OF_HALVES: wgmma.TILES_OF_HALVES,
    }
    size = plan.defines.get("TILE_M"), plan.defines.get("TILE_N")
    fitting = (tile for tile in tiles.get(plan.file, ()) if (tile.lines, tile.columns) == size)
    return max((tile.resident for tile in fitting), default=0)
