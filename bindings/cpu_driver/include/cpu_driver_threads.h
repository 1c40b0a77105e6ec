// Where a thread is, and how it waits for others.
#pragma once

// Plain, local to the module and never passed by address: in the plain loop of launcher.h the
// compiler then keeps them in registers. Each OS thread runs one block at a time. Only threadIdx
// differs between the fibers of a block, so whoever waits puts it back afterwards.
static thread_local uint3 cpu_driver_index_thread, cpu_driver_index_block, cpu_driver_index_dim,
    cpu_driver_index_grid;
#define threadIdx (::cpu_driver_index_thread)
#define blockIdx (::cpu_driver_index_block)
#define blockDim (::cpu_driver_index_dim)
#define gridDim (::cpu_driver_index_grid)
static const int warpSize = 32;

// Component by component: a copy of the whole would take the variable's address, and the compiler
// would no longer keep it in registers.
#define CPU_DRIVER_KEEP_INDEX()                                                              \
    const unsigned own_x = ::cpu_driver_index_thread.x, own_y = ::cpu_driver_index_thread.y, \
                   own_z = ::cpu_driver_index_thread.z
#define CPU_DRIVER_PUT_INDEX_BACK()                                            \
    (::cpu_driver_index_thread.x = own_x, ::cpu_driver_index_thread.y = own_y, \
     (void)(::cpu_driver_index_thread.z = own_z))

// Memory is what others see across a wait: nothing may stay in registers.
#define CPU_DRIVER_FENCE() __asm__ volatile("" ::: "memory")
// Check mode names the source line of a wait: each call hands down a SourcePlace.
#ifdef CPU_DRIVER_CHECK
#define CPU_DRIVER_HERE()                                                   \
    ({                                                                      \
        static const ::cpu_driver::SourcePlace here = {__FILE__, __LINE__}; \
        static_cast<const void*>(&here);                                    \
    })
namespace cpu_driver {
// As a default argument it is evaluated where the function is called.
static inline SourcePlace calling_place(const char* file = __builtin_FILE(),
                                        int line = __builtin_LINE()) {
    return {file, line};
}
}  // namespace cpu_driver
#define CPU_DRIVER_CALLER const ::cpu_driver::SourcePlace& place = ::cpu_driver::calling_place()
#define CPU_DRIVER_PLACE_PARAMETER , CPU_DRIVER_CALLER
#define CPU_DRIVER_PLACE (static_cast<const void*>(&place))
#else
#define CPU_DRIVER_HERE() nullptr
#define CPU_DRIVER_CALLER
#define CPU_DRIVER_PLACE_PARAMETER
#define CPU_DRIVER_PLACE nullptr
#endif

namespace cpu_driver {

__attribute__((always_inline)) static inline int meet(uint32_t kind, int predicate,
                                                      const void* caller) {
    CPU_DRIVER_KEEP_INDEX();
    CPU_DRIVER_FENCE();
    const int result = cpu_driver_barrier(kind, predicate, caller);
    CPU_DRIVER_FENCE();
    CPU_DRIVER_PUT_INDEX_BACK();
    return result;
}

template <typename In, typename Out>
__attribute__((always_inline)) static inline Out warp_meet(uint32_t operation, unsigned mask,
                                                           In input, int argument, int width,
                                                           const void* caller) {
    CPU_DRIVER_KEEP_INDEX();
    Out output{};
    CPU_DRIVER_FENCE();
    cpu_driver_warp(operation, mask, &input, &output, sizeof(In), argument, width, caller);
    CPU_DRIVER_FENCE();
    CPU_DRIVER_PUT_INDEX_BACK();
    return output;
}

__attribute__((always_inline)) static inline void lockstep() {
    CPU_DRIVER_KEEP_INDEX();
    CPU_DRIVER_FENCE();
    cpu_driver_lockstep();
    CPU_DRIVER_FENCE();
    CPU_DRIVER_PUT_INDEX_BACK();
}

// A store through a volatile pointer in warp-synchronous code: every lane has read its operands
// before any lane stores, and all have stored before any lane goes on. nvcc_standin.py rewrites
// such stores to this.
template <typename T, typename V>
static inline void lockstep_store(volatile T* place, V value) {
    lockstep();
    *place = value;
    lockstep();
}

}  // namespace cpu_driver

#define __syncthreads() ((void)::cpu_driver::meet(::cpu_driver::kPlain, 0, CPU_DRIVER_HERE()))
#define __syncthreads_count(p) \
    (::cpu_driver::meet(::cpu_driver::kCount, (p) != 0, CPU_DRIVER_HERE()))
#define __syncthreads_and(p) (::cpu_driver::meet(::cpu_driver::kAnd, (p) != 0, CPU_DRIVER_HERE()))
#define __syncthreads_or(p) (::cpu_driver::meet(::cpu_driver::kOr, (p) != 0, CPU_DRIVER_HERE()))

// The barrier of all threads of a cooperative launch. CUDA has no word for it in one instruction:
// a function with the parameter CPU_DRIVER_CALLER puts this where a GPU counts the blocks that have
// arrived.
#define CPU_DRIVER_GRID_BARRIER() \
    ((void)::cpu_driver::meet(::cpu_driver::kGrid, 0, CPU_DRIVER_PLACE))

