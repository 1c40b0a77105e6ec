// The passes of a convolution as products, for every way of computing one (convolution.cu tells the
// formula, the names, and what phases are): which sources a product has, and where its sums go.
//
// A Way is a class with the sources Patches, PatchColumns, FilterRows, PhaseWeights and Gradients
// as its kernels need them, and
//     static Sums product(left, right, range)   called by all threads of a block
// Element is what arrays hold that are read: float or Bf16.
//
// An End is a ResultOf what the result holds, or is derived of one and has a store_lines of its own
// (last_slice.cuh, tile_moments.cuh).
// `block` is the block's place in the grid that a pass's launch contract names: its own, or the one
// that it plays (program.cu).
#pragma once

#include "convolution_geometry.cuh"
#include "product.cuh"

// The sizes of a convolution, as every kernel of the family is given them.
struct Layer {
    int batch, height, width, x_channels, y_height, y_width, y_channels, kernel_h, kernel_w,
        stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;

    __device__ int group_x() const { return x_channels / groups; }
    __device__ int group_y() const { return y_channels / groups; }
    __device__ int y_pixels() const { return batch * y_height * y_width; }
    __device__ Axis vertical() const { return {-pad_h, stride_h, dilation_h, kernel_h}; }
    __device__ Axis horizontal() const { return {-pad_w, stride_w, dilation_w, kernel_w}; }
};

// Lines of a result that follow each other in memory.
struct Rows {
    Offset start;  // of line 0, at the group's first channel
    int pitch;

    __device__ Offset operator()(int line) const {
        return start + static_cast<Offset>(line) * pitch;
    }
};

// Lines are the pixels of a phase of x.
struct PhasePixels {
    Layer layer;
    Phase vertical, horizontal;
    int first_channel;

    __device__ Offset operator()(int line) const {
        const Position at = position(line, vertical.count, horizontal.count);
        const int row = vertical.first + at.h * layer.stride_h;
        const int column = horizontal.first + at.w * layer.stride_w;
        const Offset pixel =
            (static_cast<Offset>(at.n) * layer.height + row) * layer.width + column;
        return pixel * layer.x_channels + first_channel;
    }
};

// The sums of a block that plays another one: they stand where that one's would.
template <class Sums>
struct Played {
    static constexpr int LINES = Sums::LINES, COLUMNS = Sums::COLUMNS, RUN = Sums::RUN;
    using Threads = Sums;
    const Sums& sums;
    int lines_on, columns_on;

    __device__ Played(const Sums& sums, uint3 block)
        : sums(sums),
          lines_on((static_cast<int>(block.x) - static_cast<int>(blockIdx.x)) * TILE_M),
          columns_on((static_cast<int>(block.y) - static_cast<int>(blockIdx.y)) * TILE_N) {}
    __device__ float at(int i, int j) const { return sums.at(i, j); }
    __device__ int line(int i) const { return Sums::line(i) + lines_on; }
    __device__ int column(int j) const { return Sums::column(j) + columns_on; }
};

// A product within a group. What a Way of its own kind needs of the group it learns in an overload
// (normalised_sources.cuh).
template <class Way, class Left, class Right>
__device__ __forceinline__ auto product_of_group(const Way&, const Left& left, const Right& right,
                                                 DepthRange range, int) {
    return Way::product(left, right, range);
}

// y from x and w.
template <class Way, class Element, class End = Result>
__device__ __forceinline__ void forward(const Layer& layer, const Element* __restrict__ x,
                                        const Element* __restrict__ w, End result,
                                        uint3 block = blockIdx, const Way& way = Way()) {
    const int group = block.z / result.slices;
    result.slice = block.z % result.slices;
    const int group_x = layer.group_x(), group_y = layer.group_y();
    const int depth = layer.kernel_h * layer.kernel_w * group_x;
    const int lines = layer.y_pixels();
    result.size = static_cast<Offset>(lines) * layer.y_channels;
    const DepthRange range = depth_range(depth, result.slice, result.slices);

    const typename Way::Patches left(x + group * group_x, layer.batch, layer.height, layer.width,
                                     layer.x_channels, group_x, layer.y_height, layer.y_width,
                                     layer.vertical(), layer.horizontal(), block.x * TILE_M,
                                     range.begin);
    const typename Way::FilterRows right(w + static_cast<Offset>(group) * group_y * depth,
                                         block.y * TILE_N, group_y, depth, range.begin);
    const auto sums = product_of_group(way, left, right, range, group);
    result.epilogue.activation = read_late(result.epilogue.activation);
    store_lines(Played(sums, block), result, lines, group_y, group * group_y,
                Rows{group * group_y, layer.y_channels});
}

