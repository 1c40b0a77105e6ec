// A tile of a matrix product by Hopper's wgmma where memory holds bf16 numbers: what
// wgmma_product.cuh computes, without the rounding and without a way through registers.
//
//     sum[line][column] = sum over depth of left(line, depth) * right(column, depth)
//
// Two warpgroups share the TILE_M lines of a block; each multiplies its half by all TILE_N columns.
//   1. Operands go from memory to shared memory by cp.async, 16 bytes (8 numbers) at a time. They
//      lie there as they do in memory, along the depth or across the lines, and the products are
//      told which: 8 neighbouring threads copy 128 neighbouring bytes to one row of a slab, all in
//      different banks.
//   2. STAGES slabs, as many as shared memory holds: while the tensor cores work on one step, or on
//      two, copies are under way for the STAGES - 2 steps behind it. Products of the step before
//      last have ended when its slab is copied to again, so one barrier per step is enough, and the
//      tensor cores never wait for it: a step of products is queued behind.
//   3. A thread's sums are 2 neighbouring channels of every 8. Where the result is bf16 that would
//      be 16 bytes of a line by one instruction, half a sector of memory; neighbouring threads
//      therefore exchange pairs, and each stores 4 channels, 8 bytes.
//
// Needs channels in multiples of 8 and arrays that begin at multiples of 16 bytes.
#pragma once

#ifndef TILE_M
#define TILE_M 128  // lines per block: 128 or 256
#endif
#ifndef TILE_N
#define TILE_N 128  // columns per block: 64 or 128
#endif
#define TILE_K 64  // depth per step, and what slices are multiples of

#include "product.cuh"
#include "stored.cuh"
#include "wgmma.cuh"

constexpr int THREADS = 2 * WARPGROUP;
constexpr int UNIT = 8;  // numbers that a thread copies at a time: 16 bytes
constexpr int LINES_OF_WARPGROUP = TILE_M / 2;
constexpr int PRODUCTS_M = LINES_OF_WARPGROUP / PRODUCT_LINES;
static_assert(PRODUCTS_M == 1 || PRODUCTS_M == 2, "of the tiles, these are used");

using Format = bf16;
constexpr int NUMBER = Format::BYTES;
constexpr int ROW = 128;  // bytes of a row of a slab, in either order
constexpr int ROW_NUMBERS = ROW / NUMBER;
static_assert(TILE_K == ROW_NUMBERS, "a row along the depth holds a step");

// Blocks per multiprocessor, and how many slabs of both operands they leave each other: of the 227
// KiB of shared memory that a block can have, each needs SLAB_ALIGNMENT for itself.
constexpr int RESIDENT = TILE_M * TILE_N <= 128 * 64 ? 2 : 1;
constexpr int STAGES =
    (227 * 1024 / RESIDENT - SLAB_ALIGNMENT) / (TILE_K * (TILE_M + TILE_N) * NUMBER);
constexpr int AHEAD = STAGES - 2;  // steps that copies are started before their products
static_assert(AHEAD >= 2, "a memory's latency passes behind more than one step");

using Copies = OperandCopies<AHEAD + 1, (TILE_M + TILE_N) * TILE_K / UNIT / THREADS>;

struct CopyWidth {
    static constexpr int numbers = UNIT;
    __device__ CopyWidth(const Bf16*, int) {}
};

// Slabs: TILE_K depths of LINES lines in shared memory, how threads share the copying of them, and
// the descriptors of their parts.

// Neighbours in memory differ in depth: a row is a line.
template <int LINES>
struct AlongDepth {
    using Element = Bf16;
    static constexpr Major MAJOR = Major::depth;
    static constexpr int SIZE = LINES * TILE_K;
    static constexpr int UNITS = TILE_K / UNIT;
    static constexpr int TOGETHER = THREADS / UNITS;  // lines copied by the block at a time
    static constexpr int SHARE = LINES / TOGETHER;
    static_assert(LINES % TOGETHER == 0 && TOGETHER % 8 == 0,
                  "a thread's chunks lie below another");

