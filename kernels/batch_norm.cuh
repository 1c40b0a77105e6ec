// Batch normalisation: what a block computes (batch_norm.cu tells the maths and how the work is
// cut).
#pragma once

#include "activation.cuh"
#include "normalisation.cuh"
#include "stored.cuh"

namespace batch_norm {

#ifndef ROWS_IN_FLIGHT
#define ROWS_IN_FLIGHT BATCH  // per thread, in passes that write; fewer where registers are short
#endif
#ifndef INPUT
#define INPUT float  // what memory holds of x and dx: float or Bf16
#endif
#ifndef OUTPUT
#define OUTPUT float  // of y and dy
#endif
#ifndef VECTOR
#define VECTOR 4  // channels per thread: 4, where C is a multiple of it and rows are aligned, or 1
#endif

constexpr int MERGED = 2 * VECTOR + 1;  // floats of shared memory per thread, to merge moments
constexpr int ADDED = 2 * VECTOR;       // and to add sums
// Rows whose moments a thread forms at once.
constexpr int BATCH = VECTOR == 4 && sizeof(INPUT) == 4 ? 4 : 8;
// Rows of x and of dy that a thread has in flight: 8 of both would take more registers than it has.
constexpr int PAIRS_IN_FLIGHT = sizeof(INPUT) == 4 ? ROWS_IN_FLIGHT : 4;

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

// The calling thread's part of a block (X, Y): of which VECTOR channels, and which rows of threads.
// As launched, the block's threads are those of the launch.
struct LaunchedBlock {
    int column = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
    int x = threadIdx.x, width = blockDim.x;
    int y = threadIdx.y, height = blockDim.y;  // threads that meet, in rows
    static constexpr int folds = 1;            // rows of threads that each of them stands for
    static constexpr bool active = true;
};

// Where fewer threads than X * Y play a block (program.cu): each stands for `folds` rows of
// threads, `height` apart, and those that are too many for it only meet the others.
struct PlayedBlock {
    int column, split, splits, x, width, y, height, folds;
    bool active;

    __device__ PlayedBlock(int column, int split, int splits, int width, int rows, int threads)
        : column(column), split(split), splits(splits), width(width) {
        height = min(rows, threads / width);
        folds = rows / height;
        x = threadIdx.x % width;
        y = threadIdx.x / width;
        active = y < height;
    }
};

// What make(row of threads) gives for each row that the thread stands for, 1, 2 or 4, merged in the
// order of merge_block: rows half of all apart first.
template <class Block, class Make, class Merge>
__device__ __forceinline__ auto folded(const Block& at, const Make& make, const Merge& merge) {
    decltype(make(0)) single = {}, merged = {};
#pragma unroll 1
    for (int i = 0; i < at.folds; ++i) {
        const int fold = at.folds == 4 ? i % 2 * 2 + i / 2 : i;
        auto part = make(at.y + fold * at.height);
        if (i % 2 == 0) {
            single = part;
            continue;
        }
        part = merge(single, part);
        merged = i == 1 ? part : merge(merged, part);
    }
    return at.folds == 1 ? single : merged;
}

// Merges the results of each channel over the block's rows of threads; every thread gets the whole
// of its channels, and every thread must call it. shared: MERGED floats per thread, one after the
// other by quantity, so that neighbouring threads use neighbouring banks.
template <class Block>
__device__ __forceinline__ Moments merge_block(const Block& at, Moments mine, float* shared) {
    const int threads = at.width * at.height;
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
    const int slot = at.y * at.width + at.x;
    if (at.active) put(slot);
    for (int half = at.height / 2; half > 0; half /= 2) {
        __syncthreads();
        if (at.y < half) {
            mine = merge(mine, get(slot + half * at.width));
            put(slot);
        }
    }
    __syncthreads();
    return get(at.x);
}

// As merge_block, for the gradient's sums; ADDED floats of shared per thread.
template <class Block>
__device__ __forceinline__ Sums add_block(const Block& at, Sums mine, float* shared) {
    const int threads = at.width * at.height;
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
    const int slot = at.y * at.width + at.x;
    if (at.active) put(slot);
    for (int half = at.height / 2; half > 0; half /= 2) {
        __syncthreads();
        if (at.y < half) {
            mine = add(mine, get(slot + half * at.width));
            put(slot);
        }
    }
    __syncthreads();
    return get(at.x);
}

// A place in a (rows, channels) array: the thread's channels of one row.
__device__ __forceinline__ long long place(int row, int channels, int c) {
    return static_cast<long long>(row) * channels + c;
}

// Where the thread reads its channels, row by row: an array, or a block's copy of a part of one in
// shared memory. Everything that reads rows does it through this.
template <class Number>
struct SourceOf {
    const Number* first;  // the thread's channels in row `begin`
    int pitch;            // from one row to the next
    int begin;

