"""The batch-norm twins against the formulas, finite differences, and hard data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twin_support import (
    DIFFERENCE,
    assert_within,
    check_both_modes,
    numbers,
    numeric_gradient,
    rounding,
)

from pygan import reference
from pygan.reference import batch_norm, parallel

ACTIVATIONS = {
    None: lambda z, slope: z,
    "relu": lambda z, slope: np.where(z > 0, z, 0),
    "leaky_relu": lambda z, slope: np.where(z > 0, z, slope * z),
    "elu": lambda z, slope: np.where(z > 0, z, slope * np.expm1(z)),
    "sigmoid": lambda z, slope: 1 / (1 + np.exp(-z)),
    "tanh": lambda z, slope: np.tanh(z),
    "softplus": lambda z, slope: np.log1p(np.exp(z)),
}
SLOPE = 0.2
EPS = 1e-3


def parameters(channels: int, dtype: type = np.float64):
    gamma = (1 + 0.3 * numbers(11, channels)).astype(dtype)
    return gamma, numbers(12, channels, dtype=dtype)


def textbook(x, gamma, beta, activation):
    mean = x.mean(axis=tuple(range(x.ndim - 1)))
    var = ((x - mean) ** 2).mean(axis=tuple(range(x.ndim - 1)))
    z = gamma * (x - mean) / np.sqrt(var + EPS) + beta
    return ACTIVATIONS[activation](z, SLOPE), mean, var


@settings(max_examples=60)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 9)),
        st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(1, 5)),
    ),
    activation=st.sampled_from(list(ACTIVATIONS)),
    fix_gamma=st.booleans(),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_training_forward_is_the_textbooks(shape, activation, fix_gamma, offset):
    x = numbers(1, *shape) + offset
    gamma, beta = parameters(shape[-1])
    if fix_gamma:
        gamma[:] = 7.0
    y = np.full(shape, np.nan)
    mean, var = np.full(shape[-1], np.nan), np.full(shape[-1], np.nan)
    reference.batch_norm_forward_training(
        x, gamma, beta, y, mean, var, eps=EPS, fix_gamma=fix_gamma, activation=activation, slope=0.2
    )
    if fix_gamma:
        assert (gamma == 1).all()
    expected, expected_mean, expected_var = textbook(x, gamma, beta, activation)
    # Sums of count numbers of size offset + 5; then 1 / sqrt(eps) = 32 at most scales the errors.
    unit = rounding(x.size // shape[-1] + 10, np.float64) * (offset + 5)
    assert_within(mean, expected_mean, unit, "mean")
    assert_within(var, expected_var, unit * (offset + 5), "var")
    assert_within(y, expected, unit * 5 * (offset + 5) * 32**3, "y")


@pytest.mark.parametrize("fix_gamma", [False, True])
@pytest.mark.parametrize("use_global_stats", [False, True])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_gradients_are_finite_differences(activation, use_global_stats, fix_gamma, offset):
    x = numbers(1, 3, 2, 2, 3) + offset
    gamma, beta = parameters(3)
    if fix_gamma:
        gamma[:] = 1
    head = numbers(2, *x.shape)
    mean, var = numbers(3, 3) + offset, 1 + numbers(4, 3) ** 2
    options = {"eps": EPS, "fix_gamma": fix_gamma, "activation": activation, "slope": SLOPE}

    def loss():
        y = np.empty_like(x)
        if use_global_stats:
            reference.batch_norm_forward_inference(x, gamma, beta, mean, var, y, **options)
        else:
            reference.batch_norm_forward_training(x, gamma, beta, y, mean, var, **options)
        return float((y * head).sum())

    loss()
    statistics = mean.copy(), var.copy()
    results = {}

    def backward(name):
        def call(out, accumulate):
            outputs = {"dx": None, "dgamma": None, "dbeta": None, name: out}
            reference.batch_norm_backward(
                x,
                gamma,
                beta,
                *statistics,
                head,
                *outputs.values(),
                use_global_stats=use_global_stats,
                accumulate=accumulate,
                accumulate_gamma=accumulate,
                accumulate_beta=accumulate,
                **options,
            )

        return call

    results = {"dx": numeric_gradient(loss, x), "dbeta": numeric_gradient(loss, beta)}
    # A fixed gamma is reset by every forward: its difference is 0, as its gradient must be.
    results["dgamma"] = np.zeros(3) if fix_gamma else numeric_gradient(loss, gamma)
    for name, numeric in results.items():
        # 1 / deviation, up to 1 / sqrt(EPS), multiplies the differences' error in x.
        check_both_modes(backward(name), numeric, DIFFERENCE * 10 * (1 + np.abs(numeric)))
    if fix_gamma:
        for poison in (np.nan, 3.0):
            dgamma = np.full(3, poison)
            backward("dgamma")(dgamma, False)
            assert (dgamma == 0).all()
        dgamma = np.full(3, 3.0)
        backward("dgamma")(dgamma, True)
        assert (dgamma == 3).all()


def test_all_gradients_at_once_equal_each_alone_and_dx_may_be_dy():
    x, dy = numbers(1, 4, 5, 3), numbers(2, 4, 5, 3)
    gamma, beta = parameters(3)
    mean, var = x.mean(axis=(0, 1)), x.var(axis=(0, 1))
    options = {
        "eps": EPS,
        "fix_gamma": False,
        "use_global_stats": False,
        "activation": "leaky_relu",
        "slope": SLOPE,
    }
    together = [np.full_like(x, np.nan), np.full(3, np.nan), np.full(3, np.nan)]
    reference.batch_norm_backward(x, gamma, beta, mean, var, dy, *together, **options)
    for k, expected in enumerate(together):
        alone = [None, None, None]
        alone[k] = np.full_like(expected, np.nan)
        reference.batch_norm_backward(x, gamma, beta, mean, var, dy, *alone, **options)
        assert np.array_equal(alone[k], expected)
    aliased = dy.copy()
    reference.batch_norm_backward(
        x, gamma, beta, mean, var, aliased, aliased, None, None, **options
    )
    assert np.array_equal(aliased, together[0])


@pytest.mark.parametrize("shape", [(64, 8, 8, 24), (4099, 3)])
def test_a_mean_of_ten_thousand_and_a_deviation_of_one_survive_float32(shape):
    x = (numbers(1, *shape) + 1e4).astype(np.float32)
    gamma, beta = parameters(shape[-1], np.float32)
    y, mean, var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    reference.batch_norm_forward_training(x, gamma, beta, y, mean, var, eps=EPS, fix_gamma=False)
    expected, expected_mean, expected_var = textbook(
        x.astype(np.float64), gamma.astype(np.float64), beta.astype(np.float64), None
    )
    # The mean can be no better than a float32 near 1e4 is: half of 2^-10, here doubled for the two
    # roundings it takes. y inherits that error, times gamma / deviation; var only its square.
    of_mean = 2 * 1e4 * rounding(1, np.float32)
    assert_within(mean, expected_mean, of_mean, "mean")
    assert_within(var, expected_var, 1e-5, "var")
    assert_within(y, expected, of_mean * np.abs(gamma) * 1.1 + 1e-5, "y")


@pytest.mark.parametrize("shape", [(32, 26, 26, 24), (32, 14, 14, 64), (32, 1, 1, 64)])
def test_float32_at_the_lessons_shapes(shape):
    """No sum here is longer than 150 roundings: rows of a block, then blocks, then the pixels of a
    wide row. Without an activation, since a kink turns rounding into a jump."""
    options = {"eps": EPS, "fix_gamma": False}
    results = {}
    for dtype in (np.float32, np.float64):
        x, dy = (numbers(k, *shape).astype(np.float32).astype(dtype) for k in (1, 2))
        gamma, beta = (a.astype(np.float32).astype(dtype) for a in parameters(shape[-1]))
        y, dx = np.full_like(x, np.nan), np.full_like(x, np.nan)
        mean, var, dgamma, dbeta = (np.full_like(gamma, np.nan) for _ in range(4))
        reference.batch_norm_forward_training(x, gamma, beta, y, mean, var, **options)
        reference.batch_norm_backward(
            x, gamma, beta, mean, var, dy, dx, dgamma, dbeta, use_global_stats=False, **options
        )
        results[dtype] = {"y": y, "dx": dx, "mean": mean, "var": var, "dbeta": dbeta / x.size}
        results[dtype]["dgamma"] = dgamma / x.size
    for name, computed in results[np.float32].items():
        # Numbers of size up to 5, multiplied by gamma up to 2 and by one another.
        assert_within(computed, results[np.float64][name], 20 * rounding(150, np.float32), name)


def test_batches_whose_first_images_differ_from_the_rest():
    """The statistics start from a guess taken from the first rows: a wrong one is corrected."""
    rows = 1 << 16
    for first, rest in ((0.0, 1e3), (1e3, 0.0), (0.0, 0.0)):
        x = numbers(1, 4 * rows, 4)
        x[:rows] += first
        x[rows:] += rest
        gamma, beta = parameters(4)
        y, mean, var = np.empty_like(x), np.empty(4), np.empty(4)
        reference.batch_norm_forward_training(
            x, gamma, beta, y, mean, var, eps=EPS, fix_gamma=False
        )
        expected, expected_mean, expected_var = textbook(x, gamma, beta, None)
        # Sums over 65536 rows of numbers up to 1e3, or 1e6 squared.
        unit = rounding(len(x), np.float64)
        assert_within(mean, expected_mean, unit * 1e3)
        assert_within(var, expected_var, unit * 1e6)
        assert_within(y, expected, unit * 1e6 * 10)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_constant_channels_have_no_variance(value):
    """Dead channels: beta comes out, var is not negative, and the gradient stays finite."""
    x = np.full((8, 5, 5, 2), value, np.float32)
    gamma, beta = parameters(2, np.float32)
    y, mean, var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    reference.batch_norm_forward_training(x, gamma, beta, y, mean, var, eps=EPS, fix_gamma=False)
    assert_within(mean, np.full(2, value), 2 * abs(value) * rounding(1, np.float32))
    assert (var >= 0).all()
    assert_within(var, np.zeros(2), (2 * abs(value) * rounding(1, np.float32)) ** 2)
    shift = 2 * abs(value) * rounding(1, np.float32) / np.sqrt(EPS)
    assert_within(y, np.broadcast_to(beta, x.shape), 2 * shift + 1e-6)
    dx = np.empty_like(x)
    reference.batch_norm_backward(
        x,
        gamma,
        beta,
        mean,
        var,
        numbers(3, *x.shape, dtype=np.float32),
        dx,
        None,
        None,
        eps=EPS,
        fix_gamma=False,
        use_global_stats=False,
    )
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_exactly_zero_takes_the_derivative_of_the_negative_side(activation):
    x = np.zeros((4, 2))
    gamma, beta, mean, var = np.ones(2), np.zeros(2), np.zeros(2), np.ones(2)
    dy, dbeta = np.ones_like(x), np.full(2, np.nan)
    reference.batch_norm_backward(
        x,
        gamma,
        beta,
        mean,
        var,
        dy,
        None,
        None,
        dbeta,
        eps=0.0,
        fix_gamma=False,
        use_global_stats=True,
        activation=activation,
        slope=0.25,
    )
    assert (dbeta == 4 * (0 if activation == "relu" else 0.25)).all()


@pytest.mark.parametrize("passes", [1, 300])
def test_results_do_not_depend_on_the_parts(monkeypatch, passes):
    x, dy = numbers(1, 6, 7, 5), numbers(2, 6, 7, 5)
    gamma, beta = parameters(5)
    options = {"eps": EPS, "fix_gamma": False, "activation": "relu"}

    def results():
        y, mean, var, dx = np.empty_like(x), np.empty(5), np.empty(5), np.empty_like(x)
        dgamma, dbeta = np.empty(5), np.empty(5)
        reference.batch_norm_forward_training(x, gamma, beta, y, mean, var, **options)
        reference.batch_norm_backward(
            x, gamma, beta, mean, var, dy, dx, dgamma, dbeta, use_global_stats=False, **options
        )
        return y, mean, var, dx, dgamma, dbeta

    whole = results()
    monkeypatch.setattr(parallel, "PASSES", passes)
    monkeypatch.setattr(batch_norm, "WIDE", 5)
    for computed, expected in zip(results(), whole, strict=True):
        assert_within(computed, expected, rounding(42 * 4, np.float64) * 42)


def test_moving_statistics():
    mean, var = numbers(1, 4), numbers(2, 4) ** 2
    moving_mean, moving_var = numbers(3, 4), numbers(4, 4) ** 2
    expected = 0.9 * moving_mean + 0.1 * mean, 0.9 * moving_var + 0.1 * var
    reference.batch_norm_update_moving(mean, var, moving_mean, moving_var, momentum=0.9)
    assert_within(moving_mean, expected[0], rounding(4, np.float64) * 4)
    assert_within(moving_var, expected[1], rounding(4, np.float64) * 4)


def test_backward_moves_the_statistics_that_it_is_given():
    x, dy = numbers(1, 6, 4), numbers(2, 6, 4)
    gamma, beta = parameters(4)
    mean, var = x.mean(axis=0), x.var(axis=0)
    moving = [numbers(3, 4), numbers(4, 4) ** 2]
    expected = [a.copy() for a in moving]
    reference.batch_norm_update_moving(mean, var, *expected, momentum=0.75)
    options = {"eps": EPS, "fix_gamma": False, "use_global_stats": False}
    arrays = (x, gamma, beta, mean, var, dy, np.empty_like(x), None, None)
    reference.batch_norm_backward(*arrays, *moving, momentum=0.75, **options)
    for computed, wished in zip(moving, expected, strict=True):
        assert np.array_equal(computed, wished)
    with pytest.raises(ValueError, match=r"momentum \(here None\) go together"):
        reference.batch_norm_backward(*arrays, *moving, **options)


def test_what_does_not_fit_is_refused():
    x, c = np.zeros((4, 3)), np.zeros(3)
    with pytest.raises(ValueError, match=r"beta has shape \(4,\) but x \(4, 3\)"):
        reference.batch_norm_forward_training(
            x, c, np.zeros(4), x.copy(), c, c, eps=EPS, fix_gamma=True
        )
    with pytest.raises(ValueError, match="at least one row"):
        reference.batch_norm_forward_training(x[:0], c, c, x[:0], c, c, eps=EPS, fix_gamma=True)
    with pytest.raises(ValueError, match="'swish' is unknown"):
        reference.batch_norm_forward_inference(
            x, c, c, c, c, x.copy(), eps=EPS, fix_gamma=True, activation="swish"
        )
    with pytest.raises(ValueError, match="batch_norm_backward"):
        reference.batch_norm_backward(
            x,
            c,
            c,
            c,
            c,
            np.zeros((3, 3)),
            x.copy(),
            None,
            None,
            eps=EPS,
            fix_gamma=True,
            use_global_stats=False,
        )


def test_slices_without_the_array_that_gets_their_sum_are_refused():
    c, normalisation, slices = np.zeros(3), np.zeros((3, 4)), np.zeros((2, 4, 3))
    with pytest.raises(ValueError, match="slices are given, but not x"):
        reference.batch_norm_normalisation_inference(
            c, c, c, c, normalisation, None, slices, eps=EPS, fix_gamma=False
        )
