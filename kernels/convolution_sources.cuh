// Where the operands of a convolution come from when they are copied to shared memory while the
// arithmetic goes on: the sources of convolution_pipelined.cu and convolution_tensor_core.cu
// (convolution.cu, whose copies are not under way, has simpler ones of its own).
//
// A source is a class with
//     fill(copies, slab, depths)   start this thread's share of the copies of the next slab (zeros
//                                  where a line lies outside, and from the depths-th depth on),
//                                  and move on to the slab after it
//     using Slab                   how its slabs lie in shared memory, which part of them is the
//                                  calling thread's, and whether they are of floats or Bf16: a
//                                  layout of pipeline.cuh or tensor_core.cuh
//
// `copies` are Copies, or what starts copies like them. Where lines or depths are channels of an
// image, a source tells
//     of_group()                   how many channels its group has
//     channel(), further()         the first channel, in the group, of this thread's next slab, and
//                                  how much further that of the slab after it is, around the group
//
// A thread's share are units of UNIT neighbours in memory, and a copy moves CopyWidth::numbers of
// them: all at once, or one after the other where memory does not allow 16 bytes at a time.
// Addresses need no division: a position is kept as digits (tap row, tap column, channel) and moves
// on with at most one carry each.
#pragma once

#include "convolution_geometry.cuh"

// Coordinates of the calling thread's lines in their images: in 16 bits each, where images are no
// larger (LARGEST below 2^15), which saves registers.
template <int LINES, int LARGEST>
struct Coordinates {
    static constexpr int NOWHERE = -LARGEST;  // a row that no image has, whatever is added by a tap
    int both[LINES];

    __device__ void set(int i, int h, int w) { both[i] = h * 65536 + (w & 65535); }
    __device__ int h(int i) const { return both[i] >> 16; }
    __device__ int w(int i) const { return static_cast<short>(both[i]); }
};
template <int LINES>
struct Coordinates<LINES, 0> {
    static constexpr int NOWHERE = -(1 << 29);
    int rows[LINES], columns[LINES];

    __device__ void set(int i, int h, int w) { rows[i] = h, columns[i] = w; }
    __device__ int h(int i) const { return rows[i]; }
    __device__ int w(int i) const { return columns[i]; }
};

// Source: patches of images (batch, height, width, pitch). Line = position of a (batch, grid_h,
// grid_w) grid, depth = (tap_h, tap_w, channel); outside an image lie zeros.
template <class Layout, int LARGEST>
struct Patches {
    using Slab = Layout;
    using Element = typename Slab::Element;
    const Element* images;                 // at the group's first channel
    int corner[Slab::SHARE];               // the pixel that tap (0, 0) of each line looks at, and
    Coordinates<Slab::SHARE, LARGEST> at;  // its coordinates in its image
    Position tap, step;                    // (tap_h, tap_w, channel) of this thread's next depth
    int height, width, pitch, channels, taps_w, step_h, step_w;
    CopyWidth copied;

    __device__ Patches(const Element* __restrict__ images, int batch, int height, int width,
                       int pitch, int channels, int grid_h, int grid_w, Axis vertical,
                       Axis horizontal, int first_line, int first_depth)
        : images(images),
          height(height),
          width(width),
          pitch(pitch),
          channels(channels),
          taps_w(max(horizontal.taps, 1)),
          step_h(vertical.step),
          step_w(horizontal.step),
          copied(images, channels) {
        tap = position(first_depth + Slab::depth(), taps_w, channels);
        step = position(TILE_K, taps_w, channels);
        UNROLL
        for (int i = 0; i < Slab::SHARE; ++i) {
            const int line = first_line + Slab::line(i);
            const bool inside = line < batch * grid_h * grid_w;
            const Position in_grid = position(inside ? line : 0, grid_h, grid_w);
            const int h = in_grid.h * vertical.unit + vertical.origin;
            const int w = in_grid.w * horizontal.unit + horizontal.origin;
            corner[i] = (in_grid.n * height + h) * width + w;
            at.set(i, inside ? h : at.NOWHERE, w);
        }
    }

    __device__ int of_group() const { return channels; }
    __device__ int channel() const { return tap.w; }
    __device__ int further() const { return step.w; }

