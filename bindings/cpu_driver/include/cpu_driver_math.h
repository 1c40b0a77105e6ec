// CUDA's arithmetic: functions that the C++ library lacks, intrinsics, bit operations, conversions.
// The fast intrinsics (__expf, __fdividef, ...) give the accurate result.
#pragma once

// glibc declares some of these names itself, hence macros.
#define __expf(x) (::expf(x))
#define __exp10f(x) (::cpu_driver::power_of_ten(static_cast<float>(x)))
#define __logf(x) (::logf(x))
#define __log2f(x) (::log2f(x))
#define __log10f(x) (::log10f(x))
#define __powf(x, y) (::powf(x, y))
#define __sinf(x) (::sinf(x))
#define __cosf(x) (::cosf(x))
#define __tanf(x) (::tanf(x))
#define __sincosf(x, s, c) (::sincosf(x, s, c))
#define __tanhf(x) (::tanhf(x))
#define __fdividef(x, y) (static_cast<float>(x) / static_cast<float>(y))
#define exp10f(x) (::cpu_driver::power_of_ten(static_cast<float>(x)))
#define exp10(x) (::cpu_driver::power_of_ten(x))

namespace cpu_driver {
CPU_DRIVER_DEVICE float power_of_ten(float x) {
    return static_cast<float>(::pow(10.0, static_cast<double>(x)));
}
CPU_DRIVER_DEVICE double power_of_ten(double x) {
    return ::pow(10.0, x);
}

// Keeps a rounded product or sum from being fused with what follows. (GCC's assoc_barrier does not:
// it is lost when the vectoriser packs neighbouring statements.)
template <typename T>
CPU_DRIVER_DEVICE T rounded(T x) {
#if defined(__x86_64__)
    __asm__("" : "+x"(x));
    return x;
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
    return x;
#else
    volatile T kept = x;
    return kept;
#endif
}

template <typename To, typename From>
CPU_DRIVER_DEVICE To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To result;
    __builtin_memcpy(&result, &value, sizeof result);
    return result;
}
}  // namespace cpu_driver

// --- roots, circles, error functions ---
CPU_DRIVER_DEVICE float rsqrtf(float x) {
    return 1.0f / ::sqrtf(x);
}
CPU_DRIVER_DEVICE double rsqrt(double x) {
    return 1.0 / ::sqrt(x);
}
CPU_DRIVER_DEVICE float rsqrt(float x) {
    return 1.0f / ::sqrtf(x);
}
CPU_DRIVER_DEVICE float rcbrtf(float x) {
    return 1.0f / ::cbrtf(x);
}
CPU_DRIVER_DEVICE double rcbrt(double x) {
    return 1.0 / ::cbrt(x);
}
CPU_DRIVER_DEVICE float __frsqrt_rn(float x) {
    return 1.0f / ::sqrtf(x);
}
CPU_DRIVER_DEVICE float norm3df(float a, float b, float c) {
    return ::hypotf(::hypotf(a, b), c);
}
CPU_DRIVER_DEVICE double norm3d(double a, double b, double c) {
    return ::hypot(::hypot(a, b), c);
}

