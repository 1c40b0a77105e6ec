// Inverted dropout: y = x / (1 - rate) where kept, 0 where dropped.
//
//   x, y, dy, dx (n) float, mask (n) bytes 0 or 1; state (2): {seed, counter}, see random.cu
//   element i is kept when u_i >= rate, with u_i the uniform number i of this call
//
// Srivastava et al., "Dropout", 2014. One thread computes a whole Philox block: four elements, in
// one access of 16 bytes to x and y and one of 4 to the mask.

#include "flat.cuh"
#include "philox.cuh"

// WIDTH elements of the mask, one access where they start at a multiple of WIDTH bytes.
template <int WIDTH>
struct alignas(WIDTH) Kept {
    unsigned char at[WIDTH];
};

__device__ __forceinline__ bool mask_by_fours(const unsigned char* mask) {
    return (reinterpret_cast<unsigned long long>(mask) & 3ull) == 0ull;
}

// No __restrict__ on x and y, dy and dx: they may be the same array.
extern "C" __global__ void __launch_bounds__(ONE_BLOCK)
    dropout_forward(unsigned long long* state, const float* x, float* y, unsigned char* mask,
                    long long n, float rate) {
    const bool vectorised = aligned(x, y) && mask_by_fours(mask);
    const float keep = 1.0f - rate;
    for_each_draw(state, n, [&](const PhiloxBlock& block, long long begin) {
        if (vectorised && begin + 4 <= n) {
            Pack<4> pack = load<4>(x + begin);
            Kept<4> kept;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                kept.at[k] = unit_from_word(block.word[k]) >= rate;
                pack.at[k] = kept.at[k] ? pack.at[k] / keep : 0.0f;
            }
            store<4>(y + begin, pack);
            *reinterpret_cast<Kept<4>*>(mask + begin) = kept;
        } else {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                if (begin + k < n) {
                    const bool kept = unit_from_word(block.word[k]) >= rate;
                    y[begin + k] = kept ? x[begin + k] / keep : 0.0f;
                    mask[begin + k] = kept;
                }
            }
        }
    });
}

extern "C" __global__ void dropout_backward(const unsigned char* __restrict__ mask, const float* dy,
                                            float* dx, long long n, float rate, int accumulate) {
    const float keep = 1.0f - rate;
    for_each_pack(n, aligned(dy, dx) && mask_by_fours(mask), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> gradient = load<W>(dy + i);
        const Kept<W> kept = *reinterpret_cast<const Kept<W>*>(mask + i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            gradient.at[k] = kept.at[k] ? gradient.at[k] / keep : 0.0f;
        }
        store_gradient<W>(dx + i, gradient, accumulate);
    });
}

// Launch contract: one-dimensional grids; no shared memory. Forward: one block of up to ONE_BLOCK
// threads, or any number of blocks, after which random.cu's random_advance follows. Backward: any
// grid and block (256 threads, a block per 1024 elements, at most 4096 blocks). Arrays that are not
// at multiples of 16 bytes, or masks that are not at multiples of 4, go one element at a time.