    // The calling thread's share: depth() and its 7 successors, of line(i), i < SHARE.
    __device__ static bool has(int) { return true; }
    __device__ static int depth() { return threadIdx.x % UNITS * UNIT; }
    __device__ static int line(int i) { return threadIdx.x / UNITS + i * TOGETHER; }
    __device__ static Bf16* place(Bf16* slab, int i, int) {
        const int byte = shuffled<ROW>(line(0) * ROW + depth() * NUMBER);
        return slab + (byte / NUMBER + i * (TOGETHER * TILE_K));
    }

    // Of the lines from `line` on, a multiple of PRODUCT_LINES, at the first depths; and what
    // descriptors of the next depths and of the next PRODUCT_LINES lines have more.
    __device__ static Descriptor lines(unsigned slab, int line) {
        return descriptor<ROW>(slab + line * ROW);
    }
    static constexpr int DEEPER = Format::DEPTH * NUMBER >> 4, FURTHER = PRODUCT_LINES * ROW >> 4;
};

// Neighbours in memory are neighbouring lines: a row is a depth of ROW_NUMBERS lines.
template <int LINES>
struct AcrossLines {
    using Element = Bf16;
    static constexpr Major MAJOR = Major::lines;
    static constexpr int SIZE = LINES * TILE_K;
    static constexpr int BLOCK = TILE_K * ROW;  // bytes of the rows of the same lines
    static constexpr int UNITS = LINES / UNIT;
    static constexpr int STEP = THREADS / UNITS;  // from a thread's depth to its next
    static constexpr int SHARE = TILE_K / STEP;
    static_assert(TILE_K % STEP == 0 && STEP % 8 == 0, "a thread's chunks lie below each other");
    static_assert(PRODUCT_LINES == ROW_NUMBERS, "a product's lines are those of a row");

    // The calling thread's share: line() and its 7 successors, at depth(i), i < SHARE.
    __device__ static bool has(int) { return true; }
    __device__ static int line() { return threadIdx.x % UNITS * UNIT; }
    __device__ static int depth(int i) { return threadIdx.x / UNITS + i * STEP; }
    __device__ static Bf16* place(Bf16* slab, int i, int) {
        const int byte = shuffled<ROW>(depth(0) * ROW + line() % ROW_NUMBERS * NUMBER);
        return slab + ((line() / ROW_NUMBERS * BLOCK + byte) / NUMBER + i * (STEP * ROW_NUMBERS));
    }

    __device__ static Descriptor lines(unsigned slab, int line) {
        return descriptor_across_lines(slab + line / ROW_NUMBERS * BLOCK, BLOCK);
    }
    static constexpr int DEEPER = Format::DEPTH * ROW >> 4, FURTHER = BLOCK >> 4;
};

// The sums of the calling thread, in 2 lines of each product of its warpgroup. Runs of columns are
// neighbours in the result: 2 as the products leave them, 4 after exchange().
struct Sums {
    static constexpr bool EXCHANGED = sizeof(RESULT) == 2;
    static constexpr int LINES = 2 * PRODUCTS_M, COLUMNS = TILE_N / 4, RUN = EXCHANGED ? 4 : 2;
    float of_product[PRODUCTS_M][TILE_N / 2];

    __device__ float at(int i, int j) const {
        return of_product[i / 2][sum_index(i % 2 * 8, j / 2 * 8 + j % 2)];
    }
    __device__ static int line(int i) {
        const int warpgroup = threadIdx.x / WARPGROUP, warp = threadIdx.x % WARPGROUP / 32;
        return blockIdx.x * TILE_M + warpgroup * LINES_OF_WARPGROUP + i / 2 * PRODUCT_LINES +
               warp * 16 + threadIdx.x % 32 / 4 + i % 2 * 8;
    }
    __device__ static int column(int j) {
        const int t = threadIdx.x % 4;
        const int within = EXCHANGED ? j / 4 * 16 + t % 2 * 8 + t / 2 * 4 : j / 2 * 8 + t * 2;
        return blockIdx.y * TILE_N + within + j % RUN;
    }

    // Of every 16 columns, threads with an even number take 4 of the first 8, others of the second.
    __device__ __forceinline__ void exchange() {
        const bool odd = threadIdx.x % 2;
        UNROLL
        for (int i = 0; i < PRODUCTS_M; ++i) {
            UNROLL
            for (int j = 0; j < TILE_N / 2; j += 8) {
                UNROLL
                for (int k = j; k < j + 4; ++k) {
                    float &first = of_product[i][k], &second = of_product[i][k + 4];
                    const float got = __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
                    first = odd ? got : first;
                    second = odd ? second : got;
                }
            }
        }
    }
};

