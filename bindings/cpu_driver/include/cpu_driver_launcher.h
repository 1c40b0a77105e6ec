// From a kernel's function type to its description and its thread loops. The nvcc stand-in appends
//     CPU_DRIVER_KERNEL_...(...) lines
// for every __global__ function it finds.
#pragma once

// The launch code handles the driver's own memory, which is no concern of check mode.
#ifdef CPU_DRIVER_CHECK
#define CPU_DRIVER_UNCHECKED __attribute__((no_sanitize_thread, no_sanitize_undefined))
#else
#define CPU_DRIVER_UNCHECKED
#endif

namespace cpu_driver {

template <typename T>
struct describe {
    static constexpr Argument value{sizeof(T), alignof(T), kValue, 0, 0};
};
template <typename T, typename = void>
struct size_of {
    static constexpr uint32_t value = 0;
};
template <typename T>
struct size_of<T,
               std::enable_if_t<!std::is_void_v<T> && !std::is_function_v<T> && sizeof(T) != 0>> {
    static constexpr uint32_t value = sizeof(T);
};
template <typename T>
struct describe<T*> {
    static constexpr Argument value{sizeof(T*), alignof(T*), kPointer, size_of<T>::value,
                                    std::is_const_v<T>};
};

template <auto* Function>
struct launcher;

template <typename... A, void (*Function)(A...)>
struct launcher<Function> {
    static constexpr uint32_t count = sizeof...(A);
    static constexpr Argument arguments[count + 1] = {describe<std::remove_cv_t<A>>::value...,
                                                      Argument{}};

    template <typename T>
    CPU_DRIVER_UNCHECKED static T load(const void* address) {
        T value;
        __builtin_memcpy(&value, address, sizeof value);
        return value;
    }

    // Component by component, so that nothing takes the address of these variables.
    CPU_DRIVER_UNCHECKED static void set_block(const Index& index, const Index& dim,
                                               const Index& grid) {
        ::cpu_driver_index_block.x = index.x;
        ::cpu_driver_index_block.y = index.y;
        ::cpu_driver_index_block.z = index.z;
        ::cpu_driver_index_dim.x = dim.x;
        ::cpu_driver_index_dim.y = dim.y;
        ::cpu_driver_index_dim.z = dim.z;
        ::cpu_driver_index_grid.x = grid.x;
        ::cpu_driver_index_grid.y = grid.y;
        ::cpu_driver_index_grid.z = grid.z;
    }
    CPU_DRIVER_UNCHECKED static void set_thread(unsigned x, unsigned y, unsigned z) {
        ::cpu_driver_index_thread.x = x;
        ::cpu_driver_index_thread.y = y;
        ::cpu_driver_index_thread.z = z;
    }

    template <size_t... I>
    CPU_DRIVER_UNCHECKED static void run(Block* block, const void* const* addresses,
                                         std::index_sequence<I...>) {
        std::tuple<std::remove_cv_t<A>...> values(load<std::remove_cv_t<A>>(addresses[I])...);
        const unsigned dx = block->dim.x, dy = block->dim.y;
        while (block->next < block->count) {
            const unsigned position = block->next++;
            const unsigned t = block->order ? block->order[position] : position;
            block->current = t;
            set_block(block->index, block->dim, block->grid);
            set_thread(t % dx, t / dx % dy, t / dx / dy);
            Function(std::get<I>(values)...);
            if (block->leave_hook) cpu_driver_thread_left();
        }
    }
    static void run(Block* block, const void* const* addresses) {
        run(block, addresses, std::make_index_sequence<count>());
    }

    template <size_t... I>
    static void run_plain(const Block* block, const void* const* addresses,
                          std::index_sequence<I...>) {
        plain(*block, load<std::remove_cv_t<A>>(addresses[I])...);
    }
    static void run_plain(const Block* block, const void* const* addresses) {
        run_plain(block, addresses, std::make_index_sequence<count>());
    }

    // Threads of such a kernel know nothing of each other, so their order is free: the compiler may
    // run several of them side by side in one vector register.
    __attribute__((flatten)) static void plain(const Block& block, std::remove_cv_t<A>... values) {
        // The masks change nothing; they tell the compiler how large the numbers can be.
        const unsigned dx = block.dim.x & 2047, dy = block.dim.y & 2047, dz = block.dim.z & 127;
        const unsigned gx = block.grid.x & (2 * kPlainGrid - 1), gy = block.grid.y & 0xffff,
                       gz = block.grid.z & 0xffff;
        const unsigned bx = block.index.x & (kPlainGrid - 1), by = block.index.y & 0xffff,
                       bz = block.index.z & 0xffff;
        set_block({bx, by, bz}, {dx, dy, dz}, {gx, gy, gz});
        for (unsigned z = 0; z < dz; ++z)
            for (unsigned y = 0; y < dy; ++y) {
#pragma GCC ivdep
                for (unsigned x = 0; x < dx; ++x) {
                    set_thread(x, y, z);
                    Function(values...);
                }
            }
    }
};

}  // namespace cpu_driver
