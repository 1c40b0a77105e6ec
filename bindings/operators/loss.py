"""Launchers of kernels/loss.cu; the maths is in pygan.reference.loss."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from .validation import (
    THREADS,
    blocks_for,
    countable,
    device_array,
    has_rank,
    has_shape,
    has_workspace,
    same_shape,
)

FILE = "loss.cu"
MAX_PARTIAL_SUMS = 1024
ONE_BLOCK = 4096
"""Elements that one block sums alone: another launch, to add the sums of several, takes longer."""
ROWS_PER_BLOCK = 8
"""Rows of a softmax that one block does at a time: one per warp."""


def _element_blocks(shape: Sequence[int]) -> int:
    n = prod(shape)
    return 1 if n <= ONE_BLOCK else blocks_for(n, most=MAX_PARTIAL_SUMS)


def _row_blocks(shape: Sequence[int]) -> int:
    return blocks_for(prod(shape[:-1]), 4 * ROWS_PER_BLOCK, MAX_PARTIAL_SUMS)


def _partial_sums(blocks: int) -> int:
    return blocks if blocks > 1 else 0


WORKSPACE = {
    "sigmoid_cross_entropy_forward": lambda z, t, p, loss, *_, **__: (
        0 if loss is None else _partial_sums(_element_blocks(z))
    ),
    "softmax_cross_entropy_forward": lambda z, *_, **__: _partial_sums(_row_blocks(z)),
    "mean_squared_error_forward": lambda x, *_, **__: _partial_sums(_element_blocks(x)),
    "kullback_leibler_forward": lambda mean, *_, **__: _partial_sums(_element_blocks(mean)),
}


def softmax_forward(x: Any, y: Any) -> None:
    """y = softmax(x) over the last axis; y may be x."""
    operator = "softmax_forward"
    same_shape(operator, x=x, y=y)
    rows, columns = _rows(operator, x)
    if x.size:
        kernel = x.context.kernel(FILE, operator)
        kernel(blocks_for(rows, ROWS_PER_BLOCK), THREADS, x, y, rows, columns)


def softmax_backward(y: Any, dy: Any, dx: Any, *, accumulate: bool = False) -> None:
    """dx = y * (dy - sum(dy * y) over the last axis), from the forward's output y."""
    operator = "softmax_backward"
    same_shape(operator, y=y, dy=dy, dx=dx)
    rows, columns = _rows(operator, y)
    if y.size:
        kernel = y.context.kernel(FILE, operator)
        blocks = blocks_for(rows, ROWS_PER_BLOCK)
        kernel(blocks, THREADS, y, dy, dx, rows, columns, int(accumulate))


def sigmoid_cross_entropy_forward(
    logits: Any,
    labels: Any,
    probabilities: Any | None,
    loss: Any | None,
    dlogits: Any | None = None,
    *,
    scale: float,
    workspace: Any | None = None,
) -> None:
    """loss (1,) = scale * sum(max(z, 0) - z t + log(1 + exp(-|z|))), z logits, t labels in 0..1.

    `probabilities` receives sigmoid(z), `dlogits` what sigmoid_cross_entropy_backward would write;
    each of the three may be None. ValueError where shapes differ or the workspace is too small.
    """
    operator = "sigmoid_cross_entropy_forward"
    same = {"labels": labels, "probabilities": probabilities, "dlogits": dlogits}
    same_shape(operator, logits=logits, **same)
    has_shape(operator, "loss", loss, (1,), "a sum")
    blocks = blocks_for(logits.size) if loss is None else _element_blocks(logits.shape)
    arrays = (logits, labels, probabilities, dlogits)
    _sum(operator, blocks, arrays, loss, (logits.size,), scale, workspace)


def sigmoid_cross_entropy_backward(
    logits: Any, labels: Any, dlogits: Any, *, scale: float, accumulate: bool = False
) -> None:
    """dlogits = scale * (sigmoid(logits) - labels), any shape."""
    operator = "sigmoid_cross_entropy_backward"
    same_shape(operator, logits=logits, labels=labels, dlogits=dlogits)
    n = logits.size
    if n:
        kernel = logits.context.kernel(FILE, operator)
        blocks = blocks_for(n)
        kernel(blocks, THREADS, logits, labels, dlogits, n, scale, int(accumulate))


def softmax_cross_entropy_forward(
    logits: Any,
    labels: Any,
    probabilities: Any | None,
    loss: Any,
    dlogits: Any | None = None,
    *,
    scale: float,
    workspace: Any | None = None,
) -> None:
    """loss (1,) = -scale * sum(t log softmax(z)), z logits (N, K), t soft labels (N, K).

    `probabilities` (N, K) receives softmax(z), `dlogits` what softmax_cross_entropy_backward would
    write; both may be None. ValueError where shapes differ or the workspace is too small.
    """
    operator = "softmax_cross_entropy_forward"
    same = {"labels": labels, "probabilities": probabilities, "dlogits": dlogits}
    same_shape(operator, logits=logits, **same)
    has_shape(operator, "loss", loss, (1,), "a sum")
    rows, columns = _rows(operator, logits)
    arrays, sizes = (logits, labels, probabilities, dlogits), (rows if columns else 0, columns)
    _sum(operator, _row_blocks(logits.shape), arrays, loss, sizes, scale, workspace)


