// Launching a grid: validation, arguments, blocks spread over the worker threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "include/cpu_driver_abi.h"
#include "objects.h"

namespace cpu_driver {

class Team;

// One execution of a kernel over a grid. Lives on the stack of the launching thread.
struct Launch {
    const Function* function = nullptr;
    const Kernel* kernel = nullptr;
    Index grid{}, block{};
    unsigned dynamic_shared = 0;
    const void* const* arguments = nullptr;  // one address per argument
    uint64_t blocks = 0;
    Team* team = nullptr;  // of a cooperative launch

    std::atomic<uint64_t> next_block{0};
    std::atomic<int> error{0};  // CUresult of the first failure
    std::string error_text;     // written once, by whoever set `error`
};

// A launch that has been checked and owns a copy of its arguments: it can be run now or be kept in
// a graph.
struct PreparedLaunch {
    Function* function = nullptr;
    uint64_t function_number = 0;
    bool fresh = true;  // validated just now; a replay from a graph is not
    bool cooperative = false;
    Index grid{}, block{};
    unsigned dynamic_shared = 0;
    std::vector<unsigned char> storage;  // the arguments, each aligned
    std::vector<uint32_t> offsets;
};

// `packed` is the parameter buffer of CU_LAUNCH_PARAM_BUFFER_POINTER, `pointers` is kernelParams;
// one of them is null unless the kernel takes no argument. Returns a CUresult; the text is kept for
// cuGetErrorString.
int prepare_launch(PreparedLaunch& prepared, Function* function, Index grid, Index block,
                   unsigned dynamic_shared, const void* packed, size_t packed_bytes,
                   void* const* pointers);
// Replays are validated again: modules may have been unloaded and memory freed since the capture.
int run_launch(const PreparedLaunch& prepared);

unsigned worker_count();

// Blocks that a multiprocessor holds at a time, of any kernel; of one of `threads` threads and so
// much dynamic shared memory. A multiprocessor is a worker; few of them hold more, so that a
// cooperative launch has some blocks everywhere.
unsigned resident_blocks();
unsigned resident_blocks(const Function& function, unsigned threads, size_t dynamic_shared);

// What check mode hooks into; null members are skipped. The pointer is null outside check mode.
struct Worker;
struct CheckHooks {
    int (*launch_begin)(Launch& launch);  // CUresult; may read the arguments and the allocations
    int (*launch_end)(Launch& launch, int result);
    void (*block_begin)(Worker& worker);
    void (*block_end)(Worker& worker);
    void (*thread_switch)(Worker& worker);  // block.current has changed
    void (*barrier_arrive)(Worker& worker, const void* caller);
    void (*barrier_complete)(Worker& worker);     // barrier_epoch has been advanced
    void (*grid_barrier_arrive)(Worker& worker);  // the whole block has
    void (*grid_barrier_complete)();
    void (*block_resume)(Worker& worker);  // past a grid-wide barrier, or to report
    void (*warp_arrive)(Worker& worker, uint32_t operation, uint32_t mask, const void* caller);
    void (*warp_complete)(Worker& worker, unsigned warp, uint32_t lanes);
    void (*thread_left)(Worker& worker, unsigned thread);
    void (*allocated)(uintptr_t address, size_t requested, size_t rounded);
    void (*freed)(uintptr_t address, size_t requested, size_t rounded);
    // A launch is about to fail: `kind` is "divergent_barrier" or "dead_lane", `caller` may be
    // null.
    void (*problem)(Worker& worker, const char* kind, unsigned thread, const void* caller,
                    const std::string& text);
};
extern const CheckHooks* check_hooks;        // hooks of the launch that is running, else null
extern const CheckHooks* registered_checks;  // set once by check.cpp at load

}  // namespace cpu_driver
