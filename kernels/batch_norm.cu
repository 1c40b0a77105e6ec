// Batch normalisation over the last axis, fused with the activation that follows it.
//
//   x, y, dy, dx (rows, C): any leading axes count as rows (NHWC: rows = N * H * W)
//   gamma, beta, mean, var, moving_mean, moving_var, dgamma, dbeta (C)
//
//   forward    z = gamma * (x - mean) / sqrt(var + eps) + beta,  y = f(z)
//   backward   g = dy * f'(z),  dbeta = sum g,  dgamma = sum g * xhat,
//              dx = gamma / sqrt(var + eps) * (g - dbeta / rows - xhat * dgamma / rows)
//
// Ioffe and Szegedy, "Batch Normalization", 2015; conventions of MXNet's BatchNorm: the variance is
// the biased one (also in the moving average), fix_gamma treats gamma as 1 and writes it so. The
// activation's input z is not kept: backward computes it again from x, by the same expression.
//
// Channels are the fast axis, so a warp reads neighbouring channels of one row, and each thread
// keeps one channel and walks down rows: accesses are whole lines, channel constants live in
// registers. Few channels would leave most of a GPU idle, so the rows of a channel are split over
// blocks and merged, in a fixed order, by a second small launch: same bits every run, no atomics.
//
// Mean and variance are merged as (count, mean, sum of squared deviations), never as
// E[x^2] - E[x]^2, which loses everything once the mean is large beside the deviation: Chan, Golub
// and LeVeque, "Algorithms for computing the sample variance", 1983. Each thread forms those three
// from BATCH rows at a time, in registers, which needs one division per BATCH and keeps BATCH loads
// in flight. All is relative to the channel's first value, so that a mean of 1e4 is rounded once,
// at the end, and not in every merge.
//
// variants: | -DACTIVATION=relu | -DACTIVATION=leaky_relu | -DACTIVATION=elu
// variants: -DACTIVATION=sigmoid | -DACTIVATION=tanh | -DACTIVATION=softplus

#include "activation.cuh"

constexpr int THREADS = 256;
constexpr int BATCH = 8;  // rows in flight per thread

struct Moments {
    float count;
    float mean;
    float squares;  // sum of (x - mean)^2
};

__device__ __forceinline__ Moments merge(Moments a, Moments b) {
    const float count = a.count + b.count;
    if (b.count == 0.0f) {
        return a;
    }
    const float share = b.count / count;
    const float delta = b.mean - a.mean;
    return {count, fmaf(delta, share, a.mean),
            a.squares + fmaf(delta * delta, a.count * share, b.squares)};
}

// Merges the blockDim.y partial results of each channel; the threads with threadIdx.y == 0 get the
// whole. Every thread must call it.
__device__ __forceinline__ Moments merge_block(Moments mine) {
    __shared__ float counts[THREADS];
    __shared__ float means[THREADS];
    __shared__ float squares[THREADS];
    const int slot = threadIdx.y * blockDim.x + threadIdx.x;
    counts[slot] = mine.count;
    means[slot] = mine.mean;
    squares[slot] = mine.squares;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
            const int other = slot + half * blockDim.x;
            mine = merge(mine, {counts[other], means[other], squares[other]});
            counts[slot] = mine.count;
            means[slot] = mine.mean;
            squares[slot] = mine.squares;
        }
    }
    return mine;
}

struct Sums {
    float g;       // sum of g
    float g_xhat;  // sum of g * xhat
};

__device__ __forceinline__ Sums add_block(Sums mine) {
    __shared__ float first[THREADS];
    __shared__ float second[THREADS];
    const int slot = threadIdx.y * blockDim.x + threadIdx.x;
    first[slot] = mine.g;
    second[slot] = mine.g_xhat;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
            const int other = slot + half * blockDim.x;
            first[slot] = mine.g += first[other];
            second[slot] = mine.g_xhat += second[other];
        }
    }
    return mine;
}

// What one channel needs, read once per thread.
struct Channel {
    float mean;
    float inverse_deviation;
    float gamma;
    float beta;

    __device__ __forceinline__ float normalised(float x) const {
        return (x - mean) * inverse_deviation;
    }
    __device__ __forceinline__ float scaled(float xhat) const { return fmaf(gamma, xhat, beta); }
};

__device__ __forceinline__ Channel channel_at(int c, const float* mean, const float* var,
                                              const float* gamma, const float* beta, float eps,
                                              int fix_gamma) {
    return {mean[c], 1.0f / sqrtf(var[c] + eps), fix_gamma ? 1.0f : gamma[c], beta[c]};
}

__device__ __forceinline__ int channel_of_thread() {
    return blockIdx.x * blockDim.x + threadIdx.x;
}

