// Batch normalisation without its normalising pass, for a batch norm whose one reader is a
// convolution that normalises on the way in (normalised_sources.cuh): what that needs of each
// channel, and what backward does. batch_norm.cu tells the maths; statistics have its bits.
//
//   x (rows, C); gamma, beta, mean, var (C)
//   normalisation (C, 4): mean, 1 / sqrt(var + eps), gamma and beta of each channel
//
// Training reads x once and writes nothing of its size: in one launch where a block can have all
// rows of a channel; else batch_norm_statistics of batch_norm.cu leaves partial moments, which a
// launch of one row of blocks merges here; or a convolution's tiles leave moments, and that launch
// is all there is. Inference reads the moving statistics alone.
//
// variants, unless they say: -DVECTOR=4
// variants: | -DVECTOR=1
// variants(sm_80): -DINPUT=Bf16

#ifndef INPUT
#define INPUT float
#endif

#include "batch_norm.cuh"

using namespace batch_norm;

constexpr int WHOLE = 512;  // most threads of a block that has whole channels
constexpr int SPLIT = 256;  // threads of a block that merges moments

// What a batch norm is told and tells of its channels.
struct OfChannels {
    float* gamma;
    const float* beta;
    float *mean, *var;
    float* normalisation;
    float eps;
    int fix_gamma;

    __device__ __forceinline__ void put(int c, const Values& centre, const Values& variance) const {
        if (fix_gamma) set_to_one(gamma, c);
        const Channels own = channels_with(centre, variance, gamma, beta, c, eps, fix_gamma);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            reinterpret_cast<float4*>(normalisation)[c + k] = make_float4(
                centre.at[k], own.inverse_deviation.at[k], own.gamma.at[k], own.beta.at[k]);
        }
    }

    // Of a batch.
    __device__ __forceinline__ void put(int c, const Statistics& all) const {
        put_values(mean, c, all.mean);
        put_values(var, c, all.variance);
        put(c, all.mean, all.variance);
    }
};

// One launch: block i has its channels to itself. With fix_gamma, gamma is overwritten with 1 and
// not read.
extern "C" __global__ void __launch_bounds__(WHOLE)
    batch_norm_normalisation_training(const INPUT* __restrict__ x, float* gamma,
                                      const float* __restrict__ beta, float* __restrict__ mean,
                                      float* __restrict__ var, float* __restrict__ normalisation,
                                      int rows, int channels, float eps, int fix_gamma) {
    __shared__ float shared[MERGED * WHOLE];
    const LaunchedBlock at;
    const int c = first_channel_of_thread(at, channels);
    const Source source = rows_of(x, channels, c);
    Values pivot = {};
    Moments whole = {};
    if (c < channels) {
        pivot = source(0);
        whole = moments_of_block(at, source, rows, rows, pivot);
    }
    whole = merge_block(at, whole, shared);
    if (at.y == 0 && c < channels) {
        const OfChannels own = {gamma, beta, mean, var, normalisation, eps, fix_gamma};
        own.put(c, statistics_of(whole, pivot, rows));
    }
}

// Second of two launches: partial (2, splits, C), about the channels' values in x's first row, as
// batch_norm_statistics leaves it.
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_normalisation_merged(const INPUT* __restrict__ x, const float* __restrict__ partial,
                                    float* gamma, const float* __restrict__ beta,
                                    float* __restrict__ mean, float* __restrict__ var,
                                    float* __restrict__ normalisation, int rows, int channels,
                                    int rows_per_split, int splits, float eps, int fix_gamma) {
    __shared__ float shared[MERGED * SPLIT];
    const LaunchedBlock at;
    const int c = first_channel_of_thread(at, channels);
    const OfSplits parts = {partial, splits, rows, channels, rows_per_split};
    const Values pivot = c < channels ? rows_of(x, channels, c)(0) : Values{};
    const Statistics all = merged(at, shared, parts, pivot, rows, channels, c);
    if (at.y == 0 && c < channels) {
        const OfChannels own = {gamma, beta, mean, var, normalisation, eps, fix_gamma};
        own.put(c, all);
    }
}

// The only launch behind a convolution whose tiles left the moments of x (tile_moments.cuh): x is
// not read at all.
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_normalisation_of_tiles(const float* __restrict__ moments, float* gamma,
                                      const float* __restrict__ beta, float* __restrict__ mean,
                                      float* __restrict__ var, float* __restrict__ normalisation,
                                      int tiles, int rows, int channels, float eps, int fix_gamma) {
    __shared__ float shared[MERGED * SPLIT];
    const LaunchedBlock at;
    const int c = first_channel_of_thread(at, channels);
    const OfTiles parts(moments, tiles, channels, c);
    const Statistics all = merged(at, shared, parts, parts.first, rows, channels, c);
    if (at.y == 0 && c < channels) {
        const OfChannels own = {gamma, beta, mean, var, normalisation, eps, fix_gamma};
        own.put(c, all);
    }
}

// From statistics that are given: inference.
extern "C" __global__ void __launch_bounds__(SPLIT)
    batch_norm_normalisation_inference(float* gamma, const float* __restrict__ beta,
                                       const float* __restrict__ mean,
                                       const float* __restrict__ var,
                                       float* __restrict__ normalisation, int channels, float eps,
                                       int fix_gamma) {
    const int c = (blockIdx.x * SPLIT + threadIdx.x) * VECTOR;
    if (c < channels) {
        const OfChannels own = {gamma, beta, nullptr, nullptr, normalisation, eps, fix_gamma};
        own.put(c, values_at(mean, c), values_at(var, c));
    }
}

// Launch contract. Blocks (X, Y), Y a power of two, over X * VECTOR channels each.
//   batch_norm_normalisation_training   grid (ceil(C / (X * VECTOR))), X * Y from 32 to 512
//   batch_norm_normalisation_merged     the same grid, X * Y = 256: block and rows_per_split as
//                                       batch_norm_statistics had them, splits its grid's y
//   batch_norm_normalisation_of_tiles   grid (ceil(C / (X * VECTOR))), X * Y = 256
//   batch_norm_normalisation_inference  one-dimensional, 256 threads of VECTOR channels
// VECTOR = 4 needs C % 4 == 0 and x and partial at multiples of 16 bytes. normalisation starts at a
// multiple of 16 bytes. No dynamic shared memory.
