// Hopper's products of matrices in shared memory (wgmma), one device function an instruction, with
// a plain body beside it for the CPU driver. Compute capability 9.0 alone has these instructions:
// code that includes this file is compiled for sm_90a.
//
// A warpgroup, four warps of which the first has a number divisible by 4, multiplies 64 lines by
// COLUMNS columns, 8 (TF32) or 16 (bf16) deep, by one instruction. Both operands lie in shared
// memory, and each is named by a descriptor. What makes it faster than mma.sync, beside the faster
// units: no fragments pass through registers, and the products go on while the warps do something
// else, for example bring the next operands.
//
// ---- Operands ----
//
// An operand is a slab of rows in one of two orders, which an instruction is told of each:
//     Major::depth   a row for each line or column of the product, along the depth: what the PTX
//                    ISA calls K-major, the only order that TF32 allows. A row has SPAN = 128 or 64
//                    bytes and follows the one before. An instruction reads 32 bytes of each row;
//                    the next 32 are the same descriptor, 32 bytes on.
//     Major::lines   bf16 alone: MN-major, a row of 128 bytes for each depth, across 64 lines or
//                    columns; the next 64 have rows of their own, behind all of these. An
//                    instruction reads 16 rows; the next 16 are the same descriptor, 2048 bytes on.
// A row's 16-byte chunks are shuffled so that 8 rows keep the same chunk in different banks: in an
// address, bits 4 to 6 (5 with 64 bytes) are xored with bits 7 to 9 (8). Slabs begin at multiples
// of 1024 bytes, where that pattern does. (PTX ISA, Asynchronous Warpgroup Level Matrix
// Instructions: Shared Memory Matrix Layout, Strides, Matrix Descriptor Format.)
//
// A descriptor, 64 bits:
//     0-13   address of the first chunk / 16      49-51  row at which the pattern began, where a
//     16-29  leading offset / 16, see Operand            slab does not begin where it does: 0
//     32-45  bytes from 8 rows to the next 8 / 16 62-63  pattern: 0 none, 1: 128, 2: 64, 3: 32
//     bytes
//
// ---- Order ----
//
// The products read shared memory through the asynchronous proxy, and accumulate in registers while
// the threads go on. So
//     a thread that wrote operands, by stores or by copies that it has waited for (cp.async writes
//     through the generic proxy as stores do; PTX ISA, Memory Consistency Model: Proxies), calls
//     Stores::fence or OperandCopies::fence before the barrier behind which they are read
//     Products::fence stands before the first product, and between any use of sums and the next
//     sums are valid, and operands may be overwritten, when their group was waited for
// On the CPU driver every second thread's stores and copies become visible at the fence only, two
// of a warpgroup's warps multiply when a product is issued and two when it is waited for, and a
// product without its fence is NaN: a forgotten fence, a sum that is read too early and an operand
// that is overwritten too early show as wrong results.
#pragma once

#include "common.cuh"
#include "copies.cuh"
#include "rounding.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma exists on compute capability 9.0 alone: compile this file for sm_90a"
#endif

constexpr int WARPGROUP = 128;  // threads
constexpr int PRODUCT_LINES = 64;
constexpr int SLAB_ALIGNMENT = 1024;

// The formats: depth of a product, bytes of a number in shared memory, the 4 numbers that a thread
// writes at a time, and number k of 32 bytes as the tensor core reads it.
struct tf32 {
    static constexpr int DEPTH = 8, BYTES = 4;
    using Four = uint4;

    __device__ static Four rounded(const float4& four) {
        return {round_to_tf32(four.x), round_to_tf32(four.y), round_to_tf32(four.z),
                round_to_tf32(four.w)};
    }
    // The lower 13 bits are cut off: rounding is up to who writes the operand.
    __device__ static float value(const unsigned (&words)[8], int k) {
        return __uint_as_float(words[k] & 0xffffe000u);
    }
};
struct bf16 {
    static constexpr int DEPTH = 16, BYTES = 2;
    using Four = uint2;

    __device__ static Four rounded(const float4& four) {
        return {round_to_bf16(four.x, four.y), round_to_bf16(four.z, four.w)};
    }
    __device__ static float value(const unsigned (&words)[8], int k) {
        return __uint_as_float(k % 2 ? words[k / 2] & 0xffff0000u : words[k / 2] << 16);
    }
};

// ---- Shared memory ----

extern __shared__ __align__(16) unsigned char shared_memory[];