def softmax_cross_entropy_backward(
    logits: Any, labels: Any, dlogits: Any, *, scale: float, accumulate: bool = False
) -> None:
    """dlogits = scale * (softmax(logits) * sum_k(labels) - labels), (N, K)."""
    operator = "softmax_cross_entropy_backward"
    same_shape(operator, logits=logits, labels=labels, dlogits=dlogits)
    rows, columns = _rows(operator, logits)
    if logits.size:
        kernel = logits.context.kernel(FILE, operator)
        blocks = blocks_for(rows, ROWS_PER_BLOCK)
        kernel(blocks, THREADS, logits, labels, dlogits, rows, columns, scale, int(accumulate))


def mean_squared_error_forward(
    x: Any,
    target: Any,
    loss: Any,
    dx: Any | None = None,
    *,
    scale: float,
    workspace: Any | None = None,
) -> None:
    """loss (1,) = scale * sum((x - target)^2), any shape; scale = 1 / x.size makes it the mean.

    `dx` (may be None) receives what mean_squared_error_backward would write. ValueError where
    shapes differ or the workspace is too small.
    """
    operator = "mean_squared_error_forward"
    same_shape(operator, x=x, target=target, dx=dx)
    has_shape(operator, "loss", loss, (1,), "a sum")
    blocks = _element_blocks(x.shape)
    _sum(operator, blocks, (x, target, dx), loss, (x.size,), scale, workspace)


def mean_squared_error_backward(
    x: Any, target: Any, dx: Any, *, scale: float, accumulate: bool = False
) -> None:
    """dx = 2 * scale * (x - target), any shape."""
    operator = "mean_squared_error_backward"
    same_shape(operator, x=x, target=target, dx=dx)
    if x.size:
        kernel = x.context.kernel(FILE, operator)
        blocks = blocks_for(x.size)
        kernel(blocks, THREADS, x, target, dx, x.size, scale, int(accumulate))


def kullback_leibler_forward(
    mean: Any, lnsd: Any, loss: Any, *, scale: float, workspace: Any | None = None
) -> None:
    """loss (1,) = scale * sum(exp(lnsd) - 1 - lnsd + mean^2), mean and lnsd of one shape.

    ValueError where shapes differ or the workspace is too small.
    """
    operator = "kullback_leibler_forward"
    same_shape(operator, mean=mean, lnsd=lnsd)
    has_shape(operator, "loss", loss, (1,), "a sum")
    blocks = _element_blocks(mean.shape)
    _sum(operator, blocks, (mean, lnsd), loss, (mean.size,), scale, workspace)


def kullback_leibler_backward(
    lnsd: Any, dlnsd: Any, *, scale: float, accumulate: bool = False
) -> None:
    """dlnsd = scale * (exp(lnsd) - 1); the mean's gradient is 2 * scale * mean (axpy)."""
    operator = "kullback_leibler_backward"
    same_shape(operator, lnsd=lnsd, dlnsd=dlnsd)
    if lnsd.size:
        kernel = lnsd.context.kernel(FILE, operator)
        blocks = blocks_for(lnsd.size)
        kernel(blocks, THREADS, lnsd, dlnsd, lnsd.size, scale, int(accumulate))


def _rows(operator: str, array: Any) -> tuple[int, int]:
    """(rows, columns) of an array whose last axis is the softmax's."""
    shape = device_array(operator, "array", array).shape
    if not shape:
        has_rank(operator, "array", array, 2, "(..., K)")
    rows, columns = prod(shape[:-1]), shape[-1]
    countable(operator, "rows", rows)
    countable(operator, "columns", columns)
    return rows, columns


def _sum(
    operator: str,
    blocks: int,
    arrays: Sequence[Any],
    loss: Any | None,
    sizes: Sequence[int],
    scale: float,
    workspace: Any | None,
) -> None:
    """The launch of a loss's forward, and of what adds the sums of its blocks; loss is None where
    nobody asks for the sum."""
    sums = 0 if loss is None else _partial_sums(blocks)
    has_workspace(operator, workspace, sums)
    partial = workspace if sums else None
    context = arrays[0].context
    context.kernel(FILE, operator)(blocks, THREADS, *arrays, partial, loss, *sizes, scale)
    if sums:
        context.kernel(FILE, "loss_sum")(1, THREADS, partial, loss, sums, scale)
