"""Plans of kernels/convolution_image_weight.cu: gradients of weights between an image of floats and
a side of bf16 numbers, on tensor cores."""

from __future__ import annotations

from ..shapes import Geometry
from . import tensor_core
from .model import slice_counts
from .passes import product_of
from .plan import Plan, Tiles

FILE = "convolution_image_weight.cu"
TILE = tensor_core.Tile(64, 64, 32, 3, 3, {"bf16": 400})
"""Its only one: dy in bf16, and an image of floats."""


def image_weight_plan(shape: Geometry, most: float) -> Plan | None:
    """The kernel's plan, where it is predicted to take less than `most` microseconds."""
    kind = "backward_weight"
    product = product_of(kind, shape)
    sizes = {"operand_bytes": 3}  # the mean of both
    predicted = {
        slices: tensor_core.predicted_microseconds(Tiles(TILE, slices), "bf16", product, **sizes)
        for slices in slice_counts(product, product.depth // tensor_core.LEAST_DEPTH)
    }
    slices = min(predicted, key=lambda count: predicted[count])
    if predicted[slices] >= most:
        return None
    return Plan(
        FILE,
        "convolution_backward_weight_image",
        {},
        product.grid(TILE.lines, TILE.columns, slices),
        TILE.threads,
        (*shape.arguments(), slices),
        slices,
        tensor_core.shared_bytes(kind, TILE, halves=True),
    )
