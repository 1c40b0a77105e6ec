// What becomes of a finished sum before it is stored: the end of a convolution, wherever its sum
// was finished (in a tile, in a thread of its own, or in the second stage of partial_sums.cu).
//
//     forward      out = f(old + sum + bias)         f: an activation
//     a gradient   out = old + sum * f'              where the result is what f was applied to
//
// with the old value where it accumulates, else 0. f' is taken from f's output, which the layer has
// as its input: so the gradient of an activation needs no pass of its own over memory.
//
// A launch names f by number: a branch that all threads take alike, instead of a compilation for
// each f.
#pragma once

#include "activation.cuh"
#include "common.cuh"
#include "stored.cuh"

#ifndef BIAS_IS_WRITTEN
#define BIAS_IS_WRITTEN 0  // 1: the launch itself may have (program.cu); no read-only path then
#endif

// `number`, read here: whatever follows from it is computed behind this, and does not wait in a
// register through a product that needs them all.
__device__ __forceinline__ int read_late(int number) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(number));
#endif
    return number;
}
__device__ __forceinline__ Activation read_late(Activation kind) {
    return static_cast<Activation>(read_late(static_cast<int>(kind)));
}

// Number: of the result, float or Bf16.
template <class Number>
struct EpilogueOf {
    const float* bias;        // one per channel, or null
    const Number* activated;  // what f gave, of the result's shape, or null: then f is applied
    Activation activation;
    float slope;
    int accumulate;

    // N sums of neighbouring channels, which go to `out`, as they are to be stored. index: where
    // they are in the result. N is 1, or 4 where all is aligned to 16 bytes. SMOOTH: whether f may
    // be any activation, or only none, relu and leaky_relu: in a thread with many sums the others
    // would be a copy of their code for each of them.
    template <bool SMOOTH, int N>
    __device__ __forceinline__ Pack<N> finish(Pack<N> sums, const Number* out, Offset index,
                                              int channel) const {
        if (bias != nullptr) {
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const float* const from = bias + channel + k;
                sums.at[k] += BIAS_IS_WRITTEN ? *from : __ldg(from);
            }
        }
        if (activated != nullptr) {
            const Pack<N> output = load<N>(activated + index);
#pragma unroll
            for (int k = 0; k < N; ++k) sums.at[k] *= derivative(output.at[k]);
        }
        if (accumulate) {
            const Pack<N> old = load<N>(out);
#pragma unroll
            for (int k = 0; k < N; ++k) sums.at[k] = old.at[k] + sums.at[k];
        }
        if (activated == nullptr && activation != Activation::none) {
#pragma unroll
            for (int k = 0; k < N; ++k) sums.at[k] = apply<SMOOTH>(sums.at[k]);
        }
        return sums;
    }

  private:
    template <bool SMOOTH>
    __device__ __forceinline__ float apply(float z) const {
        if constexpr (SMOOTH) return activate(activation, z, slope);
        const float below = activation == Activation::relu ? 0.0f : slope * z;
        return z <= 0.0f ? below : z;  // NaN passes through
    }

    // derivative_from_output of all but softplus, in few instructions that all kinds share.
    __device__ __forceinline__ float derivative(float y) const {
        if (activation == Activation::sigmoid || activation == Activation::tanh) {
            return (1.0f - y) * (activation == Activation::tanh ? 1.0f + y : y);
        }
        const float below = activation == Activation::relu ? 0.0f : slope;
        return y > 0.0f ? 1.0f : activation == Activation::elu ? y + below : below;
    }
};

using Epilogue = EpilogueOf<float>;
