// Convolution and transposed convolution on Hopper's tensor cores (wgmma): the three kernels of
// convolution_tensor_core.cu, with the same arguments and the same rounding of operands to TF32 or
// bf16, for compute capability 9.0 alone and for channels in multiples of 4.
//
//     kernel            lines of a tile        columns   summed over   contiguous along
//     forward           pixels of y            k         r, s, c       c and c: the depth
//     backward_data     pixels of x, by phase  c         r, s, k       k: the depth; c: columns
//     backward_weight   k                      r, s, c   pixels of y   k and c: lines, columns
//
// Why it is fast: see wgmma_product.cuh for the products, convolution.cu for the taps of a stride.
// Tiles: 256 x 128 where the result has many (each element from memory serves 128 or 256 products,
// and memory is what bounds), 128 x 128 where those would leave multiprocessors idle, 128 x 64 for
// 64 channels.
//
// Not yet run on a GPU: no launcher chooses it by itself (bindings/operators/plans/wgmma.py).

// variants(sm_90a): -DPRECISION=tf32 -DTILE_M=256 -DTILE_N=128
// variants(sm_90a): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=128
// variants(sm_90a): -DPRECISION=tf32 -DTILE_M=128 -DTILE_N=64
// variants(sm_90a): -DPRECISION=bf16 -DTILE_M=256 -DTILE_N=128
// variants(sm_90a): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=128
// variants(sm_90a): -DPRECISION=bf16 -DTILE_M=128 -DTILE_N=64

#include "wgmma_product.cuh"

#include "convolution_passes.cuh"
#include "convolution_sources.cuh"

// Height and width of images, with what a tap may look beyond them, fit into 15 bits.
constexpr int MOST_EXTENT = 1 << 14;

// Source: the filters, element (line, depth) at weights[line * pitch + depth]. As MatrixRows, with
// one address instead of one for each row: the tile of 128 x 128 has no register to spare.
struct Filters {
    using Slab = AlongDepth<TILE_N>;
    const float* next;  // at this thread's first line and next depth
    int pitch, left;    // lines from that one on

    __device__ Filters(const float* __restrict__ weights, int first_line, int lines, int pitch,
                       int first_depth)
        : pitch(pitch), left(lines - first_line - Slab::line(0)) {
        next = weights + static_cast<Offset>(first_line + Slab::line(0)) * pitch +
               (first_depth + Slab::depth());
    }

    __device__ void fill(Copies& copies, float* slab, int depths) {
        UNROLL
        for (int i = 0; i < Slab::SHARE; ++i) {
            const int line = i * Slab::LINE_STEP;
            copies.start(Slab::place(slab, i, 0), next + static_cast<Offset>(line) * pitch,
                         (line < left) & (Slab::depth() < depths), UNIT);
        }
        next += TILE_K;
    }
};

// Source: the weights of a phase. Line = channel of x, depth = (tap_h, tap_w, channel of y). As
// PhaseWeights, for depths in order: a thread's 4 are channels of one tap.
struct WeightsInOrder {
    using Slab = AcrossLines<TILE_N, true>;
    const float* start;  // of the phase's first tap, at this thread's channel of x
    Position at, step;   // of this thread's next first depth
    int y_channels, taps_w, down, right, filter;
    bool inside;

    __device__ WeightsInOrder(const float* __restrict__ group, int kernel_h, int kernel_w,
                              int x_channels, int y_channels, Phase vertical, Phase horizontal,
                              int first_line, int first_depth)
        : y_channels(y_channels),
          taps_w(max(horizontal.taps, 1)),
          down(vertical.tap_step * kernel_w * x_channels),
          right(horizontal.tap_step * x_channels),
          filter(kernel_h * kernel_w * x_channels) {
        const int channel = first_line + Slab::line();
        start = group + ((vertical.tap * kernel_w + horizontal.tap) * x_channels + channel);
        inside = channel < x_channels;
        at = position(first_depth + Slab::depth(0), taps_w, y_channels);
        step = position(TILE_K, taps_w, y_channels);
    }

