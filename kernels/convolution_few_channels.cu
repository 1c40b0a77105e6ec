// The data gradient of a convolution from few channels, float32, NHWC: the gradient with respect to
// an image of 1 or 3 channels, and the last layer of a generator (a transposed convolution's
// forward). convolution.cu tells the formula and the names.
//
//     dx[n,h,w,c] = sum over taps (r, s) that reach (h, w), and k, of  dy[n,p,q,k] * w[k,r,s,c]
//
// As a product of tiles its columns are the channels of x: with 1 of 8 columns used, 7 products of
// 8 are wasted, and every pixel of dy is read by each of the taps. Here it is done in two halves:
//
//     z[n,p,q,(r,s,c)] = sum over k of dy[n,p,q,k] * w[k,(r,s,c)]    16 columns for 4 x 4 taps
//     dx[n,h,w,c] = sum over taps of z[n,p,q,(r,s,c)]                4 terms with stride 2
//
// The first half is a plain matrix product without a wasted column, and the second needs no
// products at all. z never leaves shared memory: a block computes a band of rows of one image, so
// only the rows of dy that two bands share are used twice. No floats are added atomically; the
// order of a sum is k within a tap, then the taps in ascending order.
//
// Steps: 1. one thread per output (convolution.cu): each reads taps * K values of dy and of w;
// 2. two halves: predicted to be limited by loads, 12 of 16 bytes for 128 products; 3. in the
// second half a thread keeps its column, so that half of the divisions are made once per band.
//
// convolution_backward_data_few_normalised, the forward of a transposed convolution behind a batch
// norm, normalises dy on the way in (normalisation.cuh). In registers it would do so once for each
// 4 columns of z, 12 times with 16 taps of 3 channels; so CHUNK channels of the band at a time are
// normalised once, into shared memory, and each thread keeps the sums of up to ROUNDS blocks of z
// meanwhile. Same order of sums, same bits.
//
// -DPRECISION=tf32 or bf16: both operands are rounded as for tensor cores, whose tiles would leave
// most columns idle; the rounding of dy passes behind the loads.
// -DELEMENT=Bf16: of dy, which is then rounded already.
//
// variants: |
// variants(sm_80): -DPRECISION=tf32 | -DPRECISION=bf16 | -DPRECISION=bf16 -DELEMENT=Bf16

#include "common.cuh"
#include "epilogue.cuh"
#include "normalisation.cuh"
#include "stored.cuh"

#ifndef ELEMENT
#define ELEMENT float
#endif
#ifndef PRECISION
#define PRECISION float32
#endif

constexpr Precision OPERANDS = Precision::PRECISION;
constexpr Precision OF_DY = sizeof(ELEMENT) == 2 ? Precision::float32 : OPERANDS;

constexpr int THREADS = 256;
constexpr int PIXELS = 8;  // of z per thread and turn, at 4 columns: 32 sums in registers
constexpr int CHUNK = 16;  // channels of normalised dy in shared memory
constexpr int ROUNDS = 2;  // turns of a thread whose sums it keeps from chunk to chunk

__device__ __forceinline__ void add_products(float4& sum, float a, float4 b) {
    sum.x = fmaf(a, b.x, sum.x);
    sum.y = fmaf(a, b.y, sum.y);
    sum.z = fmaf(a, b.z, sum.z);
    sum.w = fmaf(a, b.w, sum.w);
}

// The taps that reach coordinate `at` of x along one axis: first, first + tap_step, ...; the i-th
// of them comes from coordinate origin - i * back of y.
struct Reaching {
    int first, origin;

    __device__ Reaching(int at, int stride, int pad, int dilation, int tap_step) : first(0) {
        while (first < tap_step && (at + pad - first * dilation) % stride != 0) ++first;
        origin = first < tap_step ? (at + pad - first * dilation) / stride : 0;
        if (first == tap_step) first = NONE;
    }

    static constexpr int NONE = 1 << 29;
};

