"""PyCUDA from the first copy to one of this library's kernels, in eleven short chapters.

    python examples/pycuda_tutorial.py                     # all of it, on a GPU if there is one
    python examples/pycuda_tutorial.py --device cpu        # on the CPU driver: no GPU needed
    python examples/pycuda_tutorial.py --chapter 7         # one chapter
    python examples/pycuda_tutorial.py --list              # what the chapters are

Read a chapter here, run it, change something, run it again. Python and a little C are enough to
begin with. Every chapter says what it did and holds its result against numpy's; the program fails
if one is wrong. The same code runs on device ``cuda`` (an NVIDIA GPU with nvcc) and on device
``cpu`` (the CPU driver, which needs g++ only):

    python -m pygan.bindings.cpu_driver examples/pycuda_tutorial.py
    python -m pygan.bindings.cpu_driver --check examples/pycuda_tutorial.py     # with check mode
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pygan.bindings import compiler, cpu_driver
from pygan.bindings.context import Context, gpu_answers
from pygan.bindings.errors import BindingsError

EPS = 2.0**-24
"""Largest relative error of one float32 operation, rounded to nearest."""


class WrongResult(Exception):
    """A chapter's result is not what it should be."""


def say(text: str) -> None:
    print(f"    {text}", flush=True)


def verify(correct: object, claim: str) -> None:
    """Print `claim`, or raise WrongResult if it is not `correct`."""
    if not correct:
        raise WrongResult(f"this should hold and does not: {claim}")
    print(f"    ok: {claim}", flush=True)


def double_an_array(context: Context) -> None:
    """Double an array

    A GPU has its own memory. A program for it therefore has four steps: reserve memory there
    (mem_alloc), copy the input to it (memcpy_htod, host to device), start a function on it (a
    *kernel*), and copy the result back (memcpy_dtoh).

    The kernel is C++ in a string; SourceModule hands it to nvcc and loads the outcome. `__global__`
    marks a function that the host can start. It is run by many threads at once: here by a block of
    4 x 3 of them, each of which finds out from threadIdx which element is its own. There is no
    loop; the threads are the loop.

    All this happens in a *context*, which ties memory and kernels to one device. This program has
    made one before the chapter began. In a program of your own, `import pycuda.autoprimaryctx`
    does it.
    """
    import pycuda.driver as cuda
    from pycuda.compiler import SourceModule

    a = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    on_device = cuda.mem_alloc(a.nbytes)
    cuda.memcpy_htod(on_device, a)
    say(f"copied {a.size} float32 numbers, {a.nbytes} bytes, to address {int(on_device):#x}")

    module = SourceModule("""
        __global__ void double_them(float* a) {
            int i = threadIdx.x * 3 + threadIdx.y;
            a[i] = 2 * a[i];
        }
    """)
    double_them = module.get_function("double_them")
    double_them(on_device, block=(4, 3, 1))
    say("launched double_them: one block of 4 x 3 x 1 threads, one thread per number")

    doubled = np.empty_like(a)
    cuda.memcpy_dtoh(doubled, on_device)  # waits until the kernel is done
    on_device.free()  # or let it go: PyCUDA frees memory that nothing refers to
    verify(np.array_equal(doubled, 2 * a), "every number is twice what it was, to the last bit")


def copies_made_for_you(context: Context) -> None:
    """Copies made for you: In, Out, InOut

    For a quick trial, wrap a numpy array in In, Out or InOut: PyCUDA reserves the memory, copies
    before the launch, after it, or both, and frees it again. Handy, and slow where the same array
    is used twice, as it travels every time.

    Plain numbers need a numpy type. A kernel knows only bytes, so np.int32(n) says that four of
    them are meant; a Python int does not, and is refused.
    """
    import pycuda.driver as cuda
    from pycuda.compiler import SourceModule

    kernel = SourceModule("""
        __global__ void scale_and_count(const float* x, float* y, int* above, float scale) {
            int i = threadIdx.x;
            y[i] = scale * x[i];
            above[i] += x[i] > 0.5f;
        }
    """).get_function("scale_and_count")

    x = np.random.default_rng(2).random(200, np.float32)
    y = np.empty_like(x)
    above = np.full(200, 7, np.int32)
    kernel(cuda.In(x), cuda.Out(y), cuda.InOut(above), np.float32(3), block=(200, 1, 1))
    say("x went to the device only, y came back only, `above` went and came back")
    verify(np.array_equal(y, np.float32(3) * x), "y = 3 x")
    verify(np.array_equal(above, 7 + (x > 0.5)), "`above` was 7 and has grown by one where x > 0.5")

    try:
        kernel(cuda.In(x), cuda.Out(y), cuda.InOut(above), 3, block=(200, 1, 1))
    except TypeError as error:
        say(f"with 3 in place of np.float32(3): {error}")
    else:
        raise WrongResult("a Python int was taken for a float parameter")