    template <class Started>
    __device__ void fill(Started& copies, Element* slab, int depths) {
        Position looking = tap;
#pragma unroll 1
        for (int part = 0; part < UNIT; part += copied.numbers) {
            const int down = looking.n * step_h, right = looking.h * step_w;
            const bool within = Slab::depth() + part < depths;
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                if (!Slab::has(i)) continue;
                const int h = at.h(i) + down, w = at.w(i) + right;
                const bool inside = within &
                                    (static_cast<unsigned>(h) < static_cast<unsigned>(height)) &
                                    (static_cast<unsigned>(w) < static_cast<unsigned>(width));
                const int pixel = corner[i] + (down * width + right);
                copies.start(Slab::place(slab, i, part),
                             images + static_cast<Offset>(pixel) * pitch + looking.w, inside,
                             copied.numbers);
            }
            advance(looking, {0, 0, 1}, taps_w, channels);
        }
        advance(tap, step, taps_w, channels);
    }
};

// Source: the transpose of Patches. Line = (tap_h, tap_w, channel), depth = grid position.
template <class Layout>
struct PatchColumns {
    using Slab = Layout;
    using Element = typename Slab::Element;
    const Element* images;  // at the group's first channel
    Position tap;           // of this thread's first line
    Position at, step;      // of this thread's next depth; its depths are Slab::STEP apart
    int height, width, pitch, channels, grid_h, grid_w;
    Axis vertical, horizontal;
    CopyWidth copied;

    __device__ PatchColumns(const Element* __restrict__ images, int height, int width, int pitch,
                            int channels, int grid_h, int grid_w, Axis vertical, Axis horizontal,
                            int first_line, int first_depth)
        : images(images),
          height(height),
          width(width),
          pitch(pitch),
          channels(channels),
          grid_h(grid_h),
          grid_w(grid_w),
          vertical(vertical),
          horizontal(horizontal),
          copied(images, channels) {
        tap = position(first_line + Slab::line(), horizontal.taps, channels);
        at = position(first_depth + Slab::depth(0), grid_h, grid_w);
        step = position(Slab::STEP, grid_h, grid_w);
    }

    __device__ int of_group() const { return channels; }
    __device__ int channel() const { return tap.w; }
    __device__ int further() const { return 0; }

    template <class Started>
    __device__ void fill(Started& copies, Element* slab, int depths) {
        const Position first = at;
        Position of_line = tap;
#pragma unroll 1
        for (int part = 0; part < UNIT; part += copied.numbers) {
            const int h = vertical.origin + of_line.n * vertical.step;
            const int w = horizontal.origin + of_line.h * horizontal.step;
            const bool reached = of_line.n < vertical.taps;
            at = first;
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                const int row = h + at.h * vertical.unit, column = w + at.w * horizontal.unit;
                const bool inside = reached & (Slab::depth(i) < depths) &
                                    (static_cast<unsigned>(row) < static_cast<unsigned>(height)) &
                                    (static_cast<unsigned>(column) < static_cast<unsigned>(width));
                const int pixel = (at.n * height + row) * width + column;
                if (Slab::has(i)) {
                    copies.start(Slab::place(slab, i, part),
                                 images + static_cast<Offset>(pixel) * pitch + of_line.w, inside,
                                 copied.numbers);
                }
                advance(at, step, grid_h, grid_w);
            }
            advance(of_line, {0, 0, 1}, horizontal.taps, channels);
        }
    }
};

// Source: element (line, depth) of a matrix at start[line * pitch + depth].
template <class Layout>
struct MatrixRows {
    using Slab = Layout;
    using Element = typename Slab::Element;
    const Element* row[Slab::SHARE];  // at this thread's next depth
    int inside;                       // bit i: row i is one of the matrix
    CopyWidth copied;

    __device__ MatrixRows(const Element* __restrict__ matrix, int first_line, int lines, int pitch,
                          int first_depth)
        : inside(0), copied(matrix, pitch) {
        UNROLL
        for (int i = 0; i < Slab::SHARE; ++i) {
            const int line = first_line + Slab::line(i);
            inside |= (line < lines) << i;
            row[i] = matrix + static_cast<Offset>(line) * pitch + (first_depth + Slab::depth());
        }
    }

