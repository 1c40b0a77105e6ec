#include "scheduler.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "cooperative.h"
#include "launch.h"
#include "watchdog.h"

namespace cpu_driver {

namespace {

thread_local Worker* this_worker __attribute__((tls_model("initial-exec"))) = nullptr;

uint64_t next_random(uint64_t& state) {
    // splitmix64 (Steele, Lea, Flood 2014)
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

const char* operation_name(uint32_t operation) {
    switch (operation) {
        case kSyncWarp:
            return "__syncwarp";
        case kShuffleIndex:
            return "__shfl_sync";
        case kShuffleUp:
            return "__shfl_up_sync";
        case kShuffleDown:
            return "__shfl_down_sync";
        case kShuffleXor:
            return "__shfl_xor_sync";
        case kAll:
            return "__all_sync";
        case kAny:
            return "__any_sync";
        case kBallot:
            return "__ballot_sync";
        case kMatchAny:
            return "__match_any_sync";
        case kMatchAll:
            return "__match_all_sync";
        default:
            return "__reduce_*_sync";
    }
}

unsigned warp_count(const Worker& worker) {
    return (worker.block.count + kWarpSize - 1) / kWarpSize;
}

// Lanes of the warp that exist and have not left the kernel.
uint32_t live_lanes(const Worker& worker, unsigned warp) {
    unsigned first = warp * kWarpSize;
    unsigned lanes = worker.block.count - first;
    uint32_t existing = lanes >= kWarpSize ? 0xffffffffu : (1u << lanes) - 1;
    return existing & ~worker.exited.warp(warp);
}

void fiber_main(void* argument);

Fiber* take_fiber(Worker& worker) {
    if (worker.idle.empty()) {
        Fiber* fiber = create_fiber(static_cast<unsigned>(worker.all.size()));
        if (!fiber)
            fail_from_kernel(worker, CUDA_ERROR_OUT_OF_MEMORY,
                             format("no memory for the stack of thread number %zu of the block",
                                    worker.all.size()));
        worker.all.push_back(fiber);
        prepare_fiber(fiber, fiber_main, &worker);
        worker.idle.push_back(fiber);
    }
    Fiber* fiber = worker.idle.back();
    worker.idle.pop_back();
    return fiber;
}

// After the first wait in a block the scheduler must know who has left the kernel.
void start_bookkeeping(Worker& worker) {
    Block& block = worker.block;
    block.leave_hook = 1;
    // Everyone started before the running thread has left: otherwise a wait would have come first.
    for (unsigned i = 0; i + 1 < block.next; ++i) {
        worker.exited.add(block.order ? block.order[i] : i);
        ++worker.exited_count;
    }
}

std::string describe_waiting(const Worker& worker) {
    std::string text;
    unsigned shown = 0;
    for (unsigned t = 0; t < worker.block.count && shown < 4; ++t) {
        const WarpState& warp = worker.warps[t / kWarpSize];
        const uint32_t bit = 1u << (t % kWarpSize);
        std::string where;
        if (worker.at_barrier.has(t)) {
            where = "__syncthreads";
        } else if (warp.waiting & bit) {
            const LaneRequest& request = warp.request[t % kWarpSize];
            where = format("%s(mask 0x%08x)", operation_name(request.operation), request.mask);
        } else {
            continue;
        }
        // One thread for each kind of wait is enough to see what happened.
        if (text.find(where) != std::string::npos) continue;
        text += (shown ? "; " : "") + describe_thread(worker, t) + " waits in " + where;
        ++shown;
    }
    return text;
}

[[noreturn]] void fail_deadlock(Worker& worker) {
    const int in_barrier = worker.at_barrier.first(worker.block.count);
    unsigned thread = static_cast<unsigned>(in_barrier);
    for (unsigned w = 0; in_barrier < 0 && w < warp_count(worker); ++w)
        if (uint32_t lanes = worker.warps[w].waiting) {
            thread = w * kWarpSize + static_cast<unsigned>(__builtin_ctz(lanes));
            break;
        }
    if (thread >= worker.block.count) thread = 0;
    const WarpState& warp = worker.warps[thread / kWarpSize];
    fail_waiting(worker, in_barrier < 0 ? "dead_lane" : "divergent_barrier", thread,
                 in_barrier < 0 ? warp.request[thread % kWarpSize].caller : nullptr,
                 "deadlock: no thread of the block can go on; " + describe_waiting(worker));
}

[[noreturn]] void fail_divergent(Worker& worker, unsigned waiting) {
    unsigned left = 0;
    while (left < worker.block.count && !worker.exited.has(left)) ++left;
    fail_waiting(
        worker, "divergent_barrier", waiting, nullptr,
        format("divergent barrier: %s waits in __syncthreads, which %s will never reach (it has "
               "left the kernel)",
               describe_thread(worker, waiting).c_str(), describe_thread(worker, left).c_str()));
}

// Switches to what can run next. Returns when somebody switches back to this fiber, or at once when
// the running thread itself is next.
void dispatch(Worker& worker) {
    Block& block = worker.block;
    Fiber* self = worker.running;
    for (;;) {
        int next = -1;
        bool fresh = false;
        if (worker.order.empty()) {
            next = worker.ready.first(block.count);
            if (next < 0 && block.next < block.count) fresh = true;
        } else {
            const bool startable = block.next < block.count;
            if (startable && next_random(worker.random) % 4 != 0) fresh = true;
            if (!fresh) next = worker.ready.pick(block.count, next_random(worker.random));
            if (next < 0 && startable) fresh = true;
        }
        if (next >= 0) {
            Fiber* target = worker.fiber_of[next];
            worker.ready.remove(static_cast<unsigned>(next));
            block.current = static_cast<unsigned>(next);
            if (check_hooks && check_hooks->thread_switch) check_hooks->thread_switch(worker);
            if (target == self) return;
            worker.running = target;
            switch_context(self->context, target->context);
            return;
        }
        if (fresh) {
            Fiber* target = take_fiber(worker);
            worker.running = target;
            switch_context(self->context, target->context);
            return;
        }
        // Nobody can run. Lanes that only wait for their warp to catch up may go on now.
        bool released = false;
        for (unsigned w = 0; w < warp_count(worker); ++w) {
            uint32_t lanes = worker.warps[w].lockstep;
            worker.warps[w].lockstep = 0;
            for (; lanes; lanes &= lanes - 1) {
                worker.ready.add(w * kWarpSize + static_cast<unsigned>(__builtin_ctz(lanes)));
                released = true;
            }
        }
        if (!released) fail_deadlock(worker);
    }
}

void suspend(Worker& worker) {
    worker.fiber_of[worker.block.current] = worker.running;
    dispatch(worker);
}

// A fiber runs threads as long as there are some to start, then sleeps until it is needed again.
void fiber_main(void* argument) {
    Worker& worker = *static_cast<Worker*>(argument);
    for (;;) {
        worker.launch->kernel->run(&worker.block, worker.arguments);
        Fiber* self = worker.running;
        worker.idle.push_back(self);
        // exited_count is kept only once a thread has waited; before, running out of threads to
        // start means that all have left.
        if (!worker.block.leave_hook || worker.exited_count == worker.block.count) {
            worker.running = nullptr;
            switch_context(self->context, worker.main);
        } else {
            dispatch(worker);
        }
    }
}

// All threads of the block are there.
void meet_grid(Worker& worker, const void* caller) {
    if (worker.grid_count != worker.block.count)
        fail_waiting(worker, "divergent_barrier", worker.block.current, caller,
                     format("divergent barrier: of the threads of block (%u,%u,%u), %u came to the "
                            "grid-wide barrier and %u to __syncthreads",
                            worker.block.index.x, worker.block.index.y, worker.block.index.z,
                            worker.grid_count, worker.block.count - worker.grid_count));
    if (check_hooks && check_hooks->grid_barrier_arrive) check_hooks->grid_barrier_arrive(worker);
    const Index at = worker.block.index, grid = worker.block.grid;
    worker.launch->team->meet(worker, (at.z * grid.y + at.y) * grid.x + at.x, caller);
    worker.grid_count = 0;
}

void release_barrier(Worker& worker) {
    worker.predicate_result[0] = worker.predicate_count;
    worker.predicate_result[1] = worker.predicate_and;
    worker.predicate_result[2] = worker.predicate_or;
    worker.predicate_count = 0;
    worker.predicate_and = 1;
    worker.predicate_or = 0;
    worker.ready = worker.at_barrier;
    worker.at_barrier.clear();
    worker.barrier_count = 0;
    ++worker.barrier_epoch;
    if (check_hooks && check_hooks->barrier_complete) check_hooks->barrier_complete(worker);
}

template <typename T, typename Combine>
void reduce(WarpState& warp, uint32_t lanes, Combine combine) {
    T result{};
    bool first = true;
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        T value;
        std::memcpy(&value, warp.request[__builtin_ctz(rest)].input, sizeof value);
        result = first ? value : combine(result, value);
        first = false;
    }
    for (uint32_t rest = lanes; rest; rest &= rest - 1)
        std::memcpy(warp.request[__builtin_ctz(rest)].output, &result, sizeof result);
}

void perform(Worker& worker, unsigned w, uint32_t lanes) {
    WarpState& warp = worker.warps[w];
    const LaneRequest& head = warp.request[__builtin_ctz(lanes)];
    switch (head.operation) {
        case kSyncWarp:
            break;
        case kShuffleIndex:
        case kShuffleUp:
        case kShuffleDown:
        case kShuffleXor:
            for (uint32_t rest = lanes; rest; rest &= rest - 1) {
                const unsigned lane = static_cast<unsigned>(__builtin_ctz(rest));
                const LaneRequest& request = warp.request[lane];
                unsigned source =
                    shuffle_source(request.operation, lane, request.argument, request.width);
                // Reading a lane that takes no part is undefined in CUDA: give the own value.
                if (!(lanes >> source & 1)) source = lane;
                std::memcpy(request.output, warp.request[source].input, request.size);
            }
            break;
        case kAll:
        case kAny:
        case kBallot: {
            uint32_t votes = 0;
            for (uint32_t rest = lanes; rest; rest &= rest - 1) {
                const int lane = __builtin_ctz(rest);
                int32_t vote;
                std::memcpy(&vote, warp.request[lane].input, sizeof vote);
                if (vote) votes |= 1u << lane;
            }
            uint32_t result = votes;
            if (head.operation == kAll) result = votes == lanes;
            if (head.operation == kAny) result = votes != 0;
            for (uint32_t rest = lanes; rest; rest &= rest - 1)
                std::memcpy(warp.request[__builtin_ctz(rest)].output, &result, sizeof result);
            break;
        }
        case kMatchAny:
        case kMatchAll: {
            for (uint32_t rest = lanes; rest; rest &= rest - 1) {
                const LaneRequest& request = warp.request[__builtin_ctz(rest)];
                uint32_t same = 0;
                for (uint32_t other = lanes; other; other &= other - 1) {
                    const int lane = __builtin_ctz(other);
                    if (!std::memcmp(warp.request[lane].input, request.input, request.size))
                        same |= 1u << lane;
                }
                if (head.operation == kMatchAll && same != lanes) same = 0;
                std::memcpy(request.output, &same, sizeof same);
            }
            break;
        }
        case kReduceAdd:
            reduce<uint32_t>(warp, lanes, [](uint32_t a, uint32_t b) { return a + b; });
            break;
        case kReduceMinSigned:
            reduce<int32_t>(warp, lanes, [](int32_t a, int32_t b) { return a < b ? a : b; });
            break;
        case kReduceMaxSigned:
            reduce<int32_t>(warp, lanes, [](int32_t a, int32_t b) { return a > b ? a : b; });
            break;
        case kReduceMinUnsigned:
            reduce<uint32_t>(warp, lanes, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
            break;
        case kReduceMaxUnsigned:
            reduce<uint32_t>(warp, lanes, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
            break;
        case kReduceAnd:
            reduce<uint32_t>(warp, lanes, [](uint32_t a, uint32_t b) { return a & b; });
            break;
        case kReduceOr:
            reduce<uint32_t>(warp, lanes, [](uint32_t a, uint32_t b) { return a | b; });
            break;
        case kReduceXor:
            reduce<uint32_t>(warp, lanes, [](uint32_t a, uint32_t b) { return a ^ b; });
            break;
    }
}

// Completes the operation that the lanes of `mask` came for, if all of them have come. Returns the
// lanes it completed for.
uint32_t try_complete(Worker& worker, unsigned w, uint32_t mask) {
    WarpState& warp = worker.warps[w];
    const uint32_t lanes = mask & live_lanes(worker, w);
    if (!lanes || (warp.waiting & lanes) != lanes) return 0;
    const unsigned first = static_cast<unsigned>(__builtin_ctz(lanes));
    const LaneRequest& head = warp.request[first];
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        const unsigned lane = static_cast<unsigned>(__builtin_ctz(rest));
        const LaneRequest& request = warp.request[lane];
        if (request.operation == head.operation && request.mask == head.mask &&
            request.size == head.size)
            continue;
        fail_waiting(
            worker, "dead_lane", w * kWarpSize + lane, request.caller,
            format("divergent warp operation: %s is in %s(mask 0x%08x) while %s is in %s(mask "
                   "0x%08x)",
                   describe_thread(worker, w * kWarpSize + first).c_str(),
                   operation_name(head.operation), head.mask,
                   describe_thread(worker, w * kWarpSize + lane).c_str(),
                   operation_name(request.operation), request.mask));
    }
    perform(worker, w, lanes);
    warp.waiting &= ~lanes;
    if (check_hooks && check_hooks->warp_complete) check_hooks->warp_complete(worker, w, lanes);
    return lanes;
}

void make_ready(Worker& worker, unsigned w, uint32_t lanes) {
    for (; lanes; lanes &= lanes - 1)
        worker.ready.add(w * kWarpSize + static_cast<unsigned>(__builtin_ctz(lanes)));
}

// --- faults -----------------------------------------------------------------------------------

struct sigaction previous_actions[65];

void on_fault(int signal, siginfo_t* info, void* context) {
    Worker* worker = this_worker;
    if (worker && worker->in_kernel) {
        worker->in_kernel = false;
        Launch& launch = *worker->mutable_launch;
        int expected = 0;
        const bool overflow = signal == SIGSEGV && in_guard_page(worker->running, info->si_addr);
        const int code = signal == SIGSEGV && !overflow ? CUDA_ERROR_ILLEGAL_ADDRESS
                         : signal == SIGBUS             ? CUDA_ERROR_MISALIGNED_ADDRESS
                         : signal == SIGILL             ? CUDA_ERROR_ILLEGAL_INSTRUCTION
                                                        : CUDA_ERROR_LAUNCH_FAILED;
        if (launch.error.compare_exchange_strong(expected, code)) {
            std::string what;
            if (overflow)
                what = format("stack overflow (more than %zu KiB of local variables and calls)",
                              kStackBytes / 1024);
            else if (signal == SIGFPE)
                what = "integer division by zero";
            else if (signal == SIGILL)
                what = "illegal instruction";
            else
                what = format("illegal address %p", info->si_addr);
            launch.error_text =
                format(
                    "kernel %s, %s: ", launch.kernel->name,
                    describe_thread(*worker, worker->plain ? ~0u : worker->block.current).c_str()) +
                what;
        }
        siglongjmp(worker->fault, 1);
    }
    // Not ours: whoever was there before decides.
    const struct sigaction& previous = previous_actions[signal];
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(signal, info, context);
    } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        ::signal(signal, SIG_DFL);
        raise(signal);
    } else {
        previous.sa_handler(signal);
    }
}

// Ends the kernel, but only at an instruction of the kernel itself: inside a library function
// (printf, malloc, this driver) a lock might be held. The watchdog repeats the signal.
void on_stop(int, siginfo_t*, void* context) {
    Worker* worker = this_worker;
    const char* reason;
    if (!worker || !worker->in_kernel || !stop_requested(*worker, &reason)) return;
#if defined(__x86_64__)
    const auto pc =
        static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    const auto pc = static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.pc);
#else
    const uintptr_t pc = 0;
#endif
    const ModuleObject& module = *worker->launch->function->module;
    if (pc < module.begin || pc >= module.end) return;
    // The jump leaves the handler, during which the signal is blocked. Those that have queued up,
    // while the thread waited for a processor, come now, one after the other.
    worker->in_kernel = false;
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, stop_signal());
    pthread_sigmask(SIG_UNBLOCK, &stop, nullptr);
    fail_from_kernel(
        *worker, CUDA_ERROR_LAUNCH_TIMEOUT,
        describe_thread(*worker, worker->plain ? ~0u : worker->block.current) + ": " + reason);
}

