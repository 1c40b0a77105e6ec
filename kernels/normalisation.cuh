// Batch normalisation of one number, whoever does it: batch norm's own pass (batch_norm.cuh), or
// the convolution that reads the result, on the way in (normalised_sources.cuh). One expression, so
// that both have the same bits.
#pragma once

#include "activation.cuh"

__device__ __forceinline__ float inverse_deviation(float variance, float eps) {
    return 1.0f / sqrtf(variance + eps);
}

__device__ __forceinline__ float normalised(float x, float mean, float inverse_deviation) {
    return (x - mean) * inverse_deviation;
}

__device__ __forceinline__ float scaled(float xhat, float gamma, float beta) {
    return fmaf(gamma, xhat, beta);
}

// What a convolution is told of the batch norm whose input it reads in place of its output.
struct Normalisation {
    const float* channels;  // (C, 4): mean, inverse deviation, gamma and beta of each
    Activation kind;        // none, relu or leaky_relu, by the launch
    float slope;

    __device__ __forceinline__ float4 of(int channel) const {
        return __ldg(reinterpret_cast<const float4*>(channels) + channel);
    }

    __device__ __forceinline__ float operator()(float x, float4 of) const {
        const float z = scaled(normalised(x, of.x, of.y), of.z, of.w);
        const float below = kind == Activation::relu ? 0.0f : slope * z;
        return z <= 0.0f && kind != Activation::none ? below : z;  // NaN passes through
    }
};
