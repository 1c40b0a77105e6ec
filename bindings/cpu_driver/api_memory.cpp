// Allocation, copies and fills. Everything is done at once, in the calling thread; where a stream
// is being captured, it is recorded instead.
#include <cstdint>
#include <cstring>

#include "objects.h"

namespace cpu_driver {

namespace {

void* pointer(uintptr_t address) {
    return reinterpret_cast<void*>(address);
}

CUresult copy(const char* what, CUstream stream, bool asynchronous, void* destination,
              const void* source, size_t bytes, bool check_destination, bool check_source) {
    if (CUresult error = need_context()) return error;
    if (!bytes) return CUDA_SUCCESS;
    if (!destination || !source)
        return fail(CUDA_ERROR_INVALID_VALUE, format("%s: null address", what));
    if (!asynchronous)
        if (CUresult error = refuse_during_capture(what)) return error;
    auto run = [=]() -> int {
        // At the time of the copy: memory in a recorded copy may have been freed since.
        if (check_destination)
            if (CUresult error =
                    check_range("destination", reinterpret_cast<uintptr_t>(destination), bytes))
                return error;
        if (check_source)
            if (CUresult error = check_range("source", reinterpret_cast<uintptr_t>(source), bytes))
                return error;
        std::memmove(destination, source, bytes);
        return CUDA_SUCCESS;
    };
    return asynchronous ? submit(stream, CU_GRAPH_NODE_TYPE_MEMCPY, run) : run();
}

template <typename T>
CUresult fill(const char* what, CUstream stream, bool asynchronous, CUdeviceptr address,
              size_t pitch, T value, size_t width, size_t height) {
    if (CUresult error = need_context()) return error;
    if (!width || !height) return CUDA_SUCCESS;
    if (address % sizeof(T) || (height > 1 && pitch % sizeof(T)))
        return fail(
            CUDA_ERROR_INVALID_VALUE,
            format("%s: address 0x%zx is not aligned to %zu bytes", what, address, sizeof(T)));
    if (height > 1 && pitch < width * sizeof(T))
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("%s: rows of %zu bytes with pitch %zu", what, width * sizeof(T), pitch));
    if (!asynchronous)
        if (CUresult error = refuse_during_capture(what)) return error;
    auto run = [=]() -> int {
        const size_t bytes = (height - 1) * pitch + width * sizeof(T);
        if (CUresult error = check_range("destination", address, bytes)) return error;
        for (size_t y = 0; y < height; ++y) {
            auto* row = static_cast<T*>(pointer(address + y * pitch));
            for (size_t x = 0; x < width; ++x) row[x] = value;
        }
        return CUDA_SUCCESS;
    };
    return asynchronous ? submit(stream, CU_GRAPH_NODE_TYPE_MEMSET, run) : run();
}

// One side of a 2-D or 3-D copy.
struct Side {
    uintptr_t start = 0;
    size_t pitch = 0, slice = 0;
    bool device = false;
};

CUresult make_side(const char* what, int type, const void* host, CUdeviceptr device, size_t x,
                   size_t y, size_t z, size_t pitch, size_t height, size_t width, size_t rows,
                   size_t depth, Side* side) {
    if (type == CU_MEMORYTYPE_ARRAY)
        return fail(CUDA_ERROR_NOT_SUPPORTED, "CUDA arrays (textures and surfaces)");
    if (type < CU_MEMORYTYPE_HOST || type > CU_MEMORYTYPE_UNIFIED)
        return fail(CUDA_ERROR_INVALID_VALUE, format("%s: memory type %d", what, type));
    uintptr_t base = type == CU_MEMORYTYPE_HOST ? reinterpret_cast<uintptr_t>(host) : device;
    if (type == CU_MEMORYTYPE_UNIFIED) {
        // PyCUDA writes unified addresses into the host field, the manual names the device field.
        base = device ? device : reinterpret_cast<uintptr_t>(host);
        Allocation found;
        side->device = find_allocation(base, &found);
    } else {
        side->device = type == CU_MEMORYTYPE_DEVICE;
    }
    if (!base) return fail(CUDA_ERROR_INVALID_VALUE, format("%s: null address", what));
    side->pitch = pitch ? pitch : width;
    if (rows > 1 && side->pitch < x + width)
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("%s: rows of %zu bytes from byte %zu with pitch %zu", what, width, x,
                           side->pitch));
    side->slice = side->pitch * (height ? height : rows);
    if (depth > 1 && (height ? height : rows) < y + rows)
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("%s: %zu rows from row %zu in slices of %zu", what, rows, y, height));
    side->start = base + x + y * side->pitch + z * side->slice;
    return CUDA_SUCCESS;
}

