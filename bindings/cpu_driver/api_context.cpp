// Initialisation, the one device and its attributes, contexts.
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>

#include "launch.h"
#include "objects.h"
#include "scheduler.h"

namespace cpu_driver {

namespace {

std::atomic<bool> initialized{false};

struct Contexts {
    std::mutex mutex;
    std::set<ContextObject*> alive;
    ContextObject* primary = nullptr;
};

Contexts& contexts() {
    static Contexts* instance = new Contexts;
    return *instance;
}

thread_local std::vector<ContextObject*> stack;

bool is_alive(ContextObject* context) {
    Contexts& c = contexts();
    std::lock_guard<std::mutex> lock(c.mutex);
    return c.alive.count(context) != 0;
}

CUresult need_initialized() {
    return initialized ? CUDA_SUCCESS : fail(CUDA_ERROR_NOT_INITIALIZED, "");
}

CUresult need_device(CUdevice device) {
    if (CUresult error = need_initialized()) return error;
    return device == 0 ? CUDA_SUCCESS
                       : fail(CUDA_ERROR_INVALID_DEVICE,
                              format("device %d; the CPU driver has device 0 only", device));
}

void destroy(ContextObject* context) {
    unload_all(context);
    destroy_streams(context);
    release_all(context);
    Contexts& c = contexts();
    std::lock_guard<std::mutex> lock(c.mutex);
    c.alive.erase(context);
    if (c.primary == context) c.primary = nullptr;
    // The object itself stays: handles to it may still be compared by the program.
    context->alive = false;
}

ContextObject* create(bool primary, unsigned flags) {
    auto* context = new ContextObject;
    context->primary = primary;
    context->flags = flags;
    context->limits = {{0, 256 * 1024}, {1, 1 << 20}, {2, 8 << 20}, {3, 2},
                       {4, 2048},       {5, 128},     {6, 0}};
    Contexts& c = contexts();
    std::lock_guard<std::mutex> lock(c.mutex);
    c.alive.insert(context);
    return context;
}

std::string processor_name() {
    std::ifstream file("/proc/cpuinfo");
    std::string line;
    while (std::getline(file, line)) {
        if (line.compare(0, 10, "model name") == 0) {
            const size_t colon = line.find(": ");
            if (colon != std::string::npos) return line.substr(colon + 2);
        }
    }
    return "processor";
}

}  // namespace

ContextObject* current_context() {
    return stack.empty() ? nullptr : stack.back();
}

CUresult need_context() {
    if (CUresult error = need_initialized()) return error;
    ContextObject* context = current_context();
    if (!context) return fail(CUDA_ERROR_INVALID_CONTEXT, "this thread has no current context");
    if (!context->alive) return fail(CUDA_ERROR_CONTEXT_IS_DESTROYED, "");
    return CUDA_SUCCESS;
}

}  // namespace cpu_driver

using namespace cpu_driver;

