// Convolution and transposed convolution on tensor cores: the three kernels of convolution.cu with
// operands rounded to TF32 or bf16, and float32 sums. Memory holds float32; or bf16 of activations,
// their gradients and weights, if not of the gradients of weights (-DELEMENT: of what is read,
// -DRESULT: of what is written).
//
//     x (N, H, W, C)    the large side, groups * Cg channels
//     y (N, P, Q, K)    the small side, groups * Kg channels
//     w (K, R, S, Cg)   R x S taps
//
//     kernel            lines of a tile        columns   summed over   contiguous along
//     forward           pixels of y            k         r, s, c       c and c: the depth
//     backward_data     pixels of x, by phase  c         r, s, k       k: the depth; c: columns
//     backward_weight   k                      r, s, c   pixels of y   k and c: lines, columns
//
// A fully connected layer is the case of 1 x 1 pixels and 1 x 1 taps.
//
// Why it is fast: see tensor_core.cuh for the products, convolution.cu for the taps of a stride. A
// thread copies 16 bytes at a time where the channels of a group are a multiple of 4 and the array
// starts at a multiple of 16 bytes, else 4; the result is the same, and any number of channels
// works. What lies outside an image, a tile or a slice arrives as zeros (cp.async fills them in).
//
// Bf16 arrays have channels, per group, in multiples of 8, and start at multiples of 16 bytes.
//
// Tiles: 128 x 128 where the result has many (each element from memory then serves 128 products),
// 128 x 64 for 64 channels, 64 x 64 for smaller layers, 128 x 8 for images; of bf16 arrays also 256
// x 128, by 8 warps, and 256 x 64, which read a quarter or a sixth less. Slices of the summed
// dimension as in convolution.cu.

// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=8 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=8 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4 -DRESULT=Bf16
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3 -DRESULT=Bf16
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3 -DRESULT=Bf16
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=8 -DTILE_K=32 -DSTAGES=3 -DRESULT=Bf16
// variants(sm_80): -DELEMENT=Bf16 -DPRECISION=bf16 -DTILE_M=256 -DTILE_N=128
// variants(sm_80): -DELEMENT=Bf16 -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128
// variants(sm_80): -DELEMENT=Bf16 -DPRECISION=bf16 -DTILE_M=256 -DTILE_N=64
// variants(sm_80): -DELEMENT=Bf16 -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64
// variants(sm_80): -DELEMENT=Bf16 -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=256 -DTILE_N=128
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=256 -DTILE_N=64
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4 -DMOMENTS=1
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3 -DMOMENTS=1
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3 -DMOMENTS=1
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4 -DMOMENTS=1
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3 -DMOMENTS=1
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3 -DMOMENTS=1
// clang-format off
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4 -DRESULT=Bf16 -DMOMENTS=1
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3 -DRESULT=Bf16 -DMOMENTS=1
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3 -DRESULT=Bf16 -DMOMENTS=1
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=256 -DTILE_N=128 -DMOMENTS=1
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128 -DMOMENTS=1
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=256 -DTILE_N=64 -DMOMENTS=1
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64 -DMOMENTS=1
// variants(sm_80): -DELEMENT=Bf16 -DRESULT=Bf16 -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64 -DMOMENTS=1
// clang-format on

#ifndef ELEMENT
#define ELEMENT float  // what memory and shared memory hold of the operands: float or Bf16
#endif
#ifndef RESULT
#define RESULT float  // what memory holds of the result: float or Bf16
#endif

#include "tensor_core.cuh"

#include "convolution_passes.cuh"
#include "convolution_tensor_core.cuh"
#include "tile_moments.cuh"

// y (or, with slices > 1, partials of it) from x and w; bias (K), and activated as y, or null: what
// becomes of the sums is told in epilogue.cuh. moments: with -DMOMENTS=1 the array of
// tile_moments.cuh, else not used.
extern "C" __global__ void __launch_bounds__(THREADS, 1) convolution_forward_tensor_core(
    const ELEMENT* __restrict__ x, const ELEMENT* __restrict__ w, const float* __restrict__ bias,
    RESULT* y, int batch, int height, int width, int x_channels, int y_height, int y_width,
    int y_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
    int dilation_h, int dilation_w, int groups, int slices, int accumulate, const RESULT* activated,
    int activation, float slope, float* moments) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    const ResultOf<RESULT> result = {
        y, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}};
    forward<TensorCore>(layer, x, w, with_moments(result, moments, y_channels, 1));
}

// dx (or, with slices > 1, partials of it) from dy and w; bias (C), and activated as dx, or null:
// with a bias this is the forward of a transposed convolution. moments as above.
extern "C" __global__ void __launch_bounds__(THREADS, 1) convolution_backward_data_tensor_core(
    const ELEMENT* __restrict__ dy, const ELEMENT* __restrict__ w, const float* __restrict__ bias,
    RESULT* dx, int batch, int height, int width, int x_channels, int y_height, int y_width,
    int y_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
    int dilation_h, int dilation_w, int groups, int slices, int accumulate, const RESULT* activated,
    int activation, float slope, float* moments) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    const ResultOf<RESULT> result = {
        dx, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}};
    backward_data<TensorCore>(layer, dy, w,
                              with_moments(result, moments, x_channels, stride_h * stride_w));
}

#if !MOMENTS
// dw (or, with slices > 1, partials of it) from x and dy.
extern "C" __global__ void __launch_bounds__(THREADS, 1) convolution_backward_weight_tensor_core(
    const ELEMENT* __restrict__ x, const ELEMENT* __restrict__ dy, float* dw, int batch, int height,
    int width, int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
    int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w,
    int groups, int slices, int accumulate) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<TensorCore, ELEMENT>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}});
}
#endif

// Launch contract
//   convolution_forward_tensor_core          grid (ceil(N*P*Q / TILE_M), ceil(Kg / TILE_N),
//                                                  groups * slices)
//   convolution_backward_data_tensor_core    grid (ceil(N * ceil(H / stride_h) * ceil(W / stride_w)
//                                                  / TILE_M), ceil(Cg / TILE_N),
//                                                  groups * stride_h * stride_w * slices)
//   convolution_backward_weight_tensor_core  grid (ceil(Kg / TILE_M), ceil(R*S*Cg / TILE_N),
//                                                  groups * slices)
//     block THREADS = 128, or 256 with tiles of 256 x 128. Compute capability 8.0.
//     MOMENTS=1: the first two, with slices 1, accumulate 0 and no activation; of the channels of
//     the result, per group, in multiples of 4.
//     slices == 1: the result is written, or added to with accumulate != 0.
//     slices > 1: the written pointer is a workspace of slices copies of the result; accumulate and
//     the end of a sum (epilogue.cuh) are left to sum_partials.
//     activation, by number: with more than FEW_SUMS sums a thread none, relu or leaky_relu; where
//     activated is given, any but softplus.
//   Counts as in convolution.cu. Dynamic shared memory: STAGES slabs of both operands; a slab of L
//   lines is 4 * L * (TILE_K + 8) bytes where memory runs along the depth, else
//   4 * TILE_K * (L + 4).
