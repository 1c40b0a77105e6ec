"""Executors: a symbol bound to shapes, memory and a device.

Everything is decided at bind time: the calls, the memory of every array, the workspace. A step
then runs prepared calls on fixed memory and allocates nothing on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pygan import device as devices
from pygan.errors import GraphError, OutOfDeviceMemory, ShapeError, StateError
from pygan.executor_memory import Block, Flat, MemoryUse, Stretch
from pygan.flags import flag
from pygan.launches import Launches
from pygan.lifetimes import Lifetime, lifetimes
from pygan.lowering import LoweredGraph
from pygan.lowering.storage import STORAGES
from pygan.named_arrays import NamedArrays
from pygan.operators import Array, Call, Shape
from pygan.planner import aligned
from pygan.reference.precision import to_bf16
from pygan.symbol import InferredShapes, Symbol
from pygan.working_memory import WorkingMemory

REQUESTS = ("write", "add", "null")
DTYPES = ("float32", "float64")
PRECISIONS = ("float32", "tf32", "bf16")
LEAST_LAUNCHES = 2
"""That a program stands for: a barrier costs less than a launch, from the first on."""
MOST_JOBS = 48
"""Of a program, as kernels/program.cu holds them."""

COOPERATIVE_LIMIT = 7.0
"""Microseconds that a layer of a program may take, by default."""

_storage: ContextVar[str] = ContextVar("storage", default="float32")
_precision: ContextVar[str] = ContextVar("precision", default="float32")
_lean: ContextVar[bool] = ContextVar("lean", default=False)
_cooperative: ContextVar[bool] = ContextVar("cooperative", default=False)
_cooperative_limit: ContextVar[float] = ContextVar("cooperative_limit", default=COOPERATIVE_LIMIT)


def precision_scope(precision: str) -> AbstractContextManager[None]:
    """Executors bound inside without a `precision` of their own have this one."""
    if precision not in PRECISIONS:
        raise GraphError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    return _within((_precision, precision))


def storage_scope(storage: str) -> AbstractContextManager[None]:
    """Executors bound inside without a `storage` of their own have this one."""
    if storage not in STORAGES:
        raise GraphError(f"storage {storage!r} is not one of {', '.join(STORAGES)}")
    return _within((_storage, storage))


def lean_scope(lean: bool = True) -> AbstractContextManager[None]:
    """Executors bound inside without a `lean` of their own have this one."""
    return _within((_lean, flag(lean, "lean")))


def cooperative_scope(
    cooperative: bool = True, limit: float = COOPERATIVE_LIMIT
) -> AbstractContextManager[None]:
    """Executors bound inside without a `cooperative` (a `cooperative_limit`) of their own have
    these."""
    cooperative = flag(cooperative, "cooperative")
    return _within((_cooperative, cooperative), (_cooperative_limit, limit))


@contextmanager
def _within(*settings: tuple[ContextVar[Any], Any]) -> Iterator[None]:
    before = [(variable, variable.set(value)) for variable, value in settings]
    try:
        yield
    finally:
        for variable, token in before:
            variable.reset(token)


class Executor:
    """A symbol bound to a device, with memory for one training step.

    device: what `pygan.device.get` gives, or its name.
    shapes: input name to shape. Every other argument is a parameter. The parameters lie in one flat
    buffer `parameters` (n,), their gradients in `gradients` (those with grad_req "null" come last
    in `parameters` and are left out of `gradients`), the moving statistics in `auxiliary`; each
    starts at a multiple of 256 bytes, and the gaps hold 0. Parameters start as 0, moving means as 0
    and moving variances as 1.
    grad_req: "write", "add" or "null", for all arguments or by name (those not named: "write").
    shared: another executor with the same parameters (or more), whose buffers this one uses: to
    train in one batch size and draw samples in another.
    inputs, input_gradients: arrays of the same device, by input name, that an input or its gradient
    lies in instead of memory of its own: another executor's output, or its `head_gradients`, which
    then need no copy. They must stay valid whenever this executor runs.
    output_gradients: arrays, by output name, in which an output's gradient arrives instead of in
    memory of this executor's; unlike that, they still hold it when the pass is over.
    working_memory: a `pygan.working_memory.WorkingMemory` that other executors are bound with too,
    if their passes and this one's never overlap: what lives only within a pass then lies in one
    block for all.
    scratch_memory: a `WorkingMemory` of other executors whose passes run between this one's forward
    and its backward, as those through a GAN's D do for G: what lives only within the forward, or
    only within the backward, lies in their block. Both write over what a forward of theirs has left
    for its backward.
    fuse: whether batch norms and convolutions take the activation that follows into their kernels,
    and a convolution's data gradient the derivative of the activation before it, where nothing else
    reads what lies between; and whether batch norms add the slices of sums that a convolution
    before or after them leaves, or merge the moments that its tiles leave of its result, where
    a model of the GPU gains by it (not in programs).
    lean: with fuse, a batch norm that one convolution alone reads leaves its normalising pass to it
    wherever a kernel can normalise on the way in, which leaves the normalised array out of memory;
    without, where a model of the GPU loses no time by it. None: as the `lean_scope` says, and
    without outside of any.
    keep_forward: keep what backward reads until the next forward, so that backward can run more
    than once, at the cost of memory.
    branches: where a pass is recorded as a CUDA graph, gradients of weights and biases run beside
    the gradients that lead further back, at the cost of memory; same bits. Device numpy runs
    everything in order all the same.
    dtype: "float32", or "float64" on the numpy device (for checks of gradients).
    precision: of the operands of convolutions and fully connected layers, forward and backward:
    "float32"; or "tf32" or "bf16", which keep 11 or 8 significant bits and are made for the tensor
    cores of a GPU (compute capability 8.0). Arrays, parameters and sums stay float32. Device numpy
    rounds alike, which takes it longer than float32 does; but a sum that lies at a tie may be
    rounded to either neighbour, and behind the kink of a ReLU single channels of a gradient then
    differ by a part of their size. None: as the `precision_scope` says, and float32 outside of any.
    storage: of activations and their gradients within the executor: "float32", or "bf16", with
    precision="bf16", where they lie in half the bytes: those of convolutions, batch norms and
    activations with channels in multiples of 8 (pygan.lowering.storage has the rule). A number is
    rounded once, when it is stored. Arguments, outputs, parameters, all gradients in `grad_dict`,
    sums and statistics stay float32; a bf16 copy of the parameters is made at the beginning of
    every forward. Device numpy rounds where the others store, in float32 memory. None: as the
    `storage_scope` says, and float32 outside of any.
    cooperative: small layers that follow each other run as one cooperative launch, a program
    (pygan.bindings.program; kernels/program.cu). Sums are those of separate launches; batch norm
    may group them otherwise, which differs by roundings. What a program takes is not put on
    branches: it shares the program's blocks instead. A batch norm of many rows, in no program, is
    one cooperative launch in place of two where the device holds it at once. None: as the
    `cooperative_scope` says, and not outside of any, until a GPU has shown that it pays.
    cooperative_limit: microseconds that a layer's products, or rows, may take in a program for it
    to be part of one, by the model in pygan.bindings.job: a larger layer is quicker with tiles and
    threads of its own, but a larger limit makes fewer launches. None: as the `cooperative_scope`
    says, and 7 outside of any. Programs are made with the executor, and those of a backward when it
    runs for the first time, which no recording allows: run it once before it is recorded.

    Attributes: `arg_dict`, `grad_dict`, `aux_dict` (name to array), `outputs` (list of arrays,
    the same memory every step), `head_gradients` (for each output, where backward copies its
    gradient to, or None; given itself, it is not copied, and must have been written since the
    forward), `memory` (bytes), `random_state` (uint64 (2,), seed and counter of dropout).

    Raises ShapeError, GraphError, DeviceError, and OutOfDeviceMemory saying how much was needed.
    """

    def __init__(
        self,
        symbol: Symbol,
        device: Any,
        shapes: Mapping[str, Shape],
        grad_req: str | Mapping[str, str] = "write",
        *,
        shared: Executor | None = None,
        inputs: Mapping[str, Any] | None = None,
        input_gradients: Mapping[str, Any] | None = None,
        output_gradients: Mapping[str, Any] | None = None,
        working_memory: WorkingMemory | None = None,
        scratch_memory: WorkingMemory | None = None,
        fuse: bool = True,
        lean: bool | None = None,
        keep_forward: bool = False,
        branches: bool = False,
        dtype: str = "float32",
        precision: str | None = None,
        storage: str | None = None,
        cooperative: bool | None = None,
        cooperative_limit: float | None = None,
    ) -> None:
        device = _device(device)
        fuse, keep_forward = flag(fuse, "fuse"), flag(keep_forward, "keep_forward")
        branches = flag(branches, "branches")
        lean = _lean.get() if lean is None else flag(lean, "lean")
        precision = _precision.get() if precision is None else precision
        storage = _storage.get() if storage is None else storage
        dtype = getattr(dtype, "__name__", str(dtype))  # numpy.float32 is "float32" too
        if dtype not in DTYPES or (dtype != "float32" and device.name != "numpy"):
            raise GraphError(
                f"dtype {dtype!r} is not available on device {device.name!r}: float32 is, and on "
                "numpy float64"
            )
        if precision not in PRECISIONS or (precision != "float32" and dtype != "float32"):
            raise GraphError(
                f"precision {precision!r} is not available with dtype {dtype!r}: it is one of "
                f"{', '.join(PRECISIONS)}, and with float64 only float32 (no rounding)"
            )
        if storage not in STORAGES or (storage == "bf16" and precision != "bf16"):
            raise GraphError(
                f"storage {storage!r} is not available with precision {precision!r}: it is one of "
                f"{', '.join(STORAGES)}, and bf16 with precision 'bf16' alone"
            )
        lent = {"working_memory": working_memory, "scratch_memory": scratch_memory}
        for name, memory in lent.items():
            if not isinstance(memory, WorkingMemory | None):
                raise GraphError(f"{name}= takes a WorkingMemory, not a {type(memory).__name__}")
        if None not in lent.values():
            raise GraphError(
                "working_memory holds what scratch_memory would: bind with one of them"
            )
        if keep_forward and working_memory is not None:
            raise GraphError(
                "keep_forward keeps what working_memory gives to the next executor: bind with one "
                "of the two"
            )
        self.symbol = symbol
        self.device = device
        self.dtype = dtype
        self.precision = precision
        self.storage = storage
        self.keep_forward = keep_forward
        inferred = symbol.infer_shape(shapes)
        self.input_names = _input_names(symbol, shapes)
        self.requests = _requests(symbol, grad_req)
        self._branch: Any = device.branch() if branches else None
        apart = self._branch is not None and self._branch.overlaps
        self._jobs_of = self._recorder(cooperative, cooperative_limit)
        # A program's jobs are launches that it knows; those that add slices, or merge moments, are
        # not among them.
        in_programs = self._jobs_of is not None
        self._launches = Launches(device, repr(symbol.name), dtype, precision, lean, in_programs)
        halves = None
        if storage == "bf16":
            halves = "float32" if device.name == "numpy" else "uint16"
        parameters = [name for name in self.requests if name not in self.input_names]
        self._graph = LoweredGraph(
            symbol,
            inferred,
            self.requests,
            dtype,
            fuse,
            apart,
            None if in_programs else self._launches,
            halves,
            parameters,
        )
        self._check_requests(grad_req)
        self._memory: dict[Array, Any] = {}
        arguments, gradients = self._graph.arguments, self._graph.argument_gradients
        self._adopt(arguments, inputs or {}, "input", self.input_names)
        self._adopt(gradients, input_gradients or {}, "gradient of input", self.input_names)
        heads = zip(symbol.list_outputs(), self._graph.heads, strict=True)
        landings = {name: head.landing for name, head in heads if head.landing is not None}
        self._adopt(landings, output_gradients or {}, "gradient of output", list(landings))
        self._working_memory, self._scratch_memory = working_memory, scratch_memory
        self._allocate(inferred, shared)
        self._collect()
        self._passes = device.passes(self._planned.unplanned)

        self._bind_passes()
        self._state = "no forward has run"

    # Memory

    def _adopt(
        self,
        symbolic: Mapping[str, Array],
        given: Mapping[str, Any],
        what: str,
        names: Sequence[str],
    ) -> None:
        """Takes arrays of the caller's for inputs, for their gradients, or for gradients of
        outputs."""
        if not isinstance(given, Mapping):
            raise GraphError(f"arrays for each {what} are given by name, not as {given!r}")
        for name, array in given.items():
            if name not in names or name not in symbolic:
                raise GraphError(
                    f"there is no {what} {name!r} to lie in an array of yours; "
                    f"{what.rpartition(' ')[2]}s are {', '.join(names)}"
                )
            wanted = symbolic[name]
            self._require_own(array, f"{what} {name!r}")
            if tuple(array.shape) != wanted.shape or array.dtype != wanted.dtype:
                raise ShapeError(
                    f"{what} {name!r} is {wanted.dtype} of shape {wanted.shape}; the array that it "
                    f"shall lie in is {array.dtype} of shape {tuple(array.shape)}"
                )
            if wanted.base is not None:
                self._memory[wanted.root] = array.reshape(wanted.root.shape)
            self._memory[wanted] = array

    def _require_own(self, array: Any, what: str) -> None:
        """Raises GraphError unless an array is one that this executor's device can work in."""
        device = self.device
        if device.name == "numpy":
            own = isinstance(array, np.ndarray) and array.flags.c_contiguous
        else:
            own = getattr(array, "context", None) is device.context
        if not own:
            given = array if hasattr(array, "context") else type(array).__name__
            raise GraphError(
                f"{what} lies in a C-contiguous array of device {device.name!r}, such as "
                f"device.from_numpy(...) makes, and cannot lie in the {given} that was given"
            )

    def _allocate(self, inferred: InferredShapes, shared: Executor | None) -> None:
        """Plans all memory, makes it, and gives each array its place."""
        self._flats = self._lay_out()
        if shared is not None:
            _adopt_places(self, shared)
        inputs = self._inputs_of_its_own()
        own, passing, in_place = self._plan(inputs)
        copies = self._reserve_copies(passing if self._scratch_memory is None else own, shared)
        mine = self._flats if shared is None else ()
        stretches = [own.reserve(flat.size, self.dtype) for flat in mine]

        lent = None if own is passing else self._working_memory or self._scratch_memory
        self._blocks = [own] if lent is None else [own, passing]
        self._in_place = in_place
        parameters, gradients, auxiliary = [each.nbytes for each in stretches] or [0, 0, 0]
        taken = own.planned, sum(each.nbytes for each in copies if each.block is own)
        if lent is not None:
            grown = max(0, passing.nbytes - lent.nbytes)
            copied = min(grown, passing.nbytes - passing.planned)
            taken = taken[0] + grown - copied, taken[1] + copied
        self._planned = MemoryUse(
            *(parameters, gradients, auxiliary, *taken),
            unplanned=sum(block.unplanned for block in self._blocks)
            + sum(aligned(array.nbytes) for array in in_place),
        )
        make = partial(self._arena, inferred)
        if lent is not None:
            passing.arena = lent.block(self, passing.nbytes, repr(self.symbol.name), make)
        own.arena = make(own.nbytes)

        buffers = [stretch.array() for stretch in stretches]
        if shared is not None:
            buffers = [shared.parameters, shared.gradients, shared.auxiliary]
        self.parameters: Any = buffers[0]
        self.gradients: Any = buffers[1]
        self.auxiliary: Any = buffers[2]
        for flat, buffer in zip(self._flats, buffers, strict=True):
            self._memory.update(flat.within(buffer))
        self._copied_to = copies[0] if copies else None
        self._place()
        self._clear(inputs, buffers if shared is None else [])

    def _place(self) -> None:
        """Gives every array of the blocks its place, and the copies of parameters theirs."""
        for block in self._blocks:
            self._memory.update(block.arrays())
        for array, owner in self._in_place.items():
            self._memory[array] = self._memory[owner].reshape(array.shape)
        self._copies = None if self._copied_to is None else self._copied_to.array()
        places = dict(zip(self._flats[0].arrays, self._flats[0].places, strict=True))
        for copy, parameter in self._graph.copies.items():
            place = places[parameter]
            self._memory[copy] = self._copies[place : place + copy.size].reshape(copy.shape)

    def move(self, arena: Any) -> None:
        """Takes another block for what lives within a pass, before the first one."""
        self._blocks[-1].arena = arena
        self._place()
        self._bind_passes()

    def _bind_passes(self) -> None:
        self.programs: list[Any] = []
        self._training = self._bind_calls(self._graph.forward(training=True))
        self._inference = self._bind_calls(self._graph.forward(training=False))
        self._backwards: dict[Any, list[Callable[[], None]]] = {}

    def _reserve_copies(self, block: Block, shared: Executor | None) -> list[Stretch]:
        """Room for the bf16 copy of the flat buffer of parameters, where a call reads of it."""
        if not self._graph.copies:
            return []
        size = self._flats[0].size if shared is None else shared.parameters.size
        dtype = next(iter(self._graph.copies)).dtype
        return [block.reserve(size, dtype)]

    def _inputs_of_its_own(self) -> list[Array]:
        """Inputs, their gradients and the random state, but for those that lie in arrays of the
        caller's."""
        arguments, gradients = self._graph.arguments, self._graph.argument_gradients
        arrays = [arguments[name] for name in self.input_names]
        arrays += [array for name, array in gradients.items() if name in self.input_names]
        arrays.append(self._graph.random_state)
        return [array for array in arrays if array not in self._memory]

    def _plan(self, inputs: list[Array]) -> tuple[Block, Block, dict[Array, Array]]:
        """What is valid whenever, what lives only within a pass (or one way of it), and what takes
        over the memory of another array. The first two are one block, and share memory, unless a
        `WorkingMemory` lends the second."""
        n, forever = len(self._graph.steps), self._graph.forever
        persistent = {array for flat in self._flats for array in flat.arrays} | set(inputs)
        persistent.update(self._memory, self._graph.copies)
        lives, in_place, self._rooms = lifetimes(
            self._graph, persistent, self.keep_forward, self._launches.workspace
        )
        lives = [Lifetime(array, -1, forever) for array in inputs] + lives
        scratch = self._scratch_memory
        # `head_gradients` are the caller's to hold, and to bind others with: no block moves them.
        held = {head.landing.root for head in self._graph.heads if head.landing is not None}
        if self._working_memory is not None:
            passing = [life for life in lives if life.end < forever and life.array not in held]
        elif scratch is not None:
            passing = [
                life for life in lives if life.end < n or n < life.start <= life.end < forever
            ]
        else:
            passing = []
        if not passing:
            block = Block(lives)
            return block, block, in_place
        return Block(life for life in lives if life not in passing), Block(passing), in_place

    def _lay_out(self) -> tuple[Flat, Flat, Flat]:
        """The flat buffers of parameters (those with a gradient first), gradients, statistics."""
        graph = self._graph
        parameters = [name for name in graph.arguments if name not in self.input_names]
        trainable = [name for name in parameters if name in graph.argument_gradients]
        ordered = trainable + [name for name in parameters if name not in graph.argument_gradients]
        return (
            Flat([graph.arguments[name] for name in ordered], self.dtype),
            Flat([graph.argument_gradients[name] for name in trainable], self.dtype),
            Flat(list(graph.auxiliary.values()), self.dtype),
        )

    def _clear(self, kept: list[Array], buffers: list[Any]) -> None:
        """Starts inputs, their gradients and this executor's own flat buffers as documented."""
        fill = self.device.ops.fill
        for buffer in buffers + [self._memory[a] for a in kept if a.dtype == self.dtype]:
            if buffer.size:
                fill(buffer, value=0.0)
        self._memory[self._graph.random_state][...] = np.zeros(2, np.uint64)
        if buffers:
            for name, array in self._graph.auxiliary.items():
                if name.endswith("_moving_var"):
                    fill(self._memory[array], value=1.0)

    def _arena(self, inferred: InferredShapes, needed: int) -> Any:
        information = self.device.memory_info()
        free = None if information is None else information[0]
        try:
            if free is not None and needed > free:
                raise MemoryError
            return self.device.arena(needed)
        except MemoryError as error:
            shapes = ", ".join(f"{n} {inferred.arguments[n]}" for n in self.input_names)
            available = "" if free is None else f", of which {free:,} bytes are free"
            raise OutOfDeviceMemory(
                f"binding {self.symbol.name!r} for {shapes} needs {self._planned} on device "
                f"{self.device.name!r}{available}; reduce the batch size",
                needed,
                free,
            ) from (error if str(error) else None)

    def _resolve(self, array: Array) -> Any:
        found = self._memory.get(array)
        return self._memory[array.root].reshape(array.shape) if found is None else found

    def _collect(self) -> None:
        graph = self._graph
        arguments = {name: self._resolve(a) for name, a in graph.arguments.items()}
        gradients = {
            name: self._resolve(graph.argument_gradients[name])
            for name in graph.arguments
            if name in graph.argument_gradients
        }
        auxiliary = {name: self._resolve(a) for name, a in graph.auxiliary.items()}
        self.arg_dict = NamedArrays("arg_dict", arguments)
        self.grad_dict = NamedArrays("grad_dict", gradients)
        self.aux_dict = NamedArrays("aux_dict", auxiliary)
        self.outputs = [self._resolve(head.array) for head in graph.heads]
        landings = [head.landing for head in graph.heads]
        self.head_gradients: list[Any] = [None if a is None else self._resolve(a) for a in landings]
        named = dict(zip(self.symbol.list_outputs(), self.outputs, strict=True))
        self.output_dict = NamedArrays("output_dict", named)
        self.random_state = self._resolve(graph.random_state)

    @property
    def memory(self) -> MemoryUse:
        """What this executor takes, and what its device keeps beside it."""
        return replace(self._planned, kept=self.device.kept_bytes())

    @property
    def parameter_names(self) -> list[str]:
        """Names of the parameters, in the order of list_arguments."""
        return [name for name in self.arg_dict if name not in self.input_names]

    def trainable(self) -> dict[str, slice]:
        """Places of the parameters that have a gradient, in `parameters` and `gradients` alike."""
        gradients = self._flats[1]
        names = [name for name in self.parameter_names if name in self.grad_dict]
        return {
            name: slice(place, place + array.size)
            for name, array, place in zip(names, gradients.arrays, gradients.places, strict=True)
        }

    # Calls

    def _bind_calls(
        self, calls: Iterable[Iterable[Call]], forward: bool = True
    ) -> list[Callable[[], None]]:
        bound: list[Callable[[], None]] = []
        apart = forked = False
        prepared = self._prepared(calls, forward)
        if forward and self._copies is not None:
            cast = partial(self.device.ops.to_bf16, self.parameters, self._copies)
            prepared.insert(0, _Prepared(cast))
        for step in self._with_programs(prepared):
            if step.joins and forked:
                if apart:
                    bound.append(self._branch.leave)
                bound.append(self._branch.join)
                apart = forked = False
            if step.apart != apart:
                bound.append(self._branch.leave if apart else self._branch.enter)
                apart, forked = step.apart, True
            bound.append(step.run)
        if apart:
            bound.append(self._branch.leave)
        if forked:
            bound.append(self._branch.join)
        return bound

    def _prepared(self, calls: Iterable[Iterable[Call]], forward: bool) -> list[_Prepared]:
        """The calls with their arrays. At a fork of the graph what was set apart before is waited
        for before the first call set apart, or behind the group where this pass has none there; or
        before the call that is alone, or the whole group where this pass lacks that."""
        forks = {} if forward else self._graph.forks
        start = 0 if forward else len(self._graph.steps)
        prepared: list[_Prepared] = []
        waiting = False
        for index, group in enumerate(calls):
            steps = [self._prepare(call, start + index) for call in group]
            at: int | None = 0
            if not waiting:
                waits = (i for i, call in enumerate(group) if call.apart or call.alone)
                at = next(waits, 0 if forks[index] else None) if index in forks else None
                waiting = index in forks and (at is None or not steps)
            if at is not None and steps:
                steps[at] = replace(steps[at], joins=True)
                waiting = False
            prepared += steps
        return prepared

    def _prepare(self, call: Call, time: int) -> _Prepared:
        attributes = self._launches.attributes(call)
        if call.workspace:
            room = self._rooms.get((time, call.function))
            attributes["workspace"] = None if room is None else self._resolve(room)
        arrays = [None if array is None else self._resolve(array) for array in call.arrays]
        run = partial(getattr(self.device.ops, call.function), *arrays, **attributes)
        if self.device.name == "numpy":
            halves = [a for a in call.arrays if a is not None and a.half]
            run = _then_rounded(run, [self._resolve(array) for array in halves])
        jobs = None if self._jobs_of is None else self._jobs_of(call.function, run)
        return _Prepared(run, call.apart, jobs)

    def _recorder(
        self, cooperative: bool | None, limit: float | None
    ) -> Callable[..., list[Any] | None] | None:
        """What makes jobs of calls, or None where programs were not asked for."""
        limit = _cooperative_limit.get() if limit is None else limit
        if not (isinstance(limit, int | float | np.number) and limit > 0):
            raise GraphError(
                f"cooperative_limit is {limit!r}; it is the microseconds that a layer of a program "
                f"may take, above 0 ({COOPERATIVE_LIMIT} unless given)"
            )
        if not (_cooperative.get() if cooperative is None else flag(cooperative, "cooperative")):
            return None
        if self.storage == "bf16":
            raise GraphError(
                "cooperative=True is not available with storage 'bf16': programs read and write "
                "float32"
            )
        if (reason := self.device.cannot_cooperate()) is not None:
            raise GraphError(f"cooperative=True is not available: {reason}")
        return partial(self.device.jobs_of, most_microseconds=limit)

    def _with_programs(self, prepared: list[_Prepared]) -> list[_Prepared]:
        """The same steps, runs of those that have jobs as programs.

        What a program holds of the branch (its workspace, at least) must not be in use there."""
        result: list[_Prepared] = []
        run: list[_Prepared] = []

        def close() -> None:
            jobs = [job for step in run for job in step.jobs or ()]
            if sum(job.launches for job in jobs) < LEAST_LAUNCHES:
                result.extend(run)
            else:
                program = self.device.program(jobs)
                self.programs.append(program)
                joins = any(step.apart or step.joins for step in run)
                result.append(_Prepared(program, joins=joins))
            run.clear()

        for step in prepared:
            held = sum(len(other.jobs or ()) for other in run)
            if step.jobs is None or held + len(step.jobs) > MOST_JOBS:
                close()
            if step.jobs is None:
                result.append(step)
            else:
                run.append(step)
        close()
        return result

    def forward(self, is_train: bool = False, **inputs: Any) -> list[Any]:
        """Computes and returns the outputs; arrays stay valid, and keep their memory, for ever.

        inputs: arrays of host or device copied into `arg_dict` (any argument, by name; a number
        fills it). What is not given keeps its value. is_train: batch statistics and dropout, and
        the results that backward needs are kept.

        Raises ShapeError for an array of another shape, GraphError for an unknown name or for what
        holds no real numbers.
        """
        if not isinstance(is_train, bool | int | np.bool_):
            raise GraphError(
                f"is_train is True or False, not a {type(is_train).__name__}; inputs are given by "
                f"name, as in forward(is_train=True, {(self.input_names or ['data'])[0]}=...)"
            )
        for name, value in inputs.items():
            self._set(name, value)
        self._state = "a forward pass failed"
        if (lent := self._working_memory or self._scratch_memory) is not None:
            lent.take(self)
        with self._passes:
            for call in self._training if is_train else self._inference:
                call()
        self._state = "" if is_train else "the last forward ran with is_train=False"
        return self.outputs

    def _set(self, name: str, value: Any) -> None:
        target = self.arg_dict.get(name)
        if target is None:
            raise GraphError(f"there is no argument {name!r}; there are {', '.join(self.arg_dict)}")
        if value is target:
            return
        if isinstance(value, int | float | np.integer | np.floating | np.bool_):
            self.device.ops.fill(target, value=float(value))
            return
        target[...] = self._checked(value, tuple(target.shape), name)

    def _checked(self, value: Any, shape: Shape, name: str) -> Any:
        if not hasattr(value, "shape"):
            try:
                value = np.asarray(value)
            except ValueError:  # lists within it differ in length
                raise ShapeError(
                    f"{name!r} has shape {shape}, but what was given is no array: its lists differ "
                    "in length"
                ) from None
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
            raise GraphError(f"{name!r} takes real numbers, but {value.dtype} was given")
        if tuple(value.shape) != shape:
            raise ShapeError(f"{name!r} has shape {shape}, but an array of {value.shape} was given")
        # Device arrays are checked by the copy; the host's are brought to the executor's dtype.
        return np.ascontiguousarray(value, self.dtype) if isinstance(value, np.ndarray) else value

    def backward(
        self,
        out_grads: Any | Sequence[Any] | None = None,
        wanted: str | Iterable[str] | None = None,
    ) -> None:
        """Writes or adds the gradients of the arguments (as grad_req says) into `grad_dict`.

        out_grads: gradients of the outputs, host or device arrays of their shapes; None for one
        that has none; for one output, the array itself will do. Loss heads start the pass by
        themselves and ignore theirs. wanted: name or names of the arguments whose gradient is
        needed in this pass; only what these need is computed, and other gradients stay as they
        are. Moving statistics are updated by every backward,
        whatever is wanted; but those of a batch norm whose inputs lead back to no argument with a
        gradient (every grad_req up to there is "null") stay as they are. One backward follows one
        training forward (unless keep_forward).

        Raises StateError without a training forward before it or without any gradient to start
        from, ShapeError for gradients of another shape, GraphError for unknown names.
        """
        if self._state:
            raise StateError(
                f"backward needs a training forward before it, but {self._state}; "
                "call forward(is_train=True) first"
            )
        if self._working_memory is not None and not self._working_memory.holds(self):
            raise StateError(
                "another executor with the same working_memory has run since the last forward, and "
                "written over what backward needs; run each backward before the next forward"
            )
        if not self.grad_dict:
            raise StateError("backward has nothing to do: every grad_req is 'null'")
        if self._scratch_memory is not None:
            self._scratch_memory.take(self)
        given = self._place_gradients(out_grads)
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        names = None if wanted is None else tuple(wanted)
        key = (given, names)
        calls = self._backwards.get(key)
        if calls is None:
            calls = self._backwards[key] = self._bind_backward(given, names)
        if not self.keep_forward:
            self._state = "backward has run since (bind with keep_forward=True to run it again)"
        with self._passes:
            for call in calls:
                call()

    def _bind_backward(
        self, given: tuple[int, ...], wanted: tuple[str, ...] | None
    ) -> list[Callable[[], None]]:
        unknown = [name for name in wanted or () if name not in self.grad_dict]
        if unknown:
            raise GraphError(
                f"no gradient is bound for {', '.join(map(repr, unknown))}; gradients are bound "
                f"for {', '.join(self.grad_dict)}"
            )
        names = list(self.grad_dict) if wanted is None else list(dict.fromkeys(wanted))
        return self._bind_calls(self._graph.backward(given, names), forward=False)

    def _place_gradients(self, out_grads: Any | Sequence[Any] | None) -> tuple[int, ...]:
        heads = self._graph.heads
        if out_grads is None:
            out_grads = [None] * len(heads)
        elif not isinstance(out_grads, list | tuple):
            out_grads = [out_grads]
        if len(out_grads) != len(heads):
            raise ShapeError(f"{len(out_grads)} out_grads were given for {len(heads)} outputs")
        has_loss = any(step.operator.is_loss for step in self._graph.steps)
        if not has_loss and all(gradient is None for gradient in out_grads):
            raise StateError(
                "the graph has no loss head, so backward needs out_grads, one per output: "
                + ", ".join(self.symbol.list_outputs())
            )
        given = []
        for index, (head, gradient) in enumerate(zip(heads, out_grads, strict=True)):
            if gradient is None or head.landing is None:
                continue
            target = self.head_gradients[index]
            if gradient is not target:
                name = f"gradient of {self.symbol.list_outputs()[index]}"
                target[...] = self._checked(gradient, tuple(target.shape), name)
            given.append(index)
        return tuple(given)

    def zero_gradients(self) -> None:
        """Sets every gradient to 0, parameters' and inputs' (for grad_req "add")."""
        if self.gradients.size:
            self.device.ops.fill(self.gradients, value=0.0)
        for name in self.input_names:
            if name in self.grad_dict:
                self.device.ops.fill(self.grad_dict[name], value=0.0)

    def __repr__(self) -> str:
        inputs = ", ".join(
            f"{name} {tuple(self.arg_dict[name].shape)}" for name in self.input_names
        )
        outputs = ", ".join(f"{name} {tuple(a.shape)}" for name, a in self.output_dict.items())
        size = sum(self.arg_dict[name].size for name in self.parameter_names)
        return (
            f"<Executor on {self.device.name}: {inputs} -> {outputs}; {size:,} parameters, "
            f"{self.memory.total:,} bytes>"
        )

    def __reduce__(self) -> Any:
        # Copies would tear the views of one arena apart, and compute on memory that nothing reads.
        raise StateError(
            "an executor is bound to its memory and cannot be copied or pickled; bind the symbol "
            "again (shared= for the same parameters), and store arrays with pygan.checkpoint.save"
        )

    def _check_requests(self, grad_req: str | Mapping[str, str]) -> None:
        if isinstance(grad_req, str):
            return
        for name, request in grad_req.items():
            if request != "null" and name not in self._graph.argument_gradients:
                raise GraphError(
                    f"grad_req of {name!r} is {request!r}, but no operator that reads it states a "
                    "gradient for it; use 'null'"
                )