def more_numbers_than_threads(context: Context) -> None:
    """More numbers than a block has threads, and prepared calls

    A block has at most 1,024 threads. For more, launch a *grid* of blocks and let each thread work
    out its place from blockIdx, blockDim and threadIdx. Blocks come in one size, so the last one
    usually sticks out beyond the data: hence `if (i < n)`, which is in nearly every kernel there
    is. Without it, threads write to memory that is not theirs.

    prepare() states the types of the arguments once, in the letters of Python's struct module ("P"
    a pointer, "i" an int, "f" a float). prepared_call() then takes plain Python numbers and is the
    quickest way to launch.
    """
    import pycuda.driver as cuda
    from pycuda.compiler import SourceModule

    axpy = SourceModule("""
        __global__ void axpy(const float* x, float* y, int n, float alpha) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) {
                y[i] = alpha * x[i] + y[i];
            }
        }
    """).get_function("axpy")
    axpy.prepare("PPif")

    n, threads = 1000, 256
    blocks = (n + threads - 1) // threads  # rounded up
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    on_x, on_y = cuda.to_device(x), cuda.to_device(y)  # mem_alloc and memcpy_htod in one
    for _ in range(3):
        axpy.prepared_call((blocks, 1), (threads, 1, 1), on_x, on_y, n, 0.5)
    say(f"three launches of {blocks} blocks of {threads} threads for {n} numbers")
    say(f"{blocks * threads - n} threads of the last block had nothing to do")
    result = cuda.from_device(on_y, y.shape, y.dtype)
    # Halving is exact, so each launch rounds once, whether or not the compiler fuses a * b + c.
    expected = y
    for _ in range(3):
        expected = expected + np.float32(0.5) * x
    verify(np.array_equal(result, expected), "y = y + x / 2, three times, to the last bit")


def arrays_on_the_device(context: Context) -> None:
    """GPUArray: numpy's manners on the device

    A GPUArray knows its shape and type, and adds, multiplies and slices as numpy does; every
    operation is a kernel that PyCUDA writes, compiles and keeps. `.get()` brings the numbers back,
    `.gpudata` is the address for kernels of your own.

    `2 * a + b` is two launches with a temporary array between them. ElementwiseKernel makes one
    launch of an expression: you write what happens to element i, PyCUDA adds the rest. The one
    below is the leaky ReLU of a GAN's discriminator.
    """
    from pycuda import gpuarray
    from pycuda.elementwise import ElementwiseKernel

    rng = np.random.default_rng(4)
    a, b = (rng.integers(-50, 50, (30, 40)).astype(np.float32) for _ in range(2))
    on_a, on_b = gpuarray.to_gpu(a), gpuarray.to_gpu(b)
    total = 2 * on_a + on_b
    say(f"2 * a + b is a {type(total).__name__} of shape {total.shape} and {total.dtype}")
    verify(np.array_equal(total.get(), 2 * a + b), "2 * a + b as numpy has it")
    verify(
        np.array_equal(on_a[10:20].get(), a[10:20]), "a[10:20] is a view, and may be copied back"
    )

    leaky_relu = ElementwiseKernel(
        "const float* x, float* y, float slope",
        "y[i] = x[i] > 0 ? x[i] : slope * x[i]",
        "leaky_relu",
    )
    y = gpuarray.empty_like(on_a)
    leaky_relu(on_a, y, np.float32(0.25))
    verify(
        np.array_equal(y.get(), np.where(a > 0, a, a / 4)), "leaky ReLU, slope 1/4, in one launch"
    )