    __device__ __forceinline__ Values operator()(int row) const {
        return load<VECTOR>(first + static_cast<long long>(row - begin) * pitch);
    }
};

using Source = SourceOf<INPUT>;

template <class Number>
__device__ __forceinline__ SourceOf<Number> rows_of(const Number* array, int channels, int c) {
    return {array + c, channels, 0};
}

// Past the last for a thread that has none.
template <class Block>
__device__ __forceinline__ int first_channel_of_thread(const Block& at, int channels) {
    return at.active ? (at.column * at.width + at.x) * VECTOR : channels;
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

// A part of the rows: begin, begin + step, ... below end.
struct Rows {
    int begin, end, step;
};

// Those of the row y of a block's threads, of the rows of its split.
template <class Block>
__device__ __forceinline__ Rows rows_of_thread(const Block& at, int y, int rows,
                                               int rows_per_split) {
    const int begin = at.split * rows_per_split;
    return {begin + y, min(rows, begin + rows_per_split), at.height * at.folds};
}

// The same, where it does not matter which thread takes which row.
template <class Block>
__device__ __forceinline__ Rows rows_of_block(const Block& at, int rows, int rows_per_split) {
    const int begin = at.split * rows_per_split;
    return {begin + at.y, min(rows, begin + rows_per_split), at.height};
}

// load(row) of some rows, then use(row, loaded) of each.
template <int IN_FLIGHT = ROWS_IN_FLIGHT, class Load, class Use>
__device__ __forceinline__ void for_rows(Rows rows, const Load& load, const Use& use) {
#pragma unroll 1
    for (int row = rows.begin; row < rows.end; row += IN_FLIGHT * rows.step) {
        decltype(load(row)) loaded[IN_FLIGHT];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; ++k) {
            const int at = row + k * rows.step;
            if (at < rows.end) {
                loaded[k] = load(at);
            }
        }
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; ++k) {
            const int at = row + k * rows.step;
            if (at < rows.end) {
                use(at, loaded[k]);
            }
        }
    }
}

