// The hooks that a module compiled with -fsanitize=thread,bounds calls, and the reports as JSON.
#include <cstdio>
#include <cstring>

#include "check.h"

using namespace cpu_driver;

namespace {

std::string json(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        char escape[8];
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            std::snprintf(escape, sizeof escape, "\\u%04x", c);
            out += escape;
        } else {
            out += c;
        }
    }
    return out + "\"";
}

std::string json(Index d) {
    return "[" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + "]";
}

// Layouts of the undefined-behaviour sanitizer's records (GCC and clang agree on them).
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};
struct TypeDescriptor {
    uint16_t kind, info;
    char name[1];
};
struct TypeMismatchData {
    SourceLocation location;
    TypeDescriptor* type;
    uint8_t log_alignment, access_kind;
};
struct OutOfBoundsData {
    SourceLocation location;
    TypeDescriptor *array_type, *index_type;
};

}  // namespace

#define CHECK_EXPORT extern "C" __attribute__((visibility("default")))
#define CHECK_PC reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define CHECK_ADDRESS reinterpret_cast<uintptr_t>(address)

CHECK_EXPORT void __tsan_init() {}
CHECK_EXPORT void __tsan_func_entry(void*) {}
CHECK_EXPORT void __tsan_func_exit() {}
CHECK_EXPORT void __tsan_vptr_update(void**, void*) {}
CHECK_EXPORT void __tsan_vptr_read(void**) {}
CHECK_EXPORT void __tsan_atomic_thread_fence(int) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
CHECK_EXPORT void __tsan_atomic_signal_fence(int) {}

#define CHECK_HOOKS(N)                                             \
    CHECK_EXPORT void __tsan_read##N(void* address) {              \
        check_access(CHECK_ADDRESS, N, N, false, false, CHECK_PC); \
    }                                                              \
    CHECK_EXPORT void __tsan_write##N(void* address) {             \
        check_access(CHECK_ADDRESS, N, N, true, false, CHECK_PC);  \
    }                                                              \
    CHECK_EXPORT void __tsan_unaligned_read##N(void* address) {    \
        check_access(CHECK_ADDRESS, N, 1, false, false, CHECK_PC); \
    }                                                              \
    CHECK_EXPORT void __tsan_unaligned_write##N(void* address) {   \
        check_access(CHECK_ADDRESS, N, 1, true, false, CHECK_PC);  \
    }
CHECK_HOOKS(1)
CHECK_HOOKS(2)
CHECK_HOOKS(4)
CHECK_HOOKS(8)
CHECK_HOOKS(16)

CHECK_EXPORT void __tsan_read_range(void* address, size_t size) {
    check_access(CHECK_ADDRESS, size, 1, false, false, CHECK_PC);
}
CHECK_EXPORT void __tsan_write_range(void* address, size_t size) {
    check_access(CHECK_ADDRESS, size, 1, true, false, CHECK_PC);
}

#define CHECK_RMW(BITS, NAME)                                                                  \
    CHECK_EXPORT uint##BITS##_t __tsan_atomic##BITS##_##NAME(volatile uint##BITS##_t* address, \
                                                             uint##BITS##_t value, int) {      \
        check_access(CHECK_ADDRESS, BITS / 8, BITS / 8, true, true, CHECK_PC);                 \
        return __atomic_##NAME(address, value, __ATOMIC_SEQ_CST);                              \
    }