// sin and cos of pi * x: the argument is reduced exactly first, so that whole and half turns are
// exact.
CPU_DRIVER_DEVICE double sinpi(double x) {
    const double r = x - 2.0 * ::rint(0.5 * x);  // in [-1, 1]
    if (r == 0.0 || r == 1.0 || r == -1.0) return ::copysign(0.0, x);
    const double a = ::fabs(r) > 0.5 ? ::copysign(1.0, r) - r : r;
    return ::sin(a * 3.14159265358979323846);
}
CPU_DRIVER_DEVICE double cospi(double x) {
    const double r = ::fabs(x - 2.0 * ::rint(0.5 * x));  // in [0, 1]
    if (r == 0.5) return 0.0;
    return r > 0.5 ? -::cos((1.0 - r) * 3.14159265358979323846) : ::cos(r * 3.14159265358979323846);
}
CPU_DRIVER_DEVICE float sinpif(float x) {
    return static_cast<float>(sinpi(x));
}
CPU_DRIVER_DEVICE float cospif(float x) {
    return static_cast<float>(cospi(x));
}
CPU_DRIVER_DEVICE void sincospi(double x, double* s, double* c) {
    *s = sinpi(x);
    *c = cospi(x);
}
CPU_DRIVER_DEVICE void sincospif(float x, float* s, float* c) {
    *s = sinpif(x);
    *c = cospif(x);
}
// CUDA overloads these for float as well.
CPU_DRIVER_DEVICE void sincos(float x, float* s, float* c) {
    ::sincosf(x, s, c);
}
CPU_DRIVER_DEVICE void sincospi(float x, float* s, float* c) {
    sincospif(x, s, c);
}
CPU_DRIVER_DEVICE float sinpi(float x) {
    return sinpif(x);
}
CPU_DRIVER_DEVICE float cospi(float x) {
    return cospif(x);
}
CPU_DRIVER_DEVICE double normcdf(double x) {
    return 0.5 * ::erfc(-x * 0.70710678118654752440);
}
CPU_DRIVER_DEVICE float normcdff(float x) {
    return static_cast<float>(normcdf(x));
}
CPU_DRIVER_DEVICE float fdividef(float x, float y) {
    return x / y;
}
CPU_DRIVER_DEVICE float __saturatef(float x) {
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
CPU_DRIVER_DEVICE float saturate(float x) {
    return __saturatef(x);
}

// --- rounding chosen by name (to nearest only; the others need the processor's mode) ---
#define CPU_DRIVER_ROUNDED(TYPE, PREFIX)                        \
    CPU_DRIVER_DEVICE TYPE __##PREFIX##add_rn(TYPE a, TYPE b) { \
        return ::cpu_driver::rounded(a + b);                    \
    }                                                           \
    CPU_DRIVER_DEVICE TYPE __##PREFIX##sub_rn(TYPE a, TYPE b) { \
        return ::cpu_driver::rounded(a - b);                    \
    }                                                           \
    CPU_DRIVER_DEVICE TYPE __##PREFIX##mul_rn(TYPE a, TYPE b) { \
        return ::cpu_driver::rounded(a * b);                    \
    }                                                           \
    CPU_DRIVER_DEVICE TYPE __##PREFIX##div_rn(TYPE a, TYPE b) { \
        return a / b;                                           \
    }                                                           \
    CPU_DRIVER_DEVICE TYPE __##PREFIX##rcp_rn(TYPE a) {         \
        return TYPE(1) / a;                                     \
    }
CPU_DRIVER_ROUNDED(float, f)
CPU_DRIVER_ROUNDED(double, d)
#undef CPU_DRIVER_ROUNDED
CPU_DRIVER_DEVICE float __fsqrt_rn(float a) {
    return ::sqrtf(a);
}
CPU_DRIVER_DEVICE double __dsqrt_rn(double a) {
    return ::sqrt(a);
}
CPU_DRIVER_DEVICE float __fmaf_rn(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}
CPU_DRIVER_DEVICE double __fma_rn(double a, double b, double c) {
    return __builtin_fma(a, b, c);
}

// --- minimum and maximum, for any pair of arithmetic types ---
template <typename A, typename B>
CPU_DRIVER_DEVICE constexpr std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                                             std::common_type_t<A, B>>
min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return __builtin_fmin(T(a), T(b));
    else
        return T(b) < T(a) ? T(b) : T(a);
}
template <typename A, typename B>
CPU_DRIVER_DEVICE constexpr std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                                             std::common_type_t<A, B>>
max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return __builtin_fmax(T(a), T(b));
    else
        return T(a) < T(b) ? T(b) : T(a);
}
CPU_DRIVER_DEVICE unsigned umin(unsigned a, unsigned b) {
    return a < b ? a : b;
}
CPU_DRIVER_DEVICE unsigned umax(unsigned a, unsigned b) {
    return a > b ? a : b;
}

