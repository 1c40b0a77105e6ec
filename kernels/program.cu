// A program: the launches of many small operators as one cooperative launch.
//
//     table (jobs)   what each job computes, on which arrays, and whether it has to wait
//
// A launch of a layer that takes a few microseconds spends most of them beginning and ending: the
// launch before it must have ended to the last block, and the first loads of the next begin only
// then. Here the blocks of one launch play those of all the launches that it stands for, and a
// barrier of the grid (about 1 us, grid_barrier.cuh) stands between two jobs where the second reads
// or writes what the first one wrote. Jobs that do not wait for each other share the grid: a
// gradient of weights fills the blocks that the gradient of data leaves idle.
//
// A job is one launch of convolution*.cu, batch_norm.cu or partial_sums.cu: same arguments, same
// slices of the depth, same order of every sum, so the same bits. How a result is cut into tiles,
// and which thread adds which rows, is free as long as no sum is added in another order:
//   - a product has tiles of 64 x 32 and copies of 16 bytes where 4 numbers lie together, of 4
//   where
//     they do not; tiles do not change a bit (product.cuh);
//   - a block of batch_norm.cu of up to 512 threads is played by 128: see PlayedBlock.
// Nothing that a job reads goes through the read-only path (ld.global.nc), which does not see what
// other blocks have written in the same launch.

#define TILE_M 64
#define TILE_N 32
#define COPY_WIDTH_AT_RUN_TIME 1
#define BIAS_IS_WRITTEN 1
#define ROWS_IN_FLIGHT 2
// variants: -DMOST_JOBS=48

#include "pipeline.cuh"

#include "batch_norm.cuh"
#include "convolution_passes.cuh"
#include "convolution_pipelined.cuh"
#include "grid_barrier.cuh"

#ifndef MOST_JOBS
#define MOST_JOBS 48
#endif

constexpr int COLUMNS = 32;  // of partial_sums.cu: channels, or elements, per block
constexpr int ROWS = 8;      // and the rows that it reads at a time

// In the order of bindings/program.py.
enum class Operation {
    forward,
    backward_data,
    backward_weight,
    sum_partials,
    sum_many_partials,
    bias_backward,
    batch_norm_forward_training,
    batch_norm_statistics,
    batch_norm_normalize,
    batch_norm_backward,
    batch_norm_gradient_sums,
    batch_norm_backward_data,
};

struct Job {
    Operation operation;
    int waits;          // for all jobs before it
    int first, blocks;  // block `first` of the grid plays the first one of so many
    int grid_x, grid_y;
    int width, rows;  // of a played block of batch norm, in threads
    int numbers[24];
    float reals[4];
    float* arrays[12];
};
static_assert(sizeof(Job) == 30 * sizeof(long long), "as bindings/program.py packs it");

