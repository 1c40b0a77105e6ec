"""Kernels with one planted bug each, and correct kernels that look like them.

Every planted kernel marks the guilty line with ``// BUG``; a few bugs have two guilty lines (either
side of a race), and both are marked. Launch geometry and expectations stand beside the source, so
that the table can be read as a catalogue of what check mode finds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """One kernel ``k`` with what check mode must say about it.

    ``kinds``: the first must be reported, the others may be besides or before it (a thread that
    reads too early may find nothing written yet); empty for a correct kernel.
    """

    name: str
    kinds: tuple[str, ...]
    source: str
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (64, 1, 1)
    #: float32 element counts of the buffers passed, in order
    buffers: tuple[int, ...] = (64,)
    #: byte offset added to each buffer's address
    offsets: tuple[int, ...] = ()
    #: ints passed after the buffers
    scalars: tuple[int, ...] = ()
    shared_bytes: int = 0
    #: argument or shared array that the report names
    variable: str | None = None
    #: (block x, thread x) of the first offender, where it is determined
    where: tuple[int, int] | None = None

    @property
    def lines(self) -> list[int]:
        return [i for i, text in enumerate(self.source.splitlines(), 1) if "// BUG" in text]


def bug(name: str, kinds: str, source: str, **keywords: object) -> Planted:
    return Planted(name, tuple(kinds.split()), source.lstrip("\n"), **keywords)  # type: ignore[arg-type]


def clean(name: str, source: str, **keywords: object) -> Planted:
    return Planted(name, (), source.lstrip("\n"), **keywords)  # type: ignore[arg-type]


PLANTED = [
    # -- out of bounds ---------------------------------------------------------------------------
    bug(
        "global_write_past_end",
        "out_of_bounds",
        """
extern "C" __global__ void k(float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = 1.0f;  // BUG
}
""",
        grid=(2, 1, 1),
        buffers=(100,),
        variable="y",
        where=(1, 36),
    ),
    bug(
        "global_read_past_end",
        "out_of_bounds",
        """
extern "C" __global__ void k(const float* __restrict__ x, float* y) {
    int i = threadIdx.x;
    y[i] = x[i + 1];  // BUG
}
""",
        buffers=(64, 64),
        variable="x",
        where=(0, 63),
    ),
    bug(
        "global_read_before_start",
        "out_of_bounds",
        """
extern "C" __global__ void k(const float* __restrict__ x, float* y) {
    int i = threadIdx.x;
    float left = x[i - 1];  // BUG
    y[i] = left;
}
""",
        buffers=(64, 64),
        variable="x",
        where=(0, 0),
    ),
    bug(
        "global_far_away",
        "out_of_bounds",
        """
extern "C" __global__ void k(float* y) {
    long long i = threadIdx.x;
    y[i * 1000000007LL] = 2.0f;  // BUG
}
""",
        variable="y",
        where=(0, 1),
    ),
    bug(
        "null_pointer",
        "out_of_bounds",
        """
extern "C" __global__ void k(float* y, int n) {
    float* nothing = n > 1000 ? y : (float*)0;
    nothing[threadIdx.x] = 1.0f;  // BUG
}
""",
        scalars=(3,),
        where=(0, 0),
    ),
    bug(
        "vector_load_past_end",
        "out_of_bounds",
        """
extern "C" __global__ void k(const float4* __restrict__ x, float* y) {
    float4 v = x[threadIdx.x];  // BUG
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
""",
        block=(16, 1, 1),
        buffers=(62, 64),
        variable="x",
        where=(0, 15),
    ),
    bug(
        "shared_static_past_end",
        "out_of_bounds",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x + 1];  // BUG
}
""",
        where=(0, 63),
        variable="tile",
    ),
    bug(
        "shared_static_row_past_end",
        "out_of_bounds",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float tile[8][8];
    tile[threadIdx.x / 8][threadIdx.x % 8] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x / 8][threadIdx.x % 8 + 1];  // BUG
}
""",
        where=(0, 7),
        variable="tile",
    ),
    bug(
        "shared_dynamic_past_end",
        "out_of_bounds",
        """
extern __shared__ float scratch[];
extern "C" __global__ void k(float* y) {
    scratch[threadIdx.x] = 1.0f;  // BUG
    __syncthreads();
    y[threadIdx.x] = scratch[threadIdx.x];
}
""",
        shared_bytes=128,
        where=(0, 32),
        variable="dynamic shared memory",
    ),
    bug(
        "argument_of_wrong_type",
        "out_of_bounds misaligned",
        """
extern "C" __global__ void k(double* y) {
    y[threadIdx.x] = 1.0;  // BUG
}
""",
        variable="y",
        where=(0, 32),
    ),
    bug(
        "local_array_past_end",
        "out_of_bounds",
        """