// A layer, and the rows of one image that a block computes.
struct Band {
    int height, width, x_channels, y_height, y_width, y_channels, kernel_h, kernel_w, stride_h,
        stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int columns, quads, pitch;  // of z
    int image, top, bottom;     // rows of dx, both included
    int first_row, pixels;      // rows of dy that reach them, and their pixels

    __device__ __forceinline__ Band(int height, int width, int x_channels, int y_height,
                                    int y_width, int y_channels, int kernel_h, int kernel_w,
                                    int stride_h, int stride_w, int pad_h, int pad_w,
                                    int dilation_h, int dilation_w, int band)
        : height(height),
          width(width),
          x_channels(x_channels),
          y_height(y_height),
          y_width(y_width),
          y_channels(y_channels),
          kernel_h(kernel_h),
          kernel_w(kernel_w),
          stride_h(stride_h),
          stride_w(stride_w),
          pad_h(pad_h),
          pad_w(pad_w),
          dilation_h(dilation_h),
          dilation_w(dilation_w) {
        columns = kernel_h * kernel_w * x_channels;
        quads = ceil_div(columns, 4);
        pitch = quads | 1;  // odd: neighbouring pixels start in different banks
        const int bands = ceil_div(height, band);
        image = blockIdx.x / bands;
        top = (blockIdx.x - image * bands) * band;
        bottom = min(top + band, height) - 1;
        const int reach = (kernel_h - 1) * dilation_h;
        first_row = top + pad_h > reach ? ceil_div(top + pad_h - reach, stride_h) : 0;
        const int last_row = min((bottom + pad_h) / stride_h, y_height - 1);
        pixels = max(last_row - first_row + 1, 0) * y_width;
    }

    // Of dy.
    __device__ Offset first_pixel() const {
        return (static_cast<Offset>(image) * y_height + first_row) * y_width;
    }

    // weights (y_channels, quads): w, zeros past columns.
    __device__ __forceinline__ void put_weights(float4* weights, const float* w) const {
        float* const weight = reinterpret_cast<float*>(weights);
        for (int i = threadIdx.x; i < y_channels * quads * 4; i += THREADS) {
            const int k = quotient(i, quads * 4), column = i - k * (quads * 4);
            weight[i] =
                column < columns ? rounded(OPERANDS, __ldg(w + k * columns + column)) : 0.0f;
        }
    }

    __device__ __forceinline__ void put(float4* products, const float4 (&sums)[PIXELS], int block,
                                        int quad) const {
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            const int pixel = block * PIXELS + i;
            if (pixel < pixels) products[pixel * pitch + quad] = sums[i];
        }
    }

    // The second half, from z.
    __device__ __forceinline__ void gather(const float4* products, float* dx,
                                           const Epilogue& epilogue) const {
        const int tap_step_h = stride_h / greatest_common_divisor(stride_h, dilation_h);
        const int tap_step_w = stride_w / greatest_common_divisor(stride_w, dilation_w);
        const int back_h = tap_step_h * dilation_h / stride_h;
        const int back_w = tap_step_w * dilation_w / stride_w;
        const float* const product = reinterpret_cast<const float*>(products);
        const Offset out = (static_cast<Offset>(image) * height + top) * width * x_channels;
        // A thread keeps to one column and channel, and takes every `together`-th row of the band.
        const int line = width * x_channels;
        const int span = min(line, THREADS), together = THREADS / span;
        if (static_cast<int>(threadIdx.x) >= span * together) return;
        for (int i = threadIdx.x % span; i < line; i += span) {
            const int channel = i % x_channels;
            const Reaching row(i / x_channels, stride_w, pad_w, dilation_w, tap_step_w);
            for (int h = top + threadIdx.x / span; h <= bottom; h += together) {
                const Reaching rows(h, stride_h, pad_h, dilation_h, tap_step_h);
                float sum = 0.0f;
                for (int r = rows.first, p = rows.origin; r < kernel_h;
                     r += tap_step_h, p -= back_h) {
                    if (p < 0 || p >= y_height) continue;
                    const float* const from = product + (p - first_row) * y_width * (pitch * 4);
                    const int tap = r * kernel_w;
                    for (int s = row.first, q = row.origin; s < kernel_w;
                         s += tap_step_w, q -= back_w) {
                        if (q < 0 || q >= y_width) continue;
                        sum += from[q * (pitch * 4) + (tap + s) * x_channels + channel];
                    }
                }
                const Offset index = out + static_cast<Offset>(h - top) * line + i;
                store<1>(dx + index, epilogue.finish<true, 1>({{sum}}, dx + index, index, channel));
            }
        }
    }
};