#ifndef __CUDA_ARCH__
// Where the CPU driver says that dynamic shared memory begins. No more than the 16 bytes asked for
// divide it, so that a kernel which takes more for granted shows.
constexpr unsigned FIRST_ADDRESS = 1072;
#endif

// The address that a descriptor takes.
__device__ __forceinline__ unsigned shared_address(const unsigned char* place) {
#ifdef __CUDA_ARCH__
    return static_cast<unsigned>(__cvta_generic_to_shared(place));
#else
    return FIRST_ADDRESS + static_cast<unsigned>(place - shared_memory);
#endif
}

// The first place of dynamic shared memory where a slab may begin. A launch asks for
// SLAB_ALIGNMENT bytes more than its slabs have.
__device__ __forceinline__ unsigned char* first_slab() {
    return shared_memory + (-shared_address(shared_memory) & (SLAB_ALIGNMENT - 1));
}

// Where byte `byte` of a slab's rows, counted as if they were not shuffled, lies in the slab.
template <int SPAN>
__device__ __forceinline__ int shuffled(int byte) {
    static_assert(SPAN == 128 || SPAN == 64, "of the patterns, these are used");
    return byte ^ (byte >> 7 & (SPAN / 16 - 1)) << 4;
}

using Descriptor = unsigned long long;

// Of rows of SPAN bytes from `start`, the address of a place in a slab's first row of 8.
template <int SPAN>
__device__ __forceinline__ Descriptor descriptor(unsigned start) {
    constexpr Descriptor LEADING = 1;  // not used by these patterns
    constexpr Descriptor PATTERN = SPAN == 128 ? 1 : 2;
    return (start & 0x3ffff) >> 4 | LEADING << 16 | Descriptor{8 * SPAN / 16} << 32 | PATTERN << 62;
}

// The same of rows across lines: `start` is where the first of 64 lines begin, and the next 64
// begin `block` bytes behind.
__device__ __forceinline__ Descriptor descriptor_across_lines(unsigned start, int block) {
    constexpr Descriptor STRIDE = 8 * 128 / 16, PATTERN = 1;
    return (start & 0x3ffff) >> 4 | static_cast<Descriptor>(block >> 4) << 16 | STRIDE << 32 |
           PATTERN << 62;
}

// ---- Operands that are stored ----

// MOST: how many a thread makes before it calls fence.
template <int MOST>
class Stores {
  public:
    template <class Format>
    __device__ __forceinline__ void store(unsigned char* to, typename Format::Four four) {
#ifndef __CUDA_ARCH__
        if (threadIdx.x % 2 != 0) {
            if (started == MOST) __trap();
            unsigned* const words = under_way[started].words;
            under_way[started].to = to;
            under_way[started++].bytes = sizeof four;
            *reinterpret_cast<typename Format::Four*>(words) = four;
            return;
        }
#endif
        *reinterpret_cast<typename Format::Four*>(to) = four;
    }

    // All stores of the calling thread are seen by products behind the next barrier.
    __device__ __forceinline__ void fence() {
#ifdef __CUDA_ARCH__
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
        for (int i = 0; i < started; ++i) {
            const Store& store = under_way[i];
            if (store.bytes == sizeof(uint4)) {
                *reinterpret_cast<uint4*>(store.to) = *reinterpret_cast<const uint4*>(store.words);
            } else {
                *reinterpret_cast<uint2*>(store.to) = *reinterpret_cast<const uint2*>(store.words);
            }
        }
        started = 0;
#endif
    }

#ifndef __CUDA_ARCH__
  private:
    struct Store {
        __align__(16) unsigned words[4];
        unsigned char* to;
        unsigned bytes;
    };
    Store under_way[MOST];
    int started = 0;
#endif
};

// ---- Operands that are copied ----

// As CopiesUnderWay, of operands: wait_for_oldest, then fence, before any other copy is started.
template <int STEPS, int MOST>
class OperandCopies {
  public:
    template <class Number>
    __device__ GPU_INLINE void start(Number* to, const Number* from, bool inside, int numbers) {
        copies.start(to, from, inside, numbers);
    }

    __device__ __forceinline__ void end_group() {
        copies.end_group();
#ifndef __CUDA_ARCH__
        waited = false;
#endif
    }

    __device__ __forceinline__ void wait_for_oldest() {
#ifdef __CUDA_ARCH__
        copies.wait_for_oldest();
#else
        waited = true;
#endif
    }

    // What the calling thread has waited for is seen by products behind the next barrier.
    __device__ __forceinline__ void fence() {
#ifdef __CUDA_ARCH__
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
        if (waited) copies.wait_for_oldest();
#endif
    }

