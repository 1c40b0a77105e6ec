// Convolution and transposed convolution, float32, NHWC: the fast path of convolution.cu, which
// tells the formula, the three kernels of the six passes, and phases. Same arguments, same bits
// (for the same number of slices); the arithmetic and the steps that make it fast are those of
// pipeline.cuh.
//
//     kernel            lines of a tile        columns   summed over      contiguous along
//     forward           pixels of y            k         r, s, c          c and c: the depth
//     backward_data     pixels of x, by phase  c         r, s, k          k: the depth; c: columns
//     backward_weight   r, s, c                k         pixels of y      c and k: lines, columns
//
// backward_weight has its lines and columns the other way round than in convolution.cu: R*S*Cg is
// the larger number, and a narrow tile of 32 columns then serves few filters in all three.
//
// With VECTOR=4 what is contiguous above must be a multiple of 4 channels per group, and arrays
// start at multiples of 16 bytes. VECTOR=1 asks nothing, and is for wide layers at both ends of a
// network, whose images have 1 or 3 channels; the data gradient of those has a kernel of its own in
// convolution_few_channels.cu.

// variants: -DTILE_M=128 -DTILE_N=128 | -DTILE_M=128 -DTILE_N=64 | -DTILE_M=64 -DTILE_N=64
// variants: -DTILE_M=128 -DTILE_N=32 | -DTILE_M=64 -DTILE_N=32
// variants: -DTILE_M=64 -DTILE_N=64 -DVECTOR=1

#include "convolution_geometry.cuh"
#include "pipeline.cuh"

// Height and width of images, with what a tap may look beyond them, fit into 15 bits.
constexpr int MOST_EXTENT = 1 << 14;

// Source: patches of images (batch, height, width, pitch), as in convolution.cu. Line = position of
// a (batch, grid_h, grid_w) grid, depth = (tap_h, tap_w, channel).
struct Patches {
    using Layout = AlongDepth<TILE_M, MICRO_M>;
    const float* images;
    int corner[Layout::SHARE];  // the pixel that tap (0, 0) of each line looks at, and
    int h_w[Layout::SHARE];     // its coordinates in its image, 16 bits each
    Position tap, step;         // (tap_h, tap_w, channel) of this thread's depth
    int height, width, pitch, channels, taps_w, step_h, step_w;

    __device__ Patches(const float* __restrict__ images, int batch, int height, int width,
                       int pitch, int channels, int grid_h, int grid_w, Axis vertical,
                       Axis horizontal, int first_depth)
        : images(images),
          height(height),
          width(width),
          pitch(pitch),
          channels(channels),
          taps_w(horizontal.taps),
          step_h(vertical.step),
          step_w(horizontal.step) {
        tap = position(first_depth + Layout::depth(), max(taps_w, 1), channels);
        step = position(TILE_K, max(taps_w, 1), channels);
#pragma unroll
        for (int i = 0; i < Layout::SHARE; ++i) {
            const int line = blockIdx.x * TILE_M + Layout::line(i);
            const bool inside = line < batch * grid_h * grid_w;
            const Position at = position(inside ? line : 0, grid_h, grid_w);
            // A line past the last looks at rows that no image has, and so reads zeros.
            const int h = inside ? at.h * vertical.unit + vertical.origin : NOWHERE;
            const int w = at.w * horizontal.unit + horizontal.origin;
            corner[i] = (at.n * height + h) * width + w;
            h_w[i] = h * 65536 + (w & 65535);
        }
    }

    __device__ void copy(Pipeline& pipeline, float* slab, int depths) {
        const int down = tap.n * step_h, right = tap.h * step_w;
#pragma unroll
        for (int i = 0; i < Layout::SHARE; ++i) {
            const int h = (h_w[i] >> 16) + down, w = static_cast<short>(h_w[i]) + right;
            const bool inside = static_cast<unsigned>(h) < static_cast<unsigned>(height) &
                                static_cast<unsigned>(w) < static_cast<unsigned>(width) &
                                Layout::depth() < depths;
            const int pixel = corner[i] + (down * width + right);
            const float* from = images + static_cast<Offset>(pixel) * pitch + tap.w;
            pipeline.copy(Layout::place(slab, i), from, inside);
        }
        advance(tap, step, taps_w, channels);
    }

