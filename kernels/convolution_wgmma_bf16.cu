// Convolution and transposed convolution on Hopper's tensor cores (wgmma) where memory holds bf16
// numbers: the three kernels of convolution_tensor_core.cu with -DELEMENT=Bf16, with the same
// arguments and the same products, for compute capability 9.0 alone. Channels come, per group, in
// multiples of 8.
//
//     kernel            lines of a tile        columns   summed over   contiguous along
//     forward           pixels of y            k         r, s, c       c and c: the depth
//     backward_data     pixels of x, by phase  c         r, s, k       k: the depth; c: columns
//     backward_weight   k                      r, s, c   pixels of y   k and c: lines, columns
//
// Why it is fast: see wgmma_bf16_product.cuh for the products, convolution.cu for the taps of a
// stride. Tiles as in convolution_wgmma.cu, and 256 x 64 for 64 channels.
//
// Not yet run on a GPU: no launcher chooses it by itself (bindings/operators/plans/wgmma.py).

// variants(sm_90a): -DTILE_M=256 -DTILE_N=128 | -DTILE_M=256 -DTILE_N=128 -DRESULT=Bf16
// variants(sm_90a): -DTILE_M=128 -DTILE_N=128 | -DTILE_M=128 -DTILE_N=128 -DRESULT=Bf16
// variants(sm_90a): -DTILE_M=256 -DTILE_N=64 | -DTILE_M=256 -DTILE_N=64 -DRESULT=Bf16
// variants(sm_90a): -DTILE_M=128 -DTILE_N=64 | -DTILE_M=128 -DTILE_N=64 -DRESULT=Bf16

#ifndef RESULT
#define RESULT float  // what memory holds of the result: float or Bf16
#endif

#include "wgmma_bf16_product.cuh"

#include "convolution_passes.cuh"
#include "convolution_sources.cuh"

// Height and width of images, with what a tap may look beyond them, fit into 15 bits.
constexpr int MOST_EXTENT = 1 << 14;

struct Warpgroups {
    static constexpr bool TRANSPOSED = false;
    using Patches = ::Patches<AlongDepth<TILE_M>, MOST_EXTENT>;
    using PatchColumns = ::PatchColumns<AcrossLines<TILE_N>>;
    using FilterRows = MatrixRows<AlongDepth<TILE_N>>;
    using PhaseWeights = ::PhaseWeights<AcrossLines<TILE_N>>;
    using Gradients = MatrixColumns<AcrossLines<TILE_M>>;

    template <class Left, class Right>
    __device__ __forceinline__ static Sums product(const Left& left, const Right& right,
                                                   DepthRange range) {
        return wgmma_product(left, right, range);
    }
};

// y (or, with slices > 1, partials of it) from x and w; bias (K), and activated as y, or null: what
// becomes of the sums is told in epilogue.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_forward_wgmma_bf16(const Bf16* __restrict__ x, const Bf16* __restrict__ w,
                                   const float* __restrict__ bias, RESULT* y, int batch, int height,
                                   int width, int x_channels, int y_height, int y_width,
                                   int y_channels, int kernel_h, int kernel_w, int stride_h,
                                   int stride_w, int pad_h, int pad_w, int dilation_h,
                                   int dilation_w, int groups, int slices, int accumulate,
                                   const RESULT* activated, int activation, float slope) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    forward<Warpgroups, Bf16, WholeRunsOf<RESULT>>(
        layer, x, w,
        {{y, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}}});
}

// dx (or, with slices > 1, partials of it) from dy and w; bias (C), and activated as dx, or null:
// with a bias this is the forward of a transposed convolution.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_backward_data_wgmma_bf16(const Bf16* __restrict__ dy, const Bf16* __restrict__ w,
                                         const float* __restrict__ bias, RESULT* dx, int batch,
                                         int height, int width, int x_channels, int y_height,
                                         int y_width, int y_channels, int kernel_h, int kernel_w,
                                         int stride_h, int stride_w, int pad_h, int pad_w,
                                         int dilation_h, int dilation_w, int groups, int slices,
                                         int accumulate, const RESULT* activated, int activation,
                                         float slope) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_data<Warpgroups, Bf16, WholeRunsOf<RESULT>>(
        layer, dy, w,
        {{dx, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}}});
}

// dw (or, with slices > 1, partials of it) from x and dy: of weights, whose gradients stay float32.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_backward_weight_wgmma_bf16(const Bf16* __restrict__ x, const Bf16* __restrict__ dy,
                                           float* dw, int batch, int height, int width,
                                           int x_channels, int y_height, int y_width,
                                           int y_channels, int kernel_h, int kernel_w, int stride_h,
                                           int stride_w, int pad_h, int pad_w, int dilation_h,
                                           int dilation_w, int groups, int slices, int accumulate) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<Warpgroups, Bf16, WholeRunsOf<float>>(
        layer, x, dy, {{dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}}});
}

// Launch contract
//   Grids, slices and what becomes of sums as in convolution_wgmma.cu (no activation at the end of
//   a bf16 or float32 sum but none, relu and leaky_relu; where activated is given, any but
//   softplus). Block 256. Channels of a group are multiples of 8, and all arrays (a workspace among
//   them) start at multiples of 16 bytes; both sides with their padding, and taps * dilation, stay
//   below MOST_EXTENT. Dynamic shared memory: STAGES * 64 * (TILE_M + TILE_N) numbers of 2 bytes,
//   and 1024 bytes for their alignment; STAGES is 7 for 128 x 128, 5 for 256 x 64, else 4.
