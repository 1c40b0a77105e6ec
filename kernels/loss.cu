// Softmax and the losses: sigmoid cross-entropy and softmax cross-entropy from logits, mean squared
// error, and the prior of a variational code. Every loss is one number, scale * sum; scale carries
// the mean (1 / N, 1 / (N * K), ...).
//
//   softmax                   x, y (rows, K): over the last axis
//   sigmoid_cross_entropy     z, t (n):    scale * sum(max(z, 0) - z t + log(1 + exp(-|z|)))
//   softmax_cross_entropy     z, t (N, K): -scale * sum(t log softmax(z)), t soft
//   mean_squared_error        x, t (n):    scale * sum((x - t)^2)
//   kullback_leibler          m, s (n):    scale * sum(exp(s) - 1 - s + m^2)
//
// From logits, because log(sigmoid(z)) is infinite where the sigmoid rounds to 0 or 1; these forms
// never overflow and keep full precision in both tails. The sums go to one float per block and are
// added by a second launch of one block, in a fixed order: same bits every run. Up to 4096 elements
// one block does all, as a second launch would take longer. Probabilities are written on the way,
// as they cost one store. Elements go four to an access where the arrays are flat, and in a softmax
// where a row is whole packs.

#include "reduce.cuh"
#include "sigmoid_cross_entropy.cuh"

constexpr int THREADS = 256;
constexpr int ROWS = THREADS / WARP;  // softmax: one warp per row

// Writes the block's sum to partial[blockIdx.x], or the loss itself if there is one block only.
__device__ __forceinline__ void finish_sum(float sum, float* partial, float* loss, float scale) {
    __shared__ float warps[THREADS / WARP];
    sum = block_sum<THREADS>(sum, warps);
    if (threadIdx.x == 0) {
        if (gridDim.x == 1) {
            loss[0] = scale * sum;
        } else {
            partial[blockIdx.x] = sum;
        }
    }
}

// loss (1) = scale * sum of partial (count)
extern "C" __global__ void __launch_bounds__(THREADS)
    loss_sum(const float* __restrict__ partial, float* __restrict__ loss, int count, float scale) {
    float sum = 0.0f;
    for_each_pack(count, aligned(partial), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        const Pack<W> sums = load<W>(partial + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum += sums.at[k];
        }
    });
    finish_sum(sum, nullptr, loss, scale);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sigmoid_cross_entropy_forward(const float* __restrict__ logits,
                                  const float* __restrict__ labels,
                                  float* __restrict__ probabilities, float* __restrict__ dlogits,
                                  float* __restrict__ partial, float* __restrict__ loss,
                                  long long n, float scale) {
    const SigmoidCrossEntropy entropy = {logits,  labels,          probabilities,
                                         dlogits, loss != nullptr, scale};
    float sum = 0.0f;
    const bool in_fours = aligned(logits, labels, probabilities, dlogits);
    for_each_pack(n, in_fours, [&](auto width, long long i) {
        sum = entropy.take<decltype(width)::value>(i, sum);
    });
    if (loss != nullptr) {
        finish_sum(sum, partial, loss, scale);
    }
}

extern "C" __global__ void sigmoid_cross_entropy_backward(const float* __restrict__ logits,
                                                          const float* __restrict__ labels,
                                                          float* __restrict__ dlogits, long long n,
                                                          float scale, int accumulate) {
    const auto gradient = [=](float z, float t) { return scale * (sigmoid(z) - t); };
    map_gradient(n, dlogits, accumulate, gradient, logits, labels);
}

// dx = 2 * scale * (x - target) may be null, as in every loss that may leave its gradient.
extern "C" __global__ void __launch_bounds__(THREADS)
    mean_squared_error_forward(const float* __restrict__ x, const float* __restrict__ target,
                               float* __restrict__ dx, float* __restrict__ partial,
                               float* __restrict__ loss, long long n, float scale) {
    float sum = 0.0f;
    for_each_pack(n, aligned(x, target, dx), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> difference = load<W>(x + i);
        const Pack<W> other = load<W>(target + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            difference.at[k] -= other.at[k];
            sum = fmaf(difference.at[k], difference.at[k], sum);
        }
        if (dx != nullptr) {
#pragma unroll
            for (int k = 0; k < W; ++k) {
                difference.at[k] *= 2.0f * scale;
            }
            store<W>(dx + i, difference);
        }
    });
    finish_sum(sum, partial, loss, scale);
}

