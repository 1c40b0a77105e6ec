"""From a graph to calls: which kernels run, on which symbolic arrays, in which order.

A lowered graph is a list of steps (operators with their arrays). Forward runs them in order;
backward in reverse, each writing the gradients of its inputs. The gradient of an array with
several consumers is written by the first that reports and added to by the others. Memory is not
decided here but in `lifetimes`, from the calls alone: time i is the forward of step i, time n the
arrival of the output gradients, times n + 1 ... 2n the backward of steps n - 1 ... 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from pygan.operators import (
    Activation,
    Array,
    Arrays,
    BatchNorm,
    Call,
    Convolution,
    FullyConnected,
    Gradient,
    LeakyReLU,
    Normalised,
    Operator,
    Shape,
    Shapes,
    TransposedConvolution,
)
from pygan.reference.activation import FROM_OUTPUT
from pygan.storage import AT_ONCE, half_arrays, may_be_half, takes_copies
from pygan.symbol import InferredShapes, Node, Symbol

# What only an optimizer reads after the pass: the array of this place, by how functions' names end.
FINAL = {"_backward_weight": 2, "bias_backward": 1}

# Activations behind a batch norm that a convolution can apply to what it reads.
ON_THE_WAY = (None, "relu", "leaky_relu")

CONVOLUTIONS = (Convolution, TransposedConvolution)
PRODUCTS = (*CONVOLUTIONS, FullyConnected)

Key = tuple[int, int]
"""A node's output: (id of the node, output index)."""


@dataclass(eq=False)
class Step:
    """One operator of the lowered graph; `keys` are the graph's names of inputs and outputs."""

    name: str
    operator: Operator
    arrays: Arrays
    input_keys: tuple[Key, ...]
    output_keys: tuple[Key, ...]


@dataclass
class Head:
    """An output of the executor: its key and array, whether a loss head makes it, where a gradient
    from outside lands (None where none is needed), and the output's own gradient where that is
    another array."""

    key: Key
    array: Array
    is_loss: bool
    landing: Array | None = None
    gradient: Array | None = None