  private:
    static constexpr int NOWHERE = -MOST_EXTENT;
};

// Source: the transpose of Patches. Line = (tap_h, tap_w, channel), depth = grid position.
struct PatchColumns {
    using Layout = AcrossLines<TILE_M, MICRO_M>;
    const float* images;  // at the channel of this thread's line
    int h, w;             // where this line's tap looks from position (0, 0)
    Position at, step;    // of this thread's next copy; its depths are Layout::ROWS apart
    int height, width, pitch, grid_h, grid_w, unit_h, unit_w;
    bool inside;

    __device__ PatchColumns(const float* __restrict__ images, int height, int width, int pitch,
                            int channels, int grid_h, int grid_w, Axis vertical, Axis horizontal,
                            int first_depth)
        : height(height),
          width(width),
          pitch(pitch),
          grid_h(grid_h),
          grid_w(grid_w),
          unit_h(vertical.unit),
          unit_w(horizontal.unit) {
        const int line = blockIdx.x * TILE_M + Layout::line();
        const Position tap = position(line, horizontal.taps, channels);
        this->images = images + tap.w;
        h = vertical.origin + tap.n * vertical.step;
        w = horizontal.origin + tap.h * horizontal.step;
        inside = tap.n < vertical.taps;
        at = position(first_depth + Layout::depth(0), grid_h, grid_w);
        step = position(Layout::ROWS, grid_h, grid_w);
    }

    __device__ void copy(Pipeline& pipeline, float* slab, int depths) {
#pragma unroll
        for (int i = 0; i < Layout::SHARE; ++i) {
            const int row = h + at.h * unit_h, column = w + at.w * unit_w;
            const bool valid = inside & Layout::depth(i) < depths &
                               static_cast<unsigned>(row) < static_cast<unsigned>(height) &
                               static_cast<unsigned>(column) < static_cast<unsigned>(width);
            const Offset pixel = (static_cast<Offset>(at.n) * height + row) * width + column;
            pipeline.copy(Layout::place(slab, i), images + pixel * pitch, valid);
            advance(at, step, grid_h, grid_w);
        }
    }
};

// Source: element (line, depth) of a matrix at start[line * pitch + depth].
struct MatrixRows {
    using Layout = AlongDepth<TILE_N, MICRO_N>;
    const float* row[Layout::SHARE];  // at this thread's depth
    int inside;                       // bit i: row i is one of the matrix

    __device__ MatrixRows(const float* __restrict__ matrix, int lines, int pitch, int first_depth)
        : inside(0) {
        const int depth = first_depth + Layout::depth();
#pragma unroll
        for (int i = 0; i < Layout::SHARE; ++i) {
            const int line = blockIdx.y * TILE_N + Layout::line(i);
            inside |= (line < lines) << i;
            row[i] = matrix + static_cast<Offset>(line) * pitch + depth;
        }
    }

    __device__ void copy(Pipeline& pipeline, float* slab, int depths) {
#pragma unroll
        for (int i = 0; i < Layout::SHARE; ++i) {
            const bool valid = (inside >> i & 1) & Layout::depth() < depths;
            pipeline.copy(Layout::place(slab, i), row[i], valid);
            row[i] += TILE_K;
        }
    }
};

// Source: element (line, depth) of a matrix at start[depth * pitch + line].
struct MatrixColumns {
    using Layout = AcrossLines<TILE_N, MICRO_N>;
    const float* next;  // of this thread's copies; their depths are Layout::ROWS apart
    int rows_pitch;
    bool inside;

    __device__ MatrixColumns(const float* __restrict__ matrix, int lines, int pitch,
                             int first_depth)
        : rows_pitch(Layout::ROWS * pitch) {
        const int line = blockIdx.y * TILE_N + Layout::line();
        inside = line < lines;
        next = matrix + static_cast<Offset>(first_depth + Layout::depth(0)) * pitch + line;
    }

