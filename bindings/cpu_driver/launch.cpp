#include "launch.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "cooperative.h"
#include "scheduler.h"
#include "watchdog.h"

namespace cpu_driver {

const CheckHooks* check_hooks = nullptr;
const CheckHooks* registered_checks = nullptr;

namespace {

constexpr unsigned kMaxWorkers = 64;
// Blocks that a cooperative launch can have at least.
constexpr unsigned kTeam = 8;
// A launch shorter than this is over before another thread has woken up.
constexpr auto kAlone = std::chrono::microseconds(15);

struct Settings {
    unsigned workers;
    bool random_order = false;
    uint64_t seed = 0;
};

// Read once per process: PYGAN_CPU_THREADS, and PYGAN_CPU_THREAD_ORDER = ascending | random:SEED.
const Settings& settings() {
    static const Settings value = [] {
        Settings result;
        cpu_set_t set;
        unsigned available = sched_getaffinity(0, sizeof set, &set) == 0
                                 ? static_cast<unsigned>(CPU_COUNT(&set))
                                 : std::thread::hardware_concurrency();
        result.workers = std::clamp(available, 1u, kMaxWorkers);
        if (const char* text = getenv("PYGAN_CPU_THREADS")) {
            const long wanted = strtol(text, nullptr, 10);
            if (wanted >= 1)
                result.workers = static_cast<unsigned>(std::min<long>(wanted, kMaxWorkers));
        }
        if (const char* text = getenv("PYGAN_CPU_THREAD_ORDER")) {
            if (!strncmp(text, "random", 6)) {
                result.random_order = true;
                if (text[6] == ':') result.seed = strtoull(text + 7, nullptr, 10);
            }
        }
        return result;
    }();
    return value;
}

Index block_index(const Launch& launch, uint64_t b) {
    const uint64_t plane = static_cast<uint64_t>(launch.grid.x) * launch.grid.y;
    return {static_cast<unsigned>(b % launch.grid.x),
            static_cast<unsigned>(b / launch.grid.x % launch.grid.y),
            static_cast<unsigned>(b / plane)};
}

// One block of a cooperative launch, on a thread that no other block of it has.
void work_in_team(Worker& worker, Launch& launch, unsigned number) {
    begin_blocks(worker, launch);
    const bool good = launch.team->begin(number) && run_block(worker, block_index(launch, number));
    launch.team->end(number, good);
    end_blocks(worker);
}

// Takes blocks until none is left or the launch has failed. With `alone_until`, stops at that time.
// Returns whether blocks are left.
bool work(Worker& worker, Launch& launch,
          const std::chrono::steady_clock::time_point* alone_until) {
    begin_blocks(worker, launch);
    // Few, large takes when there are very many blocks; never so large that a thread idles long.
    const uint64_t chunk =
        alone_until ? 1 : std::clamp<uint64_t>(launch.blocks / (32 * settings().workers), 1, 64);
    bool left = true;
    while (left) {
        const uint64_t first = launch.next_block.fetch_add(chunk, std::memory_order_relaxed);
        if (first >= launch.blocks) {
            left = false;
            break;
        }
        const uint64_t last = std::min(first + chunk, launch.blocks);
        bool good = true;
        for (uint64_t b = first; good && b < last; ++b)
            good = !launch.error.load(std::memory_order_relaxed) &&
                   run_block(worker, block_index(launch, b));
        if (!good) {
            left = false;
            launch.next_block.store(launch.blocks, std::memory_order_relaxed);
        }
        if (alone_until && std::chrono::steady_clock::now() > *alone_until) break;
    }
    end_blocks(worker);
    return left && launch.next_block.load(std::memory_order_relaxed) < launch.blocks;
}

// The helpers of the launching thread. Rebuilt in a forked child, where no thread has survived.
class Pool {
  public:
    // `helpers` threads for ordinary launches; of a cooperative one each block has a thread.
    Pool(unsigned helpers, unsigned team)
        : helpers_(helpers), workers_(std::max(helpers + 1, team)) {
        for (unsigned i = 0; i < workers_.size(); ++i) {
            workers_[i] = std::make_unique<Worker>();
            workers_[i]->number = i;
            if (settings().random_order) {
                workers_[i]->order.resize(1);
                workers_[i]->random = settings().seed * 0x9e3779b97f4a7c15ull + i;
            }
            all_.push_back(workers_[i].get());
        }
        start_watchdog(all_.data(), static_cast<unsigned>(all_.size()));
    }

    Worker& own() { return *workers_[0]; }

    // All blocks that are left, or a cooperative launch.
    void help(Launch& launch) {
        const unsigned wanted = launch.team ? static_cast<unsigned>(launch.blocks) - 1 : helpers_;
        start(wanted);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            launch_ = &launch;
            busy_ = wanted_ = wanted;
            ++round_;
        }
        wake_.notify_all();
        if (launch.team)
            work_in_team(own(), launch, 0);
        else
            work(own(), launch, nullptr);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [&] { return busy_ == 0; });
        launch_ = nullptr;
    }