CPU_DRIVER_API CUresult cuInit(unsigned flags) {
    if (flags) return fail(CUDA_ERROR_INVALID_VALUE, "cuInit takes no flags");
    initialized = true;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDriverGetVersion(int* version) {
    if (!version) return fail(CUDA_ERROR_INVALID_VALUE, "");
    *version = 13000;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceGetCount(int* count) {
    if (CUresult error = need_initialized()) return error;
    if (!count) return fail(CUDA_ERROR_INVALID_VALUE, "");
    *count = 1;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    if (CUresult error = need_device(ordinal)) return error;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    if (!name || length < 1) return fail(CUDA_ERROR_INVALID_VALUE, "no room for the name");
    snprintf(name, static_cast<size_t>(length), "pygan CPU driver on %s", processor_name().c_str());
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceGetUuid_v2(void* uuid, CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    if (!uuid) return fail(CUDA_ERROR_INVALID_VALUE, "");
    std::memcpy(uuid, "pygan-CPU-driver", 16);
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuDeviceGetUuid(void* uuid, CUdevice device) {
    return cuDeviceGetUuid_v2(uuid, device);
}

CPU_DRIVER_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    size_t unused;
    if (!bytes) return fail(CUDA_ERROR_INVALID_VALUE, "");
    memory_info(&unused, bytes);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    *major = 9;
    *minor = 0;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    if (!value) return fail(CUDA_ERROR_INVALID_VALUE, "");
    static const std::map<int, int> known = {
        {1, 1024},                                      // threads per block
        {2, 1024},                                      // block x, y, z
        {3, 1024},        {4, 64},    {5, 0x7fffffff},  // grid x, y, z
        {6, 65535},       {7, 65535}, {8, 48 * 1024},   // shared memory per block
        {9, 64 * 1024},                                 // constant memory
        {10, 32},                                       // warp
        {11, 0x7fffffff},                               // pitch
        {12, 65536},                                    // registers per block
        {13, 1000000},                                  // clock, kHz: clock64() counts nanoseconds
        {14, 512},                                      // texture alignment
        {15, 0},                                        // copies overlap kernels
        {17, 0},                                        // kernel time limit
        {18, 1},                                        // integrated
        {19, 1},                                        // can map host memory
        {20, 0},                                        // compute mode: default
        {31, 0},                                        // concurrent kernels
        {32, 0},                                        // ECC
        {33, 0},          {34, 0},    {35, 0},         {36, 1000000},  // memory clock, kHz
        {37, 64},                                                      // bus width
        {40, 0},                                                       // copy engines
        {41, 1},                                                       // unified addressing
        {50, 0},          {75, 9},                                     // compute capability
        {76, 0},          {78, 0},                                     // stream priorities
        {81, 227 * 1024},           // shared memory per multiprocessor
        {82, 65536},      {83, 1},  // managed memory
        {84, 0},          {88, 0},  // pageable memory access: host addresses are refused
        {89, 1},                    // concurrent managed access
        {95, 1},                    // cooperative launch
        {97, 227 * 1024},           // shared memory per block, opt-in
        {99, 1},                    // host registration
        {115, 0},                   // stream-ordered allocator
    };
    if (attribute == 16) {
        *value = static_cast<int>(worker_count());
    } else if (attribute == 39) {  // threads per multiprocessor
        *value = static_cast<int>(kMaxThreads * resident_blocks());
    } else if (attribute == 106) {
        *value = static_cast<int>(resident_blocks());
    } else if (attribute == 38) {
        const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
        *value = bytes > 0 ? static_cast<int>(bytes) : 1 << 20;
    } else if (auto it = known.find(attribute); it != known.end()) {
        *value = it->second;
    } else if (attribute > 0 && attribute < 256) {
        *value = 0;  // no such ability: textures, surfaces, clusters, tensor maps, ...
    } else {
        return fail(CUDA_ERROR_INVALID_VALUE, format("device attribute %d", attribute));
    }
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    if (!text || length < 13) return fail(CUDA_ERROR_INVALID_VALUE, "13 bytes are needed");
    snprintf(text, static_cast<size_t>(length), "0000:00:00.0");
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceGetByPCIBusId(CUdevice* device, const char* text) {
    if (CUresult error = need_initialized()) return error;
    if (!device || !text || strcmp(text, "0000:00:00.0"))
        return fail(CUDA_ERROR_INVALID_DEVICE, format("PCI bus id %s", text ? text : "(null)"));
    *device = 0;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
    if (CUresult error = need_device(device)) return error;
    if (CUresult error = need_device(peer)) return error;
    *can = 0;
    return CUDA_SUCCESS;
}

// --- contexts -------------------------------------------------------------------------------

CPU_DRIVER_API CUresult cuCtxCreate_v2(CUcontext* context, unsigned flags, CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    if (!context) return fail(CUDA_ERROR_INVALID_VALUE, "");
    *context = create(false, flags);
    stack.push_back(*context);
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuCtxCreate_v3(CUcontext* context, void*, int, unsigned flags,
                                       CUdevice device) {
    return cuCtxCreate_v2(context, flags, device);
}
CPU_DRIVER_API CUresult cuCtxCreate_v4(CUcontext* context, void*, unsigned flags, CUdevice device) {
    return cuCtxCreate_v2(context, flags, device);
}

CPU_DRIVER_API CUresult cuCtxDestroy_v2(CUcontext context) {
    if (CUresult error = need_initialized()) return error;
    if (!is_alive(context) || context->primary)
        return fail(CUDA_ERROR_INVALID_CONTEXT, "not a context made by cuCtxCreate");
    destroy(context);
    if (!stack.empty() && stack.back() == context) stack.pop_back();
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxAttach(CUcontext* context, unsigned) {
    if (CUresult error = need_context()) return error;
    *context = current_context();
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    if (!context) return fail(CUDA_ERROR_INVALID_VALUE, "");
    ContextObject* primary;
    {
        std::lock_guard<std::mutex> lock(contexts().mutex);
        primary = contexts().primary;
    }
    if (!primary) {
        primary = create(true, 0);
        std::lock_guard<std::mutex> lock(contexts().mutex);
        contexts().primary = primary;
    }
    ++primary->references;
    *context = primary;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    if (CUresult error = need_device(device)) return error;
    ContextObject* primary = contexts().primary;
    if (!primary || primary->references == 0)
        return fail(CUDA_ERROR_INVALID_CONTEXT, "the primary context is not retained");
    if (--primary->references == 0) {
        destroy(primary);
        if (!stack.empty() && stack.back() == primary) stack.pop_back();
    }
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    return cuDevicePrimaryCtxRelease_v2(device);
}

// PyCUDA lets go of every context this way, also of the primary one.
CPU_DRIVER_API CUresult cuCtxDetach(CUcontext context) {
    const bool primary = is_alive(context) && context->primary;
    return primary ? cuDevicePrimaryCtxRelease_v2(0) : cuCtxDestroy_v2(context);
}

CPU_DRIVER_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    if (CUresult error = need_device(device)) return error;
    ContextObject* primary = contexts().primary;
    if (flags) *flags = primary ? primary->flags : 0;
    if (active) *active = primary != nullptr;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
    if (CUresult error = need_device(device)) return error;
    if (ContextObject* primary = contexts().primary) primary->flags = flags;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
    return cuDevicePrimaryCtxSetFlags_v2(device, flags);
}

CPU_DRIVER_API CUresult cuCtxPushCurrent_v2(CUcontext context) {
    if (CUresult error = need_initialized()) return error;
    if (!is_alive(context)) return fail(CUDA_ERROR_INVALID_CONTEXT, "not a living context");
    stack.push_back(context);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxPopCurrent_v2(CUcontext* context) {
    if (CUresult error = need_initialized()) return error;
    if (stack.empty()) return fail(CUDA_ERROR_INVALID_CONTEXT, "the context stack is empty");
    if (context) *context = stack.back();
    stack.pop_back();
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxSetCurrent(CUcontext context) {
    if (CUresult error = need_initialized()) return error;
    if (context && !is_alive(context))
        return fail(CUDA_ERROR_INVALID_CONTEXT, "not a living context");
    if (!stack.empty()) stack.pop_back();
    if (context) stack.push_back(context);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxGetCurrent(CUcontext* context) {
    if (CUresult error = need_initialized()) return error;
    if (!context) return fail(CUDA_ERROR_INVALID_VALUE, "");
    *context = current_context();
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxGetDevice(CUdevice* device) {
    if (CUresult error = need_context()) return error;
    *device = 0;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxGetFlags(unsigned* flags) {
    if (CUresult error = need_context()) return error;
    *flags = current_context()->flags;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxSynchronize() {
    if (CUresult error = need_context()) return error;
    if (CUresult error = refuse_during_capture("cuCtxSynchronize")) return error;
    fflush(stdout);  // printf of kernels appears at the latest now
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxGetApiVersion(CUcontext, unsigned* version) {
    if (!version) return fail(CUDA_ERROR_INVALID_VALUE, "");
    *version = 13000;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxSetLimit(int limit, size_t value) {
    if (CUresult error = need_context()) return error;
    auto& limits = current_context()->limits;
    if (!limits.count(limit)) return fail(CUDA_ERROR_UNSUPPORTED_LIMIT, format("limit %d", limit));
    limits[limit] = value;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxGetLimit(size_t* value, int limit) {
    if (CUresult error = need_context()) return error;
    auto& limits = current_context()->limits;
    if (!value || !limits.count(limit))
        return fail(CUDA_ERROR_UNSUPPORTED_LIMIT, format("limit %d", limit));
    *value = limits[limit];
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuCtxGetCacheConfig(int* value) {
    if (CUresult error = need_context()) return error;
    *value = current_context()->cache_config;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuCtxSetCacheConfig(int value) {
    if (CUresult error = need_context()) return error;
    current_context()->cache_config = value;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuCtxGetSharedMemConfig(int* value) {
    if (CUresult error = need_context()) return error;
    *value = current_context()->shared_config;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuCtxSetSharedMemConfig(int value) {
    if (CUresult error = need_context()) return error;
    current_context()->shared_config = value;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    if (CUresult error = need_context()) return error;
    if (least) *least = 0;
    if (greatest) *greatest = 0;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuCtxEnablePeerAccess(CUcontext, unsigned) {
    return fail(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "the CPU driver has one device");
}
CPU_DRIVER_API CUresult cuCtxDisablePeerAccess(CUcontext) {
    return fail(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "the CPU driver has one device");
}

CPU_DRIVER_API CUresult cuProfilerInitialize(const char*, const char*, int) {
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuProfilerStart() {
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuProfilerStop() {
    return CUDA_SUCCESS;
}