// dx (batch, height, width, x_channels) from dy (batch, y_height, y_width, y_channels) and
// w (y_channels, kernel_h, kernel_w, x_channels); bias (x_channels), and activated as dx,
// or null (epilogue.cuh). `band` rows of dx per block.
extern "C" __global__ void __launch_bounds__(THREADS)
    convolution_backward_data_few(const ELEMENT* __restrict__ dy, const float* __restrict__ w,
                                  const float* __restrict__ bias, float* dx, int batch, int height,
                                  int width, int x_channels, int y_height, int y_width,
                                  int y_channels, int kernel_h, int kernel_w, int stride_h,
                                  int stride_w, int pad_h, int pad_w, int dilation_h,
                                  int dilation_w, int band, int accumulate, const float* activated,
                                  int activation, float slope) {
    extern __shared__ float4 shared[];
    const Epilogue epilogue = {bias, activated, Activation(activation), slope, accumulate};
    const Band at(height, width, x_channels, y_height, y_width, y_channels, kernel_h, kernel_w,
                  stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, band);
    const int quads = at.quads, pixels = at.pixels;
    float4* const weights = shared;                         // (y_channels, quads)
    float4* const products = weights + y_channels * quads;  // z (rows * y_width, pitch)
    at.put_weights(weights, w);
    __syncthreads();

    const ELEMENT* const gradients = dy + at.first_pixel() * y_channels;
    for (int item = threadIdx.x; item < ceil_div(pixels, PIXELS) * quads; item += THREADS) {
        const int block = quotient(item, quads), quad = item - block * quads;
        float4 sums[PIXELS] = {};
        for (int k = 0; k < y_channels; k += 4) {
            float4 a[PIXELS];
#pragma unroll
            for (int i = 0; i < PIXELS; ++i) {
                const int pixel = min(block * PIXELS + i, pixels - 1);
                a[i] = rounded(OF_DY, read_four(gradients + pixel * y_channels + k));
            }
            const float4* const b = weights + k * quads + quad;
            const float4 b0 = b[0], b1 = b[quads], b2 = b[2 * quads], b3 = b[3 * quads];
#pragma unroll
            for (int i = 0; i < PIXELS; ++i) {
                add_products(sums[i], a[i].x, b0);
                add_products(sums[i], a[i].y, b1);
                add_products(sums[i], a[i].z, b2);
                add_products(sums[i], a[i].w, b3);
            }
        }
        at.put(products, sums, block, quad);
    }
    __syncthreads();
    at.gather(products, dx, epilogue);
}

