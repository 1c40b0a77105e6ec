// A job of a program (program.cu): one launch, as bindings/program.py packs it.
#pragma once

#include "activation.cuh"
#include "flat.cuh"
#include "pipeline.cuh"

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
    activation_forward,
    activation_backward,
    pooling_forward,
    pooling_backward,
    sigmoid_cross_entropy_forward,
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
// THREADS threads play a block of a job (pipeline.cuh), whatever it is.
static_assert(sizeof(Job) == 30 * sizeof(long long), "as bindings/program.py packs it");
