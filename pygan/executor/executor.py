"""The executor: what a user binds a symbol to, fills, and runs forward and backward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pygan.device import Device
from pygan.errors import GraphError, ShapeError, StateError
from pygan.executor.given import adopted, copied
from pygan.executor.launches import Launches
from pygan.executor.lending import Lending, LentArrays, require_kept
from pygan.executor.memory import Memory
from pygan.executor.memory_use import MemoryUse
from pygan.executor.passes import Passes
from pygan.executor.programs import recorder
from pygan.executor.requests import (
    checked_requests,
    names_of_inputs,
    require_gradients,
    require_lendable,
    wanted_names,
)
from pygan.executor.scopes import LEAN, chosen
from pygan.executor.settings import checked_settings
from pygan.flags import flag
from pygan.lowering import LoweredGraph
from pygan.named_arrays import NamedArrays
from pygan.operators import Array, Shape
from pygan.symbol import Symbol
from pygan.working_memory import WorkingMemory


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
    only within the backward, lies in their block. A way that has anything there writes over what a
    forward of theirs has left for its backward.
    lend_gradients: executors bound with the same `scratch_memory` after this one work in the memory
    of `gradients` too. These are then there from a backward until the next pass of one of those:
    whoever looks at them after a step that ends with this executor's update finds them, and later
    `gradients`, `grad_dict` and optimizers refuse those that were written over (an array that was
    taken out of `grad_dict` before cannot tell). Every grad_req of a parameter must be "write" or
    "null".
    fuse: whether batch norms and convolutions take the activation that follows into their kernels,
    and a convolution's data gradient the derivative of the activation before it, where nothing else
    reads what lies between; and whether batch norms add the slices of sums that a convolution
    before or after them leaves, or merge the moments that its tiles leave of its result, where
    a model of the GPU gains by it (not in programs).
    lean: with fuse, a batch norm that one convolution alone reads leaves its normalising pass to it
    wherever a kernel can normalise on the way in, which leaves the normalised array out of memory;
    without, where a model of the GPU loses no time by it. Where none can, backward makes such an
    array again, of 1 MB or more, from what the batch norm has read: the same bits. And of branches,
    gradients of weights that keep all multiprocessors busy run in line. Sums of statistics may be
    grouped otherwise, which differs by roundings. None of it on numpy or in programs. None: as the
    `lean_scope` says, and without outside of any.
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
        device: Device | str,
        shapes: Mapping[str, Shape],
        grad_req: str | Mapping[str, str] = "write",
        *,
        shared: Executor | None = None,
        inputs: Mapping[str, Any] | None = None,
        input_gradients: Mapping[str, Any] | None = None,
        output_gradients: Mapping[str, Any] | None = None,
        working_memory: WorkingMemory | None = None,
        scratch_memory: WorkingMemory | None = None,
        lend_gradients: bool = False,
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
        settings = checked_settings(device, dtype, precision, storage)
        fuse, keep_forward = flag(fuse, "fuse"), flag(keep_forward, "keep_forward")
        branches, lean = flag(branches, "branches"), flag(chosen(lean, LEAN), "lean")
        lends = flag(lend_gradients, "lend_gradients")
        self._lending = Lending(working_memory, scratch_memory, keep_forward, lends)
        self.symbol = symbol
        self.device: Device = settings.device
        self.dtype = settings.dtype
        self.precision = settings.precision
        self.storage = settings.storage
        self.keep_forward = keep_forward
        inferred = symbol.infer_shape(shapes)
        self.input_names = names_of_inputs(symbol, shapes)
        self.requests = checked_requests(symbol, grad_req)
        branch = self.device.branch() if branches else None
        jobs_of = recorder(settings, cooperative, cooperative_limit)
        programs = jobs_of is not None
        launches = Launches(settings, repr(symbol.name), lean, programs)
        self._graph = graph = LoweredGraph(
            symbol,
            inferred,
            self.requests,
            self.dtype,
            fuse,
            branch is not None and branch.overlaps,
            # A program's jobs are launches that it knows; those that add slices, or merge moments,
            # are not among them.
            None if programs else launches,
            settings.half_dtype,
            [name for name in self.requests if name not in self.input_names],
        )
        require_gradients(grad_req, graph.argument_gradients)
        if lends:
            require_lendable(self.requests, self.input_names, shared is not None)
        self._memory = Memory(
            graph,
            self.device,
            self.dtype,
            self.input_names,
            self._adopted(inputs, input_gradients, output_gradients),
            None if shared is None else self._memory_of(shared).buffers,
            self._lending,
            keep_forward,
            launches.workspace,
        )
        listed = ", ".join(f"{name} {inferred.arguments[name]}" for name in self.input_names)
        self._memory.make(self, repr(symbol.name), listed)
        self._lost: set[str] = set()  # of the parameters whose gradients others have written over
        self._name_arrays()
        self._threads = self.device.passes(self._memory.use.unplanned)
        self._passes = Passes(graph, self._memory, launches, branch, jobs_of)
        self._state = "no forward has run"

    def _adopted(
        self,
        inputs: Mapping[str, Any] | None,
        input_gradients: Mapping[str, Any] | None,
        output_gradients: Mapping[str, Any] | None,
    ) -> dict[Array, Any]:
        """What lies in memory of the caller's."""
        graph, device, names = self._graph, self.device, self.input_names
        gradients = graph.argument_gradients
        heads = zip(self.symbol.list_outputs(), graph.heads, strict=True)
        landings = {name: head.landing for name, head in heads if head.landing is not None}
        arrivals = list(landings)
        return (
            adopted(device, graph.arguments, inputs, "input", names)
            | adopted(device, gradients, input_gradients, "gradient of input", names)
            | adopted(device, landings, output_gradients, "gradient of output", arrivals)
        )

    def _memory_of(self, shared: Executor) -> Memory:
        """Of an executor that this one can share parameters with."""
        if not isinstance(shared, Executor):
            raise GraphError(f"shared= takes another executor, not a {type(shared).__name__}")
        if shared.device is not self.device or shared.dtype != self.dtype:
            raise GraphError("executors that share parameters must have one device and one dtype")
        if shared._lending.lends and self._graph.argument_gradients.keys() - self.input_names:
            raise GraphError(
                "the executor to share with lends its gradients to others; bind this one with "
                "grad_req='null', or that one with lend_gradients=False"
            )
        return shared._memory

    def _name_arrays(self) -> None:
        graph, resolve = self._graph, self._memory.resolve
        arguments = {name: resolve(array) for name, array in graph.arguments.items()}
        gradients = {
            name: resolve(graph.argument_gradients[name])
            for name in graph.arguments
            if name in graph.argument_gradients
        }
        auxiliary = {name: resolve(array) for name, array in graph.auxiliary.items()}
        self.arg_dict = NamedArrays("arg_dict", arguments)
        self.grad_dict = NamedArrays("grad_dict", gradients)
        if self._lending.lends:
            self.grad_dict = LentArrays("grad_dict", gradients, self._lost)
        self.aux_dict = NamedArrays("aux_dict", auxiliary)
        self.outputs = [resolve(head.array) for head in graph.heads]
        landings = [head.landing for head in graph.heads]
        self.head_gradients: list[Any] = [None if a is None else resolve(a) for a in landings]
        self._lent_names = gradients.keys() - self.input_names
        named = dict(zip(self.symbol.list_outputs(), self.outputs, strict=True))
        self.output_dict = NamedArrays("output_dict", named)
        self.random_state = resolve(graph.random_state)
        buffers = self._memory.buffers
        self.parameters: Any = buffers.parameters
        self.auxiliary: Any = buffers.auxiliary

    def move(self, arena: Any) -> None:
        """Takes another block for what lives within a pass, before the first one."""
        self._memory.move(arena)
        self._passes.bind()

    def lose_gradients(self) -> None:
        """Others write over the gradients that this executor has lent."""
        self._lost.update(self._lent_names)

    @property
    def gradients(self) -> Any:
        """The flat buffer of the parameters' gradients. Raises StateError where they were lent and
        others have written over them since."""
        if self._lending.lends:
            self.device.note(partial(require_kept, self._lost))
        return self._memory.buffers.gradients

    @property
    def trainable_size(self) -> int:
        """Elements of `gradients`, which are there whether others work in them or not."""
        return int(self._memory.buffers.gradients.size)

    @property
    def memory(self) -> MemoryUse:
        """What this executor takes, and what its device keeps beside it."""
        return replace(self._memory.use, kept=self.device.kept_bytes())

    def at_the_peak(self) -> list[tuple[str, int]]:
        """Names and bytes of what lies in memory when a forward and its backward need most of it,
        largest first: inputs, activations, gradients of activations, workspaces of kernels; but no
        parameters, their gradients or statistics."""
        return [(array.label, array.nbytes) for array in self._memory.at_the_peak()]

    @property
    def programs(self) -> list[Any]:
        """The programs that passes have so far been bound to (see `cooperative`)."""
        return self._passes.programs

    @property
    def parameter_names(self) -> list[str]:
        """Names of the parameters, in the order of list_arguments."""
        return [name for name in self.arg_dict if name not in self.input_names]

    def trainable(self) -> dict[str, slice]:
        """Places of the parameters that have a gradient, in `parameters` and `gradients` alike."""
        names = [name for name in self.parameter_names if name in self.grad_dict]
        return dict(zip(names, self._memory.buffers.places_of_gradients(), strict=True))

    def forward(self, is_train: bool = False, **inputs: Any) -> list[Any]:
        """Computes and returns the outputs; arrays stay valid, and keep their memory, for ever.

        inputs: arrays of host or device copied into `arg_dict` (any argument, by name; a number
        fills it). What is not given keeps its value. is_train: batch statistics and dropout, and
        the results that backward needs are kept.

        Raises ShapeError for an array of another shape, GraphError for an unknown name or for what
        holds no real numbers.
        """
        if not isinstance(is_train, bool | np.bool_):
            raise GraphError(
                f"is_train is True or False, not a {type(is_train).__name__}; inputs are given by "
                f"name, as in forward(is_train=True, {(self.input_names or ['data'])[0]}=...)"
            )
        for name, value in inputs.items():
            self._set(name, value)
        self._state = "a forward pass failed"
        note = self.device.note
        note(partial(self._lending.begin_forward, self))
        with self._threads:
            for call in self._passes.training if is_train else self._passes.inference:
                call()
        left = "" if is_train else "the last forward ran with is_train=False"
        note(partial(setattr, self, "_state", left))
        return self.outputs

    def _set(self, name: str, value: Any) -> None:
        target = self.arg_dict.get(name)
        if target is None:
            raise GraphError(f"there is no argument {name!r}; there are {', '.join(self.arg_dict)}")
        if value is target:
            return
        if isinstance(value, int | float | np.integer | np.floating | np.bool_):
            try:
                self.device.ops.fill(target, value=float(value))
            except OverflowError:
                raise GraphError(
                    f"{name!r} takes real numbers, but one was given that no float holds"
                ) from None
            return
        target[...] = copied(value, tuple(target.shape), self.dtype, name)

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
        are. Moving statistics are updated by every backward, whatever is wanted; but those of a
        batch norm whose inputs lead back to no argument with a gradient (every grad_req up to there
        is "null") stay as they are. One backward follows one training forward (unless
        keep_forward).

        Raises StateError without a training forward before it, without any gradient to start from,
        or where another executor has written over what the forward left in a `working_memory`;
        ShapeError for gradients of another shape, GraphError for unknown names.
        """
        if self._state:
            raise StateError(
                f"backward needs a training forward before it, but {self._state}; "
                "call forward(is_train=True) first"
            )
        self._lending.require_forward(self)
        if not self.grad_dict:
            raise StateError("backward has nothing to do: every grad_req is 'null'")
        names = None if wanted is None else wanted_names(wanted)
        note = self.device.note
        note(partial(self._lending.begin_backward, self))
        given = self._place_gradients(out_grads)
        calls = self._passes.backward(given, names)
        if not self.keep_forward:
            left = "backward has run since (bind with keep_forward=True to run it again)"
            note(partial(setattr, self, "_state", left))
        with self._threads:
            for call in calls:
                call()
        if self._lending.lends:
            written = list(self.grad_dict) if names is None else names
            note(partial(self._lost.difference_update, written))

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
                target[...] = copied(gradient, tuple(target.shape), self.dtype, name)
            given.append(index)
        return tuple(given)

    def zero_gradients(self) -> None:
        """Sets every gradient to 0, parameters' and inputs' (for grad_req "add"). Those that are
        lent are written as a backward writes them: a pass under way there cannot go on."""
        gradients = self._memory.buffers.gradients
        if gradients.size:
            if self._lending.lends:
                self.device.note(partial(self._lending.begin_backward, self))
                self.device.note(self._lost.clear)
            self.device.ops.fill(gradients, value=0.0)
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
