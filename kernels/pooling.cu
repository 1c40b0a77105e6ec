// Average and maximum pooling over windows of an NHWC image.
//
//   x, dx (N, H, W, C)    y, dy (N, P, Q, C)
//   output (p, q) looks at the rows [p * stride - pad, + kernel) and likewise the columns
//
// Conventions of MXNet's Pooling: P and Q are free (so both its "valid" and "full" rounding are
// served); the average divides by the window clipped to the padded image, or, without
// count_include_pad, to the image; a window wholly in the padding gives the most negative float as
// maximum and 0 as average; of equal maxima the first in row-major order gets the gradient.
//
// Forward: one thread per output; channels are the fast axis, so a warp reads whole lines and the
// windows' overlap is served by the caches. Backward gathers: one thread per input pixel visits the
// windows that contain it, so that no two threads write one address (no atomics, no zeroing pass).
// Both are bound by memory and by the index arithmetic in front of every access: where C is a
// multiple of 4 a thread takes four channels, which share one index and are one access of 16 bytes.
//
// variants: -DPOOLING=max | -DPOOLING=avg

#include "flat.cuh"

#ifndef POOLING
#define POOLING max
#endif

enum class Pooling { max, avg };

constexpr Pooling KIND = Pooling::POOLING;
constexpr float LOWEST = -3.402823466e+38f;

// One axis of a window, clipped to the image, and the cells it counts for the average.
struct Span {
    int begin;
    int end;
    int counted;
};

__device__ __forceinline__ Span span_of(int output, int extent, int kernel, int stride, int pad,
                                        int count_include_pad) {
    const int from = output * stride - pad;
    const int to = min(from + kernel, extent + pad);
    Span span = {max(from, 0), min(to, extent), 0};
    span.counted = count_include_pad ? to - from : span.end - span.begin;
    return span;
}

// NaN wins, as it should be seen; otherwise the first of equal values stays.
__device__ __forceinline__ bool beats(float value, float best) {
    return value > best || value != value;
}

__device__ __forceinline__ float average_factor(const Span& rows, const Span& columns) {
    // a window beyond the padding, or wholly in padding that does not count
    if (rows.counted <= 0 || columns.counted <= 0) {
        return 0.0f;
    }
    return 1.0f / (static_cast<float>(rows.counted) * static_cast<float>(columns.counted));
}

// True where every pixel's channels are whole packs of four at multiples of 16 bytes.
template <class... Pointers>
__device__ __forceinline__ bool channels_by_fours(int channels, Pointers... pointers) {
    return channels % 4 == 0 && aligned(pointers...);
}

extern "C" __global__ void pooling_forward(const float* __restrict__ x, float* __restrict__ y,
                                           int batch, int height, int width, int channels,
                                           int out_height, int out_width, int kernel_h,
                                           int kernel_w, int stride_h, int stride_w, int pad_h,
                                           int pad_w, int count_include_pad) {
    const long long n = static_cast<long long>(batch) * out_height * out_width * channels;
    for_each_pack(n, channels_by_fours(channels, x, y), [&](auto pack_width, long long i) {
        constexpr int W = decltype(pack_width)::value;
        const int c = static_cast<int>(i % channels);
        long long rest = i / channels;
        const int q = static_cast<int>(rest % out_width);
        rest /= out_width;
        const int p = static_cast<int>(rest % out_height);
        const float* image = x + rest / out_height * height * width * channels + c;

        const Span rows = span_of(p, height, kernel_h, stride_h, pad_h, count_include_pad);
        const Span columns = span_of(q, width, kernel_w, stride_w, pad_w, count_include_pad);
        Pack<W> result;
#pragma unroll
        for (int k = 0; k < W; ++k) {
            result.at[k] = KIND == Pooling::max ? LOWEST : 0.0f;
        }
        for (int h = rows.begin; h < rows.end; ++h) {
            for (int w = columns.begin; w < columns.end; ++w) {
                const Pack<W> value =
                    load<W>(image + (static_cast<long long>(h) * width + w) * channels);
#pragma unroll
                for (int k = 0; k < W; ++k) {
                    if constexpr (KIND == Pooling::avg) {
                        result.at[k] += value.at[k];
                    } else if (beats(value.at[k], result.at[k])) {
                        result.at[k] = value.at[k];
                    }
                }
            }
        }
        if constexpr (KIND == Pooling::avg) {
            const float factor = average_factor(rows, columns);
#pragma unroll
            for (int k = 0; k < W; ++k) {
                result.at[k] *= factor;
            }
        }
        store<W>(y + i, result);
    });
}