// dx from dy and w: block z is a slice of a phase of a group.
template <class Way, class Element, class End = Result>
__device__ __forceinline__ void backward_data(const Layer& layer, const Element* __restrict__ dy,
                                              const Element* __restrict__ w, End result,
                                              uint3 block = blockIdx, const Way& way = Way()) {
    const int phases = layer.stride_h * layer.stride_w;
    const int phase = block.z / result.slices % phases;
    const int group = block.z / result.slices / phases;
    result.slice = block.z % result.slices;
    const Phase vertical = phase_of(phase / layer.stride_w, layer.height, layer.kernel_h,
                                    layer.stride_h, layer.pad_h, layer.dilation_h);
    const Phase horizontal = phase_of(phase % layer.stride_w, layer.width, layer.kernel_w,
                                      layer.stride_w, layer.pad_w, layer.dilation_w);
    const int lines = layer.batch * vertical.count * horizontal.count;
    if (static_cast<int>(block.x) * TILE_M >= lines) {  // a phase with fewer pixels
        store_nothing(result, group * layer.group_x());
        return;
    }

    const int group_x = layer.group_x(), group_y = layer.group_y();
    const int depth = vertical.taps * horizontal.taps * group_y;
    result.size = static_cast<Offset>(layer.batch) * layer.height * layer.width * layer.x_channels;
    const DepthRange range = depth_range(depth, result.slice, result.slices);

    const typename Way::Patches left(
        dy + group * group_y, layer.batch, layer.y_height, layer.y_width, layer.y_channels, group_y,
        vertical.count, horizontal.count, {vertical.origin, 1, -vertical.back, vertical.taps},
        {horizontal.origin, 1, -horizontal.back, horizontal.taps}, block.x * TILE_M, range.begin);
    const Offset group_weights =
        static_cast<Offset>(group_y) * layer.kernel_h * layer.kernel_w * group_x;
    const typename Way::PhaseWeights right(w + group * group_weights, layer.kernel_h,
                                           layer.kernel_w, group_x, group_y, vertical, horizontal,
                                           block.y * TILE_N, range.begin);
    const auto sums = product_of_group(way, left, right, range, group);
    result.epilogue.activation = read_late(result.epilogue.activation);
    store_lines(Played(sums, block), result, lines, group_x, group * group_x,
                PhasePixels{layer, vertical, horizontal, group * group_x});
}

// dw from x and dy: lines are filters and columns taps, or, where a Way has them TRANSPOSED, the
// other way round.
template <class Way, class Element, class End = Result, class OfGradient = Element>
__device__ __forceinline__ void backward_weight(const Layer& layer, const Element* __restrict__ x,
                                                const OfGradient* __restrict__ dy, End result,
                                                uint3 block = blockIdx, const Way& way = Way()) {
    const int group = block.z / result.slices;
    result.slice = block.z % result.slices;
    const int group_x = layer.group_x(), group_y = layer.group_y();
    const int taps = layer.kernel_h * layer.kernel_w * group_x;
    result.size = static_cast<Offset>(layer.y_channels) * taps;
    const DepthRange range = depth_range(layer.y_pixels(), result.slice, result.slices);

    const int filter_tile = Way::TRANSPOSED ? block.y * TILE_N : block.x * TILE_M;
    const int tap_tile = Way::TRANSPOSED ? block.x * TILE_M : block.y * TILE_N;
    const typename Way::Gradients filters(dy + group * group_y, filter_tile, group_y,
                                          layer.y_channels, range.begin);
    const typename Way::PatchColumns patches(
        x + group * group_x, layer.height, layer.width, layer.x_channels, group_x, layer.y_height,
        layer.y_width, layer.vertical(), layer.horizontal(), tap_tile, range.begin);
    const Rows rows = {static_cast<Offset>(group) * group_y * taps, taps};
    if constexpr (Way::TRANSPOSED) {
        const auto sums = product_of_group(way, patches, filters, range, group);
        store_lines(Transposed(Played(sums, block)), result, group_y, taps, 0, rows);
    } else {
        const auto sums = product_of_group(way, filters, patches, range, group);
        store_lines(Played(sums, block), result, group_y, taps, 0, rows);
    }
}
