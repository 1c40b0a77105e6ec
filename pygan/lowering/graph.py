"""A graph as calls: which kernels run, on which symbolic arrays, in which order.

A lowered graph is a list of steps (operators with their arrays). Forward runs them in order,
backward in reverse. Memory is not decided here but by executors, from the calls alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pygan.lowering.activations import fuse_derivatives
from pygan.lowering.again import made_again, with_results_again
from pygan.lowering.batch_norms import Advice, leave_moments, leave_slices, normalise_late
from pygan.lowering.branches import (
    forks_of,
    set_apart,
    that_leave_no_room,
    weights_first,
    written_apart,
)
from pygan.lowering.gradients import Gradients
from pygan.lowering.nodes import lower_nodes
from pygan.lowering.steps import Step
from pygan.lowering.storage import store_halves
from pygan.operators import Array, Call
from pygan.symbol import InferredShapes, Symbol


class LoweredGraph:
    """The calls of a symbol under given shapes and gradient requests ("write", "add", "null").

    fuse: layers take their neighbours' work along, where nothing else reads what lies between.
    branches: set those of backward apart that may run beside the ones that follow, but for
    gradients of weights that leave them no room, by the advice: those are alone. What one group of
    `backward` sets apart must be done before the next of `forks` (indices of groups) sets calls
    apart or, where its value is true, before the call there that is alone; or, in a pass that lacks
    those, is over: so long its arrays are kept.
    advice: with fuse, what batch norms and convolutions should leave to each other; None: nothing.
    half_dtype: what bf16 numbers lie in, where activations are stored so (pygan.lowering.storage),
    or None; parameters are then the arguments of whose bf16 copies convolutions may read: `copies`,
    each with its parameter.

    Attributes: `steps`, in order; `arguments`, `auxiliary`, `argument_gradients`: arrays by name;
    `heads`: the outputs; `random_state`: the uint64 (2,) {seed, counter}.
    """

    def __init__(
        self,
        symbol: Symbol,
        shapes: InferredShapes,
        requests: Mapping[str, str],
        dtype: str,
        fuse: bool,
        branches: bool = False,
        advice: Advice | None = None,
        half_dtype: str | None = None,
        parameters: Collection[str] = (),
    ) -> None:
        steps = lower_nodes(symbol, shapes, dtype, fuse, halves=half_dtype is not None)
        if fuse:
            fuse_derivatives(steps)
        self.copies: dict[Array, Array] = {}
        if half_dtype is not None:
            self.copies = store_halves(steps, half_dtype, parameters)
        self._gradients = gradients = Gradients(steps, requests)
        self._again: dict[Array, Call] = {}
        if fuse and advice is not None:
            gradients.in_slices = leave_slices(steps, gradients.arrays, advice)
            normalise_late(steps, gradients.arrays, advice)
            leave_moments(steps, advice)
            self._again = made_again(steps, advice)
        self.heads = gradients.heads(symbol)
        gradients.let_losses_run_ahead()
        self.steps: list[Step] = steps.in_order
        self.arguments = steps.arguments
        self.auxiliary = steps.auxiliary
        self.argument_gradients = gradients.arguments
        self.random_state = steps.random_state
        self._apart: set[Array] = set()
        self._alone: set[Array] = set()
        self.forks: dict[int, bool] = {}
        if branches and self.argument_gradients:
            whole = self.whole_backward()
            self._apart = written_apart(whole)
            if advice is not None:
                self._alone = that_leave_no_room(whole, self._apart, advice.leaves_room)
                self._apart -= self._alone
            self.forks = forks_of(self.whole_backward())

    @property
    def forever(self) -> int:
        """A time after the last call of the backward pass."""
        return 2 * len(self.steps) + 1

    def forward(self, training: bool) -> list[list[Call]]:
        """The calls of each step."""
        return [step.operator.forward(step.arrays, training) for step in self.steps]

    def backward(self, given: Collection[int], wanted: Collection[str]) -> list[list[Call]]:
        """The calls of the pass, first those of arrived gradients, then of each step in reverse.

        given: the outputs whose gradient is handed in; wanted: the arguments whose gradient is
        needed. Wanted "write" gradients that nothing reaches are filled with 0.
        """
        calls = self._gradients.calls(self.heads, given, wanted)
        set_apart(calls, self._apart, self._alone)
        return [with_results_again(weights_first(group), self._again) for group in calls]

    def whole_backward(self) -> list[list[Call]]:
        """The calls of the pass with every gradient handed in and wanted."""
        given = [i for i, head in enumerate(self.heads) if head.landing is not None]
        return self.backward(given, list(self.argument_gradients))

    def gradients_of(self, step: Step) -> tuple[Array | None, Array | None]:
        """Of a step's first output and first input."""
        arrays = self._gradients.arrays
        return arrays.get(step.output_keys[0]), arrays.get(step.input_keys[0])