  private:
    CopiesUnderWay<STEPS, MOST> copies;
#ifndef __CUDA_ARCH__
    bool waited = false;
#endif
};

// The order of an operand in shared memory: which of its numbers are neighbours.
enum class Major { depth, lines };

#ifndef __CUDA_ARCH__
// An operand as its descriptor tells it, in any of the four patterns.
class Operand {
  public:
    __device__ explicit Operand(Descriptor bits)
        : start(field(bits, 0)),
          leading(field(bits, 16)),
          stride(field(bits, 32)),
          pattern_row(bits >> 49 & 7),
          span(SPANS[bits >> 62]) {}

    // DEPTH numbers of a line or column.
    template <class Format, Major ORDER>
    __device__ void read(int line, float (&numbers)[Format::DEPTH]) const {
        if constexpr (ORDER == Major::lines) {
            static_assert(Format::BYTES == 2, "TF32 lies along the depth");
            for (int k = 0; k < Format::DEPTH; ++k) {
                const unsigned offset = address_across_lines(line, k) - FIRST_ADDRESS;
                const unsigned short bits =
                    *reinterpret_cast<const unsigned short*>(shared_memory + offset);
                numbers[k] = __uint_as_float(static_cast<unsigned>(bits) << 16);
            }
            return;
        }
        unsigned words[8];
        for (int chunk = 0; chunk < 2; ++chunk) {
            const unsigned offset = address(line, chunk) - FIRST_ADDRESS;
            const uint4 four = *reinterpret_cast<const uint4*>(shared_memory + offset);
            words[4 * chunk] = four.x, words[4 * chunk + 1] = four.y;
            words[4 * chunk + 2] = four.z, words[4 * chunk + 3] = four.w;
        }
        for (int k = 0; k < Format::DEPTH; ++k) numbers[k] = Format::value(words, k);
    }

  private:
    static constexpr unsigned SPANS[4] = {16, 128, 64, 32};
    unsigned start, leading, stride, pattern_row, span;

    __device__ static unsigned field(Descriptor bits, int from) {
        return static_cast<unsigned>(bits >> from & 0x3fff) << 4;
    }

    // Without a pattern, 8 rows of one chunk lie together, and the second chunks `leading` bytes
    // on. With one, a row's chunks lie together, shuffled by the row's place in the pattern.
    __device__ unsigned address(int row, int chunk) const {
        const unsigned eight = start + row / 8 * stride + row % 8 * span;
        if (span == 16) return eight + chunk * leading;
        return in_pattern(eight + 16 * chunk);
    }

    // Rows of 2-byte numbers across lines. Without a pattern, chunks of 8 lines at 8 depths lie
    // together, the next 8 depths `leading` bytes on and the next 8 lines `stride`. With one, as
    // many lines as its span holds lie in a row, 8 depths together, the next 8 depths `stride`
    // bytes on and the next lines `leading`.
    __device__ unsigned address_across_lines(int line, int depth) const {
        const int together = span / 2;
        const unsigned row = start + depth % 8 * span + line % together * 2;
        if (span == 16) return row + depth / 8 * leading + line / together * stride;
        return in_pattern(row + depth / 8 * stride + line / together * leading);
    }

    __device__ unsigned in_pattern(unsigned byte) const {
        return byte ^ ((byte >> 7) - pattern_row & (span / 16 - 1)) << 4;
    }
};
#endif

// ---- Products ----

// The sums of a thread, of COLUMNS / 2: with g = lane / 4 and t = lane % 4, lines g and g + 8 of
// its warp's 16, and columns 2t and 2t + 1 of every 8.
__device__ __forceinline__ int sum_index(int line, int column) {
    return column / 8 * 4 + line / 8 % 2 * 2 + column % 2;
}

// No use of the sums moves across this place; to stand where they become valid, and before they are
// given away.
template <int COUNT>
__device__ __forceinline__ void settle(float (&sums)[COUNT]) {
#ifdef __CUDA_ARCH__
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[i])::"memory");
#endif
}

#define SUMS_8(i)                                                                              \
    "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), \
        "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define SUMS_32(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24)
#define NAMES_32                                                                            \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
    "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                         \
    NAMES_32                                                                             \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// Products under way, in groups. LEFT[64][depth] * RIGHT[depth][COLUMNS] is added to sums; both
// operands lie in shared memory in the order that is named.
template <class Format, int COLUMNS, Major OF_LEFT = Major::depth, Major OF_RIGHT = Major::depth>
class Products {
  public:
    static constexpr int SUMS = COLUMNS / 2;
    static_assert(COLUMNS == 64 || COLUMNS == 128, "of the sizes, these are used");

