// Products of one warpgroup whose operands are copied to shared memory as memory has them, along
// the depth or across the lines, with nothing around them: what test_wgmma.py holds
// kernels/wgmma.cuh to.

// variants(sm_90a): -DTILE_N=64 | -DTILE_N=128

#include "stored.cuh"
#include "wgmma.cuh"

#ifndef TILE_N
#define TILE_N 128
#endif

constexpr int COLUMNS = TILE_N;
constexpr int STEP = 64;  // depths in shared memory at a time
constexpr int ROW = 128;  // bytes of a row
constexpr int BLOCK = STEP * ROW;
constexpr int LEFT_BYTES = PRODUCT_LINES * STEP * 2, RIGHT_BYTES = COLUMNS * STEP * 2;
constexpr int COPIES = (LEFT_BYTES + RIGHT_BYTES) / 16 / WARPGROUP;

__device__ void write_sums(float* sums_of_all, const float (&sums)[COLUMNS / 2]) {
    const int lane = threadIdx.x % 32, line = threadIdx.x / 32 * 16 + lane / 4;
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < COLUMNS / 4; ++j) {
            const int column = j / 2 * 8 + lane % 4 * 2 + j % 2;
            sums_of_all[(line + 8 * i) * COLUMNS + column] = sums[sum_index(line + 8 * i, column)];
        }
    }
}

template <Major OF_LEFT, Major OF_RIGHT>
__device__ void one_product(Descriptor left, Descriptor right, float* sums_of_all) {
    float sums[COLUMNS / 2] = {};
    Products<bf16, COLUMNS, OF_LEFT, OF_RIGHT> products;
    settle(sums);
    products.fence();
    products.multiply_add(sums, left, right);
    products.end_group();
    products.template wait<0>();
    settle(sums);
    write_sums(sums_of_all, sums);
}

// sums (64, COLUMNS) = one product of what two descriptors find in `image`, `words` 32-bit words
// that lie from the first slab on. The descriptors' addresses count from there. across: of each
// operand, whether its rows lie across lines.
extern "C" __global__ void __launch_bounds__(WARPGROUP)
    product_of_descriptors(const int* __restrict__ image, int words, unsigned left_low,
                           unsigned left_high, unsigned right_low, unsigned right_high,
                           int left_across, int right_across, float* sums_of_all) {
    unsigned char* const slabs = first_slab();
    for (int i = threadIdx.x; i < words; i += WARPGROUP)
        reinterpret_cast<int*>(slabs)[i] = image[i];
    Stores<1>().fence();
    __syncthreads();
    const Descriptor start = shared_address(slabs) >> 4;
    const Descriptor left = (Descriptor{left_high} << 32 | left_low) + start;
    const Descriptor right = (Descriptor{right_high} << 32 | right_low) + start;
    if (left_across && right_across) {
        one_product<Major::lines, Major::lines>(left, right, sums_of_all);
    } else if (left_across) {
        one_product<Major::lines, Major::depth>(left, right, sums_of_all);
    } else if (right_across) {
        one_product<Major::depth, Major::lines>(left, right, sums_of_all);
    } else {
        one_product<Major::depth, Major::depth>(left, right, sums_of_all);
    }
}

enum Fault {
    NONE,
    NO_COPY_WAIT,
    NO_COPY_FENCE,
    FENCE_BEFORE_WAIT,
    NO_BARRIER,
    OVERWRITTEN,
    NOT_SHUFFLED,
    OTHER_ORDER,
    NO_LEADING_OFFSET,
};

using Copies = OperandCopies<2, COPIES>;

template <Major ORDER>
__device__ void copy_slab(Copies& copies, unsigned char* slab, const Bf16* matrix, int lines,
                          int depth, int first, int fault) {
    for (int i = threadIdx.x; i < lines * STEP / 8; i += WARPGROUP) {
        int byte, from;
        if (ORDER == Major::depth) {
            const int line = i / (STEP / 8), unit = i % (STEP / 8);
            byte = line * ROW + unit * 16;
            from = line * depth + first + unit * 8;
        } else {
            const int at = i / (lines / 8), unit = i % (lines / 8);
            byte = unit / 8 * BLOCK + at * ROW + unit % 8 * 16;
            from = (first + at) * lines + unit * 8;
        }
        if (fault != NOT_SHUFFLED) byte = shuffled<ROW>(byte);
        copies.start(reinterpret_cast<Bf16*>(slab + byte), matrix + from, true, 8);
    }
}