  private:
    void start(unsigned wanted) {
        if (threads_.size() >= wanted) return;
        // Signals belong to the program's own threads.
        sigset_t all, before;
        sigfillset(&all);
        for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, stop_signal()}) sigdelset(&all, signal);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (unsigned i = static_cast<unsigned>(threads_.size()) + 1; i <= wanted; ++i) {
            threads_.emplace_back([this, i, seen = round_] { loop(*workers_[i], i, seen); });
            threads_.back().detach();
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void loop(Worker& worker, unsigned number, uint64_t seen) {
        install_fault_handler();
        for (;;) {
            Launch* launch;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return round_ != seen; });
                seen = round_;
                if (number > wanted_) continue;
                launch = launch_;
            }
            if (launch->team)
                work_in_team(worker, *launch, number);
            else
                work(worker, *launch, nullptr);
            std::lock_guard<std::mutex> lock(mutex_);
            if (--busy_ == 0) done_.notify_one();
        }
    }

    const unsigned helpers_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<Worker*> all_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Launch* launch_ = nullptr;
    unsigned wanted_ = 0, busy_ = 0;  // threads that this launch has; of them, still at work
    uint64_t round_ = 0;
};

std::mutex launch_mutex;  // one grid at a time, as on a device whose streams are all busy
Pool* pool = nullptr;     // never destroyed: its threads may outlive main

void before_fork() {
    launch_mutex.lock();
}
void after_fork_parent() {
    launch_mutex.unlock();
}
void after_fork_child() {
    pool = nullptr;  // the threads are gone; what they used is left behind
    launch_mutex.unlock();
}

Pool& the_pool() {
    static const bool registered = [] {
        pthread_atfork(before_fork, after_fork_parent, after_fork_child);
        return true;
    }();
    (void)registered;
    if (!pool) pool = new Pool(settings().workers - 1, settings().workers * resident_blocks());
    return *pool;
}

uint32_t align_up(uint32_t value, uint32_t alignment) {
    return (value + alignment - 1) / alignment * alignment;
}

std::string parameter_name(const Kernel& kernel, unsigned i) {
    const char* names = kernel.parameters;
    for (; i && *names; ++names)
        if (*names == ',') --i;
    const char* end = strchr(names, ',');
    std::string name = end ? std::string(names, end) : std::string(names);
    return name.empty() ? "" : " '" + name + "'";
}

int check_pointers(const Kernel& kernel, const PreparedLaunch& prepared) {
    for (unsigned i = 0; i < kernel.argument_count; ++i) {
        if (kernel.arguments[i].kind != kPointer) continue;
        uintptr_t address;
        std::memcpy(&address, prepared.storage.data() + prepared.offsets[i], sizeof address);
        Allocation found;
        if (!address || find_allocation(address, &found, true)) continue;
        return fail(CUDA_ERROR_ILLEGAL_ADDRESS,
                    format("kernel %s: argument %u%s is 0x%zx, which lies in no device allocation "
                           "(a host address, or memory already freed)",
                           kernel.name, i, parameter_name(kernel, i).c_str(), address));
    }
    return CUDA_SUCCESS;
}

}  // namespace

unsigned worker_count() {
    return settings().workers;
}

unsigned resident_blocks() {
    return (kTeam + settings().workers - 1) / settings().workers;
}

unsigned resident_blocks(const Function& function, unsigned threads, size_t dynamic_shared) {
    const size_t shared = function.static_shared + dynamic_shared;
    const unsigned by_threads = kMaxThreads * resident_blocks() / std::max(threads, 1u);
    const size_t by_shared = shared ? size_t{227 * 1024} / shared : resident_blocks();
    return static_cast<unsigned>(std::min<size_t>({resident_blocks(), by_threads, by_shared}));
}

