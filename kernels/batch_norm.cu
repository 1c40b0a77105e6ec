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
//                  launch nor a count of finished blocks. Where the convolution before it has left
//                  the moments of its tiles, the first launch is not needed.
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
// Memory may hold bf16 of x and dx (-DINPUT=Bf16) and of y and dy (-DOUTPUT=Bf16), with VECTOR = 4;
// arithmetic and all that is per channel is float32.
//
// Steps: a launch each to reduce, to merge, to normalise and to move the statistics, one channel
// per thread; the moving statistics on the way of backward; merging in the pass over x; one launch
// where a block can do it; four channels per thread.
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

#include "batch_norm.cuh"

using namespace batch_norm;

constexpr int WHOLE = 512;   // most threads of a block that has whole channels
constexpr int SPLIT = 256;   // threads of a block that shares its channels
constexpr int TOGETHER = 2;  // such blocks on a multiprocessor: all, on a large GPU

// ---- Forward, one launch: block i has its channels to itself. mean, var: the batch's. With
// fix_gamma, gamma is overwritten with 1 and not read.
extern "C" __global__ void __launch_bounds__(WHOLE)
    batch_norm_forward_training(const INPUT* __restrict__ x, float* gamma,
                                const float* __restrict__ beta, OUTPUT* __restrict__ y,
                                float* __restrict__ mean, float* __restrict__ var, int rows,
                                int channels, float eps, int fix_gamma, float slope) {
    __shared__ float shared[MERGED * WHOLE];
    forward_training(
        LaunchedBlock(), shared,
        {x, gamma, beta, y, mean, var, rows, channels, rows, eps, fix_gamma, KIND, slope});
}

// ---- Forward, first of two launches: block (i, s) reduces its channels over the rows
// [s * rows_per_split, ...) into partial (2, splits, C): mean - x[0], squared deviations.
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_statistics(const INPUT* __restrict__ x, float* __restrict__ partial, int rows,
                          int channels, int rows_per_split) {
    __shared__ float shared[MERGED * SPLIT];
    statistics_of_split(LaunchedBlock(), shared, x, partial, rows, channels, rows_per_split);
}

// ---- Forward, second of two launches, and inference. partial (2, splits, C) is merged into mean
// and var; where it is null, mean and var are given: the moving ones.
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_normalize(const INPUT* __restrict__ x, const float* __restrict__ partial,
                         float* gamma, const float* __restrict__ beta, float* mean, float* var,
                         OUTPUT* __restrict__ y, int rows, int channels, int rows_per_split,
                         float eps, int fix_gamma, float slope) {
    __shared__ float shared[MERGED * SPLIT];
    normalize_split(
        LaunchedBlock(), shared,
        {x, gamma, beta, y, mean, var, rows, channels, rows_per_split, eps, fix_gamma, KIND, slope},
        partial);
}

// ---- Forward, the only launch behind a convolution whose tiles left the moments of x
// (tile_moments.cuh), which are merged into mean and var. Every block merges those of its channels,
// all the same ones in the same order, as the second of two launches does.
extern "C" __global__ void __launch_bounds__(SPLIT, TOGETHER)
    batch_norm_normalize_of_tiles(const INPUT* __restrict__ x, const float* __restrict__ moments,
                                  float* gamma, const float* __restrict__ beta,
                                  float* __restrict__ mean, float* __restrict__ var,
                                  OUTPUT* __restrict__ y, int tiles, int rows, int channels,
                                  int rows_per_split, float eps, int fix_gamma, float slope) {
    __shared__ float shared[MERGED * SPLIT];
    normalize_tiles(
        LaunchedBlock(), shared,
        {x, gamma, beta, y, mean, var, rows, channels, rows_per_split, eps, fix_gamma, KIND, slope},
        moments, tiles);
}

// ---- Backward, one launch: block i has its channels to itself.
extern "C" __global__ void __launch_bounds__(WHOLE)
    batch_norm_backward(const INPUT* __restrict__ x, const float* __restrict__ gamma,
                        const float* __restrict__ beta, const float* __restrict__ mean,
                        const float* __restrict__ var, const OUTPUT* dy, INPUT* dx,
                        float* __restrict__ dgamma, float* __restrict__ dbeta,
                        float* __restrict__ moving_mean, float* __restrict__ moving_var, int rows,
                        int channels, float eps, float slope, float momentum, int fix_gamma,
                        int constant_statistics, int accumulate, int accumulate_gamma,
                        int accumulate_beta) {
    __shared__ float shared[ADDED * WHOLE];
    backward(LaunchedBlock(), shared,
             {{x, gamma, beta, mean, var, dy},
              {dx, dgamma, dbeta, moving_mean, moving_var},
              {rows, channels, rows},
              {eps, slope, momentum},
              {fix_gamma, constant_statistics, accumulate, accumulate_gamma, accumulate_beta},
              KIND});
}

// ---- Backward, first of two launches: the sums of each split, in partial (2, splits, C).
extern "C" __global__ void __launch_bounds__(SPLIT, TOGETHER)
    batch_norm_gradient_sums(const INPUT* __restrict__ x, const float* __restrict__ gamma,
                             const float* __restrict__ beta, const float* __restrict__ mean,
                             const float* __restrict__ var, const OUTPUT* __restrict__ dy,
                             float* __restrict__ partial, int rows, int channels,
                             int rows_per_split, float eps, float slope, int fix_gamma) {
    __shared__ float shared[ADDED * SPLIT];
    gradient_sums(LaunchedBlock(), shared,
                  {{x, gamma, beta, mean, var, dy},
                   {},
                   {rows, channels, rows_per_split},
                   {eps, slope},
                   {fix_gamma},
                   KIND},
                  partial);
}

// ---- Backward, second of two launches, and the only one for dx alone with constant statistics,
// where partial is null and splits 0; without dx one row of blocks is enough.
extern "C" __global__ void __launch_bounds__(SPLIT, TOGETHER)
    batch_norm_backward_data(const INPUT* __restrict__ x, const float* __restrict__ gamma,
                             const float* __restrict__ beta, const float* __restrict__ mean,
                             const float* __restrict__ var, const OUTPUT* dy,
                             const float* __restrict__ partial, INPUT* dx,
                             float* __restrict__ dgamma, float* __restrict__ dbeta,
                             float* __restrict__ moving_mean, float* __restrict__ moving_var,
                             int rows, int channels, int rows_per_split, int splits, float eps,
                             float slope, float momentum, int fix_gamma, int constant_statistics,
                             int accumulate, int accumulate_gamma, int accumulate_beta) {
    __shared__ float shared[ADDED * SPLIT];
    gradients_of_split(
        LaunchedBlock(), shared,
        {{x, gamma, beta, mean, var, dy},
         {dx, dgamma, dbeta, moving_mean, moving_var},
         {rows, channels, rows_per_split},
         {eps, slope, momentum},
         {fix_gamma, constant_statistics, accumulate, accumulate_gamma, accumulate_beta},
         KIND},
        partial, splits);
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
//   behind tiles    as two launches, of which there is the second
//   batch_norm_update_moving   one-dimensional, 256 threads
// VECTOR = 4 needs C % 4 == 0 and x, y, dy, dx and partial at multiples of 16 bytes; arrays over
// channels need not be. No dynamic shared memory. Stream order carries results from one launch to
// the next.
