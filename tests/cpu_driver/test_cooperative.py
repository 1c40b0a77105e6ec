"""Cooperative launches: grid-wide barriers, their limits, what check mode says of their misuse."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pycuda")

from pygan.bindings import cpu_driver, graph
from pygan.bindings.array import DeviceArray
from pygan.bindings.context import Context
from pygan.bindings.errors import LaunchError

TOTALS = """
#include "grid_barrier.cuh"

// y (blocks, rounds): each round every block adds up what all blocks wrote in the round before.
extern "C" __global__ void totals(float* x, float* y, unsigned long long* arrivals, int rounds) {
    __shared__ float partial[32];
    GridBarrier grid(arrivals);
    const int n = gridDim.x;
    if (threadIdx.x == 0) x[blockIdx.x] = blockIdx.x + 1.0f;
    partial[threadIdx.x] = blockIdx.x;
    for (int round = 0; round < rounds; ++round) {
        grid.wait();
        float sum = 0.0f;
        for (int b = threadIdx.x; b < n; b += blockDim.x) sum += x[round % 2 * n + b];
        for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        // shared memory is the block's own, whoever else has run in between
        if (partial[threadIdx.x] != blockIdx.x) sum = -1.0f;
        if (threadIdx.x == 0) {
            y[blockIdx.x * rounds + round] = sum;
            x[(round + 1) % 2 * n + blockIdx.x] = sum + blockIdx.x;
        }
    }
}
"""


@pytest.fixture(params=[False, True], ids=["plain", "checked"])
def context(request: pytest.FixtureRequest, drv: Any) -> Context:
    return Context.get("cpu", check=request.param)


_folder = tempfile.TemporaryDirectory(prefix="pygan-")


def source_file(source: str, name: str) -> Path:
    """The same file every time: compiled once for all tests."""
    path = Path(_folder.name, f"{name}.cu")
    path.write_text(source)
    return path


def kernel(context: Context, source: str, name: str) -> Any:
    return context.cooperative_kernel(source_file(source, name), name)


def zeros(context: Context, shape: tuple[int, ...], dtype: str = "float32") -> DeviceArray:
    return DeviceArray.from_numpy(context, np.zeros(shape, dtype))


def expected(blocks: int, rounds: int) -> np.ndarray:
    x = np.arange(1, blocks + 1, dtype=np.float32)
    y = np.zeros((blocks, rounds), np.float32)
    for round in range(rounds):
        y[:, round] = x.sum()
        x = y[:, round] + np.arange(blocks, dtype=np.float32)
    return y


@pytest.mark.parametrize("blocks", [1, 3, 8])
def test_every_block_sees_what_all_wrote_before_the_barrier(context: Context, blocks: int) -> None:
    totals = kernel(context, TOTALS, "totals")
    x, y = zeros(context, (2 * blocks,)), zeros(context, (blocks, 4))
    arrivals = zeros(context, (1,), "uint64")
    for _ in range(2):
        totals(blocks, 32, x, y, arrivals, 4)
        assert np.array_equal(y.get(), expected(blocks, 4))


def test_a_recorded_launch_is_replayed(context: Context) -> None:
    if (reason := graph.why_not()) is not None:
        pytest.skip(reason)
    totals = kernel(context, TOTALS, "totals")
    x, y, arrivals = zeros(context, (8,)), zeros(context, (4, 3)), zeros(context, (1,), "uint64")
    recorded = graph.Graph(context, lambda: totals(4, 32, x, y, arrivals, 3))
    assert recorded.nodes == 1
    assert not y.get().any()
    for _ in range(2):
        y[...] = np.full((4, 3), np.nan, np.float32)
        recorded.launch()
        assert np.array_equal(y.get(), expected(4, 3))


def test_a_grid_that_does_not_fit_is_refused(context: Context) -> None:
    totals = kernel(context, TOTALS, "totals")
    most = totals.most_blocks(32)
    assert most >= 8
    assert totals.most_blocks(1024) <= most
    assert totals.most_blocks(32, shared_bytes=200 * 1024) <= most
    blocks = most + 1
    x, y = zeros(context, (2 * blocks,)), zeros(context, (blocks, 1))
    with pytest.raises(LaunchError, match=f"cooperative grid of {blocks} blocks"):
        totals(blocks, 32, x, y, zeros(context, (1,), "uint64"), 1)


def test_the_refusal_has_its_own_code(drv: Any) -> None:
    totals = kernel(Context.get("cpu"), TOTALS, "totals")
    library, zero = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    nothing = (ctypes.c_void_p * 4)(*[ctypes.addressof(zero)] * 4)
    sizes = map(ctypes.c_uint, (totals.most_blocks(32) + 1, 1, 1, 32, 1, 1, 0))
    code = library.cuLaunchCooperativeKernel(totals._handle, *sizes, None, nothing)
    assert code == 720  # CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE


def test_a_barrier_in_an_ordinary_launch_is_an_error(context: Context) -> None:
    kernel(context, TOTALS, "totals")
    ordinary = context.kernel(source_file(TOTALS, "totals"), "totals")
    x, y, arrivals = zeros(context, (4,)), zeros(context, (2, 1)), zeros(context, (1,), "uint64")
    with pytest.raises(LaunchError, match="not cooperative"):
        ordinary(2, 32, x, y, arrivals, 1)
    cpu_driver.take_reports()


DIVERGES = """#include "grid_barrier.cuh"
extern "C" __global__ void diverges(float* x, unsigned long long* arrivals, int how) {
    GridBarrier grid(arrivals);
    if (how == 0 && blockIdx.x != 1) grid.wait();
    if (how == 1 && blockIdx.x != 0) grid.wait();
    if (how == 2 && threadIdx.x != 5) grid.wait();
    if (how == 3 && threadIdx.x < 16) grid.wait();
    if (how == 3 && threadIdx.x >= 16) __syncthreads();
    if (how == 4) grid.wait();
    if (how == 4 && blockIdx.x == 2) grid.wait();
    if (how == 5) grid.wait();
    if (how == 5 && blockIdx.x == 2) __trap();
    if (how == 5) grid.wait();
    if (threadIdx.x == 0) x[blockIdx.x] = 1.0f;
}
"""
LACKING = {"of a block": 0, "of the first": 1, "of a thread": 2, "other kind": 3, "of others": 4}


@pytest.mark.parametrize("case", LACKING)
def test_a_divergent_barrier_ends_the_launch(context: Context, case: str) -> None:
    diverges = kernel(context, DIVERGES, "diverges")
    x, arrivals = zeros(context, (8,)), zeros(context, (1,), "uint64")
    cpu_driver.take_reports()
    for _ in range(1 if context.check else 300):  # blocks end in any order: all leave it to one
        with pytest.raises(LaunchError, match=r"divergent|deadlock"):
            diverges(8, 32, x, arrivals, LACKING[case])
    if context.check:
        assert "divergent_barrier" in {report.kind for report in cpu_driver.take_reports()}
    # the driver works on
    test_every_block_sees_what_all_wrote_before_the_barrier(context, 4)


def test_a_fault_in_one_block_ends_those_that_wait(context: Context) -> None:
    faults = kernel(context, DIVERGES, "diverges")
    x, arrivals = zeros(context, (4,)), zeros(context, (1,), "uint64")
    with pytest.raises(LaunchError, match="__trap"):
        faults(4, 32, x, arrivals, 5)
    assert not x.get().any()


RACES = """#include "grid_barrier.cuh"
extern "C" __global__ void neighbours(float* x, float* y, unsigned long long* arrivals,
                                      int first, int second) {
    __shared__ float own[32];
    GridBarrier grid(arrivals);
    x[blockIdx.x * 32 + threadIdx.x] = threadIdx.x;
    own[threadIdx.x] = 1.0f;
    if (first) grid.wait(); else __syncthreads();
    const int other = (blockIdx.x + 1) % gridDim.x;
    y[blockIdx.x * 32 + threadIdx.x] = x[other * 32 + threadIdx.x] + own[31 - threadIdx.x];
    if (second) grid.wait(); else __syncthreads();
    x[blockIdx.x * 32 + threadIdx.x] = 2.0f;
}
"""


@pytest.mark.parametrize(
    ("first", "second", "guilty"),
    [
        (1, 1, None),
        (0, 1, "y[blockIdx"),  # reads what was not waited for
        (1, 0, "= 2.0f"),  # writes what others still read
    ],
)
def test_check_mode_finds_a_lacking_grid_barrier(
    drv: Any, first: int, second: int, guilty: str | None
) -> None:
    context = Context.get("cpu", check=True)
    neighbours = kernel(context, RACES, "neighbours")
    x, y = zeros(context, (96,)), zeros(context, (96,))
    arrivals = zeros(context, (1,), "uint64")
    cpu_driver.take_reports()
    if guilty is None:
        neighbours(3, 32, x, y, arrivals, first, second)
        assert cpu_driver.take_reports() == []
        return
    with pytest.raises(LaunchError, match="race"):
        neighbours(3, 32, x, y, arrivals, first, second)
    reports = [report for report in cpu_driver.take_reports() if report.variable == "x"]
    lines = RACES.splitlines()
    assert {"race"} == {report.kind for report in reports}
    # either side of the race is its place
    assert any(guilty in lines[r.line - 1] or "2.0f" in lines[r.line - 1] for r in reports)
    assert any("grid-wide barrier" in report.text for report in reports)


def test_check_mode_finds_shared_memory_that_a_block_has_not_written(drv: Any) -> None:
    source = """#include "grid_barrier.cuh"
