// Convolution and transposed convolution: three kernels for six passes, float32, NHWC.
//
//     x (N, H, W, C)    the large side, groups * Cg channels
//     y (N, P, Q, K)    the small side, groups * Kg channels
//     w (K, R, S, Cg)   R x S taps
//
//     y[n,p,q,k] = sum over r, s, c of  x[n, p*stride - pad + r*dilation, q*..., c] * w[k,r,s,c]
//
//     kernel                        convolution        transposed convolution (x is its output)
//     convolution_forward           y from x, w        gradient of its input
//     convolution_backward_data     dx from dy, w      forward
//     convolution_backward_weight   dw from x, dy      gradient of its weight
//
// Each is a matrix product whose operands are gathered while they are copied to shared memory
// (implicit GEMM: the matrix of patches is never stored):
//
//     kernel            lines of a tile      columns    summed over
//     forward           pixels of y          k          r, s, c
//     backward_data     pixels of x, by phase  c        r, s of the phase, k
//     backward_weight   k                    r, s, c    pixels of y
//
// Channels are last everywhere, so the copies read runs of neighbouring addresses.
//
// Stride: only the taps with r*dilation = h + pad (mod stride) reach row h of x. The pixels of x
// therefore fall into stride_h * stride_w phases; in one phase all pixels share their taps, and y
// moves by one pixel when x moves by a stride: each phase is a small convolution of stride 1. With
// stride 2 and 4 x 4 taps that is four products with 2 x 2 taps, a quarter of the work of a
// convolution over y with inserted zeros.
//
// Steps: 1. *_direct, one thread per output, reads as the formula does (and tests the others);
// 2. the tiled product (see tile_product.cuh): a value loaded once serves a line or a column of
// the tile; 3. phases in backward_data; 4. slices of the summed dimension (blockIdx.z) where the
// result has too few tiles to fill a GPU, added in a fixed order by sum_partials. The tiled kernels
// take any channels at any address; convolution_pipelined.cu goes on from here.

// variants: -DTILE_M=64 -DTILE_N=64 | -DTILE_M=32 -DTILE_N=32
// variants: -DTILE_M=64 -DTILE_N=8 | -DTILE_M=8 -DTILE_N=64

#include "tile_product.cuh"

#include "convolution_passes.cuh"

constexpr int DIRECT_THREADS = 256;

// Blocks per multiprocessor that registers are rationed for: sm_75 has room for 1024 threads.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int DIRECT_RESIDENT = 4;
#else
constexpr int DIRECT_RESIDENT = 5;
#endif

// Source: patches of images (batch, height, width, pitch). Line = position of a (batch, grid_h,
// grid_w) grid, depth = (tap_h, tap_w, channel); outside an image lie zeros.
template <int EXTENT>
struct Patches {
    using Share = AlongDepth<EXTENT>;
    const float* images;                   // at the group's first channel
    int top[Share::SHARE];                 // first row of each line's image, of all images' rows
    int h[Share::SHARE], w[Share::SHARE];  // where tap (0, 0) of each line looks in its image
    int height, width, pitch, channels, taps_w, step_h, step_w;

    __device__ Patches(const float* __restrict__ images, int batch, int height, int width,
                       int pitch, int channels, int grid_h, int grid_w, Axis vertical,
                       Axis horizontal, int first_line, int)
        : images(images),
          height(height),
          width(width),
          pitch(pitch),
          channels(channels),
          taps_w(horizontal.taps),
          step_h(vertical.step),
          step_w(horizontal.step) {
#pragma unroll
        for (int i = 0; i < Share::SHARE; ++i) {
            const int line = first_line + Share::line(i);
            const bool inside = line < batch * grid_h * grid_w;
            const Position at = position(inside ? line : 0, grid_h, grid_w);
            top[i] = at.n * height;
            // A line past the last looks at rows that no image has, and so reads zeros.
            h[i] = inside ? at.h * vertical.unit + vertical.origin : NOWHERE;
            w[i] = at.w * horizontal.unit + horizontal.origin;
        }
    }

    __device__ void fill(Slab<EXTENT>& slab, int first_depth, int depth_end) const {
        const int depth = first_depth + Share::depth();
        const int tap = quotient(depth, channels);
        const int channel = depth - tap * channels;
        const int tap_h = quotient(tap, taps_w);
        const int tap_w = tap - tap_h * taps_w;
#pragma unroll
        for (int i = 0; i < Share::SHARE; ++i) {
            const int row = h[i] + tap_h * step_h;
            const int column = w[i] + tap_w * step_w;
            const bool inside =
                depth < depth_end && row >= 0 && row < height && column >= 0 && column < width;
            const Offset pixel = static_cast<Offset>(top[i] + row) * width + column;
            slab[Share::depth()][Share::line(i)] =
                inside ? __ldg(images + pixel * pitch + channel) : 0.0f;
        }
    }