class LoweredGraph:
    """The calls of a symbol under given shapes and gradient requests ("write", "add", "null").

    branches: set those of backward apart that may run beside the ones that follow. What one group
    of `backward` sets apart must be done before the next of `forks` (indices of groups) sets calls
    apart, or, in a pass that lacks those, is over: so long its arrays are kept.
    left_slices: how many slices of its sum a call of a convolution should leave to the batch norm
    that reads it, 1 for none; asked where it could. left_moments: likewise, how many numbers of the
    moments of its tiles, 0 for none, and whether to one that leaves its normalising pass to others.
    normalises: whether a batch norm of a shape, whose data comes in so many slices (1: whole),
    should leave its normalising pass to these calls, all that read its result.
    half_dtype: what bf16 numbers lie in, where activations are stored so (pygan.storage), or None;
    parameters are then the arguments of whose bf16 copies convolutions may read: `copies`, each
    with its parameter.
    """

    def __init__(
        self,
        symbol: Symbol,
        shapes: InferredShapes,
        requests: Mapping[str, str],
        dtype: str,
        fuse: bool,
        branches: bool = False,
        left_slices: Callable[[Call], int] | None = None,
        normalises: Callable[[Shape, list[Call], int], bool] | None = None,
        half_dtype: str | None = None,
        parameters: Collection[str] = (),
        left_moments: Callable[[Call, bool], int] | None = None,
    ) -> None:
        self.requests = requests
        self.dtype = dtype
        self.random_state = Array("random_state", (2,), "uint64")
        self.arguments: dict[str, Array] = {}
        self.auxiliary: dict[str, Array] = {}
        self.steps: list[Step] = []
        self._arrays: dict[Key, Array] = {}
        self._argument_keys: dict[str, Key] = {}
        nodes = symbol.nodes()
        head_keys = [(id(node), index) for node, index in symbol.heads]
        self._consumers = _count_consumers(nodes, head_keys)
        fused = _fused(nodes, self._consumers) if fuse else {}
        if half_dtype is not None:
            fused = {
                source: node
                for source, node in fused.items()
                if (id(node), 0) in head_keys or not _rounds_twice(node, shapes.of[id(node), 0])
            }
        for node in nodes:
            self._lower(node, shapes, fused, set(head_keys))
        if fuse:
            _fuse_derivatives(self.steps, self._consumers)
        self.copies: dict[Array, Array] = {}
        if half_dtype is not None:
            self._store_halves(half_dtype, set(head_keys), parameters)
        self._make_gradients(set(head_keys))
        self._gradients_in_slices: dict[Key, Array] = {}
        if fuse and left_slices is not None:
            self._leave_slices(left_slices)
        if fuse and normalises is not None:
            self._normalise_late(normalises)
        if fuse and left_moments is not None:
            self._leave_moments(left_moments)
        self.heads = self._make_heads(symbol, head_keys)
        self._let_losses_run_ahead()
        self._final: set[Array] = set()
        self.forks: list[int] = []
        if branches and self.argument_gradients:
            self._final = _written_apart(self.whole_backward())
            calls = self.whole_backward()
            self.forks = [i for i, group in enumerate(calls) if any(call.apart for call in group)]

    # Forward

    def _lower(
        self, node: Node, shapes: InferredShapes, fused: Mapping[int, Node], heads: set[Key]
    ) -> None:
        if node.operator is None:
            array = Array(node.name, shapes.of[id(node), 0], self.dtype)
            self.arguments[node.name] = self._arrays[id(node), 0] = array
            self._argument_keys[node.name] = (id(node), 0)
            return
        if id(node) in fused:
            return  # its activation follows and makes the step
        operator, source = node.operator, node
        taken = next((parent for parent, _ in node.inputs if fused.get(id(parent)) is node), None)
        if taken is not None:
            kind, slope = node.operator.function()
            operator = replace(taken.operator, activation=kind, slope=slope)
            source = taken
        input_keys = tuple((id(parent), index) for parent, index in source.inputs)
        output_keys = tuple((id(node), index) for index in range(len(operator.outputs)))
        inputs = tuple(self._arrays[key] for key in input_keys)
        outputs = []
        for index, key in enumerate(output_keys):
            if operator.is_view:
                array = inputs[0].view(shapes.of[key])
            elif index in operator.optional_outputs and not self._consumers.get(key):
                array = None
            else:
                array = Array(node.output_names()[index], shapes.of[key], self.dtype)
            outputs.append(array)
            if array is not None:
                self._arrays[key] = array
        auxiliary = []
        for name in source.auxiliary_names():
            self.auxiliary[name] = Array(name, shapes.auxiliary[name], self.dtype)
            auxiliary.append(self.auxiliary[name])
        sizes = Shapes(
            tuple(shapes.of[key] for key in input_keys),
            tuple(shapes.of[key] for key in output_keys),
            tuple(array.shape for array in auxiliary),
        )
        residuals = {
            name: Array(f"{source.name}_{name}", shape, dtype or self.dtype)
            for name, (shape, dtype) in operator.residuals(sizes).items()
        }
        arrays = Arrays(inputs, tuple(outputs), tuple(auxiliary), residuals, self.random_state)
        self.steps.append(Step(node.name, operator, arrays, input_keys, output_keys))

    def _store_halves(self, dtype: str, heads: set[Key], parameters: Collection[str]) -> None:
        """Lets arrays hold bf16 numbers, and convolutions between them read copies of weights."""
        weights = {self._argument_keys[name]: self.arguments[name] for name in parameters}
        halves = half_arrays(self.steps, heads, weights)
        copies: dict[Key, Array] = {}
        for step in self.steps:
            arrays = step.arrays
            if step.output_keys[0] in halves:
                made = (arrays.outputs[0], arrays.residuals.get("unactivated_gradient"))
                for array in made:
                    if array is not None:
                        array.dtype, array.half = dtype, True
            if takes_copies(step, halves):
                key = step.input_keys[1]
                if key not in copies:
                    label, shape = f"{weights[key].label} in bf16", weights[key].shape
                    copies[key] = Array(label, shape, dtype, half=True)
                    self.copies[copies[key]] = weights[key]
                arrays.inputs = (arrays.inputs[0], copies[key], *arrays.inputs[2:])

    @property
    def forever(self) -> int:
        """A time after the last call of the backward pass."""
        return 2 * len(self.steps) + 1

    def forward(self, training: bool) -> list[list[Call]]:
        """The calls of each step."""
        return [step.operator.forward(step.arrays, training) for step in self.steps]

    # Backward

    def _make_gradients(self, heads: set[Key]) -> None:
        """Gradient arrays of everything that a wanted argument depends on."""
        requested = [name for name, request in self.requests.items() if request != "null"]
        self._gradients: dict[Key, Array] = {}
        reached = self._depending_on(requested)
        for step in reversed(self.steps):
            for key in step.output_keys:
                if key in reached and key not in self._gradients and key in self._arrays:
                    self._gradients[key] = self._gradient_like(key)
            # A reshaped array that nobody else reads shares its gradient's memory with its source.
            source = step.input_keys[0]
            if (
                step.operator.is_view
                and source in reached
                and source not in self._argument_keys.values()
                and self._consumers[source] == 1
            ):
                gradient = self._gradients[step.output_keys[0]]
                self._gradients[source] = gradient.view(self._arrays[source].shape)
        differentiable = {
            key for step in self.steps for key in _differentiable(step) if key in self._arrays
        } | heads
        self.argument_gradients: dict[str, Array] = {}
        for name in requested:
            key = self._argument_keys[name]
            if key in differentiable:
                self._gradients[key] = self._gradient_like(key)
                self.argument_gradients[name] = self._gradients[key]

    def _leave_slices(self, left_slices: Callable[[Call], int]) -> None:
        """Lets batch norms add the slices of the products around them, where that gains."""
        makers = {step.output_keys[0]: step for step in self.steps}
        readers = {key: step for step in self.steps for key in step.input_keys}
        arguments = set(self._argument_keys.values())
        for step in self.steps:
            if not isinstance(step.operator, BatchNorm) or step.operator.use_global_stats:
                continue  # constant statistics are one pass, whose backward reads what this skips
            (source, *_), (made,) = step.input_keys, step.output_keys
            if self._consumers[source] != 1 or source in arguments:
                continue
            maker = makers.get(source)
            if maker is not None and _sums_alone(maker.operator):
                (call,) = maker.operator.forward(maker.arrays, training=True)
                if (count := left_slices(call)) > 1:
                    maker.arrays.left = step.arrays.data_slices = _sliced(call.arrays[-1], count)
                    step.arrays.data_bias = call.arrays[2]
            if self._consumers.get(made) != 1 or made not in self._gradients:
                continue
            alike = step.arrays.inputs[0].half == step.arrays.outputs[0].half  # so sums are rounded
            reader = readers.get(made)
            if reader is not None and alike and _multiplies(reader, made):
                gradient = Gradient(self._gradients[made], False)
                own = (self._gradients.get(reader.output_keys[0]),)
                calls = reader.operator.backward(reader.arrays, own, (gradient, None, None))
                if (count := left_slices(calls[-1])) > 1:
                    slices = _sliced(gradient.array, count)
                    step.arrays.gradient_slices = self._gradients_in_slices[made] = slices

    def _normalise_late(self, normalises: Callable[[Shape, list[Call], int], bool]) -> None:
        """Lets convolutions normalise what they read, where a batch norm made it for one of them
        alone: what it would have made is nowhere in memory then."""
        readers = {key: step for step in self.steps for key in step.input_keys}
        for step in self.steps:
            made, made_by = step.output_keys[0], step.operator
            reader = readers.get(made)
            if not isinstance(made_by, BatchNorm) or made_by.activation not in ON_THE_WAY:
                continue
            if reader is None or self._consumers[made] != 1 or reader.input_keys[0] != made:
                continue
            data, result = step.arrays.inputs[0], step.arrays.outputs[0]
            if not isinstance(reader.operator, CONVOLUTIONS) or data.half != result.half:
                continue
            calls = reader.operator.forward(reader.arrays, training=True)
            weight = self._gradients.get(reader.input_keys[1])
            if weight is not None:
                own = (self._gradients[reader.output_keys[0]],)
                wanted = (None, Gradient(weight, False), None)
                calls.append(reader.operator.backward(reader.arrays, own, wanted)[-1])
            slices = step.arrays.data_slices
            if normalises(data.shape, calls, 1 if slices is None else slices.shape[0]):
                label = f"normalisation of {data.label}"
                found = Array(label, (data.shape[-1], 4), self.dtype)
                step.arrays.normalisation = found
                reader.arrays.normalised = Normalised(
                    data, found, made_by.activation, made_by.slope
                )

    def _leave_moments(self, left_moments: Callable[[Call, bool], int]) -> None:
        """Lets convolutions leave the moments of what they make, where that gains, to the batch
        norms that read it, which then read it once."""
        makers = {step.output_keys[0]: step for step in self.steps}
        for step in self.steps:
            if not isinstance(step.operator, BatchNorm) or step.operator.use_global_stats:
                continue
            maker = makers.get(step.input_keys[0])
            if maker is None or not isinstance(maker.operator, CONVOLUTIONS):
                continue
            if maker.operator.activation is not None or maker.arrays.left is not None:
                continue
            if maker.arrays.moments is None:  # several may read it
                (call,) = maker.operator.forward(maker.arrays, training=True)
                if numbers := left_moments(call, step.arrays.normalisation is not None):
                    whole = call.arrays[3]
                    maker.arrays.moments = Array(f"moments of {whole.label}", (numbers,))
            step.arrays.moments = maker.arrays.moments

    def _gradient_like(self, key: Key) -> Array:
        array = self._arrays[key]
        return Array(f"gradient of {array.label}", array.shape, array.dtype, half=array.half)

    def _make_heads(self, symbol: Symbol, keys: list[Key]) -> list[Head]:
        heads: list[Head] = []
        for (node, _), key in zip(symbol.heads, keys, strict=True):
            is_loss = node.operator is not None and node.operator.is_loss
            head = Head(key, self._arrays[key], is_loss)
            gradient = None if is_loss else self._gradients.get(key)
            if gradient is not None:
                # Gradients of arguments outlive the pass, and an output listed twice gets the sum.
                if key in self._argument_keys.values() or any(h.key == key for h in heads):
                    head.landing = Array(f"given {gradient.label}", gradient.shape, self.dtype)
                    head.gradient = gradient
                else:
                    head.landing = gradient
            heads.append(head)
        return heads

    def _let_losses_run_ahead(self) -> None:
        """Gives loss heads the gradient of their data where they alone write it."""
        arguments = set(self._argument_keys.values())
        for step in self.steps:
            key = step.input_keys[0]
            if step.operator.is_loss and key not in arguments and self._consumers[key] == 1:
                step.arrays.ahead = self._gradients.get(key)

    def _depending_on(self, names: Collection[str]) -> set[Key]:
        """Keys whose value depends, differentiably, on the named arguments."""
        reached = {self._argument_keys[name] for name in names}
        for step in self.steps:
            if not step.operator.is_loss and any(key in reached for key in _differentiable(step)):
                reached.update(step.output_keys)
        return reached

    def backward(self, given: Collection[int], wanted: Collection[str]) -> list[list[Call]]:
        """The calls of the pass, first those of arrived gradients, then of each step in reverse.

        given: the outputs whose gradient is handed in; wanted: the arguments whose gradient is
        needed. Wanted "write" gradients that nothing reaches are filled with 0.
        """
        needed = self._depending_on(wanted)
        written = {self._argument_keys[name] for name in wanted if self.requests[name] == "add"}
        reached: set[Key] = set()
        arrival: list[Call] = []
        for index in sorted(given):
            head = self.heads[index]
            if head.key not in needed or head.landing is None:
                continue
            if head.gradient is not None:
                attributes = {"accumulate": head.key in written}
                arrival.append(Call("axpy", (head.landing, head.gradient), attributes))
            written.add(head.key)
            reached.add(head.key)
        calls = [arrival]
        for step in reversed(self.steps):
            calls.append(self._step_backward(step, needed, written, reached))
        for call in (call for group in calls for call in group if _final(call) is not None):
            call.apart = _final(call).root in self._final
        for name in wanted:
            key = self._argument_keys[name]
            if key not in written:
                arrival.append(Call("fill", (self._gradients[key],), {"value": 0.0}))
        return calls

    def gradients_of(self, step: Step) -> tuple[Array | None, Array | None]:
        """Of a step's first output and first input."""
        return self._gradients.get(step.output_keys[0]), self._gradients.get(step.input_keys[0])

    def whole_backward(self) -> list[list[Call]]:
        """The calls of the pass with every gradient handed in and wanted."""
        given = [i for i, head in enumerate(self.heads) if head.landing is not None]
        return self.backward(given, list(self.argument_gradients))

    def _step_backward(
        self, step: Step, needed: set[Key], written: set[Key], reached: set[Key]
    ) -> list[Call]:
        statistics = []  # of a step without a backward of its own, which would move them
        if any(key in self._gradients for key in step.input_keys):
            statistics = step.operator.update_statistics(step.arrays)
        if not step.operator.is_loss and not any(key in reached for key in step.output_keys):
            return statistics
        differentiable = set(_differentiable(step))
        gradients: list[Gradient | None] = []
        for key in step.input_keys:
            if key not in needed or key not in differentiable:
                gradients.append(None)
                continue
            if key in self._gradients_in_slices:
                target = Gradient(self._gradients_in_slices[key], False, in_slices=True)
            else:
                target = Gradient(self._gradients[key], key in written)
            gradients.append(target)
            written.add(key)
            reached.add(key)
        if all(gradient is None for gradient in gradients):
            return statistics
        output_gradients = tuple(
            self._gradients[key] if key in reached else None for key in step.output_keys
        )
        if step.operator.is_view and gradients[0].array.root is output_gradients[0].root:
            return []
        return step.operator.backward(step.arrays, output_gradients, tuple(gradients))


