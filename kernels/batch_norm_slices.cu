// Batch normalisation of a sum that lies in slices: what a convolution leaves whose depth is cut
// (product.cuh), added here, on the way in, instead of in a second stage (partial_sums.cu).
//
//   slices (count, rows, C) -> x = sum over slices (+ bias),  and then as batch_norm.cu has it:
//   forward    y = f(gamma * (x - mean) / sqrt(var + eps) + beta);  x is written too, for backward
//   inference  the same with the moving statistics; x is not written, INPUT what it would hold
//   backward   dy = sum over slices, which is never written: nothing else reads it
//
// Saved are the launch of the second stage, its write of the sum and the first read of it. A block
// needs its channels of all rows twice: it adds the slices once, into shared memory, and reads the
// sums from there. So it loads count * (its part) and nothing else, where it loaded the part twice.
//
// Slices are float32. Where x or dy holds bf16 numbers, the sum is rounded once, as the second
// stage would have stored it, and everything after that reads the rounded sum.
//
// Bits are those of the second stage and batch_norm.cu: slices r, r + ADDERS, ... of an element are
// added in order, then the ADDERS sums in order of r, as sum_many_partials does. Up to ADDERS
// slices that is the plain order of sum_partials: an absent sum counts as +0, which changes no
// bit of a sum that began with +0. Rows and channels are cut into blocks as batch_norm.cu cuts
// them, and every later expression is one function for both files (batch_norm.cuh).
//
// A thread adds LINES rows at once, TOGETHER slices of each: 8 loads of 16 bytes are under way,
// 64 kB in a block of 512 threads.
//
// variants, unless they say: -DACTIVATION=none -DVECTOR=4
// variants: | -DACTIVATION=relu | -DACTIVATION=leaky_relu | -DACTIVATION=elu
// variants: -DACTIVATION=sigmoid | -DACTIVATION=tanh | -DACTIVATION=softplus
// variants: -DVECTOR=1 | -DACTIVATION=relu -DVECTOR=1 | -DACTIVATION=leaky_relu -DVECTOR=1
// variants: -DACTIVATION=elu -DVECTOR=1 | -DACTIVATION=sigmoid -DVECTOR=1
// variants: -DACTIVATION=tanh -DVECTOR=1 | -DACTIVATION=softplus -DVECTOR=1
// variants(sm_80): -DINPUT=Bf16 -DOUTPUT=Bf16
// variants(sm_80): -DINPUT=Bf16 | -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=relu -DINPUT=Bf16 -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=relu -DINPUT=Bf16 | -DACTIVATION=relu -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=leaky_relu -DINPUT=Bf16 -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=leaky_relu -DINPUT=Bf16 | -DACTIVATION=leaky_relu -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=elu -DINPUT=Bf16 -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=elu -DINPUT=Bf16 | -DACTIVATION=elu -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=sigmoid -DINPUT=Bf16 -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=sigmoid -DINPUT=Bf16 | -DACTIVATION=sigmoid -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=tanh -DINPUT=Bf16 -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=tanh -DINPUT=Bf16 | -DACTIVATION=tanh -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=softplus -DINPUT=Bf16 -DOUTPUT=Bf16
// variants(sm_80): -DACTIVATION=softplus -DINPUT=Bf16 | -DACTIVATION=softplus -DOUTPUT=Bf16

#ifndef INPUT
#define INPUT float
#endif
#ifndef OUTPUT
#define OUTPUT float
#endif
#if defined(VECTOR) && VECTOR == 1
#define ROWS_IN_FLIGHT 4  // 8 are more than the registers hold beside the slices' addresses
#endif

#include "batch_norm.cuh"

using namespace batch_norm;

constexpr int WHOLE = 512;   // as in batch_norm.cu: most threads of a block with whole channels
constexpr int SPLIT = 256;   // and of one that shares its channels
constexpr int RESIDENT = 2;  // such blocks on a multiprocessor: all, on a large GPU
constexpr int ADDERS = 8;    // ROWS of partial_sums.cu
constexpr int TOGETHER = 4;  // divides ADDERS
constexpr int LINES = 2;

struct Slices {
    const float* first;
    const float* bias;  // (C), or null
    int count, rows, channels;

    // Sums of the thread's channels in rows at, at + step, ...; past `last`, that row again.
    __device__ __forceinline__ void add(int at, int step, int last, int c,
                                        Values (&sums)[LINES]) const {
        const float* from[LINES];
#pragma unroll
        for (int k = 0; k < LINES; ++k) {
            from[k] = first + place(min(at + k * step, last), channels, c);
            sums[k] = {};
        }
#pragma unroll 1
        for (int lane = 0; lane < min(ADDERS, count); lane += TOGETHER) {
            Values parts[LINES][TOGETHER] = {};
#pragma unroll 1
            for (int slice = lane; slice < count; slice += ADDERS) {
                switch (count - slice) {
                    case 1:
                        add_next<1>(from, slice, parts);
                        break;
                    case 2:
                        add_next<2>(from, slice, parts);
                        break;
                    case 3:
                        add_next<3>(from, slice, parts);
                        break;
                    default:
                        add_next<TOGETHER>(from, slice, parts);
                }
            }
#pragma unroll
            for (int k = 0; k < LINES; ++k) {
#pragma unroll
                for (int j = 0; j < TOGETHER; ++j) add_to(sums[k], parts[k][j]);
            }
        }
        if (bias != nullptr) {
            const Values more = values_at(bias, c);
#pragma unroll
            for (int k = 0; k < LINES; ++k) add_to(sums[k], more);
        }
    }

