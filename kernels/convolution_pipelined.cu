// Convolution and transposed convolution, float32, NHWC: the fast path of convolution.cu, which
// tells the formula, the three kernels of the six passes, and phases. Same arguments, same bits
// (for the same number of slices); the arithmetic and the steps that make it fast are those of
// pipeline.cuh.
//
//     kernel            lines of a tile        columns   summed over      contiguous along
//     forward           pixels of y            k         r, s, c          c and c: the depth
//     backward_data     pixels of x, by phase  c         r, s, k          k: the depth; c: columns
//     backward_weight   r, s, c                k         pixels of y      c and k: lines, columns
//
// backward_weight has its lines and columns the other way round than in convolution.cu: R*S*Cg is
// the larger number, and a narrow tile of 32 columns then serves few filters in all three.
//
// With VECTOR=4 what is contiguous above must be a multiple of 4 channels per group, and arrays
// start at multiples of 16 bytes. VECTOR=1 asks nothing, and is for wide layers at both ends of a
// network, whose images have 1 or 3 channels; the data gradient of those has a kernel of its own in
// convolution_few_channels.cu.

// variants: -DTILE_M=128 -DTILE_N=128 | -DTILE_M=128 -DTILE_N=64 | -DTILE_M=64 -DTILE_N=64
// variants: -DTILE_M=128 -DTILE_N=32 | -DTILE_M=64 -DTILE_N=32
// variants: -DTILE_M=64 -DTILE_N=64 -DVECTOR=1
// variants: -DTILE_M=128 -DTILE_N=128 -DMOMENTS=1 | -DTILE_M=128 -DTILE_N=64 -DMOMENTS=1
// variants: -DTILE_M=64 -DTILE_N=64 -DMOMENTS=1 | -DTILE_M=128 -DTILE_N=32 -DMOMENTS=1
// variants: -DTILE_M=64 -DTILE_N=32 -DMOMENTS=1 | -DTILE_M=64 -DTILE_N=64 -DVECTOR=1 -DMOMENTS=1
// variants: -DTILE_M=128 -DTILE_N=128 -DMOMENTS=1 | -DTILE_M=128 -DTILE_N=64 -DMOMENTS=1
// variants: -DTILE_M=64 -DTILE_N=64 -DMOMENTS=1 | -DTILE_M=128 -DTILE_N=32 -DMOMENTS=1
// variants: -DTILE_M=64 -DTILE_N=32 -DMOMENTS=1 | -DTILE_M=64 -DTILE_N=64 -DVECTOR=1 -DMOMENTS=1

#include "pipeline.cuh"

#include "convolution_passes.cuh"
#include "convolution_pipelined.cuh"
#include "tile_moments.cuh"

// With moments, phases take one register more than sm_75 has for a third block of 128 x 64, which
// its shared memory does not hold.
#if MOMENTS && defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int RESIDENT_BY_PHASE = RESIDENT > 2 ? 2 : RESIDENT;
#else
constexpr int RESIDENT_BY_PHASE = RESIDENT;
#endif

// y (or, with slices > 1, partials of it) from x and w; bias (K), and activated as y, or null: what
// becomes of the sums is told in epilogue.cuh. moments: see tile_moments.cuh; with -DMOMENTS=1,
// else not used.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) convolution_forward_pipelined(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
    float* y, int batch, int height, int width, int x_channels, int y_height, int y_width,
    int y_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
    int dilation_h, int dilation_w, int groups, int slices, int accumulate, const float* activated,
    int activation, float slope, float* moments) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    const Result result = {
        y, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}};
    forward<Pipelined>(layer, x, w, with_moments(result, moments, y_channels, 1));
}

// dx (or, with slices > 1, partials of it) from dy and w; bias (C), and activated as dx, or null:
// with a bias this is the forward of a transposed convolution. moments as above.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BY_PHASE)
    convolution_backward_data_pipelined(const float* __restrict__ dy, const float* __restrict__ w,
                                        const float* __restrict__ bias, float* dx, int batch,
                                        int height, int width, int x_channels, int y_height,
                                        int y_width, int y_channels, int kernel_h, int kernel_w,
                                        int stride_h, int stride_w, int pad_h, int pad_w,
                                        int dilation_h, int dilation_w, int groups, int slices,
                                        int accumulate, const float* activated, int activation,
                                        float slope, float* moments) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    const Result result = {
        dx, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}};
    backward_data<Pipelined>(layer, dy, w,
                             with_moments(result, moments, x_channels, stride_h * stride_w));
}

#if !MOMENTS
// dw (or, with slices > 1, partials of it) from x and dy.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_backward_weight_pipelined(const float* __restrict__ x, const float* __restrict__ dy,
                                          float* dw, int batch, int height, int width,
                                          int x_channels, int y_height, int y_width, int y_channels,
                                          int kernel_h, int kernel_w, int stride_h, int stride_w,
                                          int pad_h, int pad_w, int dilation_h, int dilation_w,
                                          int groups, int slices, int accumulate) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<Pipelined>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}});
}
#endif

// Launch contract
//   convolution_forward_pipelined          grid (ceil(N*P*Q / TILE_M), ceil(Kg / TILE_N),
//                                                groups * slices)
//   convolution_backward_data_pipelined    grid (ceil(N * ceil(H / stride_h) * ceil(W / stride_w) /
//                                                TILE_M), ceil(Cg / TILE_N),
//                                                groups * stride_h * stride_w * slices)
//   convolution_backward_weight_pipelined  grid (ceil(R*S*Cg / TILE_M), ceil(Kg / TILE_N),
//                                                groups * slices)
//   Block 128. With MOMENTS=1, and for the first two: slices 1, accumulate 0, no activation, and
//   channels of the result, per group, that are multiples of 4; tiles are gridDim.x * phases.
//   Slices, activation and accumulate as in convolution.cu, and the same limits; besides, both
//   sides with their padding, and taps * dilation, stay below MOST_EXTENT, channels below 2^24.
//   With VECTOR=4, forward needs Cg, the others Cg and Kg to be multiples of 4, and all arrays (a
//   workspace among them) start at multiples of 16 bytes. No dynamic shared memory; static shared
//   memory STAGES * TILE_K * (TILE_M + TILE_N) * 4 bytes, at most 48 KiB.
