// CUDA's vector types, with CUDA's alignments, and dim3.
#pragma once

#define CPU_DRIVER_VECTOR(T, NAME, ALIGN2, ALIGN4)             \
    struct NAME##1 {                                           \
        T x;                                                   \
    };                                                         \
    struct alignas(ALIGN2) NAME##2 {                           \
        T x, y;                                                \
    };                                                         \
    struct NAME##3 {                                           \
        T x, y, z;                                             \
    };                                                         \
    struct alignas(ALIGN4) NAME##4 {                           \
        T x, y, z, w;                                          \
    };                                                         \
    static inline NAME##1 make_##NAME##1(T x) {                \
        return {x};                                            \
    }                                                          \
    static inline NAME##2 make_##NAME##2(T x, T y) {           \
        return {x, y};                                         \
    }                                                          \
    static inline NAME##3 make_##NAME##3(T x, T y, T z) {      \
        return {x, y, z};                                      \
    }                                                          \
    static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { \
        return {x, y, z, w};                                   \
    }

CPU_DRIVER_VECTOR(signed char, char, 2, 4)
CPU_DRIVER_VECTOR(unsigned char, uchar, 2, 4)
CPU_DRIVER_VECTOR(short, short, 4, 8)
CPU_DRIVER_VECTOR(unsigned short, ushort, 4, 8)
CPU_DRIVER_VECTOR(int, int, 8, 16)
CPU_DRIVER_VECTOR(unsigned int, uint, 8, 16)
CPU_DRIVER_VECTOR(long, long, 16, 16)
CPU_DRIVER_VECTOR(unsigned long, ulong, 16, 16)
CPU_DRIVER_VECTOR(long long, longlong, 16, 16)
CPU_DRIVER_VECTOR(unsigned long long, ulonglong, 16, 16)
CPU_DRIVER_VECTOR(float, float, 8, 16)
CPU_DRIVER_VECTOR(double, double, 16, 16)
#undef CPU_DRIVER_VECTOR

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
        : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};
