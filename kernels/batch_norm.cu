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
// the biased one (also in the moving average), fix_gamma treats gamma as 1 and writes it so, and
// backward moves the moving statistics. The activation's input z is not kept: backward computes it
// again from x, by the same expression.
//
// Channels are the fast axis, so threadIdx.x walks over channels, VECTOR of them per thread in one
// access of 16 bytes, and threadIdx.y over rows: channel constants live in registers. Every pass
// loads BATCH rows before it uses the first, which keeps enough bytes in flight with few threads.
//
// Every pass needs all rows of a channel reduced before it can write the first of them:
//
//   one launch     a block has a few channels to itself, reduces all their rows, and writes them
//                  from the lines it has just read. Best up to about 128 kB per block, where a
//                  second launch would cost more than the rest of the GPU could save.
//   two launches   the rows of a channel are split over blocks. The first launch leaves each
//                  block's result in `partial`; every block of the second merges those of its
//                  channels once more, all the same ones in the same order, and goes on with its
//                  rows. That is a few kB from the cache per block, and takes neither a third
//                  launch nor a count of finished blocks.
//
// No atomics, and an order of summation that the shapes alone decide: same bits every run.
//
// Mean and variance are merged as (count, mean, sum of squared deviations), never as
// E[x^2] - E[x]^2, which loses everything once the mean is large beside the deviation: Chan, Golub
// and LeVeque, "Algorithms for computing the sample variance", 1983. Each thread forms those three
// from BATCH rows at a time, in registers, which needs two divisions per BATCH rows. All is
// relative to the channel's first value, so that a mean of 1e4 is rounded once, at the end, and not
// in every merge.
//
// Steps: a launch each to reduce, to merge, to normalise and to move the statistics, one channel
// per thread; the moving statistics on the way of backward; merging in the pass over x; one launch
// where a block can do it; four channels per thread.
//
// variants: | -DACTIVATION=relu | -DACTIVATION=leaky_relu | -DACTIVATION=elu
// variants: -DACTIVATION=sigmoid | -DACTIVATION=tanh | -DACTIVATION=softplus
// variants: -DVECTOR=1 | -DACTIVATION=relu -DVECTOR=1 | -DACTIVATION=leaky_relu -DVECTOR=1
// variants: -DACTIVATION=elu -DVECTOR=1 | -DACTIVATION=sigmoid -DVECTOR=1
// variants: -DACTIVATION=tanh -DVECTOR=1 | -DACTIVATION=softplus -DVECTOR=1

#include "activation.cuh"
#include "flat.cuh"

#ifndef VECTOR
#define VECTOR 4  // channels per thread: 4, where C is a multiple of it and rows are aligned, or 1
#endif

constexpr int WHOLE = 512;                  // most threads of a block that has whole channels
constexpr int SPLIT = 256;                  // threads of a block that shares its channels
constexpr int MERGED = 2 * VECTOR + 1;      // floats of shared memory per thread, to merge moments
constexpr int ADDED = 2 * VECTOR;           // and to add sums
constexpr int BATCH = VECTOR == 4 ? 4 : 8;  // rows in flight per thread

using Values = Pack<VECTOR>;

struct Moments {
    float count;
    Values mean;
    Values squares;  // sum of (x - mean)^2
};

__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
    if (b.count == 0.0f) {
        return a;
    }
    Moments both;
    both.count = a.count + b.count;
    const float share = b.count / both.count;
    const float weight = a.count * share;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        const float delta = b.mean.at[k] - a.mean.at[k];
        both.mean.at[k] = fmaf(delta, share, a.mean.at[k]);
        both.squares.at[k] = a.squares.at[k] + fmaf(delta * delta, weight, b.squares.at[k]);
    }
    return both;
}

struct Sums {
    Values g;       // sum of g
    Values g_xhat;  // sum of g * xhat
};

__device__ __forceinline__ Sums add(Sums a, const Sums& b) {
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        a.g.at[k] += b.g.at[k];
        a.g_xhat.at[k] += b.g_xhat.at[k];
    }
    return a;
}