// The moments of the thread's rows, relative to pivot (the channels' values in row 0).
__device__ __forceinline__ Moments moments_of_rows(const Source& x, Rows rows,
                                                   const Values& pivot) {
    Moments whole = {};
#pragma unroll 1
    for (int row = rows.begin; row < rows.end; row += BATCH * rows.step) {
        Values value[BATCH];
        int count = 0;
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            const int at = row + k * rows.step;
            value[k] = at < rows.end ? x(at) : pivot;
            count += at < rows.end;
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

// The thread's part of its block's rows.
template <class Block>
__device__ __forceinline__ Moments moments_of_block(const Block& at, const Source& x, int rows,
                                                    int rows_per_split, const Values& pivot) {
    return folded(
        at,
        [&](int y) {
            return moments_of_rows(x, rows_of_thread(at, y, rows, rows_per_split), pivot);
        },
        merge);
}

// Moments of parts of the rows that another launch has left, to be merged: a class with
//     count                  how many parts there are
//     IN_FLIGHT              and how many a thread loads before it uses the first
//     operator()(part, c)    those of channels c, ..., with means relative to centre(c)

// What statistics_of_split leaves, in partial (2, splits, C). Relative to the first row.
struct OfSplits {
    static constexpr int IN_FLIGHT = 1;
    const float* partial;
    int count, rows, channels, rows_per_split;

    __device__ __forceinline__ Moments operator()(int split, int c) const {
        return {static_cast<float>(min(rows - split * rows_per_split, rows_per_split)),
                load<VECTOR>(partial + place(split, channels, c)),
                load<VECTOR>(partial + place(count + split, channels, c))};
    }
};

// What tiles of a convolution leave (tile_moments.cuh): (tiles, C) means, as many squares, and the
// tiles' counts, some of which may be 0. Relative to the first tile, so that a mean of 1e4 is not
// rounded again in every merge.
struct OfTiles {
    static constexpr int IN_FLIGHT = 4;
    const float* moments;
    int count, channels;
    Values first;

    __device__ __forceinline__ OfTiles(const float* moments, int tiles, int channels, int c)
        : moments(moments), count(tiles), channels(channels), first() {
        if (c < channels && pixels(0) > 0.0f) first = load<VECTOR>(moments + c);
    }
    __device__ __forceinline__ float pixels(int tile) const {
        return moments[2ll * count * channels + tile];
    }
    __device__ __forceinline__ Moments operator()(int tile, int c) const {
        Moments part = {pixels(tile), load<VECTOR>(moments + place(tile, channels, c)),
                        load<VECTOR>(moments + place(count + tile, channels, c))};
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) part.mean.at[k] -= first.at[k];
        return part;
    }
};

// Mean and biased variance of a channel.
struct Statistics {
    Values mean, variance;
};

// Those of `rows` rows, from their moments about `centre`.
__device__ __forceinline__ Statistics statistics_of(const Moments& whole, const Values& centre,
                                                    int rows) {
    Statistics all;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        all.mean.at[k] = centre.at[k] + whole.mean.at[k];
        all.variance.at[k] = whole.squares.at[k] / static_cast<float>(rows);
    }
    return all;
}

// Those of the thread's channels, from the parts of all `rows` rows; `centre` is what the parts'
// means are relative to. Called by all threads of the block, with MERGED floats for each in shared;
// a thread without channels (c past the last) gets nothing of use.
template <class Block, class Parts>
__device__ __forceinline__ Statistics merged(const Block& at, float* shared, const Parts& parts,
                                             const Values& centre, int rows, int channels, int c) {
    Moments whole = {};
    if (c < channels) {
        const auto of_parts = [&](int first) {
            Moments own = {};
            if constexpr (Parts::IN_FLIGHT == 1) {  // in fewer registers
#pragma unroll 1
                for (int part = first; part < parts.count; part += at.height * at.folds) {
                    own = merge(own, parts(part, c));
                }
                return own;
            }
            for_rows<Parts::IN_FLIGHT>(
                {first, parts.count, at.height * at.folds},
                [&](int part) { return parts(part, c); },
                [&](int, const Moments& part) { own = merge(own, part); });
            return own;
        };
        whole = folded(at, of_parts, merge);
    }
    return statistics_of(merge_block(at, whole, shared), centre, rows);
}

// What the thread's channels need, in registers.
struct Channels {
    Values mean;
    Values inverse_deviation;
    Values gamma;
    Values beta;