    __device__ void copy(Pipeline& pipeline, float* slab, int depths) {
#pragma unroll
        for (int i = 0; i < Layout::SHARE; ++i) {
            pipeline.copy(Layout::place(slab, i), next, inside & Layout::depth(i) < depths);
            next += rows_pitch;
        }
    }
};

// Source: the weights of a phase. Line = channel of x, depth = (tap_h, tap_w, channel of y).
struct PhaseWeights {
    using Layout = AcrossLines<TILE_N, MICRO_N>;
    const float* start;  // of the phase's first tap, at this thread's channel of x
    Position at, step;   // of this thread's next copy; its depths are Layout::ROWS apart
    int y_channels, taps_w, down, right, filter;
    bool inside;

    __device__ PhaseWeights(const float* __restrict__ group, int kernel_h, int kernel_w,
                            int x_channels, int y_channels, Phase vertical, Phase horizontal,
                            int first_depth)
        : y_channels(y_channels),
          taps_w(horizontal.taps),
          down(vertical.tap_step * kernel_w * x_channels),
          right(horizontal.tap_step * x_channels),
          filter(kernel_h * kernel_w * x_channels) {
        const int channel = blockIdx.y * TILE_N + Layout::line();
        start = group + (vertical.tap * kernel_w + horizontal.tap) * x_channels + channel;
        inside = channel < x_channels;
        at = position(first_depth + Layout::depth(0), max(taps_w, 1), y_channels);
        step = position(Layout::ROWS, max(taps_w, 1), y_channels);
    }

    __device__ void copy(Pipeline& pipeline, float* slab, int depths) {
#pragma unroll
        for (int i = 0; i < Layout::SHARE; ++i) {
            const Offset offset = static_cast<Offset>(at.w) * filter + (at.n * down + at.h * right);
            pipeline.copy(Layout::place(slab, i), start + offset,
                          inside & Layout::depth(i) < depths);
            advance(at, step, taps_w, y_channels);
        }
    }
};

// y (or, with slices > 1, partials of it) from x and w; bias (K) or null.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_forward_pipelined(const float* __restrict__ x, const float* __restrict__ w,
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

    const Patches left(x + group * group_x, batch, height, width, x_channels, group_x, y_height,
                       y_width, {-pad_h, stride_h, dilation_h, kernel_h},
                       {-pad_w, stride_w, dilation_w, kernel_w}, range.begin);
    const MatrixRows right(w + static_cast<Offset>(group) * group_y * depth, group_y, depth,
                           range.begin);
    __shared__ Stages slabs;
    const Sums sums = pipelined_product(slabs, left, right, range);

    const Result result = {y,     bias,   static_cast<Offset>(lines) * y_channels,
                           slice, slices, accumulate};
#pragma unroll
    for (int i = 0; i < MICRO_M; ++i) {
        const int line = blockIdx.x * TILE_M + tile_line(i);
        if (line >= lines) continue;
        const Offset pixel = static_cast<Offset>(line) * y_channels + group * group_y;
#pragma unroll
        for (int j = 0; j < MICRO_N; j += 4) {
            const int column = blockIdx.y * TILE_N + tile_column(j);
            const float four[4] = {sums.at[i][j], sums.at[i][j + 1], sums.at[i][j + 2],
                                   sums.at[i][j + 3]};
            result.store_run(pixel + column, group * group_y + column, four, group_y - column,
                             group_y);
        }
    }
}

// dx (or, with slices > 1, partials of it) from dy and w; bias (C) or null: with a bias this is
// the forward of a transposed convolution.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) convolution_backward_data_pipelined(
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
    const Patches left(dy + group * group_y, batch, y_height, y_width, y_channels, group_y,
                       vertical.count, horizontal.count,
                       {vertical.origin, 1, -vertical.back, vertical.taps},
                       {horizontal.origin, 1, -horizontal.back, horizontal.taps}, range.begin);
    const Offset group_weights = static_cast<Offset>(group_y) * kernel_h * kernel_w * group_x;
    const PhaseWeights right(w + group * group_weights, kernel_h, kernel_w, group_x, group_y,
                             vertical, horizontal, range.begin);
    __shared__ Stages slabs;
    const Sums sums = pipelined_product(slabs, left, right, range);

    const Offset size = static_cast<Offset>(batch) * height * width * x_channels;
    const Result result = {dx, bias, size, slice, slices, accumulate};
