// Copies from memory to shared memory that are under way (cp.async), in groups: one group for each
// step along the depth of a product, all but one of them ahead of their use. No register holds what
// is under way, and a memory's latency of some 700 cycles passes behind the arithmetic of the steps
// before. Waiting makes a group visible to the thread that started it; a barrier then makes it
// visible to the block.
//
// A source may want more of a slab than its copies (normalised_sources.cuh): finish() is called
// when the calling thread's copies of the oldest slab have arrived, before the barrier that shows
// them to the block, and skip() where there is no slab left to fill. Most sources want nothing.
//
// The CPU driver has no copies under way. There every other thread makes its copies at once, as
// early as a GPU could, and the others when they are waited for, as late as it could: a slab that
// is overwritten while it is read shows, and so does one that is read before it was waited for.
#pragma once

#include "common.cuh"

// STEPS: slabs in shared memory; MOST: copies that a thread starts in a step, at most.
template <int STEPS, int MOST>
class CopiesUnderWay {
  public:
    // So many `numbers` as make 16 or 4 bytes; where not inside, zeros are written and `from` is
    // not read.
    template <class Number>
    __device__ GPU_INLINE void start(Number* to, const Number* from, bool inside, int numbers) {
        const bool sixteen = numbers * sizeof(Number) == 16;
#if __CUDA_ARCH__ >= 800
        const auto place = static_cast<unsigned>(__cvta_generic_to_shared(to));
        if (sixteen) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from),
                         "r"(inside ? 16 : 0)
                         : "memory");
        } else {
            asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(place), "l"(from),
                         "r"(inside ? 4 : 0)
                         : "memory");
        }
#elif defined(PYGAN_CPU_DRIVER)
        if (threadIdx.x % 2 == 0) {
            make({to, from, inside, sixteen});
        } else {
            under_way[newest % STEPS][started++] = {to, from, inside, sixteen};
        }
#else
        make({to, from, inside, sixteen});
#endif
    }

    __device__ __forceinline__ void end_group() {
#if __CUDA_ARCH__ >= 800
        asm volatile("cp.async.commit_group;" ::: "memory");
#elif defined(PYGAN_CPU_DRIVER)
        count[newest++ % STEPS] = started;
        started = 0;
#endif
    }

    // All groups but the newest STEPS - 2 are there, as far as the calling thread started them.
    __device__ __forceinline__ void wait_for_oldest() {
#if __CUDA_ARCH__ >= 800
        asm volatile("cp.async.wait_group %0;" ::"n"(STEPS - 2) : "memory");
#elif defined(PYGAN_CPU_DRIVER)
        for (; oldest < newest - (STEPS - 2); ++oldest) {
            for (int i = 0; i < count[oldest % STEPS]; ++i) make(under_way[oldest % STEPS][i]);
        }
#endif
    }

  private:
    struct Copy {
        void* to;
        const void* from;
        bool inside;
        bool sixteen;
    };

    // Not by __ldg: as cp.async does, a copy sees what other blocks wrote before a barrier of the
    // grid (program.cu), which the read-only path does not.
    __device__ __forceinline__ static void make(Copy copy) {
        if (copy.sixteen) {
            const float4 zeros = {0.0f, 0.0f, 0.0f, 0.0f};
            *static_cast<float4*>(copy.to) =
                copy.inside ? *static_cast<const float4*>(copy.from) : zeros;
        } else {
            *static_cast<float*>(copy.to) =
                copy.inside ? *static_cast<const float*>(copy.from) : 0.0f;
        }
    }

#ifdef PYGAN_CPU_DRIVER
    Copy under_way[STEPS][MOST];
    int count[STEPS];
    int oldest = 0, newest = 0, started = 0;
#endif
};

template <class Source, class Number>
__device__ __forceinline__ void finish(Source&, Number*) {}

template <class Source>
__device__ __forceinline__ void skip(Source&) {}
