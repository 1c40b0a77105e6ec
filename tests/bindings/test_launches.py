"""Kernels as Python callables: what they compute, and what a wrong call says."""

from __future__ import annotations

import numpy as np
import pytest

from pygan.bindings.array import DeviceArray
from pygan.bindings.context import Context
from pygan.bindings.errors import ArgumentError, CompileError, LaunchError, SignatureError

SOURCE = r"""
#ifndef STEP
#define STEP 1
#endif
extern "C" __global__ void affine(const float* __restrict__ x, float* y, int n, float scale,
                                  double shift) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x == nullptr ? -1.0f : x[i] * scale + (float)shift + (STEP - 1);
}
extern "C" __global__ void places(int* out, int nx, int ny) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int z = blockIdx.z * blockDim.z + threadIdx.z;
    out[(z * ny + y) * nx + x] = x + 10 * y + 100 * z;
}
extern "C" __global__ void reversed(const float* x, float* y, int n) {
    extern __shared__ float part[];
    const int i = blockIdx.x * n + threadIdx.x;
    part[threadIdx.x] = x[i];
    __syncthreads();
    y[i] = part[n - 1 - threadIdx.x];
}
extern "C" __global__ void words(unsigned char* a, unsigned* b, unsigned long long* c,
                                 unsigned long long value, unsigned k) {
    if (threadIdx.x == 0) { a[0] = 200; b[0] = k; c[0] = value; }
}
extern "C" __global__ void __launch_bounds__(64) bounded(float* y) { y[threadIdx.x] = 1.0f; }
extern "C" __global__ void nothing() {}
"""


@pytest.fixture
def kernel(context, kernel_file):
    path = kernel_file(SOURCE)
    return lambda name, **defines: context.kernel(path, name, **defines)


@pytest.fixture
def x(context):
    return DeviceArray.from_numpy(context, np.arange(100, dtype=np.float32))


@pytest.fixture
def y(context):
    array = DeviceArray.empty(context, 100)
    array.fill(np.nan)
    return array


def test_a_launch_computes(kernel, x, y) -> None:
    kernel("affine")(4, 32, x, y, 100, 2.0, 0.5)
    np.testing.assert_array_equal(np.asarray(y), np.arange(100, dtype=np.float32) * 2 + 0.5)


def test_null_pointers_numpy_numbers_and_defines(kernel, x, y) -> None:
    kernel("affine")((4, 1), np.int64(32), None, y, np.int32(100), np.float32(2), 1)
    assert (np.asarray(y) == -1).all()
    kernel("affine", STEP=3)([4], (32, 1, 1), x, y, 100, 1, 0)
    np.testing.assert_array_equal(np.asarray(y), np.arange(100) + 2)
    kernel("affine")(4, 32, x, y, 100, 1, 0)
    np.testing.assert_array_equal(np.asarray(y), np.arange(100))


def test_three_dimensions(context, kernel) -> None:
    out = DeviceArray.empty(context, (4, 6, 8), np.int32)
    out.fill(-1)
    kernel("places")((2, 3, 1), (4, 2, 4), out, 8, 6)
    z, y, x = np.indices((4, 6, 8))
    np.testing.assert_array_equal(np.asarray(out), x + 10 * y + 100 * z)


def test_dynamic_shared_memory(context, kernel, x) -> None:
    out = DeviceArray.empty(context, 100)
    kernel("reversed")(4, 25, x, out, 25, shared_bytes=100)
    expected = np.arange(100, dtype=np.float32).reshape(4, 25)[:, ::-1].ravel()
    np.testing.assert_array_equal(np.asarray(out), expected)


def test_every_width_of_argument(context, kernel) -> None:
    a, b, c = (DeviceArray.empty(context, 1, t) for t in (np.uint8, np.uint32, np.uint64))
    kernel("words")(1, 32, a, b, c, 2**64 - 3, 2**32 - 5)
    assert (a.item(), b.item(), c.item()) == (200, 2**32 - 5, 2**64 - 3)
    kernel("nothing")(1, 1)


def test_a_bound_launch_reads_present_contents(kernel, x, y) -> None:
    launch = kernel("affine").bind(4, 32, x, y, 100, 2.0, 0.0)
    launch.run()
    x.fill(21)
    launch.run()
    assert (np.asarray(y) == 42).all()


def test_a_bound_launch_keeps_its_arrays(context, kernel, y) -> None:
    launch = kernel("affine").bind(
        4, 32, DeviceArray.from_numpy(context, np.full(100, 3, np.float32)), y, 100, 2.0, 0.0
    )
    others = [DeviceArray.from_numpy(context, np.zeros(100, np.float32)) for _ in range(8)]
    launch.run()
    assert (np.asarray(y) == 6).all()
    assert others


def test_compiled_once(context, kernel_file, kernel) -> None:
    assert kernel("affine") is kernel("affine")
    assert kernel("affine", STEP=2) is not kernel("affine")
    assert kernel("affine", STEP=2) is kernel("affine", STEP=2)


def doubles(context) -> DeviceArray:
    return DeviceArray.empty(context, 100, np.float64)


@pytest.mark.parametrize(
    ("replace", "said"),
    [
        ({0: np.zeros(100, np.float32)}, r"argument 1: const float\* x .*numpy array of float32"),
        ({0: 123456}, r"const float\* x takes a device array of float32 or None; 123456 \(int\)"),
        ({1: doubles}, r"float\* y .*a device array of float64, shape \(100,\), was given"),
        ({2: 100.0}, r"argument 3: int n takes an integer from -2147483648 to 2147483647; 100\.0"),
        ({2: 2**31}, r"int n .*2147483648 \(int\) was given"),
        ({2: None}, r"int n .*None"),
        ({3: "2"}, r"float scale takes a number that fits float; '2' \(str\)"),
        ({3: 1e39}, r"float scale .*1e\+39"),
        ({4: [1.0]}, r"double shift .*\[1\.0\]"),
        ({4: doubles}, r"double shift takes a number .*; a device array of float64"),
    ],
)
def test_a_wrong_argument_is_named(context, kernel, x, y, replace, said) -> None:
    arguments = [x, y, 100, 1.0, 0.0]
    for index, value in replace.items():
        arguments[index] = value(context) if callable(value) else value
    for launch in (kernel("affine"), kernel("affine").bind):
        with pytest.raises(ArgumentError, match=said):
            launch(4, 32, *arguments)


