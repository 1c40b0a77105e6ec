// Sigmoid cross-entropy of a pack of logits, with what else is wanted of them (loss.cu tells the
// formula).
#pragma once

#include "activation.cuh"
#include "flat.cuh"

// probabilities = sigmoid(z) and dlogits = scale * (sigmoid(z) - t) may be null: a step that will
// ask for the gradient has it from here, without a launch of its own. Nor need the loss be wanted.
struct SigmoidCrossEntropy {
    const float *logits, *labels;
    float *probabilities, *dlogits;
    bool wants_loss;
    float scale;

    // Elements [i, i + W): adds their losses to `sum`, one after the other, and writes the rest.
    template <int W>
    __device__ __forceinline__ float take(long long i, float sum) const {
        const Pack<W> z = load<W>(logits + i);
        const Pack<W> t = load<W>(labels + i);
        if (wants_loss) {
#pragma unroll
            for (int k = 0; k < W; ++k) {
                // softplus(z) - z t, grouped so that a confident right answer does not cancel:
                // t = 1 gives softplus(-z), t = 0 gives softplus(z)
                sum += fmaxf(z.at[k], 0.0f) - z.at[k] * t.at[k] + log1pf(expf(-fabsf(z.at[k])));
            }
        }
        if (probabilities != nullptr) {
            Pack<W> p;
#pragma unroll
            for (int k = 0; k < W; ++k) {
                p.at[k] = sigmoid(z.at[k]);
            }
            store<W>(probabilities + i, p);
        }
        if (dlogits != nullptr) {
            Pack<W> gradient;
#pragma unroll
            for (int k = 0; k < W; ++k) {
                gradient.at[k] = scale * (sigmoid(z.at[k]) - t.at[k]);
            }
            store<W>(dlogits + i, gradient);
        }
        return sum;
    }
};
