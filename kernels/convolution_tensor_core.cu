// Convolution and transposed convolution on tensor cores: the three kernels of convolution.cu with
// operands rounded to TF32 or bf16. Memory holds float32 everywhere, and sums are float32.
//
//     x (N, H, W, C)    the large side, groups * Cg channels
//     y (N, P, Q, K)    the small side, groups * Kg channels
//     w (K, R, S, Cg)   R x S taps
//
//     kernel            lines of a tile        columns   summed over   contiguous along
//     forward           pixels of y            k         r, s, c       c and c: the depth
//     backward_data     pixels of x, by phase  c         r, s, k       k: the depth; c: columns
//     backward_weight   k                      r, s, c   pixels of y   k and c: lines, columns
//
// A fully connected layer is the case of 1 x 1 pixels and 1 x 1 taps.
//
// Why it is fast: see tensor_core.cuh for the products, convolution.cu for the taps of a stride. A
// thread copies 16 bytes at a time where the channels of a group are a multiple of 4 and the array
// starts at a multiple of 16 bytes, else 4; the result is the same, and any number of channels
// works. What lies outside an image, a tile or a slice arrives as zeros (cp.async fills them in).
//
// Tiles: 128 x 128 where the result has many (each element from memory then serves 128 products),
// 128 x 64 for 64 channels, 64 x 64 for smaller layers, 128 x 8 for images. Slices of the summed
// dimension as in convolution.cu.

// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=8 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128 -DTILE_K=16 -DSTAGES=4
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=64 -DTILE_N=64 -DTILE_K=32 -DSTAGES=3
// variants(sm_80): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=8 -DTILE_K=32 -DSTAGES=3

#include "convolution_geometry.cuh"
#include "tensor_core.cuh"

// In what follows `floats` is what a copy moves: UNIT, or 1, and then a unit is copied part by
// part.

// Source: patches of images (batch, height, width, pitch). Line = position of a (batch, grid_h,
// grid_w) grid, depth = (tap_h, tap_w, channel); outside an image lie zeros.
template <int LINES>
struct Patches {
    using Slab = AlongDepth<LINES>;
    const float* images;      // at the group's first channel
    int corner[Slab::SHARE];  // the pixel that tap (0, 0) of each line looks at, and
    int h[Slab::SHARE];       // its coordinates in its image
    int w[Slab::SHARE];
    Position tap, step;  // (tap_h, tap_w, channel) of this thread's next depth
    int height, width, pitch, channels, taps_w, step_h, step_w, floats;

    __device__ Patches(const float* __restrict__ images, int batch, int height, int width,
                       int pitch, int channels, int grid_h, int grid_w, Axis vertical,
                       Axis horizontal, int first_depth)
        : images(images),
          height(height),
          width(width),
          pitch(pitch),
          channels(channels),
          taps_w(max(horizontal.taps, 1)),
          step_h(vertical.step),
          step_w(horizontal.step),
          floats(floats_per_copy(images, channels)) {
        tap = position(first_depth + Slab::depth(), taps_w, channels);
        step = position(TILE_K, taps_w, channels);
        UNROLL
        for (int i = 0; i < Slab::SHARE; ++i) {
            const int line = blockIdx.x * TILE_M + Slab::line(i);
            const bool inside = line < batch * grid_h * grid_w;
            const Position at = position(inside ? line : 0, grid_h, grid_w);
            h[i] = at.h * vertical.unit + vertical.origin;
            w[i] = at.w * horizontal.unit + horizontal.origin;
            corner[i] = (at.n * height + h[i]) * width + w[i];
            // A line past the last looks at rows that no image has, and so reads zeros.
            if (!inside) h[i] = NOWHERE;
        }
    }

    __device__ void fill(Copies& copies, float* slab, int depths) {
        Position at = tap;
#pragma unroll 1
        for (int part = 0; part < UNIT; part += floats) {
            const int down = at.n * step_h, right = at.h * step_w;
            const bool within = Slab::depth() + part < depths;
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                if (Slab::line(i) >= LINES) continue;
                const int row = h[i] + down, column = w[i] + right;
                const bool inside = within & (static_cast<unsigned>(row) < unsigned(height)) &
                                    (static_cast<unsigned>(column) < unsigned(width));
                const int pixel = corner[i] + (down * width + right);
                copies.start(slab + Slab::place(Slab::line(i), Slab::depth() + part),
                             images + static_cast<Offset>(pixel) * pitch + at.w, inside, floats);
            }
            advance(at, {0, 0, 1}, taps_w, channels);
        }
        advance(tap, step, taps_w, channels);
    }

  private:
    static constexpr int NOWHERE = -(1 << 29);
};

