// A tile of a matrix product as fast as the plain float32 units allow: what tile_product.cuh
// computes, bit for bit, by the same walk along the depth, and four steps further.
//
//     sum[line][column] = sum over depth of left(line, depth) * right(column, depth)
//
//   4. larger micro-tiles: 16 x 8 sums per thread need 6 16-byte loads from shared memory for 128
//      products, 8 x 8 sums 4 for 64, where 4 x 4 sums need 2 for 16. Predicted: loads and
//      arithmetic take as long as each other with 4 x 4, arithmetic alone decides from 8 x 8 on.
//   5. 16-byte copies: a quarter of the copy instructions, addresses and tests.
//   6. copies straight from memory to shared memory, several steps ahead (copies.cuh): one barrier
//      per step instead of two.
//   7. addresses without division (convolution_sources.cuh, which tells what a source is).
//
// A source that is contiguous along the depth copies 4 depths of a line at a time, so its slab
// holds lines of TILE_K depths, and a thread reads 4 depths of each of its lines at once: the same
// number of 16-byte loads as from a slab that holds depths of EXTENT lines, but no transposition
// on the way in. Both are read without bank conflicts: see the layouts.
//
// A thread's lines are 4 neighbours in each of MICRO_M / 4 places of the tile, and so are its
// columns: then a result is stored 16 bytes at a time, whichever of the two lies along its
// channels.
#pragma once

#include "copies.cuh"
#include "product.cuh"

#ifndef TILE_M
#define TILE_M 64  // lines per block: 64 or 128
#endif
#ifndef TILE_N
#define TILE_N 64  // columns per block: 32, 64 or 128
#endif
#ifndef COPY_WIDTH_AT_RUN_TIME
#define COPY_WIDTH_AT_RUN_TIME 0  // 1, with VECTOR 4: where 4 floats do not lie together, 4 copies
#endif
#ifndef VECTOR
#define VECTOR 4  // floats per copy: 4 where channels are multiples of 4, else 1
#endif

constexpr int THREADS = 128;
constexpr int MICRO_N = TILE_M == 128 && TILE_N >= 64 ? 8 : 4;
constexpr int MICRO_M = TILE_M * TILE_N / (THREADS * MICRO_N);  // 16, 8 or 4
constexpr int LINE_GROUPS = TILE_M / MICRO_M;
constexpr int COLUMN_GROUPS = TILE_N / MICRO_N;

constexpr int STAGE_BYTES = TILE_K * (TILE_M + TILE_N) * 4;
constexpr int STAGES = 49152 / STAGE_BYTES < 4 ? 49152 / STAGE_BYTES : 4;  // 48 KiB are static

// Blocks per multiprocessor: what registers are rationed for. 128 sums a thread leave room for 2
// blocks (255 registers a thread), 64 for 3 (168), fewer for 4 (128). With 4-byte copies a thread
// keeps the addresses of four times as many.
constexpr int RESIDENT = MICRO_M * MICRO_N == 128                 ? 2
                         : MICRO_M * MICRO_N == 64 || VECTOR == 1 ? 3
                                                                  : 4;

// Chunks of 4 depths per turn of the innermost loop: as many as registers allow.
constexpr int UNROLLED = MICRO_M * MICRO_N == 16 ? 4 : MICRO_M * MICRO_N == 32 ? 2 : 1;

// A warp computes 4 x 8 micro-tiles: its 16-byte loads ask for 4 and for 8 different places.
constexpr int WARP_LINES = 4, WARP_COLUMNS = 8;

static_assert(TILE_K == 16, "the swizzle of AlongDepth is made for lines of 64 bytes");
static_assert(LINE_GROUPS % WARP_LINES == 0 && COLUMN_GROUPS % WARP_COLUMNS == 0,
              "warps tile the block");
static_assert(VECTOR == 4 || VECTOR == 1, "copies are 16 or 4 bytes wide");

// The calling thread's group of lines and group of columns.
__device__ __forceinline__ int line_group() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return warp / (COLUMN_GROUPS / WARP_COLUMNS) * WARP_LINES + lane / WARP_COLUMNS;
}
__device__ __forceinline__ int column_group() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return warp % (COLUMN_GROUPS / WARP_COLUMNS) * WARP_COLUMNS + lane % WARP_COLUMNS;
}

// The i-th member of a group: 4 neighbours in one place, the next 4 in another.
__device__ __forceinline__ int member(int groups, int group, int i) {
    return i / 4 * 4 * groups + 4 * group + i % 4;
}

constexpr int LEAST_COPIED = COPY_WIDTH_AT_RUN_TIME ? 1 : VECTOR;  // floats of a copy
using Copies = CopiesUnderWay<STAGES, STAGE_BYTES / (4 * LEAST_COPIED) / THREADS>;