// arrays: the two that are read, bias (or null), the result. numbers: Layer, slices, accumulate.
__device__ __forceinline__ void play_product(const Job& job, uint3 block) {
    const Layer layer = *reinterpret_cast<const Layer*>(job.numbers);
    Epilogue end = {job.arrays[2], nullptr, Activation::none, 0.0f, job.numbers[17]};
    const Result result = {job.arrays[3], 0, 0, job.numbers[16], end};
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

// arrays: partials, bias (or null), y. numbers: size, channels, slices, accumulate.
__device__ __forceinline__ void play_sum(const Job& job, uint3 block, float* shared) {
    const int size = job.numbers[0], channels = job.numbers[1], slices = job.numbers[2];
    const float *partials = job.arrays[0], *bias = job.arrays[1];
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
    if (bias != nullptr) sum += bias[index % channels];
    float* const y = job.arrays[2] + index;
    *y = job.numbers[3] ? *y + sum : sum;
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

// Arrays, numbers and reals in the order of the kernels' parameters; before all numbers stands
// whether the activation is relu. Else it is leaky_relu, or none, which is the same with slope 1.
// The others have code for many registers, and stay with the launches that are compiled for them.
__device__ __forceinline__ Activation activation_of(const Job& job) {
    return job.numbers[0] ? Activation::relu : Activation::leaky_relu;
}

__device__ __forceinline__ batch_norm::PlayedBlock played_block(const Job& job, uint3 block) {
    return {static_cast<int>(block.x),
            static_cast<int>(block.y),
            job.blocks / job.grid_x,
            job.width,
            job.rows,
            THREADS};
}

__device__ __forceinline__ void play_batch_norm_forward(const Job& job, uint3 block,
                                                        float* shared) {
    using namespace batch_norm;
    float* const* a = job.arrays;
    const int* n = job.numbers;
    const PlayedBlock at = played_block(job, block);
    if (job.operation == Operation::batch_norm_statistics) {
        statistics_of_split(at, shared, a[0], a[1], n[1], n[2], n[3]);
        return;
    }
    const Forward f = {a[0],        a[1], a[2], a[3],         a[4], a[5],
                       n[1],        n[2], n[3], job.reals[0], n[4], activation_of(job),
                       job.reals[1]};
    if (job.operation == Operation::batch_norm_normalize) {
        normalize_split(at, shared, f, a[6]);
    } else {
        forward_training(at, shared, f);
    }
}

__device__ __forceinline__ void play_batch_norm_backward(const Job& job, uint3 block,
                                                         float* shared) {
    using namespace batch_norm;
    float* const* a = job.arrays;
    const int* n = job.numbers;
    const PlayedBlock at = played_block(job, block);
    const Backward b = {a[0],
                        a[1],
                        a[2],
                        a[3],
                        a[4],
                        a[5],
                        a[6],
                        a[7],
                        a[8],
                        a[9],
                        a[10],
                        n[1],
                        n[2],
                        n[3],
                        job.reals[0],
                        job.reals[1],
                        job.reals[2],
                        n[4],
                        n[5],
                        n[6],
                        n[7],
                        n[8],
                        activation_of(job)};
    if (job.operation == Operation::batch_norm_backward) {
        backward(at, shared, b);
    } else if (job.operation == Operation::batch_norm_gradient_sums) {
        gradient_sums(at, shared, b, a[11]);
    } else {
        gradients_of_split(at, shared, b, a[11], n[9]);
    }
}

// table (jobs, 30): Job by Job. arrivals: see GridBarrier.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    run_program(const long long* __restrict__ table, int jobs, unsigned long long* arrivals) {
    __shared__ __align__(16) long long copied[MOST_JOBS * 30];
    __shared__ float shared[batch_norm::MERGED * THREADS];
    for (int i = threadIdx.x; i < jobs * 30; i += THREADS) copied[i] = table[i];
    __syncthreads();

    GridBarrier grid(arrivals);
    const int blocks = gridDim.x;
    for (int j = 0; j < jobs; ++j) {
        const Job& job = *reinterpret_cast<const Job*>(copied + 30 * j);
        if (job.waits) grid.wait();
        int played = static_cast<int>(blockIdx.x) - job.first;
        if (played < 0) played += blocks;
        for (; played < job.blocks; played += blocks) {
            const int row = quotient(played, job.grid_x);
            const int plane = quotient(row, job.grid_y);
            const uint3 block = {static_cast<unsigned>(played - row * job.grid_x),
                                 static_cast<unsigned>(row - plane * job.grid_y),
                                 static_cast<unsigned>(plane)};
            if (job.operation <= Operation::backward_weight) {
                play_product(job, block);
            } else if (job.operation <= Operation::sum_many_partials) {
                play_sum(job, block, shared);
            } else if (job.operation == Operation::bias_backward) {
                play_bias(job, block, shared);
            } else if (job.operation <= Operation::batch_norm_normalize) {
                play_batch_norm_forward(job, block, shared);
            } else {
                play_batch_norm_backward(job, block, shared);
            }
            __syncthreads();  // what it had in shared memory may be overwritten
        }
    }
}

// Launch contract
//   Cooperative, grid one-dimensional: any that the device holds at once, and more than the jobs
//   that do not wait for each other have blocks is wasted. Block 128. At most MOST_JOBS jobs; the
//   first one does not wait. Arrays of products and of batch norm at multiples of 16 bytes, batch
//   norm's channels multiples of 4 (VECTOR), its blocks (width, rows) with rows a power of two and
//   at most 4 * 128 / width. No dynamic shared memory.
