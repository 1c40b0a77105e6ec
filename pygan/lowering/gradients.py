"""The gradients of a lowered graph: their arrays, and the calls that write them.

The steps' backwards run in reverse, each writing the gradients of its inputs. The gradient of an
array with several consumers is written by the first that reports and added to by the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pygan.lowering.steps import Head, Key, Step, Steps
from pygan.operators import Array, Call, Gradient
from pygan.operators.base import only
from pygan.symbol import Symbol


class Gradients:
    """Gradient arrays of everything that a wanted argument depends on, for the gradient requests
    ("write", "add", "null") of arguments by name.

    Attributes: `arrays`, by key; `arguments`, those of arguments, by name; `in_slices`, the arrays
    in which the gradients of some keys come in slices instead.
    """

    def __init__(self, steps: Steps, requests: Mapping[str, str]) -> None:
        self._steps = steps
        self._requests = requests
        self.arrays: dict[Key, Array] = {}
        self.arguments: dict[str, Array] = {}
        self.in_slices: dict[Key, Array] = {}
        requested = [name for name, request in requests.items() if request != "null"]
        reached = self._depending_on(requested)
        for step in reversed(steps.in_order):
            for key in step.output_keys:
                if key in reached and key not in self.arrays and key in steps.arrays:
                    self.arrays[key] = self._like(key)
            # A reshaped array that nobody else reads shares its gradient's memory with its source.
            source = step.input_keys[0]
            if (
                step.operator.is_view
                and source in reached
                and source not in steps.argument_keys.values()
                and steps.consumers[source] == 1
            ):
                gradient = self.arrays[step.output_keys[0]]
                self.arrays[source] = gradient.view(steps.arrays[source].shape)
        differentiable = {
            key for step in steps.in_order for key in step.differentiable() if key in steps.arrays
        }
        differentiable.update(steps.heads)
        for name in requested:
            key = steps.argument_keys[name]
            if key in differentiable:
                self.arguments[name] = self.arrays[key] = self._like(key)

    def _like(self, key: Key) -> Array:
        array = self._steps.arrays[key]
        return Array(f"gradient of {array.label}", array.shape, array.dtype, half=array.half)

    def heads(self, symbol: Symbol) -> list[Head]:
        """The outputs of the symbol, with where their gradients land."""
        arguments = set(self._steps.argument_keys.values())
        heads: list[Head] = []
        for (node, _), key in zip(symbol.heads, self._steps.heads, strict=True):
            is_loss = node.operator is not None and node.operator.is_loss
            head = Head(key, self._steps.arrays[key], is_loss)
            gradient = None if is_loss else self.arrays.get(key)
            if gradient is not None:
                # Gradients of arguments outlive the pass, and an output listed twice gets the sum.
                if key in arguments or any(h.key == key for h in heads):
                    label, dtype = f"given {gradient.label}", self._steps.dtype
                    head.landing = Array(label, gradient.shape, dtype)
                    head.gradient = gradient
                else:
                    head.landing = gradient
            heads.append(head)
        return heads

    def let_losses_run_ahead(self) -> None:
        """Gives loss heads the gradient of their data where they alone write it."""
        arguments = set(self._steps.argument_keys.values())
        for step in self._steps.in_order:
            key = step.input_keys[0]
            alone = key not in arguments and self._steps.consumers[key] == 1
            if step.operator.is_loss and alone:
                step.arrays.ahead = self.arrays.get(key)

    def calls(
        self, heads: list[Head], given: Collection[int], wanted: Collection[str]
    ) -> list[list[Call]]:
        """The calls of a backward, first those of arrived gradients, then of each step in reverse.

        given: the outputs whose gradient is handed in; wanted: the arguments whose gradient is
        needed. Wanted "write" gradients that nothing reaches are filled with 0.
        """
        argument_keys = self._steps.argument_keys
        needed = self._depending_on(wanted)
        written = {argument_keys[name] for name in wanted if self._requests[name] == "add"}
        reached: set[Key] = set()
        arrival: list[Call] = []
        for index in sorted(given):
            head = heads[index]
            if head.key not in needed or head.landing is None:
                continue
            if head.gradient is not None:
                attributes = {"accumulate": head.key in written}
                arrival.append(Call("axpy", (head.landing, head.gradient), attributes))
            written.add(head.key)
            reached.add(head.key)
        calls = [arrival]
        for step in reversed(self._steps.in_order):
            calls.append(self._backward_of(step, needed, written, reached))
        for name in wanted:
            if argument_keys[name] not in written:
                arrival.append(Call("fill", (self.arguments[name],), {"value": 0.0}))
        return calls

    def _depending_on(self, names: Collection[str]) -> set[Key]:
        """Keys whose value depends, differentiably, on the named arguments."""
        reached = {self._steps.argument_keys[name] for name in names}
        for step in self._steps.in_order:
            if not step.operator.is_loss and any(key in reached for key in step.differentiable()):
                reached.update(step.output_keys)
        return reached

    def _backward_of(
        self, step: Step, needed: set[Key], written: set[Key], reached: set[Key]
    ) -> list[Call]:
        """The calls of one step. written, reached: keys whose gradient earlier calls have written,
        or have made from one that was given or a loss's; those of this step join them."""
        statistics = []  # of a step without a backward of its own, which would move them
        if any(key in self.arrays for key in step.input_keys):
            statistics = step.operator.update_statistics(step.arrays)
        if not step.operator.is_loss and not any(key in reached for key in step.output_keys):
            return statistics
        differentiable = set(step.differentiable())
        gradients: list[Gradient | None] = []
        for key in step.input_keys:
            if key not in needed or key not in differentiable:
                gradients.append(None)
                continue
            if key in self.in_slices:
                target = Gradient(self.in_slices[key], False, in_slices=True)
            else:
                target = Gradient(self.arrays[key], key in written)
            gradients.append(target)
            written.add(key)
            reached.add(key)
        if all(gradient is None for gradient in gradients):
            return statistics
        output_gradients = tuple(
            self.arrays[key] if key in reached else None for key in step.output_keys
        )
        own = output_gradients[0]
        if step.operator.is_view and own is not None and only(gradients).array.root is own.root:
            return []
        return step.operator.backward(step.arrays, output_gradients, tuple(gradients))
