// Atomic operations. Templates, so that a kernel may bring its own overload for a type, as code
// written for old devices does (atomicAdd on double).
#pragma once

#define CPU_DRIVER_DEVICE static inline __attribute__((always_inline))

namespace cpu_driver {

template <typename T>
struct same_type {
    using type = T;
};
// Lets the second operand convert to the first one's type.
template <typename T>
using as = typename same_type<T>::type;

// Sets *address to change(old) in one step, through the integer of the same size.
template <typename T, typename Change>
CPU_DRIVER_DEVICE T atomic_change(T* address, Change change) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "2, 4 or 8 bytes");
    using Word = std::conditional_t<sizeof(T) == 8, unsigned long long,
                                    std::conditional_t<sizeof(T) == 4, unsigned, unsigned short>>;
    typedef Word __attribute__((may_alias)) Aliased;
    auto* word = reinterpret_cast<Aliased*>(address);
    Word expected = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (;;) {
        T old;
        __builtin_memcpy(&old, &expected, sizeof old);
        const T next = change(old);
        Word desired;
        __builtin_memcpy(&desired, &next, sizeof desired);
        if (__atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return old;
    }
}

}  // namespace cpu_driver

#define CPU_DRIVER_ATOMIC_FORMS(NAME)                                          \
    template <typename T>                                                      \
    CPU_DRIVER_DEVICE T NAME##_block(T* address, ::cpu_driver::as<T> value) {  \
        return NAME(address, value);                                           \
    }                                                                          \
    template <typename T>                                                      \
    CPU_DRIVER_DEVICE T NAME##_system(T* address, ::cpu_driver::as<T> value) { \
        return NAME(address, value);                                           \
    }

#define CPU_DRIVER_ATOMIC_INTEGER(NAME, BUILTIN)                      \
    template <typename T>                                             \
    CPU_DRIVER_DEVICE T NAME(T* address, ::cpu_driver::as<T> value) { \
        return BUILTIN(address, value, __ATOMIC_RELAXED);             \
    }                                                                 \
    CPU_DRIVER_ATOMIC_FORMS(NAME)

template <typename T>
CPU_DRIVER_DEVICE T atomicAdd(T* address, ::cpu_driver::as<T> value) {
    if constexpr (std::is_integral_v<T>)
        return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
    else
        return ::cpu_driver::atomic_change(address, [=](T old) { return old + value; });
}
CPU_DRIVER_ATOMIC_FORMS(atomicAdd)

template <typename T>
CPU_DRIVER_DEVICE T atomicExch(T* address, ::cpu_driver::as<T> value) {
    if constexpr (std::is_integral_v<T>)
        return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
    else
        return ::cpu_driver::atomic_change(address, [=](T) { return value; });
}
CPU_DRIVER_ATOMIC_FORMS(atomicExch)

CPU_DRIVER_ATOMIC_INTEGER(atomicSub, __atomic_fetch_sub)
CPU_DRIVER_ATOMIC_INTEGER(atomicAnd, __atomic_fetch_and)
CPU_DRIVER_ATOMIC_INTEGER(atomicOr, __atomic_fetch_or)
CPU_DRIVER_ATOMIC_INTEGER(atomicXor, __atomic_fetch_xor)

template <typename T>
CPU_DRIVER_DEVICE T atomicMin(T* address, ::cpu_driver::as<T> value) {
    return ::cpu_driver::atomic_change(address, [=](T old) { return value < old ? value : old; });
}
CPU_DRIVER_ATOMIC_FORMS(atomicMin)
template <typename T>
CPU_DRIVER_DEVICE T atomicMax(T* address, ::cpu_driver::as<T> value) {
    return ::cpu_driver::atomic_change(address, [=](T old) { return value > old ? value : old; });
}
CPU_DRIVER_ATOMIC_FORMS(atomicMax)
template <typename T>
CPU_DRIVER_DEVICE T atomicInc(T* address, ::cpu_driver::as<T> limit) {
    return ::cpu_driver::atomic_change(address,
                                       [=](T old) { return old >= limit ? T(0) : T(old + 1); });
}
CPU_DRIVER_ATOMIC_FORMS(atomicInc)
template <typename T>
CPU_DRIVER_DEVICE T atomicDec(T* address, ::cpu_driver::as<T> limit) {
    return ::cpu_driver::atomic_change(
        address, [=](T old) { return old == 0 || old > limit ? T(limit) : T(old - 1); });
}
CPU_DRIVER_ATOMIC_FORMS(atomicDec)

template <typename T>
CPU_DRIVER_DEVICE T atomicCAS(T* address, ::cpu_driver::as<T> compare, ::cpu_driver::as<T> value) {
    T expected = compare;
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
    return expected;
}
template <typename T>
CPU_DRIVER_DEVICE T atomicCAS_block(T* address, ::cpu_driver::as<T> compare,
                                    ::cpu_driver::as<T> value) {
    return atomicCAS(address, compare, value);
}
template <typename T>
CPU_DRIVER_DEVICE T atomicCAS_system(T* address, ::cpu_driver::as<T> compare,
                                     ::cpu_driver::as<T> value) {
    return atomicCAS(address, compare, value);
}