// Of the depths from 16 * part on.
template <Major ORDER>
__device__ Descriptor part_of(unsigned slab, int part, int fault) {
    if (ORDER == Major::depth) return descriptor<ROW>(slab + 32 * part);
    return descriptor_across_lines(slab + 16 * ROW * part, fault == NO_LEADING_OFFSET ? 16 : BLOCK);
}

template <Major OF_LEFT, Major OF_RIGHT>
__device__ void sums_of_copies(const Bf16* left, const Bf16* right, float* sums_of_all, int depth,
                               int fault) {
    constexpr Major OTHER = OF_RIGHT == Major::depth ? Major::lines : Major::depth;
    const int stages = fault == OVERWRITTEN ? 2 : 3;
    unsigned char* const slabs = first_slab();
    float sums[COLUMNS / 2] = {};
    Products<bf16, COLUMNS, OF_LEFT, OF_RIGHT> products;
    Copies copies;
    settle(sums);
    for (int step = -1; step < depth / STEP; ++step) {
        unsigned char* const next = slabs + (step + 1) % stages * (LEFT_BYTES + RIGHT_BYTES);
        if (step >= 0) {
            if (fault == FENCE_BEFORE_WAIT) copies.fence();
            if (fault != NO_COPY_WAIT) copies.wait_for_oldest();
            if (fault != NO_COPY_FENCE && fault != FENCE_BEFORE_WAIT) copies.fence();
            if (fault != NO_BARRIER) __syncthreads();
            products.fence();
            const unsigned from = step % stages * (LEFT_BYTES + RIGHT_BYTES);
            const unsigned lines = shared_address(slabs + from), columns = lines + LEFT_BYTES;
            for (int part = 0; part < STEP / 16; ++part) {
                const Descriptor of_right = fault == OTHER_ORDER
                                                ? part_of<OTHER>(columns, part, fault)
                                                : part_of<OF_RIGHT>(columns, part, fault);
                products.multiply_add(sums, part_of<OF_LEFT>(lines, part, fault), of_right);
            }
            products.end_group();
        }
        if (step + 1 < depth / STEP) {
            const int first = (step + 1) * STEP;
            copy_slab<OF_LEFT>(copies, next, left, PRODUCT_LINES, depth, first, fault);
            copy_slab<OF_RIGHT>(copies, next + LEFT_BYTES, right, COLUMNS, depth, first, fault);
        }
        copies.end_group();
        if (step >= 0) products.template wait<1>();
    }
    products.template wait<0>();
    settle(sums);
    write_sums(sums_of_all, sums);
}

// sums (64, COLUMNS) = left * right, depth in whole steps; each lies in memory along the depth, as
// (64 or COLUMNS, depth), or across the lines, transposed. Copies are one step ahead, of three
// slabs. A fault leaves something out.
extern "C" __global__ void __launch_bounds__(WARPGROUP)
    tile_of_copies(const Bf16* __restrict__ left, const Bf16* __restrict__ right,
                   float* sums_of_all, int depth, int left_across, int right_across, int asked) {
#ifdef PYGAN_CPU_DRIVER
    const int fault = asked;
#else
    constexpr int fault = NONE;  // on a GPU a fault may stay without effect, and costs speed
#endif
    if (left_across) {  // the three that convolutions have
        sums_of_copies<Major::lines, Major::lines>(left, right, sums_of_all, depth, fault);
    } else if (right_across) {
        sums_of_copies<Major::depth, Major::lines>(left, right, sums_of_all, depth, fault);
    } else {
        sums_of_copies<Major::depth, Major::depth>(left, right, sums_of_all, depth, fault);
    }
}