// The same of dy that a batch norm and its activation make of what is read: normalisation
// (y_channels, 4) and kind, none, relu or leaky_relu with its incline (normalisation.cuh).
extern "C" __global__ void __launch_bounds__(THREADS, 2) convolution_backward_data_few_normalised(
    const ELEMENT* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias,
    float* dx, int batch, int height, int width, int x_channels, int y_height, int y_width,
    int y_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
    int dilation_h, int dilation_w, int band, int accumulate, const float* activated,
    int activation, float slope, const float* __restrict__ normalisation, int kind, float incline) {
    extern __shared__ float4 shared[];
    const Epilogue epilogue = {bias, activated, Activation(activation), slope, accumulate};
    const Normalisation normalise = {normalisation, Activation(kind), incline};
    const Band at(height, width, x_channels, y_height, y_width, y_channels, kernel_h, kernel_w,
                  stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, band);
    const int quads = at.quads, pixels = at.pixels;
    float4* const weights = shared;                         // (y_channels, quads)
    float4* const products = weights + y_channels * quads;  // z, and before it
    float4* const chunk = products;                         // (pixels, CHUNK) of normalised dy
    at.put_weights(weights, w);

    const ELEMENT* const gradients = dy + at.first_pixel() * y_channels;
    const int items = ceil_div(pixels, PIXELS) * quads;
    float4 sums[ROUNDS][PIXELS] = {};
#pragma unroll 1
    for (int first = 0; first < y_channels; first += CHUNK) {
        constexpr int FOURS = CHUNK / 4;
        const int four = threadIdx.x % FOURS, channel = first + 4 * four;
        if (channel < y_channels) {
            const float4 of[4] = {normalise.of(channel), normalise.of(channel + 1),
                                  normalise.of(channel + 2), normalise.of(channel + 3)};
#pragma unroll 1
            for (int pixel = threadIdx.x / FOURS; pixel < ceil_div(pixels, PIXELS) * PIXELS;
                 pixel += THREADS / FOURS) {
                const int existing = min(pixel, pixels - 1);
                const float4 x = read_four(gradients + existing * y_channels + channel);
                const float4 y = {normalise(x.x, of[0]), normalise(x.y, of[1]),
                                  normalise(x.z, of[2]), normalise(x.w, of[3])};
                // a place is left out behind the pixels of a block: other banks for the next
                chunk[pixel * FOURS + pixel / PIXELS + four] = rounded(OPERANDS, y);
            }
        }
        __syncthreads();
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round) {
            int item = threadIdx.x + round * THREADS;
            if (item >= items) continue;
#ifdef __CUDA_ARCH__
            asm volatile("" : "+r"(item));  // divided anew: the sums need the registers meanwhile
#endif
            const int block = quotient(item, quads);
            const float4* const from = chunk + block * (PIXELS * FOURS + 1);
            const float4* const b = weights + first * quads + (item - block * quads);
#pragma unroll 1
            for (int k = 0; k < min(CHUNK, y_channels - first); k += 4) {
                const float4* const row = b + k * quads;
                const float4 b0 = row[0], b1 = row[quads], b2 = row[2 * quads], b3 = row[3 * quads];
#pragma unroll
                for (int i = 0; i < PIXELS; ++i) {
                    const float4 a = from[i * FOURS + k / 4];
                    add_products(sums[round][i], a.x, b0);
                    add_products(sums[round][i], a.y, b1);
                    add_products(sums[round][i], a.z, b2);
                    add_products(sums[round][i], a.w, b3);
                }
            }
        }
        __syncthreads();  // before the next chunk, or z, is written over this one
    }
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const int item = threadIdx.x + round * THREADS;
        if (item >= items) break;
        const int block = quotient(item, quads);
        at.put(products, sums[round], block, item - block * quads);
    }
    __syncthreads();
    at.gather(products, dx, epilogue);
}

// Launch contract
//   grid (batch * ceil(height / band)), block 256, dynamic shared memory of 16 bytes *
//   (y_channels * quads + rows * y_width * (quads | 1)) with quads = ceil(R*S*C / 4) and rows =
//   ((band - 1) + (R - 1) * dilation_h) / stride_h + 1, the most that reach a band.
//   groups is 1, any activation, y_channels a multiple of 4, dy starts at a multiple of 16 bytes.
//   convolution_backward_data_few_normalised: besides, ceil(rows * y_width / PIXELS) * quads is at
//   most ROUNDS * 256, normalisation starts at a multiple of 16 bytes, and in memory rows * y_width
//   * (quads | 1) is at least ceil(rows * y_width / PIXELS) * (PIXELS * CHUNK / 4 + 1).