    __device__ __forceinline__ float normalised(int k, float x) const {
        return ::normalised(x, mean.at[k], inverse_deviation.at[k]);
    }
    __device__ __forceinline__ float scaled(int k, float xhat) const {
        return ::scaled(xhat, gamma.at[k], beta.at[k]);
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
        own.inverse_deviation.at[k] = ::inverse_deviation(var.at[k], eps);
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

__device__ __forceinline__ Values activated(Values values, const Channels& own, Activation kind,
                                            float slope) {
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        values.at[k] = activate(kind, own.scaled(k, own.normalised(k, values.at[k])), slope);
    }
    return values;
}

__device__ __forceinline__ void normalize_rows(const Source& x, OUTPUT* y, Rows rows, int channels,
                                               int c, const Channels& own, Activation kind,
                                               float slope) {
    for_rows(rows, x, [&](int row, const Values& values) {
        store<VECTOR>(y + place(row, channels, c), activated(values, own, kind, slope));
    });
}

// ---- What a block does. `shared` has MERGED floats for each thread that meets in forward, ADDED
// in backward. A block that has its channels to itself is the only split.

struct Forward {
    const INPUT* x;
    float* gamma;
    const float* beta;
    OUTPUT* y;
    float *mean, *var;
    int rows, channels, rows_per_split;
    float eps;
    int fix_gamma;
    Activation kind;
    float slope;
};

// From the block's channels with their statistics to y, its share of the rows.
template <class Block>
__device__ __forceinline__ void normalize(const Block& at, const Forward& f, const Source& x, int c,
                                          const Values& mean, const Values& var) {
    const Channels own = channels_with(mean, var, f.gamma, f.beta, c, f.eps, f.fix_gamma);
    if (f.fix_gamma && at.split == 0 && at.y == 0) {
        set_to_one(f.gamma, c);
    }
    normalize_rows(x, f.y, rows_of_block(at, f.rows, f.rows_per_split), f.channels, c, own, f.kind,
                   f.slope);
}

// One launch: the block has all rows of its channels.
template <class Block>
__device__ __forceinline__ void forward_training(const Block& at, float* shared, const Forward& f,
                                                 const Source& x, int c) {
    Values pivot = {};
    Moments whole = {};
    if (c < f.channels) {
        pivot = x(0);
        whole = moments_of_block(at, x, f.rows, f.rows, pivot);
    }
    whole = merge_block(at, whole, shared);
    if (c >= f.channels) {
        return;
    }
    Values variance;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        pivot.at[k] += whole.mean.at[k];
        variance.at[k] = whole.squares.at[k] / static_cast<float>(f.rows);
    }
    if (at.y == 0) {
        put_values(f.mean, c, pivot);
        put_values(f.var, c, variance);
    }
    normalize(at, f, x, c, pivot, variance);
}

template <class Block>
__device__ __forceinline__ void forward_training(const Block& at, float* shared, const Forward& f) {
    const int c = first_channel_of_thread(at, f.channels);
    forward_training(at, shared, f, rows_of(f.x, f.channels, c), c);
}

// First of two launches: partial (2, splits, C) gets mean - pivot and the squared deviations; pivot
// is x[0].
template <class Block>
__device__ __forceinline__ void statistics_of_split(const Block& at, float* shared, const Source& x,
                                                    const Values& pivot, float* partial, int rows,
                                                    int channels, int rows_per_split, int c) {
    Moments whole = {};
    if (c < channels) {
        whole = moments_of_block(at, x, rows, rows_per_split, pivot);
    }
    whole = merge_block(at, whole, shared);
    if (at.y == 0 && c < channels) {
        store<VECTOR>(partial + place(at.split, channels, c), whole.mean);
        store<VECTOR>(partial + place(at.splits + at.split, channels, c), whole.squares);
    }
}

template <class Block>
__device__ __forceinline__ void statistics_of_split(const Block& at, float* shared, const INPUT* x,
                                                    float* partial, int rows, int channels,
                                                    int rows_per_split) {
    const int c = first_channel_of_thread(at, channels);
    const Source source = rows_of(x, channels, c);
    const Values pivot = c < channels ? source(0) : Values{};
    statistics_of_split(at, shared, source, pivot, partial, rows, channels, rows_per_split, c);
}

// The batch's, by the first block of its channels.
template <class Block>
__device__ __forceinline__ void put_statistics(const Block& at, const Forward& f,
                                               const Statistics& all, int c) {
    if (at.split == 0 && at.y == 0) {
        put_values(f.mean, c, all.mean);
        put_values(f.var, c, all.variance);
    }
}

// Second of two launches, and inference: partial is merged into mean and var; where it is null,
// those are given.
template <class Block>
__device__ __forceinline__ void normalize_split(const Block& at, float* shared, const Forward& f,
                                                const float* partial, const Source& x,
                                                const Values& first_row, int c) {
    const bool inside = c < f.channels;
    Statistics all = {};
    if (partial != nullptr) {
        const OfSplits parts = {partial, at.splits, f.rows, f.channels, f.rows_per_split};
        all = merged(at, shared, parts, first_row, f.rows, f.channels, c);
        if (inside) put_statistics(at, f, all, c);
    } else if (inside) {
        all = {values_at(f.mean, c), values_at(f.var, c)};
    }
    if (inside) {
        normalize(at, f, x, c, all.mean, all.variance);
    }
}

