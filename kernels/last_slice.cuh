// A product whose depth is cut into slices, finished by the launch that computes it: the block that
// comes last to a tile adds the tile's slices, in their order, and stores what becomes of the sum.
// The bits are those of sum_partials (partial_sums.cu), which it saves, with the wait before it.
//
// The slices of a tile are computed by different blocks, in any order: none waits for another, so
// none can wait for ever.
#pragma once

#include "product.cuh"

// Called by all threads of a block, once by each of `blocks` blocks: whether this one is the last.
// What the others wrote before is then visible to all its threads. arrivals: 0 at first, and 0
// again when all have come, for the next launch.
__device__ __forceinline__ bool comes_last(unsigned* arrivals, int blocks) {
    __shared__ int last;
    __syncthreads();  // the block's writes, before thread 0 releases them
    if (threadIdx.x == 0) {
        unsigned before;
#ifdef __CUDA_ARCH__
        asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                     : "=r"(before)
                     : "l"(arrivals), "r"(blocks - 1)
                     : "memory");
#else
        __threadfence();
        before = atomicInc(arrivals, blocks - 1);
        __threadfence();
#endif
        last = before == static_cast<unsigned>(blocks - 1);
    }
    __syncthreads();
    return last;
}

constexpr int SLICES_AT_ONCE = 4;  // that a thread reads before it adds the first

// finished: null where a second stage follows, or the depth is not cut.
struct FinishedByLast : Result {
    float* finished;
    unsigned* arrivals;  // of the block's tile

    // Runs of neighbours at `index` of all slices, of which the first `left` exist. Loads are not
    // guarded, or each would wait for the one before: what does not exist is read from where
    // something of the tile does, and nobody stores it. Slices are what other blocks wrote: plain
    // loads, never by the read-only path.
    template <bool IN_FOURS, int RUN, int LINES>
    __device__ __forceinline__ void add_slices(Pack<RUN> (&total)[LINES],
                                               const Offset (&index)[LINES], int left) const {
#pragma unroll 1
        for (int first = 0; first < slices; first += SLICES_AT_ONCE) {
            Pack<RUN> part[SLICES_AT_ONCE][LINES];
            UNROLL
            for (int s = 0; s < SLICES_AT_ONCE; ++s) {
                const float* const from = out + min(first + s, slices - 1) * size;
                UNROLL
                for (int i = 0; i < LINES; ++i) {
                    const float* const run = from + index[i];
                    if constexpr (IN_FOURS) {
                        part[s][i] = load<RUN>(run);
                    } else {
                        UNROLL
                        for (int k = 0; k < RUN; ++k) part[s][i].at[k] = run[k < left ? k : 0];
                    }
                }
            }
            UNROLL
            for (int s = 0; s < SLICES_AT_ONCE; ++s) {
                const bool exists = first + s < slices;  // else 0 is added: no sum here is -0
                UNROLL
                for (int i = 0; i < LINES; ++i) {
                    UNROLL
                    for (int k = 0; k < RUN; ++k) {
                        total[i].at[k] += exists ? part[s][i].at[k] : 0.0f;
                    }
                }
            }
        }
    }
};

template <class Sums, class Place>
__device__ __forceinline__ void store_lines(const Sums& sums, const FinishedByLast& result,
                                            int lines, int columns, int first_channel,
                                            const Place& place) {
    constexpr int RUN = Sums::RUN, LINES = Sums::LINES;
    static_assert(Sums::COLUMNS == RUN && RUN == 4, "one run of each line, 16 bytes of it");
    store_lines(sums, static_cast<const Result&>(result), lines, columns, first_channel, place);
    if (result.finished == nullptr || !comes_last(result.arrivals, result.slices)) return;

    const int column = sums.column(0);
    const int left = columns - column;
    const int least = sums.line(0);  // if any of the thread's lines exists, this one does
    if (left <= 0 || least >= lines) return;
    Pack<RUN> total[LINES] = {};
    Offset index[LINES];
    UNROLL
    for (int i = 0; i < LINES; ++i) {
        const int line = sums.line(i);
        index[i] = place(line < lines ? line : least) + column;
    }
    if (columns % 4 == 0) {
        result.add_slices<true>(total, index, left);
    } else {
        result.add_slices<false>(total, index, left);
    }
    const Result whole = {result.finished, result.size, 0, 1, result.epilogue};
    UNROLL
    for (int i = 0; i < LINES; ++i) {
        if (sums.line(i) >= lines) continue;
        whole.store_run<false>(index[i], first_channel + column, total[i], left, columns);
    }
}
