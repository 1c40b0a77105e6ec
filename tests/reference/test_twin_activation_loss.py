"""Activations, softmax and losses against scipy and finite differences, and at the extremes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from twin_support import (
    DIFFERENCE,
    assert_within,
    check_both_modes,
    numbers,
    numeric_gradient,
    rounding,
)

from pygan import reference

FORMULAS = {
    "relu": lambda x, slope: np.maximum(x, 0),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": lambda x, slope: np.where(x > 0, x, slope * np.expm1(np.minimum(x, 0))),
    "sigmoid": lambda x, slope: scipy.special.expit(x),
    "tanh": lambda x, slope: np.tanh(x),
    "softplus": lambda x, slope: -scipy.special.log_expit(-x),
}
EXTREMES = np.array([-1e4, -200.0, -50.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 50.0, 200.0, 1e4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [0.25, 1.5])
@pytest.mark.parametrize("kind", list(FORMULAS))
def test_forward_is_the_formula_also_for_huge_inputs_and_in_place(kind, slope, dtype):
    x = np.concatenate([EXTREMES, numbers(1, 50)]).astype(dtype)
    expected = FORMULAS[kind](x.astype(np.float64), slope)
    y = np.full_like(x, np.nan)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        reference.activation_forward(x, y, kind=kind, slope=slope)
    # A few library functions in a row, each within an ulp or two; below 1e-37 float32 underflows.
    assert_within(y, expected, rounding(8, dtype) * np.abs(expected) + 1e-37)
    reference.activation_forward(x, x, kind=kind, slope=slope)
    assert np.array_equal(x, y)


@pytest.mark.parametrize("with_input", [True, False])
@pytest.mark.parametrize("slope", [0.25, 1.5, -0.5])
@pytest.mark.parametrize("kind", list(FORMULAS))
def test_backward_is_a_finite_difference(kind, slope, with_input):
    x, head = numbers(1, 3, 20), numbers(2, 3, 20)
    y = np.empty_like(x)

    def loss():
        reference.activation_forward(x, y, kind=kind, slope=slope)
        return float((y * head).sum())

    numeric = numeric_gradient(loss, x)
    loss()
    given = x if with_input or (kind in ("leaky_relu", "elu") and slope < 0) else None
    check_both_modes(
        lambda out, accumulate: reference.activation_backward(
            given, y, head, out, kind=kind, slope=slope, accumulate=accumulate
        ),
        numeric,
        DIFFERENCE * (1 + np.abs(numeric)),
    )


@pytest.mark.parametrize("kind", list(FORMULAS))
def test_results_do_not_depend_on_the_blocks(monkeypatch, kind):
    x, dy = numbers(1, 4, 7), numbers(2, 4, 7)

    def results():
        y, dx = np.full_like(x, np.nan), np.full_like(x, np.nan)
        reference.activation_forward(x, y, kind=kind, slope=0.3)
        reference.activation_backward(None, y, dy, dx, kind=kind, slope=0.3)
        return y, dx

    whole = results()
    monkeypatch.setattr("pygan.reference.parallel.PASSES", 12)
    for computed, expected in zip(results(), whole, strict=True):
        # Library functions on a vector's last, partial part may round the other way.
        assert_within(computed, expected, rounding(4, np.float64) * (1 + np.abs(expected)))


@pytest.mark.parametrize("kind", list(FORMULAS))
def test_the_gradient_may_replace_the_head_gradient(kind):
    x, dy = numbers(1, 7), numbers(2, 7)
    y, dx = np.empty_like(x), np.empty_like(x)
    reference.activation_forward(x, y, kind=kind, slope=0.3)
    reference.activation_backward(x, y, dy, dx, kind=kind, slope=0.3)
    reference.activation_backward(x, y, dy, dy, kind=kind, slope=0.3)
    assert np.array_equal(dx, dy)


@pytest.mark.parametrize(
    ("kind", "at_zero"), [("relu", 0.0), ("leaky_relu", 0.25), ("elu", 0.25), ("tanh", 1.0)]
)
def test_derivative_at_exactly_zero(kind, at_zero):
    x, y, dy, dx = np.zeros(3), np.zeros(3), np.ones(3), np.full(3, np.nan)
    for given in (x, None):
        reference.activation_backward(given, y, dy, dx, kind=kind, slope=0.25)
        assert (dx == at_zero).all()


def test_a_nan_is_not_hidden():
    for kind in FORMULAS:
        x = np.array([np.nan, 1.0], np.float32)
        y = np.zeros_like(x)
        with np.errstate(invalid="ignore"):
            reference.activation_forward(x, y, kind=kind, slope=0.2)
        assert np.isnan(y[0]) and np.isfinite(y[1]), kind


def test_unknown_kinds_and_missing_inputs_are_refused():
    x = np.zeros(3)
    with pytest.raises(ValueError, match=r"'swish' is unknown; use one of .*leaky_relu"):
        reference.activation_forward(x, x, kind="swish")
    with pytest.raises(ValueError, match="needs its input"):
        reference.activation_backward(None, x, x, x, kind="leaky_relu", slope=-0.1)
    with pytest.raises(ValueError, match=r"\(4,\).*\(3,\)"):
        reference.activation_forward(x, np.zeros(4), kind="relu")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_is_scipys(dtype):
    x = (numbers(1, 4, 3, 10) * 30).astype(dtype)
    x[0, 0] += 1e4
    y = np.full_like(x, np.nan)
    reference.softmax_forward(x, y)
    expected = scipy.special.softmax(x.astype(np.float64), axis=-1)
    # The exponent x - max is rounded at its own size, up to 200; exp turns that into a relative
    # error of as much.
    assert_within(y, expected, rounding(220, dtype) * expected + 1e-37)


def test_softmax_gradient_is_a_finite_difference():
    x, head = numbers(1, 4, 5), numbers(2, 4, 5)
    y = np.empty_like(x)

    def loss():
        reference.softmax_forward(x, y)
        return float((y * head).sum())

    numeric = numeric_gradient(loss, x)
    loss()
    check_both_modes(
        lambda out, accumulate: reference.softmax_backward(y, head, out, accumulate=accumulate),
        numeric,
        DIFFERENCE,
    )


def softmax_labels():
    labels = np.abs(numbers(5, 6, 4))
    return labels  # rows that do not sum to one


LOSSES = {
    "sigmoid_cross_entropy": (
        lambda: scipy.special.expit(numbers(5, 6, 4)),
        lambda z, t: -(t * scipy.special.log_expit(z) + (1 - t) * scipy.special.log_expit(-z)),
        scipy.special.expit,
    ),
    "softmax_cross_entropy": (
        softmax_labels,
        lambda z, t: -t * scipy.special.log_softmax(z, axis=-1),
        lambda z: scipy.special.softmax(z, axis=-1),
    ),
    "mean_squared_error": (lambda: numbers(5, 6, 4), lambda z, t: (z - t) ** 2, None),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_and_their_gradients(name):
    make_labels, formula, probability = LOSSES[name]
    z, labels, scale = numbers(1, 6, 4) * 3, make_labels(), 0.37
    forward = getattr(reference, f"{name}_forward")
    backward = getattr(reference, f"{name}_backward")
    loss = np.full(1, np.nan)

    def value():
        extra = () if probability is None else (None,)
        forward(z, labels, *extra, loss, scale=scale)
        return float(loss[0])

    terms = formula(z, labels)
    assert_within(
        np.array([value()]),
        np.array([scale * terms.sum()]),
        rounding(40, np.float64) * np.abs(terms).sum(),
    )
    numeric = numeric_gradient(value, z)
    check_both_modes(
        lambda out, accumulate: backward(z, labels, out, scale=scale, accumulate=accumulate),
        numeric,
        DIFFERENCE * 10,
    )
    if probability is not None:
        probabilities = np.full_like(z, np.nan)
        forward(z, labels, probabilities, loss, scale=scale)
        assert_within(probabilities, probability(z), rounding(20, np.float64))


def test_kullback_leibler_is_the_divergence_where_lnsd_is_the_logarithm_of_the_variance():
    """Twice the divergence of N(m, v) from N(0, 1), found by numerical integration."""
    x = np.linspace(-40, 40, 400_001)
    normal = -0.5 * x**2 - 0.5 * np.log(2 * np.pi)
    for mean, variance in ((0.0, 1.0), (1.5, 0.3), (-0.7, 2.5)):
        log_p = -0.5 * (x - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
        divergence = np.sum(np.exp(log_p) * (log_p - normal)) * (x[1] - x[0])
        loss = np.full(1, np.nan)
        reference.kullback_leibler_forward(
            np.array([mean]), np.array([np.log(variance)]), loss, scale=0.5
        )
        assert_within(loss, np.array([divergence]), 1e-9)  # of 400,000 summed roundings


def test_kullback_leibler_is_the_lessons_term_and_its_gradients_are_finite_differences():
    mean, lnsd, scale, loss = numbers(1, 6, 4), numbers(2, 6, 4), 0.37, np.full(1, np.nan)

    def value():
        reference.kullback_leibler_forward(mean, lnsd, loss, scale=scale)
        return float(loss[0])

    terms = -(1 + lnsd - mean**2 - np.exp(lnsd))
    expected = np.array([scale * terms.sum()])
    assert_within(np.array([value()]), expected, rounding(40, np.float64) * 24 * 10)
    check_both_modes(
        lambda out, accumulate: reference.kullback_leibler_backward(
            lnsd, out, scale=scale, accumulate=accumulate
        ),
        numeric_gradient(value, lnsd),
        DIFFERENCE * 10,
    )
    check_both_modes(
        lambda out, accumulate: reference.axpy(mean, out, alpha=2 * scale, accumulate=accumulate),
        numeric_gradient(value, mean),
        DIFFERENCE * 10,
    )
    with pytest.raises(ValueError, match=r"lnsd has shape \(4, 6\) but mean has \(6, 4\)"):
        reference.kullback_leibler_forward(mean, lnsd.T.copy(), loss, scale=1.0)


def test_cross_entropy_neither_overflows_nor_saturates():
    """log(1 + exp(z)) of logits up to 1e4, labels hard and soft, in float32."""
    z = np.repeat(EXTREMES, 3).astype(np.float32)
    labels = np.tile([0.0, 0.1, 1.0], len(EXTREMES)).astype(np.float32)
    loss, probabilities, gradient = np.empty(1, np.float32), np.empty_like(z), np.empty_like(z)
    wide, wide_labels = z.astype(np.float64), labels.astype(np.float64)
    for k in range(len(z)):
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            reference.sigmoid_cross_entropy_forward(
                z[k : k + 1], labels[k : k + 1], probabilities[k : k + 1], loss, scale=1.0
            )
        expected = np.logaddexp(0, wide[k]) - wide[k] * wide_labels[k]
        allowed = rounding(6, np.float32) * (abs(wide[k]) + 1)
        assert_within(loss, np.array([expected]), allowed, f"z {z[k]}, label {labels[k]}")
    reference.sigmoid_cross_entropy_backward(z, labels, gradient, scale=1.0)
    expected = scipy.special.expit(wide) - wide_labels
    assert_within(gradient, expected, rounding(6, np.float32))


def test_losses_refuse_what_does_not_fit():
    z = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"labels has shape \(4, 1\) but logits has \(4, 2\)"):
        reference.sigmoid_cross_entropy_forward(z, np.zeros((4, 1)), None, np.zeros(1), scale=1.0)
    with pytest.raises(ValueError, match=r"loss has shape \(4,\)"):
        reference.mean_squared_error_forward(z, z, np.zeros(4), scale=1.0)