def structs_by_pointer(context: Context) -> None:
    """Structs by pointer

    Kernels can take structs, and structs can hold pointers to more device memory. Describe the
    struct to numpy with align=True, which pads the fields as C does, fill in addresses as
    integers, copy it over, and pass its address. On the host it is bytes: an address in it means
    something on the device only.

    Here two arrays of different length are described by two structs, and one launch of two blocks
    works on both: block k takes struct k. Whether numpy and the compiler agree on the layout is
    worth asking once; the kernel reports sizeof.
    """
    import pycuda.driver as cuda
    from pycuda.compiler import SourceModule

    kernel = SourceModule("""
        struct Vector {
            int count;
            float* values;
        };

        __global__ void negate(const Vector* vectors, int* size_of_vector) {
            Vector mine = vectors[blockIdx.x];
            for (int i = threadIdx.x; i < mine.count; i += blockDim.x) {
                mine.values[i] = -mine.values[i];
            }
            if (blockIdx.x == 0 && threadIdx.x == 0) {
                *size_of_vector = sizeof(Vector);
            }
        }
    """).get_function("negate")

    vector = np.dtype([("count", np.int32), ("values", np.uintp)], align=True)
    rng = np.random.default_rng(5)
    hosts = [rng.standard_normal(n).astype(np.float32) for n in (100, 70)]
    arrays = [cuda.to_device(host) for host in hosts]  # must live as long as their addresses
    described = np.array(
        [(len(host), int(array)) for host, array in zip(hosts, arrays, strict=True)], vector
    )
    size = np.zeros(1, np.int32)
    kernel(cuda.In(described), cuda.Out(size), grid=(2, 1), block=(32, 1, 1))
    assert vector.fields is not None
    say(f"numpy's struct: {vector.itemsize} bytes, `values` at byte {vector.fields['values'][1]}")
    verify(size[0] == vector.itemsize, f"sizeof on the device says {size[0]} as well")
    for host, array in zip(hosts, arrays, strict=True):
        result = cuda.from_device(array, host.shape, host.dtype)
        verify(np.array_equal(result, -host), f"the vector of {len(host)} is negated")


