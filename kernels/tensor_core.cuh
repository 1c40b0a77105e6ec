// A tile of a matrix product on tensor cores: operands rounded to TF32 or bf16, sums in float32.
//
//     sum[line][column] = sum over depth of round(left(line, depth)) * round(right(column, depth))
//
// One block owns TILE_M lines and TILE_N columns and walks along the depth in steps of TILE_K, as
// tile_product.cuh does. What is different:
//   1. The products: one mma.sync instruction lets a warp multiply 16 lines by 8 columns, 8 (TF32)
//      or 16 (bf16) deep. Each lane holds a few elements of both operands (fragments) and 4 sums.
//   2. The copies: 16 bytes at a time from memory to shared memory, STAGES - 1 steps ahead of their
//      use (copies.cuh). One barrier per step is enough.
//   3. The rounding: where memory and shared memory hold float32, an element is rounded when it
//      enters a fragment: to TF32 to nearest, ties away from zero (cvt.rna); to bf16 to nearest,
//      ties to even (cvt.rn). So weights and activations stay float32, and both precisions share
//      all the rest. Where memory holds bf16 (-DELEMENT=Bf16), shared memory does too: half the
//      bytes, no rounding, and one ldmatrix brings a warp the fragments of four 8 x 8 matrices,
//      transposed where lines are what is contiguous. Such arrays come in whole units, 8 channels
//      at multiples of 16 bytes.
//
// Every instruction of PTX sits in a function of its own with a plain body beside it, which
// computes the same from the same registers: that is what the CPU driver runs. Sums differ in one
// thing: the plain body adds product after product, each sum rounded to nearest; tensor cores add
// the products of an mma in an order of their own and cut off what does not fit.
//
// Needs compute capability 8.0, and STAGES times a slab of both operands of dynamic shared memory.
#pragma once

#ifndef TILE_M
#define TILE_M 64  // lines per block: 64, 128 or 256
#endif
#ifndef TILE_N
#define TILE_N 64  // columns per block: 8, 64 or 128
#endif
#ifndef PRECISION
#define PRECISION tf32  // of the operands: tf32 or bf16
#endif
#ifndef TILE_K
#define TILE_K 32  // depth per step, and what slices are multiples of: 16 or 32
#endif
#ifndef STAGES
#define STAGES 3  // steps in shared memory: one in use, the others on their way
#endif

#include "copies.cuh"
#include "product.cuh"
#include "rounding.cuh"
#include "stored.cuh"

constexpr int UNIT = 16 / sizeof(ELEMENT);  // numbers that a thread copies at a time: 16 bytes
constexpr bool HALVES = sizeof(ELEMENT) == 2;

constexpr int WARPS = TILE_M * TILE_N > 128 * 128 ? 8 : 4;
constexpr int WARPS_M = TILE_N == 8 || TILE_M == 256 ? 4 : 2;
constexpr int WARPS_N = WARPS / WARPS_M;
constexpr int THREADS = 32 * WARPS;

// Of one mma, and how many of them a warp's part of the tile takes.
constexpr int MMA_LINES = 16, MMA_COLUMNS = 8;
constexpr int MMAS_M = TILE_M / WARPS_M / MMA_LINES;
constexpr int MMAS_N = TILE_N / WARPS_N / MMA_COLUMNS;
static_assert(MMAS_M > 0 && MMAS_N > 0, "every warp has a part of the tile");

// ---- Fragments ----
//
// Lane l holds of an mma, with g = l / 4 and t = l % 4: lines g and g + 8 of the left operand,
// column g of the right one, and the sums (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
// Which depth stands in which register is free as long as both operands agree: the sum does not
// care. A lane therefore takes pairs of neighbouring depths, 8 bytes at a time.
struct LeftFragment {
    unsigned at[4];  // (line g, half 0), (g + 8, 0), (g, 1), (g + 8, 1)
};
struct RightFragment {
    unsigned at[2];  // (column g, half 0), (g, 1)
};

// The formats: depth of an mma, and where the instruction finds element k of a line: in which half
// of the registers of which of the line's four lanes.
struct tf32 {
    static constexpr int DEPTH = 8;
    __device__ static int half(int k) { return k / 4; }
    __device__ static int lane(int k) { return k % 4; }
    __device__ static float value(unsigned bits, int) { return __uint_as_float(bits); }
};
struct bf16 {
    static constexpr int DEPTH = 16;
    __device__ static int half(int k) { return k / 8; }
    __device__ static int lane(int k) { return k % 8 / 2; }
    __device__ static float value(unsigned bits, int k) {
        return __uint_as_float(k % 2 ? bits & 0xffff0000u : bits << 16);
    }
};

