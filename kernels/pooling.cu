// Average and maximum pooling over windows of an NHWC image.
//
//   x, dx (N, H, W, C)    y, dy (N, P, Q, C)
//   output (p, q) looks at the rows [p * stride - pad, + kernel) and likewise the columns
//
// Conventions of MXNet's Pooling: P and Q are free (so both its "valid" and "full" rounding are
// served); the average divides by the window clipped to the padded image, or, without
// count_include_pad, to the image; a window wholly in the padding gives the most negative finite
// float as maximum and 0 as average; of equal maxima the first in row-major order gets the
// gradient.
//
// Forward: one thread per output; channels are the fast axis, so a warp reads whole lines and the
// windows' overlap is served by the caches. Backward gathers: one thread per input pixel visits the
// windows that contain it, so that no two threads write one address (no atomics, no zeroing pass).
// Both are bound by memory and by the index arithmetic in front of every access: where C is a
// multiple of 4 a thread takes four channels, which share one index and are one access of 16 bytes.
//
// variants: -DPOOLING=max | -DPOOLING=avg

#include "pooling.cuh"

#ifndef POOLING
#define POOLING max
#endif

constexpr Pooling KIND = Pooling::POOLING;

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
    const Windows windows = {
        batch,    height,   width,    channels, out_height, out_width,        kernel_h,
        kernel_w, stride_h, stride_w, pad_h,    pad_w,      count_include_pad};
    const long long n = static_cast<long long>(batch) * out_height * out_width * channels;
    for_each_pack(n, channels_by_fours(channels, x, y), [&](auto pack_width, long long i) {
        constexpr int W = decltype(pack_width)::value;
        store<W>(y + i, pooled<KIND, W>(x, windows, i));
    });
}

// x may be null for the average.
extern "C" __global__ void pooling_backward(const float* __restrict__ x,
                                            const float* __restrict__ dy, float* __restrict__ dx,
                                            int batch, int height, int width, int channels,
                                            int out_height, int out_width, int kernel_h,
                                            int kernel_w, int stride_h, int stride_w, int pad_h,
                                            int pad_w, int count_include_pad, int accumulate) {
    const Windows windows = {
        batch,    height,   width,    channels, out_height, out_width,        kernel_h,
        kernel_w, stride_h, stride_w, pad_h,    pad_w,      count_include_pad};
    const long long n = static_cast<long long>(batch) * height * width * channels;
    for_each_pack(n, channels_by_fours(channels, x, dy, dx), [&](auto pack_width, long long i) {
        constexpr int W = decltype(pack_width)::value;
        store_gradient<W>(dx + i, pooled_gradient<KIND, W>(x, dy, windows, i), accumulate);
    });
}

// Launch contract: one-dimensional grid and block of any size (256 threads, a block per 256 packs
// of the array written, at most 4096 blocks); no shared memory. Channels that are not a multiple of
// 4, or arrays that are not at multiples of 16 bytes, go one channel per thread.