extern "C" __global__ void mean_squared_error_backward(const float* __restrict__ x,
                                                       const float* __restrict__ target,
                                                       float* __restrict__ dx, long long n,
                                                       float scale, int accumulate) {
    const auto gradient = [=](float one, float other) { return 2.0f * scale * (one - other); };
    map_gradient(n, dx, accumulate, gradient, x, target);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    kullback_leibler_forward(const float* __restrict__ mean, const float* __restrict__ lnsd,
                             float* __restrict__ partial, float* __restrict__ loss, long long n,
                             float scale) {
    float sum = 0.0f;
    for_each_pack(n, aligned(mean, lnsd), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        const Pack<W> m = load<W>(mean + i);
        const Pack<W> s = load<W>(lnsd + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            // expm1: near the least value, at s = 0, exp(s) - 1 would cancel
            sum += fmaf(m.at[k], m.at[k], expm1f(s.at[k]) - s.at[k]);
        }
    });
    finish_sum(sum, partial, loss, scale);
}

// dlnsd (+)= scale * (exp(s) - 1)
extern "C" __global__ void kullback_leibler_backward(const float* __restrict__ lnsd,
                                                     float* __restrict__ dlnsd, long long n,
                                                     float scale, int accumulate) {
    map_gradient(n, dlnsd, accumulate, [=](float s) { return scale * expm1f(s); }, lnsd);
}

// A lane's part of a row: calls body(Width<4>(), k) or body(Width<1>(), k) for the packs that start
// at its elements k.
template <class Body>
__device__ __forceinline__ void for_each_of_lane(int columns, bool by_fours, const Body& body) {
    const int lane = threadIdx.x % WARP;
    if (by_fours) {
#pragma unroll 1  // unrolled, it would spill where registers are rationed for occupancy
        for (int k = 4 * lane; k < columns; k += 4 * WARP) {
            body(Width<4>(), k);
        }
    } else {
#pragma unroll 1
        for (int k = lane; k < columns; k += WARP) {
            body(Width<1>(), k);
        }
    }
}

// The maximum of a row and the sum of exp(value - maximum), known to the whole warp.
struct Partition {
    float maximum;
    float sum;
};

__device__ __forceinline__ Partition partition_of(const float* row, int columns, bool by_fours) {
    float maximum = row[0];
    for_each_of_lane(columns, by_fours, [&](auto width, int k) {
        constexpr int W = decltype(width)::value;
        const Pack<W> z = load<W>(row + k);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            maximum = fmaxf(maximum, z.at[i]);
        }
    });
    maximum = warp_max(maximum);
    float sum = 0.0f;
    for_each_of_lane(columns, by_fours, [&](auto width, int k) {
        constexpr int W = decltype(width)::value;
        const Pack<W> z = load<W>(row + k);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            sum += expf(z.at[i] - maximum);
        }
    });
    return {maximum, warp_sum(sum)};
}

// No __restrict__: y may be x (a lane writes only what it alone still reads).
extern "C" __global__ void __launch_bounds__(THREADS)
    softmax_forward(const float* x, float* y, int rows, int columns) {
    const bool by_fours = columns % 4 == 0 && aligned(x, y);
    for (int row = blockIdx.x * ROWS + threadIdx.x / WARP; row < rows; row += gridDim.x * ROWS) {
        const float* from = x + static_cast<long long>(row) * columns;
        float* to = y + static_cast<long long>(row) * columns;
        const Partition partition = partition_of(from, columns, by_fours);
        for_each_of_lane(columns, by_fours, [&](auto width, int k) {
            constexpr int W = decltype(width)::value;
            Pack<W> p = load<W>(from + k);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                p.at[i] = expf(p.at[i] - partition.maximum) / partition.sum;
            }
            store<W>(to + k, p);
        });
    }
}

// dx (+)= y * (dy - sum(dy * y))
extern "C" __global__ void __launch_bounds__(THREADS)
    softmax_backward(const float* __restrict__ y, const float* __restrict__ dy,
                     float* __restrict__ dx, int rows, int columns, int accumulate) {
    const bool by_fours = columns % 4 == 0 && aligned(y, dy, dx);
    for (int row = blockIdx.x * ROWS + threadIdx.x / WARP; row < rows; row += gridDim.x * ROWS) {
        const long long begin = static_cast<long long>(row) * columns;
        float sum = 0.0f;
        for_each_of_lane(columns, by_fours, [&](auto width, int k) {
            constexpr int W = decltype(width)::value;
            const Pack<W> p = load<W>(y + begin + k);
            const Pack<W> g = load<W>(dy + begin + k);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                sum = fmaf(p.at[i], g.at[i], sum);
            }
        });
        sum = warp_sum(sum);
        for_each_of_lane(columns, by_fours, [&](auto width, int k) {
            constexpr int W = decltype(width)::value;
            Pack<W> gradient = load<W>(y + begin + k);
            const Pack<W> g = load<W>(dy + begin + k);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                gradient.at[i] *= g.at[i] - sum;
            }
            store_gradient<W>(dx + begin + k, gradient, accumulate);
        });
    }
}

