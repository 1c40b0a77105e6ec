"""A picture of a graph, as SVG, PNG or PDF, through matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from pygan.errors import GraphError
from pygan.operators import Shape
from pygan.symbol import Node, Symbol

COLOURS = {
    "Variable": "#eeeeee",
    "Convolution": "#cfe2f3",
    "TransposedConvolution": "#cfe2f3",
    "FullyConnected": "#cfe2f3",
    "BatchNorm": "#d9ead3",
    "Activation": "#fff2cc",
    "LeakyReLU": "#fff2cc",
    "Softmax": "#fff2cc",
    "Pooling": "#d9d2e9",
    "Dropout": "#d9d2e9",
}
LOSS_COLOUR = "#f4cccc"
OTHER_COLOUR = "#fce5cd"

BOX_WIDTH, BOX_HEIGHT = 3.6, 0.74
COLUMN, ROW, LANE, MARGIN = 4.0, 1.16, 0.9, 0.3
LINE = "#555555"
FORMATS = (".svg", ".png", ".pdf")


def draw(
    symbol: Symbol, path: str | os.PathLike[str], shapes: Mapping[str, Shape] | None = None
) -> Path:
    """Draws a graph, data flowing down, and returns the path.

    Parameters are not drawn as boxes; with `shapes` (input name to shape) boxes count them and
    arrows carry the shapes of what flows. The path's ending chooses the format.

    Raises GraphError for another ending, ShapeError where shapes do not fit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise GraphError(f"{path.name} must end in one of {', '.join(FORMATS)}")
    inferred = None if shapes is None else symbol.infer_shape(shapes)
    nodes = [node for node in symbol.nodes() if not _is_parameter(node, symbol, shapes)]
    layout = _arrange(nodes)
    boxes = list(layout.boxes.values())
    left = min(item.x for item in boxes) - BOX_WIDTH / 2 - MARGIN
    right = max(item.x for item in boxes) + BOX_WIDTH / 2 + MARGIN
    bottom = min(item.y for item in boxes) - BOX_HEIGHT / 2 - MARGIN - ROW / 2
    top = BOX_HEIGHT / 2 + MARGIN
    for item in (lane for lanes in layout.lanes.values() for lane in lanes):
        left, right = min(left, item.x - LANE), max(right, item.x + LANE)
    figure = Figure(figsize=(right - left, top - bottom))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.axis("off")
    for node in nodes:
        for argument, (parent, index) in enumerate(node.inputs):
            if id(parent) in layout.boxes:
                shape = None if inferred is None else inferred.of[id(parent), index]
                _arrow(axes, layout, parent, node, argument, shape)
    for node in nodes:
        _box(axes, layout.boxes[id(node)], node, _count(node, inferred, shapes))
    outputs: dict[int, list[str]] = {}
    for name, (node, _) in zip(symbol.list_outputs(), symbol.heads, strict=True):
        outputs.setdefault(id(node), []).append(name)
    for identity, names in outputs.items():
        _outputs(axes, layout.boxes[identity], names)
    figure.savefig(path, format=path.suffix[1:].lower(), dpi=120, facecolor="white")
    return path


def _is_parameter(node: Node, symbol: Symbol, shapes: Mapping[str, Shape] | None) -> bool:
    if node.operator is not None or (shapes is not None and node.name in shapes):
        return False
    roles = {
        argument
        for consumer in symbol.nodes()
        if consumer.operator is not None
        for argument, (parent, _) in zip(
            consumer.operator.argument_names(), consumer.inputs, strict=True
        )
        if parent is node
    }
    return bool(roles) and roles <= {"weight", "bias", "gamma", "beta"}


@dataclass
class _Item:
    """Something that takes room in a row: a node's box, or a lane of an edge passing by."""

    node: Node | None
    above: list[_Item] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return LANE if self.node is None else COLUMN

    @property
    def wish(self) -> float | None:
        """Below the middle of what it hangs on; None where it hangs on nothing."""
        return sum(item.x for item in self.above) / len(self.above) if self.above else None


@dataclass
class _Layout:
    """Where boxes stand (by node id) and the lanes that each edge (target id, argument) passes."""

    boxes: dict[int, _Item]
    lanes: dict[tuple[int, int], list[_Item]]


def _arrange(nodes: list[Node]) -> _Layout:
    """Rows by the longest way from the inputs; an edge over several rows gets a lane in each."""
    known = {id(node) for node in nodes}
    row: dict[int, int] = {}
    for node in nodes:
        above = [row[id(parent)] for parent, _ in node.inputs if id(parent) in known]
        row[id(node)] = max(above, default=-1) + 1
    for node in nodes:  # a variable stands just above its first consumer rather than at the top
        below = [row[id(n)] for n in nodes if any(parent is node for parent, _ in n.inputs)]
        if node.operator is None and below:
            row[id(node)] = min(below) - 1
    boxes = {id(node): _Item(node) for node in nodes}
    rows: list[list[_Item]] = [[] for _ in range(max(row.values()) + 1)]
    for node in nodes:
        rows[row[id(node)]].append(boxes[id(node)])
    lanes: dict[tuple[int, int], list[_Item]] = {}
    for node in nodes:
        for argument, (parent, _) in enumerate(node.inputs):
            if id(parent) not in known:
                continue
            last, passed = boxes[id(parent)], []
            for passing in range(row[id(parent)] + 1, row[id(node)]):
                last = _Item(None, [last])
                rows[passing].append(last)
                passed.append(last)
            lanes[id(node), argument] = passed
            boxes[id(node)].above.append(last)
    for depth, items in enumerate(rows):
        _spread(items, -depth * ROW)
    return _Layout(boxes, lanes)


