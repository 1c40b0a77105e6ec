// The pointwise nonlinearities, their derivatives, and how a kernel is told which one it fuses:
// compiled with -DACTIVATION=<an enumerator below>, it passes KIND; or the launch says, by number.
#pragma once

#ifndef ACTIVATION
#define ACTIVATION none
#endif

enum class Activation { none, relu, leaky_relu, elu, sigmoid, tanh, softplus };

constexpr Activation KIND = Activation::ACTIVATION;

__device__ __forceinline__ float sigmoid(float z) {
    // exp(-z) overflows to infinity below -88, where 1 / inf = 0 is the right answer
    return 1.0f / (1.0f + expf(-z));
}

__device__ __forceinline__ float softplus(float z) {
    return fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z)));
}

// slope: of the negative side (leaky_relu), or the limit -slope (elu); unused by the others.
// Comparisons are written so that NaN passes through.
__device__ __forceinline__ float activate(Activation kind, float z, float slope) {
    if (kind == Activation::relu) {
        return z <= 0.0f ? 0.0f : z;
    } else if (kind == Activation::leaky_relu) {
        return z > 0.0f ? z : slope * z;
    } else if (kind == Activation::elu) {
        return z > 0.0f ? z : slope * expm1f(z);
    } else if (kind == Activation::sigmoid) {
        return sigmoid(z);
    } else if (kind == Activation::tanh) {
        return tanhf(z);
    } else if (kind == Activation::softplus) {
        return softplus(z);
    } else {
        return z;
    }
}

// d activate / dz from the input z. At exactly 0: relu 0, leaky_relu and elu slope.
__device__ __forceinline__ float derivative_from_input(Activation kind, float z, float slope) {
    if (kind == Activation::relu) {
        return z > 0.0f ? 1.0f : 0.0f;
    } else if (kind == Activation::leaky_relu) {
        return z > 0.0f ? 1.0f : slope;
    } else if (kind == Activation::elu) {
        return z > 0.0f ? 1.0f : slope * expf(z);
    } else if (kind == Activation::sigmoid) {
        const float s = sigmoid(z);
        return s * (1.0f - s);
    } else if (kind == Activation::tanh) {
        const float t = tanhf(z);
        return (1.0f - t) * (1.0f + t);
    } else if (kind == Activation::softplus) {
        return sigmoid(z);
    } else {
        return 1.0f;
    }
}

// The same from the output y = activate(z), so that z need not be kept. leaky_relu and elu need
// slope >= 0 for this: then y > 0 exactly where z > 0.
__device__ __forceinline__ float derivative_from_output(Activation kind, float y, float slope) {
    if (kind == Activation::relu) {
        return y > 0.0f ? 1.0f : 0.0f;
    } else if (kind == Activation::leaky_relu) {
        return y > 0.0f ? 1.0f : slope;
    } else if (kind == Activation::elu) {
        return y > 0.0f ? 1.0f : y + slope;
    } else if (kind == Activation::sigmoid) {
        return y * (1.0f - y);
    } else if (kind == Activation::tanh) {
        return (1.0f - y) * (1.0f + y);
    } else if (kind == Activation::softplus) {
        return -expm1f(-y);
    } else {
        return 1.0f;
    }
}