__device__ __forceinline__ int slot_of_thread() {
    return threadIdx.y * blockDim.x + threadIdx.x;
}

// Merges the blockDim.y results of each channel; every thread gets the whole of its channels, and
// every thread must call it. shared: MERGED floats per thread, one after the other by quantity, so
// that neighbouring threads use neighbouring banks.
__device__ __forceinline__ Moments merge_block(Moments mine, float* shared) {
    const int threads = blockDim.x * blockDim.y;
    const auto put = [&](int slot) {
        shared[slot] = mine.count;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            shared[(1 + k) * threads + slot] = mine.mean.at[k];
            shared[(1 + VECTOR + k) * threads + slot] = mine.squares.at[k];
        }
    };
    const auto get = [&](int slot) {
        Moments other;
        other.count = shared[slot];
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            other.mean.at[k] = shared[(1 + k) * threads + slot];
            other.squares.at[k] = shared[(1 + VECTOR + k) * threads + slot];
        }
        return other;
    };
    const int slot = slot_of_thread();
    put(slot);
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
            mine = merge(mine, get(slot + half * blockDim.x));
            put(slot);
        }
    }
    __syncthreads();
    return get(threadIdx.x);
}

// As merge_block, for the gradient's sums; ADDED floats of shared per thread.
__device__ __forceinline__ Sums add_block(Sums mine, float* shared) {
    const int threads = blockDim.x * blockDim.y;
    const auto put = [&](int slot) {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            shared[k * threads + slot] = mine.g.at[k];
            shared[(VECTOR + k) * threads + slot] = mine.g_xhat.at[k];
        }
    };
    const auto get = [&](int slot) {
        Sums other;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            other.g.at[k] = shared[k * threads + slot];
            other.g_xhat.at[k] = shared[(VECTOR + k) * threads + slot];
        }
        return other;
    };
    const int slot = slot_of_thread();
    put(slot);
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
            mine = add(mine, get(slot + half * blockDim.x));
            put(slot);
        }
    }
    __syncthreads();
    return get(threadIdx.x);
}

// A place in a (rows, channels) array: the thread's channels of one row.
__device__ __forceinline__ long long place(int row, int channels, int c) {
    return static_cast<long long>(row) * channels + c;
}

__device__ __forceinline__ int first_channel_of_thread() {
    return (blockIdx.x * blockDim.x + threadIdx.x) * VECTOR;
}

// An array over channels: read once per thread, so it need not be aligned.
__device__ __forceinline__ Values values_at(const float* array, int c) {
    Values values;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        values.at[k] = array[c + k];
    }
    return values;
}

__device__ __forceinline__ void put_values(float* array, int c, const Values& values) {
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        array[c + k] = values.at[k];
    }
}

// The thread's rows, those at begin + threadIdx.y + i * blockDim.y below end: load(row) of BATCH
// rows, then use(row, loaded) of each.
template <class Load, class Use>
__device__ __forceinline__ void for_rows(int begin, int end, const Load& load, const Use& use) {
    for (int row = begin + threadIdx.y; row < end; row += BATCH * blockDim.y) {
        decltype(load(row)) loaded[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            const int at = row + k * blockDim.y;
            if (at < end) {
                loaded[k] = load(at);
            }
        }
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            const int at = row + k * blockDim.y;
            if (at < end) {
                use(at, loaded[k]);
            }
        }
    }
}

// The moments of the thread's rows, relative to pivot (the channels' values in row 0).
__device__ __forceinline__ Moments moments_of_rows(const float* x, int begin, int end, int channels,
                                                   int c, const Values& pivot) {
    Moments whole = {};
    for (int row = begin + threadIdx.y; row < end; row += BATCH * blockDim.y) {
        Values value[BATCH];
        int count = 0;
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            const int at = row + k * blockDim.y;
            value[k] = at < end ? load<VECTOR>(x + place(at, channels, c)) : pivot;
            count += at < end;
        }
        Moments batch;
        batch.count = static_cast<float>(count);
        const float part = 1.0f / batch.count;
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) {
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < BATCH; ++k) {
                value[k].at[j] -= pivot.at[j];
                sum += value[k].at[j];
            }
            batch.mean.at[j] = sum * part;
            batch.squares.at[j] = 0.0f;