    __device__ __forceinline__ void fence() {
#ifdef __CUDA_ARCH__
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
        fenced = true;
#endif
    }

    // By all threads of a warpgroup, with the same descriptors.
    __device__ __forceinline__ void multiply_add(float (&sums)[SUMS], Descriptor left,
                                                 Descriptor right) {
#ifdef __CUDA_ARCH__
        // What follows the descriptors: add to sums (or overwrite them), signs of both operands,
        // and, where the format allows both, 1 for rows across lines of each.
        constexpr int LEFT_ACROSS = OF_LEFT == Major::lines,
                      RIGHT_ACROSS = OF_RIGHT == Major::lines;
        if constexpr (Format::DEPTH == 8 && COLUMNS == 64) {
            asm volatile("wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 {" NAMES_32
                         "}, %32, %33, 1, 1, 1;"
                         : SUMS_32(0)
                         : "l"(left), "l"(right));
        } else if constexpr (Format::DEPTH == 8) {
            asm volatile("wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 {" NAMES_64
                         "}, %64, %65, 1, 1, 1;"
                         : SUMS_32(0), SUMS_32(32)
                         : "l"(left), "l"(right));
        } else if constexpr (COLUMNS == 64) {
            asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NAMES_32
                         "}, %32, %33, 1, 1, 1, %34, %35;"
                         : SUMS_32(0)
                         : "l"(left), "l"(right), "n"(LEFT_ACROSS), "n"(RIGHT_ACROSS));
        } else {
            asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NAMES_64
                         "}, %64, %65, 1, 1, 1, %66, %67;"
                         : SUMS_32(0), SUMS_32(32)
                         : "l"(left), "l"(right), "n"(LEFT_ACROSS), "n"(RIGHT_ACROSS));
        }
#else
        // The lanes of a warp meet here; that the warps do is not asked for.
        const bool same = __all_sync(0xffffffffu, left == __shfl_sync(0xffffffffu, left, 0) &&
                                                      right == __shfl_sync(0xffffffffu, right, 0));
        if (!same || !fenced) sums[0] = __uint_as_float(0x7fffffffu);
        const Product product = {sums, left, right};
        if (threadIdx.x / 32 % 2 == 0) {
            make(product);
        } else {
            if (started == MOST) __trap();
            under_way[newest % GROUPS][started++] = product;
        }
#endif
    }

    __device__ __forceinline__ void end_group() {
#ifdef __CUDA_ARCH__
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
        count[newest++ % GROUPS] = started;
        started = 0;
        if (newest - oldest > GROUPS) __trap();
#endif
    }

    // All groups of the warpgroup but the newest LEFT have been added.
    template <int LEFT>
    __device__ __forceinline__ void wait() {
#ifdef __CUDA_ARCH__
        asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
#else
        static_assert(LEFT < GROUPS, "the groups that are remembered");
        for (; oldest < newest - LEFT; ++oldest) {
            for (int i = 0; i < count[oldest % GROUPS]; ++i) make(under_way[oldest % GROUPS][i]);
        }
        fenced = false;
#endif
    }

#ifndef __CUDA_ARCH__
  private:
    static constexpr int GROUPS = 2, MOST = 16;
    struct Product {
        float* sums;
        Descriptor left, right;
    };
    Product under_way[GROUPS][MOST];
    int count[GROUPS];
    int oldest = 0, newest = 0, started = 0;
    bool fenced = false;

    // The calling thread's part of one. Products are added one after the other, each sum rounded to
    // nearest; tensor cores add them in an order of their own and cut off what does not fit.
    __device__ __noinline__ static void make(Product product) {
        const Operand left(product.left), right(product.right);
        const int lane = threadIdx.x % 32, line = threadIdx.x / 32 % 4 * 16 + lane / 4;
        float lines[2][Format::DEPTH], of_column[Format::DEPTH];
        left.read<Format, OF_LEFT>(line, lines[0]);
        left.read<Format, OF_LEFT>(line + 8, lines[1]);
        for (int eight = 0; eight < COLUMNS; eight += 8) {
            for (int column = eight + lane % 4 * 2, i = 0; i < 2; ++column, ++i) {
                right.read<Format, OF_RIGHT>(column, of_column);
                for (int j = 0; j < 2; ++j) {
                    float& sum = product.sums[sum_index(line + 8 * j, column)];
                    for (int k = 0; k < Format::DEPTH; ++k) {
                        sum = fmaf(lines[j][k], of_column[k], sum);
                    }
                }
            }
        }
    }
#endif
};