  private:
    static constexpr int NOWHERE = -(1 << 29);
};

// Source: the transpose of Patches. Line = (tap_h, tap_w, channel), depth = grid position.
template <int EXTENT>
struct PatchColumns {
    using Share = AcrossLines<EXTENT>;
    const float* images;  // at the channel of this thread's line
    int h, w;             // where this line's tap looks from position (0, 0)
    int height, width, pitch, grid_h, grid_w, unit_h, unit_w;
    bool inside;

    __device__ PatchColumns(const float* __restrict__ images, int height, int width, int pitch,
                            int channels, int grid_h, int grid_w, Axis vertical, Axis horizontal,
                            int first_line, int)
        : height(height),
          width(width),
          pitch(pitch),
          grid_h(grid_h),
          grid_w(grid_w),
          unit_h(vertical.unit),
          unit_w(horizontal.unit) {
        const int line = first_line + Share::line();
        const int tap = quotient(line, channels);
        const int tap_h = quotient(tap, horizontal.taps);
        this->images = images + (line - tap * channels);
        h = vertical.origin + tap_h * vertical.step;
        w = horizontal.origin + (tap - tap_h * horizontal.taps) * horizontal.step;
        inside = tap_h < vertical.taps;
    }

    __device__ void fill(Slab<EXTENT>& slab, int first_depth, int depth_end) const {
#pragma unroll
        for (int i = 0; i < Share::SHARE; ++i) {
            const int depth = first_depth + Share::depth(i);
            const Position at = position(depth, grid_h, grid_w);
            const int row = h + at.h * unit_h;
            const int column = w + at.w * unit_w;
            const bool valid = inside && depth < depth_end && row >= 0 && row < height &&
                               column >= 0 && column < width;
            const Offset pixel = (static_cast<Offset>(at.n) * height + row) * width + column;
            slab[Share::depth(i)][Share::line()] = valid ? __ldg(images + pixel * pitch) : 0.0f;
        }
    }
};

// Source: the weights of a phase. Line = channel of x, depth = (tap_h, tap_w, channel of y).
template <int EXTENT>
struct PhaseWeights {
    using Share = AcrossLines<EXTENT>;
    const float* start;  // of the group, at this thread's channel of x
    int kernel_h, kernel_w, x_channels, y_channels;
    Phase vertical, horizontal;
    bool inside;

    __device__ PhaseWeights(const float* __restrict__ group, int kernel_h, int kernel_w,
                            int x_channels, int y_channels, Phase vertical, Phase horizontal,
                            int first_line, int)
        : kernel_h(kernel_h),
          kernel_w(kernel_w),
          x_channels(x_channels),
          y_channels(y_channels),
          vertical(vertical),
          horizontal(horizontal) {
        const int channel = first_line + Share::line();
        start = group + channel;
        inside = channel < x_channels;
    }

    __device__ void fill(Slab<EXTENT>& slab, int first_depth, int depth_end) const {
#pragma unroll
        for (int i = 0; i < Share::SHARE; ++i) {
            const int depth = first_depth + Share::depth(i);
            const int tap = quotient(depth, y_channels);
            const int channel = depth - tap * y_channels;
            const int tap_h = quotient(tap, horizontal.taps);
            const int tap_w = tap - tap_h * horizontal.taps;
            const int r = vertical.tap + tap_h * vertical.tap_step;
            const int s = horizontal.tap + tap_w * horizontal.tap_step;
            const Offset offset =
                ((static_cast<Offset>(channel) * kernel_h + r) * kernel_w + s) * x_channels;
            slab[Share::depth(i)][Share::line()] =
                inside && depth < depth_end ? __ldg(start + offset) : 0.0f;
        }
    }
};

struct General {
    static constexpr bool TRANSPOSED = false;
    using Patches = ::Patches<TILE_M>;
    using PatchColumns = ::PatchColumns<TILE_N>;
    using FilterRows = MatrixRows<TILE_N>;
    using PhaseWeights = ::PhaseWeights<TILE_N>;
    using Gradients = MatrixColumns<TILE_M>;

