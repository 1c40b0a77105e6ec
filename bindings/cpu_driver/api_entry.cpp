// cuGetProcAddress: how newer bindings find the functions of this library.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "objects.h"

using namespace cpu_driver;

namespace {

void* find(const char* name) {
    // Names come without their version; the newest one this library has is meant.
    for (int version = 4; version >= 1; --version) {
        const std::string full = version > 1 ? format("%s_v%d", name, version) : std::string(name);
        if (void* found = dlsym(RTLD_DEFAULT, full.c_str())) {
            Dl_info own, other;
            if (dladdr(reinterpret_cast<void*>(&find), &own) && dladdr(found, &other) &&
                own.dli_fbase == other.dli_fbase)
                return found;
        }
    }
    return nullptr;
}

}  // namespace

CPU_DRIVER_API CUresult cuGetProcAddress_v2(const char* symbol, void** function, int,
                                            unsigned long long, int* status) {
    if (!symbol || !function) return fail(CUDA_ERROR_INVALID_VALUE, "no name");
    *function = find(symbol);
    if (status) *status = *function ? 0 : 1;
    return *function ? CUDA_SUCCESS : fail(CUDA_ERROR_NOT_FOUND, symbol);
}
CPU_DRIVER_API CUresult cuGetProcAddress(const char* symbol, void** function, int version,
                                         unsigned long long flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}

// NVIDIA's runtime library begins by asking for these. It cannot work on this driver, and so passes
// on to whoever counts its devices (PyTorch, in one process with device cpu) that there are none.
CPU_DRIVER_API CUresult cuGetExportTable(const void** table, const void*) {
    if (table) *table = nullptr;
    return fail(CUDA_ERROR_NO_DEVICE, "private tables of NVIDIA's driver");
}

// Tells this driver from NVIDIA's.
CPU_DRIVER_API const char pygan_cpu_driver[] = "pygan CPU driver";
