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

// finished: null where a second stage follows, or the depth is not cut.
struct FinishedByLast : Result {
    float* finished;
    unsigned* arrivals;  // of the block's tile

    // The sum over all slices of a run of neighbours at `index`, of which `left` exist. Slices have
    // no sums but those of finished blocks: plain loads, never by the read-only path.
    template <int RUN>
    __device__ __forceinline__ void add_slice(Pack<RUN>& sum, int slice, Offset index, int left,
                                              bool in_fours) const {
        const float* const from = out + (slice * size + index);
        if (RUN == 4 && in_fours) {
            const Pack<RUN> run = load<RUN>(from);
            UNROLL
            for (int k = 0; k < RUN; ++k) sum.at[k] += run.at[k];
        } else {
            UNROLL
            for (int k = 0; k < RUN; ++k) {
                if (k < left) sum.at[k] += from[k];
            }
        }
    }
};

template <class Sums, class Place>
__device__ __forceinline__ void store_lines(const Sums& sums, const FinishedByLast& result,
                                            int lines, int columns, int first_channel,
                                            const Place& place) {
    constexpr int RUN = Sums::RUN;
    static_assert(Sums::COLUMNS == RUN, "one run of each line");
    store_lines(sums, static_cast<const Result&>(result), lines, columns, first_channel, place);
    if (result.finished == nullptr || !comes_last(result.arrivals, result.slices)) return;

    const int column = sums.column(0);
    const int left = columns - column;
    const bool in_fours = columns % 4 == 0;
    Pack<RUN> total[Sums::LINES] = {};
    Offset index[Sums::LINES];
    UNROLL
    for (int i = 0; i < Sums::LINES; ++i) {
        index[i] = sums.line(i) < lines ? place(sums.line(i)) + column : -1;
    }
    if (left <= 0) return;
#pragma unroll 4
    for (int slice = 0; slice < result.slices; ++slice) {
        UNROLL
        for (int i = 0; i < Sums::LINES; ++i) {
            if (index[i] >= 0) result.add_slice<RUN>(total[i], slice, index[i], left, in_fours);
        }
    }
    const Result whole = {result.finished, result.size, 0, 1, result.epilogue};
    UNROLL
    for (int i = 0; i < Sums::LINES; ++i) {
        if (index[i] < 0) continue;
        whole.store_run<false, RUN>(index[i], first_channel + column, total[i], left, columns);
    }
}
