// Error codes, their names and texts. cuGetErrorString adds what is known about the last failure on
// this OS thread (kernel, block, thread, the offending value), so that the exception which PyCUDA
// raises says what to look for.
#include <cstdarg>
#include <cstdio>
#include <map>

#include "objects.h"

namespace cpu_driver {

namespace {

struct ErrorText {
    const char* name;
    const char* text;
};

const std::map<int, ErrorText>& error_texts() {
    static const std::map<int, ErrorText> table = {
#define ENTRY(code, text) \
    {                     \
        code, {           \
            #code, text   \
        }                 \
    }
        ENTRY(CUDA_SUCCESS, "no error"),
        ENTRY(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
        ENTRY(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
        ENTRY(CUDA_ERROR_NOT_INITIALIZED, "driver not initialized (call cuInit first)"),
        ENTRY(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
        ENTRY(CUDA_ERROR_NO_DEVICE, "no device"),
        ENTRY(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
        ENTRY(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
        ENTRY(CUDA_ERROR_INVALID_CONTEXT, "no valid context is current"),
        ENTRY(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image for this device"),
        ENTRY(CUDA_ERROR_UNSUPPORTED_LIMIT, "limit not supported"),
        ENTRY(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access not supported"),
        ENTRY(CUDA_ERROR_INVALID_SOURCE, "device kernel source is invalid"),
        ENTRY(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
        ENTRY(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "module could not be loaded"),
        ENTRY(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
        ENTRY(CUDA_ERROR_ILLEGAL_STATE, "the operation is not permitted in this state"),
        ENTRY(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
        ENTRY(CUDA_ERROR_NOT_READY, "not ready"),
        ENTRY(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
        ENTRY(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
        ENTRY(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out"),
        ENTRY(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "the primary context is active"),
        ENTRY(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context is destroyed"),
        ENTRY(CUDA_ERROR_ASSERT, "device-side assert triggered"),
        ENTRY(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "host memory already registered"),
        ENTRY(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "host memory not registered"),
        ENTRY(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
        ENTRY(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
        ENTRY(CUDA_ERROR_LAUNCH_FAILED, "launch failed"),
        ENTRY(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
              "more blocks than the device can hold at once"),
        ENTRY(CUDA_ERROR_NOT_SUPPORTED, "not supported by the CPU driver"),
        ENTRY(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not permitted while a stream is capturing"),
        ENTRY(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture was invalidated by an error"),
        ENTRY(CUDA_ERROR_STREAM_CAPTURE_MERGE, "the operation would merge two captures"),
        ENTRY(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the capture did not begin in this stream"),
        ENTRY(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "the capture has work not joined to its stream"),
        ENTRY(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency on work outside the capture"),
        ENTRY(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
              "operation on the legacy stream while another stream captures"),
        ENTRY(CUDA_ERROR_CAPTURED_EVENT, "the event was last recorded in a capturing stream"),
        ENTRY(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "the capture began on another thread"),
        ENTRY(CUDA_ERROR_UNKNOWN, "unknown error"),
#undef ENTRY
    };
    return table;
}

struct LastError {
    int code = 0;
    std::string text;
};

thread_local LastError last_error;

}  // namespace

const char* error_name(int code) {
    auto it = error_texts().find(code);
    return it == error_texts().end() ? nullptr : it->second.name;
}

CUresult fail(int code, const std::string& text) {
    last_error.code = code;
    auto it = error_texts().find(code);
    last_error.text = it == error_texts().end() ? "error" : it->second.text;
    if (!text.empty()) last_error.text += ": " + text;
    return code;
}

std::string format(const char* pattern, ...) {
    va_list arguments, again;
    va_start(arguments, pattern);
    va_copy(again, arguments);
    const int length = vsnprintf(nullptr, 0, pattern, arguments);
    va_end(arguments);
    std::string text(length > 0 ? static_cast<size_t>(length) : 0, '\0');
    if (length > 0) vsnprintf(&text[0], text.size() + 1, pattern, again);
    va_end(again);
    return text;
}

}  // namespace cpu_driver

using namespace cpu_driver;

CPU_DRIVER_API CUresult cuGetErrorString(CUresult code, const char** text) {
    if (!text) return CUDA_ERROR_INVALID_VALUE;
    if (code && last_error.code == code) {
        *text = last_error.text.c_str();
        return CUDA_SUCCESS;
    }
    auto it = error_texts().find(code);
    *text = it == error_texts().end() ? "unrecognized error code" : it->second.text;
    return it == error_texts().end() ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuGetErrorName(CUresult code, const char** text) {
    if (!text) return CUDA_ERROR_INVALID_VALUE;
    *text = error_name(code);
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
