// Batches gathered from a data set that lives in device memory, and what steps leave there.
//
//   table (M, row) bytes or float, order (K) row numbers, cursor (1)
//   gather_rows      y (N, row) = table[order[(cursor + i) % K]] * scale + shift, as float
//   gather_one_hot   y (N, classes) = 1 at labels[order[(cursor + i) % K]], else 0
//   store_row        rows (R, size): rows[cursor, offset ...] = first (n) and then second (m)
//   advance_cursor   cursor = (cursor + step) % modulo
//
// The cursor is in device memory, so that a captured graph takes the next batch, and leaves its
// losses in the next row, at every replay.
// A row number outside the table gives a row of NaN: a kernel cannot raise, and a wild read would
// be worse. A label beyond the classes gives a row of zeros.
//
// variants: | -DTABLE_TYPE=float

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

// Product and sum are rounded one by one, so that pixels have the same bits on every device.
extern "C" __global__ void gather_rows(const TABLE_TYPE* __restrict__ table,
                                       const int* __restrict__ order,
                                       const int* __restrict__ cursor, float* __restrict__ y,
                                       int rows, int entries, long long row_size, float scale,
                                       float shift) {
    const long long row = row_of(order, cursor, blockIdx.x, entries, rows);
    const long long step = static_cast<long long>(gridDim.y) * blockDim.x;
    float* to = y + blockIdx.x * row_size;
    for (long long i = static_cast<long long>(blockIdx.y) * blockDim.x + threadIdx.x; i < row_size;
         i += step) {
        to[i] = row < 0 ? NOT_A_NUMBER
                        : __fadd_rn(__fmul_rn(static_cast<float>(table[row * row_size + i]), scale),
                                    shift);
    }
}

extern "C" __global__ void gather_one_hot(const unsigned char* __restrict__ labels,
                                          const int* __restrict__ order,
                                          const int* __restrict__ cursor, float* __restrict__ y,
                                          int rows, int entries, int samples, int classes) {
    const long long n = static_cast<long long>(samples) * classes;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
         i += step) {
        const long long row = row_of(order, cursor, static_cast<int>(i / classes), entries, rows);
        const int chosen = row < 0 ? 0 : labels[row];
        y[i] = row < 0 ? NOT_A_NUMBER : (chosen == i % classes ? 1.0f : 0.0f);
    }
}

// A cursor outside the rows writes nothing. second may be null with m = 0.
extern "C" __global__ void store_row(const float* __restrict__ first,
                                     const float* __restrict__ second,
                                     const int* __restrict__ cursor, float* __restrict__ rows,
                                     int count, int size, int offset, int n, int m) {
    const int row = cursor[0];
    if (row < 0 || row >= count) {
        return;
    }
    float* to = rows + static_cast<long long>(row) * size + offset;
    const int step = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n + m; i += step) {
        to[i] = i < n ? first[i] : second[i - n];
    }
}

extern "C" __global__ void advance_cursor(int* cursor, int step, int modulo) {
    cursor[0] = static_cast<int>((static_cast<long long>(cursor[0]) + step) % modulo);
}

// Launch contract: gather_rows: grid (N, chunks), 256 threads, a chunk per 1024 elements of a row,
// at most 65535. gather_one_hot: one-dimensional, any grid (a block per 256 elements of y).
// store_row: one-dimensional, any grid (a block per 1024 elements). advance_cursor: one thread.
// No shared memory.