@dataclass(frozen=True)
class _Prepared:
    """A call with its arrays, or a program of several; jobs: what a program would hold of it."""

    run: Callable[[], Any]
    apart: bool = False
    jobs: list[Any] | None = None
    joins: bool = False  # waits for the branch


def _then_rounded(run: Callable[[], Any], arrays: Sequence[np.ndarray]) -> Callable[[], Any]:
    """`run`, and then those of its arrays rounded that hold bf16 numbers: what it only read stays
    as it is."""
    if not arrays:
        return run

    def rounding() -> None:
        run()
        for array in arrays:
            to_bf16(array, array)

    return rounding


def _adopt_places(executor: Executor, shared: Executor) -> None:
    """Puts every array of the flat buffers where `shared` has the one of that name and shape."""
    if not isinstance(shared, Executor):
        raise GraphError(f"shared= takes another executor, not a {type(shared).__name__}")
    if shared.device is not executor.device or shared.dtype != executor.dtype:
        raise GraphError("executors that share parameters must have one device and one dtype")
    for mine, theirs in zip(executor._flats, shared._flats, strict=True):
        known = {
            (array.label, array.shape): place
            for array, place in zip(theirs.arrays, theirs.places, strict=True)
        }
        missing = [a for a in mine.arrays if (a.label, a.shape) not in known]
        if missing:
            listed = ", ".join(f"{array.label} {array.shape}" for array in missing)
            raise ShapeError(
                f"the executor to share with has no {listed}; parameters must agree in name and "
                "shape, and gradients must be bound there too"
            )
        mine.places = [known[array.label, array.shape] for array in mine.arrays]


