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
// All are bound by memory: four floats per access where the arrays are flat, and in the broadcast
// forms where the last axis is whole packs. These index with strides, 0 along repeated axes, so
// nothing is expanded in memory; a sum of the backward is shared by 1, 32 or 256 threads, in a
// fixed order.
//
// variants: | -DLANES_PER_SUM=1 | -DLANES_PER_SUM=256

#include "flat.cuh"

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

// No __restrict__ where the result may be an operand.
extern "C" __global__ void add_forward(const float* a, const float* b, float* y, long long n) {
    map_flat(n, y, [](float one, float other) { return one + other; }, a, b);
}

extern "C" __global__ void multiply_forward(const float* a, const float* b, float* y, long long n) {
    map_flat(n, y, [](float one, float other) { return one * other; }, a, b);
}

extern "C" __global__ void multiply_backward(const float* dy, const float* __restrict__ other,
                                             float* da, long long n, int accumulate) {
    const auto product = [](float gradient, float factor) { return gradient * factor; };
    map_gradient(n, da, accumulate, product, dy, other);
}

extern "C" __global__ void axpy(const float* x, float* y, long long n, float alpha,
                                int accumulate) {
    map_gradient(n, y, accumulate, [=](float value) { return value * alpha; }, x);
}

extern "C" __global__ void fill(float* __restrict__ y, long long n, float value) {
    map_flat(n, y, [=] { return value; });
}

extern "C" __global__ void exp_forward(const float* x, float* y, long long n) {
    map_flat(n, y, [](float value) { return expf(value); }, x);
}

extern "C" __global__ void reparametrization_forward(const float* __restrict__ mean,
                                                     const float* __restrict__ lnsd,
                                                     const float* __restrict__ noise,
                                                     float* __restrict__ code, long long n) {
    const auto sample = [](float m, float s, float unit) { return fmaf(expf(s), unit, m); };
    map_flat(n, code, sample, mean, lnsd, noise);
}

extern "C" __global__ void reparametrization_backward_lnsd(const float* __restrict__ lnsd,
                                                           const float* __restrict__ noise,
                                                           const float* __restrict__ dcode,
                                                           float* __restrict__ dlnsd, long long n,
                                                           int accumulate) {
    const auto chain = [](float s, float unit, float gradient) {
        return gradient * (unit * expf(s));
    };
    map_gradient(n, dlnsd, accumulate, chain, lnsd, noise, dcode);
}

extern "C" __global__ void reparametrization_backward_noise(const float* __restrict__ lnsd,
                                                            const float* __restrict__ dcode,
                                                            float* __restrict__ dnoise, long long n,
                                                            int accumulate) {
    const auto chain = [](float s, float gradient) { return gradient * expf(s); };
    map_gradient(n, dnoise, accumulate, chain, lnsd, dcode);
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

// The sum over the lanes of each sum of the block, left with lane 0, whose other lanes sit `apart`
// threads from each other. A tree, so that the order is always the same. `partial` is shared.
template <int WIDTH>
__device__ __forceinline__ Pack<WIDTH> sum_of_lanes(Pack<WIDTH> sum, int lane, int apart,
                                                    float (*partial)[THREADS]) {
    if constexpr (LANES_PER_SUM > 1) {
        __syncthreads();  // all have read what the sums before left
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {
            partial[k][threadIdx.x] = sum.at[k];
        }
        for (int lanes = LANES_PER_SUM / 2; lanes > 0; lanes /= 2) {
            __syncthreads();
            if (lane < lanes) {
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) {
                    sum.at[k] += partial[k][threadIdx.x + lanes * apart];
                    partial[k][threadIdx.x] = sum.at[k];
                }
            }
        }
    }
    return sum;
}