def _sums_alone(operator: Operator) -> bool:
    """Whether a step's output is a sum of products, to which at most a bias is added."""
    if isinstance(operator, CONVOLUTIONS):
        return operator.activation is None
    return isinstance(operator, FullyConnected)


def _multiplies(step: Step, key: Key) -> bool:
    """Whether a step multiplies `key` with weights, shaped as it is: a fully connected layer reads
    images as rows, whose gradient has other channels."""
    if isinstance(step.operator, FullyConnected) and len(step.arrays.inputs[0].shape) != 2:
        return False
    return isinstance(step.operator, PRODUCTS) and step.input_keys[0] == key


def _sliced(whole: Array, count: int) -> Array:
    return Array(f"slices of {whole.label}", (count, *whole.shape))


def _written_apart(calls: list[list[Call]]) -> set[Array]:
    """Arrays that calls of FINAL write and no other call of the pass mentions."""
    final: set[Array] = set()
    others: set[Array] = set()
    for call in (call for group in calls for call in group):
        written = _final(call)
        if written is not None:
            final.add(written.root)
        given = [array for array in call.arrays if array is not None and array is not written]
        others.update(array.root for array in given)
    return final - others


def _final(call: Call) -> Array | None:
    """The array of a call that FINAL names."""
    place = next((i for end, i in FINAL.items() if call.function.endswith(end)), None)
    return None if place is None else call.arrays[place]


