"""Launchers of kernels/batch_norm.cu, and of batch_norm_slices.cu where what is read lies in the
slices of a sum; the maths is in pygan.reference.batch_norm."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

from .. import cooperative as cooperative_launches
from .activation import check_kind
from .storage import is_half, types
from .tile_moments import moments_size
from .validation import (
    THREADS,
    countable,
    device_array,
    has_rank,
    has_shape,
    has_workspace,
    same_shape,
)

FILE = "batch_norm.cu"
SLICES_FILE = "batch_norm_slices.cu"
TOGETHER_FILE = "batch_norm_together.cu"
WHOLE = 512
"""Most threads of a block that has its channels to itself."""
WHOLE_FLOATS = 32768
"""Most numbers (128 kB) that such a block may read in a pass; beyond, its rows are split."""
SPLIT_BLOCKS = 264
"""Blocks of a pass whose rows are split: two for each multiprocessor of the largest GPUs."""
RESIDENT = 2
"""Of kernels/batch_norm_together.cu: blocks on a multiprocessor."""
MERGED_FLOATS = 2048
"""Most means (and as many squares) that each block of the second launch may have to merge."""


class Plan(NamedTuple):
    """How (rows, channels) is cut: the numbers of batch_norm.cu's launch contract.

    It depends on the shape and on `width` alone, not on the device, so that sums have the same
    bits everywhere. `splits` is 1 where a block has its channels to itself.
    """

    width: int
    block: tuple[int, int]
    columns: int
    rows_per_split: int
    splits: int

    @property
    def numbers(self) -> int:
        """Of a block's rows and channels."""
        return self.rows_per_split * self.block[0] * self.width


