// Jobs of a program (program.cu) that are products, and the sums that belong to them.
#pragma once

#include "convolution_passes.cuh"
#include "convolution_pipelined.cuh"
#include "job.cuh"
#include "last_slice.cuh"

constexpr int COLUMNS = 32;  // of partial_sums.cu: channels, or elements, per block
constexpr int ROWS = 8;      // and the rows that it reads at a time

// arrays: the two that are read, bias (or null), the result or its slices, activated (or null) and,
// where the last block of a tile adds its slices, what they become, and a count per tile. numbers:
// Layer, slices, accumulate, activation (none, relu or leaky_relu, where it is not a derivative).
__device__ __forceinline__ void play_product(const Job& job, uint3 block) {
    const Layer layer = *reinterpret_cast<const Layer*>(job.numbers);
    const int slices = job.numbers[16];
    const Epilogue end = {job.arrays[2], job.arrays[4], Activation(job.numbers[18]), job.reals[0],
                          job.numbers[17]};
    // Slices of a tile are next to each other along z.
    const int tile = (block.z / slices * job.grid_y + block.y) * job.grid_x + block.x;
    unsigned* const counts = reinterpret_cast<unsigned*>(job.arrays[6]);
    const FinishedByLast result = {
        {job.arrays[3], 0, 0, slices, end}, job.arrays[5], counts + tile};
    const float *left = job.arrays[0], *right = job.arrays[1];
    if (job.operation == Operation::forward) {
        forward<Pipelined>(layer, left, right, result, block);
    } else if (job.operation == Operation::backward_data) {
        backward_data<Pipelined>(layer, left, right, result, block);
    } else {
        backward_weight<Pipelined>(layer, left, right, result, block);
    }
}

// partials (count, size), of which [begin, end) are added: for element `index`, every step-th of
// them from `first` on.
__device__ __forceinline__ float sum_of(const float* partials, int size, int index, int begin,
                                        int end, int first, int step) {
    float sum = 0.0f;
#pragma unroll 8
    for (int i = begin + first; i < end; i += step) {
        sum += partials[static_cast<Offset>(i) * size + index];
    }
    return sum;
}

// arrays: partials, bias (or null), y, activated (or null). numbers: size, channels, slices,
// accumulate, activation.
__device__ __forceinline__ void play_sum(const Job& job, uint3 block, float* shared) {
    const int size = job.numbers[0], channels = job.numbers[1], slices = job.numbers[2];
    const float* const partials = job.arrays[0];
    const bool many = job.operation == Operation::sum_many_partials;
    const int column = threadIdx.x % COLUMNS;
    const int index = many ? block.x * COLUMNS + column : block.x * THREADS + threadIdx.x;
    float sum = 0.0f;
    if (many) {
        for (int row = threadIdx.x / COLUMNS; row < ROWS; row += THREADS / COLUMNS) {
            shared[row * COLUMNS + column] =
                index < size ? sum_of(partials, size, index, 0, slices, row, ROWS) : 0.0f;
        }
        __syncthreads();
        if (threadIdx.x >= COLUMNS) return;
        for (int row = 0; row < ROWS; ++row) {
            sum = row == 0 ? shared[column] : sum + shared[row * COLUMNS + column];
        }
    } else if (index < size) {
        sum = sum_of(partials, size, index, 0, slices, 0, 1);
    }
    if (index >= size) return;
    float* const y = job.arrays[2] + index;
    const Epilogue end = {job.arrays[1], job.arrays[3], Activation(job.numbers[4]), job.reals[0],
                          job.numbers[3]};
    store<1>(y, end.finish<true, 1>({{sum}}, y, index, index % channels));
}

// arrays: dy, partials. numbers: rows, channels, accumulate, slices.
__device__ __forceinline__ void play_bias(const Job& job, uint3 block, float* shared) {
    const int rows = job.numbers[0], channels = job.numbers[1];
    const int length = ceil_div(rows, job.numbers[3]);
    const int begin = min(static_cast<int>(block.y) * length, rows);
    const int end = min(begin + length, rows);
    const int column = threadIdx.x % COLUMNS;
    const int channel = block.x * COLUMNS + column;
    for (int row = threadIdx.x / COLUMNS; row < ROWS; row += THREADS / COLUMNS) {
        shared[row * COLUMNS + column] =
            channel < channels ? sum_of(job.arrays[0], channels, channel, begin, end, row, ROWS)
                               : 0.0f;
    }
    __syncthreads();
    if (threadIdx.x >= COLUMNS || channel >= channels) return;
    float sum = shared[column];
    for (int row = 1; row < ROWS; ++row) sum += shared[row * COLUMNS + column];
    float* const to = job.arrays[1] + static_cast<Offset>(block.y) * channels + channel;
    *to = job.numbers[2] ? *to + sum : sum;
}