def _differentiable(step: Step) -> list[Key]:
    names = step.operator.argument_names()
    return [
        key
        for name, key in zip(names, step.input_keys, strict=True)
        if name not in step.operator.no_gradient
    ]


def _count_consumers(nodes: list[Node], heads: list[Key]) -> dict[Key, int]:
    count: dict[Key, int] = {}
    for key in [(id(p), i) for node in nodes for p, i in node.inputs] + heads:
        count[key] = count.get(key, 0) + 1
    return count


def _fused(nodes: list[Node], consumers: Mapping[Key, int]) -> dict[int, Node]:
    """Batch norms and convolutions (by id) that the one activation reading them takes along."""
    fused = {}
    for node in nodes:
        if isinstance(node.operator, Activation | LeakyReLU):
            parent, _ = node.inputs[0]
            takes = isinstance(parent.operator, BatchNorm)
            if isinstance(parent.operator, CONVOLUTIONS):
                # A slope below 0 folds two inputs onto one output, and only the output is kept.
                takes = node.operator.function()[1] >= 0
            if takes and consumers[id(parent), 0] == 1:
                fused[id(parent)] = node
    return fused


def _rounds_twice(node: Node, shape: Shape) -> bool:
    """Whether a convolution that takes this activation along might round to bf16 before it, and
    again behind it; `shape`: of its output."""
    takes = node.operator.function()[0] in AT_ONCE
    return isinstance(node.inputs[0][0].operator, CONVOLUTIONS) and not takes and may_be_half(shape)