// Adds the window's gradient to `sum` where the pixel `cell` (row-major) is its maximum.
template <int W>
__device__ __forceinline__ void add_where_maximal(const float* image, const Span& rows,
                                                  const Span& columns, int width, int channels,
                                                  int cell, const Pack<W>& arriving, Pack<W>& sum) {
    Pack<W> best;
    int winner[W];
#pragma unroll
    for (int k = 0; k < W; ++k) {
        best.at[k] = LOWEST;
        winner[k] = -1;
    }
    for (int h = rows.begin; h < rows.end; ++h) {
        for (int w = columns.begin; w < columns.end; ++w) {
            const int here = h * width + w;
            const Pack<W> value = load<W>(image + static_cast<long long>(here) * channels);
#pragma unroll
            for (int k = 0; k < W; ++k) {
                // the first NaN is the answer: nothing that follows beats it
                const bool open = best.at[k] == best.at[k];
                if (winner[k] < 0 || (open && beats(value.at[k], best.at[k]))) {
                    best.at[k] = value.at[k];
                    winner[k] = here;
                }
            }
        }
    }
#pragma unroll
    for (int k = 0; k < W; ++k) {
        sum.at[k] += winner[k] == cell ? arriving.at[k] : 0.0f;
    }
}

// x may be null for the average.
extern "C" __global__ void pooling_backward(const float* __restrict__ x,
                                            const float* __restrict__ dy, float* __restrict__ dx,
                                            int batch, int height, int width, int channels,
                                            int out_height, int out_width, int kernel_h,
                                            int kernel_w, int stride_h, int stride_w, int pad_h,
                                            int pad_w, int count_include_pad, int accumulate) {
    const long long n = static_cast<long long>(batch) * height * width * channels;
    for_each_pack(n, channels_by_fours(channels, x, dy, dx), [&](auto pack_width, long long i) {
        constexpr int W = decltype(pack_width)::value;
        const int c = static_cast<int>(i % channels);
        long long rest = i / channels;
        const int w = static_cast<int>(rest % width);
        rest /= width;
        const int h = static_cast<int>(rest % height);
        const long long sample = rest / height;
        const float* image = x + sample * height * width * channels + c;
        const float* gradient = dy + sample * out_height * out_width * channels + c;

        // the windows p with p * stride - pad <= h < p * stride - pad + kernel
        const int first_p = max(0, (h + pad_h - kernel_h + stride_h) / stride_h);
        const int last_p = min(out_height - 1, (h + pad_h) / stride_h);
        const int first_q = max(0, (w + pad_w - kernel_w + stride_w) / stride_w);
        const int last_q = min(out_width - 1, (w + pad_w) / stride_w);
        Pack<W> sum = {};
        for (int p = first_p; p <= last_p; ++p) {
            const Span rows = span_of(p, height, kernel_h, stride_h, pad_h, count_include_pad);
            for (int q = first_q; q <= last_q; ++q) {
                const Span columns =
                    span_of(q, width, kernel_w, stride_w, pad_w, count_include_pad);
                const Pack<W> arriving =
                    load<W>(gradient + (static_cast<long long>(p) * out_width + q) * channels);
                if constexpr (KIND == Pooling::avg) {
                    const float factor = average_factor(rows, columns);
#pragma unroll
                    for (int k = 0; k < W; ++k) {
                        sum.at[k] = fmaf(arriving.at[k], factor, sum.at[k]);
                    }
                } else {
                    add_where_maximal<W>(image, rows, columns, width, channels, h * width + w,
                                         arriving, sum);
                }
            }
        }
        store_gradient<W>(dx + i, sum, accumulate);
    });
}

// Launch contract: one-dimensional grid and block of any size (256 threads, a block per 256 packs
// of the array written, at most 4096 blocks); no shared memory. Channels that are not a multiple of
// 4, or arrays that are not at multiples of 16 bytes, go one channel per thread.
