// Sums, products, exponentials, copies and joins of arrays.
//
//   add, multiply        y = a + b, a * b                    flat; y may be a or b
//   multiply_backward    da (+)= dy * other                  flat
//   axpy                 y (+)= alpha * x                    flat; copy, scale, gradient of add
//   fill                 y = value                           flat
//   exp                  y = exp(x)                          flat; y may be x
//   reparametrization    code = mean + exp(lnsd) * noise     flat; and its gradients
//   broadcast_multiply   y = a * b with numpy's broadcasting, up to 4 axes; its backward sums
//                        dy * other over the axes along which da was repeated
//   concatenate          y[.., offset : offset + k, ..] = x, one input at a time, and back
//
// All are bound by memory: four floats per access where the arrays are flat. The broadcast forms
// index with strides, 0 along repeated axes, so nothing is expanded in memory (forward takes four
// floats of the last axis at a time where it is whole packs); the sums of the
// backward are taken by one thread, one warp or one block per gradient element, in a fixed order.
//
// variants: | -DLANES_PER_SUM=1 | -DLANES_PER_SUM=256

#include "flat.cuh"
#include "reduce.cuh"

#ifndef LANES_PER_SUM
#define LANES_PER_SUM 32  // threads that share one sum in broadcast_multiply_backward: 1, 32 or 256
#endif

constexpr int THREADS = 256;

// A row-major index over four extents, taken apart.
struct Index4 {
    int at[4];
};

__device__ __forceinline__ Index4 unravel(long long flat, int n1, int n2, int n3) {
    Index4 index;
    index.at[3] = static_cast<int>(flat % n3);
    flat /= n3;
    index.at[2] = static_cast<int>(flat % n2);
    flat /= n2;
    index.at[1] = static_cast<int>(flat % n1);
    index.at[0] = static_cast<int>(flat / n1);
    return index;
}

__device__ __forceinline__ long long dot(const Index4& index, long long s0, long long s1,
                                         long long s2, long long s3) {
    return index.at[0] * s0 + index.at[1] * s1 + index.at[2] * s2 + index.at[3] * s3;
}

// No __restrict__ where the result may be an operand: every element is read before it is written,
// by the same thread.
extern "C" __global__ void add_forward(const float* a, const float* b, float* y, long long n) {
    for_each_pack(n, aligned(a, b, y), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> sum = load<W>(a + i);
        const Pack<W> other = load<W>(b + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum.at[k] += other.at[k];
        }
        store<W>(y + i, sum);
    });
}

extern "C" __global__ void multiply_forward(const float* a, const float* b, float* y, long long n) {
    for_each_pack(n, aligned(a, b, y), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> product = load<W>(a + i);
        const Pack<W> other = load<W>(b + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            product.at[k] *= other.at[k];
        }
        store<W>(y + i, product);
    });
}

extern "C" __global__ void multiply_backward(const float* dy, const float* __restrict__ other,
                                             float* da, long long n, int accumulate) {
    for_each_pack(n, aligned(dy, other, da), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> gradient = load<W>(dy + i);
        const Pack<W> factor = load<W>(other + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            gradient.at[k] *= factor.at[k];
        }
        store_gradient<W>(da + i, gradient, accumulate);
    });
}

extern "C" __global__ void axpy(const float* x, float* y, long long n, float alpha,
                                int accumulate) {
    for_each_pack(n, aligned(x, y), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> scaled = load<W>(x + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            scaled.at[k] *= alpha;
        }
        store_gradient<W>(y + i, scaled, accumulate);
    });
}

extern "C" __global__ void fill(float* __restrict__ y, long long n, float value) {
    for_each_pack(n, aligned(y), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> pack;
#pragma unroll
        for (int k = 0; k < W; ++k) {
            pack.at[k] = value;
        }
        store<W>(y + i, pack);
    });
}

extern "C" __global__ void exp_forward(const float* x, float* y, long long n) {
    for_each_pack(n, aligned(x, y), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> power = load<W>(x + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            power.at[k] = expf(power.at[k]);
        }
        store<W>(y + i, power);
    });
}

extern "C" __global__ void reparametrization_forward(const float* __restrict__ mean,
                                                     const float* __restrict__ lnsd,
                                                     const float* __restrict__ noise,
                                                     float* __restrict__ code, long long n) {
    for_each_pack(n, aligned(mean, lnsd, noise, code), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> sample = load<W>(mean + i);
        const Pack<W> spread = load<W>(lnsd + i);
        const Pack<W> unit = load<W>(noise + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sample.at[k] = fmaf(expf(spread.at[k]), unit.at[k], sample.at[k]);
        }
        store<W>(code + i, sample);
    });
}

extern "C" __global__ void reparametrization_backward_lnsd(const float* __restrict__ lnsd,
                                                           const float* __restrict__ noise,
                                                           const float* __restrict__ dcode,
                                                           float* __restrict__ dlnsd, long long n,
                                                           int accumulate) {
    for_each_pack(n, aligned(lnsd, noise, dcode, dlnsd), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> gradient = load<W>(dcode + i);
        const Pack<W> spread = load<W>(lnsd + i);
        const Pack<W> unit = load<W>(noise + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            gradient.at[k] *= unit.at[k] * expf(spread.at[k]);
        }
        store_gradient<W>(dlnsd + i, gradient, accumulate);
    });
}

extern "C" __global__ void reparametrization_backward_noise(const float* __restrict__ lnsd,
                                                            const float* __restrict__ dcode,
                                                            float* __restrict__ dnoise, long long n,
                                                            int accumulate) {
    for_each_pack(n, aligned(lnsd, dcode, dnoise), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> gradient = load<W>(dcode + i);
        const Pack<W> spread = load<W>(lnsd + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            gradient.at[k] *= expf(spread.at[k]);
        }
        store_gradient<W>(dnoise + i, gradient, accumulate);
    });
}

