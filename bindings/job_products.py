"""Jobs of products and of the sums that belong to them (kernels/job_products.cuh)."""

from __future__ import annotations

from collections.abc import Sequence

from .array import DeviceArray
from .job import (
    FILE,
    LOAD_LATENCY,
    MULTIPROCESSORS,
    PRODUCTS,
    THREADS,
    Job,
    Launch,
    NotInProgram,
    flat,
    fours,
    moving,
    only,
)

TILE_M, TILE_N, TILE_K = 64, 32, 16
MOST_EXTENT = 2**14
MOST_CHANNELS = 2**24
FINISHED_SLICES = 8
"""Up to which the last block of a tile adds its slices (kernels/last_slice.cuh), in the order of
sum_partials: one block reads all of a tile, and waits longer the more slices there are."""

SLICES_IN_FLIGHT = 4
"""Of a tile, when they are added: 64 bytes of each per thread."""

STEP_MICROSECONDS = 0.38
"""Of a tile of 64 x 32 and a depth of 16: 396 cycles of instructions and 250 of waiting, as in
operators/plans/model.py, at 1.7 GHz."""
TILE_LATENCY = 1.5
"""Microseconds of a tile before its first and after its last product."""

ARRIVAL_LATENCY = 0.4
"""Microseconds of a count that other blocks add to, and of what was written before it."""

OF_MANY_SUMS = 2
"""The last activation that a thread with a tile's sums applies to them."""

LAYER = (
    *("batch", "height", "width", "x_channels", "y_height", "y_width", "y_channels"),
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
    *("dilation_h", "dilation_w", "groups"),
)


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
    only(launch, *LAYER, *_END, *names, "slices")
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
    numbers = (fours("activation_forward", y.size), activation)
    grid, time = flat(y.size)
    job = Job("activation_forward", grid, (y, y), numbers, time, LOAD_LATENCY, (slope,))
    job.reads, job.writes, job.is_launched = [y], [y], False
    job.launches = 0
    return job


_END = ("accumulate", "activated", "activation", "slope")


def _sum(launch: Launch) -> list[Job]:
    a = launch.arguments
    only(launch, "partials", "bias", "y", "size", "channels", "slices", *_END)
    columns = 32 if launch.entry == "sum_many_partials" else THREADS
    if a["size"] >= 2**31:
        raise NotInProgram(f"{launch.entry}: {a['size']} elements are beyond what {FILE} counts")
    grid = (-(-a["size"] // columns), 1, 1)
    numbers = (a["size"], a["channels"], a["slices"], a["accumulate"], a.get("activation", 0))
    moved = 4 * a["size"] * (a["slices"] + 1)
    arrays = (a["partials"], a["bias"], a["y"], a.get("activated"))
    time, reals = moving(moved, grid), (a.get("slope", 0.0),)
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
        product.latency + ARRIVAL_LATENCY + LOAD_LATENCY * -(-slices // SLICES_IN_FLIGHT),
        stage.reals,
        counts=product.blocks // slices,
        reads=product.reads + [array for array in stage.reads if array is not partials],
        writes=product.writes + stage.writes,
        launches=2,
    )


def _bias(launch: Launch) -> list[Job]:
    a = launch.arguments
    only(launch, "dy", "partials", "rows", "channels", "accumulate")
    grid = (launch.grid[0], launch.grid[1], 1)
    numbers = (a["rows"], a["channels"], a["accumulate"], grid[1])
    time = moving(4 * a["rows"] * a["channels"], grid)
    return [Job(launch.entry, grid, (a["dy"], a["partials"]), numbers, time, LOAD_LATENCY)]


MAKERS = (
    {
        f"convolution_{operation}{way}": _product
        for operation in PRODUCTS
        for way in ("", "_pipelined")
    }
    | {name: _sum for name in ("sum_partials", "sum_many_partials")}
    | {"bias_backward": _bias}
)
