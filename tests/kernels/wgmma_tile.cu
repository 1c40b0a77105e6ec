// Products of one warpgroup with nothing around them: what test_wgmma.py holds kernels/wgmma.cuh
// to.

// variants(sm_90a): -DPRECISION=tf32 -DTILE_N=64 | -DPRECISION=bf16 -DTILE_N=128

#include "wgmma.cuh"

#ifndef PRECISION
#define PRECISION tf32
#endif
#ifndef TILE_N
#define TILE_N 64
#endif

using Format = PRECISION;
constexpr int COLUMNS = TILE_N;
constexpr int STEP = 32;  // depths in shared memory at a time
constexpr int SPAN = STEP * Format::BYTES;
constexpr int ROWS = PRODUCT_LINES + COLUMNS;
constexpr int STORES = ROWS * STEP / 4 / WARPGROUP;

__device__ void write_sums(float* sums_of_all, const float (&sums)[COLUMNS / 2]) {
    const int lane = threadIdx.x % 32, line = threadIdx.x / 32 * 16 + lane / 4;
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < COLUMNS / 4; ++j) {
            const int column = j / 2 * 8 + lane % 4 * 2 + j % 2;
            sums_of_all[(line + 8 * i) * COLUMNS + column] = sums[sum_index(line + 8 * i, column)];
        }
    }
}

// sums (64, COLUMNS) = one product of what two descriptors find in `image`, `words` 32-bit words
// that lie from the first slab on. The descriptors' addresses count from there.
extern "C" __global__ void __launch_bounds__(WARPGROUP)
    product_of_descriptors(const int* __restrict__ image, int words, unsigned left_low,
                           unsigned left_high, unsigned right_low, unsigned right_high,
                           float* sums_of_all) {
    unsigned char* const slabs = first_slab();
    for (int i = threadIdx.x; i < words; i += WARPGROUP)
        reinterpret_cast<int*>(slabs)[i] = image[i];
    Stores<1>().fence();
    __syncthreads();
    const Descriptor start = shared_address(slabs) >> 4;
    const Descriptor left = (Descriptor{left_high} << 32 | left_low) + start;
    const Descriptor right = (Descriptor{right_high} << 32 | right_low) + start;

    float sums[COLUMNS / 2] = {};
    Products<Format, COLUMNS> products;
    settle(sums);
    products.fence();
    products.multiply_add(sums, left, right);
    products.end_group();
    products.wait<0>();
    settle(sums);
    write_sums(sums_of_all, sums);
}

enum Fault {
    NONE,
    NO_STORE_FENCE,
    NO_PRODUCT_FENCE,
    NO_WAIT,
    OVERWRITTEN,
    NO_BARRIER,
    NOT_SHUFFLED,
    NO_PATTERN,
    NOT_ALIGNED,
    NOT_ROUNDED,
};

// sums (64, COLUMNS) = left (64, depth) * right (COLUMNS, depth) transposed; depth in whole steps.
// Two slabs of both operands take turns. A fault leaves something out.
extern "C" __global__ void __launch_bounds__(WARPGROUP)
    tile(const float* __restrict__ left, const float* __restrict__ right, float* sums_of_all,
         int depth, int asked) {
#ifdef PYGAN_CPU_DRIVER
    const int fault = asked;
#else
    constexpr int fault = NONE;  // on a GPU a fault may stay without effect, and costs speed
#endif
    unsigned char* slabs = fault == NOT_ALIGNED ? shared_memory : first_slab();
    float sums[COLUMNS / 2] = {};
    Products<Format, COLUMNS> products;
    Stores<STORES> stores;
    settle(sums);
    for (int from = 0, step = 0; from < depth; from += STEP, ++step) {
        const bool second = fault != OVERWRITTEN && step % 2;
        unsigned char* const stage = slabs + second * (ROWS * SPAN);
        for (int i = threadIdx.x; i < ROWS * STEP / 4; i += WARPGROUP) {
            const int row = i / (STEP / 4), unit = i % (STEP / 4);
            const float* const line =
                row < PRODUCT_LINES ? left + row * depth : right + (row - PRODUCT_LINES) * depth;
            const float* const four = line + (from + 4 * unit);
            const int byte = row * SPAN + unit * 4 * Format::BYTES;
            unsigned char* const to = stage + (fault == NOT_SHUFFLED ? byte : shuffled<SPAN>(byte));
            if (fault == NOT_ROUNDED) {
                for (int k = 0; k < 4; ++k) {
                    const unsigned bits = __float_as_uint(four[k]);
                    if (Format::BYTES == 4) reinterpret_cast<unsigned*>(to)[k] = bits;
                    if (Format::BYTES == 2) reinterpret_cast<unsigned short*>(to)[k] = bits >> 16;
                }
            } else {
                stores.store<Format>(to, Format::rounded({four[0], four[1], four[2], four[3]}));
            }
        }
        if (fault != NO_STORE_FENCE) stores.fence();
        if (fault != NO_BARRIER) __syncthreads();
        if (fault != NO_PRODUCT_FENCE) products.fence();
        const unsigned lines = shared_address(stage), columns = lines + PRODUCT_LINES * SPAN;
        for (int byte = 0; byte < SPAN; byte += 32) {
            Descriptor of_lines = descriptor<SPAN>(lines + byte);
            Descriptor of_columns = descriptor<SPAN>(columns + byte);
            if (fault == NO_PATTERN) of_lines &= ~0ull >> 2, of_columns &= ~0ull >> 2;
            products.multiply_add(sums, of_lines, of_columns);
        }
        products.end_group();
        if (fault == OVERWRITTEN) {
            products.wait<1>();
        } else if (fault != NO_WAIT) {
            products.wait<0>();
        }
        __syncthreads();
    }
    if (fault == OVERWRITTEN) products.wait<0>();
    settle(sums);
    write_sums(sums_of_all, sums);
}