#ifndef __CUDA_ARCH__
// What mma.sync does: the 32 lanes meet, and each computes its 4 sums from the fragments of all.
template <class Format>
__device__ __noinline__ void plain_multiply_add(float (&sums)[4], const LeftFragment& left,
                                                const RightFragment& right) {
    struct Operands {
        LeftFragment left;
        RightFragment right;
    };
    __shared__ Operands operands[WARPS][32];
    const int lane = threadIdx.x % 32;
    Operands* const lanes = operands[threadIdx.x / 32];
    lanes[lane] = {left, right};
    __syncwarp();
    const int line = lane / 4, column = lane % 4 * 2;
    LeftFragment of_line[4];  // lines `line` and `line` + 8
    RightFragment of_column[2][4];
    for (int i = 0; i < 4; ++i) {
        of_line[i] = lanes[4 * line + i].left;
        of_column[0][i] = lanes[4 * column + i].right;
        of_column[1][i] = lanes[4 * column + 4 + i].right;
    }
    for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < Format::DEPTH; ++k) {
            const int half = Format::half(k), from = Format::lane(k);
            const float a = Format::value(of_line[from].at[2 * half + i / 2], k);
            const float b = Format::value(of_column[i % 2][from].at[half], k);
            sums[i] = fmaf(a, b, sums[i]);
        }
    }
    __syncwarp();  // before the next call writes the fragments anew
}
#endif

// sums += left * right, by all lanes of a warp together.
__device__ __forceinline__ void multiply_add(tf32, float (&sums)[4], const LeftFragment& left,
                                             const RightFragment& right) {
#ifdef __CUDA_ARCH__
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left.at[0]), "r"(left.at[1]), "r"(left.at[2]), "r"(left.at[3]), "r"(right.at[0]),
          "r"(right.at[1]));
#else
    plain_multiply_add<tf32>(sums, left, right);
#endif
}

__device__ __forceinline__ void multiply_add(bf16, float (&sums)[4], const LeftFragment& left,
                                             const RightFragment& right) {
#ifdef __CUDA_ARCH__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left.at[0]), "r"(left.at[1]), "r"(left.at[2]), "r"(left.at[3]), "r"(right.at[0]),
          "r"(right.at[1]));
#else
    plain_multiply_add<bf16>(sums, left, right);
#endif
}

// ---- Copies to shared memory ----

using Copies = CopiesUnderWay<STAGES, 2 * (TILE_M + TILE_N) * TILE_K / THREADS>;

// Numbers of a unit that one copy moves: all where memory allows 16 bytes at a time. run: how many
// neighbours follow each other.
template <class Number>
struct CopyWidthOf {
    int numbers;

    __device__ CopyWidthOf(const Number* start, int run) {
        const bool aligned = reinterpret_cast<unsigned long long>(start) % (4 * UNIT) == 0;
        numbers = aligned && run % UNIT == 0 ? UNIT : 1;
    }
};
template <>
struct CopyWidthOf<Bf16> {
    static constexpr int numbers = UNIT;
    __device__ CopyWidthOf(const Bf16*, int) {}
};
using CopyWidth = CopyWidthOf<ELEMENT>;

// Slabs: TILE_K depths of LINES lines in shared memory, and how the threads share the copying of
// them. A unit is UNIT neighbours in memory. The padding keeps units 16-byte aligned and lets the
// lanes of a warp read their fragments from different banks.

// Neighbours in memory differ in depth: thread -> depth(), and line(i) for i < SHARE.
template <int LINES_OF_SLAB>
struct AlongDepth {
    using Element = ELEMENT;
    static constexpr int LINES = LINES_OF_SLAB;
    static constexpr int PITCH = TILE_K + 8, SIZE = LINES * PITCH;
    static constexpr int UNITS = TILE_K / UNIT;  // of a line
    static constexpr int SHARE = (LINES + THREADS / UNITS - 1) / (THREADS / UNITS);
    static_assert(HALVES || 2 * PITCH % 32 == 16,
                  "8-byte reads of 4 lines by half a warp: no conflict");
    static_assert(!HALVES || PITCH % 16 == 8, "16-byte reads of 8 lines: no conflict");

