// A tile of a matrix product by Hopper's wgmma: what tensor_core.cuh computes, with the same
// rounding of the operands, and other ways to get there.
//
//     sum[line][column] = sum over depth of round(left(line, depth)) * round(right(column, depth))
//
// Two warpgroups share the TILE_M lines of a block; each multiplies its half by all TILE_N columns.
//   1. Operands go from memory through registers to shared memory. There they are rounded once, to
//      TF32 or bf16, where mma.sync rounds at every use; bf16 takes half the room. (cp.async would
//      bring float32 past the registers, but not round it; TF32 would then be cut off, not rounded
//      to nearest as everywhere in this library. Rounding in place would read and write shared
//      memory once more.)
//   2. Rows lie along the depth, whichever way memory runs: TF32 knows no other order. Where memory
//      runs across the lines, a thread reads 4 depths of 4 lines and writes 4 lines of 4 depths.
//   3. STAGES = 3 slabs: while the tensor cores work on one step, the threads write the next, which
//      they hold in registers, and the loads of the step after that are under way. Products of the
//      step before last have ended when its slab is written again, so one barrier per step is
//      enough, and the tensor cores never wait for it: a step of products is queued behind.
//   4. Row r of a slab holds line 4 * (r % quarter) + r / quarter. A thread's 4 lines from memory
//      then go to rows that far apart, and neighbouring threads write neighbouring rows: without
//      bank conflicts with TF32, two ways with bf16. And a thread finds 4 neighbouring channels
//      among its sums, which it stores by 16 bytes.
//
// Needs channels in multiples of 4 and arrays that begin at multiples of 16 bytes wherever memory
// is read.
#pragma once

#ifndef TILE_M
#define TILE_M 128  // lines per block: 128 or 256
#endif
#ifndef TILE_N
#define TILE_N 128  // columns per block: 64 or 128
#endif
#ifndef PRECISION
#define PRECISION tf32  // of the operands: tf32 or bf16
#endif
#define TILE_K 32  // depth per step, and what slices are multiples of

#include "product.cuh"
#include "wgmma.cuh"

constexpr int THREADS = 2 * WARPGROUP;
constexpr int STAGES = 3;
constexpr int UNIT = 4;               // floats that a thread reads at a time: 16 bytes
constexpr int UNITS = TILE_K / UNIT;  // of a row
constexpr int LINES_OF_WARPGROUP = TILE_M / 2;
constexpr int PRODUCTS_M = LINES_OF_WARPGROUP / PRODUCT_LINES;
static_assert(PRODUCTS_M == 1 || PRODUCTS_M == 2, "of the tiles, these are used");

// Blocks per multiprocessor: what registers are rationed for. Sums and what is read ahead take 192
// of a thread's 255 with the largest tile, and half as many with the others. (The data gradient of
// 128 x 128 keeps its phases besides, and stays alone.)
constexpr int RESIDENT = TILE_M == 256 ? 1 : 2;

using Format = PRECISION;
constexpr int SPAN = TILE_K * Format::BYTES;  // of a row: 128 or 64

struct CopyWidth {
    static constexpr int numbers = UNIT;
    __device__ CopyWidth(const float*, int) {}
};

// Reads from memory: where a source believes that its slab is, a thread has registers of its own,
// a unit of 4 numbers for each copy of its share.
struct Copies {
    __device__ __forceinline__ void start(float* to, const float* from, bool inside, int) {
        const float4 zeros = {0.0f, 0.0f, 0.0f, 0.0f};
        *reinterpret_cast<float4*>(to) =
            inside ? __ldg(reinterpret_cast<const float4*>(from)) : zeros;
    }
};

template <class Source>
struct Units {
    float4 at[Source::Slab::SHARE];

    __device__ __forceinline__ void read(Source& source, int depths) {
        Copies copies;
        source.fill(copies, reinterpret_cast<float*>(at), depths);
    }
};

using OperandStores = Stores<(TILE_M + TILE_N) * UNITS / THREADS + UNIT>;

template <int LINES>
struct Rows4 {
    using Element = float;
    static constexpr int QUARTER = LINES / 4;
    static constexpr int BYTES = LINES * SPAN;
    static_assert(BYTES % SLAB_ALIGNMENT == 0, "slabs follow each other");

