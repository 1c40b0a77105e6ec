// convolution_tensor_core.cu with a batch norm, and its activation, on the way in: what
// convolution_normalised.cu tells, on tensor cores, of float32 arrays. A normalised number is
// rounded as one from memory is, where it enters a fragment.

// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=8 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=8 -DTILE_K=32 -DSTAGES=3

#define ELEMENT float
#define RESULT float

#include "tensor_core.cuh"

#include "convolution_passes.cuh"
#include "convolution_tensor_core.cuh"
#include "normalised_sources.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) convolution_forward_normalised_tensor_core(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
    float* y, int batch, int height, int width, int x_channels, int y_height, int y_width,
    int y_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
    int dilation_h, int dilation_w, int groups, int slices, int accumulate, const float* activated,
    int activation, float slope, const float* __restrict__ normalisation, int kind, float incline) {
    using Way = Normalising<TensorCore, TensorCore::Patches>;
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    forward<Way, float>(
        layer, x, w,
        {y, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}}, blockIdx,
        Way({normalisation, Activation(kind), incline}));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    convolution_backward_data_normalised_tensor_core(
        const float* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias,
        float* dx, int batch, int height, int width, int x_channels, int y_height, int y_width,
        int y_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h,
        int pad_w, int dilation_h, int dilation_w, int groups, int slices, int accumulate,
        const float* activated, int activation, float slope,
        const float* __restrict__ normalisation, int kind, float incline) {
    using Way = Normalising<TensorCore, TensorCore::Patches>;
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_data<Way, float>(
        layer, dy, w,
        {dx, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}}, blockIdx,
        Way({normalisation, Activation(kind), incline}));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    convolution_backward_weight_normalised_tensor_core_x(
        const float* __restrict__ x, const float* __restrict__ dy, float* dw, int batch, int height,
        int width, int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
        int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h,
        int dilation_w, int groups, int slices, int accumulate,
        const float* __restrict__ normalisation, int kind, float incline) {
    using Way = Normalising<TensorCore, TensorCore::PatchColumns>;
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<Way, float>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}},
        blockIdx, Way({normalisation, Activation(kind), incline}));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    convolution_backward_weight_normalised_tensor_core_dy(
        const float* __restrict__ x, const float* __restrict__ dy, float* dw, int batch, int height,
        int width, int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
        int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h,
        int dilation_w, int groups, int slices, int accumulate,
        const float* __restrict__ normalisation, int kind, float incline) {
    using Way = Normalising<TensorCore, TensorCore::Gradients>;
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<Way, float>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}},
        blockIdx, Way({normalisation, Activation(kind), incline}));
}

// Launch contract: that of convolution_tensor_core.cu, with channels per group of what is
// normalised in multiples of 4, and normalisation and all arrays at multiples of 16 bytes.
