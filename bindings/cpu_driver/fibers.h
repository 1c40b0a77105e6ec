// Fibers: stacks that one OS thread switches between. A fiber never moves to another OS thread, so
// thread-local storage (shared memory, thread indices) stays the same across a switch.
#pragma once

#include <csetjmp>
#include <cstddef>

namespace cpu_driver {

#if defined(__x86_64__) && !defined(CPU_DRIVER_PORTABLE_FIBERS)
#define CPU_DRIVER_ASSEMBLY_SWITCH 1
#endif

struct Context {
#ifdef CPU_DRIVER_ASSEMBLY_SWITCH
    void* stack_pointer = nullptr;
#else
    jmp_buf state;
#endif
};

struct Fiber {
    Context context;
    char* mapping = nullptr;  // guard page, then the stack
    size_t mapping_bytes = 0;
    char* stack_top = nullptr;
    void (*entry)(void*) = nullptr;
    void* argument = nullptr;
};

constexpr size_t kStackBytes = 256 * 1024;

// Null when no memory is left. `number` staggers the top of the stack, so that the same frame of
// different fibers does not fall into the same cache set.
Fiber* create_fiber(unsigned number);
void destroy_fiber(Fiber* fiber);

// Makes the next switch to the fiber call entry(argument), which must never return.
void prepare_fiber(Fiber* fiber, void (*entry)(void*), void* argument);

#ifdef CPU_DRIVER_ASSEMBLY_SWITCH
extern "C" void cpu_driver_switch_stack(void** save, void* load);
inline void switch_context(Context& from, Context& to) {
    cpu_driver_switch_stack(&from.stack_pointer, to.stack_pointer);
}
#else
inline void switch_context(Context& from, Context& to) {
    if (_setjmp(from.state) == 0) _longjmp(to.state, 1);
}
#endif

// Whether the address lies in the guard page below this fiber's stack.
bool in_guard_page(const Fiber* fiber, const void* address);

}  // namespace cpu_driver
