// Uniform and normal random numbers, the same stream on every device.
//
//   state (2): {seed, counter}, in device memory, so that a captured graph draws new numbers at
//   every replay. out (n): element i takes word i % 4 of the Philox block at counter + i / 4.
//
//   uniform   low + (high - low) * u,   u = (word >> 8) * 2^-24
//   normal    Box and Muller, "A note on the generation of random normal deviates", 1958, on the
//             pairs of words (0, 1) and (2, 3): r cos(angle), r sin(angle)
//
// One thread computes a whole Philox block: four numbers, one float4 store. A launch of one block
// moves the counter itself.

#include "flat.cuh"
#include "philox.cuh"

// Stores the numbers from element `begin` on, all four or as many as n leaves.
__device__ __forceinline__ void store_some(float* out, long long begin, long long n,
                                           const Pack<4>& numbers) {
    if (aligned(out) && begin + 4 <= n) {
        store<4>(out + begin, numbers);
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (begin + k < n) {
            out[begin + k] = numbers.at[k];
        }
    }
}

// span = high - low. Product and sum are rounded one by one: a fused multiply-add would give other
// bits than devices without one.
extern "C" __global__ void __launch_bounds__(ONE_BLOCK)
    random_uniform(unsigned long long* state, float* __restrict__ out, long long n, float low,
                   float span) {
    for_each_draw(state, n, [&](const PhiloxBlock& block, long long begin) {
        Pack<4> numbers;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            numbers.at[k] = __fadd_rn(__fmul_rn(unit_from_word(block.word[k]), span), low);
        }
        store_some(out, begin, n, numbers);
    });
}

extern "C" __global__ void __launch_bounds__(ONE_BLOCK)
    random_normal(unsigned long long* state, float* __restrict__ out, long long n, float mean,
                  float std) {
    for_each_draw(state, n, [&](const PhiloxBlock& block, long long begin) {
        Pack<4> numbers;
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            // in (0, 1], so that the logarithm is finite
            const float u = static_cast<float>((block.word[k] >> 8) + 1u) * TWO_POW_MINUS_24;
            const float radius = sqrtf(-2.0f * logf(u));
            float sine;
            float cosine;
            sincospif(2.0f * unit_from_word(block.word[k + 1]), &sine, &cosine);
            numbers.at[k] = fmaf(std, radius * cosine, mean);
            numbers.at[k + 1] = fmaf(std, radius * sine, mean);
        }
        store_some(out, begin, n, numbers);
    });
}

// counter += blocks, after a launch of several blocks that drew.
extern "C" __global__ void random_advance(unsigned long long* state, long long blocks) {
    state[1] += blocks;
}

// Launch contract: one-dimensional; no shared memory. One block of up to ONE_BLOCK threads, or any
// number of blocks (256 threads, a block per 1024 elements, at most 4096 blocks), after which
// random_advance follows: one thread, with blocks = ceil(n / 4).