// A result whose channels come, per group, in multiples of 8: no run of sums is cut, and the code
// that stores single ones, half of all code of a thread with so many, is left out.
template <class Number>
struct WholeRunsOf : ResultOf<Number> {};

template <class Sums, class Number, class Place>
__device__ __forceinline__ void store_lines(const Sums& sums, const WholeRunsOf<Number>& result,
                                            int lines, int columns, int first_channel,
                                            const Place& place) {
    constexpr int RUN = Sums::RUN;
    UNROLL
    for (int i = 0; i < Sums::LINES; ++i) {
        const int line = sums.line(i);
        if (line >= lines) continue;
        const Offset start = place(line);
        UNROLL
        for (int j = 0; j < Sums::COLUMNS; j += RUN) {
            const int column = sums.column(j);
            Pack<RUN> run;
            UNROLL
            for (int k = 0; k < RUN; ++k) run.at[k] = sums.at(i, j + k);
            result.template store_run<false>(start + column, first_channel + column, run,
                                             columns - column, RUN);
        }
    }
}

// Adds the products of a step. By all threads of the block.
template <class LeftSlab, class RightSlab, class Products>
__device__ GPU_INLINE void multiply_slabs(Sums& sums, Products& products, unsigned left,
                                          unsigned right) {
    const int half = threadIdx.x / WARPGROUP * LINES_OF_WARPGROUP;
    const Descriptor lines = LeftSlab::lines(left, half), columns = RightSlab::lines(right, 0);
    UNROLL
    for (int step = 0; step < TILE_K / Format::DEPTH; ++step) {
        UNROLL
        for (int i = 0; i < PRODUCTS_M; ++i) {
            products.multiply_add(sums.of_product[i],
                                  lines + (step * LeftSlab::DEEPER + i * LeftSlab::FURTHER),
                                  columns + step * RightSlab::DEEPER);
        }
    }
}

// Called by all threads of the block with sources that stand at range.begin, of which
// convolution_sources.cuh tells.
template <class Left, class Right>
__device__ __forceinline__ Sums wgmma_product(Left left, Right right, DepthRange range) {
    using LeftSlab = typename Left::Slab;
    using RightSlab = typename Right::Slab;
    constexpr int STAGE = LeftSlab::SIZE + RightSlab::SIZE;
    Bf16* const slabs = reinterpret_cast<Bf16*>(first_slab());
    Copies copies;
    Products<Format, TILE_N, LeftSlab::MAJOR, RightSlab::MAJOR> products;
    Sums sums = {};
    UNROLL
    for (int i = 0; i < PRODUCTS_M; ++i) settle(sums.of_product[i]);

    int depths = range.end - range.begin;  // from those that are copied next on
    int from = 0, to = 0;                  // the stages that are read and filled next
    const auto copy_a_step = [&]() {
        if (depths > 0) {
            left.fill(copies, slabs + to * STAGE, depths);
            right.fill(copies, slabs + to * STAGE + LeftSlab::SIZE, depths);
            to = to + 1 == STAGES ? 0 : to + 1;
        }
        depths -= TILE_K;
        copies.end_group();  // also where it is empty: groups are counted
    };
#pragma unroll 1
    for (int step = 0; step < AHEAD; ++step) copy_a_step();
#pragma unroll 1
    while (depths > -AHEAD * TILE_K) {
        copies.wait_for_oldest();
        copies.fence();
        __syncthreads();  // the slabs are complete, and products of the step before last have ended
        products.fence();
        const unsigned slab =
            shared_address(reinterpret_cast<unsigned char*>(slabs + from * STAGE));
        multiply_slabs<LeftSlab, RightSlab>(sums, products, slab, slab + LeftSlab::SIZE * NUMBER);
        products.end_group();
        copy_a_step();
        products.template wait<1>();
        from = from + 1 == STAGES ? 0 : from + 1;
    }
    products.template wait<0>();
    UNROLL
    for (int i = 0; i < PRODUCTS_M; ++i) settle(sums.of_product[i]);
    if (Sums::EXCHANGED) sums.exchange();
    return sums;
}