// The handler must not run on the stack that has just overflowed.
struct AlternateStack {
    void* memory = nullptr;
    static constexpr size_t kBytes = 64 * 1024;
    void ensure() {
        if (memory) return;
        stack_t current{};
        if (sigaltstack(nullptr, &current) == 0 && !(current.ss_flags & SS_DISABLE) &&
            current.ss_size >= 16 * 1024)
            return;
        memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            memory = nullptr;
            return;
        }
        stack_t stack{};
        stack.ss_sp = memory;
        stack.ss_size = kBytes;
        sigaltstack(&stack, nullptr);
    }
    ~AlternateStack() {
        if (!memory) return;
        stack_t none{};
        none.ss_flags = SS_DISABLE;
        sigaltstack(&none, nullptr);
        munmap(memory, kBytes);
    }
};

thread_local AlternateStack alternate_stack;

}  // namespace

unsigned shuffle_source(uint32_t operation, unsigned lane, int argument, int width) {
    const int own = static_cast<int>(lane);
    const int first = own & ~(width - 1);
    const int last = first + width - 1;
    int source = own;
    if (operation == kShuffleIndex) source = first + (argument & (width - 1));
    if (operation == kShuffleUp) source = own - argument;
    if (operation == kShuffleDown) source = own + argument;
    if (operation == kShuffleXor) source = own ^ argument;
    // An xor may reach a lower segment, never a higher one (PTX ISA, shfl.bfly).
    if (operation == kShuffleXor ? source > last : (source < first || source > last)) source = own;
    return static_cast<unsigned>(source) & (kWarpSize - 1);
}