// Source: the transpose of Patches. Line = (tap_h, tap_w, channel), depth = grid position.
template <int LINES>
struct PatchColumns {
    using Slab = AcrossLines<LINES>;
    const float* images;  // at the group's first channel
    Position tap;         // of this thread's first line
    Position at, step;    // of this thread's next depth; its depths are Slab::STEP apart
    int height, width, pitch, channels, grid_h, grid_w, floats;
    Axis vertical, horizontal;

    __device__ PatchColumns(const float* __restrict__ images, int height, int width, int pitch,
                            int channels, int grid_h, int grid_w, Axis vertical, Axis horizontal,
                            int first_depth)
        : images(images),
          height(height),
          width(width),
          pitch(pitch),
          channels(channels),
          grid_h(grid_h),
          grid_w(grid_w),
          floats(floats_per_copy(images, channels)),
          vertical(vertical),
          horizontal(horizontal) {
        tap = position(blockIdx.y * TILE_N + Slab::line(), horizontal.taps, channels);
        at = position(first_depth + Slab::depth(0), grid_h, grid_w);
        step = position(Slab::STEP, grid_h, grid_w);
    }

    __device__ void fill(Copies& copies, float* slab, int depths) {
        const Position first = at;
        Position of_line = tap;
#pragma unroll 1
        for (int part = 0; part < UNIT; part += floats) {
            const int h = vertical.origin + of_line.n * vertical.step;
            const int w = horizontal.origin + of_line.h * horizontal.step;
            const bool reached = of_line.n < vertical.taps;
            at = first;
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                const int row = h + at.h * vertical.unit, column = w + at.w * horizontal.unit;
                const bool inside = reached & (Slab::depth(i) < depths) &
                                    (static_cast<unsigned>(row) < unsigned(height)) &
                                    (static_cast<unsigned>(column) < unsigned(width));
                const int pixel = (at.n * height + row) * width + column;
                if (Slab::depth(i) < TILE_K) {
                    copies.start(slab + Slab::place(Slab::line() + part, Slab::depth(i)),
                                 images + static_cast<Offset>(pixel) * pitch + of_line.w, inside,
                                 floats);
                }
                advance(at, step, grid_h, grid_w);
            }
            advance(of_line, {0, 0, 1}, horizontal.taps, channels);
        }
    }
};

// Source: element (line, depth) of a matrix at start[line * pitch + depth].
template <int LINES>
struct MatrixRows {
    using Slab = AlongDepth<LINES>;
    const float* start;
    int first, lines, pitch, depth, floats;  // first line of the block; lines of the matrix

    __device__ MatrixRows(const float* __restrict__ start, int first, int lines, int pitch,
                          int first_depth)
        : start(start),
          first(first),
          lines(lines),
          pitch(pitch),
          depth(first_depth + Slab::depth()),
          floats(floats_per_copy(start, pitch)) {}

    __device__ void fill(Copies& copies, float* slab, int depths) {
#pragma unroll 1
        for (int part = 0; part < UNIT; part += floats) {
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                if (Slab::line(i) >= LINES) continue;
                const int line = first + Slab::line(i);
                const bool inside = (line < lines) & (Slab::depth() + part < depths);
                const Offset offset = static_cast<Offset>(line) * pitch + (depth + part);
                copies.start(slab + Slab::place(Slab::line(i), Slab::depth() + part),
                             start + offset, inside, floats);
            }
        }
        depth += TILE_K;
    }
};

// Source: element (line, depth) of a matrix at start[depth * pitch + line].
template <int LINES>
struct MatrixColumns {
    using Slab = AcrossLines<LINES>;
    const float* start;
    int line, lines, pitch, depth, floats;  // line of this thread; lines of the matrix

    __device__ MatrixColumns(const float* __restrict__ start, int first, int lines, int pitch,
                             int first_depth)
        : start(start),
          line(first + Slab::line()),
          lines(lines),
          pitch(pitch),
          depth(first_depth + Slab::depth(0)),
          floats(pitch % UNIT == 0 ? floats_per_copy(start, lines) : 1) {}

    __device__ void fill(Copies& copies, float* slab, int depths) {
#pragma unroll 1
        for (int part = 0; part < UNIT; part += floats) {
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                if (Slab::depth(i) >= TILE_K) continue;
                const bool inside = (line + part < lines) & (Slab::depth(i) < depths);
                const int row = depth + i * Slab::STEP;
                const Offset offset = static_cast<Offset>(row) * pitch + (line + part);
                copies.start(slab + Slab::place(Slab::line() + part, Slab::depth(i)),
                             start + offset, inside, floats);
            }
        }
        depth += TILE_K;
    }
};

