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
// A job is one launch of convolution*.cu, batch_norm.cu, partial_sums.cu, pooling.cu, activation.cu
// or loss.cu: same arguments, same slices of the depth, same order of every sum, so the same bits.
// Or it is two: of a product and of the sum over its few slices (last_slice.cuh). How a result is
// cut into tiles, and which thread adds which rows, is free as long as no sum is added in another
// order:
//   - a product has tiles of 64 x 32, and copies of 16 bytes where 4 numbers lie together, else of
//     4; tiles do not change a bit (product.cuh);
//   - a block of batch_norm.cu of up to 512 threads is played by 128: see PlayedBlock.
// Nothing that a job reads goes through the read-only path (ld.global.nc), which does not see what
// other blocks have written in the same launch.

#define TILE_M 64
#define TILE_N 32
#define COPY_WIDTH_AT_RUN_TIME 1
#define BIAS_IS_WRITTEN 1
#define ROWS_IN_FLIGHT 2
// variants: -DMOST_JOBS=48

#include "grid_barrier.cuh"
#include "job_batch_norm.cuh"
#include "job_elements.cuh"
#include "job_products.cuh"

#ifndef MOST_JOBS
#define MOST_JOBS 48
#endif

__device__ __forceinline__ void play(const Job& job, uint3 block, float* shared) {
    if (job.operation <= Operation::backward_weight) {
        play_product(job, block);
    } else if (job.operation <= Operation::sum_many_partials) {
        play_sum(job, block, shared);
    } else if (job.operation == Operation::bias_backward) {
        play_bias(job, block, shared);
    } else if (job.operation <= Operation::batch_norm_normalize) {
        play_batch_norm_forward(job, block, shared);
    } else if (job.operation <= Operation::batch_norm_backward_data) {
        play_batch_norm_backward(job, block, shared);
    } else if (job.operation <= Operation::activation_backward) {
        play_activation(job, block);
    } else if (job.operation == Operation::sigmoid_cross_entropy_forward) {
        play_loss(job, shared);
    } else if (job.numbers[14]) {
        play_pooling<Pooling::avg>(job, block);
    } else {
        play_pooling<Pooling::max>(job, block);
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
            play(job, block, shared);
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
