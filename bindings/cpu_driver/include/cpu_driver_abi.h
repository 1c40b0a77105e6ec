// The interface between the CPU driver (libcuda.so.1) and the modules that the nvcc stand-in
// compiles: plain structures and a handful of C functions. Both sides include this file; a change
// of any layout raises CPU_DRIVER_ABI, and the driver refuses modules of another version.
#pragma once

#include <cstddef>
#include <cstdint>

#define CPU_DRIVER_ABI 1

namespace cpu_driver {

constexpr uint32_t kAbi = CPU_DRIVER_ABI;

// A place in the user's source: what `caller` points to in modules compiled for check mode.
struct SourcePlace {
    const char* file;
    int line;
};

struct Index {
    unsigned x, y, z;
};

// What one OS thread is executing: a block of a grid, thread after thread. The module's thread loop
// (launcher.h) advances `next`; the scheduler owns the rest.
struct Block {
    Index index, dim, grid;
    unsigned count;         // threads in the block
    unsigned next;          // position in the starting order of the next thread to start
    unsigned current;       // linear id of the running thread
    unsigned leave_hook;    // nonzero: tell the scheduler when a thread leaves the kernel
    const unsigned* order;  // starting order (count linear ids), or null for ascending
};

// The plain loop is for grids of at most this many blocks in x: the compiler then knows that
// blockIdx.x * blockDim.x + threadIdx.x does not wrap around, so that neighbouring threads touch
// neighbouring elements.
constexpr unsigned kPlainGrid = 1u << 20;

enum ArgumentKind : uint32_t { kValue = 0, kPointer = 1 };

struct Argument {
    uint32_t size, align;
    ArgumentKind kind;
    uint32_t pointee_size;  // of a pointer; 0 when unknown (void, incomplete)
    uint32_t pointee_const;
};

struct Kernel {
    const char* name;        // as written in the source, namespace-qualified
    const char* parameters;  // parameter names, comma-separated ("" where unnamed)
    const char* file;        // where the kernel is defined
    int line;
    const void* address;  // the function itself: dlsym(name) finds the same one
    const Argument* arguments;
    uint32_t argument_count;
    uint32_t max_threads;  // __launch_bounds__, 0 when absent
    // Runs threads from block->next on until none is left to start.
    void (*run)(Block* block, const void* const* arguments);
    // Runs a whole block as a loop the compiler may vectorise; null unless the kernel is known to
    // need no synchronisation of any kind.
    void (*run_plain)(const Block* block, const void* const* arguments);
};

struct Module {
    uint32_t abi;
    uint32_t checked;        // compiled with the hooks of check mode
    uint32_t dynamic_bytes;  // room for dynamic shared memory, 0 when no kernel declares any
    uint32_t kernel_count;
    const Kernel* kernels;
};

enum WarpOperation : uint32_t {
    kSyncWarp,
    kShuffleIndex,
    kShuffleUp,
    kShuffleDown,
    kShuffleXor,
    kAll,
    kAny,
    kBallot,
    kMatchAny,
    kMatchAll,
    kReduceAdd,
    kReduceMinSigned,
    kReduceMaxSigned,
    kReduceMinUnsigned,
    kReduceMaxUnsigned,
    kReduceAnd,
    kReduceOr,
    kReduceXor,
};

// kGrid is the barrier of a cooperative launch: the threads of all blocks.
enum BarrierKind : uint32_t { kPlain, kCount, kAnd, kOr, kGrid };

}  // namespace cpu_driver

#pragma GCC visibility push(default)
extern "C" {
// __syncthreads, its counting forms (returns the reduced predicate), and the grid-wide barrier.
int cpu_driver_barrier(uint32_t kind, int predicate, const void* caller);
// One meeting of the lanes in `mask`. `input` and `output` are this lane's operand and result
// (`size` bytes; votes and reductions use 4-byte words, matches a word as result). `argument` is
// the source lane, the delta or the lane mask of a shuffle.
void cpu_driver_warp(uint32_t operation, uint32_t mask, const void* input, void* output,
                     uint32_t size, int argument, int width, const void* caller);
uint32_t cpu_driver_active_mask(void);
// Waits until no other lane of the warp can go on: the lockstep that warp-synchronous code through
// volatile pointers expects.
void cpu_driver_lockstep(void);
void cpu_driver_thread_left(void);
// Ends the launch with CUDA_ERROR_ASSERT / LAUNCH_FAILED and this text. Does not return.
[[noreturn]] void cpu_driver_assert_failed(const char* expression, const char* file, int line,
                                           const char* function);
[[noreturn]] void cpu_driver_trap(void);
// The module's dynamic shared memory is thread-local storage of the module; its size is the
// launch's.
unsigned cpu_driver_dynamic_shared_bytes(void);
}
#pragma GCC visibility pop