#pragma unroll
            for (int k = 0; k < BATCH; ++k) {
                const float deviation = k < count ? value[k].at[j] - batch.mean.at[j] : 0.0f;
                batch.squares.at[j] = fmaf(deviation, deviation, batch.squares.at[j]);
            }
        }
        whole = merge(whole, batch);
    }
    return whole;
}

// The thread's share of what the splits of its channels left in partial (2, splits, C).
__device__ __forceinline__ Moments moments_of_splits(const float* partial, int rows, int channels,
                                                     int rows_per_split, int splits, int c) {
    Moments whole = {};
    for (int split = threadIdx.y; split < splits; split += blockDim.y) {
        Moments part;
        part.count = static_cast<float>(min(rows - split * rows_per_split, rows_per_split));
        part.mean = load<VECTOR>(partial + place(split, channels, c));
        part.squares = load<VECTOR>(partial + place(splits + split, channels, c));
        whole = merge(whole, part);
    }
    return whole;
}

// What the thread's channels need, in registers.
struct Channels {
    Values mean;
    Values inverse_deviation;
    Values gamma;
    Values beta;

    __device__ __forceinline__ float normalised(int k, float x) const {
        return (x - mean.at[k]) * inverse_deviation.at[k];
    }
    __device__ __forceinline__ float scaled(int k, float xhat) const {
        return fmaf(gamma.at[k], xhat, beta.at[k]);
    }
};

__device__ __forceinline__ Channels channels_with(const Values& mean, const Values& var,
                                                  const float* gamma, const float* beta, int c,
                                                  float eps, int fix_gamma) {
    Channels own;
    own.mean = mean;
    own.beta = values_at(beta, c);
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        own.inverse_deviation.at[k] = 1.0f / sqrtf(var.at[k] + eps);
        own.gamma.at[k] = fix_gamma ? 1.0f : gamma[c + k];
    }
    return own;
}

__device__ __forceinline__ void set_to_one(float* gamma, int c) {
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        gamma[c + k] = 1.0f;
    }
}

__device__ __forceinline__ void normalize_rows(const float* x, float* y, int begin, int end,
                                               int channels, int c, const Channels& own,
                                               float slope) {
    for_rows(
        begin, end, [&](int row) { return load<VECTOR>(x + place(row, channels, c)); },
        [&](int row, Values values) {
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                values.at[k] =
                    activate(KIND, own.scaled(k, own.normalised(k, values.at[k])), slope);
            }
            store<VECTOR>(y + place(row, channels, c), values);
        });
}

// ---- Forward, one launch: block i has its channels to itself. mean, var: the batch's. With
// fix_gamma, gamma is overwritten with 1 and not read.
extern "C" __global__ void __launch_bounds__(WHOLE)
    batch_norm_forward_training(const float* __restrict__ x, float* gamma,
                                const float* __restrict__ beta, float* __restrict__ y,
                                float* __restrict__ mean, float* __restrict__ var, int rows,
                                int channels, float eps, int fix_gamma, float slope) {
    __shared__ float shared[MERGED * WHOLE];
    const int c = first_channel_of_thread();
    Values pivot = {};
    Moments whole = {};
    if (c < channels) {
        pivot = load<VECTOR>(x + c);
        whole = moments_of_rows(x, 0, rows, channels, c, pivot);
    }
    whole = merge_block(whole, shared);
    if (c >= channels) {
        return;
    }
    Values variance;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        pivot.at[k] += whole.mean.at[k];
        variance.at[k] = whole.squares.at[k] / static_cast<float>(rows);
    }
    const Channels own = channels_with(pivot, variance, gamma, beta, c, eps, fix_gamma);
    if (threadIdx.y == 0) {
        put_values(mean, c, pivot);
        put_values(var, c, variance);
        if (fix_gamma) {
            set_to_one(gamma, c);
        }
    }
    normalize_rows(x, y, 0, rows, channels, c, own, slope);
}