CUresult copy_3d(const char* what, const CUDA_MEMCPY3D& c, CUstream stream, bool asynchronous) {
    if (CUresult error = need_context()) return error;
    const size_t width = c.WidthInBytes, rows = c.Height, depth = c.Depth;
    if (!width || !rows || !depth) return CUDA_SUCCESS;
    Side from, to;
    if (CUresult error =
            make_side("source", c.srcMemoryType, c.srcHost, c.srcDevice, c.srcXInBytes, c.srcY,
                      c.srcZ, c.srcPitch, c.srcHeight, width, rows, depth, &from))
        return error;
    if (CUresult error =
            make_side("destination", c.dstMemoryType, c.dstHost, c.dstDevice, c.dstXInBytes, c.dstY,
                      c.dstZ, c.dstPitch, c.dstHeight, width, rows, depth, &to))
        return error;
    if (!asynchronous)
        if (CUresult error = refuse_during_capture(what)) return error;
    auto run = [=]() -> int {
        auto span = [&](const Side& side) {
            return (depth - 1) * side.slice + (rows - 1) * side.pitch + width;
        };
        if (from.device)
            if (CUresult error = check_range("source", from.start, span(from))) return error;
        if (to.device)
            if (CUresult error = check_range("destination", to.start, span(to))) return error;
        for (size_t z = 0; z < depth; ++z)
            for (size_t y = 0; y < rows; ++y)
                std::memmove(pointer(to.start + z * to.slice + y * to.pitch),
                             pointer(from.start + z * from.slice + y * from.pitch), width);
        return CUDA_SUCCESS;
    };
    return asynchronous ? submit(stream, CU_GRAPH_NODE_TYPE_MEMCPY, run) : run();
}

CUDA_MEMCPY3D as_3d(const CUDA_MEMCPY2D& c) {
    CUDA_MEMCPY3D result{};
    result.srcXInBytes = c.srcXInBytes;
    result.srcY = c.srcY;
    result.srcMemoryType = c.srcMemoryType;
    result.srcHost = c.srcHost;
    result.srcDevice = c.srcDevice;
    result.srcArray = c.srcArray;
    result.srcPitch = c.srcPitch;
    result.dstXInBytes = c.dstXInBytes;
    result.dstY = c.dstY;
    result.dstMemoryType = c.dstMemoryType;
    result.dstHost = c.dstHost;
    result.dstDevice = c.dstDevice;
    result.dstArray = c.dstArray;
    result.dstPitch = c.dstPitch;
    result.WidthInBytes = c.WidthInBytes;
    result.Height = c.Height;
    result.Depth = 1;
    return result;
}

CUresult copy_2d(const char* what, const CUDA_MEMCPY2D* c, CUstream stream, bool asynchronous) {
    if (!c) return fail(CUDA_ERROR_INVALID_VALUE, "no description of the copy");
    return copy_3d(what, as_3d(*c), stream, asynchronous);
}

}  // namespace

}  // namespace cpu_driver

using namespace cpu_driver;

CPU_DRIVER_API CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
    if (CUresult error = need_context()) return error;
    if (!free_bytes || !total_bytes) return fail(CUDA_ERROR_INVALID_VALUE, "");
    memory_info(free_bytes, total_bytes);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    if (CUresult error = need_context()) return error;
    if (CUresult error = refuse_during_capture("cuMemAlloc")) return error;
    return allocate(bytes, MemoryKind::kDevice, 0, address);
}

CPU_DRIVER_API CUresult cuMemAllocPitch_v2(CUdeviceptr* address, size_t* pitch, size_t width,
                                           size_t height, unsigned element) {
    if (CUresult error = need_context()) return error;
    if (element != 4 && element != 8 && element != 16)
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("element size %u; 4, 8 or 16 are possible", element));
    if (!pitch || !width || !height)
        return fail(CUDA_ERROR_INVALID_VALUE, format("%zu bytes by %zu rows", width, height));
    *pitch = (width + 511) / 512 * 512;
    return allocate(*pitch * height, MemoryKind::kDevice, 0, address);
}

