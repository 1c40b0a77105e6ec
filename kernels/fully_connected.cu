// Fully connected layers, forward and both gradients, float32.
//
//     forward          y  (N, H) = x (N, D) * w (H, D)^T + bias (H)
//     backward_data    dx (N, D) = dy (N, H) * w (H, D)
//     backward_weight  dw (H, D) = dy (N, H)^T * x (N, D)
//
// Each is one tiled product (tile_product.cuh tells the steps and why they are fast); the three
// differ only in which operand is contiguous along the summed dimension. That picks the source: a
// warp always reads neighbouring addresses. A batch of 32 rows gives few tiles, so the summed
// dimension can be cut into slices for more blocks (blockIdx.z; sum_partials adds them in order).
// The gradient of the bias is bias_backward in partial_sums.cu.

// variants: -DTILE_M=64 -DTILE_N=64 | -DTILE_M=32 -DTILE_N=32
// variants: -DTILE_M=64 -DTILE_N=8 | -DTILE_M=8 -DTILE_N=64

#include "tile_product.cuh"

// Stores the calling thread's sums as elements of a (lines, columns) row-major matrix.
__device__ __forceinline__ void store_matrix(const Sums& sums, const Result& result, int lines,
                                             int columns) {
    store_lines(sums, result, lines, columns, 0,
                [&](int line) { return static_cast<Offset>(line) * columns; });
}

// x (batch, inputs), w (outputs, inputs), bias (outputs) or null, y (batch, outputs).
extern "C" __global__ void __launch_bounds__(THREADS)
    fully_connected_forward(const float* __restrict__ x, const float* __restrict__ w,
                            const float* __restrict__ bias, float* y, int batch, int inputs,
                            int outputs, int accumulate) {
    const MatrixRows<TILE_M> left(x, blockIdx.x * TILE_M, batch, inputs);
    const MatrixRows<TILE_N> right(w, blockIdx.y * TILE_N, outputs, inputs);
    const int slice = blockIdx.z, slices = gridDim.z;
    const Sums sums = tile_product(left, right, depth_range(inputs, slice, slices));
    const Offset size = static_cast<Offset>(batch) * outputs;
    store_matrix(sums,
                 {y, size, slice, slices, {bias, nullptr, Activation::none, 0.0f, accumulate}},
                 batch, outputs);
}

// dy (batch, outputs), w (outputs, inputs), dx (batch, inputs).
extern "C" __global__ void __launch_bounds__(THREADS)
    fully_connected_backward_data(const float* __restrict__ dy, const float* __restrict__ w,
                                  float* dx, int batch, int inputs, int outputs, int accumulate) {
    const MatrixRows<TILE_M> left(dy, blockIdx.x * TILE_M, batch, outputs);
    const MatrixColumns<TILE_N> right(w, blockIdx.y * TILE_N, inputs, inputs);
    const int slice = blockIdx.z, slices = gridDim.z;
    const Sums sums = tile_product(left, right, depth_range(outputs, slice, slices));
    const Offset size = static_cast<Offset>(batch) * inputs;
    store_matrix(sums,
                 {dx, size, slice, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}},
                 batch, inputs);
}

// x (batch, inputs), dy (batch, outputs), dw (outputs, inputs).
extern "C" __global__ void __launch_bounds__(THREADS)
    fully_connected_backward_weight(const float* __restrict__ x, const float* __restrict__ dy,
                                    float* dw, int batch, int inputs, int outputs, int accumulate) {
    const MatrixColumns<TILE_M> left(dy, blockIdx.x * TILE_M, outputs, outputs);
    const MatrixColumns<TILE_N> right(x, blockIdx.y * TILE_N, inputs, inputs);
    const int slice = blockIdx.z, slices = gridDim.z;
    const Sums sums = tile_product(left, right, depth_range(batch, slice, slices));
    const Offset size = static_cast<Offset>(outputs) * inputs;
    store_matrix(sums,
                 {dw, size, slice, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}},
                 outputs, inputs);
}

// Launch contract
//   grid (ceil(lines / TILE_M), ceil(columns / TILE_N), slices), where (lines, columns) is the
//   shape of the result; block THREADS = TILE_M / MICRO_M * TILE_N / MICRO_N (256 for 64 x 64).
//   slices == 1: the result is written, or added to with accumulate != 0.
//   slices > 1: the written pointer is a workspace of slices copies of the result; bias and
//   accumulate are left to sum_partials.
//   No dynamic shared memory; static shared memory TILE_K * (TILE_M + TILE_N + 8) * 4 bytes.