// ---- Forward, first of two launches: block (i, s) reduces its channels over the rows
// [s * rows_per_split, ...) into partial (2, splits, C): mean - x[0], squared deviations.
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_statistics(const float* __restrict__ x, float* __restrict__ partial, int rows,
                          int channels, int rows_per_split) {
    __shared__ float shared[MERGED * SPLIT];
    const int c = first_channel_of_thread();
    const int begin = blockIdx.y * rows_per_split;
    Moments whole = {};
    if (c < channels) {
        const int end = min(rows, begin + rows_per_split);
        whole = moments_of_rows(x, begin, end, channels, c, load<VECTOR>(x + c));
    }
    whole = merge_block(whole, shared);
    if (threadIdx.y == 0 && c < channels) {
        const int splits = gridDim.y;
        store<VECTOR>(partial + place(blockIdx.y, channels, c), whole.mean);
        store<VECTOR>(partial + place(splits + blockIdx.y, channels, c), whole.squares);
    }
}

// ---- Forward, second of two launches, and inference. partial (2, splits, C) is merged into mean
// and var; where it is null, mean and var are given: the moving ones.
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_normalize(const float* __restrict__ x, const float* __restrict__ partial,
                         float* gamma, const float* __restrict__ beta, float* mean, float* var,
                         float* __restrict__ y, int rows, int channels, int rows_per_split,
                         float eps, int fix_gamma, float slope) {
    __shared__ float shared[MERGED * SPLIT];
    const int c = first_channel_of_thread();
    const bool inside = c < channels;
    const bool writes = blockIdx.y == 0 && threadIdx.y == 0;
    Values centre = {};
    Values variance = {};
    if (partial != nullptr) {
        Moments whole = {};
        if (inside) {
            centre = load<VECTOR>(x + c);
            whole = moments_of_splits(partial, rows, channels, rows_per_split, gridDim.y, c);
        }
        whole = merge_block(whole, shared);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            centre.at[k] += whole.mean.at[k];
            variance.at[k] = whole.squares.at[k] / static_cast<float>(rows);
        }
        if (inside && writes) {
            put_values(mean, c, centre);
            put_values(var, c, variance);
        }
    } else if (inside) {
        centre = values_at(mean, c);
        variance = values_at(var, c);
    }
    if (!inside) {
        return;
    }
    const Channels own = channels_with(centre, variance, gamma, beta, c, eps, fix_gamma);
    if (fix_gamma && writes) {
        set_to_one(gamma, c);
    }
    const int begin = blockIdx.y * rows_per_split;
    const int end = min(rows, begin + rows_per_split);
    normalize_rows(x, y, begin, end, channels, c, own, slope);
}

struct Pair {
    Values x;
    Values dy;
};

__device__ __forceinline__ Pair pair_at(const float* x, const float* dy, long long at) {
    return {load<VECTOR>(x + at), load<VECTOR>(dy + at)};
}

__device__ __forceinline__ Sums sums_of_rows(const float* x, const float* dy, int begin, int end,
                                             int channels, int c, const Channels& own,
                                             float slope) {
    Sums whole = {};
    for_rows(
        begin, end, [&](int row) { return pair_at(x, dy, place(row, channels, c)); },
        [&](int, const Pair& pair) {
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const float xhat = own.normalised(k, pair.x.at[k]);
                const float g =
                    pair.dy.at[k] * derivative_from_input(KIND, own.scaled(k, xhat), slope);
                whole.g.at[k] += g;
                whole.g_xhat.at[k] = fmaf(g, xhat, whole.g_xhat.at[k]);
            }
        });
    return whole;
}