    template <class Left, class Right>
    __device__ __forceinline__ static Sums product(const Left& left, const Right& right,
                                                   DepthRange range) {
        return tile_product(left, right, range);
    }
};

// y (or, with slices > 1, partials of it) from x and w; bias (K), and activated as y, or null: what
// becomes of the sums is told in epilogue.cuh.
extern "C" __global__ void __launch_bounds__(THREADS)
    convolution_forward(const float* __restrict__ x, const float* __restrict__ w,
                        const float* __restrict__ bias, float* y, int batch, int height, int width,
                        int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
                        int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
                        int dilation_h, int dilation_w, int groups, int slices, int accumulate,
                        const float* activated, int activation, float slope) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    forward<General>(
        layer, x, w,
        {y, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}});
}

// dx (or, with slices > 1, partials of it) from dy and w; bias (C), and activated as dx, or null:
// with a bias this is the forward of a transposed convolution.
extern "C" __global__ void __launch_bounds__(THREADS)
    convolution_backward_data(const float* __restrict__ dy, const float* __restrict__ w,
                              const float* __restrict__ bias, float* dx, int batch, int height,
                              int width, int x_channels, int y_height, int y_width, int y_channels,
                              int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h,
                              int pad_w, int dilation_h, int dilation_w, int groups, int slices,
                              int accumulate, const float* activated, int activation, float slope) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_data<General>(
        layer, dy, w,
        {dx, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}});
}

// dw (or, with slices > 1, partials of it) from x and dy.
extern "C" __global__ void __launch_bounds__(THREADS)
    convolution_backward_weight(const float* __restrict__ x, const float* __restrict__ dy,
                                float* dw, int batch, int height, int width, int x_channels,
                                int y_height, int y_width, int y_channels, int kernel_h,
                                int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
                                int dilation_h, int dilation_w, int groups, int slices,
                                int accumulate) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<General>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}});
}

// The first versions: one thread per element of the result, arguments as above.

extern "C" __global__ void __launch_bounds__(DIRECT_THREADS, DIRECT_RESIDENT)
    convolution_forward_direct(const float* __restrict__ x, const float* __restrict__ w,
                               const float* __restrict__ bias, float* y, int batch, int height,
                               int width, int x_channels, int y_height, int y_width, int y_channels,
                               int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h,
                               int pad_w, int dilation_h, int dilation_w, int groups,
                               int accumulate, const float* activated, int activation,
                               float slope) {
    const Offset index = static_cast<Offset>(blockIdx.x) * DIRECT_THREADS + threadIdx.x;
    if (index >= static_cast<Offset>(batch) * y_height * y_width * y_channels) return;
    const int k = static_cast<int>(index % y_channels);
    const Position at = position(static_cast<int>(index / y_channels), y_height, y_width);
    const int group_x = x_channels / groups;
    const int group = k / (y_channels / groups);

    float sum = 0.0f;
    for (int r = 0; r < kernel_h; ++r) {
        const int h = at.h * stride_h - pad_h + r * dilation_h;
        for (int s = 0; s < kernel_w; ++s) {
            const int v = at.w * stride_w - pad_w + s * dilation_w;
            if (h < 0 || h >= height || v < 0 || v >= width) continue;
            const Offset pixel = (static_cast<Offset>(at.n) * height + h) * width + v;
            const float* from = x + pixel * x_channels + group * group_x;
            const float* weight =
                w + ((static_cast<Offset>(k) * kernel_h + r) * kernel_w + s) * group_x;
            for (int c = 0; c < group_x; ++c) sum = fmaf(from[c], weight[c], sum);
        }
    }
    const Epilogue epilogue = {bias, activated, Activation(activation), slope, accumulate};
    store<1>(y + index, epilogue.finish<true, 1>({{sum}}, y + index, index, k));
}

