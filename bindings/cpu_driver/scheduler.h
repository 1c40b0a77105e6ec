// The threads of a block as fibers on one OS thread. Threads run one after the other on one stack;
// only when a thread has to wait does the next one get a stack of its own, so that a kernel without
// barriers costs a plain call per thread.
#pragma once

#include <pthread.h>

#include <atomic>
#include <csetjmp>
#include <cstdint>
#include <string>
#include <vector>

#include "fibers.h"
#include "include/cpu_driver_abi.h"

namespace cpu_driver {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kWarpSize = 32;
constexpr unsigned kWarps = kMaxThreads / kWarpSize;

struct Launch;

// One bit per thread of the block.
struct ThreadSet {
    uint64_t words[kMaxThreads / 64] = {};
    void add(unsigned t) { words[t >> 6] |= uint64_t{1} << (t & 63); }
    void remove(unsigned t) { words[t >> 6] &= ~(uint64_t{1} << (t & 63)); }
    bool has(unsigned t) const { return words[t >> 6] >> (t & 63) & 1; }
    uint32_t warp(unsigned w) const {
        return static_cast<uint32_t>(words[w >> 1] >> (32 * (w & 1)));
    }
    void clear() {
        for (auto& word : words) word = 0;
    }
    int first(unsigned count) const;                  // lowest member, -1 when empty
    int pick(unsigned count, uint64_t random) const;  // a member chosen by the random word
};

// What a lane left when it came to a warp operation.
struct LaneRequest {
    uint32_t operation, mask;
    const void* input;
    void* output;
    uint32_t size;
    int argument, width;
    const void* caller;
};

struct WarpState {
    uint32_t waiting;   // lanes in a warp operation
    uint32_t lockstep;  // lanes in cpu_driver_lockstep
    LaneRequest request[kWarpSize];
};

// The state of one OS thread that executes blocks. Check mode reads it from its hooks.
struct Worker {
    Block block{};
    const Launch* launch = nullptr;
    Launch* mutable_launch = nullptr;
    const void* const* arguments = nullptr;

    Context main;                  // the OS thread's own stack
    Fiber* running = nullptr;      // null while on the own stack
    Fiber* fiber_of[kMaxThreads];  // of every suspended thread
    std::vector<Fiber*> idle;
    std::vector<Fiber*> all;

    ThreadSet ready, exited, at_barrier;
    unsigned barrier_count = 0, exited_count = 0;
    unsigned grid_count = 0;     // of barrier_count, those that came to the grid's barrier
    unsigned barrier_epoch = 0;  // barriers completed in this block
    int predicate_count = 0, predicate_and = 1, predicate_or = 0, predicate_result[3] = {};
    WarpState warps[kWarps];

    std::vector<unsigned> order;
    uint64_t random = 0;

    sigjmp_buf fault;        // back to the OS thread's own stack after a fault
    bool in_kernel = false;  // a fault now is the kernel's
    bool plain = false;      // the vectorised loop is running: the thread is not known
    unsigned number = 0;
    std::atomic<uint64_t> sequence{0};  // of the launch it works for, 0 when idle
    pthread_t thread{};                 // valid while `sequence` is not 0

    ~Worker();
};

// The worker of this OS thread while it executes blocks, else null.
Worker* current_worker();

// Executes one block. False when the launch has failed (Launch::error says why).
bool run_block(Worker& worker, Index index);

// Ends the launch from inside a kernel and goes back to the OS thread's own stack.
[[noreturn]] void fail_from_kernel(Worker& worker, int code, const std::string& text);

// The same for a block that ends because another one fails, which says why.
[[noreturn]] void leave_kernel(Worker& worker);

// Ends the launch for a wait that cannot come to an end, or must not be begun; `kind` and `caller`
// are for check mode.
[[noreturn]] void fail_waiting(Worker& worker, const char* kind, unsigned thread,
                               const void* caller, const std::string& text);

// "block (x,y,z), thread (x,y,z)" of linear thread t in the worker's block.
std::string describe_thread(const Worker& worker, unsigned t);

// The lane a shuffle reads from, or the lane itself where the source falls out of the segment.
unsigned shuffle_source(uint32_t operation, unsigned lane, int argument, int width);

// Called around the blocks that a worker takes from one launch.
void begin_blocks(Worker& worker, Launch& launch);
void end_blocks(Worker& worker);

void install_fault_handler();

}  // namespace cpu_driver