int ThreadSet::first(unsigned count) const {
    const unsigned used = (count + 63) / 64;
    for (unsigned w = 0; w < used; ++w)
        if (words[w]) return static_cast<int>(w * 64) + __builtin_ctzll(words[w]);
    return -1;
}

int ThreadSet::pick(unsigned count, uint64_t random) const {
    const unsigned used = (count + 63) / 64;
    unsigned members = 0;
    for (unsigned w = 0; w < used; ++w)
        members += static_cast<unsigned>(__builtin_popcountll(words[w]));
    if (!members) return -1;
    unsigned skip = static_cast<unsigned>(random % members);
    for (unsigned w = 0; w < used; ++w) {
        for (uint64_t rest = words[w]; rest; rest &= rest - 1)
            if (skip-- == 0) return static_cast<int>(w * 64) + __builtin_ctzll(rest);
    }
    return -1;
}

Worker::~Worker() {
    for (Fiber* fiber : all) destroy_fiber(fiber);
}

Worker* current_worker() {
    return this_worker;
}

std::string describe_thread(const Worker& worker, unsigned t) {
    const Block& block = worker.block;
    std::string text = format("block (%u,%u,%u)", block.index.x, block.index.y, block.index.z);
    if (t == ~0u) return text;
    const unsigned x = t % block.dim.x, y = t / block.dim.x % block.dim.y,
                   z = t / block.dim.x / block.dim.y;
    return text + format(" thread (%u,%u,%u)", x, y, z);
}