// First stage: block (i, s) reduces its channels over the rows [s * rows_per_split, ...).
// With one split (gridDim.y == 1) mean and var are final; otherwise partial (2, splits, C) takes
// mean - x[0] and the squared deviations of each split.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_statistics(const float* __restrict__ x, float* __restrict__ partial,
                          float* __restrict__ mean, float* __restrict__ var, int rows, int channels,
                          int rows_per_split) {
    const int c = channel_of_thread();
    const int begin = blockIdx.y * rows_per_split;
    const int end = min(rows, begin + rows_per_split);
    const float pivot = c < channels ? x[c] : 0.0f;

    Moments whole = {0.0f, 0.0f, 0.0f};
    if (c < channels) {
        for (int row = begin + threadIdx.y; row < end; row += BATCH * blockDim.y) {
            float value[BATCH];
            float sum = 0.0f;
            int count = 0;
#pragma unroll
            for (int k = 0; k < BATCH; ++k) {
                const int at = row + k * blockDim.y;
                value[k] = at < end ? x[static_cast<long long>(at) * channels + c] - pivot : 0.0f;
                sum += value[k];
                count += at < end;
            }
            Moments batch = {static_cast<float>(count), sum / static_cast<float>(count), 0.0f};
#pragma unroll
            for (int k = 0; k < BATCH; ++k) {
                const float deviation = k < count ? value[k] - batch.mean : 0.0f;
                batch.squares = fmaf(deviation, deviation, batch.squares);
            }
            whole = merge(whole, batch);
        }
    }
    whole = merge_block(whole);

    if (threadIdx.y == 0 && c < channels) {
        if (gridDim.y == 1) {
            mean[c] = pivot + whole.mean;
            var[c] = whole.squares / static_cast<float>(rows);
        } else {
            const long long splits = gridDim.y;
            partial[blockIdx.y * static_cast<long long>(channels) + c] = whole.mean;
            partial[(splits + blockIdx.y) * channels + c] = whole.squares;
        }
    }
}

// Second stage, for more than one split: one row of blocks merges partial (2, splits, C).
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_merge_statistics(const float* __restrict__ x, const float* __restrict__ partial,
                                float* __restrict__ mean, float* __restrict__ var, int rows,
                                int channels, int rows_per_split, int splits) {
    const int c = channel_of_thread();
    Moments whole = {0.0f, 0.0f, 0.0f};
    if (c < channels) {
        for (int split = threadIdx.y; split < splits; split += blockDim.y) {
            const int count = min(rows - split * rows_per_split, rows_per_split);
            const long long at = split * static_cast<long long>(channels) + c;
            whole = merge(whole, {static_cast<float>(count), partial[at],
                                  partial[static_cast<long long>(splits) * channels + at]});
        }
    }
    whole = merge_block(whole);
    if (threadIdx.y == 0 && c < channels) {
        mean[c] = x[c] + whole.mean;
        var[c] = whole.squares / static_cast<float>(rows);
    }
}

// mean, var: of the batch in training, the moving ones in inference. With fix_gamma, gamma is
// overwritten with 1 and not read.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_normalize(const float* __restrict__ x, float* gamma, const float* __restrict__ beta,
                         const float* __restrict__ mean, const float* __restrict__ var,
                         float* __restrict__ y, int rows, int channels, int rows_per_block,
                         float eps, int fix_gamma, float slope) {
    const int c = channel_of_thread();
    if (c >= channels) {
        return;
    }
    const Channel channel = channel_at(c, mean, var, gamma, beta, eps, fix_gamma);
    if (fix_gamma && blockIdx.y == 0 && threadIdx.y == 0) {
        gamma[c] = 1.0f;
    }
    const int begin = blockIdx.y * rows_per_block;
    const int end = min(rows, begin + rows_per_block);
#pragma unroll 4
    for (int row = begin + threadIdx.y; row < end; row += blockDim.y) {
        const long long at = static_cast<long long>(row) * channels + c;
        y[at] = activate(channel.scaled(channel.normalised(x[at])), slope);
    }
}

// The gradient's sums of one channel: sums (2, C) = (sum g, sum g * xhat) for the pass over dx, and
// the parameters' gradients where wanted (dgamma, dbeta may be null). With fix_gamma the gradient
// of gamma is exactly 0.
__device__ __forceinline__ void write_sums(Sums whole, int c, int channels,
                                           float* __restrict__ sums, float* __restrict__ dgamma,
                                           float* __restrict__ dbeta, int fix_gamma,
                                           int accumulate_gamma, int accumulate_beta) {
    sums[c] = whole.g;
    sums[channels + c] = whole.g_xhat;
    if (dgamma != nullptr) {
        const float gradient = fix_gamma ? 0.0f : whole.g_xhat;
        dgamma[c] = accumulate_gamma ? dgamma[c] + gradient : gradient;
    }
    if (dbeta != nullptr) {
        dbeta[c] = accumulate_beta ? dbeta[c] + whole.g : whole.g;
    }
}