extern "C" __global__ void unwritten(float* y, unsigned long long* arrivals) {
    __shared__ float own[32];
    GridBarrier grid(arrivals);
    if (blockIdx.x == 0) own[threadIdx.x] = 1.0f;
    grid.wait();
    y[blockIdx.x * 32 + threadIdx.x] = own[threadIdx.x];
}
"""
    context = Context.get("cpu", check=True)
    unwritten = kernel(context, source, "unwritten")
    cpu_driver.take_reports()
    with pytest.raises(LaunchError, match="uninitialised"):
        unwritten(2, 32, zeros(context, (64,)), zeros(context, (1,), "uint64"))
    assert [report.block for report in cpu_driver.take_reports()] == [(1, 0, 0)]


def test_check_mode_finds_blocks_at_different_barriers(drv: Any) -> None:
    source = """#include "grid_barrier.cuh"
extern "C" __global__ void differ(unsigned long long* arrivals) {
    GridBarrier grid(arrivals);
    if (blockIdx.x == 0) {
        grid.wait();
    } else {
        grid.wait();
    }
}
"""
    context = Context.get("cpu", check=True)
    differ = kernel(context, source, "differ")
    cpu_driver.take_reports()
    with pytest.raises(LaunchError, match="every block must reach the same one"):
        differ(2, 32, zeros(context, (1,), "uint64"))
    assert [report.line for report in cpu_driver.take_reports()] == [7]


def test_random_thread_order_and_one_worker(tmp_path: Path) -> None:
    """Settings that a process reads once."""
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_cooperative as t\n"
        "from pygan.bindings.context import Context\n"
        "for check in (False, True):\n"
        "    context = Context.get('cpu', check=check)\n"
        "    t.test_every_block_sees_what_all_wrote_before_the_barrier(context, 5)\n"
    )
    settings = {"PYGAN_CPU_THREADS": "1", "PYGAN_CPU_THREAD_ORDER": "random:7"}
    done = subprocess.run(
        [sys.executable, script], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