def whole_plan(rows: int, channels: int, width: int, arrays: int) -> Plan | None:
    """One launch: a block reads all rows of 8 channels (a sector of 32 bytes), or of 4, in
    `arrays` arrays; None where that is too much for a block."""
    for most in (8, 4):
        group = min(most, _power_of_two(channels))
        if rows * group * arrays <= WHOLE_FLOATS:
            x = group // width
            # a thread has at least one batch of rows, and a block at least a warp
            y = _power_of_two(-(-rows // _batch(width)))
            block = (x, max(min(y, WHOLE // x), 32 // x))
            return Plan(width, block, -(-channels // group), rows, 1)
    return None


def split_plan(rows: int, channels: int, width: int) -> Plan:
    """Rows split over blocks of 16 channels, or of 8 where half of the last 16 would idle."""
    group = _group(channels)
    return _split(rows, channels, width, group, MERGED_FLOATS // group)


def tiles_plan(rows: int, channels: int, width: int, tiles: int) -> Plan:
    """As :func:`split_plan`, where every block has the moments of so many tiles to merge, which are
    less of fewer channels."""
    group = _group(channels)
    group = group if tiles * group <= MERGED_FLOATS else min(8, group)
    return _split(rows, channels, width, group, rows)


def merging_plan(channels: int, width: int) -> Plan:
    """Blocks that merge moments, and do nothing else: one for all rows of 8 channels, a sector."""
    group = min(8, _power_of_two(channels))
    x = group // width
    return Plan(width, (x, THREADS // x), -(-channels // group), 0, 1)


def _group(channels: int) -> int:
    """Channels of a block that has not all rows of them."""
    group = min(16, _power_of_two(channels))
    return 8 if group == 16 and -channels % 16 >= 8 else group


def _split(rows: int, channels: int, width: int, group: int, most_splits: int) -> Plan:
    x = group // width
    block = (x, THREADS // x)
    columns = -(-channels // group)
    most_splits = min(-(-SPLIT_BLOCKS // columns), most_splits, rows // (_batch(width) * block[1]))
    rows_per_split = -(-rows // max(1, most_splits))
    return Plan(width, block, columns, rows_per_split, -(-rows // rows_per_split))


def _power_of_two(n: int) -> int:
    """The least one that is not below n."""
    return 1 << (n - 1).bit_length()


def _batch(width: int) -> int:
    """BATCH of batch_norm.cu: the rows that a thread has in flight."""
    return 4 if width == 4 else 8


def _rows(shape: Sequence[int]) -> int:
    return prod(shape[:-1])


def _width(channels: int, *arrays: Any | None) -> int:
    """Channels per thread: 4 where that makes every access one of 16 bytes, else 1."""
    if channels % 4 or any(array is not None and array.ptr % 16 for array in arrays):
        if any(map(is_half, arrays)):
            raise ValueError(
                f"batch norm takes arrays of bf16 numbers with channels (here {channels}) in "
                "fours, and all arrays at multiples of 16 bytes"
            )
        return 1
    return 4


def _types(x: Any, y: Any) -> dict[str, str]:
    """-D constants for what x and its gradient hold, and what y and its gradient hold."""
    return types(INPUT=x, OUTPUT=y)


def _workspace(x: Sequence[int], arrays: int) -> int:
    """Two numbers for each split and channel, as partial (2, splits, C) holds, else none.

    Arrays that are not aligned are split otherwise: enough for both."""
    rows, channels = _rows(x), x[-1]
    widths = (1,) if channels % 4 else (1, 4)
    splits = [
        split_plan(rows, channels, width).splits
        for width in widths
        if not whole_plan(rows, channels, width, arrays)
    ]
    return 2 * channels * max(splits, default=0)


def forward_training_workspace(x: Sequence[int], *_: Any, **__: Any) -> int:
    return _workspace(x, arrays=1)


def backward_workspace(x: Sequence[int], *_: Any, **__: Any) -> int:
    return _workspace(x, arrays=2)


WORKSPACE = {
    "batch_norm_forward_training": forward_training_workspace,
    "batch_norm_backward": backward_workspace,
}


def batch_norm_forward_training(
    x: Any,
    gamma: Any,
    beta: Any,
    y: Any,
    mean: Any,
    var: Any,
    slices: Any | None = None,
    bias: Any | None = None,
    moments: Any | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
    half_sum: bool = False,
    cooperative: bool = False,
    workspace: Any | None = None,
) -> None:
    """y (..., C) = normalised x (..., C); mean and var (C,) receive the batch's statistics. Each of
    x and y may hold bf16 numbers.

    var is the biased variance. fix_gamma overwrites gamma with 1. slices (n, ..., C), where given:
    x is their sum, + bias (C,) if any, and is written; half_sum: rounded to bf16 first, as x holds
    it. moments, a vector of tiles * (2 C + 1) numbers, where given: those that the tiles of a
    convolution have left of x are merged, and x is read once. cooperative: many rows of float32
    take one cooperative launch in place of two where the device holds all of it at once; same bits.
    ValueError where shapes misfit, the activation is unknown, half_sum is not what x says, or the
    workspace is too small.
    """
    operator = "batch_norm_forward_training"
    rows, channels = _check(operator, x, y=y, gamma=gamma, beta=beta, mean=mean, var=var, bias=bias)
    _check_slices(operator, slices, x, bias, half_sum, x)
    kind = check_kind(operator, activation)
    if moments is not None:
        tiles = tiles_of(operator, moments, channels, slices)
        plan = tiles_plan(rows, channels, _width(channels, x, y, moments), tiles)
        left = (x, moments, gamma, beta, mean, var, y, tiles)
        _normalize("batch_norm_normalize_of_tiles", plan, left, eps, fix_gamma, kind, slope)
        return
    has_workspace(operator, workspace, forward_training_workspace(x.shape))

    width = _width(channels, x, y, slices, workspace)
    variant = {"ACTIVATION": kind, "VECTOR": width} | _types(x, y)
    kernel = _kernel_for(x, slices, variant)
    start = (x,) if slices is None else (slices, bias, x)
    count = () if slices is None else (slices.shape[0],)
    whole = whole_plan(rows, channels, width, arrays=1)
    if whole is not None:
        arrays = (*start, gamma, beta, y, mean, var)
        sizes = (*count, rows, channels, eps, int(fix_gamma), slope)
        kernel(operator, whole, whole.columns, *arrays, *sizes)
        return
    plan = split_plan(rows, channels, width)
    alike = slices is None and not is_half(x) and not is_half(y)
    if cooperative and alike and (one := _together(x.context, operator, plan, variant, 1)):
        arrays = (x, gamma, beta, y, mean, var, workspace, one.arrivals)
        sizes = (rows, channels, plan.rows_per_split, plan.columns, eps, int(fix_gamma), slope)
        one.launch(*arrays, *sizes)
        return
    sizes = (*count, rows, channels, plan.rows_per_split)
    grid = (plan.columns, plan.splits)
    kernel("batch_norm_statistics", plan, grid, *start, workspace, *sizes)
    arrays = (x, workspace, gamma, beta, mean, var, y)
    _normalize("batch_norm_normalize", plan, arrays, eps, fix_gamma, kind, slope)


def batch_norm_forward_inference(
    x: Any | None,
    gamma: Any,
    beta: Any,
    moving_mean: Any,
    moving_var: Any,
    y: Any,
    slices: Any | None = None,
    bias: Any | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    activation: str | None = None,
    slope: float = 0.0,
    half_sum: bool = False,
) -> None:
    """y (..., C) = x (..., C) normalised by the moving statistics (C,).

    fix_gamma overwrites gamma with 1. slices (n, ..., C), where given: their sum, + bias (C,) if
    any, is meant in place of x, which is None; half_sum: rounded to bf16 first. ValueError where
    shapes misfit or the activation is unknown.
    """
    operator = "batch_norm_forward_inference"
    _check_one(operator, "x", x, slices)
    rows, channels = _check(
        operator,
        y if x is None else x,
        y=y,
        gamma=gamma,
        beta=beta,
        moving_mean=moving_mean,
        moving_var=moving_var,
        bias=bias,
    )
    _check_slices(operator, slices, y, bias, half_sum)
    kind = check_kind(operator, activation)
    plan = split_plan(rows, channels, _width(channels, x, y, slices))
    if slices is not None:
        sums = {"INPUT": "Bf16"} if half_sum else {}
        variant = {"ACTIVATION": kind, "VECTOR": plan.width} | sums | types(OUTPUT=y)
        kernel = _kernel_for(y, slices, variant)
        arrays = (slices, bias, gamma, beta, moving_mean, moving_var, y)
        sizes = (slices.shape[0], rows, channels, plan.rows_per_split, eps, int(fix_gamma), slope)
        kernel("batch_norm_normalize", plan, (plan.columns, plan.splits), *arrays, *sizes)
        return
    arrays = (x, None, gamma, beta, moving_mean, moving_var, y)
    _normalize("batch_norm_normalize", plan, arrays, eps, fix_gamma, kind, slope)


def batch_norm_backward(
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    var: Any,
    dy: Any | None,
    dx: Any | None,
    dgamma: Any | None,
    dbeta: Any | None,
    moving_mean: Any | None = None,
    moving_var: Any | None = None,
    slices: Any | None = None,
    *,
    eps: float,
    fix_gamma: bool,
    use_global_stats: bool,
    momentum: float | None = None,
    activation: str | None = None,
    slope: float = 0.0,
    accumulate: bool = False,
    accumulate_gamma: bool = False,
    accumulate_beta: bool = False,
    half_sum: bool = False,
    cooperative: bool = False,
    workspace: Any | None = None,
) -> None:
    """Gradients of x (..., C), gamma and beta (C,) from dy (..., C), the activated output's.

    Each of dx, dgamma, dbeta may be None; dx may be dy. x with dx, and dy, may hold bf16 numbers.
    fix_gamma: dgamma is 0, or unchanged if accumulating. use_global_stats: mean and var are
    constants. moving_mean, moving_var (C,), where given, move as batch_norm_update_moving has it,
    which costs no launch here. slices (n, ..., C), where given: their sum is meant in place of dy,
    which is None; half_sum as in forward; neither accumulate nor use_global_stats then.
    cooperative as in forward. ValueError as forward, or where the moving statistics have no
    momentum.
    """
    operator = "batch_norm_backward"
    _check_one(operator, "dy", dy, slices)
    if slices is not None and (accumulate or use_global_stats):
        raise ValueError(
            f"{operator}: slices take neither accumulate nor use_global_stats; add them first "
            "(in_slices=False of the operator that leaves them)"
        )
    rows, channels = _check(
        operator,
        x,
        y=dy,
        gamma=gamma,
        beta=beta,
        mean=mean,
        var=var,
        dx=dx,
        dgamma=dgamma,
        dbeta=dbeta,
        moving_mean=moving_mean,
        moving_var=moving_var,
    )
    _check_slices(operator, slices, x, None, half_sum, x)
    kind = check_kind(operator, activation)
    has_workspace(operator, workspace, backward_workspace(x.shape))
    _check_moving(operator, moving_mean, moving_var, momentum)

    needs_sums = dgamma is not None or dbeta is not None
    needs_sums = needs_sums or (dx is not None and not use_global_stats)
    if dx is None and not needs_sums:
        if momentum is not None:
            batch_norm_update_moving(mean, var, moving_mean, moving_var, momentum=momentum)
        return
    width = _width(channels, x, dy, dx, slices, workspace)
    variant = {"ACTIVATION": kind, "VECTOR": width} | _types(x, x if dy is None else dy)
    kernel = _kernel_for(x, slices, variant)
    operands = (x, gamma, beta, mean, var)
    start = (*operands, dy) if slices is None else (slices, *operands)
    count = () if slices is None else (slices.shape[0],)
    outputs = (dx, dgamma, dbeta, moving_mean, moving_var)
    attributes = (eps, slope, 0.0 if momentum is None else momentum, int(fix_gamma))
    modes = (int(use_global_stats), int(accumulate), int(accumulate_gamma), int(accumulate_beta))
    plan = whole_plan(rows, channels, width, arrays=2) if needs_sums else None
    if plan is not None:
        own = modes if slices is None else modes[2:]
        arguments = (*start, *outputs, *count, rows, channels, *attributes, *own)
        kernel(operator, plan, plan.columns, *arguments)
        return
    plan = split_plan(rows, channels, width)
    grid = (plan.columns, plan.splits)
    sizes = (rows, channels, plan.rows_per_split)
    alike = slices is None and not is_half(x) and not is_half(dy)
    if cooperative and alike and needs_sums and dx is not None:
        for kept in (2, 1):  # arrays whose rows stay in shared memory
            if one := _together(x.context, operator, plan, variant, kept):
                arrays: tuple[Any, ...] = (*operands, dy, *outputs, workspace, one.arrivals)
                one.launch(*arrays, *sizes, plan.columns, kept - 1, *attributes, *modes)
                return
    partial = None
    if needs_sums:
        partial = workspace
        # the sum of slices goes where dx shall be: a thread reads there before it writes
        arrays = (*start, partial) if slices is None else (*start, dx, partial)
        arguments = (*arrays, *count, *sizes, eps, slope, int(fix_gamma))
        kernel("batch_norm_gradient_sums", plan, grid, *arguments)
    splits = plan.splits if needs_sums else 0
    second = x.context.kernel(FILE, "batch_norm_backward_data", **variant)
    inputs = (*operands, dy if slices is None else dx)
    arguments = (*inputs, partial, *outputs, *sizes, splits, *attributes, *modes)
    second(grid if dx is not None else plan.columns, plan.block, *arguments)


def _kernel_for(like: Any, slices: Any | None, variant: dict[str, Any]) -> Callable[..., None]:
    """launch(entry, plan, grid, *arguments): of batch_norm.cu, or the one that adds slices first,
    with the shared memory for the sums of its block, stored as `like` stores numbers."""
    context = like.context

    def launch(entry: str, plan: Plan, grid: Any, *arguments: Any) -> None:
        if slices is None:
            context.kernel(FILE, entry, **variant)(grid, plan.block, *arguments)
            return
        kernel = context.kernel(SLICES_FILE, f"{entry}_of_slices", **variant)
        keeps = entry != "batch_norm_normalize"
        nbytes = plan.numbers * like.dtype.itemsize if keeps else 0
        kernel(grid, plan.block, *arguments, shared_bytes=nbytes)

    return launch


class Together(NamedTuple):
    """A cooperative launch of batch_norm_together.cu that the device holds at once: `launch` of the
    kernel's arguments, and the count of blocks at its barrier."""

    launch: Callable[..., None]
    arrivals: Any


def _together(
    context: Any, operator: str, plan: Plan, variant: dict[str, Any], arrays: int
) -> Together | None:
    """The launch that keeps the rows of `arrays` arrays, or None where it does not fit, or where a
    program asks what would be launched: it knows the two launches. None too where a recording is
    under way and nothing was prepared for the barrier before it."""
    if context.recorder is not None or (context.recording and context.arrivals is None):
        return None
    return _fitting(context, operator, plan, tuple(sorted(variant.items())), arrays)


@functools.lru_cache(maxsize=256)
def _fitting(
    context: Any, operator: str, plan: Plan, variant: tuple[tuple[str, Any], ...], arrays: int
) -> Together | None:
    blocks, nbytes = plan.columns * plan.splits, 4 * arrays * plan.numbers
    threads = plan.block[0] * plan.block[1]
    arrivals = cooperative_launches.arrivals(context, blocks)
    if arrivals is None or nbytes > context.limits.shared_bytes_opt_in // RESIDENT:
        return None  # before anything is compiled for it
    kernel = context.cooperative_kernel(TOGETHER_FILE, f"{operator}_together", **dict(variant))
    if blocks > kernel.most_blocks(threads, nbytes):
        return None
    launch = functools.partial(kernel, blocks, plan.block)
    return Together(functools.partial(launch, shared_bytes=nbytes), arrivals)


def batch_norm_update_moving(
    mean: Any, var: Any, moving_mean: Any, moving_var: Any, *, momentum: float
) -> None:
    """moving = momentum * moving + (1 - momentum) * batch, for mean and biased variance (C,)."""
    operator = "batch_norm_update_moving"
    same_shape(operator, mean=mean, var=var, moving_mean=moving_mean, moving_var=moving_var)
    if mean.size:
        # the variant does not matter, and this one is compiled for most networks anyway
        kernel = mean.context.kernel(FILE, operator, ACTIVATION="none", VECTOR=4)
        blocks = -(-mean.size // THREADS)
        kernel(blocks, THREADS, mean, var, moving_mean, moving_var, mean.size, momentum)


def _normalize(
    entry: str,
    plan: Plan,
    arrays: tuple[Any, ...],
    eps: float,
    fix_gamma: bool,
    kind: str,
    slope: float,
) -> None:
    """A launch that normalises; arrays, x first, and how many parts they hold, in the order of the
    kernel's parameters."""
    x, y = arrays[0], arrays[6]
    variant = {"ACTIVATION": kind, "VECTOR": plan.width} | _types(x, y)
    kernel = x.context.kernel(FILE, entry, **variant)
    grid = (plan.columns, plan.splits)
    sizes = (_rows(x.shape), x.shape[-1], plan.rows_per_split)
    kernel(grid, plan.block, *arrays, *sizes, eps, int(fix_gamma), slope)


def tiles_of(operator: str, moments: Any, channels: int, slices: Any | None) -> int:
    """How many tiles these moments are of."""
    if slices is not None:
        raise ValueError(f"{operator}: moments are of an x that is finished, and not in slices")
    has_rank(operator, "moments", moments, 1, "a vector of float32")
    tiles, rest = divmod(moments.size, moments_size(1, channels))
    if rest or not tiles:
        raise ValueError(
            f"{operator}: moments has {moments.size} numbers, but those of tiles with {channels} "
            f"channels are a multiple of {moments_size(1, channels)}"
        )
    return tiles


def _check(
    operator: str, x: Any, *, y: Any, dx: Any = None, **channel_arrays: Any
) -> tuple[int, int]:
    """(rows, channels) of x."""
    shape = device_array(operator, "x", x).shape
    if len(shape) < 2 or not x.size:
        raise ValueError(
            f"{operator}: x has shape {tuple(shape)}; it must be (..., C) with at least one row "
            "and one channel"
        )
    same_shape(operator, x=x, the_other_side=y, dx=dx)
    for name, array in channel_arrays.items():
        has_shape(operator, name, array, shape[-1:], f"x {tuple(shape)}")
    rows = _rows(shape)
    countable(operator, "rows", rows)
    return rows, shape[-1]


def _check_one(operator: str, name: str, array: Any | None, slices: Any | None) -> None:
    if (array is None) == (slices is None):
        raise ValueError(f"{operator}: give {name}, or the slices whose sum it would be")


def _check_slices(
    operator: str,
    slices: Any | None,
    whole: Any,
    bias: Any | None,
    half_sum: bool,
    stored: Any | None = None,
) -> None:
    """stored: the array whose numbers are such sums, or gradients of its shape."""
    if slices is not None:
        shape = (max(1, slices.shape[0]) if slices.shape else 1, *whole.shape)
        has_shape(operator, "slices", slices, shape, f"an array {tuple(whole.shape)}")
        if stored is not None and half_sum != is_half(stored):
            holds = "bf16" if is_half(stored) else "float32"
            raise ValueError(
                f"{operator}: half_sum is {half_sum}, but x holds {holds} numbers; sums are "
                f"rounded as x holds them, so pass half_sum={not half_sum}"
            )
    elif bias is not None or half_sum:
        what = "half_sum" if bias is None else "a bias"
        raise ValueError(f"{operator}: {what} comes with slices, and says how they are added")


def _check_moving(
    operator: str, moving_mean: Any | None, moving_var: Any | None, momentum: float | None
) -> None:
    given = [each is not None for each in (moving_mean, moving_var, momentum)]
    if any(given) != all(given):
        raise ValueError(
            f"{operator}: moving_mean, moving_var and momentum (here {momentum}) go together: "
            "give all three, or none of them"
        )
