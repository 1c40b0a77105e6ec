// Batch normalisation of many rows in one cooperative launch: what batch_norm.cu does in two.
//
// The rows of a channel are split over blocks, as there. A block copies its rows to shared memory,
// reduces them into `partial`, and waits at a barrier of the grid (grid_barrier.cuh) for the
// others; then it merges the partial results of its channels and writes its rows from its own copy.
// So the input is read once and not twice, and the second launch is a barrier. All blocks must fit
// on the GPU at once with their rows: 64 kB each in two blocks a multiprocessor for 33 MB of x.
//
// The block's part, the order of every sum and the last expressions are those of the two launches,
// and so are the bits.
//
// variants, unless they say: -DACTIVATION=none -DVECTOR=4
// variants: | -DACTIVATION=relu | -DACTIVATION=leaky_relu | -DACTIVATION=elu
// variants: -DACTIVATION=sigmoid | -DACTIVATION=tanh | -DACTIVATION=softplus
// variants: -DVECTOR=1 | -DACTIVATION=relu -DVECTOR=1 | -DACTIVATION=leaky_relu -DVECTOR=1
// variants: -DACTIVATION=elu -DVECTOR=1 | -DACTIVATION=sigmoid -DVECTOR=1
// variants: -DACTIVATION=tanh -DVECTOR=1 | -DACTIVATION=softplus -DVECTOR=1

#include "batch_norm.cuh"
#include "grid_barrier.cuh"

using namespace batch_norm;

constexpr int SPLIT = 256;   // threads of a block, as in batch_norm.cu
constexpr int RESIDENT = 2;  // blocks on a multiprocessor: all of them, on a large GPU

// The grid is one-dimensional: block split * columns + column.
struct CooperativeBlock {
    int column, split, splits;
    int x = threadIdx.x, width = blockDim.x;
    int y = threadIdx.y, height = blockDim.y;
    static constexpr int folds = 1;
    static constexpr bool active = true;

    __device__ explicit CooperativeBlock(int columns)
        : column(blockIdx.x % columns), split(blockIdx.x / columns), splits(gridDim.x / columns) {}
};

extern __shared__ float4 kept[];

// A copy of the block's rows in shared memory, each channel and row by the thread that reads it.
__device__ __forceinline__ Source copied(const CooperativeBlock& at, const Source& from, Rows rows,
                                         float* tile, int begin, int c, int channels) {
    const Source to = {tile + at.x * VECTOR, at.width * VECTOR, begin};
    float* const own = tile + at.x * VECTOR;
    if (c < channels) {
        for_rows(rows, from, [&](int row, const Values& values) {
            store<VECTOR>(own + (row - begin) * to.pitch, values);
        });
    }
    return to;
}

// ---- Forward. partial (2, splits, C); with fix_gamma, gamma is overwritten with 1 and not read.
extern "C" __global__ void __launch_bounds__(SPLIT, RESIDENT)
    batch_norm_forward_training_together(const float* __restrict__ x, float* gamma,
                                         const float* __restrict__ beta, float* __restrict__ y,
                                         float* mean, float* var, float* partial,
                                         unsigned long long* arrivals, int rows, int channels,
                                         int rows_per_split, int columns, float eps, int fix_gamma,
                                         float slope) {
    __shared__ float shared[MERGED * SPLIT];
    const CooperativeBlock at(columns);
    GridBarrier grid(arrivals);
    const int c = first_channel_of_thread(at, channels);
    const Source whole = rows_of(x, channels, c);
    const Values pivot = c < channels ? whole(0) : Values{};
    const Source own =
        copied(at, whole, rows_of_block(at, rows, rows_per_split), reinterpret_cast<float*>(kept),
               at.split * rows_per_split, c, channels);
    statistics_of_split(at, shared, own, pivot, partial, rows, channels, rows_per_split, c);
    grid.wait();
    normalize_split(
        at, shared,
        {x, gamma, beta, y, mean, var, rows, channels, rows_per_split, eps, fix_gamma, KIND, slope},
        partial, own, pivot, c);
}

// ---- Backward. keep_dy: whether shared memory holds the block's rows of dy beside those of x;
// else they are read again.
extern "C" __global__ void __launch_bounds__(SPLIT, RESIDENT) batch_norm_backward_together(
    const float* __restrict__ x, const float* __restrict__ gamma, const float* __restrict__ beta,
    const float* __restrict__ mean, const float* __restrict__ var, const float* dy, float* dx,
    float* __restrict__ dgamma, float* __restrict__ dbeta, float* __restrict__ moving_mean,
    float* __restrict__ moving_var, float* partial, unsigned long long* arrivals, int rows,
    int channels, int rows_per_split, int columns, int keep_dy, float eps, float slope,
    float momentum, int fix_gamma, int constant_statistics, int accumulate, int accumulate_gamma,
    int accumulate_beta) {
    __shared__ float shared[ADDED * SPLIT];
    const CooperativeBlock at(columns);
    GridBarrier grid(arrivals);
    const int c = first_channel_of_thread(at, channels);
    const Rows own_rows = rows_of_block(at, rows, rows_per_split);
    const int begin = at.split * rows_per_split;
    float* const tile = reinterpret_cast<float*>(kept);
    Sources from = {rows_of(x, channels, c), rows_of(dy, channels, c)};
    from.x = copied(at, from.x, own_rows, tile, begin, c, channels);
    if (keep_dy) {
        float* const behind = tile + rows_per_split * at.width * VECTOR;
        from.dy = copied(at, from.dy, own_rows, behind, begin, c, channels);
    }
    const Backward b = {
        {x, gamma, beta, mean, var, dy},
        {dx, dgamma, dbeta, moving_mean, moving_var},
        {rows, channels, rows_per_split},
        {eps, slope, momentum},
        {fix_gamma, constant_statistics, accumulate, accumulate_gamma, accumulate_beta},
        KIND};
    gradient_sums(at, shared, b, from, partial, c);
    grid.wait();
    gradients_of_split(at, shared, b, partial, at.splits, from, c);
}

// Launch contract
//   Cooperative, grid (columns * splits) as the two launches of batch_norm.cu have (columns,
//   splits), block (X, Y) with X * Y = SPLIT = 256. Dynamic shared memory of 4 * rows_per_split * X
//   * VECTOR bytes, with keep_dy twice that. arrivals: see GridBarrier. VECTOR as in batch_norm.cu.