#define CPU_DRIVER_WARP static inline __attribute__((always_inline))

CPU_DRIVER_WARP void __syncwarp(unsigned mask = 0xffffffffu CPU_DRIVER_PLACE_PARAMETER) {
    ::cpu_driver::warp_meet<char, char>(::cpu_driver::kSyncWarp, mask, 0, 0, 32, CPU_DRIVER_PLACE);
}

#define CPU_DRIVER_SHUFFLE(NAME, OPERATION, TYPE)                                                  \
    template <typename T>                                                                          \
    CPU_DRIVER_WARP T NAME(unsigned mask, T value, TYPE argument,                                  \
                           int width = 32 CPU_DRIVER_PLACE_PARAMETER) {                            \
        return ::cpu_driver::warp_meet<T, T>(::cpu_driver::OPERATION, mask, value,                 \
                                             static_cast<int>(argument), width, CPU_DRIVER_PLACE); \
    }
CPU_DRIVER_SHUFFLE(__shfl_sync, kShuffleIndex, int)
CPU_DRIVER_SHUFFLE(__shfl_up_sync, kShuffleUp, unsigned)
CPU_DRIVER_SHUFFLE(__shfl_down_sync, kShuffleDown, unsigned)
CPU_DRIVER_SHUFFLE(__shfl_xor_sync, kShuffleXor, int)
#undef CPU_DRIVER_SHUFFLE

#define CPU_DRIVER_VOTE(NAME, OPERATION, RESULT)                                           \
    CPU_DRIVER_WARP RESULT NAME(unsigned mask, int predicate CPU_DRIVER_PLACE_PARAMETER) { \
        return static_cast<RESULT>(::cpu_driver::warp_meet<int, unsigned>(                 \
            ::cpu_driver::OPERATION, mask, predicate, 0, 32, CPU_DRIVER_PLACE));           \
    }
CPU_DRIVER_VOTE(__all_sync, kAll, int)
CPU_DRIVER_VOTE(__any_sync, kAny, int)
CPU_DRIVER_VOTE(__ballot_sync, kBallot, unsigned)
#undef CPU_DRIVER_VOTE

// The lanes that have not left the kernel: on a GPU they may be fewer, those that happen to run
// together.
CPU_DRIVER_WARP unsigned __activemask() {
    return cpu_driver_active_mask();
}

template <typename T>
CPU_DRIVER_WARP unsigned __match_any_sync(unsigned mask, T value CPU_DRIVER_PLACE_PARAMETER) {
    return ::cpu_driver::warp_meet<T, unsigned>(::cpu_driver::kMatchAny, mask, value, 0, 32,
                                                CPU_DRIVER_PLACE);
}
template <typename T>
CPU_DRIVER_WARP unsigned __match_all_sync(unsigned mask, T value,
                                          int* same CPU_DRIVER_PLACE_PARAMETER) {
    const unsigned result = ::cpu_driver::warp_meet<T, unsigned>(::cpu_driver::kMatchAll, mask,
                                                                 value, 0, 32, CPU_DRIVER_PLACE);
    *same = result != 0;
    return result;
}

#define CPU_DRIVER_REDUCE(NAME, OPERATION, TYPE)                                                \
    CPU_DRIVER_WARP TYPE NAME(unsigned mask, TYPE value CPU_DRIVER_PLACE_PARAMETER) {           \
        return ::cpu_driver::warp_meet<TYPE, TYPE>(::cpu_driver::OPERATION, mask, value, 0, 32, \
                                                   CPU_DRIVER_PLACE);                           \
    }
CPU_DRIVER_REDUCE(__reduce_add_sync, kReduceAdd, unsigned)
CPU_DRIVER_REDUCE(__reduce_add_sync, kReduceAdd, int)
CPU_DRIVER_REDUCE(__reduce_min_sync, kReduceMinUnsigned, unsigned)
CPU_DRIVER_REDUCE(__reduce_min_sync, kReduceMinSigned, int)
CPU_DRIVER_REDUCE(__reduce_max_sync, kReduceMaxUnsigned, unsigned)
CPU_DRIVER_REDUCE(__reduce_max_sync, kReduceMaxSigned, int)
CPU_DRIVER_REDUCE(__reduce_and_sync, kReduceAnd, unsigned)
CPU_DRIVER_REDUCE(__reduce_or_sync, kReduceOr, unsigned)
CPU_DRIVER_REDUCE(__reduce_xor_sync, kReduceXor, unsigned)
#undef CPU_DRIVER_REDUCE

// Blocks on different cores share memory: the fences between them are real.
CPU_DRIVER_WARP void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
CPU_DRIVER_WARP void __threadfence_block() {
    CPU_DRIVER_FENCE();
}
CPU_DRIVER_WARP void __threadfence_system() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

CPU_DRIVER_WARP long long clock64() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}
#define clock() (static_cast<long>(clock64()))
CPU_DRIVER_WARP unsigned long long cpu_driver_global_timer() {
    return static_cast<unsigned long long>(clock64());
}
CPU_DRIVER_WARP void __nanosleep(unsigned) {}
CPU_DRIVER_WARP void __trap() {
    cpu_driver_trap();
}
CPU_DRIVER_WARP void __brkpt() {}
