"""Optimizer steps against the recurrences, one number at a time in Python's own arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from twin_support import assert_within, numbers, rounding

from pygan import reference
from pygan.reference import parallel

COUNT, STEPS = 37, 6
OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "rescale_grad": 0.25, "clip_gradient": 0.3},
]


def clip(value, options):
    limit = options.get("clip_gradient")
    return value if limit is None else max(-limit, min(limit, value))


def adam(w, g, s, t, rate, beta1=0.5, beta2=0.999, eps=1e-8, **options):
    g = clip(g * options.get("rescale_grad", 1) + options.get("weight_decay", 0) * w, options)
    b1, b2 = float(np.float32(beta1)), float(np.float32(beta2))
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
    corrected = rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    return w - corrected * s["m"] / (math.sqrt(s["v"]) + eps)


def sgd(w, g, s, t, rate, momentum=0.0, **options):
    g = clip(g * options.get("rescale_grad", 1), options) + options.get("weight_decay", 0) * w
    s["change"] = momentum * s.get("change", 0.0) - rate * g
    return w + s["change"]


def rmsprop(w, g, s, t, rate, rho=0.9, eps=1e-7, learning_rate_decay=0.0, **options):
    g = clip(g * options.get("rescale_grad", 1) + options.get("weight_decay", 0) * w, options)
    rho = float(np.float32(rho))
    s["a"] = rho * s.get("a", 0.0) + (1 - rho) * g * g
    return w - rate / (1 + learning_rate_decay * (t - 1)) * g / (math.sqrt(s["a"]) + eps)


CASES = [
    (reference.adam_update, adam, 2, {"beta1": 0.5, "beta2": 0.999, "eps": 1e-8}),
    (reference.adam_update, adam, 2, {"beta1": 0.9, "beta2": 0.99, "eps": 1e-3}),
    (reference.sgd_update, sgd, 0, {}),
    (reference.sgd_update, sgd, 1, {"momentum": 0.9}),
    (reference.rmsprop_update, rmsprop, 1, {"rho": 0.9, "eps": 1e-7}),
    (reference.rmsprop_update, rmsprop, 1, {"rho": 0.99, "learning_rate_decay": 0.5}),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("update", "by_hand", "buffers", "own"), CASES)
def test_steps_follow_the_recurrence(update, by_hand, buffers, own, options, dtype):
    rate = 0.01
    w = numbers(1, COUNT, dtype=dtype)
    state = [np.zeros(COUNT, dtype) for _ in range(buffers)]
    if update is reference.sgd_update and not buffers:
        state = [None]
    step, learning_rate = np.zeros(1024, np.int32), np.full(1, rate, dtype)
    expected, memory = [float(v) for v in w], [{} for _ in range(COUNT)]
    for t in range(1, STEPS + 1):
        g = numbers(10 + t, COUNT, dtype=dtype)
        update(w, g, *state, step, learning_rate, **own, **options)
        assert (step == t).all()
        expected = [
            by_hand(
                expected[k], float(g[k]), memory[k], t, float(learning_rate[0]), **own, **options
            )
            for k in range(COUNT)
        ]
        # Each step rounds w once and its change some ten times; a change is at most a few rates
        # times 1 / (1 - momentum), and old errors stay.
        allowed = t * (rounding(1, dtype) * 4 + rounding(12, dtype) * 100 * rate)
        assert_within(w, np.array(expected), allowed, f"w after {t} steps")


def test_adam_does_not_depend_on_its_blocks(monkeypatch):
    def run():
        w, m, v = numbers(1, COUNT), np.zeros(COUNT), np.zeros(COUNT)
        step = np.zeros(4, np.int32)
        for t in range(3):
            reference.adam_update(
                w, numbers(t, COUNT), m, v, step, np.full(1, 0.1), beta1=0.5, beta2=0.9, eps=1e-8
            )
        return w, m, v

    whole = run()
    monkeypatch.setattr(parallel, "PASSES", 8 * 13)
    for computed, expected in zip(run(), whole, strict=True):
        assert np.array_equal(computed, expected)


def test_the_first_step_of_adam_is_the_learning_rate():
    """Whatever the gradient's size: lr_t m / sqrt(v) = lr, but for eps and float32's 1 - beta2."""
    w, m, v = np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
    g = np.array([1e-3, -1.0, 1e3], np.float32)
    step, rate = np.zeros(1024, np.int32), np.full(1, 2e-4, np.float32)
    reference.adam_update(w, g, m, v, step, rate, beta1=0.5, beta2=0.999, eps=1e-8)
    # MXNet forms 1 - beta2 from float32 beta2: sqrt(1e-3 / 0.99998713e-3) = 1 + 6.4e-6. The small
    # gradient also feels eps = 1e-8 beside sqrt(v) = 3.2e-5: 3.2e-4 of the step.
    expected = -2e-4 * np.sign(g) * (1 + 6.4e-6) / (1 + 1e-8 / (np.abs(g) * np.sqrt(1e-3)))
    assert_within(w, expected, 2e-4 * 1e-6)


def test_buffers_that_do_not_fit_are_refused():
    a, b, step, rate = np.zeros(4), np.zeros(5), np.zeros(1024, np.int32), np.zeros(1)
    with pytest.raises(ValueError, match=r"g has shape \(5,\) but w has \(4,\)"):
        reference.adam_update(a, b, a, a, step, rate, beta1=0.5, beta2=0.9, eps=1e-8)
    with pytest.raises(ValueError, match=r"beta2 is 1\.0"):
        reference.adam_update(a, a, a, a, step, rate, beta1=0.5, beta2=1.0, eps=1e-8)
    with pytest.raises(ValueError, match=r"clip_gradient 0"):
        reference.sgd_update(a, a, None, step, rate, clip_gradient=0)
    with pytest.raises(ValueError, match="a flat buffer"):
        square = np.zeros((2, 2))
        reference.rmsprop_update(square, square, square, step, rate)
    assert not step.any()
    with pytest.raises(ValueError, match=r"learning_rate has shape \(4,\)"):
        reference.rmsprop_update(a, a, a, step, a)
    with pytest.raises(ValueError, match=r"momentum 0\.9 needs a momentum_buffer"):
        reference.sgd_update(a, a, None, step, rate, momentum=0.9)


def test_workspace_sizes_are_none_and_names_are_checked():
    size = reference.workspace_size(
        "convolution_forward",
        (2, 8, 8, 3),
        (4, 3, 3, 3),
        None,
        (2, 6, 6, 4),
        stride=(1, 1),
        pad=(0, 0),
        dilation=(1, 1),
        groups=1,
    )
    assert size == 0
    with pytest.raises(ValueError, match="'convolve' is not one of"):
        reference.workspace_size("convolve")


def test_all_names_of_the_interface_exist():
    for name in reference.__all__:
        assert callable(getattr(reference, name)), name
        assert getattr(reference, name).__doc__, name