    template <class Started>
    __device__ void fill(Started& copies, Element* slab, int depths) {
#pragma unroll 1
        for (int part = 0; part < UNIT; part += copied.numbers) {
            const bool within = Slab::depth() + part < depths;
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                if (!Slab::has(i)) continue;
                copies.start(Slab::place(slab, i, part), row[i] + part, (inside >> i & 1) & within,
                             copied.numbers);
            }
        }
        UNROLL
        for (int i = 0; i < Slab::SHARE; ++i) row[i] += TILE_K;
    }
};

// Source: element (line, depth) of a matrix at start[depth * pitch + line].
template <class Layout>
struct MatrixColumns {
    using Slab = Layout;
    using Element = typename Slab::Element;
    const Element* next;  // at this thread's next depth; its depths are Slab::STEP apart
    int lines, rows_pitch, left;
    CopyWidth copied;

    __device__ MatrixColumns(const Element* __restrict__ matrix, int first_line, int lines,
                             int pitch, int first_depth)
        : lines(lines),
          rows_pitch(Slab::STEP * pitch),
          left(lines - first_line - Slab::line()),
          copied(matrix, lines | pitch) {  // multiples of 4, both of them
        next = matrix + static_cast<Offset>(first_depth + Slab::depth(0)) * pitch +
               (first_line + Slab::line());
    }

    // Where lines are the channels of a group.
    __device__ int of_group() const { return lines; }
    __device__ int channel() const { return left > 0 ? lines - left : 0; }
    __device__ int further() const { return 0; }

    template <class Started>
    __device__ void fill(Started& copies, Element* slab, int depths) {
#pragma unroll 1
        for (int part = 0; part < UNIT; part += copied.numbers) {
            const Element* const from = next + part;
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                if (!Slab::has(i)) continue;
                copies.start(Slab::place(slab, i, part), from + static_cast<Offset>(i) * rows_pitch,
                             (part < left) & (Slab::depth(i) < depths), copied.numbers);
            }
        }
        next += static_cast<Offset>(Slab::SHARE) * rows_pitch;
    }
};

// Source: the weights of a phase. Line = channel of x, depth = (tap_h, tap_w, channel of y).
template <class Layout>
struct PhaseWeights {
    using Slab = Layout;
    using Element = typename Slab::Element;
    const Element* start;  // of the phase's first tap, at this thread's channel of x
    Position at, step;     // of this thread's next depth; its depths are Slab::STEP apart
    int y_channels, taps_w, down, right, filter, left;
    CopyWidth copied;

    __device__ PhaseWeights(const Element* __restrict__ group, int kernel_h, int kernel_w,
                            int x_channels, int y_channels, Phase vertical, Phase horizontal,
                            int first_line, int first_depth)
        : y_channels(y_channels),
          taps_w(max(horizontal.taps, 1)),
          down(vertical.tap_step * kernel_w * x_channels),
          right(horizontal.tap_step * x_channels),
          filter(kernel_h * kernel_w * x_channels),
          left(x_channels - first_line - Slab::line()),
          copied(group, x_channels) {
        start = group + ((vertical.tap * kernel_w + horizontal.tap) * x_channels + first_line +
                         Slab::line());
        at = position(first_depth + Slab::depth(0), taps_w, y_channels);
        step = position(Slab::STEP, taps_w, y_channels);
    }

    template <class Started>
    __device__ void fill(Started& copies, Element* slab, int depths) {
        const Position first = at;
#pragma unroll 1
        for (int part = 0; part < UNIT; part += copied.numbers) {
            const Element* const from = start + part;
            at = first;
            UNROLL
            for (int i = 0; i < Slab::SHARE; ++i) {
                const Element* const channel = from + static_cast<Offset>(at.w) * filter;
                if (Slab::has(i)) {
                    copies.start(Slab::place(slab, i, part), channel + (at.n * down + at.h * right),
                                 (part < left) & (Slab::depth(i) < depths), copied.numbers);
                }
                advance(at, step, taps_w, y_channels);
            }
        }
    }
};