    __device__ static int depth() { return threadIdx.x % UNITS * UNIT; }
    __device__ static int line(int i) { return threadIdx.x / UNITS + i * (THREADS / UNITS); }
    __device__ static bool has(int i) { return line(i) < LINES; }
    __device__ static Element* place(Element* slab, int i, int part) {
        return slab + line(i) * PITCH + depth() + part;
    }
    // Elements (line, depth) and (line, depth + 1); depth is even.
    __device__ static float2 pair(const float* slab, int line, int depth) {
        return *reinterpret_cast<const float2*>(slab + line * PITCH + depth);
    }
    // Of an 8 x 8 matrix, where the line (or depth) begins that a lane names for ldmatrix.
    static constexpr bool TRANSPOSED = false;
    __device__ static const Bf16* row_of(const Bf16* slab, int line, int depth, int number) {
        return slab + (line + number) * PITCH + depth;
    }
};

// Neighbours in memory are neighbouring lines: thread -> line(), and depth(i) for i < SHARE.
template <int LINES_OF_SLAB>
struct AcrossLines {
    using Element = ELEMENT;
    static constexpr int LINES = LINES_OF_SLAB;
    static constexpr int PITCH = LINES + UNIT, SIZE = TILE_K * PITCH;
    static constexpr int UNITS = LINES / UNIT;  // of a depth
    static constexpr int STEP = THREADS / UNITS < TILE_K ? THREADS / UNITS : TILE_K;
    static constexpr int SHARE = TILE_K / STEP;
    static_assert(TILE_K % STEP == 0, "a thread's depths are STEP apart, from slab to slab too");
    static_assert(HALVES || 2 * PITCH % 32 == 8 || 2 * PITCH % 32 == 24,
                  "4-byte reads of 8 lines at 4 depths: no conflict");
    static_assert(!HALVES || PITCH % 16 == 8, "16-byte reads of 8 depths: no conflict");

    __device__ static int line() { return threadIdx.x % UNITS * UNIT; }
    __device__ static int depth(int i) { return threadIdx.x / UNITS + i * STEP; }
    __device__ static bool has(int i) { return depth(i) < TILE_K; }
    __device__ static Element* place(Element* slab, int i, int part) {
        return slab + depth(i) * PITCH + line() + part;
    }
    __device__ static float2 pair(const float* slab, int line, int depth) {
        return {slab[depth * PITCH + line], slab[(depth + 1) * PITCH + line]};
    }
    static constexpr bool TRANSPOSED = true;
    __device__ static const Bf16* row_of(const Bf16* slab, int line, int depth, int number) {
        return slab + (depth + number) * PITCH + line;
    }
};

// ---- The product ----

// The sums of the calling thread: LINES lines of the tile, and of each COLUMNS columns.
struct Sums {
    // Neighbours are stored together where bf16 arrays promise whole units.
    static constexpr int RUN = HALVES || sizeof(RESULT) == 2 ? 2 : 1;
    static constexpr int LINES = 2 * MMAS_M, COLUMNS = 2 * MMAS_N;
    float of_mma[MMAS_M][MMAS_N][4];

    __device__ float at(int i, int j) const { return of_mma[i / 2][j / 2][i % 2 * 2 + j % 2]; }
    __device__ static int line(int i) {
        return blockIdx.x * TILE_M + first_line() + i / 2 * MMA_LINES + i % 2 * 8 +
               threadIdx.x % 32 / 4;
    }
    __device__ static int column(int j) {
        return blockIdx.y * TILE_N + first_column() + j / 2 * MMA_COLUMNS + threadIdx.x % 4 * 2 +
               j % 2;
    }
    // Of the warp's part, within the tile.
    __device__ static int first_line() {
        return static_cast<int>(threadIdx.x) / 32 / WARPS_N * (TILE_M / WARPS_M);
    }
    __device__ static int first_column() {
        return static_cast<int>(threadIdx.x) / 32 % WARPS_N * (TILE_N / WARPS_N);
    }
    // The threads with the same columns, as tile_moments.cuh asks.
    using Threads = Sums;
    static constexpr int LANES = 28, WARPS = WARPS_M;
    __device__ static int warp() { return threadIdx.x / 32 / WARPS_N; }
};

