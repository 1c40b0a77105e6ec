// The weight gradient of a convolution from few channels, float32, NHWC: of a discriminator's first
// layer, and of a generator's last (a transposed convolution's). convolution.cu tells the formula
// and the names.
//
//     dw[k,r,s,c] = sum over images n and pixels (p, q) of
//                   dy[n,p,q,k] * x[n, p * stride - pad + r * dilation, q * ... + s * ..., c]
//
// As a product of tiles it has few columns, taps * channels of x (9 for 3 x 3 taps of one channel),
// and gathers them from x number by number: most of a tile is idle, and each product costs more in
// addresses than in arithmetic. Here a block takes bands of rows of dy. The rows of x under a band
// lie in shared memory with their padding, so that a tap is a constant offset and nothing is
// tested; a thread has 4 channels of dy and COLUMNS taps, and reads 16 bytes of dy and a number per
// tap for 4 * COLUMNS products. Sums stay in registers until the block's last band. Then its
// threads' sums are added in shared memory, and the blocks' in a second launch (partial_sums.cu).
// The order of a sum is fixed by the shapes; no floats are added atomically.
//
// convolution_backward_weight_few_normalised, of a transposed convolution behind a batch norm,
// normalises dy in registers (normalisation.cuh), once for each COLUMNS taps.
//
// -DPRECISION=tf32 or bf16: both operands are rounded as for tensor cores.
// -DELEMENT=Bf16: of dy, which is then rounded already.
//
// variants: | -DCOLUMNS=9
// variants(sm_80): -DPRECISION=tf32 | -DPRECISION=bf16 | -DPRECISION=bf16 -DELEMENT=Bf16
// variants(sm_80): -DPRECISION=tf32 -DCOLUMNS=9 | -DPRECISION=bf16 -DCOLUMNS=9
// variants(sm_80): -DPRECISION=bf16 -DCOLUMNS=9 -DELEMENT=Bf16

#include "common.cuh"
#include "normalisation.cuh"
#include "stored.cuh"

#ifndef COLUMNS
#define COLUMNS 16  // of the weight per thread: 9 for 3 x 3 taps, 16 for 4 x 4
#endif

#ifndef ELEMENT
#define ELEMENT float
#endif
#ifndef PRECISION
#define PRECISION float32
#endif

constexpr Precision OPERANDS = Precision::PRECISION;
constexpr Precision OF_DY = sizeof(ELEMENT) == 2 ? Precision::float32 : OPERANDS;
constexpr int THREADS = 256;
constexpr int PAD = 4;  // between columns: keeps 16-byte stores aligned, spreads 4-byte reads

__device__ __forceinline__ void add_products(float4& sum, float4 a, float b) {
    sum.x = fmaf(a.x, b, sum.x);
    sum.y = fmaf(a.y, b, sum.y);
    sum.z = fmaf(a.z, b, sum.z);
    sum.w = fmaf(a.w, b, sum.w);
}

__device__ __forceinline__ void add(float4& sum, float4 other) {
    sum.x += other.x;
    sum.y += other.y;
    sum.z += other.z;
    sum.w += other.w;
}

// What becomes of 4 channels of dy, from `channel` on, before the products; AHEAD: pixels of it
// that are on their way at a time, as registers allow.
struct AsItIs {
    static constexpr int AHEAD = 4;

    __device__ __forceinline__ void operator()(float4 (&dy)[AHEAD], int) const {
        if constexpr (OF_DY != Precision::float32) {
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) dy[i] = rounded(OF_DY, dy[i]);
        }
    }
};

struct Normalised {
    static constexpr int AHEAD = 2;
    Normalisation normalise;

    // One channel after the other: what all four need has no registers.
    __device__ __forceinline__ void operator()(float4 (&dy)[AHEAD], int channel) const {
        float4 of = normalise.of(channel);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) dy[i].x = normalise(dy[i].x, of);
        of = normalise.of(channel + 1);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) dy[i].y = normalise(dy[i].y, of);
        of = normalise.of(channel + 2);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) dy[i].z = normalise(dy[i].z, of);
        of = normalise.of(channel + 3);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            dy[i].w = normalise(dy[i].w, of);
            dy[i] = rounded(OPERANDS, dy[i]);
        }
    }
};

extern __shared__ float4 shared[];

