"""What a kernel can count on: threads, barriers, warps, atomics, memory kinds, arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def module(drv: Any, source: str, **options: Any) -> Any:
    from pycuda.compiler import SourceModule

    return SourceModule(source, **options)


def launch(drv: Any, source: str, name: str, *arguments: Any, **configuration: Any) -> None:
    module(drv, source).get_function(name)(*arguments, **configuration)


# --- barriers, shared memory ----------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 31, 32, 33, 256, 1000, 1024])
def test_block_reverses_through_static_and_dynamic_shared_memory(drv: Any, threads: int) -> None:
    source = """
    __global__ void reverse(int *x) {
        __shared__ int fixed[1024];
        extern __shared__ int open_ended[];
        fixed[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
        __syncthreads();
        open_ended[threadIdx.x] = fixed[blockDim.x - 1 - threadIdx.x];
        __syncthreads();
        x[blockIdx.x * blockDim.x + threadIdx.x] = open_ended[threadIdx.x];
    }
    """
    blocks = 7
    x = np.arange(blocks * threads, dtype=np.int32)
    expected = x.reshape(blocks, threads)[:, ::-1].ravel().copy()
    launch(
        drv, source, "reverse", drv.InOut(x), grid=(blocks, 1), block=(threads, 1, 1),
        shared=4 * threads,
    )  # fmt: skip
    assert np.array_equal(x, expected)


def test_all_extern_shared_arrays_are_one_block_of_memory(drv: Any) -> None:
    source = """
    extern __shared__ float as_float[];
    __device__ unsigned pattern(int i) { extern __shared__ unsigned as_bits[]; return as_bits[i]; }
    __global__ void look(unsigned *out) {
        as_float[threadIdx.x] = 1.0f + threadIdx.x;
        __syncthreads();
        out[threadIdx.x] = pattern(threadIdx.x);
    }
    """
    out = np.zeros(4, np.uint32)
    launch(drv, source, "look", drv.Out(out), block=(4, 1, 1), shared=16)
    assert np.array_equal(out, np.array([1, 2, 3, 4], np.float32).view(np.uint32))


def test_threads_are_numbered_in_three_dimensions(drv: Any) -> None:
    source = """
    __global__ void number(int *out) {
        int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        int size = blockDim.x * blockDim.y * blockDim.z;
        out[block * size + thread] = block * size + thread;
        %s
    }
    """
    for wait in ("", "__syncthreads();"):  # as a plain loop, and as fibers
        out = np.full(2 * 3 * 4 * 5 * 3 * 2, -1, np.int32)
        launch(drv, source % wait, "number", drv.Out(out), grid=(2, 3, 4), block=(5, 3, 2))
        assert np.array_equal(out, np.arange(out.size))


def test_counting_barriers(drv: Any) -> None:
    source = """
    __global__ void count(int *out) {
        int n = __syncthreads_count(threadIdx.x % 3 == 0);
        int all = __syncthreads_and(threadIdx.x < 1000), any = __syncthreads_or(threadIdx.x == 77);
        int none = __syncthreads_or(0);
        out[threadIdx.x] = n + 1000 * all + 2000 * any + 4000 * none;
    }
    """
    out = np.zeros(100, np.int32)
    launch(drv, source, "count", drv.Out(out), block=(100, 1, 1))
    assert (out == 34 + 1000 + 2000).all()


def test_deep_loops_of_barriers_keep_every_threads_state(drv: Any) -> None:
    source = """
    __global__ void rotate(float *x) {
        __shared__ float s[96];
        float mine = x[threadIdx.x];
        for (int i = 0; i < 1000; ++i) {
            s[threadIdx.x] = mine;
            __syncthreads();
            mine = s[(threadIdx.x + 1) % 96];
            __syncthreads();
        }
        x[threadIdx.x] = mine;
    }
    """
    x = np.random.default_rng(0).random(96, np.float32)
    expected = np.roll(x, -1000)
    launch(drv, source, "rotate", drv.InOut(x), block=(96, 1, 1))
    assert np.array_equal(x, expected)


# --- warps ----------------------------------------------------------------------------------


def test_shuffles_against_their_definition(drv: Any) -> None:
    source = """
    __global__ void shuffle(int *out, int argument, int width) {
        int lane = threadIdx.x, i = 4 * threadIdx.x;
        out[i] = __shfl_sync(0xffffffffu, lane, argument, width);
        out[i + 1] = __shfl_up_sync(0xffffffffu, lane, argument, width);
        out[i + 2] = __shfl_down_sync(0xffffffffu, lane, argument, width);
        out[i + 3] = __shfl_xor_sync(0xffffffffu, lane, argument, width);
    }
    """
    kernel = module(drv, source).get_function("shuffle")
    lanes = np.arange(32)
    for width in (32, 16, 8, 2):
        for argument in (0, 1, 3, width - 1):
            out = np.zeros((32, 4), np.int32)
            kernel(drv.Out(out), np.int32(argument), np.int32(width), block=(32, 1, 1))
            first = lanes - lanes % width
            last = first + width - 1
            up, down, across = lanes - argument, lanes + argument, lanes ^ argument
            expected = np.stack(
                [
                    first + argument % width,
                    np.where(up >= first, up, lanes),
                    np.where(down <= last, down, lanes),
                    np.where(across <= last, across, lanes),
                ],
                axis=1,
            )
            assert np.array_equal(out, expected), (width, argument)


def test_votes_matches_and_warp_reductions(drv: Any) -> None:
    source = """
    __global__ void vote(unsigned *out) {
        unsigned lane = threadIdx.x % 32, all = 0xffffffffu;
        int same;
        unsigned r[8] = {
            __ballot_sync(all, lane % 3 == 0), (unsigned)__any_sync(all, lane == 5),
            (unsigned)__all_sync(all, lane != 5), __match_any_sync(all, lane % 4),
            __match_all_sync(all, 7, &same) + same, __reduce_add_sync(all, lane),
            (unsigned)__reduce_min_sync(all, (int)lane - 9), __reduce_xor_sync(all, lane)};
        for (int i = 0; i < 8; ++i) out[threadIdx.x * 8 + i] = r[i];
    }
    """
    out = np.zeros((64, 8), np.uint32)
    launch(drv, source, "vote", drv.Out(out), block=(64, 1, 1))
    lane = np.arange(64) % 32
    ballot = sum(1 << i for i in range(0, 32, 3))
    assert (out[:, 0] == ballot).all() and (out[:, 1] == 1).all() and (out[:, 2] == 0).all()
    assert np.array_equal(out[:, 3], 0x11111111 << (lane % 4))
    assert (out[:, 4] == 0).all()  # all lanes + 1 wraps around
    assert (out[:, 5] == 496).all() and (out[:, 6].view(np.int32) == -9).all()
    assert (out[:, 7] == 0).all()


def test_halves_of_a_warp_shuffle_apart_in_different_branches(drv: Any) -> None:
    source = """
    __global__ void halves(float *x) {
        float v = x[threadIdx.x];
        if (threadIdx.x < 16) {
            for (int o = 8; o; o >>= 1) v += __shfl_xor_sync(0x0000ffffu, v, o);
        } else {
            for (int o = 8; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffff0000u, v, o));
        }
        x[threadIdx.x] = v;
    }
    """
    x = np.arange(32, dtype=np.float32)
    launch(drv, source, "halves", drv.InOut(x), block=(32, 1, 1))
    assert (x[:16] == 120).all() and (x[16:] == 31).all()


def test_shuffle_in_a_block_that_ends_within_a_warp(drv: Any) -> None:
    source = """
    __global__ void sum(float *x) {
        float v = x[threadIdx.x];
        for (int o = 16; o; o >>= 1) {
            float other = __shfl_down_sync(0xffffffffu, v, o);
            if (threadIdx.x + o < blockDim.x) v += other;
        }
        if (threadIdx.x == 0) x[0] = v;
    }
    """
    x = np.arange(1, 21, dtype=np.float32)
    launch(drv, source, "sum", drv.InOut(x), block=(20, 1, 1))
    assert x[0] == 210


def test_warp_synchronous_reduction_through_a_volatile_pointer(drv: Any) -> None:
    source = """
    __device__ void fold(volatile float *s, int t) {
        s[t] += s[t + 32]; s[t] += s[t + 16]; s[t] = s[t] + s[t + 8];
        s[t] += s[t + 4]; s[t] += s[t + 2]; s[t] += s[t + 1];
    }
    __global__ void sum(float *x) {
        __shared__ float s[128];
        int t = threadIdx.x;
        s[t] = x[t];
        __syncthreads();
        if (t < 64) s[t] += s[t + 64];
        __syncthreads();
        if (t < 32) fold(s, t);
        if (t == 0) x[0] = s[0];
    }
    """
    x = np.random.default_rng(1).integers(0, 100, 128).astype(np.float32)
    expected = x.sum()
    launch(drv, source, "sum", drv.InOut(x), block=(128, 1, 1))
    assert x[0] == expected


# --- atomics --------------------------------------------------------------------------------


def test_atomics_of_all_blocks_meet_in_one_place(drv: Any) -> None:
    source = """
    __global__ void count(int *i, unsigned *u, float *f, double *d, unsigned long long *ll) {
        int t = blockIdx.x * blockDim.x + threadIdx.x;
        atomicAdd(&i[0], 1); atomicSub(&i[1], 2); atomicMax(&i[2], t); atomicMin(&i[3], -t);
        atomicInc(&u[0], 9u); atomicOr(&u[1], 1u << t % 32); atomicXor(&u[2], 1u);
        atomicAnd(&u[3], ~(1u << t % 32));
        atomicAdd(f, 0.5f); atomicAdd(d, 0.25); atomicAdd(ll, 3ull);
        int old = i[4], seen;
        do { seen = old; old = atomicCAS(&i[4], seen, seen + 1); } while (old != seen);
    }
    """
    n = 64 * 100
    i, u = np.zeros(5, np.int32), np.array([0, 0, 0, 0xFFFFFFFF], np.uint32)
    f, d, ll = np.zeros(1, np.float32), np.zeros(1), np.zeros(1, np.uint64)
    launch(
        drv, source, "count", drv.InOut(i), drv.InOut(u), drv.InOut(f), drv.InOut(d),
        drv.InOut(ll), grid=(100, 1), block=(64, 1, 1),
    )  # fmt: skip
    assert i.tolist() == [n, -2 * n, n - 1, 1 - n, n]
    assert u.tolist() == [n % 10, 0xFFFFFFFF, n % 2, 0]
    assert (f[0], d[0], ll[0]) == (n / 2, n / 4, 3 * n)


# --- arguments ------------------------------------------------------------------------------


def test_arguments_of_every_kind_reach_the_kernel(drv: Any) -> None:
    source = """
    struct Pair { char tag; double value; };
    __global__ void take(double *out, char c, short s, int i, long long l, float f, Pair p,
                         const Pair *q, bool b, unsigned char u, float4 v) {
        double all[] = {(double)c, (double)s, (double)i, (double)l, f, (double)p.tag, p.value,
                        (double)q->tag, q->value, (double)b, (double)u, v.x, v.y, v.z, v.w};
        for (int k = 0; k < 15; ++k) out[k] = all[k];
    }
    """
    pair = np.dtype([("tag", np.int8), ("value", np.float64)], align=True)
    by_value = np.array((5, 6.5), pair)
    by_pointer = np.array([(7, 8.5)], pair)
    out = np.zeros(15)
    kernel = module(drv, source).get_function("take")
    # struct.pack aligns scalars as C does; the struct (8) and the vector (16) need padding.
    buffer = drv.mem_alloc(out.nbytes)
    held = drv.to_device(by_pointer)
    import struct

    packed = struct.pack("Pbhiqf", int(buffer), -1, -2, -3, -4, 0.5)
    packed += b"\0" * (-len(packed) % 8) + by_value.tobytes()
    packed += struct.pack("P?B", int(held), True, 200)
    packed += b"\0" * (-len(packed) % 16) + np.array([1, 2, 3, 4], np.float32).tobytes()
    kernel._set_block_shape(1, 1, 1)
    kernel._launch_kernel((1, 1), (1, 1, 1), packed, 0, None)
    drv.memcpy_dtoh(out, buffer)
    assert out.tolist() == [-1, -2, -3, -4, 0.5, 5, 6.5, 7, 8.5, 1, 200, 1, 2, 3, 4]


def test_constant_and_device_variables(drv: Any) -> None:
    source = """
    __constant__ float weights[4];
    __device__ int total = 5;
    __global__ void use(float *out) { out[threadIdx.x] = 2 * weights[threadIdx.x]; total += 1; }
    """
    mod = module(drv, source)
    address, size = mod.get_global("weights")
    assert size == 16
    drv.memcpy_htod(address, np.array([1, 2, 3, 4], np.float32))
    out = np.zeros(4, np.float32)
    mod.get_function("use")(drv.Out(out), block=(4, 1, 1))
    assert out.tolist() == [2, 4, 6, 8]
    total = np.zeros(1, np.int32)
    address, _ = mod.get_global("total")
    drv.memcpy_dtoh(total, address)
    assert total[0] > 5


def test_two_loads_of_one_image_have_their_own_variables(drv: Any) -> None:
    source = "__device__ int n = 3; __global__ void add(int k) { n += k; }"
    first, second = module(drv, source), module(drv, source)
    first.get_function("add")(np.int32(4), block=(1, 1, 1))
    values = []
    for mod in (first, second):
        value = np.zeros(1, np.int32)
        drv.memcpy_dtoh(value, mod.get_global("n")[0])
        values.append(int(value[0]))
    assert values == [7, 3]


def test_templates_namespaces_and_overloads(drv: Any) -> None:
    source = """
    namespace a { namespace b {
    template <typename T> __device__ T twice(T x) { return x + x; }
    template <typename T> __global__ void apply(T *x) { x[threadIdx.x] = twice(x[threadIdx.x]); }
    template __global__ void apply<float>(float *);
    __global__ void plain(int *x) { *x = twice(*x); }
    } }
    """
    mod = module(drv, source, no_extern_c=True)
    x = np.array([1.5, 2.5], np.float32)
    mod.get_function("a::b::apply<float>")(drv.InOut(x), block=(2, 1, 1))
    assert x.tolist() == [3, 5]
    n = np.array([21], np.int32)
    mod.get_function("_ZN1a1b5plainEPi")(drv.InOut(n), block=(1, 1, 1))
    assert n[0] == 42


def test_math_that_the_host_library_lacks(drv: Any) -> None:
    source = """
    __global__ void f(double *out) {
        float s, c;
        sincospif(0.5f, &s, &c);
        double r[] = {rsqrtf(16.0f), s, c, (double)__float_as_int(1.0f), __int_as_float(0x40000000),
            (double)__popc(0xf0f0u), (double)__clz(1), (double)__ffs(8), (double)__brev(1u),
            (double)__umulhi(0x80000000u, 6u), (double)__float2int_rn(2.5f),
            (double)__float2int_rz(-2.7f), (double)__float2uint_rz(-1.0f), __saturatef(1.5f),
            (double)__byte_perm(0x33221100u, 0x77665544u, 0x7531u), (double)min(3u, 5u),
            fmaxf(__expf(0.0f), 0.5f), (double)__dp4a(0x01020304, 0x01010101, 5)};
        for (int i = 0; i < 18; ++i) out[i] = r[i];
    }
    """
    out = np.zeros(18)
    launch(drv, source, "f", drv.Out(out), block=(1, 1, 1))
    expected = [
        0.25, 1, 0, 0x3F800000, 2, 8, 31, 4, 0x80000000, 3, 2, -2, 0, 1, 0x77553311, 3, 1, 15,
    ]  # fmt: skip
    assert out.tolist() == expected


def test_products_rounded_by_name_are_not_fused(drv: Any) -> None:
    source = """
    __global__ void f(const float *a, const float *b, float *out, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) out[i] = __fadd_rn(__fmul_rn(a[i], b[i]), -a[i]);
    }
    """
    rng = np.random.default_rng(2)
    a, b = rng.random(1000, np.float32), rng.random(1000, np.float32)
    out = np.zeros_like(a)
    launch(
        drv, source, "f", drv.In(a), drv.In(b), drv.Out(out), np.int32(1000), grid=(4, 1),
        block=(256, 1, 1),
    )  # fmt: skip
    assert np.array_equal(out, (a * b) - a)
