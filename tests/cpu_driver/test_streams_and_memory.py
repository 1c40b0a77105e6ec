"""Memory kinds, structured copies, streams, events, and graphs through cuda-bindings."""

from __future__ import annotations

import ctypes
import gc
import time
from typing import Any

import numpy as np
import pytest


def test_memory_kinds_and_pools(drv: Any) -> None:
    from pycuda.tools import DeviceMemoryPool, PageLockedMemoryPool

    free, total = drv.mem_get_info()
    memory = drv.mem_alloc(10**6)
    assert drv.mem_get_info() == (free - -(-(10**6) // 256) * 256, total)
    assert drv.mem_get_address_range(int(memory) + 1000) == (int(memory), 10**6)
    memory.free()
    assert drv.mem_get_info() == (free, total)

    host = drv.pagelocked_empty(100, np.float32)
    host[:] = np.arange(100)
    copy = drv.to_device(host)
    assert np.array_equal(drv.from_device(copy, 100, np.float32), np.arange(100))
    managed = drv.managed_zeros(100, np.int32, mem_flags=drv.mem_attach_flags.GLOBAL)
    drv.memset_d32(managed.base.get_device_pointer(), 7, 100)
    assert (managed == 7).all()

    pool = DeviceMemoryPool()
    first = pool.allocate(1000)
    address = int(first)
    del first
    assert int(pool.allocate(1000)) == address  # given back to the pool, not to the driver
    pool.stop_holding()
    locked = PageLockedMemoryPool().allocate((64,), np.float64)
    assert locked.shape == (64,)


def test_copies_and_fills_of_parts_of_2d_and_3d_memory(drv: Any) -> None:
    source = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    memory, pitch = drv.mem_alloc_pitch(7 * 4, 6 * 5, 4)
    assert pitch % 512 == 0
    copy = drv.Memcpy3D()
    copy.set_src_host(source)
    copy.set_dst_device(memory)
    copy.src_pitch, copy.src_height, copy.dst_pitch, copy.dst_height = 7 * 4, 6, pitch, 6
    copy.width_in_bytes, copy.height, copy.depth = 7 * 4, 6, 5
    copy()
    part = np.zeros((2, 3), np.float32)
    window = drv.Memcpy2D()
    window.set_src_device(memory)
    window.set_dst_host(part)
    window.src_pitch, window.dst_pitch = pitch, 3 * 4
    window.src_x_in_bytes, window.src_y = 2 * 4, 6 * 3 + 1  # plane 3, row 1, column 2
    window.width_in_bytes, window.height = 3 * 4, 2
    window(aligned=True)
    assert np.array_equal(part, source[3, 1:3, 2:5])

    drv.memset_d2d8(memory, pitch, 255, 8, 2)
    row = np.zeros(7, np.uint32)
    drv.memcpy_dtoh(row, memory)
    assert row[0] == row[1] == 0xFFFFFFFF and row[2] == source[0, 0, 2].view(np.uint32)
    window.height = 6 * 5
    with pytest.raises(drv.LogicError, match="allocation ends"):
        window(aligned=True)


def test_events_measure_true_time(drv: Any) -> None:
    stream = drv.Stream()
    start, end = drv.Event(), drv.Event()
    begun = time.perf_counter()
    start.record(stream)
    time.sleep(0.05)
    end.record(stream)
    taken = 1000 * (time.perf_counter() - begun)
    end.synchronize()
    assert end.query() and stream.is_done()
    assert 50 <= start.time_till(end) <= taken
    with pytest.raises(drv.LogicError, match="must have been recorded"):
        start.time_till(drv.Event())


def test_gpuarray_reductions_scans_and_elementwise_kernels(drv: Any) -> None:
    import pycuda.gpuarray as gpuarray
    from pycuda.elementwise import ElementwiseKernel
    from pycuda.reduction import ReductionKernel
    from pycuda.scan import InclusiveScanKernel

    rng = np.random.default_rng(3)
    x, y = rng.integers(-9, 9, 5000).astype(np.float32), rng.integers(1, 9, 5000)
    a, b = gpuarray.to_gpu(x), gpuarray.to_gpu(y.astype(np.float32))
    assert np.array_equal((2 * a + b / b).get(), 2 * x + 1)
    assert gpuarray.sum(a).get() == x.sum() and gpuarray.max(a).get() == x.max()
    assert gpuarray.dot(a, b).get() == (x * y).sum()
    saxpy = ElementwiseKernel("float s, float *x, float *y", "y[i] += s * x[i]", "saxpy")
    saxpy(3, a, b)
    assert np.array_equal(b.get(), y + 3 * x)
    norm = ReductionKernel(
        np.float32, "0", "a+b", map_expr="x[i]*x[i]", arguments="float *x", name="norm"
    )
    assert norm(a).get() == (x * x).sum()
    counts = gpuarray.to_gpu(np.arange(5000, dtype=np.int32))
    InclusiveScanKernel(np.int32, "a+b")(counts)
    assert np.array_equal(counts.get(), np.arange(5000).cumsum())


def test_random_numbers_without_curand(drv: Any) -> None:
    from pycuda.curandom import rand

    numbers = rand((100, 100), dtype=np.float32).get()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert len(np.unique(numbers)) > 9900
    assert abs(numbers.mean() - 0.5) < 5 * np.sqrt(1 / 12) / 100  # five standard errors


# --- graphs ---------------------------------------------------------------------------------

ADD = """
__global__ void add(float *x, const float *y, float scale) {
    x[threadIdx.x] += scale * y[threadIdx.x];
}
"""


def succeed(result: tuple[Any, ...]) -> Any:
    code, *values = result
    assert int(code) == 0, code
    return values[0] if len(values) == 1 else tuple(values)


@pytest.fixture
def cuda(drv: Any) -> Any:
    return pytest.importorskip("cuda.bindings.driver")


def test_captured_work_runs_only_when_launched_and_as_often(drv: Any, cuda: Any) -> None:
    from pycuda.compiler import SourceModule

    add = SourceModule(ADD).get_function("add")
    add.prepare("PPf")
    x, y = drv.mem_alloc(64), drv.mem_alloc(64)
    drv.memset_d32(x, 0, 16)
    drv.memcpy_htod(y, np.arange(16, dtype=np.float32))
    out = np.full(16, -1, np.float32)

    stream = drv.Stream()
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    succeed(cuda.cuStreamBeginCapture(stream.handle, mode))
    drv.memset_d32_async(x, 0, 16, stream)
    for scale in (1.0, 2.0):
        add.prepared_async_call((1, 1), (16, 1, 1), stream, x, y, scale)
    add.prepared_async_call((1, 1), (16, 1, 1), stream, x, x, 1.0)
    drv.memcpy_dtoh_async(out, x, stream)
    graph = succeed(cuda.cuStreamEndCapture(stream.handle))
    assert (out == -1).all()
    assert succeed(cuda.cuGraphGetNodes(graph))[1] == 5

    program = succeed(cuda.cuGraphInstantiate(graph, 0))
    succeed(cuda.cuGraphDestroy(graph))
    for factor in (1, 10):
        drv.memcpy_htod(y, factor * np.arange(16, dtype=np.float32))
        succeed(cuda.cuGraphLaunch(program, stream.handle))
        stream.synchronize()
        assert np.array_equal(out, 6 * factor * np.arange(16))
    succeed(cuda.cuGraphExecDestroy(program))


def test_a_second_stream_joins_a_capture_through_events(drv: Any, cuda: Any) -> None:
    from pycuda.compiler import SourceModule

    add = SourceModule(ADD).get_function("add")
    add.prepare("PPf")
    x, y = drv.mem_alloc(64), drv.mem_alloc(64)
    drv.memcpy_htod(x, np.zeros(16, np.float32))
    drv.memcpy_htod(y, np.ones(16, np.float32))
    main, side, fork, join = drv.Stream(), drv.Stream(), drv.Event(), drv.Event()
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    def capture(joined: bool) -> tuple[Any, ...]:
        succeed(cuda.cuStreamBeginCapture(main.handle, mode))
        fork.record(main)
        side.wait_for_event(fork)
        add.prepared_async_call((1, 1), (16, 1, 1), side, x, y, 5.0)
        join.record(side)
        if joined:
            main.wait_for_event(join)
        return cuda.cuStreamEndCapture(main.handle)

    assert int(capture(joined=False)[0]) == 904  # work that nothing waits for
    program = succeed(cuda.cuGraphInstantiate(succeed(capture(joined=True)), 0))
    succeed(cuda.cuGraphLaunch(program, main.handle))
    assert (drv.from_device(x, 16, np.float32) == 5).all()


def test_an_event_joins_what_came_before_it_only(drv: Any, cuda: Any) -> None:
    x = drv.mem_alloc(64)
    main, side, third = drv.Stream(), drv.Stream(), drv.Stream()
    fork, join, handed = drv.Event(), drv.Event(), drv.Event()
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    def capture(*, late: bool = False, work: bool = True, through: bool = False) -> int:
        succeed(cuda.cuStreamBeginCapture(main.handle, mode))
        drv.memset_d32_async(x, 1, 4, main)
        fork.record(main)
        side.wait_for_event(fork)
        if work:
            drv.memset_d32_async(x, 2, 4, side)
        if through:
            third.wait_for_event(fork)
            drv.memset_d32_async(x, 3, 4, third)
            handed.record(third)
            side.wait_for_event(handed)
        join.record(side)
        main.wait_for_event(join)
        if late:
            drv.memset_d32_async(x, 4, 4, side)
        drv.memset_d32_async(x, 5, 4, main)
        code, graph = cuda.cuStreamEndCapture(main.handle)
        if int(code) == 0:
            succeed(cuda.cuGraphDestroy(graph))
        return int(code)

    assert capture() == 0
    assert capture(late=True) == 904  # work behind the event that main waits for
    assert capture(work=False) == 0
    assert capture(through=True) == 0  # main waits for third through side
    assert capture(through=True, late=True) == 904
    drv.memset_d32_async(x, 6, 4, side)  # a failed capture lets its streams go
    assert (drv.from_device(x, 4, np.uint32) == 6).all()


@pytest.mark.parametrize("joined", [True, False])
def test_branches_run_in_either_order_that_their_events_allow(
    drv: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch, joined: bool
) -> None:
    """y += 5 x on a branch; then x = 7 on the main stream, which must wait for the branch."""
    from pycuda.compiler import SourceModule

    add = SourceModule(ADD).get_function("add")
    add.prepare("PPf")
    x, y = drv.mem_alloc(64), drv.mem_alloc(64)
    main, side, fork, join = drv.Stream(), drv.Stream(), drv.Event(), drv.Event()
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    found = {}
    for order in ("submitted", "last"):
        monkeypatch.setenv("PYGAN_CPU_GRAPH_ORDER", order)
        drv.memcpy_htod(x, np.ones(16, np.float32))
        drv.memcpy_htod(y, np.zeros(16, np.float32))
        succeed(cuda.cuStreamBeginCapture(main.handle, mode))
        fork.record(main)
        side.wait_for_event(fork)
        add.prepared_async_call((1, 1), (16, 1, 1), side, y, x, 5.0)
        join.record(side)
        if joined:
            main.wait_for_event(join)
        drv.memset_d32_async(x, int(np.float32(7).view(np.uint32)), 16, main)
        main.wait_for_event(join)
        program = succeed(cuda.cuGraphInstantiate(succeed(cuda.cuStreamEndCapture(main.handle)), 0))
        succeed(cuda.cuGraphLaunch(program, main.handle))
        found[order] = float(drv.from_device(y, 16, np.float32)[0])
    assert found == {"submitted": 5, "last": 5 if joined else 35}


def test_an_event_of_a_capture_that_ended_draws_no_stream_in(drv: Any, cuda: Any) -> None:
    main, side, event = drv.Stream(), drv.Stream(), drv.Event()
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    succeed(cuda.cuStreamBeginCapture(main.handle, mode))
    event.record(main)
    succeed(cuda.cuGraphDestroy(succeed(cuda.cuStreamEndCapture(main.handle))))
    with pytest.raises(drv.Error, match="that capture has ended"):
        side.wait_for_event(event)
    x = drv.mem_alloc(64)
    drv.memset_d32_async(x, 7, 16, side)
    assert (drv.from_device(x, 16, np.uint32) == 7).all()
    event.record(main)
    side.wait_for_event(event)


def test_what_a_gpu_forbids_during_capture_is_refused(drv: Any, cuda: Any) -> None:
    stream = drv.Stream()
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    memory = drv.mem_alloc(64)
    forbidden = [
        stream.synchronize,
        drv.Context.synchronize,
        lambda: drv.mem_alloc(64),
        lambda: drv.memcpy_htod(memory, np.zeros(16, np.float32)),
    ]
    for call in forbidden:
        succeed(cuda.cuStreamBeginCapture(stream.handle, mode))
        with pytest.raises(drv.LogicError, match="captur"):
            call()
        assert int(cuda.cuStreamEndCapture(stream.handle)[0]) == 901  # and the capture is void
    stream.synchronize()


def test_graphs_that_outlive_their_memory_or_module_are_errors(drv: Any, cuda: Any) -> None:
    from pycuda.compiler import SourceModule

    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    for lost in ("memory", "module"):
        module = SourceModule(ADD)
        add = module.get_function("add")
        add.prepare("PPf")
        x, stream = drv.mem_alloc(64), drv.Stream()
        succeed(cuda.cuStreamBeginCapture(stream.handle, mode))
        add.prepared_async_call((1, 1), (16, 1, 1), stream, x, x, 1.0)
        program = succeed(
            cuda.cuGraphInstantiate(succeed(cuda.cuStreamEndCapture(stream.handle)), 0)
        )
        succeed(cuda.cuGraphLaunch(program, stream.handle))
        if lost == "memory":
            x.free()
        else:
            del add, module
            gc.collect()
        expected = {"memory": 700, "module": 400}[lost]
        assert int(cuda.cuGraphLaunch(program, stream.handle)[0]) == expected


def test_arguments_by_address_as_cuda_bindings_passes_them(drv: Any, cuda: Any) -> None:
    source = "__global__ void put(double *x, char c, double d, short s) { *x = c + d + s; }"
    from pycuda.compiler import compile as pycuda_compile

    module = succeed(cuda.cuModuleLoadData(pycuda_compile(source)))
    kernel = succeed(cuda.cuModuleGetFunction(module, b"put"))
    x = drv.mem_alloc(8)
    arguments = ((int(x), 1, 2.5, 3), (ctypes.c_void_p, ctypes.c_int8, ctypes.c_double,
                 ctypes.c_int16))  # fmt: skip
    succeed(cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, arguments, 0))
    assert drv.from_device(x, 1, np.float64)[0] == 6.5
    assert int(cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)[0]) == 1
    succeed(cuda.cuModuleUnload(module))
    assert int(cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, arguments, 0)[0]) == 400


def test_nvidias_runtime_library_finds_no_device(drv: Any, cuda: Any) -> None:
    """It works on NVIDIA's driver only. Programs that use it, PyTorch for one, take this answer for
    a machine without a GPU, and any other for a fault."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    assert runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaErrorNoDevice
