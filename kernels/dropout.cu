// Inverted dropout: y = x / (1 - rate) where kept, 0 where dropped.
//
//   x, y, dy, dx (n) float, mask (n) bytes 0 or 1; state (2): {seed, counter}, see random.cu
//   element i is kept when u_i >= rate, with u_i the uniform number i of this call
//
// Srivastava et al., "Dropout", 2014. One thread computes a whole Philox block: four elements.

#include "flat.cuh"
#include "philox.cuh"

// No __restrict__ on x and y, dy and dx: they may be the same array.
extern "C" __global__ void dropout_forward(const unsigned long long* __restrict__ state,
                                           const float* x, float* y,
                                           unsigned char* __restrict__ mask, long long n,
                                           float rate) {
    const long long groups = (n + 3) / 4;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    const float keep = 1.0f - rate;
    for (long long group = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
         group < groups; group += step) {
        const PhiloxBlock block = philox(state[0], state[1] + group);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const long long i = 4 * group + k;
            if (i < n) {
                const bool kept = unit_from_word(block.word[k]) >= rate;
                y[i] = kept ? x[i] / keep : 0.0f;
                mask[i] = kept;
            }
        }
    }
}

extern "C" __global__ void dropout_backward(const unsigned char* __restrict__ mask, const float* dy,
                                            float* dx, long long n, float rate, int accumulate) {
    const float keep = 1.0f - rate;
    for_each_pack(n, aligned(dy, dx), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> gradient = load<W>(dy + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            gradient.at[k] = mask[i + k] ? gradient.at[k] / keep : 0.0f;
        }
        store_gradient<W>(dx + i, gradient, accumulate);
    });
}

// Launch contract: one-dimensional grid and block of any size (256 threads, a block per 1024
// elements, at most 4096 blocks); no shared memory. random.cu's random_advance follows forward.
