// Index arithmetic shared by the kernels.
//
// Counts (pixels, channels, lines of a tile) are int; an offset into a tensor is 64 bits wide,
// because a batch of large images passes 2^31 elements long before any of its counts does.
#pragma once

using Offset = long long;

// On the CPU driver unrolled and inlined code would only take longer to compile.
#ifdef PYGAN_CPU_DRIVER
#define UNROLL
#define GPU_INLINE __noinline__
#else
#define UNROLL _Pragma("unroll")
#define GPU_INLINE __forceinline__
#endif

__host__ __device__ constexpr int ceil_div(int count, int size) {
    return (count + size - 1) / size;
}

// Division of indices known to be non-negative: cheaper unsigned than signed on a GPU.
__device__ __forceinline__ int quotient(int index, int size) {
    return static_cast<int>(static_cast<unsigned>(index) / static_cast<unsigned>(size));
}

__device__ __forceinline__ int greatest_common_divisor(int a, int b) {
    while (b != 0) {
        const int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// A position of a (batch, height, width) grid from its row-major index.
struct Position {
    int n, h, w;
};

__device__ __forceinline__ Position position(int index, int height, int width) {
    const int row = quotient(index, width);
    const int n = quotient(row, height);
    return {n, row - n * height, index - row * width};
}
