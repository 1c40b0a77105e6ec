"""Results that a backward makes again, which then need no memory from forward on.

A product's gradient of its weights reads what a batch norm made. The batch norm's own backward
reads what it was made of, which is in memory anyway, with the statistics: one pass over it gives
the same bits, just before they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pygan.lowering.batch_norms import Advice
from pygan.lowering.steps import CONVOLUTIONS, Steps
from pygan.operators import Array, BatchNorm, Call


def made_again(steps: Steps, advice: Advice) -> dict[Array, Call]:
    """Of results that one convolution alone reads: the call that makes each again, its last array
    in memory of its own. After `normalise_late`."""
    readers = steps.readers()
    found: dict[Array, Call] = {}
    for step in steps.in_order:
        made, operator = step.output_keys[0], step.operator
        reader = readers.get(made)
        if not isinstance(operator, BatchNorm) or operator.use_global_stats:
            continue
        if step.arrays.normalisation is not None or steps.consumers[made] != 1 or reader is None:
            continue
        (result,) = step.arrays.outputs
        if result is None or not isinstance(reader.operator, CONVOLUTIONS):
            continue
        if reader.input_keys[0] == made and advice.makes_again(result):
            label = f"{result.label}, made again"
            again = Array(label, result.shape, result.dtype, half=result.half)
            found[result] = operator.make_again(step.arrays, again)
    return found


def with_results_again(group: list[Call], again: Mapping[Array, Call]) -> list[Call]:
    """The calls of a group of backward, each that reads such a result behind the call that makes it
    again, and beside the others where it is."""
    calls: list[Call] = []
    for call in group:
        for array in {array for array in call.arrays if array is not None and array in again}:
            making = again[array]
            calls.append(replace(making, apart=call.apart, alone=call.alone))
            call.arrays = tuple(
                making.arrays[-1] if each is array else each for each in call.arrays
            )
        calls.append(call)
    return calls