// First stage of the gradient's two sums. With one split (gridDim.y == 1) they are final; otherwise
// partial (2, splits, C) takes those of each split.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_gradient_sums(const float* __restrict__ x, const float* __restrict__ gamma,
                             const float* __restrict__ beta, const float* __restrict__ mean,
                             const float* __restrict__ var, const float* __restrict__ dy,
                             float* __restrict__ partial, float* __restrict__ sums,
                             float* __restrict__ dgamma, float* __restrict__ dbeta, int rows,
                             int channels, int rows_per_split, float eps, float slope,
                             int fix_gamma, int accumulate_gamma, int accumulate_beta) {
    const int c = channel_of_thread();
    Sums whole = {0.0f, 0.0f};
    if (c < channels) {
        const Channel channel = channel_at(c, mean, var, gamma, beta, eps, fix_gamma);
        const int begin = blockIdx.y * rows_per_split;
        const int end = min(rows, begin + rows_per_split);
#pragma unroll 4
        for (int row = begin + threadIdx.y; row < end; row += blockDim.y) {
            const long long at = static_cast<long long>(row) * channels + c;
            const float xhat = channel.normalised(x[at]);
            const float g = dy[at] * derivative_from_input(channel.scaled(xhat), slope);
            whole.g += g;
            whole.g_xhat = fmaf(g, xhat, whole.g_xhat);
        }
    }
    whole = add_block(whole);
    if (threadIdx.y == 0 && c < channels) {
        if (gridDim.y == 1) {
            write_sums(whole, c, channels, sums, dgamma, dbeta, fix_gamma, accumulate_gamma,
                       accumulate_beta);
        } else {
            const long long splits = gridDim.y;
            partial[blockIdx.y * static_cast<long long>(channels) + c] = whole.g;
            partial[(splits + blockIdx.y) * channels + c] = whole.g_xhat;
        }
    }
}

// Second stage, for more than one split.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_merge_gradients(const float* __restrict__ partial, float* __restrict__ sums,
                               float* __restrict__ dgamma, float* __restrict__ dbeta, int channels,
                               int splits, int fix_gamma, int accumulate_gamma,
                               int accumulate_beta) {
    const int c = channel_of_thread();
    Sums whole = {0.0f, 0.0f};
    if (c < channels) {
        for (int split = threadIdx.y; split < splits; split += blockDim.y) {
            const long long at = split * static_cast<long long>(channels) + c;
            whole.g += partial[at];
            whole.g_xhat += partial[static_cast<long long>(splits) * channels + at];
        }
    }
    whole = add_block(whole);
    if (threadIdx.y == 0 && c < channels) {
        write_sums(whole, c, channels, sums, dgamma, dbeta, fix_gamma, accumulate_gamma,
                   accumulate_beta);
    }
}

// sums (2, C), or null with the moving statistics, which do not depend on x: then
// dx = gamma / sqrt(var + eps) * g.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_data(const float* __restrict__ x, const float* __restrict__ gamma,
                             const float* __restrict__ beta, const float* __restrict__ mean,
                             const float* __restrict__ var, const float* dy,
                             const float* __restrict__ sums, float* dx, int rows, int channels,
                             int rows_per_block, float eps, int fix_gamma, float slope,
                             int accumulate) {
    const int c = channel_of_thread();
    if (c >= channels) {
        return;
    }
    const Channel channel = channel_at(c, mean, var, gamma, beta, eps, fix_gamma);
    const float scale = channel.gamma * channel.inverse_deviation;
    const float count = static_cast<float>(rows);
    const float mean_g = sums != nullptr ? sums[c] / count : 0.0f;
    const float mean_g_xhat = sums != nullptr ? sums[channels + c] / count : 0.0f;
    const int begin = blockIdx.y * rows_per_block;
    const int end = min(rows, begin + rows_per_block);
#pragma unroll 4
    for (int row = begin + threadIdx.y; row < end; row += blockDim.y) {
        const long long at = static_cast<long long>(row) * channels + c;
        const float xhat = channel.normalised(x[at]);
        const float g = dy[at] * derivative_from_input(channel.scaled(xhat), slope);
        const float gradient = scale * (g - mean_g - xhat * mean_g_xhat);
        dx[at] = accumulate ? dx[at] + gradient : gradient;
    }
}

// moving = momentum * moving + (1 - momentum) * batch, both statistics (C) in one launch.
extern "C" __global__ void batch_norm_update_moving(const float* __restrict__ mean,
                                                    const float* __restrict__ var,
                                                    float* __restrict__ moving_mean,
                                                    float* __restrict__ moving_var, int channels,
                                                    float momentum) {
    const int c = channel_of_thread();
    if (c < channels) {
        const float rest = 1.0f - momentum;
        moving_mean[c] = momentum * moving_mean[c] + rest * mean[c];
        moving_var[c] = momentum * moving_var[c] + rest * var[c];
    }
}

// Launch contract. Block (X, Y) with X * Y = THREADS = 256, X a power of two: the channels rounded
// up, at most 32 (few channels: consecutive rows fill the lines). Grid (ceil(C / X), splits) with
// splits = ceil(rows / rows_per_split) for the two reductions, (ceil(C / X), 1) for the two merges,
// (ceil(C / X), ceil(rows / rows_per_block)) for the two passes over x; the second extent at most
// 65535. batch_norm_update_moving: one-dimensional, 256 threads. No dynamic shared memory. Stream
// order carries results from one launch to the next.