void fail_from_kernel(Worker& worker, int code, const std::string& text) {
    Launch& launch = *worker.mutable_launch;
    int expected = 0;
    worker.in_kernel = false;
    if (launch.error.compare_exchange_strong(expected, code))
        launch.error_text = std::string("kernel ") + launch.kernel->name + ": " + text;
    leave_kernel(worker);
}

void leave_kernel(Worker& worker) {
    worker.in_kernel = false;
    siglongjmp(worker.fault, 1);
}

void fail_waiting(Worker& worker, const char* kind, unsigned thread, const void* caller,
                  const std::string& text) {
    if (check_hooks && check_hooks->problem)
        check_hooks->problem(worker, kind, thread, caller, text);
    fail_from_kernel(worker, CUDA_ERROR_LAUNCH_FAILED, text);
}

void install_fault_handler() {
    static bool installed = [] {
        struct sigaction action{};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL})
            sigaction(signal, &action, &previous_actions[signal]);
        action.sa_sigaction = on_stop;
        // Not SA_NODEFER: many at once would nest until the handlers' stack is full.
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
        sigaction(stop_signal(), &action, nullptr);
        return true;
    }();
    (void)installed;
    alternate_stack.ensure();
}

void begin_blocks(Worker& worker, Launch& launch) {
    worker.launch = &launch;
    worker.mutable_launch = &launch;
    worker.arguments = launch.arguments;
    worker.block.dim = launch.block;
    worker.block.grid = launch.grid;
    worker.block.count = launch.block.x * launch.block.y * launch.block.z;
    this_worker = &worker;
    worker.thread = pthread_self();
    worker.sequence = running_launch.sequence.load();
}