  private:
    // Slices slice, slice + 1, ... (N of them), each to a sum of its own. No load hangs on a
    // condition, so that all are under way before the first is waited for.
    template <int N>
    __device__ __forceinline__ void add_next(const float* const (&from)[LINES], int slice,
                                             Values (&parts)[LINES][TOGETHER]) const {
        const long long size = static_cast<long long>(rows) * channels;
        Values loaded[LINES][N];
#pragma unroll
        for (int k = 0; k < LINES; ++k) {
#pragma unroll
            for (int j = 0; j < N; ++j) loaded[k][j] = load<VECTOR>(from[k] + (slice + j) * size);
        }
#pragma unroll
        for (int k = 0; k < LINES; ++k) {
#pragma unroll
            for (int j = 0; j < N; ++j) add_to(parts[k][j], loaded[k][j]);
        }
    }

    __device__ __forceinline__ static void add_to(Values& sum, const Values& part) {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) sum.at[k] += part.at[k];
    }
};

// use(row, sums of the thread's channels) of each of its rows.
template <class Use>
__device__ __forceinline__ void for_added(const Slices& slices, Rows rows, int c, const Use& use) {
#pragma unroll 1
    for (int row = rows.begin; row < rows.end; row += LINES * rows.step) {
        Values sums[LINES];
        slices.add(row, rows.step, rows.end - 1, c, sums);
#pragma unroll
        for (int k = 0; k < LINES; ++k) {
            if (row + k * rows.step < rows.end) use(row + k * rows.step, sums[k]);
        }
    }
}

// Adds the rows of a block's split into `tile` (rows_per_split, width * VECTOR), and into `whole`
// (rows, C) where that is not null. Result: where the thread finds its channels of them; rows that
// another thread has added, only behind a barrier.
template <class Number>
__device__ __forceinline__ SourceOf<Number> added(const LaunchedBlock& at, const Slices& slices,
                                                  Number* whole, Number* tile, int rows_per_split,
                                                  int c) {
    const SourceOf<Number> to = {tile + at.x * VECTOR, at.width * VECTOR,
                                 at.split * rows_per_split};
    if (c < slices.channels) {
        const Rows rows = rows_of_block(at, slices.rows, rows_per_split);
        for_added(slices, rows, c, [&](int row, const Values& sums) {
            store<VECTOR>(tile + (row - to.begin) * to.pitch + at.x * VECTOR, sums);
            if (whole != nullptr) store<VECTOR>(whole + place(row, slices.channels, c), sums);
        });
    }
    return to;
}

// What an array of Number gives back of values that are stored in it.
template <class Number>
__device__ __forceinline__ Values as_stored(Values values) {
    if constexpr (sizeof(Number) == 2) {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            values.at[k] = lower_value(round_to_bf16(values.at[k], 0.0f));
        }
    }
    return values;
}

extern __shared__ float4 tile4[];

template <class Number>
__device__ __forceinline__ Number* tile_of_block() {
    return reinterpret_cast<Number*>(tile4);
}

// ---- Forward, one launch; x (rows, C) gets the sums.
extern "C" __global__ void __launch_bounds__(WHOLE)
    batch_norm_forward_training_of_slices(const float* __restrict__ slices,
                                          const float* __restrict__ bias, INPUT* __restrict__ x,
                                          float* gamma, const float* __restrict__ beta,
                                          OUTPUT* __restrict__ y, float* __restrict__ mean,
                                          float* __restrict__ var, int count, int rows,
                                          int channels, float eps, int fix_gamma, float slope) {
    __shared__ float shared[MERGED * WHOLE];
    const LaunchedBlock at;
    const int c = first_channel_of_thread(at, channels);
    const Slices given = {slices, bias, count, rows, channels};
    const Source sums = added(at, given, x, tile_of_block<INPUT>(), rows, c);
    __syncthreads();  // all threads of a channel read its first row
    forward_training(
        at, shared,
        {x, gamma, beta, y, mean, var, rows, channels, rows, eps, fix_gamma, KIND, slope}, sums, c);
}