constexpr int UNIT = VECTOR;  // floats that a thread copies at a time

// Floats that a copy moves: known before the launch.
#if !COPY_WIDTH_AT_RUN_TIME
struct CopyWidth {
    static constexpr int numbers = VECTOR;
    __device__ CopyWidth(const float*, int) {}
};
#else
struct CopyWidth {
    int numbers;
    // `run`: how many numbers lie together, from `start` on, again and again.
    __device__ CopyWidth(const float* start, int run)
        : numbers(run % 4 == 0 && reinterpret_cast<unsigned long long>(start) % 16 == 0 ? 4 : 1) {}
};
#endif

// Layout of a slab whose source is contiguous along the depth: EXTENT rows of TILE_K depths, the
// members of a group GROUPS rows apart, so that neighbouring threads read neighbouring rows. Four
// chunks of 16 bytes make half of the 32 banks; row r keeps chunk c at c ^ (r / 2 % 4), so that 8
// neighbouring rows keep the same chunk in 8 different places of the banks.
template <int EXTENT, int MICRO>
struct AlongDepth {
    using Element = float;
    static constexpr bool ALONG_DEPTH = true;
    static constexpr int CHUNKS = TILE_K / VECTOR;
    static constexpr int ROWS = THREADS / CHUNKS;  // copied by the block at a time
    static constexpr int SHARE = EXTENT / ROWS;
    static constexpr int GROUPS = EXTENT / MICRO;
    static_assert(THREADS % CHUNKS == 0 && EXTENT % ROWS == 0, "threads share the copies evenly");
    static_assert(ROWS % 8 == 0 && GROUPS % 8 == 0, "all rows of a thread have one swizzle");

    // The calling thread's share: depth() and its VECTOR - 1 successors, of line(i), i < SHARE.
    __device__ static bool has(int) { return true; }
    __device__ static int depth() { return threadIdx.x % CHUNKS * VECTOR; }
    __device__ static int row() { return threadIdx.x / CHUNKS; }
    __device__ static int line(int i) {
        return member(GROUPS, (row() + i * ROWS) % GROUPS, (row() + i * ROWS) / GROUPS);
    }
    __device__ static float* place(float* slab, int i, int part) {
        return slab + (row() * TILE_K + (depth() / 4 ^ row() / 2 % 4) * 4 + depth() % 4 + part) +
               i * (ROWS * TILE_K);
    }

    // 4 depths, from 4 * chunk, of the group's i-th member.
    __device__ static float4 depths(const float* slab, int group, int i, int chunk) {
        const int place = group * TILE_K + (chunk ^ group / 2 % 4) * 4;
        return *reinterpret_cast<const float4*>(slab + place + i * (GROUPS * TILE_K));
    }
};

// Layout of a slab whose source is contiguous along the lines: TILE_K rows of EXTENT lines.
// Neighbouring threads read neighbouring 16 bytes.
template <int EXTENT, int MICRO>
struct AcrossLines {
    using Element = float;
    static constexpr bool ALONG_DEPTH = false;
    static constexpr int CHUNKS = EXTENT / VECTOR;
    static constexpr int STEP = THREADS / CHUNKS;  // from a thread's depth to its next
    static constexpr int SHARE = TILE_K / STEP;
    static constexpr int GROUPS = EXTENT / MICRO;
    static_assert(THREADS % CHUNKS == 0 && TILE_K % STEP == 0, "threads share the copies evenly");

    // The calling thread's share: line() and its VECTOR - 1 successors, at depth(i), i < SHARE.
    __device__ static bool has(int) { return true; }
    __device__ static int line() { return threadIdx.x % CHUNKS * VECTOR; }
    __device__ static int depth(int i) { return threadIdx.x / CHUNKS + i * STEP; }
    __device__ static float* place(float* slab, int i, int part) {
        return slab + (depth(0) * EXTENT + line() + part) + i * (STEP * EXTENT);
    }

    // All members of the group at one depth.
    __device__ static void members(float (&values)[MICRO], const float* slab, int group,
                                   int depth) {
#pragma unroll
        for (int i = 0; i < MICRO; i += 4) {
            const float4 four =
                *reinterpret_cast<const float4*>(slab + depth * EXTENT + member(GROUPS, group, i));
            values[i] = four.x, values[i + 1] = four.y;
            values[i + 2] = four.z, values[i + 3] = four.w;
        }
    }
};

// The calling thread's micro-tile: both its lines and its columns come in runs of 4 neighbours.
struct Sums {
    static constexpr int LINES = MICRO_M, COLUMNS = MICRO_N, RUN = 4;
    float values[MICRO_M][MICRO_N];

