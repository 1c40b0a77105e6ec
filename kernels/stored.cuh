// Numbers as arrays hold them: float, or bf16, the upper half of a float (8 significant bits). They
// are loaded and stored as packs of floats (flat.cuh), so that a kernel written for any of both
// computes in float32 and rounds once, where a number is stored: to nearest, ties to even.
#pragma once

#include "flat.cuh"
#include "rounding.cuh"

struct Bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float value_of(float number) {
    return number;
}
__device__ __forceinline__ float value_of(Bf16 number) {
    return __uint_as_float(static_cast<unsigned>(number.bits) << 16);
}

// Of neighbours in one register, the first in the lower half.
__device__ __forceinline__ float lower_value(unsigned pair) {
    return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float upper_value(unsigned pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

// In one access: 8 bytes for a pack of 4, 4 for one of 2.
template <int WIDTH>
__device__ __forceinline__ Pack<WIDTH> load(const Bf16* from) {
    Pack<WIDTH> pack;
    if constexpr (WIDTH == 4) {
        const uint2 pairs = *reinterpret_cast<const uint2*>(from);
        pack.at[0] = lower_value(pairs.x);
        pack.at[1] = upper_value(pairs.x);
        pack.at[2] = lower_value(pairs.y);
        pack.at[3] = upper_value(pairs.y);
    } else if constexpr (WIDTH == 2) {
        const unsigned pair = *reinterpret_cast<const unsigned*>(from);
        pack.at[0] = lower_value(pair);
        pack.at[1] = upper_value(pair);
    } else {
        pack.at[0] = value_of(*from);
    }
    return pack;
}

template <int WIDTH>
__device__ __forceinline__ void store(Bf16* to, const Pack<WIDTH>& pack) {
    if constexpr (WIDTH == 4) {
        *reinterpret_cast<uint2*>(to) = make_uint2(round_to_bf16(pack.at[0], pack.at[1]),
                                                   round_to_bf16(pack.at[2], pack.at[3]));
    } else if constexpr (WIDTH == 2) {
        *reinterpret_cast<unsigned*>(to) = round_to_bf16(pack.at[0], pack.at[1]);
    } else {
        to->bits = static_cast<unsigned short>(round_to_bf16(pack.at[0], 0.0f));
    }
}

// 4 numbers that nothing writes while the kernel runs.
__device__ __forceinline__ float4 read_four(const float* from) {
    return __ldg(reinterpret_cast<const float4*>(from));
}
__device__ __forceinline__ float4 read_four(const Bf16* from) {
    const uint2 pairs = __ldg(reinterpret_cast<const uint2*>(from));
    return {lower_value(pairs.x), upper_value(pairs.x), lower_value(pairs.y), upper_value(pairs.y)};
}