// dx of the thread's rows. sums: those over all rows, or 0 where mean and var are constants.
// No __restrict__ on dy and dx: they may be the same array, read and written by the same thread.
__device__ __forceinline__ void backward_rows(const float* x, const float* dy, float* dx, int begin,
                                              int end, int channels, int c, const Channels& own,
                                              Sums sums, int rows, float slope, int accumulate) {
    Values scale;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        scale.at[k] = own.gamma.at[k] * own.inverse_deviation.at[k];
        sums.g.at[k] /= static_cast<float>(rows);
        sums.g_xhat.at[k] /= static_cast<float>(rows);
    }
    for_rows(
        begin, end, [&](int row) { return pair_at(x, dy, place(row, channels, c)); },
        [&](int row, const Pair& pair) {
            Values gradient;
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const float xhat = own.normalised(k, pair.x.at[k]);
                const float g =
                    pair.dy.at[k] * derivative_from_input(KIND, own.scaled(k, xhat), slope);
                gradient.at[k] = scale.at[k] * (g - sums.g.at[k] - xhat * sums.g_xhat.at[k]);
            }
            store_gradient<VECTOR>(dx + place(row, channels, c), gradient, accumulate);
        });
}

// The parameters' gradients where wanted (dgamma, dbeta may be null). With fix_gamma the gradient
// of gamma is exactly 0.
__device__ __forceinline__ void put_parameter_gradients(const Sums& sums, float* dgamma,
                                                        float* dbeta, int c, int fix_gamma,
                                                        int accumulate_gamma, int accumulate_beta) {
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        if (dgamma != nullptr) {
            const float gradient = fix_gamma ? 0.0f : sums.g_xhat.at[k];
            dgamma[c + k] = accumulate_gamma ? dgamma[c + k] + gradient : gradient;
        }
        if (dbeta != nullptr) {
            dbeta[c + k] = accumulate_beta ? dbeta[c + k] + sums.g.at[k] : sums.g.at[k];
        }
    }
}

__device__ __forceinline__ float moved(float moving, float batch, float momentum) {
    return momentum * moving + (1.0f - momentum) * batch;
}

// moving_mean and moving_var may be null.
__device__ __forceinline__ void move_statistics(const float* mean, const float* var,
                                                float* moving_mean, float* moving_var, int c,
                                                float momentum) {
    if (moving_mean != nullptr) {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            moving_mean[c + k] = moved(moving_mean[c + k], mean[c + k], momentum);
            moving_var[c + k] = moved(moving_var[c + k], var[c + k], momentum);
        }
    }
}

// ---- Backward, one launch: block i has its channels to itself. dx, dgamma, dbeta and the moving
// statistics may be null. constant_statistics: mean and var do not depend on x, and
// dx = gamma / sqrt(var + eps) * g.
extern "C" __global__ void __launch_bounds__(WHOLE)
    batch_norm_backward(const float* __restrict__ x, const float* __restrict__ gamma,
                        const float* __restrict__ beta, const float* __restrict__ mean,
                        const float* __restrict__ var, const float* dy, float* dx,
                        float* __restrict__ dgamma, float* __restrict__ dbeta,
                        float* __restrict__ moving_mean, float* __restrict__ moving_var, int rows,
                        int channels, float eps, float slope, float momentum, int fix_gamma,
                        int constant_statistics, int accumulate, int accumulate_gamma,
                        int accumulate_beta) {
    __shared__ float shared[ADDED * WHOLE];
    const int c = first_channel_of_thread();
    Channels own = {};
    Sums sums = {};
    if (c < channels) {
        own = channels_with(values_at(mean, c), values_at(var, c), gamma, beta, c, eps, fix_gamma);
        sums = sums_of_rows(x, dy, 0, rows, channels, c, own, slope);
    }
    sums = add_block(sums, shared);
    if (c >= channels) {
        return;
    }
    if (threadIdx.y == 0) {
        put_parameter_gradients(sums, dgamma, dbeta, c, fix_gamma, accumulate_gamma,
                                accumulate_beta);
        move_statistics(mean, var, moving_mean, moving_var, c, momentum);
    }
    if (dx != nullptr) {
        backward_rows(x, dy, dx, 0, rows, channels, c, own, constant_statistics ? Sums{} : sums,
                      rows, slope, accumulate);
    }
}

