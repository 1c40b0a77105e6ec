// A tile of a matrix product: the arithmetic under convolution and fully connected layers.
//
//     sum[line][column] = sum over depth of left(line, depth) * right(column, depth)
//
// One block owns TILE_M lines and TILE_N columns. It walks along the depth in steps of TILE_K:
// all threads copy a TILE_K-deep slab of both operands to shared memory, then each thread adds
// the slab's products to its MICRO_M x MICRO_N sums in registers. What each step gains:
//   1. one thread per sum: two loads from memory per product;
//   2. tiles in shared memory: every loaded value serves a whole line or column of the tile, so
//      memory traffic falls by TILE_M and TILE_N;
//   3. a micro-tile in registers: 4 + 4 loads from shared memory serve 16 products.
//
// Where the operands come from is up to a source: a class with `fill(tile, depth, depth_end)`
// that writes its slab, zeros where line, column or depth lie outside; it is told the depth each
// time, and so ignores where its slice begins (the last argument that it is made with). Slabs are
// stored with the depth first, so that a micro-tile's neighbouring lines are one 16-byte load; PAD
// keeps that alignment and spreads the stores of a source that reads along the depth over the
// banks.
#pragma once

#include "product.cuh"

#ifndef TILE_M
#define TILE_M 64  // lines per block: 8, 32 or 64
#endif
#ifndef TILE_N
#define TILE_N 64  // columns per block: 8, 32 or 64
#endif

// Few lines or columns (a layer with one filter) leave no work for a micro-tile in that direction.
constexpr int MICRO_M = TILE_M >= 32 ? 4 : 1;
constexpr int MICRO_N = TILE_N >= 32 ? 4 : 1;
constexpr int THREADS = (TILE_M / MICRO_M) * (TILE_N / MICRO_N);
constexpr int PAD = 4;

static_assert(THREADS % TILE_K == 0 && TILE_M % (THREADS / TILE_K) == 0 &&
                  TILE_N % (THREADS / TILE_K) == 0,
              "a source that reads along the depth gives each thread one depth of several lines");
static_assert(THREADS % TILE_M == 0 && TILE_K % (THREADS / TILE_M) == 0 && THREADS % TILE_N == 0 &&
                  TILE_K % (THREADS / TILE_N) == 0,
              "a source that reads across lines gives each thread one line at several depths");

template <int EXTENT>
using Slab = float[TILE_K][EXTENT + PAD];

// How the threads of a block share a slab of EXTENT lines when neighbouring threads read
// neighbouring depths: thread -> depth(), and line(i) for i < SHARE.
template <int EXTENT>
struct AlongDepth {
    static constexpr int SHARE = EXTENT * TILE_K / THREADS;
    __device__ static int depth() { return threadIdx.x % TILE_K; }
    __device__ static int line(int i) { return threadIdx.x / TILE_K + i * (THREADS / TILE_K); }
};

// The same when neighbouring threads read neighbouring lines: thread -> line(), depth(i).
template <int EXTENT>
struct AcrossLines {
    static constexpr int SHARE = EXTENT * TILE_K / THREADS;
    __device__ static int line() { return threadIdx.x % EXTENT; }
    __device__ static int depth(int i) { return threadIdx.x / EXTENT + i * (THREADS / EXTENT); }
};

// Source: element (line, depth) of a matrix at start[line * pitch + depth].
template <int EXTENT>
struct MatrixRows {
    using Share = AlongDepth<EXTENT>;
    const float* start;  // at (first line of the block, depth 0)
    Offset pitch;
    int lines;  // from the block's first line to the matrix's end

    __device__ MatrixRows(const float* __restrict__ matrix, int first_line, int all_lines,
                          int pitch, int = 0)
        : start(matrix + static_cast<Offset>(first_line) * pitch),
          pitch(pitch),
          lines(all_lines - first_line) {}

    __device__ void fill(Slab<EXTENT>& slab, int first_depth, int depth_end) const {
        const int depth = first_depth + Share::depth();
#pragma unroll
        for (int i = 0; i < Share::SHARE; ++i) {
            const int line = Share::line(i);
            const bool inside = line < lines && depth < depth_end;
            slab[Share::depth()][line] = inside ? __ldg(start + line * pitch + depth) : 0.0f;
        }
    }
};

// Source: element (line, depth) of a matrix at start[depth * pitch + line].
template <int EXTENT>
struct MatrixColumns {
    using Share = AcrossLines<EXTENT>;
    const float* start;  // at (first line of the block, depth 0)
    Offset pitch;
    int lines;

    __device__ MatrixColumns(const float* __restrict__ matrix, int first_line, int all_lines,
                             int pitch, int = 0)
        : start(matrix + first_line), pitch(pitch), lines(all_lines - first_line) {}

    __device__ void fill(Slab<EXTENT>& slab, int first_depth, int depth_end) const {
        const int line = Share::line();
#pragma unroll
        for (int i = 0; i < Share::SHARE; ++i) {
            const int depth = first_depth + Share::depth(i);
            const bool inside = line < lines && depth < depth_end;
            slab[Share::depth(i)][line] = inside ? __ldg(start + depth * pitch + line) : 0.0f;
        }
    }
};

// The calling thread's micro-tile.
struct Sums {
    static constexpr int LINES = MICRO_M, COLUMNS = MICRO_N, RUN = 1;
    float values[MICRO_M][MICRO_N];

    __device__ float at(int i, int j) const { return values[i][j]; }
    __device__ static int line(int i) { return blockIdx.x * TILE_M + first_line() + i; }
    __device__ static int column(int j) { return blockIdx.y * TILE_N + first_column() + j; }
    // Within the block's tile.
    __device__ static int first_line() {
        return static_cast<int>(threadIdx.x) / (TILE_N / MICRO_N) * MICRO_M;
    }
    __device__ static int first_column() {
        return static_cast<int>(threadIdx.x) % (TILE_N / MICRO_N) * MICRO_N;
    }
};

// Called by all threads of the block; each returns its own micro-tile.
template <class Left, class Right>
__device__ __forceinline__ Sums tile_product(const Left& left, const Right& right,
                                             DepthRange range) {
    __shared__ __align__(16) Slab<TILE_M> lines;
    __shared__ __align__(16) Slab<TILE_N> columns;
    Sums sums = {};
    for (int depth = range.begin; depth < range.end; depth += TILE_K) {
        left.fill(lines, depth, range.end);
        right.fill(columns, depth, range.end);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE_K; ++k) {
            float a[MICRO_M], b[MICRO_N];
#pragma unroll
            for (int i = 0; i < MICRO_M; ++i) a[i] = lines[k][Sums::first_line() + i];
#pragma unroll
            for (int j = 0; j < MICRO_N; ++j) b[j] = columns[k][Sums::first_column() + j];
#pragma unroll
            for (int i = 0; i < MICRO_M; ++i) {
#pragma unroll
                for (int j = 0; j < MICRO_N; ++j) {
                    sums.values[i][j] = fmaf(a[i], b[j], sums.values[i][j]);
                }
            }
        }
        __syncthreads();
    }
    return sums;
}
