// Jobs of a program (program.cu) that are batch normalisation.
#pragma once

#include "batch_norm.cuh"
#include "job.cuh"

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
