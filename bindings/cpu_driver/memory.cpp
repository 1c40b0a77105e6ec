// The table of device memory. Device memory is ordinary memory, but only what is in this table may
// be handed to a kernel or to a copy as a device address. It lies between pages that nobody may
// touch: a kernel that runs past an array is stopped there, before it reaches memory of the host.
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <shared_mutex>

#include "launch.h"
#include "objects.h"

namespace cpu_driver {

namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kGuard = size_t{1} << 20;  // bytes on both sides, which take no memory
// Each guarded allocation takes two of the 65,530 mappings that Linux allows a process.
constexpr size_t kMostGuarded = 8192;

struct Table {
    std::shared_mutex mutex;
    std::map<uintptr_t, Allocation> entries;
    std::set<uintptr_t> guarded;  // addresses of device memory between pages of its own
    size_t used = 0;              // bytes of device memory
    uint64_t counter = 0;
};

// Never destroyed: Python may free device memory while the process ends.
Table& table() {
    static Table* instance = new Table;
    return *instance;
}

size_t round_up(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// PYGAN_CPU_MEMORY (bytes), else half of the machine's memory.
size_t capacity() {
    static const size_t value = [] {
        if (const char* text = getenv("PYGAN_CPU_MEMORY")) {
            const unsigned long long wanted = strtoull(text, nullptr, 10);
            if (wanted >= (1u << 20)) return static_cast<size_t>(wanted);
        }
        const size_t physical = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) *
                                static_cast<size_t>(sysconf(_SC_PAGESIZE));
        return physical / 2;
    }();
    return value;
}

bool counts(MemoryKind kind) {
    return kind == MemoryKind::kDevice || kind == MemoryKind::kManaged;
}

bool owned(MemoryKind kind) {
    return counts(kind) || kind == MemoryKind::kHostAllocated;
}

size_t whole_pages(size_t bytes) {
    static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return (bytes + page - 1) / page * page;
}

// `rounded` bytes that end where the guard behind them begins; null where the system refuses.
void* map_guarded(size_t rounded) {
    const size_t inside = whole_pages(rounded);
    void* all = mmap(nullptr, inside + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return nullptr;
    char* start = static_cast<char*>(all) + kGuard;
    if (mprotect(start, inside, PROT_READ | PROT_WRITE) != 0) {
        munmap(all, inside + 2 * kGuard);
        return nullptr;
    }
    return start + (inside - rounded);
}

void unmap_guarded(uintptr_t address, size_t rounded) {
    const size_t inside = whole_pages(rounded);
    const uintptr_t all = address - (inside - rounded) - kGuard;
    munmap(reinterpret_cast<void*>(all), inside + 2 * kGuard);
}

void drop(Table& t, const Allocation& entry) {
    if (registered_checks && registered_checks->freed)
        registered_checks->freed(entry.address, entry.requested, entry.rounded);
    if (!owned(entry.kind)) return;
    if (t.guarded.erase(entry.address))
        unmap_guarded(entry.address, entry.rounded);
    else
        free(reinterpret_cast<void*>(entry.address));
}

}  // namespace

CUresult allocate(size_t bytes, MemoryKind kind, unsigned flags, uintptr_t* address) {
    if (!address) return fail(CUDA_ERROR_INVALID_VALUE, "no place for the address");
    if (!bytes) return fail(CUDA_ERROR_INVALID_VALUE, "an allocation of 0 bytes");
    Table& t = table();
    std::unique_lock<std::shared_mutex> lock(t.mutex);
    const size_t rounded = round_up(bytes);
    if (rounded < bytes || (counts(kind) && rounded > capacity() - std::min(capacity(), t.used)))
        return fail(CUDA_ERROR_OUT_OF_MEMORY,
                    format("%zu bytes asked for, %zu of %zu bytes of device memory are in use "
                           "(PYGAN_CPU_MEMORY sets the limit)",
                           bytes, t.used, capacity()));
    const bool guarded = counts(kind) && t.guarded.size() < kMostGuarded;
    void* memory = guarded ? map_guarded(rounded) : nullptr;
    if (memory)
        t.guarded.insert(reinterpret_cast<uintptr_t>(memory));
    else if (posix_memalign(&memory, kAlignment, rounded) != 0)
        return fail(CUDA_ERROR_OUT_OF_MEMORY, format("the machine has no %zu bytes left", bytes));
    Allocation entry;
    entry.address = reinterpret_cast<uintptr_t>(memory);
    entry.requested = bytes;
    entry.rounded = rounded;
    entry.kind = kind;
    entry.context = current_context();
    entry.flags = flags;
    entry.number = ++t.counter;
    t.entries[entry.address] = entry;
    if (counts(kind)) t.used += rounded;
    *address = entry.address;
    if (registered_checks && registered_checks->allocated)
        registered_checks->allocated(entry.address, bytes, rounded);
    return CUDA_SUCCESS;
}

CUresult release(uintptr_t address, bool host) {
    if (!address) return CUDA_SUCCESS;
    Table& t = table();
    std::unique_lock<std::shared_mutex> lock(t.mutex);
    auto it = t.entries.find(address);
    if (it == t.entries.end() || !owned(it->second.kind) ||
        host != (it->second.kind == MemoryKind::kHostAllocated))
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("0x%zx was not allocated by this driver, or is freed already", address));
    if (counts(it->second.kind)) t.used -= it->second.rounded;
    drop(t, it->second);
    t.entries.erase(it);
    return CUDA_SUCCESS;
}