// Fragments of the 16 lines (8 columns) from `line` on, `depth` and what follows.
template <class Slab>
__device__ __forceinline__ LeftFragment left_fragment(tf32, const float* slab, int line,
                                                      int depth) {
    const int lane = threadIdx.x % 32;
    const float2 upper = Slab::pair(slab, line + lane / 4, depth + lane % 4 * 2);
    const float2 lower = Slab::pair(slab, line + lane / 4 + 8, depth + lane % 4 * 2);
    return {{round_to_tf32(upper.x), round_to_tf32(lower.x), round_to_tf32(upper.y),
             round_to_tf32(lower.y)}};
}
template <class Slab>
__device__ __forceinline__ RightFragment right_fragment(tf32, const float* slab, int line,
                                                        int depth) {
    const int lane = threadIdx.x % 32;
    const float2 pair = Slab::pair(slab, line + lane / 4, depth + lane % 4 * 2);
    return {{round_to_tf32(pair.x), round_to_tf32(pair.y)}};
}
template <class Slab>
__device__ __forceinline__ unsigned bf16_pair(const float* slab, int line, int depth) {
    const float2 pair = Slab::pair(slab, line, depth);
    return round_to_bf16(pair.x, pair.y);
}
template <class Slab>
__device__ __forceinline__ LeftFragment left_fragment(bf16, const float* slab, int line,
                                                      int depth) {
    const int lane = threadIdx.x % 32, from = line + lane / 4, pair = depth + lane % 4 * 2;
    return {{bf16_pair<Slab>(slab, from, pair), bf16_pair<Slab>(slab, from + 8, pair),
             bf16_pair<Slab>(slab, from, pair + 8), bf16_pair<Slab>(slab, from + 8, pair + 8)}};
}
template <class Slab>
__device__ __forceinline__ RightFragment right_fragment(bf16, const float* slab, int line,
                                                        int depth) {
    const int lane = threadIdx.x % 32, from = line + lane / 4, pair = depth + lane % 4 * 2;
    return {{bf16_pair<Slab>(slab, from, pair), bf16_pair<Slab>(slab, from, pair + 8)}};
}

#ifndef __CUDA_ARCH__
// What ldmatrix does: the 32 lanes meet, and each reads from the rows that all have named.
template <bool TRANSPOSED>
__device__ __noinline__ void plain_load_matrices(unsigned (&pairs)[4], const Bf16* row) {
    __shared__ const Bf16* rows[WARPS][32];
    const int lane = threadIdx.x % 32;
    const Bf16** const lanes = rows[threadIdx.x / 32];
    lanes[lane] = row;
    __syncwarp();
    for (int matrix = 0; matrix < 4; ++matrix) {
        pairs[matrix] = 0;
        for (int i = 0; i < 2; ++i) {
            const int line = lane / 4, depth = lane % 4 * 2 + i;
            const Bf16* const from = lanes[8 * matrix + (TRANSPOSED ? depth : line)];
            pairs[matrix] |= static_cast<unsigned>(from[TRANSPOSED ? line : depth].bits)
                             << (16 * i);
        }
    }
    __syncwarp();  // before the next call names rows anew
}
#endif

// Four 8 x 8 matrices of bf16 at once: lane l names row l % 8 of matrix l / 8, and gets of each its
// elements (l / 4, l % 4 * 2) and the next, of lines and depths whichever way they lie.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(unsigned (&pairs)[4], const Bf16* row) {
#ifdef __CUDA_ARCH__
    const auto place = static_cast<unsigned>(__cvta_generic_to_shared(row));
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                     : "r"(place)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                     : "r"(place)
                     : "memory");
    }
#else
    plain_load_matrices<TRANSPOSED>(pairs, row);
#endif
}

// Fragments of the 16 lines from `line` on, 16 deep.
template <class Slab>
__device__ __forceinline__ LeftFragment left_fragment(bf16, const Bf16* slab, int line, int depth) {
    const int lane = threadIdx.x % 32, lower = lane / 8 % 2 * 8, deeper = lane / 16 * 8;
    LeftFragment fragment;
    load_matrices<Slab::TRANSPOSED>(fragment.at,
                                    Slab::row_of(slab, line + lower, depth + deeper, lane % 8));
    return fragment;
}