// --- bits ---
CPU_DRIVER_DEVICE int __popc(unsigned x) {
    return __builtin_popcount(x);
}
CPU_DRIVER_DEVICE int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
CPU_DRIVER_DEVICE int __clz(int x) {
    return x ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}
CPU_DRIVER_DEVICE int __clzll(long long x) {
    return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
CPU_DRIVER_DEVICE int __ffs(int x) {
    return __builtin_ffs(x);
}
CPU_DRIVER_DEVICE int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
CPU_DRIVER_DEVICE unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}
CPU_DRIVER_DEVICE unsigned long long __brevll(unsigned long long x) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
           __brev(static_cast<unsigned>(x >> 32));
}
CPU_DRIVER_DEVICE unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long both = static_cast<unsigned long long>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned pick = selector >> (4 * i) & 15;
        unsigned byte = static_cast<unsigned>(both >> (8 * (pick & 7))) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * i);
    }
    return result;
}
CPU_DRIVER_DEVICE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    shift &= 31;
    return shift ? high << shift | low >> (32 - shift) : high;
}
CPU_DRIVER_DEVICE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    shift &= 31;
    return shift ? high << (32 - shift) | low >> shift : low;
}

// --- integer arithmetic ---
CPU_DRIVER_DEVICE int __mul24(int a, int b) {
    return (a << 8 >> 8) * (b << 8 >> 8);
}
CPU_DRIVER_DEVICE unsigned __umul24(unsigned a, unsigned b) {
    return (a & 0xffffffu) * (b & 0xffffffu);
}
CPU_DRIVER_DEVICE int __mulhi(int a, int b) {
    return static_cast<int>(static_cast<long long>(a) * b >> 32);
}
CPU_DRIVER_DEVICE unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
CPU_DRIVER_DEVICE long long __mul64hi(long long a, long long b) {
    return static_cast<long long>(static_cast<__int128>(a) * b >> 64);
}
CPU_DRIVER_DEVICE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
CPU_DRIVER_DEVICE unsigned __sad(int a, int b, unsigned c) {
    return c + static_cast<unsigned>(a > b ? a - b : b - a);
}
CPU_DRIVER_DEVICE unsigned __usad(unsigned a, unsigned b, unsigned c) {
    return c + (a > b ? a - b : b - a);
}
CPU_DRIVER_DEVICE int __hadd(int a, int b) {
    return static_cast<int>((static_cast<long long>(a) + b) >> 1);
}
CPU_DRIVER_DEVICE int __rhadd(int a, int b) {
    return static_cast<int>((static_cast<long long>(a) + b + 1) >> 1);
}
CPU_DRIVER_DEVICE int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i)
        c += static_cast<signed char>(a >> 8 * i) * static_cast<signed char>(b >> 8 * i);
    return c;
}

// --- bit patterns and conversions ---
CPU_DRIVER_DEVICE int __float_as_int(float x) {
    return ::cpu_driver::bits<int>(x);
}
CPU_DRIVER_DEVICE unsigned __float_as_uint(float x) {
    return ::cpu_driver::bits<unsigned>(x);
}
CPU_DRIVER_DEVICE float __int_as_float(int x) {
    return ::cpu_driver::bits<float>(x);
}
CPU_DRIVER_DEVICE float __uint_as_float(unsigned x) {
    return ::cpu_driver::bits<float>(x);
}
CPU_DRIVER_DEVICE long long __double_as_longlong(double x) {
    return ::cpu_driver::bits<long long>(x);
}
CPU_DRIVER_DEVICE double __longlong_as_double(long long x) {
    return ::cpu_driver::bits<double>(x);
}
CPU_DRIVER_DEVICE int __double2hiint(double x) {
    return static_cast<int>(__double_as_longlong(x) >> 32);
}
CPU_DRIVER_DEVICE int __double2loint(double x) {
    return static_cast<int>(__double_as_longlong(x) & 0xffffffff);
}
CPU_DRIVER_DEVICE double __hiloint2double(int high, int low) {
    return __longlong_as_double(static_cast<long long>(high) << 32 | static_cast<unsigned>(low));
}