extern "C" __global__ void k(float* y, int n) {
    float window[4] = {0.0f, 1.0f, 2.0f, 3.0f};
    float sum = 0.0f;
    for (int i = 0; i < n; ++i) sum += window[i];  // BUG
    y[threadIdx.x] = sum;
}
""",
        scalars=(5,),
        where=(0, 0),
    ),
    # -- misaligned ------------------------------------------------------------------------------
    bug(
        "misaligned_float4",
        "misaligned",
        """
extern "C" __global__ void k(const float* __restrict__ x, float* y) {
    float4 v = *reinterpret_cast<const float4*>(x + threadIdx.x);  // BUG
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
""",
        block=(16, 1, 1),
        buffers=(64, 64),
        variable="x",
        where=(0, 1),
    ),
    bug(
        "misaligned_base",
        "misaligned",
        """
extern "C" __global__ void k(float* y) {
    y[threadIdx.x] = 1.0f;  // BUG
}
""",
        buffers=(65,),
        offsets=(2,),
        variable="y",
        where=(0, 0),
    ),
    bug(
        "misaligned_shared_float2",
        "misaligned",
        """
extern "C" __global__ void k(float* y) {
    __shared__ __align__(16) float tile[68];
    tile[threadIdx.x] = 1.0f;
    if (threadIdx.x < 4) tile[64 + threadIdx.x] = 1.0f;
    __syncthreads();
    float2 v = *reinterpret_cast<float2*>(&tile[threadIdx.x]);  // BUG
    y[threadIdx.x] = v.x + v.y;
}
""",
        where=(0, 1),
    ),
    # -- shared-memory races ---------------------------------------------------------------------
    bug(
        "missing_barrier_after_store",
        "race uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = y[threadIdx.x];  // BUG
    y[threadIdx.x] = tile[63 - threadIdx.x];  // BUG
}
""",
        variable="tile",
    ),
    bug(
        "missing_barrier_before_reuse",
        "race",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float tile[64];
    float sum = 0.0f;
    for (int step = 0; step < 2; ++step) {
        tile[threadIdx.x] = y[threadIdx.x] + step;  // BUG
        __syncthreads();
        sum += tile[63 - threadIdx.x];  // BUG
    }
    y[threadIdx.x] = sum;
}
""",
        variable="tile",
    ),
    bug(
        "reduction_without_barrier",
        "race uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float sums[128];
    sums[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];  // BUG
    }
    if (threadIdx.x == 0) y[0] = sums[0];
}
""",
        block=(128, 1, 1),
        buffers=(128,),
        variable="sums",
    ),
    bug(
        "warp_synchronous_reduction",
        "race uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float sums[32];
    sums[threadIdx.x] = y[threadIdx.x];
    __syncwarp();
    for (int half = 16; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];  // BUG
    }
    __syncthreads();
    y[threadIdx.x] = sums[0];
}
""",
        block=(32, 1, 1),
        buffers=(32,),
        variable="sums",
    ),
    bug(
        "syncwarp_where_syncthreads_is_needed",
        "race uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = y[threadIdx.x];  // BUG
    __syncwarp();
    y[threadIdx.x] = tile[(threadIdx.x + 32) % 64];  // BUG
}
""",
        variable="tile",
    ),
    bug(
        "shared_counter_without_atomic",
        "race",
        """
extern "C" __global__ void k(float* y) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    count += 1;  // BUG
    __syncthreads();
    if (threadIdx.x == 0) y[0] = count;
}
""",
        variable="count",
    ),
    bug(
        "all_threads_store_different_values",
        "race",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float winner;
    winner = (float)threadIdx.x;  // BUG
    __syncthreads();
    y[threadIdx.x] = winner;
}
""",
        variable="winner",
    ),
    bug(
        "race_on_bytes",
        "race uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ unsigned char flags[64];
    flags[threadIdx.x] = (unsigned char)threadIdx.x;  // BUG
    y[threadIdx.x] = flags[(threadIdx.x + 1) % 64];  // BUG
}
""",
        variable="flags",
    ),
    bug(
        "plain_read_beside_atomic",
        "race",
        """
extern "C" __global__ void k(float* y) {
    __shared__ int total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    atomicAdd(&total, 1);  // BUG
    y[threadIdx.x] = (float)total;  // BUG
}
""",
        variable="total",
    ),
    # -- global races ----------------------------------------------------------------------------
    bug(
        "two_blocks_write_one_address",
        "race",
        """
extern "C" __global__ void k(float* y) {
    y[threadIdx.x] = (float)blockIdx.x;  // BUG
}
""",
        grid=(2, 1, 1),
        variable="y",
        where=(1, 0),
    ),
    bug(
        "block_reads_what_another_wrote",
        "race",
        """
extern "C" __global__ void k(float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = 1.0f;  // BUG
    __syncthreads();
    if (blockIdx.x > 0) y[i] = y[i - 64];  // BUG
}
""",
        grid=(2, 1, 1),
        buffers=(128,),
        variable="y",
    ),
    bug(
        "global_counter_without_atomic",
        "race",
        """
extern "C" __global__ void k(float* y) {
    y[0] += 1.0f;  // BUG
}
""",
        variable="y",
    ),
    bug(
        "global_exchange_without_barrier",
        "race",
        """
extern "C" __global__ void k(float* y) {
    y[threadIdx.x] = 1.0f;  // BUG
    float other = y[63 - threadIdx.x];  // BUG
    __syncthreads();
    y[threadIdx.x] = other;
}
""",
        variable="y",
    ),
    bug(
        "in_place_stencil",
        "race",
        """
extern "C" __global__ void k(float* y) {
    int i = threadIdx.x;
    if (i > 0) y[i] = 0.5f * (y[i] + y[i - 1]);  // BUG
}
""",
        variable="y",
    ),
    bug(
        "last_block_without_atomic",
        "race",
        """
extern "C" __global__ void k(float* y, int n) {
    __shared__ float sum;
    if (threadIdx.x == 0) y[blockIdx.x] = 1.0f;  // BUG
    __syncthreads();
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
        sum = 0.0f;
        for (int b = 0; b < n; ++b) sum += y[b];  // BUG
        y[n] = sum;
    }
}
""",
        grid=(4, 1, 1),
        scalars=(4,),
        variable="y",
    ),
    # -- uninitialised ---------------------------------------------------------------------------
    bug(
        "uninitialised_shared",
        "uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float tile[65];
    tile[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x + 1];  // BUG
}
""",
        where=(0, 63),
        variable="tile",
    ),
    bug(
        "shared_never_written",
        "uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float nothing[64];
    y[threadIdx.x] = nothing[threadIdx.x];  // BUG
}
""",
        where=(0, 0),
        variable="nothing",
    ),
    bug(
        "uninitialised_shared_accumulator",
        "uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ int total;
    atomicAdd(&total, 1);  // BUG
    __syncthreads();
    y[threadIdx.x] = (float)total;
}
""",
        where=(0, 0),
        variable="total",
    ),
    bug(
        "shared_left_from_the_last_block",
        "uninitialised",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float carried[64];
    if (blockIdx.x == 0) carried[threadIdx.x] = 1.0f;
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = carried[threadIdx.x];  // BUG
}
""",
        grid=(2, 1, 1),
        buffers=(128,),
        where=(1, 0),
        variable="carried",
    ),
    # -- barriers and warps ----------------------------------------------------------------------
    bug(
        "barrier_in_a_branch",
        "divergent_barrier",
        """
extern "C" __global__ void k(float* y) {
    if (threadIdx.x < 32) {
        __syncthreads();  // BUG
    }
    y[threadIdx.x] = 1.0f;
}
""",
    ),
    bug(
        "barrier_after_early_return",
        "divergent_barrier",
        """
extern "C" __global__ void k(float* y, int n) {
    if (threadIdx.x >= n) return;
    y[threadIdx.x] = 1.0f;
    __syncthreads();  // BUG
    y[threadIdx.x] += 1.0f;
}
""",
        scalars=(40,),
    ),
    bug(
        "two_different_barriers",
        "divergent_barrier",
        """
extern "C" __global__ void k(float* y) {
    if (threadIdx.x % 2) {
        y[threadIdx.x] = 1.0f;
        __syncthreads();  // BUG
    } else {
        y[threadIdx.x] = 2.0f;
        __syncthreads();  // BUG
    }
}
""",
    ),
    bug(
        "barrier_in_a_loop_of_uneven_length",
        "divergent_barrier",
        """
extern "C" __global__ void k(float* y) {
    for (int i = 0; i < (int)threadIdx.x / 32 + 1; ++i) {
        y[threadIdx.x] += 1.0f;
        __syncthreads();  // BUG
    }
}
""",
    ),
    bug(
        "shuffle_from_a_lane_that_left",
        "dead_lane",
        """
extern "C" __global__ void k(float* y) {
    if (threadIdx.x >= 20) return;
    float v = (float)threadIdx.x;
    y[threadIdx.x] = v + __shfl_down_sync(0xffffffffu, v, 8);  // BUG
}
""",
        block=(32, 1, 1),
    ),
    bug(
        "shuffle_mask_without_caller",
        "dead_lane",
        """
extern "C" __global__ void k(float* y) {
    float v = (float)threadIdx.x;
    y[threadIdx.x] = __shfl_sync(0x0000ffffu, v, 3);  // BUG
}
""",
        block=(32, 1, 1),
        where=(0, 16),
    ),
    bug(
        "shuffle_reads_lane_outside_mask",
        "dead_lane",
        """
extern "C" __global__ void k(float* y) {
    float v = (float)threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_down_sync(0x0000ffffu, v, 8);  // BUG
    y[threadIdx.x] = v;
}
""",
        block=(32, 1, 1),
        where=(0, 8),
    ),
]