// broadcast_multiply_backward by packs of WIDTH along the last axis. Where that axis is kept, a
// pack of dy belongs to WIDTH sums, and neighbouring threads take neighbouring sums; where it is
// repeated, a pack belongs to one, and neighbouring threads are lanes of one sum. Either way they
// read neighbouring addresses.
template <int WIDTH>
__device__ __forceinline__ void sums_of_products(
    const float* __restrict__ dy, const float* __restrict__ other, float* __restrict__ da, int k0,
    int k1, int k2, int k3, int r0, int r1, int r2, int r3, long long d0, long long d1,
    long long d2, long long d3, long long o0, long long o1, long long o2, long long o3,
    int accumulate, float (*partial)[THREADS]) {
    constexpr int SUMS = THREADS / LANES_PER_SUM;
    const bool kept = k3 > 1;
    const int last_kept = kept ? k3 / WIDTH : 1;
    const int last_repeated = kept ? 1 : r3 / WIDTH;
    const long long sums = static_cast<long long>(k0) * k1 * k2 * last_kept;
    const long long terms = static_cast<long long>(r0) * r1 * r2 * last_repeated;
    const int place = kept ? threadIdx.x % SUMS : threadIdx.x / LANES_PER_SUM;
    const int lane = kept ? threadIdx.x / SUMS : threadIdx.x % LANES_PER_SUM;

    const long long step = static_cast<long long>(gridDim.x) * SUMS;
    for (long long first = static_cast<long long>(blockIdx.x) * SUMS; first < sums; first += step) {
        const long long element = first + place;
        Pack<WIDTH> sum = {};
        if (element < sums) {
            Index4 at = unravel(element, k1, k2, last_kept);
            at.at[3] *= WIDTH;
            const float* gradients = dy + dot(at, d0, d1, d2, d3);
            const float* factors = other + dot(at, o0, o1, o2, o3);
            for (long long term = lane; term < terms; term += LANES_PER_SUM) {
                Index4 along = unravel(term, r1, r2, last_repeated);
                along.at[3] *= WIDTH;
                const Pack<WIDTH> gradient = load<WIDTH>(gradients + dot(along, d0, d1, d2, d3));
                const Pack<WIDTH> factor =
                    load_along<WIDTH>(factors + dot(along, o0, o1, o2, o3), o3);
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) {
                    sum.at[k] = fmaf(gradient.at[k], factor.at[k], sum.at[k]);
                }
            }
        }
        sum = sum_of_lanes<WIDTH>(sum, lane, kept ? SUMS : 1, partial);
        if (lane > 0 || element >= sums) {
            continue;
        }
        if (kept) {
            store_gradient<WIDTH>(da + WIDTH * element, sum, accumulate);
        } else {
#pragma unroll
            for (int k = 1; k < WIDTH; ++k) {
                sum.at[0] += sum.at[k];
            }
            store_gradient<1>(da + element, {{sum.at[0]}}, accumulate);
        }
    }
}

// da has the extents k0..k3 (C-contiguous); for each of its elements the repeated axes r0..r3 are
// summed. On every axis one of k and r is dy's extent and the other is 1, so both walk dy with the
// strides d0..d3 and `other` with o0..o3 (0 where it is repeated).
// Four blocks at a time leave 64 registers; nvcc's own choice of 40 would spill.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    broadcast_multiply_backward(const float* __restrict__ dy, const float* __restrict__ other,
                                float* __restrict__ da, int k0, int k1, int k2, int k3, int r0,
                                int r1, int r2, int r3, long long d0, long long d1, long long d2,
                                long long d3, long long o0, long long o1, long long o2,
                                long long o3, int accumulate) {
    __shared__ float partial[LANES_PER_SUM > 1 ? 4 : 1][THREADS];
    const bool by_fours = k3 * r3 % 4 == 0 && aligned(dy, other) && (k3 == 1 || aligned(da)) &&
                          in_packs(d0, d1, d2, d3) && in_packs(o0, o1, o2, o3);
    if (by_fours) {
        sums_of_products<4>(dy, other, da, k0, k1, k2, k3, r0, r1, r2, r3, d0, d1, d2, d3, o0, o1,
                            o2, o3, accumulate, partial);
    } else {
        sums_of_products<1>(dy, other, da, k0, k1, k2, k3, r0, r1, r2, r3, d0, d1, d2, d3, o0, o1,
                            o2, o3, accumulate, partial);
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

// Launch contract: one-dimensional grids of any size, at most 4096 blocks.
// broadcast_multiply_backward: blocks of THREADS = 256, one per 256 / LANES_PER_SUM sums or packs
// of four sums; at most 4 KiB of static shared memory. All others: any block (256), one per 1024
// elements flat, per 256 where broadcast or joined. No dynamic shared memory; arrays that are not
// at multiples of 16 bytes are served one float at a time.