#define CHECK_ATOMICS(BITS)                                                                        \
    CHECK_RMW(BITS, fetch_add)                                                                     \
    CHECK_RMW(BITS, fetch_sub)                                                                     \
    CHECK_RMW(BITS, fetch_and)                                                                     \
    CHECK_RMW(BITS, fetch_or)                                                                      \
    CHECK_RMW(BITS, fetch_xor)                                                                     \
    CHECK_RMW(BITS, fetch_nand)                                                                    \
    CHECK_EXPORT uint##BITS##_t __tsan_atomic##BITS##_exchange(volatile uint##BITS##_t* address,   \
                                                               uint##BITS##_t value, int) {        \
        check_access(CHECK_ADDRESS, BITS / 8, BITS / 8, true, true, CHECK_PC);                     \
        return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);                              \
    }                                                                                              \
    CHECK_EXPORT uint##BITS##_t __tsan_atomic##BITS##_load(const volatile uint##BITS##_t* address, \
                                                           int) {                                  \
        check_access(CHECK_ADDRESS, BITS / 8, BITS / 8, false, true, CHECK_PC);                    \
        return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                         \
    }                                                                                              \
    CHECK_EXPORT void __tsan_atomic##BITS##_store(volatile uint##BITS##_t* address,                \
                                                  uint##BITS##_t value, int) {                     \
        check_access(CHECK_ADDRESS, BITS / 8, BITS / 8, true, true, CHECK_PC);                     \
        __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                        \
    }                                                                                              \
    CHECK_EXPORT int __tsan_atomic##BITS##_compare_exchange_strong(                                \
        volatile uint##BITS##_t* address, uint##BITS##_t* expected, uint##BITS##_t value, int,     \
        int) {                                                                                     \
        check_access(CHECK_ADDRESS, BITS / 8, BITS / 8, true, true, CHECK_PC);                     \
        return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST,      \
                                           __ATOMIC_SEQ_CST);                                      \
    }                                                                                              \
    CHECK_EXPORT int __tsan_atomic##BITS##_compare_exchange_weak(volatile uint##BITS##_t* address, \
                                                                 uint##BITS##_t* expected,         \
                                                                 uint##BITS##_t value, int, int) { \
        check_access(CHECK_ADDRESS, BITS / 8, BITS / 8, true, true, CHECK_PC);                     \
        return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST,      \
                                           __ATOMIC_SEQ_CST);                                      \
    }                                                                                              \
    CHECK_EXPORT uint##BITS##_t __tsan_atomic##BITS##_compare_exchange_val(                        \
        volatile uint##BITS##_t* address, uint##BITS##_t expected, uint##BITS##_t value, int,      \
        int) {                                                                                     \
        check_access(CHECK_ADDRESS, BITS / 8, BITS / 8, true, true, CHECK_PC);                     \
        __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST,            \
                                    __ATOMIC_SEQ_CST);                                             \
        return expected;                                                                           \
    }
CHECK_ATOMICS(8)
CHECK_ATOMICS(16)
CHECK_ATOMICS(32)
CHECK_ATOMICS(64)

// A subscript past the declared extent of an array of known size, found before the address is
// formed.
CHECK_EXPORT void __ubsan_handle_out_of_bounds_abort(OutOfBoundsData* data, uintptr_t index) {
    check_subscript(data->location.file, int(data->location.line), data->array_type->name,
                    intptr_t(index));
}

CHECK_EXPORT void __ubsan_handle_type_mismatch_v1_abort(TypeMismatchData* data, uintptr_t address) {
    check_alignment(data->location.file, int(data->location.line), data->type->name, address,
                    size_t(1) << data->log_alignment);
}

CHECK_EXPORT void pygan_check_set_extents(const uintptr_t* pointers, const size_t* bytes,
                                          size_t count) {
    set_extents(pointers, bytes, count);
}

// Reports as JSON lines. Returns the bytes needed; takes the reports only when they fit.
CHECK_EXPORT size_t pygan_check_take_reports(char* out, size_t capacity) {
    static std::string pending;
    for (const Report& r : take_reports())
        pending += "{\"kind\":" + json(r.kind) + ",\"kernel\":" + json(r.kernel) +
                   ",\"file\":" + json(r.file) + ",\"line\":" + std::to_string(r.line) +
                   ",\"variable\":" + json(r.variable) + ",\"block\":" + json(r.block) +
                   ",\"thread\":" + json(r.thread) + ",\"text\":" + json(r.text) + "}\n";
    const size_t needed = pending.size();
    if (needed <= capacity) {
        std::memcpy(out, pending.data(), needed);
        pending.clear();
    }
    return needed;
}
