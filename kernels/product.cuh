// What every matrix product of this folder shares, however its tiles are computed: the slices that
// its depth is cut into, and what happens to a finished sum.
//
// In the float32 ones a sum runs through its slice in ascending depth, one fused multiply-add after
// the other. The size of a tile and the way in which operands reach the arithmetic therefore do not
// change a single bit; the number of slices does.
#pragma once

#include "common.cuh"
#include "epilogue.cuh"

#ifndef TILE_K
#define TILE_K 16  // depth per step, and what slices are multiples of
#endif

// The part of the depth that slice number `slice` of `slices` sums: whole steps of TILE_K, in
// order; the last slices may be empty.
struct DepthRange {
    int begin, end;
};

__device__ __forceinline__ DepthRange depth_range(int depth, int slice, int slices) {
    const int length = ceil_div(ceil_div(depth, TILE_K), slices) * TILE_K;
    const int begin = min(slice * length, depth);
    return {begin, min(begin + length, depth)};
}

// The end of every product: the sum goes to `out`, or, where the depth is cut into slices, as it is
// to this slice's copy of `out` (sum_partials in partial_sums.cu then adds the copies in order, and
// finishes their sum).
template <class Number>
struct ResultOf {
    Number* out;  // the result, or the first of `slices` copies of it, which are of floats
    Offset size;  // elements of the result
    int slice, slices;
    EpilogueOf<Number> epilogue;

    // RUN sums of neighbouring channels at once: the first `left` of them, where a run of channels
    // has `run` in all. With RUN = 4, and run, channel and index multiples of 4, that is 16 bytes;
    // likewise for 2.
    template <bool SMOOTH, int RUN>
    __device__ __forceinline__ void store_run(Offset index, int channel, const Pack<RUN>& sums,
                                              int left, int run) const {
        if (RUN == 1 || run % RUN != 0) {
            UNROLL
            for (int j = 0; j < RUN; ++j) {
                if (j < left) put<SMOOTH, 1>(index + j, channel + j, {{sums.at[j]}});
            }
        } else if (left > 0) {
            put<SMOOTH, RUN>(index, channel, sums);
        }
    }

  private:
    template <bool SMOOTH, int N>
    __device__ __forceinline__ void put(Offset index, int channel, const Pack<N>& sums) const {
        if (slices > 1) {
            ::store<N>(out + (slice * size + index), sums);
        } else {
            ::store<N>(out + index,
                       epilogue.template finish<SMOOTH>(sums, out + index, index, channel));
        }
    }
};

using Result = ResultOf<float>;

// Where a tile has no line at all.
template <class Number>
__device__ __forceinline__ void store_nothing(const ResultOf<Number>&, int) {}

// Most sums of a thread whose ends may be any activation.
constexpr int FEW_SUMS = 8;

// Stores the calling thread's sums, a class with
//     LINES, COLUMNS             how many there are in both directions
//     line(i), column(j)         where in the product they stand
//     at(i, j)                   the sums themselves
//     RUN                        columns j, j + 1, ... (RUN of them) that are neighbours
// Line l of the result begins at place(l), and its first column is channel `first_channel`.
template <class Sums, class Number, class Place>
__device__ __forceinline__ void store_lines(const Sums& sums, const ResultOf<Number>& result,
                                            int lines, int columns, int first_channel,
                                            const Place& place) {
    constexpr bool SMOOTH = Sums::LINES * Sums::COLUMNS <= FEW_SUMS;
    UNROLL
    for (int i = 0; i < Sums::LINES; ++i) {
        const int line = sums.line(i);
        if (line >= lines) continue;
        const Offset start = place(line);
        UNROLL
        for (int j = 0; j < Sums::COLUMNS; j += Sums::RUN) {
            const int column = sums.column(j);
            Pack<Sums::RUN> run;
            UNROLL
            for (int k = 0; k < Sums::RUN; ++k) run.at[k] = sums.at(i, j + k);
            result.template store_run<SMOOTH>(start + column, first_channel + column, run,
                                              columns - column, columns);
        }
    }
}

// Sums whose lines are columns of the result. Lines must come in runs as columns do.
template <class Sums>
struct Transposed {
    static constexpr int LINES = Sums::COLUMNS, COLUMNS = Sums::LINES, RUN = Sums::RUN;
    const Sums& sums;

    __device__ explicit Transposed(const Sums& sums) : sums(sums) {}
    __device__ float at(int i, int j) const { return sums.at(j, i); }
    __device__ int line(int i) const { return sums.column(i); }
    __device__ int column(int j) const { return sums.line(j); }
};