def _fuse_derivatives(steps: list[Step], consumers: Mapping[Key, int]) -> None:
    """Where one convolution alone reads what the activation of another gave, its gradient takes
    the derivative along."""
    makers = {step.output_keys[0]: step for step in steps}
    for step in steps:
        maker = makers.get(step.input_keys[0])
        if maker is None or not isinstance(step.operator, CONVOLUTIONS):
            continue
        made = maker.operator
        if (
            isinstance(made, CONVOLUTIONS)
            and made.activation in FROM_OUTPUT
            and consumers[maker.output_keys[0]] == 1
        ):
            step.operator = replace(
                step.operator, data_activation=made.activation, data_slope=made.slope
            )
            maker.operator = replace(made, derived=True)


# Memory


@dataclass(eq=False)
class Lifetime:
    """An array that owns memory, and the first and last time a call mentions it; the last is
    `LoweredGraph.forever` where it outlives the pass."""

    array: Array
    start: float
    end: float


Room = tuple[int, bool]
"""The workspace of calls: when they run, and whether set apart."""


def lifetimes(
    graph: LoweredGraph,
    persistent: Collection[Array],
    keep_forward: bool,
    workspace: Callable[[Call], Array | None],
) -> tuple[list[Lifetime], dict[Array, Array], dict[Room, Array]]:
    """When each array that is not persistent is needed, and which arrays work in place.

    An output of the graph lives from its making on, and what a call set apart mentions until the
    next fork, or the end of the pass, when that call is done at the latest. keep_forward: what a
    backward reads lives until the next forward too, so that backward can run again. workspace: what
    a call wants. The second result maps an array to the one whose memory it takes over; the third
    are the workspaces, each the largest that calls of its room want.
    """
    n, forever = len(graph.steps), graph.forever
    found: dict[Array, Lifetime] = {}
    rooms: dict[Room, Lifetime] = {}

    def give_room(call: Call, time: int, start: float, end: float) -> None:
        wanted = workspace(call) if call.workspace else None
        if wanted is not None:
            room = rooms.setdefault((time, call.apart), Lifetime(wanted, start, end))
            room.start, room.end = min(room.start, start), max(room.end, end)
            if room.array.size < wanted.size:
                room.array = wanted

    def mention(array: Array | None, time: float) -> None:
        if array is None or array.root in persistent:
            return
        life = found.setdefault(array.root, Lifetime(array.root, time, time))
        life.start = min(life.start, time)
        life.end = max(life.end, time)

    for training in (True, False):
        for time, calls in enumerate(graph.forward(training)):
            for call in calls:
                give_room(call, time, time, time)
                for array in call.arrays:
                    mention(array, time)
    made_by_forward = set(found)
    forks = [n + index for index in graph.forks]
    if graph.argument_gradients:
        for head in graph.heads:
            mention(head.landing, n)
        for time, calls in enumerate(graph.whole_backward(), n):
            # What is set apart begins half a step later, when what was set apart before is done;
            # the calls that follow it in its step run beside it.
            joined = next((float(fork) for fork in forks if fork > time), 2 * n + 0.5)
            late: float = time
            for call in calls:
                if call.apart:
                    late = time + 0.5
                give_room(call, time, late if call.apart else time, joined if call.apart else late)
                for array in call.arrays:
                    if keep_forward and array is not None and array.root in made_by_forward:
                        mention(array, forever)
                    mention(array, time)
                    mention(array, joined if call.apart else late)
    for head in graph.heads:
        mention(head.array, forever)
    lives, in_place = _share_in_place(graph, found)
    lives += rooms.values()
    return lives, in_place, {room: life.array for room, life in rooms.items()}