template <class Block>
__device__ __forceinline__ void normalize_split(const Block& at, float* shared, const Forward& f,
                                                const float* partial) {
    const int c = first_channel_of_thread(at, f.channels);
    const Source x = rows_of(f.x, f.channels, c);
    const Values first_row = partial != nullptr && c < f.channels ? x(0) : Values{};
    normalize_split(at, shared, f, partial, x, first_row, c);
}

// The only launch, behind a convolution whose tiles left moments.
template <class Block>
__device__ __forceinline__ void normalize_tiles(const Block& at, float* shared, const Forward& f,
                                                const float* moments, int tiles) {
    const int c = first_channel_of_thread(at, f.channels);
    const OfTiles parts(moments, tiles, f.channels, c);
    const Statistics all = merged(at, shared, parts, parts.first, f.rows, f.channels, c);
    if (c < f.channels) {
        put_statistics(at, f, all, c);
        normalize(at, f, rows_of(f.x, f.channels, c), c, all.mean, all.variance);
    }
}

struct Pair {
    Values x;
    Values dy;
};

// What a backward pass reads.
struct Sources {
    Source x;
    SourceOf<OUTPUT> dy;

    __device__ __forceinline__ Pair operator()(int row) const { return {x(row), dy(row)}; }
};

__device__ __forceinline__ Sums sums_of_rows(const Sources& from, Rows rows, const Channels& own,
                                             Activation kind, float slope) {
    Sums whole = {};
    for_rows<PAIRS_IN_FLIGHT>(rows, from, [&](int, const Pair& pair) {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            const float xhat = own.normalised(k, pair.x.at[k]);
            const float g = pair.dy.at[k] * derivative_from_input(kind, own.scaled(k, xhat), slope);
            whole.g.at[k] += g;
            whole.g_xhat.at[k] = fmaf(g, xhat, whole.g_xhat.at[k]);
        }
    });
    return whole;
}

