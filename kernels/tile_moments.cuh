// The moments of a batch norm, at the end of the tiles whose sums it normalises (-DMOMENTS=1): each
// tile stores its sums, as ever, and leaves of each of its channels the mean, and the squared
// deviations from it, over the pixels that the tile has. Batch norm then merges those of all tiles
// (batch_norm.cuh) and need not read its input for them.
//
//   moments, for `tiles` tiles of C channels:
//     (tiles, C) means,  (tiles, C) sums of squared deviations,  (tiles) counts of pixels
//
// Tiles that follow each other along the channels are one tile here; in a data gradient every phase
// has tiles of its own, some of them without any pixel: count 0, and nothing else written.
//
// Two passes over the sums, which are still in registers: their mean, then the deviations from it.
// Never E[x^2] - E[x]^2, which loses everything once the mean is large beside the deviation. The
// second pass also adds up what the first one missed by rounding its sum, so that a mean of 1e4 is
// rounded once. Where the result holds bf16 numbers, the moments are those of the rounded ones.
//
// Lines are added by thread, then lanes by shuffles, then warps by way of shared memory: no
// atomics, always in one order. Where tiles leave no moments, nothing of this is compiled.
#pragma once

#include "product.cuh"

#ifndef MOMENTS
#define MOMENTS 0
#endif

// An end of a product (convolution_passes.cuh) whose depth is not cut. A bias is added; there is no
// activation, and nothing that accumulates.
template <class Number>
struct LeavesMoments : ResultOf<Number> {
    float* moments;
    int phases, channels;  // of the whole result

    // Worked out behind the product, which needs every register.
    __device__ __forceinline__ int tile() const {
        return static_cast<int>(blockIdx.z % read_late(phases) * gridDim.x + blockIdx.x);
    }
    __device__ __forceinline__ int tiles() const { return phases * static_cast<int>(gridDim.x); }
};

// The end that a kernel is compiled for; its blocks (x, y, z) are a tile x of phase z % phases.
template <class Number>
__device__ __forceinline__ auto with_moments(const ResultOf<Number>& result, float* moments,
                                             int channels, int phases) {
#if MOMENTS
    return LeavesMoments<Number>{result, moments, phases, channels};
#else
    return result;
#endif
}

#if MOMENTS
// What an array of Number gives back of a number that is stored in it.
template <class Number>
__device__ __forceinline__ float as_stored(float number) {
    if constexpr (sizeof(Number) == 2) return lower_value(round_to_bf16(number, 0.0f));
    return number;
}

// The sum over the lanes of a warp that have the same columns; each of them gets it.
template <int LANES>
__device__ __forceinline__ float sum_over_lanes(float value) {
    UNROLL
    for (int lane = 1; lane < 32; lane *= 2) {
        if ((LANES & lane) != 0) value += __shfl_xor_sync(0xffffffffu, value, lane);
    }
    return value;
}

// Its first thread counts the tile's pixels, once for all its channels.
template <class Number>
__device__ __forceinline__ void count_pixels(const LeavesMoments<Number>& result, int count,
                                             int first_channel) {
    if (threadIdx.x == 0 && blockIdx.y == 0 && first_channel == 0) {
        const Offset numbers = static_cast<Offset>(result.tiles()) * result.channels;
        result.moments[2 * numbers + result.tile()] = static_cast<float>(count);
    }
}

template <class Number>
__device__ __forceinline__ void store_nothing(const LeavesMoments<Number>& result,
                                              int first_channel) {
    count_pixels(result, 0, first_channel);
}

