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