// dx of the thread's rows. sums: those over all rows, or 0 where mean and var are constants.
// No __restrict__ on dy and dx: they may be the same array, read and written by the same thread.
__device__ __forceinline__ void backward_rows(const Sources& from, INPUT* dx, Rows rows,
                                              int channels, int c, const Channels& own, Sums sums,
                                              int all_rows, Activation kind, float slope,
                                              int accumulate) {
    Values scale;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        scale.at[k] = own.gamma.at[k] * own.inverse_deviation.at[k];
        sums.g.at[k] /= static_cast<float>(all_rows);
        sums.g_xhat.at[k] /= static_cast<float>(all_rows);
    }
    for_rows<PAIRS_IN_FLIGHT>(rows, from, [&](int row, const Pair& pair) {
        Values gradient;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            const float xhat = own.normalised(k, pair.x.at[k]);
            const float g = pair.dy.at[k] * derivative_from_input(kind, own.scaled(k, xhat), slope);
            gradient.at[k] = scale.at[k] * fmaf(-xhat, sums.g_xhat.at[k], g - sums.g.at[k]);
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
    return fmaf(momentum, moving, (1.0f - momentum) * batch);
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

// The operands of a backward pass. dx, dgamma, dbeta and the moving statistics may be null.
struct Given {
    const INPUT* x;
    const float *gamma, *beta, *mean, *var;
    const OUTPUT* dy;
};
struct Wanted {
    INPUT* dx;
    float *dgamma, *dbeta, *moving_mean, *moving_var;
};
struct Cut {
    int rows, channels, rows_per_split;
};
struct Reals {
    float eps, slope, momentum;
};
// constant_statistics: mean and var do not depend on x, and dx = gamma / sqrt(var + eps) * g.
struct Modes {
    int fix_gamma, constant_statistics, accumulate, accumulate_gamma, accumulate_beta;
};

struct Backward : Given, Wanted, Cut, Reals, Modes {
    Activation kind;

    __device__ __forceinline__ Sources sources(int c) const {
        return {rows_of(x, channels, c), rows_of(dy, channels, c)};
    }

    __device__ __forceinline__ Channels channels_of(int c) const {
        return channels_with(values_at(mean, c), values_at(var, c), gamma, beta, c, eps, fix_gamma);
    }
};

template <class Block>
__device__ __forceinline__ Sums sums_of_block(const Block& at, const Backward& b,
                                              const Sources& from, int c) {
    const Channels own = b.channels_of(c);
    return folded(
        at,
        [&](int y) {
            return sums_of_rows(from, rows_of_thread(at, y, b.rows, b.rows_per_split), own, b.kind,
                                b.slope);
        },
        add);
}

// From the sums over all rows to the gradients: the parameters' by one block, dx of its rows.
template <class Block>
__device__ __forceinline__ void put_gradients(const Block& at, const Backward& b,
                                              const Sources& from, int c, const Sums& sums) {
    if (at.split == 0 && at.y == 0) {
        put_parameter_gradients(sums, b.dgamma, b.dbeta, c, b.fix_gamma, b.accumulate_gamma,
                                b.accumulate_beta);
        move_statistics(b.mean, b.var, b.moving_mean, b.moving_var, c, b.momentum);
    }
    if (b.dx != nullptr) {
        backward_rows(from, b.dx, rows_of_block(at, b.rows, b.rows_per_split), b.channels, c,
                      b.channels_of(c), b.constant_statistics ? Sums{} : sums, b.rows, b.kind,
                      b.slope, b.accumulate);
    }
}

// One launch.
template <class Block>
__device__ __forceinline__ void backward(const Block& at, float* shared, const Backward& b,
                                         const Sources& from, int c) {
    Sums sums = {};
    if (c < b.channels) {
        sums = sums_of_block(at, b, from, c);
    }
    sums = add_block(at, sums, shared);
    if (c < b.channels) {
        put_gradients(at, b, from, c, sums);
    }
}

template <class Block>
__device__ __forceinline__ void backward(const Block& at, float* shared, const Backward& b) {
    const int c = first_channel_of_thread(at, b.channels);
    backward(at, shared, b, b.sources(c), c);
}

// First of two launches: the sums of each split, in partial (2, splits, C).
template <class Block>
__device__ __forceinline__ void gradient_sums(const Block& at, float* shared, const Backward& b,
                                              const Sources& from, float* partial, int c) {
    Sums sums = {};
    if (c < b.channels) {
        sums = sums_of_block(at, b, from, c);
    }
    sums = add_block(at, sums, shared);
    if (at.y == 0 && c < b.channels) {
        store<VECTOR>(partial + place(at.split, b.channels, c), sums.g);
        store<VECTOR>(partial + place(at.splits + at.split, b.channels, c), sums.g_xhat);
    }
}

template <class Block>
__device__ __forceinline__ void gradient_sums(const Block& at, float* shared, const Backward& b,
                                              float* partial) {
    const int c = first_channel_of_thread(at, b.channels);
    gradient_sums(at, shared, b, b.sources(c), partial, c);
}

// Second of two launches, and the only one for dx alone with constant statistics, where partial is
// null and splits 0.
template <class Block>
__device__ __forceinline__ void gradients_of_split(const Block& at, float* shared,
                                                   const Backward& b, const float* partial,
                                                   int splits, const Sources& from, int c) {
    Sums sums = {};
    if (partial != nullptr) {
        if (c < b.channels) {
            const auto of_splits = [&](int first) {
                Sums part = {};
#pragma unroll 1
                for (int split = first; split < splits; split += at.height * at.folds) {
                    part =
                        add(part, {load<VECTOR>(partial + place(split, b.channels, c)),
                                   load<VECTOR>(partial + place(splits + split, b.channels, c))});
                }
                return part;
            };
            sums = folded(at, of_splits, add);
        }
        sums = add_block(at, sums, shared);
    }
    if (c < b.channels) {
        put_gradients(at, b, from, c, sums);
    }
}

template <class Block>
__device__ __forceinline__ void gradients_of_split(const Block& at, float* shared,
                                                   const Backward& b, const float* partial,
                                                   int splits) {
    const int c = first_channel_of_thread(at, b.channels);
    gradients_of_split(at, shared, b, partial, splits, b.sources(c), c);
}

}  // namespace batch_norm
