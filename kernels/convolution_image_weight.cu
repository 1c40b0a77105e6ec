// The weight gradient of a convolution from few channels on tensor cores, where dy holds bf16
// numbers and x is an image of floats: of a discriminator's first layer, and of a generator's last
// (a transposed convolution's). convolution.cu tells the formula and the names.
//
//     dw (K, R, S, C) = sum over pixels of y of dy[n,p,q,k] * bf16(x[n, p * stride - pad + r *
//     ...])
//
// The product is that of convolution_tensor_core.cu, with dy copied as it is. Units of 16 bytes do
// not exist in an image of 1 to 4 channels: its numbers are loaded one by one, rounded, and stored
// to shared memory as units of 8, so that everything behind that is as of bf16 arrays. The loads of
// a step are under way in registers until the step after has begun: their latency passes behind a
// product, as that of cp.async does. What a number's tap and channel add to its address is computed
// once, since a thread has the same columns in every step.
//
// convolution_few_channels_weight.cu multiplies on the plain units what is little work; the model
// chooses (bindings/operators/plans/choice.py).
//
// variants(sm_80):

#define ELEMENT Bf16  // of both slabs
#define RESULT float
#define PRECISION bf16
#define TILE_M 64
#define TILE_N 64

#include "tensor_core.cuh"

#include "convolution_passes.cuh"
#include "convolution_sources.cuh"

// Source: PatchColumns of an image of floats. Line = (tap_h, tap_w, channel), depth = grid
// position.
struct ImageColumns {
    using Slab = AcrossLines<TILE_N>;
    static_assert(STAGES >= 3, "a slab is stored a step after its loads, a step before its use");
    static constexpr int BEYOND = -(1 << 29);  // a row that no image has

    const float* image;
    int offsets[UNIT], down[UNIT], right[UNIT];  // of this thread's lines, from the corner of taps
    Position at, step;                           // of this thread's next depth
    int height, width, pitch, grid_h, grid_w;
    Axis vertical, horizontal;
    float loaded[Slab::SHARE][UNIT];  // for the slab `waiting`
    Bf16* waiting;

    __device__ ImageColumns(const float* __restrict__ image, int height, int width, int pitch,
                            int channels, int grid_h, int grid_w, Axis vertical, Axis horizontal,
                            int first_line, int first_depth)
        : image(image),
          height(height),
          width(width),
          pitch(pitch),
          grid_h(grid_h),
          grid_w(grid_w),
          vertical(vertical),
          horizontal(horizontal),
          waiting(nullptr) {
        UNROLL
        for (int k = 0; k < UNIT; ++k) {
            const Position tap = position(first_line + Slab::line() + k, horizontal.taps, channels);
            down[k] = tap.n < vertical.taps ? tap.n * vertical.step : BEYOND;
            right[k] = tap.h * horizontal.step;
            offsets[k] = (tap.n * vertical.step * width + right[k]) * pitch + tap.w;
        }
        at = position(first_depth + Slab::depth(0), grid_h, grid_w);
        step = position(Slab::STEP, grid_h, grid_w);
    }

    __device__ void fill(Copies&, Bf16* slab, int depths) {
        store_loaded();
        UNROLL
        for (int i = 0; i < Slab::SHARE; ++i) {
            const int h = at.h * vertical.unit + vertical.origin;
            const int w = at.w * horizontal.unit + horizontal.origin;
            const bool within = Slab::has(i) & (Slab::depth(i) < depths);
            const Offset corner = ((static_cast<Offset>(at.n) * height + h) * width + w) * pitch;
            UNROLL
            for (int k = 0; k < UNIT; ++k) {
                const int row = h + down[k], column = w + right[k];
                const bool inside = within &
                                    (static_cast<unsigned>(row) < static_cast<unsigned>(height)) &
                                    (static_cast<unsigned>(column) < static_cast<unsigned>(width));
                loaded[i][k] = inside ? __ldg(image + corner + offsets[k]) : 0.0f;
            }
            advance(at, step, grid_h, grid_w);
        }
        waiting = slab;
    }

    __device__ void skip() {
        store_loaded();
        waiting = nullptr;
    }

  private:
    __device__ void store_loaded() {
        if (waiting == nullptr) return;
        UNROLL
        for (int i = 0; i < Slab::SHARE; ++i) {
            if (!Slab::has(i)) continue;
            const float (&of)[UNIT] = loaded[i];
            *reinterpret_cast<uint4*>(Slab::place(waiting, i, 0)) =
                make_uint4(round_to_bf16(of[0], of[1]), round_to_bf16(of[2], of[3]),
                           round_to_bf16(of[4], of[5]), round_to_bf16(of[6], of[7]));
        }
    }
};

__device__ __forceinline__ void skip(ImageColumns& source) {
    source.skip();
}

struct ImageWeights {
    static constexpr bool TRANSPOSED = false;
    using PatchColumns = ImageColumns;
    using Gradients = MatrixColumns<AcrossLines<TILE_M>>;

    template <class Left, class Right>
    __device__ __forceinline__ static Sums product(const Left& left, const Right& right,
                                                   DepthRange range) {
        return tile_product(left, right, range);
    }
};

// dw (or, with slices > 1, partials of it) from x and dy.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    convolution_backward_weight_image(const float* __restrict__ x, const Bf16* __restrict__ dy,
                                      float* dw, int batch, int height, int width, int x_channels,
                                      int y_height, int y_width, int y_channels, int kernel_h,
                                      int kernel_w, int stride_h, int stride_w, int pad_h,
                                      int pad_w, int dilation_h, int dilation_w, int groups,
                                      int slices, int accumulate) {
    const Layer layer = {batch,      height,     width,      x_channels, y_height, y_width,
                         y_channels, kernel_h,   kernel_w,   stride_h,   stride_w, pad_h,
                         pad_w,      dilation_h, dilation_w, groups};
    backward_weight<ImageWeights>(
        layer, x, dy, {dw, 0, 0, slices, {nullptr, nullptr, Activation::none, 0.0f, accumulate}});
}

// Launch contract
//   grid (ceil(K / 64), ceil(R * S * C / 64), slices), block 128; groups is 1, K a multiple of 8,
//   dy at a multiple of 16 bytes. slices > 1: dw is the partial sums of sum_partials, which
//   follows. Dynamic shared memory: STAGES * 2 * 2 * TILE_K * (64 + 8) bytes. Compute
//   capability 8.0.
