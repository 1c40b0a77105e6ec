// Pooling: what a pack of channels of one output is, and of one input's gradient (pooling.cu tells
// the formulas and conventions).
#pragma once

#include "common.cuh"
#include "flat.cuh"

enum class Pooling { max, avg };

// The maximum of no pixel at all; that of pixels which all are -infinity is -infinity.
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

// The sizes of a pooling, as its kernels are given them.
struct Windows {
    int batch, height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h,
        stride_w, pad_h, pad_w, count_include_pad;

    __device__ Span rows(int p) const {
        return span_of(p, height, kernel_h, stride_h, pad_h, count_include_pad);
    }
    __device__ Span columns(int q) const {
        return span_of(q, width, kernel_w, stride_w, pad_w, count_include_pad);
    }
};

// y[i, ...) from x. i: counted in 32 or 64 bits.
template <Pooling KIND, int W, class Index>
__device__ __forceinline__ Pack<W> pooled(const float* x, const Windows& windows, Index i) {
    const int channels = windows.channels, width = windows.width;
    const int c = static_cast<int>(i % channels);
    Index rest = i / channels;
    const int q = static_cast<int>(rest % windows.out_width);
    rest /= windows.out_width;
    const int p = static_cast<int>(rest % windows.out_height);
    const Offset sample = rest / windows.out_height;
    const float* const image = x + sample * windows.height * width * channels + c;

    const Span rows = windows.rows(p), columns = windows.columns(q);
    const bool has_pixels = rows.begin < rows.end && columns.begin < columns.end;
    const float lowest = has_pixels ? -INFINITY : LOWEST;
    Pack<W> result;
#pragma unroll
    for (int k = 0; k < W; ++k) {
        result.at[k] = KIND == Pooling::max ? lowest : 0.0f;
    }
    for (int h = rows.begin; h < rows.end; ++h) {
        for (int w = columns.begin; w < columns.end; ++w) {
            const Pack<W> value = load<W>(image + (static_cast<Offset>(h) * width + w) * channels);
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
    return result;
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
        best.at[k] = -INFINITY;
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

// The gradient of x[i, ...) from dy. x may be null for the average.
template <Pooling KIND, int W, class Index>
__device__ __forceinline__ Pack<W> pooled_gradient(const float* x, const float* dy,
                                                   const Windows& windows, Index i) {
    const int channels = windows.channels, height = windows.height, width = windows.width;
    const int c = static_cast<int>(i % channels);
    Index rest = i / channels;
    const int w = static_cast<int>(rest % width);
    rest /= width;
    const int h = static_cast<int>(rest % height);
    const Offset sample = rest / height;
    const float* const image = x + sample * height * width * channels + c;
    const float* const gradient =
        dy + sample * windows.out_height * windows.out_width * channels + c;

    // the windows p with p * stride - pad <= h < p * stride - pad + kernel
    const int pad_h = windows.pad_h, stride_h = windows.stride_h;
    const int pad_w = windows.pad_w, stride_w = windows.stride_w;
    const int first_p = max(0, (h + pad_h - windows.kernel_h + stride_h) / stride_h);
    const int last_p = min(windows.out_height - 1, (h + pad_h) / stride_h);
    const int first_q = max(0, (w + pad_w - windows.kernel_w + stride_w) / stride_w);
    const int last_q = min(windows.out_width - 1, (w + pad_w) / stride_w);
    Pack<W> sum = {};
    for (int p = first_p; p <= last_p; ++p) {
        const Span rows = windows.rows(p);
        for (int q = first_q; q <= last_q; ++q) {
            const Span columns = windows.columns(q);
            const Pack<W> arriving =
                load<W>(gradient + (static_cast<Offset>(p) * windows.out_width + q) * channels);
            if constexpr (KIND == Pooling::avg) {
                const float factor = average_factor(rows, columns);
#pragma unroll
                for (int k = 0; k < W; ++k) {
                    sum.at[k] = fmaf(arriving.at[k], factor, sum.at[k]);
                }
            } else {
                add_where_maximal<W>(image, rows, columns, width, channels, h * width + w, arriving,
                                     sum);
            }
        }
    }
    return sum;
}
