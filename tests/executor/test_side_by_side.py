"""Devices side by side: every call of a training step, given the same arrays on both.

Whole steps in low precision do not stay together. A float32 sum that lies at a tie is stored, or
rounded as an operand, as one bf16 number here and as its neighbour there, 2^-8 apart; some of these
differences put an input of leaky ReLU on the other side of 0, and its gradient is then five times
the other one, or a fifth. In DCGAN-64's discriminator at batch 2, devices cpu and numpy differ
first in 0.04 % of d2's outputs, by a unit in the last place; behind it 5 of the 16,384 inputs of
the last leaky ReLU, all nearer to 0 than 1e-3 deviations, have another sign; and d4's weight
gradient is apart by 0.2 of its largest number in the 5 channels that these lie in, by 0.004 in the
other 507. Each device's gradient is that of its own activations, in float64, to the rounding of
what it stores. (With float32 storage: 1 channel, 0.06, 0.003.) So a comparison of whole steps
bounds means, and what a kernel computes wrongly is looked for here, call by call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pygan import networks
from pygan import symbol as sym
from pygan.executor import Executor
from pygan.executor.launches import Launches
from pygan.operators import Call
from pygan.reference.precision import to_bf16

SUMS = 2.0**-18
"""Of the largest number of an array: float32 sums of some thousand products in other orders."""

UNIT = 2.0**-7
"""Of a number: its neighbour in bf16, where it is rounded the other way."""

FLIPS = 0.02
"""Numbers of an array that may be rounded the other way."""

KINK = 1e-5
"""Deviations from 0, within which the inputs of leaky ReLU may have either sign."""


def side_by_side(
    device: Any, host: Any, graph: sym.Symbol, shapes: dict[str, Any], **options: Any
) -> tuple[Executor, Executor]:
    """Executors of a device and of device numpy, which both leave the slices, and normalise on the
    way in, where the first would; no moments, whose parts a twin has otherwise. Filled alike as
    networks start."""
    left: dict[str, int] = {}
    asked, late = Launches.left_slices, Launches.normalises

    def slices(launches: Launches, call: Call) -> int:
        name = call.arrays[-1].label
        if launches.device is not host:
            left[name] = asked(launches, call)
        return left[name]

    def normalises(launches: Launches, shape: Any, calls: list[Call], n: int) -> bool:
        name = f"{calls[0].arrays[3].label}, normalised"
        if launches.device is not host:
            left[name] = late(launches, shape, calls, n)
        return bool(left[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Launches, "left_slices", slices)
        patch.setattr(Launches, "normalises", normalises)
        patch.setattr(Launches, "left_moments", lambda *_: 0)
        pair = graph.bind(device, shapes, **options), graph.bind(host, shapes, **options)
    rng = np.random.default_rng(5)
    arrays = pair[0].arg_dict | {f"head {i}": a for i, a in enumerate(pair[0].head_gradients)}
    others = pair[1].arg_dict | {f"head {i}": a for i, a in enumerate(pair[1].head_gradients)}
    for name, array in arrays.items():
        if array is not None:
            size = 0.02 if name.endswith("weight") else 1.0
            values = (size * rng.standard_normal(array.shape)).astype(np.float32)
            array[...] = others[name][...] = values
    for executor in pair:
        if executor._memory.copies is not None:
            executor.device.ops.to_bf16(executor.parameters, executor._memory.copies)
    return pair


def calls(executor: Executor) -> Iterator[tuple[int, Call]]:
    """Of a training step, in order, with their times."""
    graph = executor._graph
    passes = graph.forward(training=True) + graph.whole_backward()
    return ((time, call) for time, group in enumerate(passes) for call in group)


def write(target: Any, values: np.ndarray) -> None:
    if target.dtype == np.uint16:
        bits = np.empty(values.shape, np.uint16)
        to_bf16(values, bits)
        values = bits
    target[...] = values


def read(array: Any) -> np.ndarray:
    values = np.array(array)
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def without_kinks(call: Call, arrays: list[np.ndarray | None]) -> np.ndarray | slice:
    """The channels of a batch norm's backward in which no input of its activation is near 0."""
    if call.function != "batch_norm_backward" or call.attributes["activation"] is None:
        return slice(None)
    x, gamma, beta, mean, var = (np.asarray(array, np.float64) for array in arrays[:5])
    z = (x - mean) / np.sqrt(var + call.attributes["eps"])
    z = z * (1 if call.attributes["fix_gamma"] else gamma) + beta
    clear = (np.abs(z) > KINK).all(axis=tuple(range(z.ndim - 1)))
    assert clear.mean() > 0.9, "the comparison leaves out too much"
    return clear


def assert_alike(call: Call, label: str, half: bool, found: np.ndarray, wanted: np.ndarray) -> None:
    difference = np.abs(found - wanted)
    allowed = SUMS * np.abs(wanted).max(initial=0.0) + 1e-30
    what = f"{label} of {call.function}"
    if half:
        flipped = difference > allowed
        assert (difference <= UNIT * np.abs(wanted) + allowed).all(), what
        assert flipped.mean() <= FLIPS, f"{what}: {flipped.mean():.3f} of it rounded otherwise"
    else:
        assert difference.max(initial=0.0) <= allowed, what


@pytest.mark.parametrize("storage", ("float32", "bf16"))
@pytest.mark.parametrize("network", ("generator", "discriminator"))
def test_every_call_of_dcgan_given_the_same_arrays(
    device: Any, numpy_device: Any, network: str, storage: str
) -> None:
    if device.name == "numpy":
        pytest.skip("numpy beside itself")
    if network == "generator":
        graph, shapes = networks.dcgan_generator(16), {"rand": (2, 1, 1, 100)}
    else:
        graph, shapes = networks.dcgan_discriminator(16), {"data": (2, 64, 64, 3), "label": (2, 1)}
    executor, host = side_by_side(
        device, numpy_device, graph, shapes, precision="bf16", storage=storage
    )
    compared = 0
    for (time, call), (_, twin) in zip(calls(executor), calls(host), strict=True):
        assert (call.function, call.attributes) == (twin.function, twin.attributes)
        pairs = [
            (array, executor._memory.resolve(array), host._memory.resolve(other))
            for array, other in zip(call.arrays, twin.arrays, strict=True)
            if array is not None
        ]
        for _, on_device, on_host in pairs:
            write(on_device, on_host)
        channels = without_kinks(
            twin, [None if array is None else host._memory.resolve(array) for array in twin.arrays]
        )
        executor._passes.prepare(call, time).run()
        host._passes.prepare(twin, time).run()
        for array, on_device, on_host in pairs:
            found, wanted = read(on_device), np.asarray(on_host)
            if array.label.startswith("slices of"):  # a twin has one
                found, wanted = found.sum(axis=0), wanted.sum(axis=0)
            found, wanted = found[..., channels], wanted[..., channels]
            assert_alike(call, array.label, array.half, found, wanted)
            compared += 1
    assert compared > 40