// Source: the weights of a phase. Line = channel of x, depth = (tap_h, tap_w, channel of y).
template <int LINES>
struct PhaseWeights {
    using Slab = AcrossLines<LINES>;
    const float* group;  // its weights (y_channels, kernel_h, kernel_w, x_channels)
    Position at, step;   // of this thread's next depth; its depths are Slab::STEP apart
    int line, x_channels, y_channels, taps_w, first, down, right, filter, floats;

    __device__ PhaseWeights(const float* __restrict__ group, int kernel_h, int kernel_w,
                            int x_channels, int y_channels, Phase vertical, Phase horizontal,
                            int first_depth)
        : group(group),
          line(blockIdx.y * TILE_N + Slab::line()),
          x_channels(x_channels),
          y_channels(y_channels),
          taps_w(max(horizontal.taps, 1)),
          first(vertical.tap * kernel_w + horizontal.tap),
          down(vertical.tap_step * kernel_w),
          right(horizontal.tap_step),
          filter(kernel_h * kernel_w),
          floats(floats_per_copy(group, x_channels)) {
        at = position(first_depth + Slab::depth(0), taps_w, y_channels);
        step = position(Slab::STEP, taps_w, y_channels);
    }

    __device__ void fill(Copies& copies, float* slab, int depths) {
        const Position from = at;
#pragma unroll 1
        for (int part = 0; part < UNIT; part += floats) {
            at = from;
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                const bool inside = (line + part < x_channels) & (Slab::depth(i) < depths);
                const int tap = first + at.n * down + at.h * right;
                const Offset row = static_cast<Offset>(at.w) * filter + tap;
                if (Slab::depth(i) < TILE_K) {
                    copies.start(slab + Slab::place(Slab::line() + part, Slab::depth(i)),
                                 group + row * x_channels + (line + part), inside, floats);
                }
                advance(at, step, taps_w, y_channels);
            }
        }
    }
};

// y (or, with slices > 1, partials of it) from x and w; bias (K) or null.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    convolution_forward_tensor_core(const float* __restrict__ x, const float* __restrict__ w,
                                    const float* __restrict__ bias, float* y, int batch, int height,
                                    int width, int x_channels, int y_height, int y_width,
                                    int y_channels, int kernel_h, int kernel_w, int stride_h,
                                    int stride_w, int pad_h, int pad_w, int dilation_h,
                                    int dilation_w, int groups, int slices, int accumulate) {
    const int group = blockIdx.z / slices, slice = blockIdx.z % slices;
    const int group_x = x_channels / groups, group_y = y_channels / groups;
    const int depth = kernel_h * kernel_w * group_x;
    const int lines = batch * y_height * y_width;
    const DepthRange range = depth_range(depth, slice, slices);

    const Patches<TILE_M> left(x + group * group_x, batch, height, width, x_channels, group_x,
                               y_height, y_width, {-pad_h, stride_h, dilation_h, kernel_h},
                               {-pad_w, stride_w, dilation_w, kernel_w}, range.begin);
    const MatrixRows<TILE_N> right(w + static_cast<Offset>(group) * group_y * depth,
                                   blockIdx.y * TILE_N, group_y, depth, range.begin);
    const Sums sums = tile_product(left, right, range);

    const Result result = {y,     bias,   static_cast<Offset>(lines) * y_channels,
                           slice, slices, accumulate};
    UNROLL
    for (int i = 0; i < Sums::LINES; ++i) {
        const int line = blockIdx.x * TILE_M + Sums::line(i);
        if (line >= lines) continue;
        UNROLL
        for (int j = 0; j < Sums::COLUMNS; ++j) {
            const int column = blockIdx.y * TILE_N + Sums::column(j);
            if (column >= group_y) continue;
            const int channel = group * group_y + column;
            result.store(static_cast<Offset>(line) * y_channels + channel, channel, sums.at(i, j));
        }
    }
}

