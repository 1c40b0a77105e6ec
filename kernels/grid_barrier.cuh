// A barrier of all threads of a cooperative launch: what one block wrote before it, every block
// sees after it, as between two launches, at the cost of about 1 us instead of a launch.
#pragma once

// Made and called by all threads of the block. The launch must be cooperative (so that all blocks
// run at once) and its grid one-dimensional.
//
// arrivals: one number, 0 before the first launch, which counts the blocks that have come. It is
// never set back: n blocks leave a multiple of n, so that a replayed launch begins where the last
// one ended, and 64 bits do not run out. Each grid size needs a number of its own.
class GridBarrier {
  public:
    __device__ explicit GridBarrier(unsigned long long* arrivals) : arrivals(arrivals) {}

#ifdef PYGAN_CPU_DRIVER
    __device__ void wait(CPU_DRIVER_CALLER) { CPU_DRIVER_GRID_BARRIER(); }
#else
    __device__ void wait() {
        __syncthreads();
        if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
            // Release: the block's writes, which the barrier above has ordered before this one.
            unsigned long long before;
            asm volatile("atom.add.acq_rel.gpu.global.u64 %0, [%1], 1;"
                         : "=l"(before)
                         : "l"(arrivals)
                         : "memory");
            awaited = awaited == 0 ? (before / gridDim.x + 1) * gridDim.x : awaited + gridDim.x;
            while (arrived() < awaited) {
            }
        }
        __syncthreads();
    }
#endif

  private:
#ifndef PYGAN_CPU_DRIVER
    // Acquire: the writes of the blocks that are counted.
    __device__ unsigned long long arrived() const {
        unsigned long long count;
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];"
                     : "=l"(count)
                     : "l"(arrivals)
                     : "memory");
        return count;
    }
    unsigned long long awaited = 0;  // the count that completes this launch's next barrier
#endif
    unsigned long long* arrivals;
};