// Beside what product.cuh's asks of Sums, those of a thread have
//     LANES, WARPS, warp()   which threads have the same columns: lanes of a warp that differ in
//                            these bits, in so many warps, and which of these the thread's is
// and a thread's columns are whole runs: channels, per group, are multiples of RUN.
template <class Sums, class Number, class Place>
__device__ __forceinline__ void store_lines(const Sums& sums, const LeavesMoments<Number>& result,
                                            int lines, int columns, int first_channel,
                                            const Place& place) {
    using Threads = typename Sums::Threads;
    constexpr int LINES = Sums::LINES, COLUMNS = Sums::COLUMNS, RUN = Sums::RUN;
    const int first_column = static_cast<int>(blockIdx.y) * TILE_N;
    const int count = min(lines - static_cast<int>(blockIdx.x) * TILE_M, TILE_M);
    const float part = 1.0f / static_cast<float>(count);

    float value[LINES][COLUMNS], mean[COLUMNS];
    UNROLL
    for (int j = 0; j < COLUMNS; ++j) {
        const int column = sums.column(j);
        const bool biased = result.epilogue.bias != nullptr && column < columns;
        const float bias = biased ? __ldg(result.epilogue.bias + first_channel + column) : 0.0f;
        mean[j] = 0.0f;
        UNROLL
        for (int i = 0; i < LINES; ++i) {
            value[i][j] = as_stored<Number>(sums.at(i, j) + bias);
            if (sums.line(i) < lines) mean[j] += value[i][j];
        }
        mean[j] = sum_over_lanes<Threads::LANES>(mean[j]);
    }
    UNROLL
    for (int i = 0; i < LINES; ++i) {
        const int line = sums.line(i);
        if (line >= lines) continue;
        Number* const start = result.out + place(line);
        UNROLL
        for (int j = 0; j < COLUMNS; j += RUN) {
            Pack<RUN> run;
            UNROLL
            for (int k = 0; k < RUN; ++k) run.at[k] = value[i][j + k];
            if (sums.column(j) < columns) ::store<RUN>(start + sums.column(j), run);
        }
    }

    // By warp and column: the sums, and of the deviations the sum and the squares.
    float* const shared = behind_product();
    constexpr int SIZE = Threads::WARPS * TILE_N;
    const bool writes = (threadIdx.x % 32 & Threads::LANES) == 0;
    const int own = Threads::warp() * TILE_N;
    __syncthreads();  // the product is done with it
    UNROLL
    for (int j = 0; j < COLUMNS; ++j) {
        if (writes) shared[own + sums.column(j) - first_column] = mean[j];
    }
    __syncthreads();
    const auto over_warps = [&](const float* from, int column) {
        float sum = 0.0f;
        UNROLL
        for (int warp = 0; warp < Threads::WARPS; ++warp) sum += from[warp * TILE_N + column];
        return sum;
    };
    UNROLL
    for (int j = 0; j < COLUMNS; ++j) {
        const int column = sums.column(j) - first_column;
        const float centre = over_warps(shared, column) * part;
        float missed = 0.0f, squares = 0.0f;
        UNROLL
        for (int i = 0; i < LINES; ++i) {
            const float deviation = sums.line(i) < lines ? value[i][j] - centre : 0.0f;
            missed += deviation;
            squares = fmaf(deviation, deviation, squares);
        }
        missed = sum_over_lanes<Threads::LANES>(missed);
        squares = sum_over_lanes<Threads::LANES>(squares);
        if (writes) {
            shared[SIZE + own + column] = missed;
            shared[2 * SIZE + own + column] = squares;
        }
    }
    __syncthreads();
    const Offset numbers = static_cast<Offset>(result.tiles()) * result.channels;
    float* const means = result.moments + static_cast<Offset>(result.tile()) * result.channels;
    for (int column = threadIdx.x; column < min(TILE_N, columns - first_column);
         column += THREADS) {
        const int channel = first_channel + first_column + column;
        const float missed = over_warps(shared + SIZE, column);
        const float squares = over_warps(shared + 2 * SIZE, column);
        const float corrected = fmaf(-missed * part, missed, squares);
        means[channel] = fmaf(missed, part, over_warps(shared, column) * part);
        means[numbers + channel] = corrected < 0.0f ? 0.0f : corrected;  // NaN passes through
    }
    count_pixels(result, count, first_channel);
}
#endif