CPU_DRIVER_API CUresult cuMemAllocManaged(CUdeviceptr* address, size_t bytes, unsigned flags) {
    if (CUresult error = need_context()) return error;
    return allocate(bytes, MemoryKind::kManaged, flags, address);
}

CPU_DRIVER_API CUresult cuMemFree_v2(CUdeviceptr address) {
    if (CUresult error = need_context()) return error;
    return release(address, false);
}

CPU_DRIVER_API CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes,
                                                CUdeviceptr address) {
    if (CUresult error = need_context()) return error;
    Allocation found;
    if (!find_allocation(address, &found))
        return fail(CUDA_ERROR_NOT_FOUND, format("0x%zx lies in no device allocation", address));
    if (base) *base = found.address;
    if (bytes) *bytes = found.requested;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuPointerGetAttribute(void* value, int attribute, CUdeviceptr address) {
    if (CUresult error = need_context()) return error;
    Allocation found;
    if (!value || !find_allocation(address, &found))
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("0x%zx lies in no device allocation", address));
    const bool host =
        found.kind == MemoryKind::kHostAllocated || found.kind == MemoryKind::kHostRegistered;
    switch (attribute) {
        case 1:
            *static_cast<CUcontext*>(value) = found.context;
            break;
        case 2:
            *static_cast<int*>(value) = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
            break;
        case 3:
        case 4:
            *static_cast<uintptr_t*>(value) = address;
            break;
        case 7:
            *static_cast<uint64_t*>(value) = found.number;
            break;
        case 8:
            *static_cast<int*>(value) = found.kind == MemoryKind::kManaged;
            break;
        case 9:
            *static_cast<int*>(value) = 0;
            break;
        case 11:
            *static_cast<uintptr_t*>(value) = found.address;
            break;
        case 12:
            *static_cast<size_t*>(value) = found.requested;
            break;
        case 13:
            *static_cast<int*>(value) = 1;
            break;
        default:
            return fail(CUDA_ERROR_NOT_SUPPORTED, format("pointer attribute %d", attribute));
    }
    return CUDA_SUCCESS;
}

// --- page-locked host memory ----------------------------------------------------------------

CPU_DRIVER_API CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned flags) {
    if (CUresult error = need_context()) return error;
    uintptr_t place = 0;
    CUresult error = allocate(bytes, MemoryKind::kHostAllocated, flags, &place);
    if (!error) *address = pointer(place);
    return error;
}
CPU_DRIVER_API CUresult cuMemAllocHost_v2(void** address, size_t bytes) {
    return cuMemHostAlloc(address, bytes, 0);
}

CPU_DRIVER_API CUresult cuMemFreeHost(void* address) {
    if (CUresult error = need_context()) return error;
    return release(reinterpret_cast<uintptr_t>(address), true);
}

CPU_DRIVER_API CUresult cuMemHostRegister_v2(void* address, size_t bytes, unsigned flags) {
    if (CUresult error = need_context()) return error;
    if (!address || !bytes) return fail(CUDA_ERROR_INVALID_VALUE, "nothing to register");
    return add_foreign(reinterpret_cast<uintptr_t>(address), bytes, MemoryKind::kHostRegistered,
                       flags);
}

