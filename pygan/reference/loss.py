"""Softmax and the losses. Every loss is `scale` times a sum, in one element, and has no head
gradient: its backward is the gradient of the loss itself (MXNet's MakeLoss)."""

from __future__ import annotations

import numpy as np

from . import shapes
from .activation import sigmoid
from .store import store


def softmax_forward(x: np.ndarray, y: np.ndarray) -> None:
    """y = exp(x - max) / sum of exp(x - max) over the last axis; y may be x."""
    shapes.check_same("softmax_forward", x=x, y=y)
    np.subtract(x, x.max(axis=-1, keepdims=True), out=y)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)


def softmax_backward(
    y: np.ndarray, dy: np.ndarray, dx: np.ndarray, *, accumulate: bool = False
) -> None:
    """dx = y (dy - sum of dy y over the last axis), from the forward's output y."""
    shapes.check_same("softmax_backward", y=y, dy=dy, dx=dx)
    store(dx, y * (dy - (dy * y).sum(axis=-1, keepdims=True)), accumulate)


def sigmoid_cross_entropy_forward(
    logits: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray | None,
    loss: np.ndarray | None,
    dlogits: np.ndarray | None = None,
    *,
    scale: float,
    workspace: np.ndarray | None = None,
) -> None:
    """loss (1,) = scale sum(max(z, 0) - z t + log(1 + exp(-|z|))), z logits, t labels in 0..1.

    This is the cross-entropy -t log p - (1 - t) log(1 - p) with p = sigmoid(z), which
    `probabilities` receives, in the form that neither overflows nor saturates. `dlogits` receives
    what sigmoid_cross_entropy_backward writes. Each of the three may be None.
    """
    operator = "sigmoid_cross_entropy_forward"
    shapes.check_same(operator, logits=logits, labels=labels, probabilities=probabilities)
    shapes.check_shape(operator, "loss", loss, (1,), "a sum")
    if loss is not None:
        terms = np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))
        loss[0] = logits.dtype.type(scale) * terms.sum()
    if probabilities is not None:
        sigmoid(logits, probabilities)
    if dlogits is not None:
        sigmoid_cross_entropy_backward(logits, labels, dlogits, scale=scale)


def sigmoid_cross_entropy_backward(
    logits: np.ndarray,
    labels: np.ndarray,
    dlogits: np.ndarray,
    *,
    scale: float,
    accumulate: bool = False,
) -> None:
    """dlogits = scale (sigmoid(logits) - labels)"""
    shapes.check_same(
        "sigmoid_cross_entropy_backward", logits=logits, labels=labels, dlogits=dlogits
    )
    gradient = np.empty_like(logits)
    sigmoid(logits, gradient)
    gradient -= labels
    gradient *= logits.dtype.type(scale)
    store(dlogits, gradient, accumulate)


def softmax_cross_entropy_forward(
    logits: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray | None,
    loss: np.ndarray,
    dlogits: np.ndarray | None = None,
    *,
    scale: float,
    workspace: np.ndarray | None = None,
) -> None:
    """loss (1,) = -scale sum(t log softmax(z)), z logits (N, K), t soft labels (N, K).

    `probabilities` (N, K) receives softmax(z), `dlogits` what softmax_cross_entropy_backward
    writes; both may be None.
    """
    operator = "softmax_cross_entropy_forward"
    shapes.check_same(operator, logits=logits, labels=labels, probabilities=probabilities)
    shapes.check_shape(operator, "loss", loss, (1,), "a sum")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    loss[0] = -logits.dtype.type(scale) * (labels * log_softmax).sum()
    if probabilities is not None:
        softmax_forward(logits, probabilities)
    if dlogits is not None:
        softmax_cross_entropy_backward(logits, labels, dlogits, scale=scale)


def softmax_cross_entropy_backward(
    logits: np.ndarray,
    labels: np.ndarray,
    dlogits: np.ndarray,
    *,
    scale: float,
    accumulate: bool = False,
) -> None:
    """dlogits = scale (softmax(logits) sum_k(labels) - labels), (N, K)."""
    shapes.check_same(
        "softmax_cross_entropy_backward", logits=logits, labels=labels, dlogits=dlogits
    )
    gradient = np.empty_like(logits)
    softmax_forward(logits, gradient)
    gradient *= labels.sum(axis=-1, keepdims=True)
    gradient -= labels
    gradient *= logits.dtype.type(scale)
    store(dlogits, gradient, accumulate)


def mean_squared_error_forward(
    x: np.ndarray,
    target: np.ndarray,
    loss: np.ndarray,
    dx: np.ndarray | None = None,
    *,
    scale: float,
    workspace: np.ndarray | None = None,
) -> None:
    """loss (1,) = scale sum((x - target)^2), any shape; scale = 1 / x.size makes it the mean.

    `dx` (may be None) receives what mean_squared_error_backward writes.
    """
    shapes.check_same("mean_squared_error_forward", x=x, target=target)
    shapes.check_shape("mean_squared_error_forward", "loss", loss, (1,), "a sum")
    loss[0] = x.dtype.type(scale) * np.square(x - target).sum()
    if dx is not None:
        mean_squared_error_backward(x, target, dx, scale=scale)


def mean_squared_error_backward(
    x: np.ndarray, target: np.ndarray, dx: np.ndarray, *, scale: float, accumulate: bool = False
) -> None:
    """dx = 2 scale (x - target)"""
    shapes.check_same("mean_squared_error_backward", x=x, target=target, dx=dx)
    store(dx, (x - target) * x.dtype.type(2 * scale), accumulate)


def kullback_leibler_forward(
    mean: np.ndarray,
    lnsd: np.ndarray,
    loss: np.ndarray,
    *,
    scale: float,
    workspace: np.ndarray | None = None,
) -> None:
    """loss (1,) = scale sum(exp(lnsd) - 1 - lnsd + mean^2), mean and lnsd of one shape.

    With lnsd the logarithm of the variance this is twice the divergence of N(mean, variance) from
    N(0, 1) (Kingma and Welling 2014, appendix B); the lesson puts the logarithm of the standard
    deviation there, whose least value is at mean 0 and deviation 1 all the same.
    """
    operator = "kullback_leibler_forward"
    shapes.check_same(operator, mean=mean, lnsd=lnsd)
    shapes.check_shape(operator, "loss", loss, (1,), "a sum")
    loss[0] = mean.dtype.type(scale) * (np.expm1(lnsd) - lnsd + np.square(mean)).sum()


def kullback_leibler_backward(
    lnsd: np.ndarray, dlnsd: np.ndarray, *, scale: float, accumulate: bool = False
) -> None:
    """dlnsd = scale (exp(lnsd) - 1); the mean's gradient is 2 scale mean (axpy)."""
    shapes.check_same("kullback_leibler_backward", lnsd=lnsd, dlnsd=dlnsd)
    store(dlnsd, np.expm1(lnsd) * lnsd.dtype.type(scale), accumulate)