__device__ __forceinline__ float sum_of_row(const float* row, int columns, bool by_fours) {
    float sum = 0.0f;
    for_each_of_lane(columns, by_fours, [&](auto width, int k) {
        constexpr int W = decltype(width)::value;
        const Pack<W> t = load<W>(row + k);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            sum += t.at[i];
        }
    });
    return warp_sum(sum);
}

// probabilities = softmax(z) and dlogits = scale * (softmax(z) * sum(t) - t) may be null.
// Four blocks at a time leave 64 registers; nvcc's own choice of 32 would spill, here and below.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    softmax_cross_entropy_forward(const float* __restrict__ logits,
                                  const float* __restrict__ labels,
                                  float* __restrict__ probabilities, float* __restrict__ dlogits,
                                  float* __restrict__ partial, float* __restrict__ loss, int rows,
                                  int columns, float scale) {
    const bool by_fours = columns % 4 == 0 && aligned(logits, labels, probabilities, dlogits);
    float sum = 0.0f;
    for (int row = blockIdx.x * ROWS + threadIdx.x / WARP; row < rows; row += gridDim.x * ROWS) {
        const long long begin = static_cast<long long>(row) * columns;
        const float total =
            dlogits == nullptr ? 0.0f : sum_of_row(labels + begin, columns, by_fours);
        const Partition partition = partition_of(logits + begin, columns, by_fours);
        const float log_sum = logf(partition.sum);
        for_each_of_lane(columns, by_fours, [&](auto width, int k) {
            constexpr int W = decltype(width)::value;
            Pack<W> p = load<W>(logits + begin + k);
            const Pack<W> t = load<W>(labels + begin + k);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                // the difference first: the maximum may be large beside log_sum
                p.at[i] -= partition.maximum;
                sum = fmaf(t.at[i], log_sum - p.at[i], sum);
                p.at[i] = expf(p.at[i]) / partition.sum;
            }
            if (probabilities != nullptr) {
                store<W>(probabilities + begin + k, p);
            }
            if (dlogits != nullptr) {
#pragma unroll
                for (int i = 0; i < W; ++i) {
                    p.at[i] = scale * (p.at[i] * total - t.at[i]);
                }
                store<W>(dlogits + begin + k, p);
            }
        });
    }
    finish_sum(sum, partial, loss, scale);
}

// dlogits (+)= scale * (softmax(z) * sum(t) - t)
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    softmax_cross_entropy_backward(const float* __restrict__ logits,
                                   const float* __restrict__ labels, float* __restrict__ dlogits,
                                   int rows, int columns, float scale, int accumulate) {
    const bool by_fours = columns % 4 == 0 && aligned(logits, labels, dlogits);
    for (int row = blockIdx.x * ROWS + threadIdx.x / WARP; row < rows; row += gridDim.x * ROWS) {
        const long long begin = static_cast<long long>(row) * columns;
        const float total = sum_of_row(labels + begin, columns, by_fours);
        const Partition partition = partition_of(logits + begin, columns, by_fours);
        for_each_of_lane(columns, by_fours, [&](auto width, int k) {
            constexpr int W = decltype(width)::value;
            Pack<W> gradient = load<W>(logits + begin + k);
            const Pack<W> t = load<W>(labels + begin + k);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                const float p = expf(gradient.at[i] - partition.maximum) / partition.sum;
                gradient.at[i] = scale * (p * total - t.at[i]);
            }
            store_gradient<W>(dlogits + begin + k, gradient, accumulate);
        });
    }
}

// Launch contract: one-dimensional blocks of THREADS = 256. Losses' forward: any grid up to 1024
// blocks (one for 4096 elements or fewer, else a block per 1024; a block per 4 * ROWS = 32 rows of
// softmax); partial holds one float per block and may be null for one block; with more than one,
// loss_sum follows with a grid of one. Others: any grid (a block per 1024 elements or per 8 rows,
// at most 4096). No dynamic shared memory. Flat arrays that are not at multiples of 16 bytes are
// served one float at a time.
