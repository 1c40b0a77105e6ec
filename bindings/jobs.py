"""Jobs: what a launch becomes in a program (kernels/job.cuh), and what a model expects of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .array import DeviceArray
from .errors import BindingsError

FILE, ENTRY = "program.cu", "run_program"
THREADS = 128
TILE_M, TILE_N, TILE_K = 64, 32, 16
MOST_JOBS = 48
MOST_EXTENT = 2**14
MOST_CHANNELS = 2**24
MOST_FOLDS = 4
MOST_ELEMENTS = 2**30
FINISHED_SLICES = 8
"""Up to which the last block of a tile adds its slices (kernels/last_slice.cuh), in the order of
sum_partials: one block reads all of a tile, and waits longer the more slices there are."""

MOST_LOSSES = 4096
"""That the launch of a loss adds in one block, of LAUNCHED_LOSS threads."""

LAUNCHED_LOSS = 256

BLOCKS_PER_MULTIPROCESSOR = 2
"""More blocks wait longer for each other than they gain."""

MULTIPROCESSORS = 132
STEP_MICROSECONDS = 0.38
"""Of a tile of 64 x 32 and a depth of 16: 396 cycles of instructions and 250 of waiting, as in
operators/tiling.py, at 1.7 GHz."""
BLOCK_BYTES_PER_MICROSECOND = 12_000
"""That 128 threads read: 8 kB are under way at a time, for some 0.7 us."""
MOST_MICROSECONDS = 7.0
"""The default of how long a job may take: one that takes longer gains nothing, since its own launch
has tiles and threads of its own."""

TILE_LATENCY = 1.5
"""Microseconds of a tile before its first and after its last product."""

LOAD_LATENCY = 0.6
"""Microseconds of a round of loads that the next one waits for."""

ARRIVAL_LATENCY = 0.4
"""Microseconds of a count that other blocks add to, and of what was written before it."""

OPERATIONS = (
    "forward",
    "backward_data",
    "backward_weight",
    "sum_partials",
    "sum_many_partials",
    "bias_backward",
    "batch_norm_forward_training",
    "batch_norm_statistics",
    "batch_norm_normalize",
    "batch_norm_backward",
    "batch_norm_gradient_sums",
    "batch_norm_backward_data",
    "activation_forward",
    "activation_backward",
    "pooling_forward",
    "pooling_backward",
    "sigmoid_cross_entropy_forward",
)
"""In the order of kernels/job.cuh."""

PRODUCTS = OPERATIONS[:3]
ACTIVATIONS = ("none", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus")
"""In the order of kernels/activation.cuh."""

OF_MANY_SUMS = 2
"""The last activation that a thread with a tile's sums applies to them."""

LAYER = (
    *("batch", "height", "width", "x_channels", "y_height", "y_width", "y_channels"),
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
    *("dilation_h", "dilation_w", "groups"),
)

_JOB = struct.Struct("<8i24i4f12Q")


class NotInProgram(BindingsError):
    """A launch that no job of kernels/program.cu stands for, or that is too large for one."""


class Launch(NamedTuple):
    """What a launcher asked for: the kernel's parameters by name."""

    entry: str
    defines: dict[str, Any]
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: dict[str, Any]


@dataclass
class Job:
    """One launch, as program.cu plays it. reads, writes: arrays; grid: the blocks that are played;
    counts: how many numbers it needs that are 0 between launches; microseconds: what the model
    gives its steps and bytes, all multiprocessors its own, and latency: what its blocks wait."""

    operation: str
    grid: tuple[int, int, int]
    arrays: Sequence[DeviceArray | None]
    numbers: Sequence[int]
    microseconds: float
    latency: float
    reals: Sequence[float] = ()
    counts: int = 0
    block: tuple[int, int] = (0, 0)
    reads: list[DeviceArray] = field(default_factory=list)
    writes: list[DeviceArray] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    def packed(self, waits: bool, first: int, counts: int = 0) -> bytes:
        """counts: where those are."""
        numbers = [*self.numbers, *[0] * (24 - len(self.numbers))]
        reals = [*self.reals, *[0.0] * (4 - len(self.reals))]
        places = [0 if array is None else array.ptr for array in self.arrays]
        places += [counts] if self.counts else []
        places += [0] * (12 - len(places))
        head = (OPERATIONS.index(self.operation), int(waits), first, self.blocks, *self.grid[:2])
        return _JOB.pack(*head, *self.block, *numbers, *reals, *places)

    def waits_for(self, other: Job) -> bool:
        """Whether both touch the same memory, and one of them writes it."""
        return (
            _overlap(self.reads, other.writes)
            or _overlap(self.writes, other.reads)
            or _overlap(self.writes, other.writes)
        )