    __device__ static int line_of(int row) { return row % QUARTER * 4 + row / QUARTER; }
    // Depths 4 * unit, ... of a row.
    __device__ static void store(OperandStores& stores, unsigned char* slab, int row, int unit,
                                 const float4& four) {
        const int byte = row * SPAN + unit * (UNIT * Format::BYTES);
        stores.store<Format>(slab + shuffled<SPAN>(byte), Format::rounded(four));
    }
};

// A slab whose source is contiguous along the depth: UNITS neighbouring threads read a row.
template <int LINES>
struct AlongDepth : Rows4<LINES> {
    using Rows = Rows4<LINES>;
    static constexpr int TOGETHER = THREADS / UNITS;  // rows read by the block at a time
    static constexpr int SHARE = LINES / TOGETHER;
    static constexpr int LINE_STEP = TOGETHER / Rows::QUARTER;  // with up to 128 lines
    static_assert(LINES % TOGETHER == 0, "threads share the copies evenly");

    // The calling thread's share: depth() and its 3 successors, of line(i), i < SHARE.
    __device__ static bool has(int) { return true; }
    __device__ static int depth() { return threadIdx.x % UNITS * UNIT; }
    __device__ static int row(int i) { return threadIdx.x / UNITS + i * TOGETHER; }
    __device__ static int line(int i) { return Rows::line_of(row(i)); }
    __device__ static float* place(float* units, int i, int) { return units + UNIT * i; }

    __device__ static void store(OperandStores& stores, unsigned char* slab, const float4* units) {
        UNROLL
        for (int i = 0; i < SHARE; ++i) {
            Rows::store(stores, slab, row(i), threadIdx.x % UNITS, units[i]);
        }
    }
};

// A slab whose source is contiguous across the lines: neighbouring threads read neighbouring lines,
// 4 each, at depths that fill rows by units of 4. Which depth of a step stands where in a row is
// free as long as both operands agree. With IN_ORDER unit u of a row has depths 4u, 4u + 1, ... as
// AlongDepth has it; else u, u + UNITS, ..., so that a thread's depths are evenly spaced.
template <int LINES, bool IN_ORDER>
struct AcrossLines : Rows4<LINES> {
    using Rows = Rows4<LINES>;
    static constexpr int FOURS = LINES / 4;
    static constexpr int TOGETHER = THREADS / FOURS < UNITS ? THREADS / FOURS : UNITS;
    static constexpr int BLOCKS = UNITS / TOGETHER;  // of 4 lines and 4 depths, for a thread
    static constexpr int SHARE = UNIT * BLOCKS;
    static constexpr int STEP = IN_ORDER ? 1 : TOGETHER;  // from a thread's depth to its next
    static_assert(!IN_ORDER || BLOCKS == 1, "evenly spaced");

    // The calling thread's share: line() and its 3 successors, at depth(i), i < SHARE.
    __device__ static bool has(int) {
        return FOURS * TOGETHER == THREADS || threadIdx.x < FOURS * TOGETHER;
    }
    __device__ static int line() { return threadIdx.x % FOURS * 4; }
    __device__ static int unit() { return threadIdx.x / FOURS; }
    __device__ static int depth(int i) { return unit() * (IN_ORDER ? UNIT : 1) + i * STEP; }
    __device__ static float* place(float* units, int i, int) { return units + UNIT * i; }

    __device__ static void store(OperandStores& stores, unsigned char* slab, const float4* units) {
        if (!has(0)) return;
        UNROLL
        for (int block = 0; block < BLOCKS; ++block) {
            const float4 &a = units[block], &b = units[block + BLOCKS];
            const float4 &c = units[block + 2 * BLOCKS], &d = units[block + 3 * BLOCKS];
            const int row = threadIdx.x % FOURS, at = unit() + block * TOGETHER;
            Rows::store(stores, slab, row, at, {a.x, b.x, c.x, d.x});
            Rows::store(stores, slab, row + Rows::QUARTER, at, {a.y, b.y, c.y, d.y});
            Rows::store(stores, slab, row + 2 * Rows::QUARTER, at, {a.z, b.z, c.z, d.z});
            Rows::store(stores, slab, row + 3 * Rows::QUARTER, at, {a.w, b.w, c.w, d.w});
        }
    }
};