void end_blocks(Worker& worker) {
    worker.sequence = 0;
    worker.launch = nullptr;
    worker.mutable_launch = nullptr;
    this_worker = nullptr;
}

bool run_block(Worker& worker, Index index) {
    Block& block = worker.block;
    const Launch& launch = *worker.launch;
    block.index = index;
    block.next = 0;
    block.current = 0;
    if (launch.kernel->run_plain && worker.order.empty() && block.grid.x <= kPlainGrid) {
        if (sigsetjmp(worker.fault, 0)) return false;
        worker.in_kernel = worker.plain = true;
        launch.kernel->run_plain(&block, worker.arguments);
        worker.in_kernel = worker.plain = false;
        return true;
    }
    worker.plain = false;
    block.leave_hook = 0;
    block.order = nullptr;
    if (!worker.order.empty()) {
        worker.order.resize(block.count);
        for (unsigned i = 0; i < block.count; ++i) worker.order[i] = i;
        for (unsigned i = block.count; i > 1; --i)
            std::swap(worker.order[i - 1], worker.order[next_random(worker.random) % i]);
        block.order = worker.order.data();
    }
    worker.ready.clear();
    worker.exited.clear();
    worker.at_barrier.clear();
    worker.barrier_count = worker.exited_count = worker.barrier_epoch = worker.grid_count = 0;
    worker.predicate_count = 0;
    worker.predicate_and = 1;
    worker.predicate_or = 0;
    for (unsigned w = 0; w < warp_count(worker); ++w)
        worker.warps[w].waiting = worker.warps[w].lockstep = 0;
    if (check_hooks) {
        block.leave_hook = 1;
        if (check_hooks->block_begin) check_hooks->block_begin(worker);
    }
    if (sigsetjmp(worker.fault, 0)) {
        // The fibers hold half-run threads: give all of them a fresh start.
        worker.running = nullptr;
        worker.idle.clear();
        for (auto it = worker.all.rbegin(); it != worker.all.rend(); ++it) {
            prepare_fiber(*it, fiber_main, &worker);
            worker.idle.push_back(*it);
        }
        if (check_hooks && check_hooks->block_end) check_hooks->block_end(worker);
        return false;
    }
    worker.in_kernel = true;
    Fiber* fiber = take_fiber(worker);
    worker.running = fiber;
    switch_context(worker.main, fiber->context);
    worker.in_kernel = false;
    if (check_hooks && check_hooks->block_end) check_hooks->block_end(worker);
    return true;
}

}  // namespace cpu_driver