// ---- Forward, first of two launches: x gets the sums, partial what batch_norm_statistics has it;
// batch_norm_normalize follows.
extern "C" __global__ void __launch_bounds__(SPLIT, RESIDENT)
    batch_norm_statistics_of_slices(const float* __restrict__ slices,
                                    const float* __restrict__ bias, INPUT* __restrict__ x,
                                    float* __restrict__ partial, int count, int rows, int channels,
                                    int rows_per_split) {
    __shared__ float shared[MERGED * SPLIT];
    const LaunchedBlock at;
    const int c = first_channel_of_thread(at, channels);
    const Slices given = {slices, bias, count, rows, channels};
    const Source sums = added(at, given, x, tile_of_block<INPUT>(), rows_per_split, c);
    Values first_row[LINES] = {};
    if (c < channels) given.add(0, 0, 0, c, first_row);
    statistics_of_split(at, shared, sums, as_stored<INPUT>(first_row[0]), partial, rows, channels,
                        rows_per_split, c);
}

// ---- Inference: mean and var are given. The sum is not stored, but rounded as if it were.
extern "C" __global__ void __launch_bounds__(SPLIT, RESIDENT)
    batch_norm_normalize_of_slices(const float* __restrict__ slices, const float* __restrict__ bias,
                                   float* gamma, const float* __restrict__ beta, float* mean,
                                   float* var, OUTPUT* __restrict__ y, int count, int rows,
                                   int channels, int rows_per_split, float eps, int fix_gamma,
                                   float slope) {
    const LaunchedBlock at;
    const int c = first_channel_of_thread(at, channels);
    if (c >= channels) return;
    const Slices given = {slices, bias, count, rows, channels};
    const Channels own =
        channels_with(values_at(mean, c), values_at(var, c), gamma, beta, c, eps, fix_gamma);
    if (fix_gamma && at.split == 0 && at.y == 0) set_to_one(gamma, c);
    const Rows mine = rows_of_block(at, rows, rows_per_split);
    for_added(given, mine, c, [&](int row, const Values& values) {
        const Values sums = as_stored<INPUT>(values);
        store<VECTOR>(y + place(row, channels, c), activated(sums, own, KIND, slope));
    });
}

// ---- Backward, one launch: dy in slices.
extern "C" __global__ void __launch_bounds__(WHOLE)
    batch_norm_backward_of_slices(const float* __restrict__ slices, const INPUT* __restrict__ x,
                                  const float* __restrict__ gamma, const float* __restrict__ beta,
                                  const float* __restrict__ mean, const float* __restrict__ var,
                                  INPUT* dx, float* __restrict__ dgamma, float* __restrict__ dbeta,
                                  float* __restrict__ moving_mean, float* __restrict__ moving_var,
                                  int count, int rows, int channels, float eps, float slope,
                                  float momentum, int fix_gamma, int accumulate_gamma,
                                  int accumulate_beta) {
    __shared__ float shared[ADDED * WHOLE];
    const LaunchedBlock at;
    const int c = first_channel_of_thread(at, channels);
    const Slices given = {slices, nullptr, count, rows, channels};
    OUTPUT* const nowhere = nullptr;
    const SourceOf<OUTPUT> sums = added(at, given, nowhere, tile_of_block<OUTPUT>(), rows, c);
    backward(at, shared,
             {{x, gamma, beta, mean, var, nullptr},
              {dx, dgamma, dbeta, moving_mean, moving_var},
              {rows, channels, rows},
              {eps, slope, momentum},
              {fix_gamma, 0, 0, accumulate_gamma, accumulate_beta},
              KIND},
             {rows_of(x, channels, c), sums}, c);
}

// ---- Backward, first of two launches: dy (rows, C), or null, gets the sums, and partial what
// batch_norm_gradient_sums has it; batch_norm_backward_data follows.
extern "C" __global__ void __launch_bounds__(SPLIT, RESIDENT) batch_norm_gradient_sums_of_slices(
    const float* __restrict__ slices, const INPUT* __restrict__ x, const float* __restrict__ gamma,
    const float* __restrict__ beta, const float* __restrict__ mean, const float* __restrict__ var,
    OUTPUT* __restrict__ dy, float* __restrict__ partial, int count, int rows, int channels,
    int rows_per_split, float eps, float slope, int fix_gamma) {
    __shared__ float shared[ADDED * SPLIT];
    const LaunchedBlock at;
    const int c = first_channel_of_thread(at, channels);
    const Slices given = {slices, nullptr, count, rows, channels};
    const SourceOf<OUTPUT> sums = added(at, given, dy, tile_of_block<OUTPUT>(), rows_per_split, c);
    gradient_sums(at, shared,
                  {{x, gamma, beta, mean, var, nullptr},
                   {},
                   {rows, channels, rows_per_split},
                   {eps, slope},
                   {fix_gamma},
                   KIND},
                  {rows_of(x, channels, c), sums}, partial, c);
}

// Launch contract
//   Grids and blocks of batch_norm.cu's batch_norm_forward_training and batch_norm_backward (one
//   launch), batch_norm_statistics, batch_norm_normalize and batch_norm_gradient_sums. Dynamic
//   shared memory, but for batch_norm_normalize_of_slices, of (rows of a block) * X * VECTOR
//   numbers as x, or dy, holds them: rows, or rows_per_split where they are split. VECTOR = 4 needs
//   slices at a multiple of 16 bytes too.