extern "C" __global__ void __launch_bounds__(DIRECT_THREADS, DIRECT_RESIDENT)
    convolution_backward_data_direct(const float* __restrict__ dy, const float* __restrict__ w,
                                     const float* __restrict__ bias, float* dx, int batch,
                                     int height, int width, int x_channels, int y_height,
                                     int y_width, int y_channels, int kernel_h, int kernel_w,
                                     int stride_h, int stride_w, int pad_h, int pad_w,
                                     int dilation_h, int dilation_w, int groups, int accumulate,
                                     const float* activated, int activation, float slope) {
    const Offset index = static_cast<Offset>(blockIdx.x) * DIRECT_THREADS + threadIdx.x;
    if (index >= static_cast<Offset>(batch) * height * width * x_channels) return;
    const int c = static_cast<int>(index % x_channels);
    const Position at = position(static_cast<int>(index / x_channels), height, width);
    const int group_x = x_channels / groups, group_y = y_channels / groups;
    const int group = c / group_x;

    float sum = 0.0f;
    for (int r = 0; r < kernel_h; ++r) {
        const int from_h = at.h + pad_h - r * dilation_h;
        for (int s = 0; s < kernel_w; ++s) {
            const int from_w = at.w + pad_w - s * dilation_w;
            // Only a stride's multiples come from a pixel of y.
            if (from_h < 0 || from_h % stride_h != 0 || from_h / stride_h >= y_height) continue;
            if (from_w < 0 || from_w % stride_w != 0 || from_w / stride_w >= y_width) continue;
            const Offset row = static_cast<Offset>(at.n) * y_height + from_h / stride_h;
            const float* from = dy + (row * y_width + from_w / stride_w) * y_channels;
            for (int k = group * group_y; k < (group + 1) * group_y; ++k) {
                const Offset tap = (static_cast<Offset>(k) * kernel_h + r) * kernel_w + s;
                sum = fmaf(from[k], w[tap * group_x + c % group_x], sum);
            }
        }
    }
    const Epilogue epilogue = {bias, activated, Activation(activation), slope, accumulate};
    store<1>(dx + index, epilogue.finish<true, 1>({{sum}}, dx + index, index, c));
}

extern "C" __global__ void __launch_bounds__(DIRECT_THREADS)
    convolution_backward_weight_direct(const float* __restrict__ x, const float* __restrict__ dy,
                                       float* dw, int batch, int height, int width, int x_channels,
                                       int y_height, int y_width, int y_channels, int kernel_h,
                                       int kernel_w, int stride_h, int stride_w, int pad_h,
                                       int pad_w, int dilation_h, int dilation_w, int groups,
                                       int accumulate) {
    const int group_x = x_channels / groups, group_y = y_channels / groups;
    const Offset index = static_cast<Offset>(blockIdx.x) * DIRECT_THREADS + threadIdx.x;
    if (index >= static_cast<Offset>(y_channels) * kernel_h * kernel_w * group_x) return;
    const int c = static_cast<int>(index % group_x);
    const Position tap = position(static_cast<int>(index / group_x), kernel_h, kernel_w);
    const int k = tap.n;
    const int channel = k / group_y * group_x + c;

    float sum = 0.0f;
    for (int n = 0; n < batch; ++n) {
        for (int p = 0; p < y_height; ++p) {
            const int h = p * stride_h - pad_h + tap.h * dilation_h;
            for (int q = 0; q < y_width; ++q) {
                const int v = q * stride_w - pad_w + tap.w * dilation_w;
                if (h < 0 || h >= height || v < 0 || v >= width) continue;
                const Offset from = (static_cast<Offset>(n) * height + h) * width + v;
                const Offset to = (static_cast<Offset>(n) * y_height + p) * y_width + q;
                sum = fmaf(x[from * x_channels + channel], dy[to * y_channels + k], sum);
            }
        }
    }
    dw[index] = accumulate ? dw[index] + sum : sum;
}

// Launch contract
//   convolution_forward          grid (ceil(N*P*Q / TILE_M), ceil(Kg / TILE_N), groups * slices)
//   convolution_backward_data    grid (ceil(N * ceil(H / stride_h) * ceil(W / stride_w) / TILE_M),
//                                      ceil(Cg / TILE_N), groups * stride_h * stride_w * slices)
//   convolution_backward_weight  grid (ceil(Kg / TILE_M), ceil(R*S*Cg / TILE_N), groups * slices)
//     block THREADS = TILE_M / MICRO_M * TILE_N / MICRO_N (256 for 64 x 64 tiles).
//     slices == 1: the result is written, or added to with accumulate != 0.
//     slices > 1: the written pointer is a workspace of slices copies of the result; accumulate and
//     the end of a sum (epilogue.cuh) are left to sum_partials.
//     activation, by number: with more than FEW_SUMS sums a thread none, relu or leaky_relu; where
//     activated is given, any but softplus.
//   *_direct                     grid (ceil(elements of the result / 256)), block 256.
//   Positions of a grid (N*H*W, N*P*Q), taps * channels and every coordinate * dilation or stride
//   stay below 2^31 - 64; tensors may be larger. No dynamic shared memory; static shared memory of
//   the tiled kernels TILE_K * (TILE_M + TILE_N + 8) * 4 bytes.