def _share_in_place(
    graph: LoweredGraph, found: dict[Array, Lifetime]
) -> tuple[list[Lifetime], dict[Array, Array]]:
    taken: dict[Array, Array] = {}

    def owner(array: Array) -> Array:
        while array in taken:
            array = taken[array]
        return array

    for time, step in enumerate(graph.steps):
        for source, target in step.operator.in_place:
            x, y = step.arrays.inputs[source], step.arrays.outputs[target]
            if y is None or y in taken or y not in found:
                continue
            held = owner(x.root)
            if (
                held in found
                and found[held].end == time
                and x.size == y.size
                and x.dtype == y.dtype
                and sum(other.root is x.root for other in step.arrays.inputs) == 1
            ):
                taken[y] = held
                found[held].end = found.pop(y).end
    for time, step in enumerate(reversed(graph.steps), len(graph.steps) + 1):
        dy, dx = graph.gradients_of(step)
        if not step.operator.gradient_in_place or dy is None or dx is None or dx not in found:
            continue
        held = owner(dy.root)
        if (
            held in found
            and found[held].end == time == found[dx].start
            and (dy.size, dy.dtype, dy.half) == (dx.size, dx.dtype, dx.half)
        ):
            taken[dx] = held
            found[held].end = found.pop(dx).end
    return list(found.values()), {array: owner(array) for array in taken}


__all__ = ["Head", "Lifetime", "LoweredGraph", "Shape", "Step", "lifetimes"]