def shared_memory(context: Context) -> None:
    """Blocks and shared memory

    The threads of one block can work together: they share a small, quick memory (`__shared__`) and
    can wait for one another. `__syncthreads()` is a *barrier*: no thread goes past it before all
    threads of the block have come to it.

    The transpose of a matrix shows what that is good for. A GPU reads memory in lines of 32
    floats: neighbouring threads should touch neighbouring addresses. Reading rows does, writing
    columns does not. So each block fetches a tile of 16 x 16 by rows, waits until all of it is
    there, and writes it out by rows too; the turn happens in shared memory. The tile is 17 wide,
    because shared memory lies in 32 banks and a column of a tile of 16 would fall on two of them,
    one access after the other.
    """
    import pycuda.driver as cuda
    from pycuda.compiler import SourceModule

    transpose = SourceModule("""
        #define TILE 16

        // x (rows, columns) -> y (columns, rows)
        __global__ void transpose(const float* x, float* y, int rows, int columns) {
            __shared__ float tile[TILE][TILE + 1];
            int row = blockIdx.y * TILE + threadIdx.y;
            int column = blockIdx.x * TILE + threadIdx.x;
            if (row < rows && column < columns) {
                tile[threadIdx.y][threadIdx.x] = x[row * columns + column];
            }
            __syncthreads();  // outside the if: all threads of the block must come here
            int row_of_y = blockIdx.x * TILE + threadIdx.y;
            int column_of_y = blockIdx.y * TILE + threadIdx.x;
            if (row_of_y < columns && column_of_y < rows) {
                y[row_of_y * rows + column_of_y] = tile[threadIdx.x][threadIdx.y];
            }
        }
    """).get_function("transpose")

    x = np.random.default_rng(6).standard_normal((100, 70)).astype(np.float32)
    y = np.empty((70, 100), np.float32)
    rows, columns = x.shape
    grid = ((columns + 15) // 16, (rows + 15) // 16)
    transpose(
        cuda.In(x), cuda.Out(y), np.int32(rows), np.int32(columns), grid=grid, block=(16, 16, 1)
    )
    say(f"a grid of {grid[0]} x {grid[1]} blocks of 16 x 16 threads")
    say(f"each block has {transpose.shared_size_bytes} bytes of shared memory")
    verify(np.array_equal(y, x.T), f"the transpose of a matrix {x.shape}, edges included")


REDUCTION = """\
// partial[block] = the sum of this block's share of x (n)
extern "C" __global__ void block_sums(const float* x, float* partial, int n) {
    extern __shared__ float sums[];  // a float per thread; how many is said at the launch
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum += x[i];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
        }
#ifndef FORGET_THE_BARRIER
        __syncthreads();
#endif
    }
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sums[0];
    }
}
"""


def reduction(context: Context) -> None:
    """A reduction: many numbers to one

    A sum over all numbers needs threads that talk to each other. Each thread first adds up its own
    share, in strides of the whole grid, so that any number of blocks can do any number of numbers.
    Then the block folds its threads' sums in half, and in half again, with a barrier after each
    step: 256 sums need 8 steps.

    Blocks cannot wait for one another. So each writes one partial sum, and a second launch of one
    block adds those up: launches on one stream follow each other. (Adding to one number atomically
    is possible, but then the order of the additions, and with it the last bits, differ from run to
    run. No kernel in this library does it.)

    The size of the shared array is not in the kernel but in the launch: `extern __shared__`, and
    `shared` in bytes.

    Floats are rounded at every addition, so numpy's sum is not the same to the last bit. How far
    may they be apart? A number that passes through k additions carries at most k roundings of
    2^-24, relative to the sum of all magnitudes. A test with a tolerance should say where it comes
    from.

    For sums that need not be yours there are gpuarray.sum and pycuda.reduction.ReductionKernel.
    """
    import pycuda.driver as cuda
    from pycuda import gpuarray
    from pycuda.compiler import SourceModule

    module = SourceModule(REDUCTION, no_extern_c=True)  # the source has its own extern "C"
    block_sums = module.get_function("block_sums")
    block_sums.prepare("PPi")

    n, blocks, threads = 50_000, 20, 256
    x = np.random.default_rng(7).random(n, np.float32)
    on_x = gpuarray.to_gpu(x)
    partial = gpuarray.empty(blocks, np.float32)
    total = gpuarray.empty(1, np.float32)
    bytes_shared = 4 * threads
    sums = []
    for _ in range(2):
        block_sums.prepared_call(
            (blocks, 1), (threads, 1, 1), on_x.gpudata, partial.gpudata, n,
            shared_size=bytes_shared,
        )  # fmt: skip
        block_sums.prepared_call(
            (1, 1), (threads, 1, 1), partial.gpudata, total.gpudata, blocks,
            shared_size=bytes_shared,
        )  # fmt: skip
        cuda.Context.synchronize()  # wait for all that was launched; get() would do so by itself
        sums.append(float(total.get()[0]))
    expected = x.sum(dtype=np.float64)
    say(f"{n} numbers -> {blocks} partial sums -> {sums[0]:.4f}; in float64: {expected:.4f}")
    additions = -(-n // (blocks * threads)) + 8 + 1 + 8  # share, folding, second launch: the same
    bound = additions * EPS * np.abs(x).sum(dtype=np.float64)
    apart = abs(sums[0] - expected)
    verify(apart <= bound, f"{apart:.2g} apart; {additions} additions may cost {bound:.2g}")
    verify(sums[0] == sums[1], "a second run gives the same bits")


def forgotten_barrier(context: Context) -> None:
    """A forgotten barrier, and the tool that finds it

    Take the barrier out of the folding loop, and a thread may read its neighbour's sum before the
    neighbour has written it: a *race*. Such a kernel may give the right sum on one GPU and a wrong
    one on the next, or be right until the block grows. Looking at results does not find races.

    Check mode of the CPU driver does. It watches every access to memory, knows which barriers lie
    between two of them, and stops the launch at the first pair that nothing orders, whether or
    not the sum came out right. The same kernel with its barrier passes in silence.

    Check mode also reports indices out of bounds, shared memory read before it was written, and
    barriers that not all threads reach. For a whole program:
    `python -m pygan.bindings.cpu_driver --check program.py`. On a GPU, NVIDIA's compute-sanitizer
    does a similar job.
    """
    if context.name != "cpu":
        say("check mode is part of the CPU driver, and a process has one driver: in another, then")
        _run_elsewhere(forgotten_barrier)
        return
    import pycuda.driver as cuda

    x = np.ones(256, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reduction.cu"
        file.write_text(REDUCTION)

        def launch(check: bool, **defines: int) -> float:
            image = cpu_driver.compile(file, defines=defines, check=check)
            kernel = cuda.module_from_buffer(image).get_function("block_sums")
            total = np.zeros(1, np.float32)
            kernel(cuda.In(x), cuda.Out(total), np.int32(256), block=(256, 1, 1), shared=4 * 256)
            return float(total[0])

        total = launch(check=False, FORGET_THE_BARRIER=1)
        say(f"no barrier, not checked: the sum of 256 ones is said to be {total:g}, and no error")
        cpu_driver.take_reports()
        try:
            launch(check=True, FORGET_THE_BARRIER=1)
        except cuda.Error as error:
            say("no barrier, checked: the launch fails with")
            for line in str(error).splitlines():
                say(f"  {line}")
        else:
            raise WrongResult("check mode did not notice that the barrier is missing")
        first = cpu_driver.take_reports()[0]
        source = REDUCTION.splitlines()[first.line - 1].strip()
        say(f"line {first.line} is: {source}")
        verify(first.kind == "race" and "+=" in source, f"a {first.kind} in the folding loop")

        total = launch(check=True)
        verify(total == 256 and not cpu_driver.take_reports(), "with the barrier: 256, no reports")


def _run_elsewhere(chapter: Callable[[Context], None]) -> None:
    """Runs one chapter on device cpu in a process of its own."""
    number = CHAPTERS.index(chapter) + 1
    command = [sys.executable, __file__, "--device", "cpu", "--chapter", str(number), "--brief"]
    sys.stdout.flush()
    if subprocess.run(command, check=False).returncode:
        raise WrongResult("the chapter failed on device cpu")


def warps(context: Context) -> None:
    """Warps: 32 threads that pass values along

    Threads run in *warps* of 32. Within a warp they can read each other's registers, without shared
    memory and without a barrier: __shfl_xor_sync(mask, v, d) gives thread t the v of thread t ^ d.
    Five such steps (16, 8, 4, 2, 1) leave the sum, or here the maximum, of all 32 in every thread;
    kernels/reduce.cuh has both as functions. The mask names the threads that take part, and all of
    them must.
    """
    import pycuda.driver as cuda
    from pycuda.compiler import SourceModule

    kernel = SourceModule("""
        // y[row] = the largest of x (rows, columns) in that row; one warp per row
        __global__ void row_maxima(const float* x, float* y, int rows, int columns) {
            int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
            int lane = threadIdx.x % 32;
            if (row >= rows) {
                return;  // the whole warp leaves, so no lane is missing below
            }
            float largest = x[row * columns];
            for (int k = lane; k < columns; k += 32) {
                largest = fmaxf(largest, x[row * columns + k]);
            }
            for (int distance = 16; distance > 0; distance /= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
            }
            if (lane == 0) {
                y[row] = largest;
            }
        }
    """).get_function("row_maxima")

    x = np.random.default_rng(9).standard_normal((50, 45)).astype(np.float32)
    y = np.empty(50, np.float32)
    blocks = (50 + 3) // 4
    kernel(cuda.In(x), cuda.Out(y), np.int32(50), np.int32(45), grid=(blocks, 1), block=(128, 1, 1))
    say(f"{blocks} blocks of 4 warps, a warp for each of 50 rows of 45 numbers")
    verify(np.array_equal(y, x.max(axis=1)), "the largest number of every row")


def gan_loss_problem() -> tuple[np.ndarray, np.ndarray, float, float, float]:
    """(logits, labels, scale, the twin's loss, the error allowed) of the last two chapters.

    Logits and labels (n,) as a discriminator has them: some scores far out, labels near 0 and 1.
    The error: a term takes at most 8 roundings or ulps of expf and log1pf (2 ulps each by CUDA's
    tables, 1 ulp = 2 EPS) and passes through at most 40 additions; all relative to the terms'
    magnitudes, and once more for the twin.
    """
    from pygan import reference

    rng = np.random.default_rng(10)
    n = 40_000
    logits = rng.normal(0, 8, n).astype(np.float32)
    labels = np.where(rng.random(n) < 0.5, 0.05, 0.95).astype(np.float32)
    scale = 1.0 / n
    loss = np.empty(1, np.float32)
    reference.sigmoid_cross_entropy_forward(logits, labels, None, loss, scale=scale)
    z, t = logits.astype(np.float64), labels.astype(np.float64)
    magnitudes = np.maximum(z, 0) + np.abs(z * t) + np.log1p(np.exp(-np.abs(z)))
    allowed = 2 * (8 + 40) * EPS * scale * magnitudes.sum()
    return logits, labels, scale, float(loss[0]), float(allowed)


def our_kernel_by_hand(context: Context) -> None:
    """One of our own kernels, by hand

    Open kernels/loss.cu and look for sigmoid_cross_entropy_forward: the loss that a GAN's
    discriminator and generator are trained with. You know its parts by now. A loop in strides of
    the grid (chapter 7), a sum over the block (kernels/reduce.cuh: by warps as in chapter 9, one
    barrier as in 6), one partial sum per block, and a second launch, loss_sum, of one block.

    To PyCUDA it is a source like any other, with three remarks: its includes are found through
    include_dirs, it has its own extern "C" (templates would not survive a second one), and a
    pointer that may be null is passed as 0. Its launch contract stands at the end of the file:
    blocks of 256 threads, and the letters for prepare() follow from the declaration, with "q" for
    a long long.

    Every kernel here has a *twin* of the same name in numpy (pygan/reference), which says what it
    should compute; the tests hold one against the other, as is done below.
    """
    from pycuda import gpuarray
    from pycuda.compiler import DEFAULT_NVCC_FLAGS, SourceModule

    folder = compiler.kernels_dir()
    module = SourceModule(
        (folder / "loss.cu").read_text(encoding="utf-8"),
        include_dirs=[str(folder)],
        options=[*DEFAULT_NVCC_FLAGS, "-std=c++17"],
        no_extern_c=True,
    )
    forward = module.get_function("sigmoid_cross_entropy_forward").prepare("PPPPPPqf")
    loss_sum = module.get_function("loss_sum").prepare("PPif")

    logits, labels, scale, of_twin, allowed = gan_loss_problem()
    n, blocks, threads = logits.size, 32, (256, 1, 1)
    on_logits, on_labels = gpuarray.to_gpu(logits), gpuarray.to_gpu(labels)
    partial, loss = gpuarray.empty(blocks, np.float32), gpuarray.empty(1, np.float32)
    no_probabilities = no_gradient = 0
    forward.prepared_call(
        (blocks, 1), threads, on_logits.gpudata, on_labels.gpudata, no_probabilities, no_gradient,
        partial.gpudata, loss.gpudata, n, scale,
    )  # fmt: skip
    loss_sum.prepared_call((1, 1), threads, partial.gpudata, loss.gpudata, blocks, scale)
    by_hand = float(loss.get()[0])
    say(f"{n} logits, {blocks} partial sums: loss {by_hand:.7f}; the twin in numpy: {of_twin:.7f}")
    apart = abs(by_hand - of_twin)
    verify(apart <= allowed, f"{apart:.1g} apart; rounding may cost {allowed:.1g}")


def our_kernel_through_pygan(context: Context) -> None:
    """The same kernel through pygan

    Letters for prepare() are written by hand, and a wrong one is a wrong result or a crash. pygan
    reads the C declaration instead: context.kernel(file, name) compiles, keeps the outcome on disk,
    and gives a callable that checks each argument against its parameter. DeviceArray plays the part
    of GPUArray. Macros are given as keywords; the activation kernel, say, is
    context.kernel("activation.cu", "activation_forward", ACTIVATION="tanh").

    One step up, pygan.device.get(name).ops has a function per kernel that also chooses grid, block
    and partial sums. It is the same call for device numpy, where the twin answers. Executors, and
    with them `pygan train`, are made of these.

    From here: CONTRIBUTING.md adds a kernel in ten steps, kernels/ has some fifty to read, and
    examples/lesson_gan.py trains a network with them.
    """
    import pygan.device
    from pygan.bindings.array import DeviceArray
    from pygan.bindings.errors import ArgumentError

    forward = context.kernel("loss.cu", "sigmoid_cross_entropy_forward")
    loss_sum = context.kernel("loss.cu", "loss_sum")
    say(f"declared: {forward.signature}")

    logits, labels, scale, of_twin, allowed = gan_loss_problem()
    n, blocks, threads = logits.size, 32, 256
    on_logits, on_labels = (DeviceArray.from_numpy(context, a) for a in (logits, labels))
    partial, loss = DeviceArray.empty(context, blocks), DeviceArray.empty(context, 1)
    forward(blocks, threads, on_logits, on_labels, None, None, partial, loss, n, scale)
    loss_sum(1, threads, partial, loss, blocks, scale)
    apart = abs(loss.item() - of_twin)
    verify(apart <= allowed, f"{apart:.1g} from the twin; rounding may cost {allowed:.1g}")

    try:
        forward(blocks, threads, on_logits, labels, None, None, partial, loss, n, scale)
    except ArgumentError as error:
        say(f"a numpy array among the arguments: {error}")
    else:
        raise WrongResult("host memory was taken for device memory")

    device = pygan.device.get(context.name)
    size = device.ops.workspace_size(
        "sigmoid_cross_entropy_forward", logits.shape, labels.shape, None, (1,), scale=scale
    )
    workspace = device.empty(size, np.float32)
    device.ops.sigmoid_cross_entropy_forward(
        on_logits, on_labels, None, loss, scale=scale, workspace=workspace
    )
    apart = abs(loss.item() - of_twin)
    verify(apart <= allowed, f"as an operator, with {size} partial sums of its choice: {apart:.1g}")


CHAPTERS: tuple[Callable[[Context], None], ...] = (
    double_an_array,
    copies_made_for_you,
    more_numbers_than_threads,
    arrays_on_the_device,
    structs_by_pointer,
    shared_memory,
    reduction,
    forgotten_barrier,
    warps,
    our_kernel_by_hand,
    our_kernel_through_pygan,
)


def title(chapter: Callable[[Context], None]) -> str:
    """The first line of the chapter's docstring."""
    return (inspect.getdoc(chapter) or "").partition("\n")[0]


def lesson(chapter: Callable[[Context], None]) -> str:
    """The rest of it."""
    return (inspect.getdoc(chapter) or "").partition("\n")[2].strip()


def start(name: str) -> Context:
    """A current context on device `name`, with the compiler for its kernels on PATH.

    Raises BindingsError with the reason and the next step where the device cannot be used.
    """
    if name == "auto":
        name = "cuda" if gpu_answers() else "cpu"
    context = Context.get(name)
    if name == "cuda":  # device cpu has put its stand-in for nvcc on PATH itself
        nvcc = compiler.require_nvcc()
        os.environ["PATH"] = f"{nvcc.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        headers = " ".join(f"-I{folder}" for folder in compiler.wheel_include_dirs(nvcc))
        if headers:
            given = os.environ.get("PYCUDA_DEFAULT_NVCC_FLAGS", "")
            os.environ["PYCUDA_DEFAULT_NVCC_FLAGS"] = f"{given} {headers}".strip()
    return context


def run(context: Context, numbers: Sequence[int], brief: bool) -> None:
    """Runs chapters by number, 1 for the first; raises WrongResult or what PyCUDA raises."""
    from pycuda.tools import clear_context_caches

    try:
        for number in numbers:
            chapter = CHAPTERS[number - 1]
            if not brief:
                print(f"\n{number}. {title(chapter)}\n\n{lesson(chapter)}\n", flush=True)
            chapter(context)
    finally:
        clear_context_caches()  # kernels that PyCUDA keeps must go before their context does


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="PyCUDA from the first copy to one of pygan's kernels, in short chapters."
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="cuda: an NVIDIA GPU; cpu: the CPU driver; auto: a GPU if one answers (%(default)s)",
    )
    parser.add_argument(
        "--chapter",
        type=int,
        choices=range(1, len(CHAPTERS) + 1),
        metavar="N",
        help=f"run this chapter only, 1 to {len(CHAPTERS)}",
    )
    parser.add_argument("--list", action="store_true", help="list the chapters and run none")
    parser.add_argument("--brief", action="store_true", help="results only, without the lessons")
    options = parser.parse_args(argv)
    if options.list:
        for number, chapter in enumerate(CHAPTERS, start=1):
            print(f"{number:3}. {title(chapter)}")
        return 0
    numbers = [options.chapter] if options.chapter else range(1, len(CHAPTERS) + 1)
    try:
        context = start(options.device)
        if not options.brief:
            print(context.description)
        run(context, numbers, options.brief)
    except (BindingsError, WrongResult) as error:
        print(f"pycuda_tutorial: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
