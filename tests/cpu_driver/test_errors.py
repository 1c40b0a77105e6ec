"""Bad input gives an error that says what is wrong, and the driver goes on working."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygan.bindings import cpu_driver
from pygan.bindings.errors import CompileError

SOURCE = """
__global__ void scale(float *x, int n, float factor) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= factor;
}
__global__ void __launch_bounds__(64) bounded(float *x) { x[threadIdx.x] = 1; }
__global__ void both(float *x) {
    __shared__ float own[1024];
    extern __shared__ float rest[];
    own[threadIdx.x] = rest[threadIdx.x] = 1;
    __syncthreads();
    x[threadIdx.x] = own[blockDim.x - 1 - threadIdx.x] + rest[threadIdx.x];
}
__global__ void split(float *x) {
    if (threadIdx.x < 3) __syncthreads();
    x[threadIdx.x] = 1;
}
__global__ void deadlock(float *x) {
    if (threadIdx.x == 0) __syncwarp(3u); else __syncthreads();
    x[threadIdx.x] = 1;
}
__global__ void foreign_mask(float *x) { x[threadIdx.x] = __shfl_sync(1u, 1.0f, 0); }
__global__ void wild(float *x) { x[1ll << 44] = 1; }
__global__ void at(float *x, long long place) { x[place] = 1; }
__global__ void divide(int *x, int by) { x[0] = x[0] / by; __syncthreads(); }
__device__ int depth(int n, volatile char *p) {
    volatile char local[1024];
    local[n % 1024] = p ? p[0] : 1;
    return n == 0 ? local[0] : depth(n - 1, local) + local[n % 1024];
}
__global__ void recurse(int *x) { __syncthreads(); x[0] = depth(100000, 0); }
__global__ void trap(int *x) { if (threadIdx.x == 5) __trap(); x[0] = 1; __syncthreads(); }
__global__ void checked(int *x) { assert(x[threadIdx.x] >= 0); __syncthreads(); }
"""


@pytest.fixture
def kernels(drv: Any) -> Any:
    from pycuda.compiler import SourceModule

    module = SourceModule(SOURCE)
    yield module.get_function
    # Whatever the test did: the next launch works.
    x = np.ones(100, np.float32)
    module.get_function("scale")(
        drv.InOut(x), np.int32(100), np.float32(3), grid=(2, 1), block=(64, 1, 1)
    )
    assert (x == 3).all()


def refused(drv: Any, call: Any, *parts: str) -> None:
    with pytest.raises(drv.Error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_unknown_kernel_names_those_there_are(drv: Any, kernels: Any) -> None:
    refused(drv, lambda: kernels("scael"), "scael", "scale", "bounded")


def test_wrong_arguments(drv: Any, kernels: Any) -> None:
    x = drv.mem_alloc(400)
    one = {"block": (1, 1, 1)}
    refused(drv, lambda: kernels("scale")(x, **one), "3 arguments", "8 bytes were passed")
    refused(drv, lambda: kernels("scale")(**one), "scale", "0 bytes")
    refused(
        drv, lambda: kernels("scale")(x, np.int64(1), np.int64(1), np.int64(2), **one), "32 bytes"
    )


@pytest.mark.parametrize(
    ("block", "grid"), [((1025, 1, 1), (1, 1)), ((32, 64, 1), (1, 1)), ((1, 1, 65), (1, 1)),
                        ((1, 1, 1), (1, 65536)), ((1, 1, 1), (0, 1))],
)  # fmt: skip
def test_too_large_blocks_and_grids(drv: Any, kernels: Any, block: Any, grid: Any) -> None:
    x = drv.mem_alloc(400)
    refused(
        drv,
        lambda: kernels("scale")(x, np.int32(1), np.float32(1), block=block, grid=grid),
        "scale",
    )


def test_launch_bounds_hold(drv: Any, kernels: Any) -> None:
    x = drv.mem_alloc(4096)
    refused(drv, lambda: kernels("bounded")(x, block=(65, 1, 1)), "65 threads", "allows 64")


def test_too_much_shared_memory(drv: Any, kernels: Any) -> None:
    x = drv.mem_alloc(4096)
    call = kernels("bounded")
    refused(drv, lambda: call(x, block=(1, 1, 1), shared=48 * 1024 + 1), "49153", "shared memory")
    attribute = drv.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
    refused(drv, lambda: call.set_attribute(attribute, 228 * 1024), "shared memory")
    call.set_attribute(attribute, 100 * 1024)
    call(x, block=(1, 1, 1), shared=100 * 1024)


def test_consent_to_dynamic_shared_memory_leaves_the_static_out(drv: Any, kernels: Any) -> None:
    """48 KiB together without it; with it, what was agreed to beside the 4 KiB of static memory."""
    x = drv.mem_alloc(4096)
    call = kernels("both")
    call(x, block=(1, 1, 1), shared=44 * 1024)
    refused(drv, lambda: call(x, block=(1, 1, 1), shared=44 * 1024 + 4), "4096", "45060")
    attribute = drv.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
    call.set_attribute(attribute, 46 * 1024)
    call(x, block=(1, 1, 1), shared=46 * 1024)
    refused(drv, lambda: call(x, block=(1, 1, 1), shared=46 * 1024 + 4), "47108")
    refused(drv, lambda: call.set_attribute(attribute, 224 * 1024), "shared memory")


def test_host_addresses_and_freed_memory_are_no_device_pointers(drv: Any, kernels: Any) -> None:
    host = np.ones(100, np.float32)
    rest = (np.int32(100), np.float32(2))
    call = kernels("scale")
    refused(
        drv, lambda: call(np.uintp(host.ctypes.data), *rest, block=(100, 1, 1)),
        "argument 0", "'x'", "no device allocation",
    )  # fmt: skip
    memory = drv.mem_alloc(400)
    address = int(memory)
    memory.free()
    refused(drv, lambda: call(np.uintp(address), *rest, block=(100, 1, 1)), "no device allocation")


def test_divergent_barrier_names_both_threads(drv: Any, kernels: Any) -> None:
    x = drv.mem_alloc(4096)
    refused(
        drv, lambda: kernels("split")(x, grid=(2, 1), block=(8, 1, 1)), "kernel split",
        "divergent barrier", "thread (0,0,0) waits in __syncthreads", "thread (3,0,0)",
    )  # fmt: skip


def test_deadlock_and_foreign_masks(drv: Any, kernels: Any) -> None:
    x = drv.mem_alloc(4096)
    refused(drv, lambda: kernels("deadlock")(x, block=(4, 1, 1)), "deadlock", "__syncwarp", "block")
    refused(
        drv,
        lambda: kernels("foreign_mask")(x, block=(2, 1, 1)),
        "mask 0x00000001",
        "thread (1,0,0)",
    )


def test_faults_inside_a_kernel_are_errors(drv: Any, kernels: Any) -> None:
    x = drv.mem_alloc(4096)
    one = {"block": (1, 1, 1)}
    refused(drv, lambda: kernels("wild")(x, **one), "kernel wild", "illegal address")
    refused(drv, lambda: kernels("recurse")(x, **one), "kernel recurse", "stack overflow")
    refused(drv, lambda: kernels("trap")(x, block=(8, 1, 1)), "thread (5,0,0)", "__trap")


def test_a_kernel_that_runs_past_an_array_is_stopped_there(drv: Any, kernels: Any) -> None:
    """By 4 bytes behind it, or a page before it; what lies beside stays as it is."""
    sizes = (256, 4096, 4352, 1 << 20)
    memory = [drv.mem_alloc(size) for size in sizes]
    for place, size in zip(memory, sizes, strict=True):
        drv.memset_d32(place, 0x3F800000, size // 4)
    for place, size in zip(memory, sizes, strict=True):
        past = np.int32(size // 4 + 1)
        launch = {"grid": (int(past) // 256 + 1, 1), "block": (256, 1, 1)}
        beyond = partial(kernels("scale"), place, past, np.float32(1), **launch)
        refused(drv, beyond, "illegal address")
        before = partial(kernels("at"), place, np.int64(-4096 // 4), block=(1, 1, 1))
        refused(drv, before, "illegal address")
    for place, size in zip(memory, sizes, strict=True):
        host = np.empty(size // 4, np.float32)
        drv.memcpy_dtoh(host, place)
        assert (host == 1).all()


def test_more_arrays_than_have_guards(drv: Any) -> None:
    memory = [drv.mem_alloc(256) for _ in range(9000)]
    for place in memory[::1000]:
        drv.memset_d32(place, 7, 64)
    host = np.empty(64, np.int32)
    drv.memcpy_dtoh(host, memory[8000])
    assert (host == 7).all()


def test_device_assertion(drv: Any, kernels: Any) -> None:
    x = np.array([1, 2, -3, 4], np.int32)
    refused(
        drv, lambda: kernels("checked")(drv.In(x), block=(4, 1, 1)), "assertion", ">= 0",
        "thread (2,0,0)", "kernel.cu:",
    )  # fmt: skip


def test_copies_must_stay_inside_their_allocation(drv: Any) -> None:
    memory = drv.mem_alloc(256)
    with pytest.raises(drv.LogicError, match="allocation ends"):
        drv.memcpy_htod(memory, np.zeros(257, np.uint8))
    with pytest.raises(drv.LogicError, match="no device allocation"):
        drv.memcpy_dtoh(np.zeros(4, np.uint8), 4096)
    with pytest.raises(drv.LogicError, match="allocation ends"):
        drv.memset_d32(int(memory) + 4, 0, 64)


def test_out_of_memory_says_how_much(drv: Any) -> None:
    _, total = drv.mem_get_info()
    with pytest.raises(drv.MemoryError, match=f"{2 * total} bytes asked for"):
        drv.mem_alloc(2 * total)


def test_images_of_other_makers_are_refused(drv: Any) -> None:
    for image in (b"\x7fELF" + bytes(200), b"// PTX\n.version 8.0\n" + bytes(64)):
        with pytest.raises(drv.LogicError, match="not an image of the CPU driver"):
            drv.module_from_buffer(image)


# --- compiling ------------------------------------------------------------------------------


def test_compile_error_names_file_and_line(tmp_path: Path) -> None:
    source = tmp_path / "broken.cu"
    source.write_text("__global__ void f(int *x) {\n    x[0] = 1;\n    y = 2;\n}\n")
    with pytest.raises(CompileError) as caught:
        cpu_driver.compile(source)
    assert f"{source}:3:" in str(caught.value) and "'y'" in str(caught.value).replace("‘", "'")


def test_compile_error_in_an_include_names_the_include(tmp_path: Path) -> None:
    (tmp_path / "part.cuh").write_text("\n__device__ int f() { return nothing; }\n")
    source = tmp_path / "whole.cu"
    source.write_text('#include "part.cuh"\n__global__ void g(int *x) { *x = f(); }\n')
    with pytest.raises(CompileError, match=r"part\.cuh:2:"):
        cpu_driver.compile(source)


def test_missing_file_and_launches_from_kernels(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="no such file"):
        cpu_driver.compile(tmp_path / "absent.cu")
    source = tmp_path / "nested.cu"
    source.write_text("__global__ void f() {}\n__global__ void g() {\n  f<<<1, 1>>>();\n}\n")
    with pytest.raises(CompileError, match=r"nested\.cu:3: error: kernels that launch kernels"):
        cpu_driver.compile(source)
