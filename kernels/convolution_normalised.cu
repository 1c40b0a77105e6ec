// convolution_pipelined.cu with a batch norm, and its activation, on the way in: the image that a
// layer reads is what batch norm's forward would have read, and is normalised on its way through
// shared memory (normalised_sources.cuh). The normalised image is nowhere in memory: its write and
// a read of it are saved, and its memory until the layer's weight gradient, which reads the same.
//
//     kernel                   normalised   whose pass
//     forward                  x            a convolution's forward
//     backward_data            dy           a transposed convolution's forward
//     backward_weight, _x      x            a convolution's weight gradient
//     backward_weight, _dy     dy           a transposed convolution's weight gradient
//
// Same sums in the same order, and the bits of batch norm's result: so the bits of the two in turn.
// A number is normalised each time that it is copied, by each tile of columns and for each tap.
// That is what it costs: for each product of a tile 7 / TILE_N (or 7 / TILE_M, for dy in a weight
// gradient) instructions more.
//
// Arguments as in convolution_pipelined.cu; normalisation (channels of the image, 4): mean, inverse
// deviation, gamma and beta of each channel, as batch_norm_statistics.cu leaves them; kind: the
// activation's number, none, relu or leaky_relu, and its incline. With -DMOMENTS=1, of the first
// two alone, tiles leave the moments of the next batch norm (tile_moments.cuh).

// variants: -DTILE_M=128 -DTILE_N=128 | -DTILE_M=128 -DTILE_N=64 | -DTILE_M=64 -DTILE_N=64
// variants: -DTILE_M=128 -DTILE_N=32 | -DTILE_M=64 -DTILE_N=32
// variants: -DTILE_M=128 -DTILE_N=128 -DMOMENTS=1 | -DTILE_M=128 -DTILE_N=64 -DMOMENTS=1
// variants: -DTILE_M=64 -DTILE_N=64 -DMOMENTS=1 | -DTILE_M=128 -DTILE_N=32 -DMOMENTS=1
// variants: -DTILE_M=64 -DTILE_N=32 -DMOMENTS=1

#include "pipeline.cuh"

#include "convolution_passes.cuh"
#include "convolution_pipelined.cuh"
#include "normalised_sources.cuh"
#include "tile_moments.cuh"

// Two registers more than without the batch norm: where they would spill, a block less is resident.
constexpr bool SHORT = MOMENTS && TILE_M == 128 && TILE_N == 32;
constexpr int RESIDENT_FORWARD = SHORT ? RESIDENT - 1 : RESIDENT;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int RESIDENT_BY_PHASE = RESIDENT > 2 ? RESIDENT - 1 : RESIDENT;
#else
constexpr int RESIDENT_BY_PHASE = RESIDENT_FORWARD;
#endif

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_FORWARD)
    convolution_forward_normalised(const float* __restrict__ x, const float* __restrict__ w,
                                   const float* __restrict__ bias, float* y, int batch, int height,
                                   int width, int x_channels, int y_height, int y_width,
                                   int y_channels, int kernel_h, int kernel_w, int stride_h,
                                   int stride_w, int pad_h, int pad_w, int dilation_h,
                                   int dilation_w, int groups, int slices, int accumulate,
                                   const float* activated, int activation, float slope,
                                   float* moments, const float* __restrict__ normalisation,
                                   int kind, float incline) {
    using Way = Normalising<Pipelined, Pipelined::Patches>;
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    const Result result = {
        y, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}};
    forward<Way, float>(layer, x, w, with_moments(result, moments, y_channels, 1), blockIdx,
                        Way({normalisation, Activation(kind), incline}));
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BY_PHASE)
    convolution_backward_data_normalised(
        const float* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias,
        float* dx, int batch, int height, int width, int x_channels, int y_height, int y_width,
        int y_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h,
        int pad_w, int dilation_h, int dilation_w, int groups, int slices, int accumulate,
        const float* activated, int activation, float slope, float* moments,
        const float* __restrict__ normalisation, int kind, float incline) {
    using Way = Normalising<Pipelined, Pipelined::Patches>;
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    const Result result = {
        dx, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}};
    backward_data<Way, float>(layer, dy, w,
                              with_moments(result, moments, x_channels, stride_h * stride_w),
                              blockIdx, Way({normalisation, Activation(kind), incline}));
}

#if !MOMENTS
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_backward_weight_normalised_x(
        const float* __restrict__ x, const float* __restrict__ dy, float* dw, int batch, int height,
        int width, int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
        int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h,
        int dilation_w, int groups, int slices, int accumulate,
        const float* __restrict__ normalisation, int kind, float incline) {
    using Way = Normalising<Pipelined, Pipelined::PatchColumns>;
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<Way, float>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}},
        blockIdx, Way({normalisation, Activation(kind), incline}));
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_backward_weight_normalised_dy(
        const float* __restrict__ x, const float* __restrict__ dy, float* dw, int batch, int height,
        int width, int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
        int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h,
        int dilation_w, int groups, int slices, int accumulate,
        const float* __restrict__ normalisation, int kind, float incline) {
    using Way = Normalising<Pipelined, Pipelined::Gradients>;
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<Way, float>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}},
        blockIdx, Way({normalisation, Activation(kind), incline}));
}
#endif

// Launch contract: that of convolution_pipelined.cu, with channels per group of both sides in
// multiples of 4, and normalisation and all arrays at multiples of 16 bytes.