namespace cpu_driver {
// Conversions saturate, and NaN becomes zero, as on the device; in C++ both are undefined.
template <typename To, typename From>
CPU_DRIVER_DEVICE To convert(From x) {
    if (x != x) return 0;
    constexpr To low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    if (x <= static_cast<From>(low)) return low;
    if (x >= static_cast<From>(high)) return high;
    return static_cast<To>(x);
}
}  // namespace cpu_driver

#define CPU_DRIVER_CONVERT(FROM, TO, FROM_TYPE, TO_TYPE)          \
    CPU_DRIVER_DEVICE TO_TYPE __##FROM##2##TO##_rn(FROM_TYPE x) { \
        return ::cpu_driver::convert<TO_TYPE>(::rint(x));         \
    }                                                             \
    CPU_DRIVER_DEVICE TO_TYPE __##FROM##2##TO##_rz(FROM_TYPE x) { \
        return ::cpu_driver::convert<TO_TYPE>(::trunc(x));        \
    }                                                             \
    CPU_DRIVER_DEVICE TO_TYPE __##FROM##2##TO##_ru(FROM_TYPE x) { \
        return ::cpu_driver::convert<TO_TYPE>(::ceil(x));         \
    }                                                             \
    CPU_DRIVER_DEVICE TO_TYPE __##FROM##2##TO##_rd(FROM_TYPE x) { \
        return ::cpu_driver::convert<TO_TYPE>(::floor(x));        \
    }
CPU_DRIVER_CONVERT(float, int, float, int)
CPU_DRIVER_CONVERT(float, uint, float, unsigned)
CPU_DRIVER_CONVERT(float, ll, float, long long)
CPU_DRIVER_CONVERT(float, ull, float, unsigned long long)
CPU_DRIVER_CONVERT(double, int, double, int)
CPU_DRIVER_CONVERT(double, uint, double, unsigned)
CPU_DRIVER_CONVERT(double, ll, double, long long)
CPU_DRIVER_CONVERT(double, ull, double, unsigned long long)
#undef CPU_DRIVER_CONVERT
CPU_DRIVER_DEVICE float __int2float_rn(int x) {
    return static_cast<float>(x);
}
CPU_DRIVER_DEVICE float __uint2float_rn(unsigned x) {
    return static_cast<float>(x);
}
CPU_DRIVER_DEVICE float __ll2float_rn(long long x) {
    return static_cast<float>(x);
}
CPU_DRIVER_DEVICE float __ull2float_rn(unsigned long long x) {
    return static_cast<float>(x);
}
CPU_DRIVER_DEVICE double __int2double_rn(int x) {
    return x;
}
CPU_DRIVER_DEVICE double __uint2double_rn(unsigned x) {
    return x;
}
CPU_DRIVER_DEVICE double __ll2double_rn(long long x) {
    return static_cast<double>(x);
}
CPU_DRIVER_DEVICE float __double2float_rn(double x) {
    return static_cast<float>(x);
}

// --- loads and stores with cache hints ---
#define CPU_DRIVER_LOAD(NAME)                    \
    template <typename T>                        \
    CPU_DRIVER_DEVICE T NAME(const T* address) { \
        return *address;                         \
    }
CPU_DRIVER_LOAD(__ldg)
CPU_DRIVER_LOAD(__ldca)
CPU_DRIVER_LOAD(__ldcg)
CPU_DRIVER_LOAD(__ldcs)
CPU_DRIVER_LOAD(__ldlu)
CPU_DRIVER_LOAD(__ldcv)
#undef CPU_DRIVER_LOAD
#define CPU_DRIVER_STORE(NAME)                                           \
    template <typename T>                                                \
    CPU_DRIVER_DEVICE void NAME(T* address, ::cpu_driver::as<T> value) { \
        *address = value;                                                \
    }
CPU_DRIVER_STORE(__stwb)
CPU_DRIVER_STORE(__stcg)
CPU_DRIVER_STORE(__stcs)
CPU_DRIVER_STORE(__stwt)
#undef CPU_DRIVER_STORE
