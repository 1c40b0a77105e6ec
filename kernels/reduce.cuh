// Sums within a warp and within a block, always in the same order, so that a result has the same
// bits in every run. Every function is called by all threads of its group.
#pragma once

constexpr int WARP = 32;

// Butterfly: every lane gets the sum.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

// Sum over a one-dimensional block of THREADS (a multiple of a warp); thread 0 gets it. `shared`
// holds one float per warp and may be used again after the next barrier.
template <int THREADS>
__device__ __forceinline__ float block_sum(float value, float* shared) {
    static_assert(THREADS % WARP == 0 && THREADS <= WARP * WARP, "whole warps, at most 32 of them");
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    if (threadIdx.x < WARP) {
        value = warp_sum(threadIdx.x < THREADS / WARP ? shared[threadIdx.x] : 0.0f);
    }
    return value;
}