def _spread(items: list[_Item], y: float) -> None:
    """Places a row: each where it wishes, as far as its neighbours let it, the row centred."""
    wishes = [item.wish for item in items if item.wish is not None]
    centre = sum(wishes) / len(wishes) if wishes else 0.0
    items.sort(key=lambda item: float("inf") if item.wish is None else item.wish)
    edge = None
    for item in items:
        item.y = y
        item.x = item.wish if item.wish is not None else (centre if edge is None else edge)
        if edge is not None:
            item.x = max(item.x, edge + item.width / 2)
        edge = item.x + item.width / 2
    moved = [item.x - item.wish for item in items if item.wish is not None]
    shift = sum(moved) / len(moved) if moved else 0.0
    for item in items:
        item.x -= shift


def _count(node: Node, inferred: Any, shapes: Mapping[str, Shape] | None) -> int:
    if inferred is None or node.operator is None:
        return 0
    return sum(
        prod(inferred.arguments[parent.name])
        for argument, (parent, _) in zip(node.operator.argument_names(), node.inputs, strict=True)
        if parent.operator is None
        and parent.name not in (shapes or {})
        and argument not in node.operator.label_inputs
    )


def _details(node: Node, parameters: int) -> str:
    """The attributes that a reader looks for, and the parameters."""
    values = node.operator.attributes() if node.operator else {}
    parts = []
    for key in ("kind", "kernel", "num_filter", "num_hidden", "slope", "rate", "axis", "shape"):
        value = values.get(key)
        if value is not None:
            value = "x".join(map(str, value)) if isinstance(value, list) else value
            label = {"num_filter": "", "num_hidden": "", "kind": "", "kernel": ""}.get(key, key)
            unit = {"num_filter": " filters", "num_hidden": " units"}.get(key, "")
            parts.append(f"{label} {value}{unit}".strip())
    stride = values.get("stride")
    if stride and stride != [1, 1]:
        parts.append(f"stride {stride[0]}" if stride[0] == stride[1] else f"stride {stride}")
    if parameters:
        parts.append(f"{parameters:,} par.")
    return ", ".join(parts)


def _box(axes: Any, item: _Item, node: Node, parameters: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = item.x, item.y
    kind = "Variable" if node.operator is None else type(node.operator).__name__
    colour = COLOURS.get(kind, OTHER_COLOUR)
    if node.operator is not None and node.operator.is_loss:
        colour = LOSS_COLOUR
    rounding = 0.3 if node.operator is None else 0.06
    axes.add_patch(
        FancyBboxPatch(
            (x - BOX_WIDTH / 2 + rounding, y - BOX_HEIGHT / 2 + rounding),
            BOX_WIDTH - 2 * rounding,
            BOX_HEIGHT - 2 * rounding,
            boxstyle=f"round,pad={rounding}",
            facecolor=colour,
            edgecolor=LINE,
            linewidth=0.9,
        )
    )
    if node.operator is None:
        axes.text(x, y, node.name, ha="center", va="center", fontsize=10, weight="bold")
        return
    detail = _details(node, parameters)
    title = node.name if kind.lower() in node.name.lower() else f"{node.name}: {kind}"
    offset = 0.15 if detail else 0.0
    size = min(10.0, 10.0 * 38 / max(len(title), 38))
    axes.text(x, y + offset, title, ha="center", va="center", fontsize=size, weight="bold")
    size = min(8.5, 8.5 * 48 / max(len(detail), 48))
    axes.text(x, y - 0.17, detail, ha="center", va="center", fontsize=size, color="#333333")


def _arrow(
    axes: Any, layout: _Layout, source: Node, target: Node, argument: int, shape: Shape | None
) -> None:
    """A line from box to box through the edge's lanes, its shape written beside its beginning."""
    start, end = layout.boxes[id(source)], layout.boxes[id(target)]
    drawn = [i for i, (parent, _) in enumerate(target.inputs) if id(parent) in layout.boxes]
    spread = (drawn.index(argument) - (len(drawn) - 1) / 2) * 0.5
    points = [(start.x, start.y - BOX_HEIGHT / 2)]
    for lane in layout.lanes[id(target), argument]:
        points += [(lane.x, lane.y + BOX_HEIGHT / 2), (lane.x, lane.y - BOX_HEIGHT / 2)]
    points.append((end.x + spread, end.y + BOX_HEIGHT / 2))
    if len(points) > 2:
        axes.plot(*zip(*points[:-1], strict=True), color=LINE, linewidth=1.0, zorder=0)
    arrow = {"arrowstyle": "-|>", "color": LINE, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=points[-1], xytext=points[-2], arrowprops=arrow, zorder=0)
    first = [parent for parent, _ in target.inputs].index(source) == argument
    if shape is not None and first:
        (x0, y0), (x1, y1) = points[:2]
        beside = {"ha": "left", "va": "center", "fontsize": 7.5, "color": LINE}
        text = " × ".join(map(str, shape))
        white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.text(x0 + 0.6 * (x1 - x0) + 0.1, y0 + 0.5 * (y1 - y0), text, bbox=white, **beside)


def _outputs(axes: Any, item: _Item, names: list[str]) -> None:
    x, y = item.x, item.y - BOX_HEIGHT / 2
    arrow = {"arrowstyle": "-|>", "color": LINE, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=(x, y - 0.28), xytext=(x, y), arrowprops=arrow)
    axes.text(x, y - 0.4, ", ".join(names), ha="center", va="center", fontsize=8.5)
