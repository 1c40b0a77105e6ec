// How a convolution is a product on tensor cores: the way (convolution_passes.cuh) of the kernels
// in convolution_tensor_core.cu and convolution_normalised_tensor_core.cu.
#pragma once

#include "tensor_core.cuh"

#include "convolution_sources.cuh"

struct TensorCore {
    static constexpr bool TRANSPOSED = false;
    using Patches = ::Patches<AlongDepth<TILE_M>, 0>;
    using PatchColumns = ::PatchColumns<AcrossLines<TILE_N>>;
    using FilterRows = MatrixRows<AlongDepth<TILE_N>>;
    using PhaseWeights = ::PhaseWeights<AcrossLines<TILE_N>>;
    using Gradients = MatrixColumns<AcrossLines<TILE_M>>;

    template <class Left, class Right>
    __device__ __forceinline__ static Sums product(const Left& left, const Right& right,
                                                   DepthRange range) {
        return tile_product(left, right, range);
    }
};
