"""Recorded launches, replayed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import pygan.device
from pygan.bindings.array import DeviceArray
from pygan.bindings.errors import DeviceUnavailable, LaunchError
from pygan.bindings.graph import Branch, Graph
from pygan.data.image_set import ImageSet
from pygan.training.gan import GanSettings, LessonGan

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


def test_what_cannot_be_recorded_says_what_to_do(context, increment) -> None:
    x = DeviceArray.from_numpy(context, np.zeros(10, np.float32))
    branch = Branch(context)

    def beside() -> None:
        branch.enter()
        x.fill(1)
        branch.leave()

    for work, message in (
        (None, "takes a function that makes the launches, not None"),
        (lambda: Graph(context, lambda: None), "under way, and cannot hold another"),
        (lambda: np.asarray(x), "write inputs before, read results after"),
        (lambda: x.__setitem__(..., np.ones(10)), "write inputs before, read results after"),
        (context.synchronize, "write inputs before, read results after"),
        (beside, "a branch that was entered must be joined"),
    ):
        with pytest.raises(LaunchError, match=message):
            Graph(context, work)
        assert not context.recording
    increment(1, 128, x, 10, 1.0)
    assert (np.asarray(x) == 1).all()


def test_without_cuda_bindings_the_extra_is_named(context, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DeviceUnavailable, match="extra `graphs`"):
        Graph(context, lambda: None)


def test_a_whole_training_step_can_be_recorded(context) -> None:
    """A step allocates nothing and reads nothing back; replays give the bits that calls give."""
    pytest.importorskip("cuda.bindings", reason="CUDA graphs need cuda-bindings")
    device = pygan.device.get(context.name)
    images = ImageSet(
        np.random.default_rng(5).integers(0, 256, (50, 28, 28, 1)).astype(np.uint8),
        np.zeros(50, np.uint8),
        "random images",
    )
    called, replayed = (LessonGan(device, images, GanSettings(batch_size=2)) for _ in range(2))
    for gan in (called, replayed):
        gan.start_epoch(0)
        gan.step()
    graph = Graph(context, replayed.step)
    for _ in range(3):
        called.step()
        graph.launch()
    for part in ("generator", "discriminator"):
        for name in ("parameters", "auxiliary", "gradients"):
            expected = np.asarray(getattr(getattr(called, part), name))
            assert np.isfinite(expected).all()
            got = np.asarray(getattr(getattr(replayed, part), name))
            np.testing.assert_array_equal(got, expected, err_msg=f"{part} {name}")