// The sums of the calling thread, in 2 lines of each product of its warpgroup. Runs of 4 columns
// are neighbours in the result.
struct Sums {
    static constexpr int LINES = 2 * PRODUCTS_M, COLUMNS = TILE_N / 4, RUN = 4;
    float of_product[PRODUCTS_M][TILE_N / 2];

    __device__ float at(int i, int j) const {
        const int row = i % 2 * 8, column = eight(j) + j % RUN * (TILE_N / 4) + j / RUN % 2;
        return of_product[i / 2][sum_index(row, column)];
    }
    __device__ static int line(int i) {
        const int warpgroup = threadIdx.x / WARPGROUP, warp = threadIdx.x % WARPGROUP / 32;
        const int row = warpgroup * LINES_OF_WARPGROUP + i / 2 * PRODUCT_LINES + warp * 16 +
                        threadIdx.x % 32 / 4 + i % 2 * 8;
        return blockIdx.x * TILE_M + Rows4<TILE_M>::line_of(row);
    }
    __device__ static int column(int j) {
        const int row = eight(j) + threadIdx.x % 4 * 2 + j / RUN % 2;
        return blockIdx.y * TILE_N + Rows4<TILE_N>::line_of(row) + j % RUN;
    }

  private:
    __device__ static constexpr int eight(int j) { return j / (2 * RUN) * 8; }
};

// Adds the products of a step. By all threads of the block.
__device__ GPU_INLINE void multiply_slabs(Sums& sums, Products<Format, TILE_N>& products,
                                          const unsigned char* left, const unsigned char* right) {
    const int half = threadIdx.x / WARPGROUP * (LINES_OF_WARPGROUP * SPAN);
    const Descriptor lines = descriptor<SPAN>(shared_address(left + half));
    const Descriptor columns = descriptor<SPAN>(shared_address(right));
    UNROLL
    for (int byte = 0; byte < SPAN; byte += Format::DEPTH * Format::BYTES) {
        UNROLL
        for (int i = 0; i < PRODUCTS_M; ++i) {
            const int within = i * PRODUCT_LINES * SPAN + byte;
            products.multiply_add(sums.of_product[i], lines + (within >> 4), columns + (byte >> 4));
        }
    }
}

// Called by all threads of the block with sources that stand at range.begin, of which
// convolution_sources.cuh tells.
template <class Left, class Right>
__device__ __forceinline__ Sums wgmma_product(Left left, Right right, DepthRange range) {
    using LeftSlab = typename Left::Slab;
    using RightSlab = typename Right::Slab;
    constexpr int STAGE = LeftSlab::BYTES + RightSlab::BYTES;
    unsigned char* const slabs = first_slab();
    Units<Left> of_left;
    Units<Right> of_right;
    OperandStores stores;
    Products<Format, TILE_N> products;
    Sums sums = {};
    UNROLL
    for (int i = 0; i < PRODUCTS_M; ++i) settle(sums.of_product[i]);

    int depths = range.end - range.begin;  // from those in registers on
    of_left.read(left, depths);
    of_right.read(right, depths);
    for (int stage = 0; depths > 0; depths -= TILE_K) {
        unsigned char* const slab = slabs + stage * STAGE;
        LeftSlab::store(stores, slab, of_left.at);
        RightSlab::store(stores, slab + LeftSlab::BYTES, of_right.at);
        if (depths > TILE_K) {
            of_left.read(left, depths - TILE_K);
            of_right.read(right, depths - TILE_K);
        }
        stores.fence();
        __syncthreads();  // the slabs are complete, and products of the step before last have ended
        products.fence();
        multiply_slabs(sums, products, slab, slab + LeftSlab::BYTES);
        products.end_group();
        products.template wait<1>();
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    products.template wait<0>();
    UNROLL
    for (int i = 0; i < PRODUCTS_M; ++i) settle(sums.of_product[i]);
    return sums;
}
