"""Recorded launches, replayed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pygan.bindings.array import DeviceArray
from pygan.bindings.errors import DeviceUnavailable
from pygan.bindings.graph import Graph

SOURCE = r"""
extern "C" __global__ void increment(float* x, int n, float by) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += by;
}
"""


@pytest.fixture
def increment(context, kernel_file):
    pytest.importorskip("cuda.bindings", reason="CUDA graphs need cuda-bindings")
    return context.kernel(kernel_file(SOURCE), "increment")


def test_a_recording_runs_when_it_is_launched(context, increment) -> None:
    x, y = DeviceArray.empty(context, 100), DeviceArray.empty(context, 100)
    x.fill(1)
    y.fill(np.nan)
    bound = increment.bind(1, 128, x, 100, 1.0)

    def work() -> None:
        increment(1, 128, x, 100, 2.0)
        bound.run()
        y[...] = x
        x[0:50] = 0

    graph = Graph(context, work)
    assert (np.asarray(x) == 1).all(), "recording must not run anything"
    for expected in ((4.0, 4.0), (3.0, 7.0), (3.0, 10.0)):
        graph.launch()
        host = np.asarray(y)
        assert (host[:50] == expected[0]).all()
        assert (host[50:] == expected[1]).all()
    x.fill(10)
    graph.launch()
    assert (np.asarray(y) == 13).all(), "a replay reads present contents"


def test_what_fails_while_recording_comes_through(context, increment) -> None:
    x = DeviceArray.from_numpy(context, np.zeros(10, np.float32))

    def broken() -> None:
        increment(1, 128, x, 10, 1.0)
        raise KeyError("user's own")

    with pytest.raises(KeyError, match="user's own"):
        Graph(context, broken)
    assert (np.asarray(x) == 0).all()
    increment(1, 128, x, 10, 1.0)  # the stream records no longer
    assert (np.asarray(x) == 1).all()


def test_without_cuda_bindings_the_extra_is_named(context, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DeviceUnavailable, match="extra `graphs`"):
        Graph(context, lambda: None)
