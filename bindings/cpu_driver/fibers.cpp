#include "fibers.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace cpu_driver {

namespace {

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

}  // namespace

Fiber* create_fiber(unsigned number) {
    auto* fiber = new (std::nothrow) Fiber;
    if (!fiber) return nullptr;
    fiber->mapping_bytes = kPage + kStackBytes;
    void* memory = mmap(nullptr, fiber->mapping_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) {
        delete fiber;
        return nullptr;
    }
    fiber->mapping = static_cast<char*>(memory);
    // Without the guard (too many mappings) a stack overflow would hit the neighbour: give up then.
    if (mprotect(memory, kPage, PROT_NONE) != 0) {
        munmap(memory, fiber->mapping_bytes);
        delete fiber;
        return nullptr;
    }
    fiber->stack_top = fiber->mapping + fiber->mapping_bytes - 320 * (number % 64);
    return fiber;
}

void destroy_fiber(Fiber* fiber) {
    if (!fiber) return;
    munmap(fiber->mapping, fiber->mapping_bytes);
    delete fiber;
}

bool in_guard_page(const Fiber* fiber, const void* address) {
    auto* byte = static_cast<const char*>(address);
    return fiber && byte >= fiber->mapping && byte < fiber->mapping + kPage;
}

#ifdef CPU_DRIVER_ASSEMBLY_SWITCH

// The callee-saved registers of the System V ABI; everything else is dead across the call.
asm(R"(
.text
.p2align 4
.globl cpu_driver_switch_stack
.hidden cpu_driver_switch_stack
.type cpu_driver_switch_stack,@function
cpu_driver_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cpu_driver_switch_stack,.-cpu_driver_switch_stack
.p2align 4
.hidden cpu_driver_fiber_start
.globl cpu_driver_fiber_start
.type cpu_driver_fiber_start,@function
cpu_driver_fiber_start:
    movq %r12, %rdi
    call *%r13
    ud2
.size cpu_driver_fiber_start,.-cpu_driver_fiber_start
)");

extern "C" void cpu_driver_fiber_start();

void prepare_fiber(Fiber* fiber, void (*entry)(void*), void* argument) {
    auto top = reinterpret_cast<uintptr_t>(fiber->stack_top) & ~uintptr_t{63};
    auto* frame = reinterpret_cast<uintptr_t*>(top) - 9;
    // r15 r14 r13 r12 rbx rbp, the address `ret` takes, and a zero that ends back traces: 56
    // bytes are popped, so that the call in cpu_driver_fiber_start finds rsp at a multiple of 16.
    frame[0] = frame[1] = 0;
    frame[2] = reinterpret_cast<uintptr_t>(entry);
    frame[3] = reinterpret_cast<uintptr_t>(argument);
    frame[4] = frame[5] = 0;
    frame[6] = reinterpret_cast<uintptr_t>(&cpu_driver_fiber_start);
    frame[7] = 0;
    fiber->context.stack_pointer = frame;
}

#else

namespace {

// makecontext passes ints only, so the fiber to prepare travels beside it.
thread_local Fiber* preparing;
thread_local ucontext_t preparer;

void start() {
    Fiber* fiber = preparing;
    // Park in a jmp_buf: from here on only _setjmp and _longjmp are used, which make no system
    // call.
    if (_setjmp(fiber->context.state) == 0) setcontext(&preparer);
    fiber->entry(fiber->argument);
    abort();
}

}  // namespace

void prepare_fiber(Fiber* fiber, void (*entry)(void*), void* argument) {
    fiber->entry = entry;
    fiber->argument = argument;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber->mapping + kPage;
    context.uc_stack.ss_size = static_cast<size_t>(fiber->stack_top - fiber->mapping) - kPage;
    context.uc_link = nullptr;
    makecontext(&context, start, 0);
    preparing = fiber;
    swapcontext(&preparer, &context);
}

#endif

}  // namespace cpu_driver