int prepare_launch(PreparedLaunch& prepared, Function* function, Index grid, Index block,
                   unsigned dynamic_shared, const void* packed, size_t packed_bytes,
                   void* const* pointers) {
    const Kernel& kernel = *function->kernel;
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || !threads)
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("kernel %s: grid (%u,%u,%u) and block (%u,%u,%u) must be at least 1",
                           kernel.name, grid.x, grid.y, grid.z, block.x, block.y, block.z));
    if (block.x > 1024 || block.y > 1024 || block.z > 64 || threads > kMaxThreads)
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("kernel %s: block (%u,%u,%u) has %llu threads; the limits are "
                           "(1024,1024,64) and 1024 together",
                           kernel.name, block.x, block.y, block.z,
                           static_cast<unsigned long long>(threads)));
    if (kernel.max_threads && threads > kernel.max_threads)
        return fail(
            CUDA_ERROR_INVALID_VALUE,
            format("kernel %s: block of %llu threads, but __launch_bounds__ allows %u", kernel.name,
                   static_cast<unsigned long long>(threads), kernel.max_threads));
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("kernel %s: grid (%u,%u,%u) exceeds (2147483647,65535,65535)",
                           kernel.name, grid.x, grid.y, grid.z));
    // Without consent 48 KiB in all; with it, as much beside the static memory as was asked for.
    const size_t room = function->shared_consent
                            ? function->static_shared + function->max_dynamic_shared
                            : size_t{48 * 1024};
    if (dynamic_shared > static_cast<size_t>(function->max_dynamic_shared) ||
        function->static_shared + dynamic_shared > room)
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("kernel %s: %zu bytes of static and %u of dynamic shared memory; the "
                           "block may have %zu (more needs "
                           "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
                           kernel.name, function->static_shared, dynamic_shared, room));

    prepared.function = function;
    prepared.function_number = function->number;
    prepared.grid = grid;
    prepared.block = block;
    prepared.dynamic_shared = dynamic_shared;
    prepared.offsets.resize(kernel.argument_count);
    uint32_t end = 0, alignment = 1;
    for (unsigned i = 0; i < kernel.argument_count; ++i) {
        const Argument& argument = kernel.arguments[i];
        prepared.offsets[i] = align_up(end, argument.align);
        end = prepared.offsets[i] + argument.size;
        alignment = std::max(alignment, argument.align);
    }
    // Vectors that need 16- or 32-byte alignment find it: operator new gives 16, a copy more is
    // made by the kernel's own local variable.
    prepared.storage.assign(std::max<size_t>(end, 1), 0);
    if (kernel.argument_count && packed) {
        if (packed_bytes < end || packed_bytes > align_up(end, std::max(alignment, 8u))) {
            std::string expected;
            for (unsigned i = 0; i < kernel.argument_count; ++i)
                expected += format("%s%u%s", i ? "+" : "", kernel.arguments[i].size,
                                   kernel.arguments[i].kind == kPointer ? "(pointer)" : "");
            return fail(
                CUDA_ERROR_INVALID_VALUE,
                format("kernel %s takes %u arguments in %u bytes (%s, aligned), but %zu "
                       "bytes were passed: wrong number or types of arguments",
                       kernel.name, kernel.argument_count, end, expected.c_str(), packed_bytes));
        }
        std::memcpy(prepared.storage.data(), packed, end);
    } else if (kernel.argument_count && pointers) {
        for (unsigned i = 0; i < kernel.argument_count; ++i) {
            if (!pointers[i])
                return fail(CUDA_ERROR_INVALID_VALUE,
                            format("kernel %s: kernelParams[%u]%s is null", kernel.name, i,
                                   parameter_name(kernel, i).c_str()));
            std::memcpy(prepared.storage.data() + prepared.offsets[i], pointers[i],
                        kernel.arguments[i].size);
        }
    } else if (kernel.argument_count) {
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("kernel %s takes %u arguments, none were passed", kernel.name,
                           kernel.argument_count));
    } else if (packed && packed_bytes) {
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("kernel %s takes no arguments, but %zu bytes were passed", kernel.name,
                           packed_bytes));
    }
    return check_pointers(kernel, prepared);
}

int run_launch(const PreparedLaunch& prepared) {
    if (!prepared.fresh && !is_loaded(prepared.function, prepared.function_number))
        return fail(CUDA_ERROR_INVALID_HANDLE,
                    "the graph launches a kernel whose module has been unloaded");
    const Kernel& kernel = *prepared.function->kernel;
    if (!prepared.fresh)
        if (int error = check_pointers(kernel, prepared)) return error;
    Launch launch;
    launch.function = prepared.function;
    launch.kernel = &kernel;
    launch.grid = prepared.grid;
    launch.block = prepared.block;
    launch.dynamic_shared = prepared.dynamic_shared;
    launch.blocks = uint64_t{prepared.grid.x} * prepared.grid.y * prepared.grid.z;
    std::vector<const void*> addresses(kernel.argument_count);
    for (unsigned i = 0; i < kernel.argument_count; ++i)
        addresses[i] = prepared.storage.data() + prepared.offsets[i];
    launch.arguments = addresses.data();
    const bool checked = prepared.function->module->info->checked && registered_checks;
    std::optional<Team> team;
    if (prepared.cooperative)
        launch.team = &team.emplace(static_cast<unsigned>(launch.blocks), checked);

    std::lock_guard<std::mutex> lock(launch_mutex);
    Pool& pool = the_pool();
    install_fault_handler();
    int result = CUDA_SUCCESS;
    if (checked) {
        check_hooks = registered_checks;
        if (check_hooks->launch_begin) result = check_hooks->launch_begin(launch);
    }
    if (result == CUDA_SUCCESS) {
        const auto begun = std::chrono::steady_clock::now();
        const auto until = begun + kAlone;
        ++running_launch.sequence;
        running_launch.started = begun.time_since_epoch().count();
        // Check mode keeps one shadow of memory: its launches stay on one thread.
        const bool alone = settings().workers == 1 || launch.blocks == 1 || checked;
        if (launch.team || work(pool.own(), launch, alone ? nullptr : &until)) pool.help(launch);
        running_launch.started = 0;
        result = launch.error.load();
        if (result) result = fail(result, launch.error_text);
    }
    if (checked) {
        if (check_hooks->launch_end) result = check_hooks->launch_end(launch, result);
        check_hooks = nullptr;
    }
    return result;
}

}  // namespace cpu_driver
