// The two halves of a reduction that is split over blocks and still gives the same bits every time.
//
//     bias_backward       dy (rows, channels) -> partials (slices, channels): sums of columns
//     sum_partials        partials (slices, size) -> y (size): sum over slices (+ bias, + old y)
//     sum_many_partials   the same, for more than a few slices
//
// A gradient with respect to a bias is bias_backward followed by sum_partials; a convolution or a
// matrix product whose depth is cut into slices ends with sum_partials as well. Nothing is added
// atomically: each partial has one writer, and the order of every sum is fixed by the shapes.
// Both are limited by memory, so neighbouring threads read neighbouring channels (coalesced), and
// cutting the rows into slices keeps a GPU busy where there are few channels.
//
// Steps: one thread per channel reads a column alone (few channels: few threads, all waiting); a
// block of COLUMNS x ROWS threads reads ROWS rows at once and folds them in shared memory. The same
// for the slices of a small result: 64 reads one behind the other take as long as 8 in sequence,
// since a thread has 8 under way at a time. Predicted: a second stage of 64 slices falls from about
// 5 microseconds to 2.

#include "common.cuh"
#include "epilogue.cuh"

constexpr int COLUMNS = 32;   // channels per block of bias_backward: one 128-byte line
constexpr int ROWS = 8;       // rows that a block reads at a time
constexpr int THREADS = 256;  // of sum_partials

// dy (rows, channels), partials (gridDim.y, channels). Block (i, s) sums channels
// [i * COLUMNS, ...) over the rows of slice s. With one slice `partials` is the result itself, and
// accumulate adds to what it holds.
extern "C" __global__ void __launch_bounds__(COLUMNS* ROWS)
    bias_backward(const float* __restrict__ dy, float* partials, int rows, int channels,
                  int accumulate) {
    __shared__ float folded[ROWS][COLUMNS];
    const int column = threadIdx.x % COLUMNS;
    const int row = threadIdx.x / COLUMNS;
    const int channel = blockIdx.x * COLUMNS + column;
    const int length = ceil_div(rows, static_cast<int>(gridDim.y));
    const Offset begin = static_cast<Offset>(blockIdx.y) * length;
    const Offset end = min(begin + length, static_cast<Offset>(rows));

    float sum = 0.0f;
    if (channel < channels) {
        for (Offset r = begin + row; r < end; r += ROWS) sum += dy[r * channels + channel];
    }
    folded[row][column] = sum;
    __syncthreads();
    if (row == 0 && channel < channels) {
#pragma unroll
        for (int i = 1; i < ROWS; ++i) sum += folded[i][column];
        float* to = partials + static_cast<Offset>(blockIdx.y) * channels + channel;
        *to = accumulate ? *to + sum : sum;
    }
}

__device__ __forceinline__ void finish(float sum, const Epilogue& epilogue, float* y, Offset index,
                                       int channels) {
    const int channel = static_cast<int>(index % channels);
    store<1>(y + index, epilogue.finish<true, 1>({{sum}}, y + index, index, channel));
}

// partials (slices, size), y (size); bias (channels) or null, where channels divides size.
// activated, activation and slope as in epilogue.cuh.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_partials(const float* __restrict__ partials, const float* __restrict__ bias, float* y,
                 long long size, int channels, int slices, int accumulate, const float* activated,
                 int activation, float slope) {
    const Offset index = static_cast<Offset>(blockIdx.x) * THREADS + threadIdx.x;
    if (index >= size) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int slice = 0; slice < slices; ++slice) sum += partials[slice * size + index];
    finish(sum, {bias, activated, Activation(activation), slope, accumulate}, y, index, channels);
}

// As sum_partials: thread (row, column) adds slices row, row + ROWS, ..., and row 0 the rows.
extern "C" __global__ void __launch_bounds__(COLUMNS* ROWS)
    sum_many_partials(const float* __restrict__ partials, const float* __restrict__ bias, float* y,
                      long long size, int channels, int slices, int accumulate,
                      const float* activated, int activation, float slope) {
    __shared__ float folded[ROWS][COLUMNS];
    const int column = threadIdx.x % COLUMNS;
    const int row = threadIdx.x / COLUMNS;
    const Offset index = static_cast<Offset>(blockIdx.x) * COLUMNS + column;

    float sum = 0.0f;
    if (index < size) {
#pragma unroll 8
        for (int slice = row; slice < slices; slice += ROWS) sum += partials[slice * size + index];
    }
    folded[row][column] = sum;
    __syncthreads();
    if (row == 0 && index < size) {
#pragma unroll
        for (int i = 1; i < ROWS; ++i) sum += folded[i][column];
        finish(sum, {bias, activated, Activation(activation), slope, accumulate}, y, index,
               channels);
    }
}

// Launch contract
//   bias_backward       grid (ceil(channels / 32), slices), block 256. With slices > 1 accumulate
//                       is 0 and sum_partials follows.
//   sum_partials        grid (ceil(size / 256)), block 256. y must not overlap partials.
//   sum_many_partials   grid (ceil(size / 32)), block 256. y must not overlap partials.
//   No dynamic shared memory; static shared memory at most 1 KiB.