// Whether an operand with these strides can be read four at a time along the last axis: one after
// the other from multiples of four, or one number for all.
__device__ __forceinline__ bool in_packs(long long s0, long long s1, long long s2, long long s3) {
    return s3 == 0 || (s3 == 1 && ((s0 | s1 | s2) & 3) == 0);
}

template <int WIDTH>
__device__ __forceinline__ Pack<WIDTH> load_along(const float* from, long long stride) {
    if constexpr (WIDTH == 4) {
        if (stride == 0) {
            return {{*from, *from, *from, *from}};
        }
    }
    return load<WIDTH>(from);
}

// y (n0, n1, n2, n3); a and b with element strides a0..a3 and b0..b3, 0 where repeated.
extern "C" __global__ void broadcast_multiply_forward(const float* __restrict__ a,
                                                      const float* __restrict__ b,
                                                      float* __restrict__ y, int n0, int n1, int n2,
                                                      int n3, long long a0, long long a1,
                                                      long long a2, long long a3, long long b0,
                                                      long long b1, long long b2, long long b3) {
    const long long n = static_cast<long long>(n0) * n1 * n2 * n3;
    const bool by_fours =
        n3 % 4 == 0 && aligned(a, b, y) && in_packs(a0, a1, a2, a3) && in_packs(b0, b1, b2, b3);
    for_each_pack(n, by_fours, [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        const Index4 index = unravel(i, n1, n2, n3);
        Pack<W> product = load_along<W>(a + dot(index, a0, a1, a2, a3), a3);
        const Pack<W> factor = load_along<W>(b + dot(index, b0, b1, b2, b3), b3);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            product.at[k] *= factor.at[k];
        }
        store<W>(y + i, product);
    });
}

// da has the extents k0..k3 (C-contiguous); for each of its elements the repeated axes r0..r3 are
// summed. On every axis one of k and r is dy's extent and the other is 1, so both walk dy with the
// strides d0..d3 and `other` with o0..o3 (0 where it is repeated).
extern "C" __global__ void __launch_bounds__(THREADS)
    broadcast_multiply_backward(const float* __restrict__ dy, const float* __restrict__ other,
                                float* __restrict__ da, int k0, int k1, int k2, int k3, int r0,
                                int r1, int r2, int r3, long long d0, long long d1, long long d2,
                                long long d3, long long o0, long long o1, long long o2,
                                long long o3, int accumulate) {
    const long long kept = static_cast<long long>(k0) * k1 * k2 * k3;
    const long long repeated = static_cast<long long>(r0) * r1 * r2 * r3;
    const long long element = static_cast<long long>(blockIdx.x) * (THREADS / LANES_PER_SUM) +
                              threadIdx.x / LANES_PER_SUM;
    const int lane = threadIdx.x % LANES_PER_SUM;

    float sum = 0.0f;
    if (element < kept) {
        const Index4 at = unravel(element, k1, k2, k3);
        const float* gradient = dy + dot(at, d0, d1, d2, d3);
        const float* factor = other + dot(at, o0, o1, o2, o3);
        for (long long r = lane; r < repeated; r += LANES_PER_SUM) {
            const Index4 along = unravel(r, r1, r2, r3);
            sum =
                fmaf(gradient[dot(along, d0, d1, d2, d3)], factor[dot(along, o0, o1, o2, o3)], sum);
        }
    }
    if constexpr (LANES_PER_SUM == THREADS) {
        __shared__ float partial[THREADS / WARP];
        sum = block_sum<THREADS>(sum, partial);
    } else if constexpr (LANES_PER_SUM == WARP) {
        sum = warp_sum(sum);
    }
    if (lane == 0 && element < kept) {
        da[element] = accumulate ? da[element] + sum : sum;
    }
}

// x is (outer, x_row), y is (outer, y_row): everything from the joined axis inwards is one row, and
// x takes the floats [y_offset, y_offset + x_row) of each. Four floats per access where rows and
// offset are whole packs.
__device__ __forceinline__ bool rows_by_fours(long long x_row, long long y_row,
                                              long long y_offset) {
    return ((x_row | y_row | y_offset) & 3) == 0;
}

extern "C" __global__ void concatenate_forward(const float* __restrict__ x, float* __restrict__ y,
                                               long long n, long long x_row, long long y_row,
                                               long long y_offset) {
    const bool vectorised = aligned(x, y) && rows_by_fours(x_row, y_row, y_offset);
    for_each_pack(n, vectorised, [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        store<W>(y + i / x_row * y_row + y_offset + i % x_row, load<W>(x + i));
    });
}

extern "C" __global__ void concatenate_backward(const float* __restrict__ dy,
                                                float* __restrict__ dx, long long n,
                                                long long x_row, long long y_row,
                                                long long y_offset, int accumulate) {
    const bool vectorised = aligned(dy, dx) && rows_by_fours(x_row, y_row, y_offset);
    for_each_pack(n, vectorised, [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        const Pack<W> gradient = load<W>(dy + i / x_row * y_row + y_offset + i % x_row);
        store_gradient<W>(dx + i, gradient, accumulate);
    });
}

// Launch contract: one-dimensional grids. broadcast_multiply_backward: blocks of THREADS = 256, one
// per 256 / LANES_PER_SUM elements of da (not strided: the grid must cover them all). All others:
// any block (256) and any grid (a block per 1024 elements flat, per 256 where broadcast or
// joined; at most 4096). No dynamic shared memory; flat arrays that are not multiples of 16 bytes
// are served one float at a time.
