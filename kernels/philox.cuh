// Philox4x32-10: random numbers as a function of (key, counter). Salmon, Moraes, Dror and Shaw,
// "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. Element i of a call takes word i % 4 of
// the block at counter + i / 4, so any number of threads gives the same stream.
#pragma once

struct PhiloxBlock {
    unsigned int word[4];
};

constexpr int PHILOX_ROUNDS = 10;

__device__ __forceinline__ PhiloxBlock philox(unsigned long long key, unsigned long long counter) {
    unsigned int key0 = static_cast<unsigned int>(key);
    unsigned int key1 = static_cast<unsigned int>(key >> 32);
    PhiloxBlock block = {
        {static_cast<unsigned int>(counter), static_cast<unsigned int>(counter >> 32), 0u, 0u}};
#pragma unroll
    for (int round = 0; round < PHILOX_ROUNDS; ++round) {
        const unsigned long long product0 = 0xD2511F53ull * block.word[0];
        const unsigned long long product1 = 0xCD9E8D57ull * block.word[2];
        block = {{static_cast<unsigned int>(product1 >> 32) ^ block.word[1] ^ key0,
                  static_cast<unsigned int>(product1),
                  static_cast<unsigned int>(product0 >> 32) ^ block.word[3] ^ key1,
                  static_cast<unsigned int>(product0)}};
        key0 += 0x9E3779B9u;  // golden ratio
        key1 += 0xBB67AE85u;  // sqrt(3) - 1
    }
    return block;
}

constexpr float TWO_POW_MINUS_24 = 5.9604644775390625e-8f;

// In [0, 1), a multiple of 2^-24: exact in float32.
__device__ __forceinline__ float unit_from_word(unsigned int word) {
    return static_cast<float>(word >> 8) * TWO_POW_MINUS_24;
}

constexpr int ONE_BLOCK = 1024;  // most threads of a launch of one block, which advances by itself

// Calls body(block of four words, i) for the elements i = 0, 4, 8, ... below n of a call that draws
// n numbers: a thread computes a whole Philox block. state (2): {seed, counter}. To be called by
// all threads of a one-dimensional grid. Every block of it reads the counter, so none may move it
// before all have: that is a launch of its own (random_advance), unless there is only one block.
template <class Body>
__device__ __forceinline__ void for_each_draw(unsigned long long* state, long long n,
                                              const Body& body) {
    const long long groups = (n + 3) / 4;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    const unsigned long long seed = state[0];
    const unsigned long long counter = state[1];
    for (long long group = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
         group < groups; group += step) {
        body(philox(seed, counter + group), 4 * group);
    }
    if (gridDim.x == 1) {
        __syncthreads();
        if (threadIdx.x == 0) {
            state[1] += groups;
        }
    }
}
