// How a convolution is a pipelined product: the way (convolution_passes.cuh) of the kernels in
// convolution_pipelined.cu and of the products in program.cu.
#pragma once

#include "pipeline.cuh"

#include "convolution_sources.cuh"

// Height and width of images, with what a tap may look beyond them, fit into 15 bits.
constexpr int MOST_EXTENT = 1 << 14;

struct Pipelined {
    static constexpr bool TRANSPOSED = true;
    using Patches = ::Patches<AlongDepth<TILE_M, MICRO_M>, MOST_EXTENT>;
    using PatchColumns = ::PatchColumns<AcrossLines<TILE_M, MICRO_M>>;
    using FilterRows = MatrixRows<AlongDepth<TILE_N, MICRO_N>>;
    using PhaseWeights = ::PhaseWeights<AcrossLines<TILE_N, MICRO_N>>;
    using Gradients = MatrixColumns<AcrossLines<TILE_N, MICRO_N>>;

    template <class Left, class Right>
    __device__ __forceinline__ static Sums product(const Left& left, const Right& right,
                                                   DepthRange range) {
        return pipelined_product(left, right, range);
    }
};