CUresult add_foreign(uintptr_t address, size_t bytes, MemoryKind kind, unsigned flags) {
    Table& t = table();
    std::unique_lock<std::shared_mutex> lock(t.mutex);
    auto after = t.entries.lower_bound(address + bytes);
    if (after != t.entries.begin()) {
        const Allocation& before = std::prev(after)->second;
        if (before.address + before.rounded > address)
            return fail(
                CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
                format("0x%zx (%zu bytes) overlaps memory the driver knows", address, bytes));
    }
    Allocation entry;
    entry.address = address;
    entry.requested = entry.rounded = bytes;
    entry.kind = kind;
    entry.context = current_context();
    entry.flags = flags;
    entry.number = ++t.counter;
    t.entries[address] = entry;
    if (registered_checks && registered_checks->allocated)
        registered_checks->allocated(address, bytes, bytes);
    return CUDA_SUCCESS;
}

void remove_foreign(uintptr_t address) {
    Table& t = table();
    std::unique_lock<std::shared_mutex> lock(t.mutex);
    auto it = t.entries.find(address);
    if (it == t.entries.end() || owned(it->second.kind)) return;
    drop(t, it->second);
    t.entries.erase(it);
}

void release_all(ContextObject* context) {
    Table& t = table();
    std::unique_lock<std::shared_mutex> lock(t.mutex);
    for (auto it = t.entries.begin(); it != t.entries.end();) {
        if (it->second.context != context || !counts(it->second.kind)) {
            ++it;
            continue;
        }
        t.used -= it->second.rounded;
        drop(t, it->second);
        it = t.entries.erase(it);
    }
}

bool find_allocation(uintptr_t address, Allocation* found, bool or_end) {
    Table& t = table();
    std::shared_lock<std::shared_mutex> lock(t.mutex);
    auto it = t.entries.upper_bound(address);
    if (it == t.entries.begin()) return false;
    const Allocation& entry = std::prev(it)->second;
    const uintptr_t end = entry.address + entry.rounded;
    if (address > end || (address == end && !or_end)) return false;
    *found = entry;
    return true;
}

CUresult check_range(const char* what, uintptr_t address, size_t bytes) {
    if (!bytes) return CUDA_SUCCESS;
    Allocation found;
    if (!find_allocation(address, &found))
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("%s 0x%zx lies in no device allocation", what, address));
    if (bytes > found.address + found.rounded - address)
        return fail(
            CUDA_ERROR_INVALID_VALUE,
            format("%s 0x%zx: %zu bytes asked for, the allocation ends after %zu", what, address,
                   bytes, static_cast<size_t>(found.address + found.rounded - address)));
    return CUDA_SUCCESS;
}

std::vector<Allocation> all_allocations() {
    Table& t = table();
    std::shared_lock<std::shared_mutex> lock(t.mutex);
    std::vector<Allocation> result;
    result.reserve(t.entries.size());
    for (const auto& entry : t.entries) result.push_back(entry.second);
    return result;
}

void memory_info(size_t* free_bytes, size_t* total_bytes) {
    Table& t = table();
    std::shared_lock<std::shared_mutex> lock(t.mutex);
    *total_bytes = capacity();
    *free_bytes = capacity() - std::min(capacity(), t.used);
}

}  // namespace cpu_driver
