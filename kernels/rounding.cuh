// Rounding of float32 numbers to what tensor cores multiply: TF32 keeps 11 significant bits, to
// nearest with ties away from zero; bf16 keeps 8, ties to even. Each instruction has a plain body
// beside it for the CPU driver, which gives the same bits.
#pragma once

__device__ __forceinline__ unsigned round_to_tf32(float value) {
#ifdef __CUDA_ARCH__
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
#else
    const unsigned bits = __float_as_uint(value);
    const bool number = (bits & 0x7fffffffu) <= 0x7f800000u;  // or an infinity
    return number ? (bits + 0x1000u) & 0xffffe000u : 0x7fffffffu;
#endif
}

// Two numbers in one register, `first` in the lower half.
__device__ __forceinline__ unsigned round_to_bf16(float first, float second) {
#ifdef __CUDA_ARCH__
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
#else
    unsigned packed = 0;
    for (int i = 0; i < 2; ++i) {
        const unsigned bits = __float_as_uint(i == 0 ? first : second);
        const bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
        const unsigned rounded = number ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fffu;
        packed |= rounded << (16 * i);
    }
    return packed;
#endif
}

// Of the operands of products on the plain units, which round to what tensor cores would multiply.
enum class Precision { float32, tf32, bf16 };

__device__ __forceinline__ float rounded(Precision precision, float value) {
    if (precision == Precision::tf32) return __uint_as_float(round_to_tf32(value));
    if (precision == Precision::bf16) return __uint_as_float(round_to_bf16(value, 0.0f) << 16);
    return value;
}

__device__ __forceinline__ float4 rounded(Precision precision, float4 values) {
    if (precision == Precision::bf16) {  // two numbers in one instruction
        const unsigned low = round_to_bf16(values.x, values.y);
        const unsigned high = round_to_bf16(values.z, values.w);
        return {__uint_as_float(low << 16), __uint_as_float(low & 0xffff0000u),
                __uint_as_float(high << 16), __uint_as_float(high & 0xffff0000u)};
    }
    return {rounded(precision, values.x), rounded(precision, values.y),
            rounded(precision, values.z), rounded(precision, values.w)};
}