def test_a_wrong_number_of_arguments_shows_the_declaration(kernel, x, y) -> None:
    said = r"affine\(const float\* x, float\* y, int n, float scale, double shift\) takes 5 arg"
    for arguments in ((x, y), (x, y, 1, 1.0, 1.0, 1)):
        with pytest.raises(ArgumentError, match=said):
            kernel("affine")(1, 1, *arguments)


@pytest.mark.parametrize(
    ("grid", "block", "said"),
    [
        (1, 1025, r"block \(1025, 1, 1\) is not possible: x must be 1 to 1024"),
        (1, (64, 32), r"block of \(64, 32, 1\) is 2048 threads; .*at most 1024"),
        (0, 1, r"grid \(0, 1, 1\) is not possible: x must be 1 to"),
        ((1, 1 << 20), 1, r"grid .*y must be 1 to 65535"),
        (1, (1, 1, 1, 1), "not one to three integers"),
        (1, (), "not one to three integers"),
        (1, "many", "not one to three integers"),
        (1.5, 1, "not one to three integers"),
        (1, -1, "x must be 1 to"),
    ],
)
def test_impossible_sizes_are_refused(kernel, grid, block, said) -> None:
    for _ in range(2):  # a refused size must not be remembered as a good one
        with pytest.raises(LaunchError, match=said):
            kernel("nothing")(grid, block)


def test_launch_bounds_are_respected(context, kernel) -> None:
    out = DeviceArray.empty(context, 128)
    kernel("bounded")(1, 64, out)
    with pytest.raises(LaunchError, match=r"bounded: .*128 threads.*at most 64"):
        kernel("bounded")(1, 128, out)


def test_too_much_shared_memory_is_refused(kernel, context, x, y) -> None:
    with pytest.raises(LaunchError, match=r"reversed: 1048576 bytes of dynamic and 0 of static"):
        kernel("reversed")(1, 25, x, y, 25, shared_bytes=1 << 20)
    with pytest.raises(LaunchError, match="-4 bytes"):
        kernel("reversed")(1, 25, x, y, 25, shared_bytes=-4)
    with pytest.raises(LaunchError, match="'4' bytes"):
        kernel("reversed")(1, 25, x, y, 25, shared_bytes="4")
    most = context.limits.shared_bytes_opt_in
    kernel("reversed")(4, 25, x, y, 25, shared_bytes=most)
    assert np.asarray(y)[0] == 24


def test_a_launch_with_less_shared_memory_leaves_room_for_the_larger_ones(
    kernel, context, x, y
) -> None:
    most = context.limits.shared_bytes_opt_in
    for shared_bytes in (most, most - 1024, most):  # all beyond what needs no consent
        y.fill(np.nan)
        kernel("reversed")(4, 25, x, y, 25, shared_bytes=shared_bytes)
        assert np.asarray(y)[0] == 24, shared_bytes


def test_an_unknown_entry_point_lists_the_known(context, kernel_file) -> None:
    with pytest.raises(SignatureError, match=r"no kernel 'afine'; .*affine, bounded, nothing"):
        context.kernel(kernel_file(SOURCE), "afine")


def test_a_compile_error_carries_text_file_and_line(context, kernel_file) -> None:
    path = kernel_file(
        'extern "C" __global__ void bad(float* y) {\n    y[0] = undeclared_name;\n}\n'
    )
    for _ in range(2):  # a failure is not cached as a success
        with pytest.raises(CompileError, match="undeclared_name") as caught:
            context.kernel(path, "bad")
        assert f"{path.name}:2" in str(caught.value) or f"{path.name}(2)" in str(caught.value)


def test_a_switched_off_kernel_is_explained(context, kernel_file) -> None:
    path = kernel_file(
        '#ifdef EXTRA\nextern "C" __global__ void extra(float* y) { y[0] = 1; }\n#endif\n'
        'extern "C" __global__ void base(float* y) { y[0] = 2; }\n'
    )
    with pytest.raises(SignatureError, match="switch off"):
        context.kernel(path, "extra")
    out = DeviceArray.empty(context, 1)
    context.kernel(path, "extra", EXTRA=1)(1, 1, out)
    assert out.item() == 1


def test_check_mode_names_kernel_line_thread_and_argument(context, kernel_file) -> None:
    if context.name != "cpu":
        pytest.skip("check mode needs the CPU driver")
    path = kernel_file(
        'extern "C" __global__ void shifted(const float* x, float* result, int by) {\n'
        "    result[threadIdx.x + by] = x[threadIdx.x];\n"
        "}\n"
    )
    checked = Context.get("cpu", check=True)
    x, result = (DeviceArray.empty(checked, 64) for _ in range(2))
    x.fill(1)
    kernel = checked.kernel(path, "shifted")
    kernel(1, 64, x, result, 0)
    with pytest.raises(LaunchError) as caught:
        kernel(1, 64, x, result, 1)
    for part in ("shifted", f"{path.name}:2", "thread (63, 0, 0)", "'result'"):
        assert part in str(caught.value)
    kernel(1, 64, x, result, 0)  # and the context can still be used
    assert (np.asarray(result) == 1).all()