// ---- Backward, first of two launches: the sums of each split, in partial (2, splits, C).
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_gradient_sums(const float* __restrict__ x, const float* __restrict__ gamma,
                             const float* __restrict__ beta, const float* __restrict__ mean,
                             const float* __restrict__ var, const float* __restrict__ dy,
                             float* __restrict__ partial, int rows, int channels,
                             int rows_per_split, float eps, float slope, int fix_gamma) {
    __shared__ float shared[ADDED * SPLIT];
    const int c = first_channel_of_thread();
    Sums sums = {};
    if (c < channels) {
        const Channels own =
            channels_with(values_at(mean, c), values_at(var, c), gamma, beta, c, eps, fix_gamma);
        const int begin = blockIdx.y * rows_per_split;
        const int end = min(rows, begin + rows_per_split);
        sums = sums_of_rows(x, dy, begin, end, channels, c, own, slope);
    }
    sums = add_block(sums, shared);
    if (threadIdx.y == 0 && c < channels) {
        const int splits = gridDim.y;
        store<VECTOR>(partial + place(blockIdx.y, channels, c), sums.g);
        store<VECTOR>(partial + place(splits + blockIdx.y, channels, c), sums.g_xhat);
    }
}

// ---- Backward, second of two launches, and the only one for dx alone with constant statistics,
// where partial is null and splits 0. dx, dgamma, dbeta and the moving statistics may be null;
// without dx one row of blocks is enough.
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_backward_data(const float* __restrict__ x, const float* __restrict__ gamma,
                             const float* __restrict__ beta, const float* __restrict__ mean,
                             const float* __restrict__ var, const float* dy,
                             const float* __restrict__ partial, float* dx,
                             float* __restrict__ dgamma, float* __restrict__ dbeta,
                             float* __restrict__ moving_mean, float* __restrict__ moving_var,
                             int rows, int channels, int rows_per_split, int splits, float eps,
                             float slope, float momentum, int fix_gamma, int constant_statistics,
                             int accumulate, int accumulate_gamma, int accumulate_beta) {
    __shared__ float shared[ADDED * SPLIT];
    const int c = first_channel_of_thread();
    Sums sums = {};
    if (partial != nullptr) {
        if (c < channels) {
            for (int split = threadIdx.y; split < splits; split += blockDim.y) {
                sums = add(sums, {load<VECTOR>(partial + place(split, channels, c)),
                                  load<VECTOR>(partial + place(splits + split, channels, c))});
            }
        }
        sums = add_block(sums, shared);
    }
    if (c >= channels) {
        return;
    }
    if (blockIdx.y == 0 && threadIdx.y == 0) {
        put_parameter_gradients(sums, dgamma, dbeta, c, fix_gamma, accumulate_gamma,
                                accumulate_beta);
        move_statistics(mean, var, moving_mean, moving_var, c, momentum);
    }
    if (dx != nullptr) {
        const Channels own =
            channels_with(values_at(mean, c), values_at(var, c), gamma, beta, c, eps, fix_gamma);
        const int begin = blockIdx.y * rows_per_split;
        const int end = min(rows, begin + rows_per_split);
        backward_rows(x, dy, dx, begin, end, channels, c, own, constant_statistics ? Sums{} : sums,
                      rows, slope, accumulate);
    }
}

// The moving statistics by themselves, for a backward that needs no gradient of this layer.
extern "C" __global__ void batch_norm_update_moving(const float* __restrict__ mean,
                                                    const float* __restrict__ var,
                                                    float* __restrict__ moving_mean,
                                                    float* __restrict__ moving_var, int channels,
                                                    float momentum) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < channels) {
        moving_mean[c] = moved(moving_mean[c], mean[c], momentum);
        moving_var[c] = moved(moving_var[c], var[c], momentum);
    }
}

// Launch contract. Blocks (X, Y), Y a power of two, over X * VECTOR channels each.
//   one launch      grid (ceil(C / (X * VECTOR))), X * Y from 32 to WHOLE = 512
//   two launches    grid (ceil(C / (X * VECTOR)), splits), splits = ceil(rows / rows_per_split) at
//                   most 65535, X * Y = SPLIT = 256; both launches alike
//   batch_norm_update_moving   one-dimensional, 256 threads
// VECTOR = 4 needs C % 4 == 0 and x, y, dy, dx and partial at multiples of 16 bytes; arrays over
// channels need not be. No dynamic shared memory. Stream order carries results from one launch to
// the next.
