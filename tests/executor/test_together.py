"""Batch norms of many rows as one cooperative launch, in executors that ask for such launches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import symbol as sym

SHAPES = {"x": (2, 66, 65, 4)}
"""8580 rows of 4 channels: more than a block reads, fewer than 9 blocks take."""


def graph() -> sym.Symbol:
    y = sym.Convolution(sym.Variable("x"), kernel=1, num_filter=4, name="c1")
    return sym.LeakyReLU(sym.BatchNorm(y, fix_gamma=False, name="n1"), slope=0.2, name="a1")


def test_one_launch_fewer_and_the_same_bits(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer is in a program: the limit is below what any takes."""
    if (reason := device.cannot_record() or device.cannot_cooperate()) is not None:
        pytest.skip(reason)
    from pygan.bindings.operators import moments

    # with the moments that c1's tiles could leave, batch norm has one launch anyway
    monkeypatch.setattr(moments, "saved_microseconds", lambda *_, **__: -1.0)
    nodes, found = [], []
    for options in ({}, {"cooperative": True, "cooperative_limit": 1e-6}):
        executor = graph().bind(device, SHAPES, **options)
        fill_randomly(executor, 7)
        head = device.from_numpy(np.cos(np.arange(executor.outputs[0].size)).astype(np.float32))

        def step(executor: Any = executor, head: Any = head) -> None:
            executor.forward(is_train=True)
            executor.backward([head.reshape(executor.outputs[0].shape)])

        recording = device.record(step)  # before anything has run: nothing is allocated in it
        nodes.append(recording.nodes)
        for _ in range(2):  # the barrier's count goes on
            recording.launch()
        results = executor.output_dict | executor.grad_dict | executor.aux_dict
        found.append({name: np.array(array) for name, array in results.items()})
    assert nodes[1] == nodes[0] - 2
    for name, array in found[0].items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(found[1][name], array, err_msg=name)