CLEAN = [
    clean(
        "tiled_reversal",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
""",
    ),
    clean(
        "reduction_with_barriers",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float sums[128];
    sums[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) y[0] = sums[0];
}
""",
        block=(128, 1, 1),
        buffers=(128,),
    ),
    clean(
        "warp_reduction_with_syncwarp",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float sums[32];
    sums[threadIdx.x] = y[threadIdx.x];
    __syncwarp();
    for (int half = 16; half > 0; half /= 2) {
        float other = threadIdx.x < half ? sums[threadIdx.x + half] : 0.0f;
        __syncwarp();
        if (threadIdx.x < half) sums[threadIdx.x] += other;
        __syncwarp();
    }
    y[threadIdx.x] = sums[0];
}
""",
        block=(32, 1, 1),
        buffers=(32,),
    ),
    clean(
        "shuffle_reduction",
        """
extern "C" __global__ void k(float* y) {
    __shared__ float partial[2];
    float v = y[threadIdx.x];
    for (int half = 16; half > 0; half /= 2) v += __shfl_down_sync(0xffffffffu, v, half);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) y[0] = partial[0] + partial[1];
}
""",
    ),
    clean(
        "shared_histogram",
        """
extern "C" __global__ void k(float* y) {
    __shared__ int bins[8];
    if (threadIdx.x < 8) bins[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&bins[threadIdx.x % 8], 1);
    __syncthreads();
    if (threadIdx.x < 8) y[threadIdx.x] = (float)bins[threadIdx.x];
}
""",
    ),
    clean(
        "last_block_sums",
        """