def _overlap(some: Sequence[DeviceArray], others: Sequence[DeviceArray]) -> bool:
    return any(a.ptr < b.ptr + b.nbytes and b.ptr < a.ptr + a.nbytes for a in some for b in others)


def _product(launch: Launch) -> list[Job]:
    operation = launch.entry.removeprefix("convolution_").removesuffix("_pipelined")
    a = launch.arguments
    layer = {name: a[name] for name in LAYER}
    slices, groups = a["slices"], layer["groups"]
    taps = layer["kernel_h"] * layer["kernel_w"]
    group_x, group_y = layer["x_channels"] // groups, layer["y_channels"] // groups
    pixels = layer["batch"] * layer["y_height"] * layer["y_width"]
    products = groups
    if operation == "forward":
        lines, columns, depth = pixels, group_y, taps * group_x
        names = ("x", "w", "bias", "y")
    elif operation == "backward_weight":
        lines, columns, depth = taps * group_x, group_y, pixels
        names = ("x", "dy", "bias", "dw")
    else:
        stride = (layer["stride_h"], layer["stride_w"])
        across = -(-layer["height"] // stride[0]) * -(-layer["width"] // stride[1])
        products *= stride[0] * stride[1]
        lines, columns = layer["batch"] * across, group_x
        depth = -(-taps * group_y * groups // products)
        names = ("dy", "w", "bias", "dx")
    extents = (
        layer["height"] + 2 * layer["pad_h"],
        layer["width"] + 2 * layer["pad_w"],
        layer["kernel_h"] * layer["dilation_h"],
        layer["kernel_w"] * layer["dilation_w"],
    )
    channels = (layer["x_channels"], layer["y_channels"])
    if max(extents) >= MOST_EXTENT or max(channels) >= MOST_CHANNELS:
        raise NotInProgram(f"{launch.entry}: images or channels beyond what {FILE} counts")
    _only(launch, *LAYER, *_END, *names, "slices")
    grid = (-(-lines // TILE_M), -(-columns // TILE_N), products * slices)
    steps = -(-depth // (TILE_K * slices)) * -(-grid[0] * grid[1] * grid[2] // MULTIPROCESSORS)
    activation, slope, after = a.get("activation", 0), a.get("slope", 0.0), []
    result = a[names[3]]
    if activation > OF_MANY_SUMS and a.get("activated") is None:
        after = [_activated(result, activation, slope)]
        activation = 0
    arrays = (*(a.get(name) for name in names), a.get("activated"))
    numbers = (*layer.values(), slices, a["accumulate"], activation)
    time = steps * STEP_MICROSECONDS
    return [Job(operation, grid, arrays, numbers, time, TILE_LATENCY, (slope,)), *after]


def _activated(y: DeviceArray, activation: int, slope: float) -> Job:
    """The job that applies an activation to what a product has stored."""
    numbers = (_fours("activation_forward", y.size), activation)
    grid, time = _flat(y.size)
    job = Job("activation_forward", grid, (y, y), numbers, time, LOAD_LATENCY, (slope,))
    job.reads, job.writes = [y], [y]
    return job


_END = ("accumulate", "activated", "activation", "slope")


def _sum(launch: Launch) -> list[Job]:
    a = launch.arguments
    _only(launch, "partials", "bias", "y", "size", "channels", "slices", *_END)
    columns = 32 if launch.entry == "sum_many_partials" else THREADS
    if a["size"] >= 2**31:
        raise NotInProgram(f"{launch.entry}: {a['size']} elements are beyond what {FILE} counts")
    grid = (-(-a["size"] // columns), 1, 1)
    numbers = (a["size"], a["channels"], a["slices"], a["accumulate"], a.get("activation", 0))
    moved = 4 * a["size"] * (a["slices"] + 1)
    arrays = (a["partials"], a["bias"], a["y"], a.get("activated"))
    time, reals = _moving(moved, grid), (a.get("slope", 0.0),)
    return [Job(launch.entry, grid, arrays, numbers, time, LOAD_LATENCY, reals)]


def finished_by_last(jobs: Sequence[Job]) -> list[Job]:
    """The same, of a product and the sum of its few slices one job each."""
    result: list[Job] = []
    for job in jobs:
        before = result[-1] if result else None
        if before is not None and _can_finish(before, job):
            result[-1] = _finished(before, job)
        else:
            result.append(job)
    return result


def _can_finish(product: Job, stage: Job) -> bool:
    if product.operation not in PRODUCTS or stage.operation != "sum_partials":
        return False
    slices, activation, activated = stage.numbers[2], stage.numbers[4], stage.arrays[3]
    return (
        product.arrays[3] is stage.arrays[0]
        and product.numbers[16] == slices <= FINISHED_SLICES
        and (activation <= OF_MANY_SUMS or activated is not None)
    )


def _finished(product: Job, stage: Job) -> Job:
    partials, bias, y, activated = stage.arrays
    _, _, slices, accumulate, activation = stage.numbers
    return Job(
        product.operation,
        product.grid,
        (*product.arrays[:2], bias, partials, activated, y),
        (*product.numbers[:17], accumulate, activation),
        product.microseconds,
        product.latency + ARRIVAL_LATENCY + LOAD_LATENCY * -(-slices // 2),
        stage.reals,
        counts=product.blocks // slices,
        reads=product.reads + [array for array in stage.reads if array is not partials],
        writes=product.writes + stage.writes,
    )


def _bias(launch: Launch) -> list[Job]:
    a = launch.arguments
    _only(launch, "dy", "partials", "rows", "channels", "accumulate")
    grid = (launch.grid[0], launch.grid[1], 1)
    numbers = (a["rows"], a["channels"], a["accumulate"], grid[1])
    time = _moving(4 * a["rows"] * a["channels"], grid)
    return [Job(launch.entry, grid, (a["dy"], a["partials"]), numbers, time, LOAD_LATENCY)]


def _activation(launch: Launch) -> list[Job]:
    a = launch.arguments
    kind, n = ACTIVATIONS.index(launch.defines["ACTIVATION"]), _fours(launch.entry, a["n"])
    grid, time = _flat(n)
    if launch.entry == "activation_forward":
        arrays, numbers = (a["x"], a["y"]), (n, kind)
    else:
        arrays = (a["source"], a["dy"], a["dx"])
        numbers = (n, kind, launch.defines["FROM_INPUT"], a["accumulate"])
    return [Job(launch.entry, grid, arrays, numbers, time, LOAD_LATENCY, (a["slope"],))]


_WINDOWS = (
    *("batch", "height", "width", "channels", "out_height", "out_width", "kernel_h", "kernel_w"),
    *("stride_h", "stride_w", "pad_h", "pad_w", "count_include_pad"),
)


def _pooling(launch: Launch) -> list[Job]:
    a = launch.arguments
    forward = launch.entry == "pooling_forward"
    height, width = ("out_height", "out_width") if forward else ("height", "width")
    n = _fours(launch.entry, a["batch"] * a[height] * a[width] * a["channels"])
    if a["channels"] % 4:
        raise NotInProgram(f"{launch.entry}: {FILE} takes four channels at a time")
    arrays = (a["x"], a["y"]) if forward else (a["x"], a["dy"], a["dx"])
    average = int(launch.defines["POOLING"] == "avg")
    numbers = (*(a[name] for name in _WINDOWS), n, average, a.get("accumulate", 0))
    grid, time = _flat(n)
    return [Job(launch.entry, grid, arrays, numbers, time, LOAD_LATENCY)]


def _loss(launch: Launch) -> list[Job]:
    a = launch.arguments
    if a["n"] > MOST_LOSSES:
        raise NotInProgram(f"{launch.entry}: {a['n']} losses, of which {FILE} adds {MOST_LOSSES}")
    arrays = tuple(a[name] for name in ("logits", "labels", "probabilities", "dlogits", "loss"))
    time = a["n"] / (4 * LAUNCHED_LOSS) * LOAD_LATENCY
    reals = (a["scale"],)
    return [Job(launch.entry, (1, 1, 1), arrays, (a["n"],), time, 2 * LOAD_LATENCY, reals)]


def _fours(entry: str, n: int) -> int:
    if n % 4 or n > MOST_ELEMENTS:
        raise NotInProgram(f"{entry}: {FILE} takes four elements at a time, of at most 2**30")
    return n


def _flat(n: int) -> tuple[tuple[int, int, int], float]:
    """The grid of a job of n elements, four to a thread at a time, and its microseconds."""
    packs = -(-n // (4 * THREADS))
    blocks = min(packs, BLOCKS_PER_MULTIPROCESSOR * MULTIPROCESSORS)
    return (max(1, blocks), 1, 1), (-(-packs // max(1, blocks)) - 1) * LOAD_LATENCY


_CHANNELWISE = ("x", "gamma", "beta")
_FORWARD = (*_CHANNELWISE, "y", "mean", "var", "partial")
_BACKWARD = (*_CHANNELWISE, "mean", "var", "dy", "dx", "dgamma", "dbeta", "moving_mean")
_BACKWARD = (*_BACKWARD, "moving_var", "partial")
_MODES = ("fix_gamma", "constant_statistics", "accumulate", "accumulate_gamma", "accumulate_beta")


def _batch_norm(launch: Launch) -> list[Job]:
    a = launch.arguments
    if launch.defines["VECTOR"] != 4:
        raise NotInProgram(f"{launch.entry}: {FILE} takes four channels at a time")
    kind = launch.defines["ACTIVATION"]
    if kind not in ("none", "relu", "leaky_relu"):
        raise NotInProgram(f"{launch.entry}: {FILE} has no {kind}")
    slope = 1.0 if kind == "none" else a.get("slope", 0.0)
    sizes = (int(kind == "relu"), a["rows"], a["channels"], a.get("rows_per_split", a["rows"]))
    _only(launch, *_FORWARD, *_BACKWARD, *_MODES, "rows", "channels", "rows_per_split", "splits",
          "eps", "slope", "momentum")  # fmt: skip
    passes, reals = 2, (a.get("eps", 0.0), slope)
    if launch.entry == "batch_norm_statistics":
        arrays, numbers, passes = (a["x"], a["partial"]), sizes, 1
    elif launch.entry in ("batch_norm_forward_training", "batch_norm_normalize"):
        arrays = tuple(a.get(name) for name in _FORWARD)
        numbers = (*sizes, a["fix_gamma"])
        passes = 1 if launch.entry == "batch_norm_normalize" else 2
    else:
        arrays = tuple(a.get(name) for name in _BACKWARD)
        modes = tuple(a.get(name, 0) for name in _MODES)
        numbers = (*sizes, *modes, a.get("splits", 0))
        reals = (*reals, a.get("momentum", 0.0))
        passes = 4 if launch.entry == "batch_norm_backward" else 2
    # Channels know nothing of each other: a block of several columns of threads is played as
    # several blocks, until there are threads for it.
    width, rows = launch.block
    while width > 1 and width * rows > THREADS:
        width //= 2
    if rows > MOST_FOLDS * THREADS // width:
        raise NotInProgram(f"{launch.entry}: blocks of {launch.block} threads")
    columns = -(-a["channels"] // (4 * width))
    splits = launch.grid[1] if len(launch.grid) > 1 else 1
    moved = passes * 16 * width * min(a["rows"], sizes[3])
    waves = -(-columns * splits // (BLOCKS_PER_MULTIPROCESSOR * MULTIPROCESSORS))
    time = waves * moved / BLOCK_BYTES_PER_MICROSECOND
    rounds = 1 if launch.entry in ("batch_norm_statistics", "batch_norm_gradient_sums") else 2
    grid, block = (columns, splits, 1), (width, rows)
    latency = rounds * LOAD_LATENCY
    return [Job(launch.entry, grid, arrays, numbers, time, latency, reals, block=block)]


def _moving(nbytes: int, grid: tuple[int, int, int]) -> float:
    """Microseconds of `nbytes` that these blocks share."""
    blocks = grid[0] * grid[1] * grid[2]
    together = min(blocks, BLOCKS_PER_MULTIPROCESSOR * MULTIPROCESSORS)
    return nbytes / (together * BLOCK_BYTES_PER_MICROSECOND)


def _only(launch: Launch, *known: str) -> None:
    """Refuses parameters that the job would not heed."""
    for name, value in launch.arguments.items():
        if name not in known and value not in (None, 0):
            raise NotInProgram(f"{launch.entry}: {FILE} knows no {name}")


MAKERS: dict[str, Callable[[Launch], list[Job]]] = (
    {
        f"convolution_{operation}{way}": _product
        for operation in OPERATIONS[:3]
        for way in ("", "_pipelined")
    }
    | {name: _sum for name in ("sum_partials", "sum_many_partials")}
    | {"bias_backward": _bias}
    | {name: _batch_norm for name in OPERATIONS if name.startswith("batch_norm")}
    | {f"activation_{pass_}": _activation for pass_ in ("forward", "backward")}
    | {f"pooling_{pass_}": _pooling for pass_ in ("forward", "backward")}
    | {"sigmoid_cross_entropy_forward": _loss}
)