CPU_DRIVER_API CUresult cuMemHostUnregister(void* address) {
    if (CUresult error = need_context()) return error;
    Allocation found;
    const auto place = reinterpret_cast<uintptr_t>(address);
    if (!find_allocation(place, &found) || found.address != place ||
        found.kind != MemoryKind::kHostRegistered)
        return fail(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, format("%p", address));
    remove_foreign(place);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* result, void* address, unsigned) {
    if (CUresult error = need_context()) return error;
    Allocation found;
    const auto place = reinterpret_cast<uintptr_t>(address);
    if (!result || !find_allocation(place, &found))
        return fail(CUDA_ERROR_INVALID_VALUE, format("%p is not page-locked memory", address));
    *result = place;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuMemHostGetFlags(unsigned* flags, void* address) {
    if (CUresult error = need_context()) return error;
    Allocation found;
    if (!flags || !find_allocation(reinterpret_cast<uintptr_t>(address), &found))
        return fail(CUDA_ERROR_INVALID_VALUE, format("%p is not page-locked memory", address));
    *flags = found.flags;
    return CUDA_SUCCESS;
}

// --- copies ---------------------------------------------------------------------------------

CPU_DRIVER_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return copy("cuMemcpyHtoD", nullptr, false, pointer(to), from, bytes, true, false);
}
CPU_DRIVER_API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return copy("cuMemcpyDtoH", nullptr, false, to, pointer(from), bytes, false, true);
}
CPU_DRIVER_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy("cuMemcpyDtoD", nullptr, false, pointer(to), pointer(from), bytes, true, true);
}
CPU_DRIVER_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes,
                                             CUstream stream) {
    return copy("cuMemcpyHtoDAsync", stream, true, pointer(to), from, bytes, true, false);
}
CPU_DRIVER_API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes,
                                             CUstream stream) {
    return copy("cuMemcpyDtoHAsync", stream, true, to, pointer(from), bytes, false, true);
}
CPU_DRIVER_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                             CUstream stream) {
    return copy("cuMemcpyDtoDAsync", stream, true, pointer(to), pointer(from), bytes, true, true);
}
// Either side may be a host or a device address.
CPU_DRIVER_API CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy("cuMemcpy", nullptr, false, pointer(to), pointer(from), bytes, false, false);
}
CPU_DRIVER_API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                      CUstream stream) {
    return copy("cuMemcpyAsync", stream, true, pointer(to), pointer(from), bytes, false, false);
}
CPU_DRIVER_API CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext,
                                     size_t bytes) {
    return copy("cuMemcpyPeer", nullptr, false, pointer(to), pointer(from), bytes, true, true);
}
CPU_DRIVER_API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext,
                                          size_t bytes, CUstream stream) {
    return copy("cuMemcpyPeerAsync", stream, true, pointer(to), pointer(from), bytes, true, true);
}

CPU_DRIVER_API CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* c) {
    return copy_2d("cuMemcpy2D", c, nullptr, false);
}
CPU_DRIVER_API CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* c) {
    return copy_2d("cuMemcpy2DUnaligned", c, nullptr, false);
}
CPU_DRIVER_API CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* c, CUstream stream) {
    return copy_2d("cuMemcpy2DAsync", c, stream, true);
}
CPU_DRIVER_API CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* c) {
    if (!c) return fail(CUDA_ERROR_INVALID_VALUE, "no description of the copy");
    return copy_3d("cuMemcpy3D", *c, nullptr, false);
}
CPU_DRIVER_API CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* c, CUstream stream) {
    if (!c) return fail(CUDA_ERROR_INVALID_VALUE, "no description of the copy");
    return copy_3d("cuMemcpy3DAsync", *c, stream, true);
}
CPU_DRIVER_API CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D* c) {
    return cuMemcpy3D_v2(c);
}
CPU_DRIVER_API CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D* c, CUstream stream) {
    return cuMemcpy3DAsync_v2(c, stream);
}

// --- fills ----------------------------------------------------------------------------------

#define CPU_DRIVER_FILL(BITS, TYPE)                                                                \
    CPU_DRIVER_API CUresult cuMemsetD##BITS##_v2(CUdeviceptr address, TYPE value, size_t count) {  \
        return fill<TYPE>("cuMemsetD" #BITS, nullptr, false, address, 0, value, count, 1);         \
    }                                                                                              \
    CPU_DRIVER_API CUresult cuMemsetD##BITS##Async(CUdeviceptr address, TYPE value, size_t count,  \
                                                   CUstream stream) {                              \
        return fill<TYPE>("cuMemsetD" #BITS "Async", stream, true, address, 0, value, count, 1);   \
    }                                                                                              \
    CPU_DRIVER_API CUresult cuMemsetD2D##BITS##_v2(CUdeviceptr address, size_t pitch, TYPE value,  \
                                                   size_t width, size_t height) {                  \
        return fill<TYPE>("cuMemsetD2D" #BITS, nullptr, false, address, pitch, value, width,       \
                          height);                                                                 \
    }                                                                                              \
    CPU_DRIVER_API CUresult cuMemsetD2D##BITS##Async(CUdeviceptr address, size_t pitch,            \
                                                     TYPE value, size_t width, size_t height,      \
                                                     CUstream stream) {                            \
        return fill<TYPE>("cuMemsetD2D" #BITS "Async", stream, true, address, pitch, value, width, \
                          height);                                                                 \
    }
CPU_DRIVER_FILL(8, uint8_t)
CPU_DRIVER_FILL(16, uint16_t)
CPU_DRIVER_FILL(32, uint32_t)
