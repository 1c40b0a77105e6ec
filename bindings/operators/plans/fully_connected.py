"""Plans of fully connected layers in float32: kernels/fully_connected.cu, and where their sizes are
multiples of 4 kernels/convolution_pipelined.cu, for which they are convolutions of pixels."""

from __future__ import annotations

from ..shapes import Geometry
from .general import slices_for, tile_for
from .model import MOST_BLOCKS
from .passes import PASSES, POINTWISE, Product
from .pipelined import can_be_pipelined, pipelined_plan
from .plan import Plan

FILE = "fully_connected.cu"
MOST_LINES = 2**31 - 65
"""The kernels count lines, columns and depth in 32 bits, rounded up to a tile."""


def fully_connected_plan(
    operator: str, batch: int, inputs: int, outputs: int, device: str | None
) -> Plan:
    """The plan of a pass of a layer (batch, inputs) -> (batch, outputs), with what the tables of
    tuning.py hold for `device`. ValueError for more than a launch can take."""
    kind = PASSES[operator].kind
    product = {
        "forward": Product(batch, outputs, inputs, 1),
        "backward_data": Product(batch, inputs, outputs, 1),
        "backward_weight": Product(outputs, inputs, batch, 1),
    }[kind]
    lines, columns, depth, _ = product
    pixel = (1, 1)
    shape = Geometry(batch, 1, 1, inputs, 1, 1, outputs, pixel, *POINTWISE)
    fast = None
    if min(lines, columns, depth) > 0 and can_be_pipelined(kind, shape):
        fast = pipelined_plan(kind, shape, device=device)
    tile = tile_for(product)
    slices = fast.slices if fast else slices_for(product, tile)
    grid = product.grid(tile.lines, tile.columns, slices)
    across = max(grid[1], fast.grid[1] if fast else 0)
    if max(lines, columns, depth) > MOST_LINES or across > MOST_BLOCKS:
        raise ValueError(
            f"{operator}: a product of ({lines}, {depth}) by ({depth}, {columns}) is too large; "
            f"no dimension may pass {MOST_LINES}, nor the columns {MOST_BLOCKS} tiles: split the "
            f"batch or the layer"
        )
    sizes = (batch, inputs, outputs)
    entry = f"fully_connected_{kind}"
    plain = Plan(FILE, entry, tile.defines, grid, tile.threads, sizes, slices)
    return fast._replace(unaligned=plain) if fast else plain