    __device__ void fill(Copies& copies, float* slab, int depths) {
        const float* const from =
            start + (static_cast<Offset>(at.w) * filter + (at.n * down + at.h * right));
        const bool valid = inside & (Slab::depth(0) < depths);
        UNROLL
        for (int i = 0; i < Slab::SHARE; ++i) {
            copies.start(Slab::place(slab, i, 0), from + i * filter, valid, UNIT);
        }
        advance(at, step, taps_w, y_channels);
    }
};

struct Warpgroups {
    static constexpr bool TRANSPOSED = false;
    using Patches = ::Patches<AlongDepth<TILE_M>, MOST_EXTENT>;
    using PatchColumns = ::PatchColumns<AcrossLines<TILE_N, false>>;
    using FilterRows = Filters;
    using PhaseWeights = WeightsInOrder;
    using Gradients = MatrixColumns<AcrossLines<TILE_M, false>>;

    template <class Left, class Right>
    __device__ __forceinline__ static Sums product(const Left& left, const Right& right,
                                                   DepthRange range) {
        return wgmma_product(left, right, range);
    }
};

// y (or, with slices > 1, partials of it) from x and w; bias (K), and activated as y, or null: what
// becomes of the sums is told in epilogue.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_forward_wgmma(const float* __restrict__ x, const float* __restrict__ w,
                              const float* __restrict__ bias, float* y, int batch, int height,
                              int width, int x_channels, int y_height, int y_width, int y_channels,
                              int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h,
                              int pad_w, int dilation_h, int dilation_w, int groups, int slices,
                              int accumulate, const float* activated, int activation, float slope) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    forward<Warpgroups>(
        layer, x, w,
        {y, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}});
}

// dx (or, with slices > 1, partials of it) from dy and w; bias (C), and activated as dx, or null:
// with a bias this is the forward of a transposed convolution.
extern "C" __global__ void __launch_bounds__(THREADS, TILE_N == 64 ? 2 : 1)
    convolution_backward_data_wgmma(const float* __restrict__ dy, const float* __restrict__ w,
                                    const float* __restrict__ bias, float* dx, int batch,
                                    int height, int width, int x_channels, int y_height,
                                    int y_width, int y_channels, int kernel_h, int kernel_w,
                                    int stride_h, int stride_w, int pad_h, int pad_w,
                                    int dilation_h, int dilation_w, int groups, int slices,
                                    int accumulate, const float* activated, int activation,
                                    float slope) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_data<Warpgroups>(
        layer, dy, w,
        {dx, 0, 0, slices, {bias, activated, Activation(activation), slope, accumulate}});
}

// dw (or, with slices > 1, partials of it) from x and dy.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_backward_weight_wgmma(const float* __restrict__ x, const float* __restrict__ dy,
                                      float* dw, int batch, int height, int width, int x_channels,
                                      int y_height, int y_width, int y_channels, int kernel_h,
                                      int kernel_w, int stride_h, int stride_w, int pad_h,
                                      int pad_w, int dilation_h, int dilation_w, int groups,
                                      int slices, int accumulate) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<Warpgroups>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}});
}

// Launch contract
//   convolution_forward_wgmma          grid (ceil(N*P*Q / TILE_M), ceil(Kg / TILE_N),
//                                            groups * slices)
//   convolution_backward_data_wgmma    grid (ceil(N * ceil(H / stride_h) * ceil(W / stride_w) /
//                                            TILE_M), ceil(Cg / TILE_N),
//                                            groups * stride_h * stride_w * slices)
//   convolution_backward_weight_wgmma  grid (ceil(Kg / TILE_M), ceil(R*S*Cg / TILE_N),
//                                            groups * slices)
//   Block 256. Slices, and what becomes of sums, as in convolution_tensor_core.cu, and the limits
//   of convolution_pipelined.cu: forward needs Cg, the others Cg and Kg to be multiples of 4, and
//   all arrays (a workspace among them) start at multiples of 16 bytes; both sides with their
//   padding, and taps * dilation, stay below MOST_EXTENT. Dynamic shared memory: 3 * 32 * (TILE_M +
//   TILE_N) numbers of 4 (TF32) or 2 (bf16) bytes, and 1024 bytes for their alignment.