    __device__ float at(int i, int j) const { return values[i][j]; }
    __device__ static int line(int i) {
        return blockIdx.x * TILE_M + member(LINE_GROUPS, line_group(), i);
    }
    __device__ static int column(int j) {
        return blockIdx.y * TILE_N + member(COLUMN_GROUPS, column_group(), j);
    }
    // The threads with the same columns, as tile_moments.cuh asks.
    using Threads = Sums;
    static constexpr int LANES = 32 - WARP_COLUMNS, WARPS = LINE_GROUPS / WARP_LINES;
    __device__ static int warp() { return threadIdx.x / 32 / (COLUMN_GROUPS / WARP_COLUMNS); }
};

__device__ __forceinline__ void add_line(float (&sums)[MICRO_N], float line,
                                         const float (&column)[MICRO_N]) {
#pragma unroll
    for (int j = 0; j < MICRO_N; ++j) sums[j] = fmaf(line, column[j], sums[j]);
}

// Adds the products of one step, 4 depths at a time. Where lines lie along the depth, all columns
// are held at the 4 depths and the lines pass by one at a time; else the depths pass by one at a
// time. Either way each sum takes its depths in ascending order.
template <class Left, class Right>
__device__ __forceinline__ void add_products(Sums& sums, const float* lines, const float* columns) {
    static_assert(Left::ALONG_DEPTH || !Right::ALONG_DEPTH, "no product needs it");
#pragma unroll UNROLLED
    for (int chunk = 0; chunk < TILE_K / 4; ++chunk) {
        float column[4][MICRO_N];
        if constexpr (Right::ALONG_DEPTH) {
#pragma unroll
            for (int j = 0; j < MICRO_N; ++j) {
                const float4 b = Right::depths(columns, column_group(), j, chunk);
                column[0][j] = b.x, column[1][j] = b.y, column[2][j] = b.z, column[3][j] = b.w;
            }
        } else {
#pragma unroll
            for (int d = 0; d < 4; ++d) {
                Right::members(column[d], columns, column_group(), chunk * 4 + d);
            }
        }
        if constexpr (Left::ALONG_DEPTH) {
#pragma unroll
            for (int i = 0; i < MICRO_M; ++i) {
                const float4 a = Left::depths(lines, line_group(), i, chunk);
                add_line(sums.values[i], a.x, column[0]);
                add_line(sums.values[i], a.y, column[1]);
                add_line(sums.values[i], a.z, column[2]);
                add_line(sums.values[i], a.w, column[3]);
            }
        } else {
#pragma unroll
            for (int d = 0; d < 4; ++d) {
                float line[MICRO_M];
                Left::members(line, lines, line_group(), chunk * 4 + d);
#pragma unroll
                for (int i = 0; i < MICRO_M; ++i) add_line(sums.values[i], line[i], column[d]);
            }
        }
    }
}

// The slabs of all stages.
struct __align__(16) Stages {
    float lines[STAGES][TILE_K * TILE_M];
    float columns[STAGES][TILE_K * TILE_N];
};

__device__ __forceinline__ Stages& stages() {
    __shared__ Stages slabs;  // one for all products of a file: here it is no template's
    return slabs;
}

// Shared memory that is free again when all threads have done with a product.
__device__ __forceinline__ float* behind_product() {
    return stages().lines[0];
}

// Called by all threads of the block with sources that stand at range.begin.
template <class Left, class Right>
__device__ __forceinline__ Sums pipelined_product(Left left, Right right, DepthRange range) {
    Stages& slabs = stages();
    int depth = range.end - range.begin;  // what is left of it
    Copies copies;
#pragma unroll
    for (int ahead = 0; ahead < STAGES - 1; ++ahead) {
        if (ahead * TILE_K < depth) {
            left.fill(copies, slabs.lines[ahead], depth - ahead * TILE_K);
            right.fill(copies, slabs.columns[ahead], depth - ahead * TILE_K);
        } else {
            skip(left), skip(right);
        }
        copies.end_group();
    }

    Sums sums = {};
    int stage = 0;
    for (; depth > 0; depth -= TILE_K) {
        copies.wait_for_oldest();
        finish(left, slabs.lines[stage]), finish(right, slabs.columns[stage]);
        __syncthreads();  // this step's slabs are complete, and the step before is done with its
        const int ahead = depth - (STAGES - 1) * TILE_K;
        if (ahead > 0) {
            const int before = stage == 0 ? STAGES - 1 : stage - 1;
            left.fill(copies, slabs.lines[before], ahead);
            right.fill(copies, slabs.columns[before], ahead);
        } else {
            skip(left), skip(right);
        }
        copies.end_group();
        add_products<typename Left::Slab, typename Right::Slab>(sums, slabs.lines[stage],
                                                                slabs.columns[stage]);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    return sums;
}
