// Rounding of a float32 array to bf16, to nearest, ties to even:
//
//     y[i] = bf16(x[i])
//
// What a network with bf16 storage does once per forward pass to all its parameters, which stay
// float32 where an optimizer updates them; its convolutions then copy half the bytes, tile after
// tile. Bound by memory: 16 bytes read and 8 written at a time.
//
// variants(sm_80):

#include "stored.cuh"

extern "C" __global__ void to_bf16(const float* __restrict__ x, Bf16* __restrict__ y, long long n) {
    for_each_pack(n, aligned(x, y), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        store<W>(y + i, load<W>(x + i));
    });
}

// Launch contract: one-dimensional grid and block of any size (256 threads, a block per 1024
// elements, at most 4096 blocks); no shared memory. Pointers that are not multiples of 16 bytes are
// served one number at a time.