// Fragments of the 16 columns from `column` on: of 8, and of the 8 after them.
template <class Slab>
__device__ __forceinline__ void right_fragments(RightFragment& first, RightFragment& second,
                                                const Bf16* slab, int column, int depth) {
    const int lane = threadIdx.x % 32, further = lane / 16 * 8, deeper = lane / 8 % 2 * 8;
    unsigned pairs[4];
    load_matrices<Slab::TRANSPOSED>(pairs,
                                    Slab::row_of(slab, column + further, depth + deeper, lane % 8));
    first = {{pairs[0], pairs[1]}};
    second = {{pairs[2], pairs[3]}};
}

// The fragments of all columns of the warp.
template <class Slab>
__device__ __forceinline__ void all_right_fragments(RightFragment (&columns)[MMAS_N],
                                                    const ELEMENT* slab, int depth) {
    constexpr int STEP = HALVES ? 2 : 1;
    static_assert(MMAS_N % STEP == 0, "columns are loaded by 16");
    UNROLL
    for (int j = 0; j < MMAS_N; j += STEP) {
        const int column = Sums::first_column() + j * MMA_COLUMNS;
        if constexpr (HALVES) {
            right_fragments<Slab>(columns[j], columns[j + 1], slab, column, depth);
        } else {
            columns[j] = right_fragment<Slab>(PRECISION{}, slab, column, depth);
        }
    }
}

template <class LeftSlab, class RightSlab>
__device__ GPU_INLINE void multiply_slabs(Sums& sums, const ELEMENT* left, const ELEMENT* right) {
    using Format = PRECISION;
    UNROLL
    for (int depth = 0; depth < TILE_K; depth += Format::DEPTH) {
        LeftFragment lines[MMAS_M];
        RightFragment columns[MMAS_N];
        UNROLL
        for (int i = 0; i < MMAS_M; ++i) {
            const int line = Sums::first_line() + i * MMA_LINES;
            lines[i] = left_fragment<LeftSlab>(Format{}, left, line, depth);
        }
        all_right_fragments<RightSlab>(columns, right, depth);
        UNROLL
        for (int i = 0; i < MMAS_M; ++i) {
            UNROLL
            for (int j = 0; j < MMAS_N; ++j) {
                multiply_add(Format{}, sums.of_mma[i][j], lines[i], columns[j]);
            }
        }
    }
}

extern __shared__ __align__(16) ELEMENT stages[];  // STAGES times (left slab, right slab)

// Shared memory that is free again when all threads have done with a product.
__device__ __forceinline__ float* behind_product() {
    return reinterpret_cast<float*>(stages);
}

// Called by all threads of the block, with sources that stand at range.begin.
template <class Left, class Right>
__device__ __forceinline__ Sums tile_product(Left left, Right right, DepthRange range) {
    using LeftSlab = typename Left::Slab;
    using RightSlab = typename Right::Slab;
    constexpr int STAGE = LeftSlab::SIZE + RightSlab::SIZE;
    constexpr int AHEAD = STAGES - 1;
    Copies copies;
    Sums sums = {};
    const int steps = ceil_div(range.end - range.begin, TILE_K);
    int from = 0, to = 0;  // the stages that are read and filled next
    for (int step = -AHEAD; step < steps; ++step) {
        if (step >= 0) {
            copies.wait_for_oldest();
            ELEMENT* const arrived = stages + from * STAGE;
            finish(left, arrived), finish(right, arrived + LeftSlab::SIZE);
            // Everybody's copies of this step have arrived, and nobody reads any more what the next
            // copies overwrite: the stage of the step before.
            __syncthreads();
        }
        if (step + AHEAD < steps) {
            const int depths = range.end - range.begin - (step + AHEAD) * TILE_K;
            left.fill(copies, stages + to * STAGE, depths);
            right.fill(copies, stages + to * STAGE + LeftSlab::SIZE, depths);
            to = to + 1 == STAGES ? 0 : to + 1;
        } else {
            skip(left), skip(right);
        }
        copies.end_group();  // also where it is empty: groups are counted
        if (step >= 0) {
            const ELEMENT* const stage = stages + from * STAGE;
            multiply_slabs<LeftSlab, RightSlab>(sums, stage, stage + LeftSlab::SIZE);
            from = from + 1 == STAGES ? 0 : from + 1;
        }
    }
    return sums;
}
