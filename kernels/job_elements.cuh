// Jobs of a program (program.cu) over arrays of elements: activations, pooling, and the loss that a
// discriminator ends with.
#pragma once

#include "job.cuh"

#include "pooling.cuh"
#include "reduce.cuh"
#include "sigmoid_cross_entropy.cuh"

// Four elements at a time: calls body(i) for the packs at elements i that the calling thread has of
// n, a multiple of 4.
template <class Body>
__device__ __forceinline__ void for_fours_of_job(const Job& job, uint3 block, int n,
                                                 const Body& body) {
    const int first = block.x * THREADS + threadIdx.x;
#pragma unroll 1
    for (int i = first; i < n / 4; i += job.blocks * THREADS) body(4 * i);
}

// arrays: x, y; or y (x, where the derivative is taken from the input), dy, dx. numbers: elements,
// activation, from_input, accumulate. reals: slope.
__device__ __forceinline__ void play_activation(const Job& job, uint3 block) {
    const Activation kind = Activation(job.numbers[1]);
    const float slope = job.reals[0];
    for_fours_of_job(job, block, job.numbers[0], [&](int i) {
        Pack<4> values = load<4>(job.arrays[0] + i);
        if (job.operation == Operation::activation_forward) {
#pragma unroll
            for (int k = 0; k < 4; ++k) values.at[k] = activate(kind, values.at[k], slope);
            store<4>(job.arrays[1] + i, values);
            return;
        }
        Pack<4> gradient = load<4>(job.arrays[1] + i);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            gradient.at[k] *= job.numbers[2] ? derivative_from_input(kind, values.at[k], slope)
                                             : derivative_from_output(kind, values.at[k], slope);
        }
        store_gradient<4>(job.arrays[2] + i, gradient, job.numbers[3]);
    });
}

// arrays: x, y; or x (null for the average), dy, dx. numbers: Windows, elements of what is written,
// maximum or average, accumulate.
template <Pooling KIND>
__device__ __forceinline__ void play_pooling(const Job& job, uint3 block) {
    const Windows windows = *reinterpret_cast<const Windows*>(job.numbers);
    float* const* a = job.arrays;
    if (job.operation == Operation::pooling_forward) {
        for_fours_of_job(job, block, job.numbers[13],
                         [&](int i) { store<4>(a[1] + i, pooled<KIND, 4>(a[0], windows, i)); });
    } else {
        for_fours_of_job(job, block, job.numbers[13], [&](int i) {
            store_gradient<4>(a[2] + i, pooled_gradient<KIND, 4>(a[0], a[1], windows, i),
                              job.numbers[15]);
        });
    }
}

// arrays: logits, labels, probabilities, dlogits, loss, of which the last three may be null.
// numbers: elements. reals: scale. A thread stands for two of the launch's 256: sums over threads
// run through 8 warps.
__device__ __forceinline__ void play_loss(const Job& job, float* shared) {
    constexpr int LAUNCHED = 256, WARPS = LAUNCHED / WARP;
    float* const* a = job.arrays;
    const int n = job.numbers[0];
    const float scale = job.reals[0];
    const SigmoidCrossEntropy entropy = {a[0], a[1], a[2], a[3], a[4] != nullptr, scale};
    const int packs = aligned(a[0], a[1], a[2], a[3]) ? n / 4 : 0;
#pragma unroll 1
    for (int thread = threadIdx.x; thread < LAUNCHED; thread += THREADS) {
        float sum = 0.0f;
#pragma unroll 1
        for (int i = thread; i < packs; i += LAUNCHED) sum = entropy.take<4>(4 * i, sum);
#pragma unroll 1
        for (int i = 4 * packs + thread; i < n; i += LAUNCHED) sum = entropy.take<1>(i, sum);
        sum = warp_sum(sum);
        if (thread % WARP == 0) shared[thread / WARP] = sum;
    }
    __syncthreads();
    if (threadIdx.x >= WARP) return;
    const float sum = warp_sum(threadIdx.x < WARPS ? shared[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0 && a[4] != nullptr) a[4][0] = scale * sum;
}
