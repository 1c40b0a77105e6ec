"""The optimizers against their twins, several steps long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from support import (
    assert_close,
    assert_same_bits,
    examples_for,
    for_all,
    gamma,
    numbers,
    upload,
)

SLOTS = 1024
STEPS = 3
SIZES = st.sampled_from([1, 3, 4, 1023, 1025, 4096]) | st.integers(1, 5000)
# values that float32 holds, so that both sides compute with the same
DECAY = 2.0**-6
RATE = np.array([2.0**-9], np.float32)
EPS = 2.0**-27

COMMON = st.fixed_dictionaries(
    {
        "weight_decay": st.sampled_from([0.0, DECAY]),
        "rescale_grad": st.sampled_from([1.0, 0.125]),
        "clip_gradient": st.sampled_from([None, 0.5]),
    }
)


def prepared(w: np.ndarray, g: np.ndarray, common: dict[str, Any]) -> np.ndarray:
    """A bound on |gradient| before clipping, in which its rounding errors are measured."""
    return np.abs(g * common["rescale_grad"]) + np.abs(common["weight_decay"] * w)


def quotient_error(m: np.ndarray, m_error: Any, v: np.ndarray, v_error: Any) -> np.ndarray:
    """The error of m / (sqrt(v) + eps) for these errors of m and v, and its own roundings."""
    exact = np.abs(m) / (np.sqrt(v) + EPS)
    worst = (np.abs(m) + m_error) / (np.sqrt(np.maximum(v - v_error, 0)) + EPS)
    return worst - exact + gamma(8) * worst


def check_count(step: Any, expected: int) -> None:
    assert_same_bits(np.asarray(step), np.full(SLOTS, expected, np.int32), "update count")


def run(
    device: Any,
    name: str,
    memories: int,
    n: int,
    start: int,
    seed: int,
    check: Any,
    **attributes: Any,
) -> None:
    """STEPS updates; after each, check(before, g, exact, computed) compares with the twin's step
    from the same (float32) point."""
    rng = np.random.default_rng(seed)
    state = [
        numbers(rng, n),
        *[np.square(numbers(rng, n)) * np.float32(0.1) for _ in range(memories)],
    ]
    if start == 0:
        for memory in state[1:]:
            memory[...] = 0
    arrays = [upload(device, a) for a in state]
    step = upload(device, np.full(SLOTS, start, np.int32))
    rate = upload(device, RATE)
    for k in range(STEPS):
        g = numbers(rng, n)
        g[::7] = 0
        before = [np.asarray(a) for a in arrays]
        exact = [a.astype(np.float64) for a in before]
        done = np.full(SLOTS, start + k, np.int32)
        getattr(reference, name)(
            exact[0], g.astype(np.float64), *exact[1:], done, RATE.astype(np.float64), **attributes
        )
        getattr(device.ops, name)(
            arrays[0], upload(device, g), *arrays[1:], step, rate, **attributes
        )
        check(before, g, exact, [np.asarray(a) for a in arrays], start + k)
        check_count(step, start + k + 1)


def test_adam(device: Any) -> None:
    def body(case: tuple[int, int, dict[str, Any], float, int]) -> None:
        n, start, common, beta1, seed = case
        beta2 = 0.999
        b1, b2 = float(np.float32(beta1)), float(np.float32(beta2))

        def check(before: Any, g: Any, exact: Any, computed: Any, done: int) -> None:
            w, m, v = before
            bound = prepared(w, g, common)
            m_error = gamma(6) * (b1 * np.abs(m) + (1 - b1) * bound)
            v_error = gamma(10) * (b2 * v + (1 - b2) * bound**2)
            assert_close(computed[1], exact[1], m_error, "m")
            assert_close(computed[2], exact[2], v_error, "v")
            t = done + 1
            rate = float(RATE[0]) * np.sqrt(1 - beta2**t) / (1 - beta1**t)
            error = rate * quotient_error(exact[1], m_error, exact[2], v_error)
            assert_close(computed[0], exact[0], error + gamma(2) * np.abs(w), "w")

        run(
            device,
            "adam_update",
            2,
            n,
            start,
            seed,
            check,
            beta1=beta1,
            beta2=beta2,
            eps=EPS,
            **common,
        )

    cases = st.tuples(
        SIZES,
        st.sampled_from([0, 1, 1000, 10**6]),
        COMMON,
        st.sampled_from([0.5, 0.9, 0.0]),
        st.integers(0, 2**32),
    )
    for_all(cases, examples_for(device, 15), body)


def test_sgd(device: Any) -> None:
    def body(case: tuple[int, dict[str, Any], float, bool, int]) -> None:
        n, common, momentum, buffer, seed = case

        def check(before: Any, g: Any, exact: Any, computed: Any, _: int) -> None:
            change = float(RATE[0]) * prepared(before[0], g, common)
            if buffer:
                change = change + momentum * np.abs(before[1])
                assert_close(computed[1], exact[1], gamma(6) * change, "momentum")
            allowed = gamma(6) * change + gamma(1) * np.abs(before[0])
            assert_close(computed[0], exact[0], allowed, "w")

        if buffer:
            run(device, "sgd_update", 1, n, 5, seed, check, momentum=momentum, **common)
            return
        run_without_buffer(device, n, seed, check, common)

    cases = st.tuples(
        SIZES,
        COMMON,
        st.sampled_from([0.0, 0.875]),
        st.booleans(),
        st.integers(0, 2**32),
    )
    for_all(cases, examples_for(device, 12), body)


def run_without_buffer(device: Any, n: int, seed: int, check: Any, common: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    w, g = numbers(rng, n), numbers(rng, n)
    exact = w.astype(np.float64)
    done = np.zeros(SLOTS, np.int32)
    reference.sgd_update(exact, g.astype(np.float64), None, done, RATE.astype(np.float64), **common)
    on_device, step = upload(device, w), upload(device, np.zeros(SLOTS, np.int32))
    device.ops.sgd_update(on_device, upload(device, g), None, step, upload(device, RATE), **common)
    check([w], g, [exact], [np.asarray(on_device)], 0)
    check_count(step, 1)


def test_rmsprop(device: Any) -> None:
    def body(case: tuple[int, int, dict[str, Any], float, int]) -> None:
        n, start, common, decay, seed = case
        rho = 0.9
        r = float(np.float32(rho))

        def check(before: Any, g: Any, exact: Any, computed: Any, done: int) -> None:
            w, square = before
            bound = prepared(w, g, common)
            square_error = gamma(10) * (r * square + (1 - r) * bound**2)
            assert_close(computed[1], exact[1], square_error, "mean square")
            gradient = g.astype(np.float64) * common["rescale_grad"] + common["weight_decay"] * w
            if common["clip_gradient"] is not None:
                gradient = np.clip(gradient, -common["clip_gradient"], common["clip_gradient"])
            rate = float(RATE[0]) / (1 + decay * done)
            error = rate * quotient_error(gradient, gamma(3) * bound, exact[1], square_error)
            error = error + gamma(4) * rate * np.abs(gradient) / (np.sqrt(exact[1]) + EPS)
            assert_close(computed[0], exact[0], error + gamma(2) * np.abs(w), "w")

        run(
            device,
            "rmsprop_update",
            1,
            n,
            start,
            seed,
            check,
            rho=rho,
            eps=EPS,
            learning_rate_decay=decay,
            **common,
        )

    cases = st.tuples(
        SIZES,
        st.sampled_from([0, 1, 5000]),
        COMMON,
        st.sampled_from([0.0, 2.0**-10]),
        st.integers(0, 2**32),
    )
    for_all(cases, examples_for(device, 12), body)


def test_more_parameters_than_the_largest_grid_holds(device: Any) -> None:
    if device.check:
        pytest.skip("a million parameters take long under check mode, and add no new access")
    n = 1024 * 1024 + 1027
    rng = np.random.default_rng(1)
    w, g = numbers(rng, n), numbers(rng, n)
    on_w, step = upload(device, w), upload(device, np.zeros(SLOTS, np.int32))
    device.ops.sgd_update(on_w, upload(device, g), None, step, upload(device, RATE))
    assert_close(on_w, w.astype(np.float64) - RATE[0] * g.astype(np.float64), gamma(2) * 6)


def test_nan_gradients_show(device: Any) -> None:
    """Clipping must not turn a NaN into a limit: training has to stop on it."""
    w, g = np.ones(9, np.float32), np.ones(9, np.float32)
    g[4] = np.nan
    step, rate = upload(device, np.zeros(SLOTS, np.int32)), upload(device, RATE)
    zeros = np.zeros(9, np.float32)
    for name, memories, attributes in (
        ("adam_update", 2, {"beta1": 0.5, "beta2": 0.999, "eps": EPS}),
        ("sgd_update", 1, {}),
        ("rmsprop_update", 1, {}),
    ):
        on_w = upload(device, w)
        buffers = [upload(device, zeros) for _ in range(memories)]
        getattr(device.ops, name)(
            on_w, upload(device, g), *buffers, step, rate, clip_gradient=1.0, **attributes
        )
        assert np.isnan(np.asarray(on_w)).tolist() == [False] * 4 + [True] + [False] * 4


def test_same_bits_every_time(device: Any) -> None:
    rng = np.random.default_rng(2)
    hosts = [numbers(rng, 3001), numbers(rng, 3001), numbers(rng, 3001), numbers(rng, 3001) ** 2]
    results = []
    for _ in range(2):
        arrays = [upload(device, a) for a in hosts]
        step = upload(device, np.zeros(SLOTS, np.int32))
        device.ops.adam_update(*arrays, step, upload(device, RATE), beta1=0.5, beta2=0.999, eps=EPS)
        results.append(np.asarray(arrays[0]))
    assert_same_bits(*results)


def test_wrong_calls_are_refused(device: Any) -> None:
    ops = device.ops
    w, g = upload(device, np.ones(8, np.float32)), upload(device, np.ones(9, np.float32))
    step, rate = upload(device, np.zeros(SLOTS, np.int32)), upload(device, RATE)
    adam = {"beta1": 0.5, "beta2": 0.999, "eps": EPS}
    with pytest.raises(ValueError, match=r"g has shape \(9,\).*\(8,\)"):
        ops.adam_update(w, g, w, w, step, rate, **adam)
    with pytest.raises(ValueError, match="beta2 is 1"):
        ops.adam_update(w, w, w, w, step, rate, **{**adam, "beta2": 1.0})
    with pytest.raises(ValueError, match=r"step.*\(7,\).*\(1024,\)"):
        ops.rmsprop_update(w, w, w, upload(device, np.zeros(7, np.int32)), rate)
    with pytest.raises(ValueError, match=r"learning_rate.*\(8,\).*\(1,\)"):
        ops.sgd_update(w, w, None, step, w)
    with pytest.raises(ValueError, match="needs a momentum_buffer"):
        ops.sgd_update(w, w, None, step, rate, momentum=0.9)
    with pytest.raises(ValueError, match="clip_gradient 0"):
        ops.sgd_update(w, w, None, step, rate, clip_gradient=0.0)
    with pytest.raises(ValueError, match="flat buffer"):
        square = upload(device, np.ones((2, 4), np.float32))
        ops.sgd_update(square, square, None, step, rate)
    check_count(step, 0)