__device__ unsigned int arrived = 0;
extern "C" __global__ void k(float* y, int n) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        y[blockIdx.x] = 1.0f;
        __threadfence();
        unsigned int ticket = atomicAdd(&arrived, 1u);
        last = ticket == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float sum = 0.0f;
        for (int b = 0; b < n; ++b) sum += y[b];
        y[n] = sum;
        arrived = 0;
    }
}
""",
        grid=(4, 1, 1),
        scalars=(4,),
    ),
    clean(
        "dynamic_shared_of_two_types",
        """
extern __shared__ float scratch[];
extern "C" __global__ void k(float* y) {
    int* counts = reinterpret_cast<int*>(scratch + 64);
    scratch[threadIdx.x] = 2.0f;
    counts[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = scratch[63 - threadIdx.x] * counts[(threadIdx.x + 1) % 64];
}
""",
        shared_bytes=512,
    ),
    clean(
        "vector_access",
        """
extern "C" __global__ void k(const float4* __restrict__ x, float4* y) {
    float4 v = x[threadIdx.x];
    v.x += 1.0f;
    y[threadIdx.x] = v;
}
""",
        block=(16, 1, 1),
        buffers=(64, 64),
    ),
    clean(
        "bytes_side_by_side",
        """
extern "C" __global__ void k(unsigned char* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = (unsigned char)i;
}
""",
        grid=(2, 1, 1),
        block=(33, 1, 1),
    ),
    clean(
        "constant_table_and_local_array",
        """
__constant__ float weights[4] = {1.0f, 2.0f, 3.0f, 4.0f};
__device__ float scale = 2.0f;
extern "C" __global__ void k(float* y, int n) {
    float window[4];
    for (int i = 0; i < 4; ++i) window[i] = weights[(i + n) % 4];
    float sum = 0.0f;
    for (int i = 0; i < n; ++i) sum += window[i];
    y[threadIdx.x] = sum * scale;
}
""",
        scalars=(3,),
    ),
    clean(
        "partial_warp_mask",
        """
extern "C" __global__ void k(float* y) {
    float v = (float)threadIdx.x;
    if (threadIdx.x < 16) {
        float other = __shfl_xor_sync(0x0000ffffu, v, 1);
        y[threadIdx.x] = v + other;
    }
}
""",
        block=(32, 1, 1),
    ),
    clean(
        "return_before_no_barrier",
        """
extern "C" __global__ void k(float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    y[i] = 1.0f;
}
""",
        grid=(2, 1, 1),
        buffers=(100,),
        scalars=(100,),
    ),
]
