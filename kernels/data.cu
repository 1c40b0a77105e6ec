// Batches gathered from a data set that lives in device memory, and what steps leave there.
//
//   table (M, row) bytes or float, order (K) row numbers, cursor (1)
//   gather_rows      y (N, row) = table[order[(cursor + i) % K]] * scale + shift, as float
//   gather_one_hot   y (N, classes) = 1 at labels[order[(cursor + i) % K]], else 0
//   store_row        rows (R, size): rows[cursor, at_i ...] = part_i (n_i), of up to six parts
//   advance_cursor   cursor = (cursor + step) % modulo
//
// The cursor is in device memory, so that a captured graph takes the next batch, and leaves its
// losses in the next row, at every replay.
// A row number outside the table gives a row of NaN: a kernel cannot raise, and a wild read would
// be worse. A label beyond the classes gives a row of zeros.
//
// Gathering is bound by memory: a thread writes four floats at once, of a row where rows are whole
// packs of four, of a batch of one-hot rows always, and reads four entries of the table at once.
// store_row moves a handful of losses, whose places in a row are rarely multiples of 16 bytes.
//
// variants: | -DTABLE_TYPE=float

#include "flat.cuh"

#ifndef TABLE_TYPE
#define TABLE_TYPE unsigned char
#endif

constexpr float NOT_A_NUMBER = __builtin_nanf("");

// The table's row for sample i of the batch, or -1.
__device__ __forceinline__ long long row_of(const int* order, const int* cursor, int sample,
                                            int entries, int rows) {
    const int row = order[(static_cast<long long>(cursor[0]) + sample) % entries];
    return row >= 0 && row < rows ? row : -1;
}

// WIDTH entries of the table, one access where they start at a multiple of their size.
template <int WIDTH>
struct alignas(WIDTH * sizeof(TABLE_TYPE)) Entries {
    TABLE_TYPE at[WIDTH];
};

// Product and sum are rounded one by one, so that pixels have the same bits on every device.
extern "C" __global__ void gather_rows(const TABLE_TYPE* __restrict__ table,
                                       const int* __restrict__ order,
                                       const int* __restrict__ cursor, float* __restrict__ y,
                                       int rows, int entries, long long row_size, float scale,
                                       float shift) {
    const long long row = row_of(order, cursor, blockIdx.x, entries, rows);
    const TABLE_TYPE* from = table + row * row_size;
    float* to = y + blockIdx.x * row_size;
    const bool by_fours = row_size % 4 == 0 && aligned(y) &&
                          reinterpret_cast<unsigned long long>(table) % sizeof(Entries<4>) == 0;
    for_each_pack(blockIdx.y, gridDim.y, row_size, by_fours, [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        Pack<W> pack;
        if (row < 0) {
#pragma unroll
            for (int k = 0; k < W; ++k) {
                pack.at[k] = NOT_A_NUMBER;
            }
        } else {
            const Entries<W> entry = *reinterpret_cast<const Entries<W>*>(from + i);
#pragma unroll
            for (int k = 0; k < W; ++k) {
                pack.at[k] = __fadd_rn(__fmul_rn(static_cast<float>(entry.at[k]), scale), shift);
            }
        }
        store<W>(to + i, pack);
    });
}

extern "C" __global__ void gather_one_hot(const unsigned char* __restrict__ labels,
                                          const int* __restrict__ order,
                                          const int* __restrict__ cursor, float* __restrict__ y,
                                          int rows, int entries, int samples, int classes) {
    const long long n = static_cast<long long>(samples) * classes;
    for_each_pack(n, aligned(y), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        int sample = static_cast<int>(i / classes);
        int k = static_cast<int>(i % classes);
        Pack<W> pack;
#pragma unroll
        for (int j = 0; j < W; ++j) {
            const long long row = row_of(order, cursor, sample, entries, rows);
            pack.at[j] = row < 0 ? NOT_A_NUMBER : (labels[row] == k ? 1.0f : 0.0f);
            if (++k == classes) {  // a pack may end in the next row
                k = 0;
                ++sample;
            }
        }
        store<W>(y + i, pack);
    });
}

// One block, which moves the cursor to the next row itself where `advance` says so. A cursor
// outside the rows writes nothing and stays. Parts may be null with n = 0.
extern "C" __global__ void store_row(
    int* cursor, float* __restrict__ rows, const float* __restrict__ part_0,
    const float* __restrict__ part_1, const float* __restrict__ part_2,
    const float* __restrict__ part_3, const float* __restrict__ part_4,
    const float* __restrict__ part_5, int at_0, int at_1, int at_2, int at_3, int at_4, int at_5,
    int n_0, int n_1, int n_2, int n_3, int n_4, int n_5, int count, int size, int advance) {
    const float* const parts[] = {part_0, part_1, part_2, part_3, part_4, part_5};
    const int at[] = {at_0, at_1, at_2, at_3, at_4, at_5};
    const int n[] = {n_0, n_1, n_2, n_3, n_4, n_5};
    const int row = cursor[0];
    if (row < 0 || row >= count) {
        return;
    }
    float* const to = rows + static_cast<long long>(row) * size;
#pragma unroll
    for (int part = 0; part < 6; ++part) {
        for (int i = threadIdx.x; i < n[part]; i += blockDim.x) {
            to[at[part] + i] = parts[part][i];
        }
    }
    __syncthreads();  // every thread knows the row
    if (advance && threadIdx.x == 0) {
        cursor[0] = row + 1 < count ? row + 1 : 0;
    }
}

extern "C" __global__ void advance_cursor(int* cursor, int step, int modulo) {
    cursor[0] = static_cast<int>((static_cast<long long>(cursor[0]) + step) % modulo);
}

// Launch contract: gather_rows: grid (N, chunks), 256 threads, a chunk per 1024 elements of a row,
// at most 65535. gather_one_hot: one-dimensional, any grid (a block per 1024 elements of y).
// store_row: one block of 256 threads. advance_cursor: one thread.
// No shared memory.