// dx (or, with slices > 1, partials of it) from dy and w; bias (C) or null: with a bias this is
// the forward of a transposed convolution.
extern "C" __global__ void __launch_bounds__(THREADS, 1) convolution_backward_data_tensor_core(
    const float* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias,
    float* dx, int batch, int height, int width, int x_channels, int y_height, int y_width,
    int y_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,
    int dilation_h, int dilation_w, int groups, int slices, int accumulate) {
    const int slice = blockIdx.z % slices;
    const int phases = blockIdx.z / slices % (stride_h * stride_w);
    const int group = blockIdx.z / slices / (stride_h * stride_w);
    const Phase vertical =
        phase_of(phases / stride_w, height, kernel_h, stride_h, pad_h, dilation_h);
    const Phase horizontal =
        phase_of(phases % stride_w, width, kernel_w, stride_w, pad_w, dilation_w);
    const int lines = batch * vertical.count * horizontal.count;
    if (static_cast<int>(blockIdx.x) * TILE_M >= lines) return;  // a phase with fewer pixels

    const int group_x = x_channels / groups, group_y = y_channels / groups;
    const int depth = vertical.taps * horizontal.taps * group_y;
    const DepthRange range = depth_range(depth, slice, slices);
    const Patches<TILE_M> left(
        dy + group * group_y, batch, y_height, y_width, y_channels, group_y, vertical.count,
        horizontal.count, {vertical.origin, 1, -vertical.back, vertical.taps},
        {horizontal.origin, 1, -horizontal.back, horizontal.taps}, range.begin);
    const Offset group_weights = static_cast<Offset>(group_y) * kernel_h * kernel_w * group_x;
    const PhaseWeights<TILE_N> right(w + group * group_weights, kernel_h, kernel_w, group_x,
                                     group_y, vertical, horizontal, range.begin);
    const Sums sums = tile_product(left, right, range);

    const Offset size = static_cast<Offset>(batch) * height * width * x_channels;
    const Result result = {dx, bias, size, slice, slices, accumulate};
    UNROLL
    for (int i = 0; i < Sums::LINES; ++i) {
        const int line = blockIdx.x * TILE_M + Sums::line(i);
        if (line >= lines) continue;
        const Position at = position(line, vertical.count, horizontal.count);
        const int row = vertical.first + at.h * stride_h;
        const int column = horizontal.first + at.w * stride_w;
        const Offset pixel = (static_cast<Offset>(at.n) * height + row) * width + column;
        UNROLL
        for (int j = 0; j < Sums::COLUMNS; ++j) {
            const int within = blockIdx.y * TILE_N + Sums::column(j);
            if (within >= group_x) continue;
            const int channel = group * group_x + within;
            result.store(pixel * x_channels + channel, channel, sums.at(i, j));
        }
    }
}

// dw (or, with slices > 1, partials of it) from x and dy.
extern "C" __global__ void __launch_bounds__(THREADS, 1) convolution_backward_weight_tensor_core(
    const float* __restrict__ x, const float* __restrict__ dy, float* dw, int batch, int height,
    int width, int x_channels, int y_height, int y_width, int y_channels, int kernel_h,
    int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w,
    int groups, int slices, int accumulate) {
    const int group = blockIdx.z / slices, slice = blockIdx.z % slices;
    const int group_x = x_channels / groups, group_y = y_channels / groups;
    const int columns = kernel_h * kernel_w * group_x;
    const DepthRange range = depth_range(batch * y_height * y_width, slice, slices);

    const MatrixColumns<TILE_M> left(dy + group * group_y, blockIdx.x * TILE_M, group_y, y_channels,
                                     range.begin);
    const PatchColumns<TILE_N> right(x + group * group_x, height, width, x_channels, group_x,
                                     y_height, y_width, {-pad_h, stride_h, dilation_h, kernel_h},
                                     {-pad_w, stride_w, dilation_w, kernel_w}, range.begin);
    const Sums sums = tile_product(left, right, range);

    const Offset size = static_cast<Offset>(y_channels) * columns;
    const Result result = {dw, nullptr, size, slice, slices, accumulate};
    UNROLL
    for (int i = 0; i < Sums::LINES; ++i) {
        const int line = blockIdx.x * TILE_M + Sums::line(i);
        if (line >= group_y) continue;
        const Offset row = static_cast<Offset>(group) * group_y + line;
        UNROLL
        for (int j = 0; j < Sums::COLUMNS; ++j) {
            const int column = blockIdx.y * TILE_N + Sums::column(j);
            if (column < columns) result.store(row * columns + column, 0, sums.at(i, j));
        }
    }
}

// Launch contract
//   convolution_forward_tensor_core          grid (ceil(N*P*Q / TILE_M), ceil(Kg / TILE_N),
//                                                  groups * slices)
//   convolution_backward_data_tensor_core    grid (ceil(N * ceil(H / stride_h) * ceil(W / stride_w)
//                                                  / TILE_M), ceil(Cg / TILE_N),
//                                                  groups * stride_h * stride_w * slices)
//   convolution_backward_weight_tensor_core  grid (ceil(Kg / TILE_M), ceil(R*S*Cg / TILE_N),
//                                                  groups * slices)
//     block THREADS = 128. Compute capability 8.0.
//     slices == 1: the result is written, or added to with accumulate != 0.
//     slices > 1: the written pointer is a workspace of slices copies of the result; bias and
//     accumulate are left to sum_partials.
//   Counts as in convolution.cu. Dynamic shared memory: STAGES slabs of both operands; a slab of L
//   lines is 4 * L * (TILE_K + 8) bytes where memory runs along the depth, else
//   4 * TILE_K * (L + 4).