template <class OnTheWay>
__device__ __forceinline__ void backward_weight_few(
    const float* __restrict__ x, const ELEMENT* __restrict__ dy, float* dw, int batch, int height,
    int width, int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
    int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w,
    int band, int lanes, int accumulate, const OnTheWay& change) {
    constexpr int AHEAD = OnTheWay::AHEAD;
    float* const tile = reinterpret_cast<float*>(shared);  // x under a band, zeros outside of it
    const int columns = kernel_h * kernel_w * x_channels;
    const int quads = y_channels / 4;
    const int groups = ceil_div(columns, COLUMNS);
    const int quad = threadIdx.x % quads;
    const int group = quotient(threadIdx.x, quads) % groups;
    const int lane = quotient(threadIdx.x, quads * groups);  // from `lanes` on there is no work

    const int line = ((y_width - 1) * stride_w + (kernel_w - 1) * dilation_w + 1) * x_channels;
    int offsets[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
        const int column = min(group * COLUMNS + j, columns - 1);
        const int tap = quotient(column, x_channels), r = quotient(tap, kernel_w);
        offsets[j] = r * dilation_h * line + (tap - r * kernel_w) * dilation_w * x_channels +
                     column - tap * x_channels;
    }

    float4 sums[COLUMNS] = {};
    const int bands = ceil_div(y_height, band);
    for (int item = blockIdx.x; item < batch * bands; item += gridDim.x) {
        const int image = quotient(item, bands), top = (item - image * bands) * band;
        const int rows = min(band, y_height - top);
        const int x_rows = (rows - 1) * stride_h + (kernel_h - 1) * dilation_h + 1;
        const float* const image_x = x + static_cast<Offset>(image) * height * width * x_channels;
        __syncthreads();  // the band before is done
        for (int i = threadIdx.x; i < x_rows * line; i += THREADS) {
            const int row = quotient(i, line), place = i - row * line - pad_w * x_channels;
            const int h = top * stride_h - pad_h + row;
            const bool inside = h >= 0 && h < height && place >= 0 && place < width * x_channels;
            const float* const from = image_x + h * (width * x_channels) + place;
            tile[i] = inside ? rounded(OPERANDS, __ldg(from)) : 0.0f;
        }
        __syncthreads();
        const int pixels = lane < lanes ? rows * y_width : 0;
        const Offset start = (static_cast<Offset>(image) * y_height + top) * y_width;
        const ELEMENT* const from = dy + start * y_channels + 4 * quad;
        for (int first = lane; first < pixels; first += AHEAD * lanes) {
            float4 gradients[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                gradients[i] = read_four(from + min(first + i * lanes, pixels - 1) * y_channels);
            }
            change(gradients, 4 * quad);
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                const int pixel = first + i * lanes;
                if (pixel >= pixels) break;
                const int p = quotient(pixel, y_width), q = pixel - p * y_width;
                const float* const at = tile + p * stride_h * line + q * stride_w * x_channels;
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j)
                    add_products(sums[j], gradients[i], at[offsets[j]]);
            }
        }
    }

    // The upper half of the lanes hands its sums to the lower, which then adds up slot by slot.
    const int pitch = y_channels + PAD, slot = groups * COLUMNS * pitch, half = ceil_div(lanes, 2);
    const int place = group * COLUMNS * pitch + 4 * quad;
    __syncthreads();
    if (lane >= half && lane < lanes) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            shared[((lane - half) * slot + place + j * pitch) / 4] = sums[j];
        }
    }
    __syncthreads();
    if (lane < half) {
        if (lane + half < lanes) {
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                add(sums[j], shared[(lane * slot + place + j * pitch) / 4]);
            }
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) shared[(lane * slot + place + j * pitch) / 4] = sums[j];
    }
    __syncthreads();
    const int size = y_channels * columns;
    float* const to = dw + static_cast<Offset>(blockIdx.x) * size;
    for (int i = threadIdx.x; i < size; i += THREADS) {
        const int k = quotient(i, columns), column = i - k * columns;
        float sum = 0.0f;
        for (int l = 0; l < half; ++l) sum += tile[l * slot + column * pitch + k];
        to[i] = gridDim.x == 1 && accumulate ? to[i] + sum : sum;
    }
}

// x (batch, height, width, x_channels), dy (batch, y_height, y_width, y_channels); dw (y_channels,
// kernel_h, kernel_w, x_channels) or, from several blocks, one of these for each. Items are bands
// of `band` rows of dy; block i takes items i, i + blocks, ... `lanes` threads share the pixels of
// a band, for each 4 channels and COLUMNS taps.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    convolution_backward_weight_few(const float* __restrict__ x, const ELEMENT* __restrict__ dy,
                                    float* dw, int batch, int height, int width, int x_channels,
                                    int y_height, int y_width, int y_channels, int kernel_h,
                                    int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
                                    int dilation_h, int dilation_w, int band, int lanes,
                                    int accumulate) {
    backward_weight_few(x, dy, dw, batch, height, width, x_channels, y_height, y_width, y_channels,
                        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
                        dilation_w, band, lanes, accumulate, AsItIs());
}

// The same of dy that a batch norm and its activation make of what is read: normalisation
// (y_channels, 4) and kind, none, relu or leaky_relu with its incline.
extern "C" __global__ void __launch_bounds__(THREADS, 2) convolution_backward_weight_few_normalised(
    const float* __restrict__ x, const ELEMENT* __restrict__ dy, float* dw, int batch, int height,
    int width, int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
    int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w,
    int band, int lanes, int accumulate, const float* __restrict__ normalisation, int kind,
    float incline) {
    const Normalised change = {{normalisation, Activation(kind), incline}};
    backward_weight_few(x, dy, dw, batch, height, width, x_channels, y_height, y_width, y_channels,
                        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
                        dilation_w, band, lanes, accumulate, change);
}

// Launch contract
//   grid (slices, at most batch * ceil(y_height / band)), block 256. With more than one block dw is
//   the partial sums of sum_partials, which follows.
//   groups is 1, y_channels a multiple of 4, dy starts at a multiple of 16 bytes;
//   1 <= lanes <= 256 / (y_channels / 4 * ceil(columns / COLUMNS))
//   Dynamic shared memory, the larger of: 4 * ((band - 1) * stride_h + (R - 1) * dilation_h + 1) *
//   ((y_width - 1) * stride_w + (S - 1) * dilation_w + 1) * x_channels bytes for the rows of x, and
//   4 * ceil(lanes / 2) * ceil(columns / COLUMNS) * COLUMNS * (y_channels + 4) for the sums.
