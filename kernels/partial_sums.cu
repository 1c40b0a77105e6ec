// The two halves of a reduction that is split over blocks and still gives the same bits every time.
//
//     bias_backward       dy (rows, channels) -> partials (slices, channels): sums of columns
//     sum_partials        partials (slices, size) -> y (size): sum over slices (+ bias, + old y)
//     sum_many_partials   the same, for more than a few slices
//
// A gradient with respect to a bias is bias_backward followed by sum_partials; a convolution or a
// matrix product whose depth is cut into slices ends with sum_partials as well. Nothing is added
// atomically: each partial has one writer, and the order of every sum is fixed by the shapes.
// Both are limited by memory, so neighbouring threads read neighbouring channels (coalesced), and
// cutting the rows into slices keeps a GPU busy where there are few channels.
//
// Steps: one thread per channel reads a column alone (few channels: few threads, all waiting); a
// block of COLUMNS x ROWS elements reads ROWS rows at once and folds them in shared memory. The
// same for the slices of a small result: 64 reads one behind the other take as long as 8 in
// sequence, since a thread has 8 under way at a time. Predicted: a second stage of 64 slices falls
// from about 5 microseconds to 2. Last, threads take VECTOR neighbours at a time: as many bytes
// under way, from a quarter of the instructions, and no sum in another order.
//
// -DELEMENT=Bf16: of dy, -DRESULT=Bf16: of y and activated; sums are float32.
//
// variants: -DVECTOR=1 | -DVECTOR=4
// variants(sm_80): -DVECTOR=1 -DELEMENT=Bf16 | -DVECTOR=4 -DELEMENT=Bf16
// variants(sm_80): -DVECTOR=1 -DRESULT=Bf16 | -DVECTOR=4 -DRESULT=Bf16

#include "common.cuh"
#include "epilogue.cuh"

#ifndef ELEMENT
#define ELEMENT float
#endif
#ifndef RESULT
#define RESULT float
#endif
#ifndef VECTOR
#define VECTOR 1  // neighbours that a thread takes at a time; 4 where all is aligned to 16 bytes
#endif

constexpr int COLUMNS = 32;                 // channels per block: one 128-byte line
constexpr int ROWS = 8;                     // rows that a block reads at a time
constexpr int LANES = COLUMNS / VECTOR;     // threads of a row
constexpr int FOLDERS = LANES * ROWS;       // threads of bias_backward, sum_many_partials
constexpr int ELEMENTS = 256;               // per block of sum_partials
constexpr int THREADS = ELEMENTS / VECTOR;  // of sum_partials

using Numbers = Pack<VECTOR>;

template <class Number>
__device__ __forceinline__ void add(Numbers& sum, const Number* from) {
    const Numbers more = load<VECTOR>(from);
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) sum.at[k] += more.at[k];
}

// The sum of every ROWS-th line of `from` from this thread's row on, `pitch` floats apart, then of
// the block's rows; row 0 gets it. To be called by all threads, with lines = 0 where there is none.
template <class Number>
__device__ __forceinline__ Numbers fold(const Number* from, Offset pitch, Offset lines) {
    __shared__ __align__(16) float folded[ROWS][COLUMNS];
    const int column = threadIdx.x % LANES * VECTOR;
    const int row = threadIdx.x / LANES;
    Numbers sum = {};
#pragma unroll 8
    for (Offset line = row; line < lines; line += ROWS) add(sum, from + line * pitch);
    store<VECTOR>(&folded[row][column], sum);
    __syncthreads();
    if (row == 0) {
#pragma unroll
        for (int i = 1; i < ROWS; ++i) add(sum, &folded[i][column]);
    }
    return sum;
}

// dy (rows, channels), partials (gridDim.y, channels). Block (i, s) sums channels
// [i * COLUMNS, ...) over the rows of slice s. With one slice `partials` is the result itself, and
// accumulate adds to what it holds.
extern "C" __global__ void __launch_bounds__(FOLDERS, 4 * VECTOR)
    bias_backward(const ELEMENT* __restrict__ dy, float* partials, int rows, int channels,
                  int accumulate) {
    const int channel = blockIdx.x * COLUMNS + threadIdx.x % LANES * VECTOR;
    const int length = ceil_div(rows, static_cast<int>(gridDim.y));
    const Offset begin = static_cast<Offset>(blockIdx.y) * length;
    const Offset end = min(begin + length, static_cast<Offset>(rows));

    const bool inside = channel < channels;
    const Numbers sum = fold(dy + begin * channels + channel, channels, inside ? end - begin : 0);
    if (inside && threadIdx.x < LANES) {
        float* const to = partials + static_cast<Offset>(blockIdx.y) * channels + channel;
        store_gradient<VECTOR>(to, sum, accumulate);
    }
}

__device__ __forceinline__ void finish(const Numbers& sum, const EpilogueOf<RESULT>& epilogue,
                                       RESULT* y, Offset index, int channels) {
    const int channel = static_cast<int>(index % channels);
    store<VECTOR>(y + index, epilogue.finish<true, VECTOR>(sum, y + index, index, channel));
}

// partials (slices, size), y (size); bias (channels) or null, where channels divides size.
// activated, activation and slope as in epilogue.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 4 * VECTOR)
    sum_partials(const float* __restrict__ partials, const float* __restrict__ bias, RESULT* y,
                 long long size, int channels, int slices, int accumulate, const RESULT* activated,
                 int activation, float slope) {
    const Offset index = (static_cast<Offset>(blockIdx.x) * THREADS + threadIdx.x) * VECTOR;
    if (index >= size) return;
    Numbers sum = {};
#pragma unroll 8
    for (int slice = 0; slice < slices; ++slice) add(sum, partials + slice * size + index);
    finish(sum, {bias, activated, Activation(activation), slope, accumulate}, y, index, channels);
}

// As sum_partials: the threads of row r add slices r, r + ROWS, ..., and those of row 0 the rows.
extern "C" __global__ void __launch_bounds__(FOLDERS, 4 * VECTOR)
    sum_many_partials(const float* __restrict__ partials, const float* __restrict__ bias, RESULT* y,
                      long long size, int channels, int slices, int accumulate,
                      const RESULT* activated, int activation, float slope) {
    const Offset index = static_cast<Offset>(blockIdx.x) * COLUMNS + threadIdx.x % LANES * VECTOR;
    const bool inside = index < size;
    const Numbers sum = fold(partials + index, size, inside ? slices : 0);
    if (inside && threadIdx.x < LANES) {
        finish(sum, {bias, activated, Activation(activation), slope, accumulate}, y, index,
               channels);
    }
}

// Launch contract
//   bias_backward       grid (ceil(channels / 32), slices), block 256 / VECTOR. With slices > 1
//                       accumulate is 0 and sum_partials follows.
//   sum_partials        grid (ceil(size / 256)), block 256 / VECTOR. y must not overlap partials.
//   sum_many_partials   grid (ceil(size / 32)), block 256 / VECTOR. y must not overlap partials.
//   VECTOR 4: size is a multiple of 4, and channels where there is a bias or bias_backward; arrays
//   but the bias lie at multiples of 16 bytes.
//   No dynamic shared memory; static shared memory at most 1 KiB.