#pragma unroll
    for (int i = 0; i < MICRO_M; ++i) {
        const int line = blockIdx.x * TILE_M + tile_line(i);
        if (line >= lines) continue;
        const Position at = position(line, vertical.count, horizontal.count);
        const int row = vertical.first + at.h * stride_h;
        const int column = horizontal.first + at.w * stride_w;
        const Offset pixel = (static_cast<Offset>(at.n) * height + row) * width + column;
#pragma unroll
        for (int j = 0; j < MICRO_N; j += 4) {
            const int channel = blockIdx.y * TILE_N + tile_column(j);
            const float four[4] = {sums.at[i][j], sums.at[i][j + 1], sums.at[i][j + 2],
                                   sums.at[i][j + 3]};
            result.store_run(pixel * x_channels + group * group_x + channel,
                             group * group_x + channel, four, group_x - channel, group_x);
        }
    }
}

// dw (or, with slices > 1, partials of it) from x and dy.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_backward_weight_pipelined(const float* __restrict__ x, const float* __restrict__ dy,
                                          float* dw, int batch, int height, int width,
                                          int x_channels, int y_height, int y_width, int y_channels,
                                          int kernel_h, int kernel_w, int stride_h, int stride_w,
                                          int pad_h, int pad_w, int dilation_h, int dilation_w,
                                          int groups, int slices, int accumulate) {
    const int group = blockIdx.z / slices, slice = blockIdx.z % slices;
    const int group_x = x_channels / groups, group_y = y_channels / groups;
    const int lines = kernel_h * kernel_w * group_x;
    const DepthRange range = depth_range(batch * y_height * y_width, slice, slices);

    const PatchColumns left(x + group * group_x, height, width, x_channels, group_x, y_height,
                            y_width, {-pad_h, stride_h, dilation_h, kernel_h},
                            {-pad_w, stride_w, dilation_w, kernel_w}, range.begin);
    const MatrixColumns right(dy + group * group_y, group_y, y_channels, range.begin);
    __shared__ Stages slabs;
    const Sums sums = pipelined_product(slabs, left, right, range);

    const Offset size = static_cast<Offset>(y_channels) * lines;
    const Result result = {dw, nullptr, size, slice, slices, accumulate};
#pragma unroll
    for (int j = 0; j < MICRO_N; ++j) {
        const int column = blockIdx.y * TILE_N + tile_column(j);
        if (column >= group_y) continue;
        const Offset row = (static_cast<Offset>(group) * group_y + column) * lines;
#pragma unroll
        for (int i = 0; i < MICRO_M; i += 4) {
            const int line = blockIdx.x * TILE_M + tile_line(i);
            const float four[4] = {sums.at[i][j], sums.at[i + 1][j], sums.at[i + 2][j],
                                   sums.at[i + 3][j]};
            result.store_run(row + line, 0, four, lines - line, lines);
        }
    }
}

// Launch contract
//   convolution_forward_pipelined          grid (ceil(N*P*Q / TILE_M), ceil(Kg / TILE_N),
//                                                groups * slices)
//   convolution_backward_data_pipelined    grid (ceil(N * ceil(H / stride_h) * ceil(W / stride_w) /
//                                                TILE_M), ceil(Cg / TILE_N),
//                                                groups * stride_h * stride_w * slices)
//   convolution_backward_weight_pipelined  grid (ceil(R*S*Cg / TILE_M), ceil(Kg / TILE_N),
//                                                groups * slices)
//   Block 128. Slices, bias and accumulate as in convolution.cu, and the same limits; besides, both
//   sides with their padding, and taps * dilation, stay below MOST_EXTENT, channels below 2^24.
//   With VECTOR=4, forward needs Cg, the others Cg and Kg to be multiples of 4, and all arrays (a
//   workspace among them) start at multiples of 16 bytes. No dynamic shared memory; static shared
//   memory STAGES * TILE_K * (TILE_M + TILE_N) * 4 bytes, at most 48 KiB.
