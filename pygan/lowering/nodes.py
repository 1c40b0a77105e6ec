"""From the nodes of a symbol to steps: which arrays each operator reads and makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pygan.lowering.activations import taken_along, with_activation, without_double_rounding
from pygan.lowering.steps import Key, Step, Steps
from pygan.operators import Array, Arrays, Shapes
from pygan.symbol import InferredShapes, Node, Symbol


def lower_nodes(
    symbol: Symbol, shapes: InferredShapes, dtype: str, fuse: bool, halves: bool
) -> Steps:
    """The steps of a symbol under these shapes, every float array of them of `dtype`.

    fuse: batch norms and convolutions take the activation along that alone reads them. halves:
    arrays may come to hold bf16 numbers, so that none is fused that might round twice."""
    nodes = symbol.nodes()
    heads = [(id(node), index) for node, index in symbol.heads]
    consumers = _count_consumers(nodes, heads)
    fused = taken_along(nodes, consumers) if fuse else {}
    if halves:
        fused = without_double_rounding(fused, heads, shapes)
    steps = Steps(dtype, heads, consumers, Array("random_state", (2,), "uint64"))
    for node in nodes:
        if node.operator is None:
            array = Array(node.name, shapes.of[id(node), 0], dtype)
            steps.arguments[node.name] = steps.arrays[id(node), 0] = array
            steps.argument_keys[node.name] = (id(node), 0)
        elif id(node) not in fused:  # those are part of the step of their activation
            steps.in_order.append(_step(node, shapes, fused, steps))
    return steps


def _step(node: Node, shapes: InferredShapes, fused: Mapping[int, Node], steps: Steps) -> Step:
    """The step of a node, and of the one that it is fused with; what it makes joins `steps`."""
    operator, source, dtype = node.operator, node, steps.dtype
    taken = next((parent for parent, _ in node.inputs if fused.get(id(parent)) is node), None)
    if taken is not None:
        operator, source = with_activation(taken, node), taken
    assert operator is not None  # a variable's node is no step
    input_keys = tuple((id(parent), index) for parent, index in source.inputs)
    output_keys = tuple((id(node), index) for index in range(len(operator.outputs)))
    inputs = tuple(steps.arrays[key] for key in input_keys)
    outputs: list[Array | None] = []
    for index, key in enumerate(output_keys):
        array: Array | None = None
        if operator.is_view:
            array = inputs[0].view(shapes.of[key])
        elif index not in operator.optional_outputs or steps.consumers.get(key):
            array = Array(node.output_names()[index], shapes.of[key], dtype)
        outputs.append(array)
        if array is not None:
            steps.arrays[key] = array
    auxiliary = []
    for name in source.auxiliary_names():
        steps.auxiliary[name] = Array(name, shapes.auxiliary[name], dtype)
        auxiliary.append(steps.auxiliary[name])
    sizes = Shapes(
        tuple(shapes.of[key] for key in input_keys),
        tuple(shapes.of[key] for key in output_keys),
        tuple(array.shape for array in auxiliary),
    )
    residuals = {
        name: Array(f"{source.name}_{name}", shape, own_dtype or dtype)
        for name, (shape, own_dtype) in operator.residuals(sizes).items()
    }
    arrays = Arrays(inputs, tuple(outputs), tuple(auxiliary), residuals, steps.random_state)
    return Step(node.name, operator, arrays, input_keys, output_keys)


def _count_consumers(nodes: Iterable[Node], heads: list[Key]) -> dict[Key, int]:
    count: dict[Key, int] = {}
    for key in [(id(p), i) for node in nodes for p, i in node.inputs] + heads:
        count[key] = count.get(key, 0) + 1
    return count
