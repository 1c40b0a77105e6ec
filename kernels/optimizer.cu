// Optimizers over the one flat buffer that holds all parameters of a network: one launch a step.
//
//   w, g and the optimizer's memory (n) float; learning_rate (1); step (SLOTS) int: updates done
//
//   adam      Kingma and Ba, 2014, in MXNet's form: the bias corrections are folded into the
//             learning rate, epsilon stands outside the root, weight decay is part of the gradient
//   sgd       with momentum, MXNet's form: momentum_buffer = momentum * momentum_buffer - lr * g
//   rmsprop   Tieleman and Hinton, 2012, in Keras' form, the learning rate decaying as
//             1 / (1 + decay * t)
//
// Step count and learning rate are in device memory, so that a captured graph counts on. The count
// has a slot per block: each block reads its own, and writes it and those of absent blocks when it
// is done; one slot for all would race between the first block to finish and the last to start.
// Bound by memory (adam reads 4 floats and writes 3 per parameter): four floats per access.

#include "flat.cuh"

constexpr int THREADS = 256;
constexpr int SLOTS = 1024;

// Every block sees the count as it was before the launch; after this, all slots are one higher.
__device__ __forceinline__ int count_update(int* step) {
    __shared__ int before;
    if (threadIdx.x == 0) {
        before = step[blockIdx.x];
    }
    __syncthreads();
    const int done = before;
    for (int slot = blockIdx.x + threadIdx.x * gridDim.x; slot < SLOTS;
         slot += THREADS * gridDim.x) {
        step[slot] = done + 1;
    }
    return done;
}

// limit is infinite where there is no clipping. NaN passes.
__device__ __forceinline__ float clip(float value, float limit) {
    return value > limit ? limit : (value < -limit ? -limit : value);
}

// beta1, beta2 in float32 for the averages; their logarithms in double for the bias corrections,
// 1 - beta^t = -expm1(t log beta): 1 - beta2^t is small at first, and cancels in float32.
extern "C" __global__ void __launch_bounds__(THREADS)
    adam_update(float* __restrict__ w, const float* __restrict__ g, float* __restrict__ m,
                float* __restrict__ v, int* __restrict__ step,
                const float* __restrict__ learning_rate, long long n, float beta1, float beta2,
                double log_beta1, double log_beta2, float eps, float weight_decay,
                float rescale_grad, float clip_gradient) {
    __shared__ float shared_rate;
    const int t = count_update(step) + 1;
    if (threadIdx.x == 0) {
        shared_rate = static_cast<float>(learning_rate[0] * sqrt(-expm1(t * log_beta2)) /
                                         -expm1(t * log_beta1));
    }
    __syncthreads();
    const float rate = shared_rate;

    for_each_pack(n, aligned(w, g, m, v), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> weight = load<W>(w + i);
        const Pack<W> raw = load<W>(g + i);
        Pack<W> mean = load<W>(m + i);
        Pack<W> square = load<W>(v + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            const float gradient =
                clip(fmaf(raw.at[k], rescale_grad, weight_decay * weight.at[k]), clip_gradient);
            mean.at[k] = fmaf(beta1, mean.at[k], (1.0f - beta1) * gradient);
            square.at[k] = fmaf(beta2, square.at[k], (1.0f - beta2) * gradient * gradient);
            weight.at[k] -= rate * mean.at[k] / (sqrtf(square.at[k]) + eps);
        }
        store<W>(w + i, weight);
        store<W>(m + i, mean);
        store<W>(v + i, square);
    });
}

// momentum_buffer may be null: plain gradient descent.
extern "C" __global__ void __launch_bounds__(THREADS)
    sgd_update(float* __restrict__ w, const float* __restrict__ g,
               float* __restrict__ momentum_buffer, int* __restrict__ step,
               const float* __restrict__ learning_rate, long long n, float momentum,
               float weight_decay, float rescale_grad, float clip_gradient) {
    count_update(step);
    const float rate = learning_rate[0];

    for_each_pack(n, aligned(w, g, momentum_buffer), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> weight = load<W>(w + i);
        const Pack<W> raw = load<W>(g + i);
        Pack<W> change = {};
        if (momentum_buffer != nullptr) {
            change = load<W>(momentum_buffer + i);
        }
#pragma unroll
        for (int k = 0; k < W; ++k) {
            const float gradient =
                fmaf(weight_decay, weight.at[k], clip(raw.at[k] * rescale_grad, clip_gradient));
            change.at[k] = fmaf(momentum, change.at[k], -rate * gradient);
            weight.at[k] += change.at[k];
        }
        store<W>(w + i, weight);
        if (momentum_buffer != nullptr) {
            store<W>(momentum_buffer + i, change);
        }
    });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsprop_update(float* __restrict__ w, const float* __restrict__ g,
                   float* __restrict__ mean_square, int* __restrict__ step,
                   const float* __restrict__ learning_rate, long long n, float rho, float eps,
                   float clip_gradient, float learning_rate_decay, float weight_decay,
                   float rescale_grad) {
    const int done = count_update(step);
    const float rate = learning_rate[0] / (1.0f + learning_rate_decay * static_cast<float>(done));

    for_each_pack(n, aligned(w, g, mean_square), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> weight = load<W>(w + i);
        const Pack<W> raw = load<W>(g + i);
        Pack<W> square = load<W>(mean_square + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            const float gradient =
                clip(fmaf(raw.at[k], rescale_grad, weight_decay * weight.at[k]), clip_gradient);
            square.at[k] = fmaf(rho, square.at[k], (1.0f - rho) * gradient * gradient);
            weight.at[k] -= rate * gradient / (sqrtf(square.at[k]) + eps);
        }
        store<W>(w + i, weight);
        store<W>(mean_square + i, square);
    });
}

// Launch contract: blocks of THREADS = 256, a grid of 1 to SLOTS = 1024 (a block per 1024
// elements); a few bytes of static shared memory.
