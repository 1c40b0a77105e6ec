"""Activations that the layer before them computes, and derivatives that the layer behind does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from pygan.lowering.steps import CONVOLUTIONS, Key, Steps
from pygan.lowering.storage import AT_ONCE, may_be_half
from pygan.operators import (
    Activation,
    BatchNorm,
    Convolution,
    LeakyReLU,
    Operator,
    Shape,
    TransposedConvolution,
)
from pygan.reference.activation import FROM_OUTPUT
from pygan.symbol import InferredShapes, Node


def taken_along(nodes: Iterable[Node], consumers: Mapping[Key, int]) -> dict[int, Node]:
    """Batch norms and convolutions (by id) that the one activation reading them takes along."""
    fused = {}
    for node in nodes:
        if isinstance(node.operator, Activation | LeakyReLU):
            parent, _ = node.inputs[0]
            takes = isinstance(parent.operator, BatchNorm)
            if isinstance(parent.operator, CONVOLUTIONS):
                # A slope below 0 folds two inputs onto one output, and only the output is kept.
                takes = _function(node)[1] >= 0
            if takes and consumers[id(parent), 0] == 1:
                fused[id(parent)] = node
    return fused


def with_activation(layer: Node, activation: Node) -> Operator:
    """The operator of a layer that takes an activation along, see `taken_along`."""
    assert isinstance(layer.operator, BatchNorm | Convolution | TransposedConvolution)
    kind, slope = _function(activation)
    return replace(layer.operator, activation=kind, slope=slope)


def without_double_rounding(
    fused: Mapping[int, Node], heads: Collection[Key], shapes: InferredShapes
) -> dict[int, Node]:
    """Of `taken_along`, those that round to bf16 once at most: outputs of the graph, which stay
    float32, and what every kernel applies to its sums before it rounds."""
    return {
        source: node
        for source, node in fused.items()
        if (id(node), 0) in heads or not _rounds_twice(node, shapes.of[id(node), 0])
    }


def _rounds_twice(node: Node, shape: Shape) -> bool:
    """Whether a convolution that takes this activation along might round to bf16 before it, and
    again behind it; `shape`: of its output."""
    takes = _function(node)[0] in AT_ONCE
    return isinstance(node.inputs[0][0].operator, CONVOLUTIONS) and not takes and may_be_half(shape)


def _function(activation: Node) -> tuple[str, float]:
    assert isinstance(activation.operator, Activation | LeakyReLU)
    return activation.operator.function()


def fuse_derivatives(steps: Steps) -> None:
    """Where one convolution alone reads what the activation of another gave, its gradient takes
    the derivative along."""
    makers = steps.makers()
    for step in steps.in_order:
        maker = makers.get(step.input_keys[0])
        if maker is None or not isinstance(step.operator, CONVOLUTIONS):
            continue
        made = maker.operator
        if (
            isinstance(made, CONVOLUTIONS)
            and made.activation in FROM_OUTPUT
            and steps.consumers[maker.output_keys[0]] == 1
        ):
            step.operator = replace(
                step.operator, data_activation=made.activation, data_slope=made.slope
            )
            maker.operator = replace(made, derived=True)
