// The objects behind CUDA's handles, the table of device memory, and error texts.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda_api.h"
#include "include/cpu_driver_abi.h"

namespace cpu_driver {

struct ContextObject {
    bool primary = false;
    int references = 0;  // of the primary context
    bool alive = true;
    std::map<int, size_t> limits;
    int cache_config = 0, shared_config = 0;
    unsigned flags = 0;
};

struct ModuleObject;

struct Function {
    uint64_t number = 0;  // never reused, unlike the address
    ModuleObject* module = nullptr;
    const Kernel* kernel = nullptr;
    size_t static_shared = 0;
    int max_dynamic_shared = 48 * 1024;
    bool shared_consent = false;  // cuFuncSetAttribute has set max_dynamic_shared
    // State of the launch interface that predates cuLaunchKernel.
    Index block{1, 1, 1};
    unsigned shared = 0;
    std::vector<unsigned char> parameters;
};

struct ModuleObject {
    ContextObject* context = nullptr;
    void* library = nullptr;
    int descriptor = -1;
    const Module* info = nullptr;
    uintptr_t begin = 0, end = 0;  // addresses of the loaded image
    std::vector<char> image;
    std::map<std::string, std::unique_ptr<Function>> functions;  // by name asked for
    std::map<std::string, std::pair<uintptr_t, size_t>> globals;
};

enum class MemoryKind { kDevice, kManaged, kHostAllocated, kHostRegistered, kGlobal };

struct Allocation {
    uintptr_t address = 0;
    size_t requested = 0;  // bytes asked for
    size_t rounded = 0;    // bytes that exist
    MemoryKind kind = MemoryKind::kDevice;
    ContextObject* context = nullptr;
    unsigned flags = 0;
    uint64_t number = 0;  // counts allocations: tells a reused address apart
};

// --- errors ---------------------------------------------------------------------------------
// Remembers the text for cuGetErrorString (per OS thread) and returns the code.
CUresult fail(int code, const std::string& text);
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
const char* error_name(int code);

// --- contexts -------------------------------------------------------------------------------
ContextObject* current_context();
CUresult need_context();  // CUDA_SUCCESS, or the error to return

// --- memory ---------------------------------------------------------------------------------
CUresult allocate(size_t bytes, MemoryKind kind, unsigned flags, uintptr_t* address);
CUresult release(uintptr_t address, bool host);
CUresult add_foreign(uintptr_t address, size_t bytes, MemoryKind kind, unsigned flags);
void remove_foreign(uintptr_t address);
void release_all(ContextObject* context);
// The allocation that holds the address (or ends at it, with `or_end`).
bool find_allocation(uintptr_t address, Allocation* found, bool or_end = false);
// CUDA_SUCCESS when [address, address + bytes) lies inside one allocation.
CUresult check_range(const char* what, uintptr_t address, size_t bytes);
std::vector<Allocation> all_allocations();
void memory_info(size_t* free_bytes, size_t* total_bytes);

// --- modules --------------------------------------------------------------------------------
void unload_all(ContextObject* context);
CUresult need_function(CUfunction handle, Function** function);
// Whether the kernel with this number is still loaded at this address.
bool is_loaded(const Function* function, uint64_t number);

// --- streams --------------------------------------------------------------------------------
using Operation = std::function<int()>;
// Runs the operation now, or records it where the stream is being captured. `kind` is a
// CUgraphNodeType.
CUresult submit(CUstream stream, int kind, Operation operation);
// Error of an operation that must not happen while this thread captures.
CUresult refuse_during_capture(const char* what);
void destroy_streams(ContextObject* context);

}  // namespace cpu_driver
