// Launches: cuLaunchKernel and the stateful interface of CUDA 3.
#include <cstring>

#include "launch.h"
#include "objects.h"
#include "scheduler.h"

namespace cpu_driver {

namespace {

CUresult check_team(const Function& function, Index grid, Index block, unsigned shared) {
    const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
    const unsigned each = resident_blocks(function, block.x * block.y * block.z, shared);
    if (blocks <= uint64_t{each} * worker_count()) return CUDA_SUCCESS;
    return fail(
        CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
        format("kernel %s: a cooperative grid of %llu blocks; %u multiprocessors hold %u of "
               "them each (cuOccupancyMaxActiveBlocksPerMultiprocessor)",
               function.kernel->name, static_cast<unsigned long long>(blocks), worker_count(),
               each));
}

CUresult launch(CUfunction handle, Index grid, Index block, unsigned shared, CUstream stream,
                const void* packed, size_t packed_bytes, void* const* pointers,
                bool cooperative = false) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    auto prepared = std::make_shared<PreparedLaunch>();
    if (int error = prepare_launch(*prepared, function, grid, block, shared, packed, packed_bytes,
                                   pointers))
        return error;
    if (cooperative)
        if (CUresult error = check_team(*function, grid, block, shared)) return error;
    prepared->cooperative = cooperative;
    const CUresult result =
        submit(stream, CU_GRAPH_NODE_TYPE_KERNEL, [prepared] { return run_launch(*prepared); });
    prepared->fresh = false;
    return result;
}

}  // namespace

}  // namespace cpu_driver

using namespace cpu_driver;

CPU_DRIVER_API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz,
                                       unsigned bx, unsigned by, unsigned bz, unsigned shared,
                                       CUstream stream, void** parameters, void** extra) {
    const void* packed = nullptr;
    size_t packed_bytes = 0;
    if (extra) {
        bool sized = false;
        for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
            if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) {
                packed = extra[1];
            } else if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE) {
                packed_bytes = *static_cast<size_t*>(extra[1]);
                sized = true;
            } else {
                return fail(CUDA_ERROR_INVALID_VALUE, "unknown key in `extra`");
            }
        }
        if (packed && !sized)
            return fail(CUDA_ERROR_INVALID_VALUE, "a parameter buffer without its size");
        if (parameters && packed)
            return fail(CUDA_ERROR_INVALID_VALUE, "both kernelParams and `extra` are given");
    }
    return launch(function, {gx, gy, gz}, {bx, by, bz}, shared, stream, packed, packed_bytes,
                  parameters);
}

CPU_DRIVER_API CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned gx, unsigned gy,
                                                  unsigned gz, unsigned bx, unsigned by,
                                                  unsigned bz, unsigned shared, CUstream stream,
                                                  void** parameters) {
    return launch(function, {gx, gy, gz}, {bx, by, bz}, shared, stream, nullptr, 0, parameters,
                  true);
}

CPU_DRIVER_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, CUfunction handle, int threads, size_t dynamic_shared, unsigned) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    if (!blocks || threads < 1 || threads > static_cast<int>(kMaxThreads))
        return fail(CUDA_ERROR_INVALID_VALUE, format("blocks of %d threads", threads));
    *blocks = static_cast<int>(
        resident_blocks(*function, static_cast<unsigned>(threads), dynamic_shared));
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks,
                                                                    CUfunction function,
                                                                    int threads,
                                                                    size_t dynamic_shared) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads,
                                                                dynamic_shared, 0);
}

CPU_DRIVER_API CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction function,
                                         void** parameters, void** extra) {
    if (!c) return fail(CUDA_ERROR_INVALID_VALUE, "no launch configuration");
    bool cooperative = false;
    for (unsigned i = 0; i < c->numAttrs; ++i) {
        const CUlaunchAttribute& attribute = c->attrs[i];
        if (attribute.id == CU_LAUNCH_ATTRIBUTE_IGNORE) continue;
        if (attribute.id != CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
            return fail(CUDA_ERROR_NOT_SUPPORTED,
                        format("launch attribute %d (clusters and others)", attribute.id));
        cooperative = attribute.value.cooperative;
    }
    if (cooperative) {
        if (extra) return fail(CUDA_ERROR_INVALID_VALUE, "a cooperative launch takes no `extra`");
        return cuLaunchCooperativeKernel(function, c->gridDimX, c->gridDimY, c->gridDimZ,
                                         c->blockDimX, c->blockDimY, c->blockDimZ,
                                         c->sharedMemBytes, c->hStream, parameters);
    }
    return cuLaunchKernel(function, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX,
                          c->blockDimY, c->blockDimZ, c->sharedMemBytes, c->hStream, parameters,
                          extra);
}

CPU_DRIVER_API CUresult cuFuncSetBlockShape(CUfunction handle, int x, int y, int z) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    if (x < 1 || y < 1 || z < 1 || x > 1024 || y > 1024 || z > 64 ||
        static_cast<long>(x) * y * z > 1024)
        return fail(CUDA_ERROR_INVALID_VALUE,
                    format("kernel %s: block (%d,%d,%d); the limits are (1024,1024,64) and 1024 "
                           "together",
                           function->kernel->name, x, y, z));
    function->block = {static_cast<unsigned>(x), static_cast<unsigned>(y),
                       static_cast<unsigned>(z)};
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuFuncSetSharedSize(CUfunction handle, unsigned bytes) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    function->shared = bytes;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuParamSetSize(CUfunction handle, unsigned bytes) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    if (bytes > 4096) return fail(CUDA_ERROR_INVALID_VALUE, "more than 4096 bytes of arguments");
    function->parameters.resize(bytes);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuParamSetv(CUfunction handle, int offset, void* value, unsigned bytes) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    if (offset < 0 || bytes > 4096 || static_cast<unsigned>(offset) + bytes > 4096)
        return fail(CUDA_ERROR_INVALID_VALUE, "more than 4096 bytes of arguments");
    const size_t end = static_cast<size_t>(offset) + bytes;
    if (function->parameters.size() < end) function->parameters.resize(end);
    if (bytes) std::memcpy(function->parameters.data() + offset, value, bytes);
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuParamSeti(CUfunction function, int offset, unsigned value) {
    return cuParamSetv(function, offset, &value, sizeof value);
}
CPU_DRIVER_API CUresult cuParamSetf(CUfunction function, int offset, float value) {
    return cuParamSetv(function, offset, &value, sizeof value);
}

CPU_DRIVER_API CUresult cuLaunchGridAsync(CUfunction handle, int width, int height,
                                          CUstream stream) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    if (width < 1 || height < 1)
        return fail(CUDA_ERROR_INVALID_VALUE, format("grid (%d,%d)", width, height));
    return launch(handle, {static_cast<unsigned>(width), static_cast<unsigned>(height), 1},
                  function->block, function->shared, stream, function->parameters.data(),
                  function->parameters.size(), nullptr);
}
CPU_DRIVER_API CUresult cuLaunchGrid(CUfunction function, int width, int height) {
    return cuLaunchGridAsync(function, width, height, nullptr);
}
CPU_DRIVER_API CUresult cuLaunch(CUfunction function) {
    return cuLaunchGridAsync(function, 1, 1, nullptr);
}