using namespace cpu_driver;

extern "C" {

int cpu_driver_barrier(uint32_t kind, int predicate, const void* caller) {
    Worker& worker = *this_worker;
    Block& block = worker.block;
    if (check_hooks && check_hooks->barrier_arrive) check_hooks->barrier_arrive(worker, caller);
    if (worker.barrier_count == 0 && !block.leave_hook) start_bookkeeping(worker);
    const unsigned self = block.current;
    if (kind == kGrid && !worker.launch->team)
        fail_waiting(worker, "divergent_barrier", self, caller,
                     describe_thread(worker, self) +
                         " came to a grid-wide barrier, but the launch "
                         "is not cooperative: use "
                         "cuLaunchCooperativeKernel");
    worker.predicate_count += predicate != 0;
    worker.predicate_and &= predicate != 0;
    worker.predicate_or |= predicate != 0;
    worker.at_barrier.add(self);
    ++worker.barrier_count;
    if (worker.exited_count) fail_divergent(worker, self);
    worker.grid_count += kind == kGrid;
    if (worker.barrier_count == block.count) {
        if (worker.grid_count) meet_grid(worker, caller);
        release_barrier(worker);
    }
    suspend(worker);
    return kind == kPlain || kind == kGrid ? 0 : worker.predicate_result[kind - kCount];
}

void cpu_driver_warp(uint32_t operation, uint32_t mask, const void* input, void* output,
                     uint32_t size, int argument, int width, const void* caller) {
    Worker& worker = *this_worker;
    Block& block = worker.block;
    if (check_hooks && check_hooks->warp_arrive)
        check_hooks->warp_arrive(worker, operation, mask, caller);
    if (!block.leave_hook) start_bookkeeping(worker);
    const unsigned self = block.current, w = self / kWarpSize, lane = self % kWarpSize;
    if (!(mask >> lane & 1))
        fail_waiting(
            worker, "dead_lane", self, caller,
            format("%s calls %s with mask 0x%08x, which does not name its own lane %u",
                   describe_thread(worker, self).c_str(), operation_name(operation), mask, lane));
    if (width < 1 || width > 32 || (width & (width - 1)))
        fail_from_kernel(
            worker, CUDA_ERROR_LAUNCH_FAILED,
            format("%s calls %s with width %d, which is no power of two up to 32",
                   describe_thread(worker, self).c_str(), operation_name(operation), width));
    WarpState& warp = worker.warps[w];
    warp.request[lane] = {operation, mask, input, output, size, argument, width, caller};
    warp.waiting |= 1u << lane;
    const uint32_t completed = try_complete(worker, w, mask);
    if (completed)
        make_ready(worker, w, completed & ~(1u << lane));  // the last to arrive just goes on
    else
        suspend(worker);
}

uint32_t cpu_driver_active_mask(void) {
    Worker& worker = *this_worker;
    if (!worker.block.leave_hook) start_bookkeeping(worker);
    return live_lanes(worker, worker.block.current / kWarpSize);
}

void cpu_driver_lockstep(void) {
    Worker& worker = *this_worker;
    if (!worker.block.leave_hook) start_bookkeeping(worker);
    const unsigned self = worker.block.current;
    worker.warps[self / kWarpSize].lockstep |= 1u << (self % kWarpSize);
    suspend(worker);
}

void cpu_driver_thread_left(void) {
    Worker& worker = *this_worker;
    const unsigned self = worker.block.current, w = self / kWarpSize;
    worker.exited.add(self);
    ++worker.exited_count;
    if (check_hooks && check_hooks->thread_left) check_hooks->thread_left(worker, self);
    if (worker.barrier_count) {
        const int waiting = worker.at_barrier.first(worker.block.count);
        fail_divergent(worker, static_cast<unsigned>(waiting));
    }
    // Lanes that waited for this one alone can go on.
    WarpState& warp = worker.warps[w];
    uint32_t seen = 0;
    for (uint32_t rest = warp.waiting; rest; rest &= rest - 1) {
        const unsigned lane = static_cast<unsigned>(__builtin_ctz(rest));
        if (seen >> lane & 1) continue;
        const uint32_t mask = warp.request[lane].mask;
        seen |= mask;
        make_ready(worker, w, try_complete(worker, w, mask));
    }
}

void cpu_driver_assert_failed(const char* expression, const char* file, int line,
                              const char* function) {
    Worker& worker = *this_worker;
    fail_from_kernel(
        worker, CUDA_ERROR_ASSERT,
        format("%s: assertion `%s` failed in %s, %s:%d",
               describe_thread(worker, worker.plain ? ~0u : worker.block.current).c_str(),
               expression, function, file, line));
}

void cpu_driver_trap(void) {
    Worker& worker = *this_worker;
    fail_from_kernel(
        worker, CUDA_ERROR_LAUNCH_FAILED,
        describe_thread(worker, worker.plain ? ~0u : worker.block.current) + ": __trap()");
}

unsigned cpu_driver_dynamic_shared_bytes(void) {
    return this_worker->launch->dynamic_shared;
}

}  // extern "C"