def _device(device: Any) -> Any:
    """The device itself, or the one of that name."""
    if isinstance(device, str):
        return devices.get(device)
    if not hasattr(device, "ops"):
        raise GraphError(
            f"an executor needs a device, such as pygan.device.get('auto'), not {device!r}"
        )
    return device


def _input_names(symbol: Symbol, shapes: Mapping[str, Shape]) -> list[str]:
    """Arguments whose shape was given, and the labels of losses."""
    labels = set()
    for node in symbol.nodes():
        if node.operator is None:
            continue
        for argument, (parent, _) in zip(node.operator.argument_names(), node.inputs, strict=True):
            if parent.operator is None and argument in node.operator.label_inputs:
                labels.add(parent.name)
    return [name for name in symbol.list_arguments() if name in shapes or name in labels]


def _requests(symbol: Symbol, grad_req: str | Mapping[str, str]) -> dict[str, str]:
    arguments = symbol.list_arguments()
    if isinstance(grad_req, str):
        result = dict.fromkeys(arguments, grad_req)
    elif not isinstance(grad_req, Mapping):
        raise GraphError(
            f"grad_req is one of {', '.join(REQUESTS)}, or names arguments with one each, as in "
            f"{{'data': 'null'}}; it is {grad_req!r}"
        )
    else:
        unknown = [name for name in grad_req if name not in arguments]
        if unknown:
            raise GraphError(
                f"grad_req names {', '.join(map(repr, unknown))}, but the arguments are "
                f"{', '.join(arguments)}"
            )
        result = {name: grad_req.get(name, "write") for name in arguments}
    for name, request in result.items():
        if request not in REQUESTS:
            raise GraphError(
                f"grad_req of {name!r} must be one of {', '.join(REQUESTS)}, not {request!r}"
            )
    return result
