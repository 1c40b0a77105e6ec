"""The activation kernels against their twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from support import (
    assert_close,
    assert_same_bits,
    check_write_and_accumulate,
    examples_for,
    for_all,
    gamma,
    numbers,
    poisoned,
    upload,
)

KINDS = ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus")
SIZES = st.sampled_from([1, 3, 4, 5, 31, 256, 1021, 1024, 4099]) | st.integers(1, 3000)

# Each exp, expm1, log1p and tanh is within 2 units in the last place, 4 roundings; the longest
# expression (softplus) holds two of them and a sum.
FORWARD_ROUNDINGS = 12


def logits(rng: np.random.Generator, n: int) -> np.ndarray:
    """Both signs, both tails, and exact zeros."""
    x = (numbers(rng, n) * rng.choice([0.1, 1, 10, 60], n)).astype(np.float32)
    x[rng.random(n) < 0.05] = 0
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward_agree_with_the_twin(device: Any, kind: str) -> None:
    def body(case: tuple[int, float, bool, int]) -> None:
        n, slope, aligned, seed = case
        rng = np.random.default_rng(seed)
        x, dy = logits(rng, n), numbers(rng, n)
        exact = np.empty(n)
        reference.activation_forward(x.astype(np.float64), exact, kind=kind, slope=slope)

        # an offset of one float: no float4 access is possible
        first = 0 if aligned else 1
        device_x = upload(device, np.concatenate([np.zeros(first, np.float32), x]))[first:]
        y = poisoned(device, n)
        device.ops.activation_forward(device_x, y, kind=kind, slope=slope)
        assert_close(y, exact, gamma(FORWARD_ROUNDINGS) * np.abs(exact), kind)

        kept = np.asarray(y).astype(np.float64)
        gradient = np.empty(n)
        reference.activation_backward(
            None, kept, dy.astype(np.float64), gradient, kind=kind, slope=slope
        )
        # from y: at most expm1 and two products; elu adds y + slope, which may cancel
        size = np.abs(gradient) + np.abs(dy) * ((np.abs(kept) + slope) * (kind == "elu"))
        check_write_and_accumulate(
            device,
            lambda out, accumulate: device.ops.activation_backward(
                None, y, upload(device, dy), out, kind=kind, slope=slope, accumulate=accumulate
            ),
            gradient,
            gamma(8) * size,
            rng,
            f"{kind} backward",
        )

    # slopes that float32 holds exactly, so that both sides compute with the same
    cases = st.tuples(SIZES, st.sampled_from([0.0, 0.25, 1.0, 1.5]), st.booleans(), st.integers(0))
    for_all(cases, examples_for(device, 12), body)


@pytest.mark.parametrize("kind", ["leaky_relu", "elu"])
def test_negative_slopes_take_the_sign_from_the_input(device: Any, kind: str) -> None:
    rng = np.random.default_rng(1)
    x, dy = logits(rng, 1500), numbers(rng, 1500)
    exact, gradient = np.empty(1500), np.empty(1500)
    wide = x.astype(np.float64)
    reference.activation_forward(wide, exact, kind=kind, slope=-0.5)
    reference.activation_backward(
        wide, exact, dy.astype(np.float64), gradient, kind=kind, slope=-0.5
    )
    device_x, y, dx = upload(device, x), poisoned(device, 1500), poisoned(device, 1500)
    device.ops.activation_forward(device_x, y, kind=kind, slope=-0.5)
    assert_close(y, exact, gamma(FORWARD_ROUNDINGS) * np.abs(exact))
    device.ops.activation_backward(device_x, y, upload(device, dy), dx, kind=kind, slope=-0.5)
    # the kernel forms slope * exp(x), the twin y + slope: both within the roundings of either
    assert_close(dx, gradient, gamma(8) * np.abs(dy))
    with pytest.raises(ValueError, match="needs its input"):
        device.ops.activation_backward(None, y, device_x, dx, kind=kind, slope=-0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_works_in_place(device: Any, kind: str) -> None:
    rng = np.random.default_rng(2)
    x, dy = upload(device, logits(rng, 2051)), upload(device, numbers(rng, 2051))
    y, dx = poisoned(device, 2051), poisoned(device, 2051)
    device.ops.activation_forward(x, y, kind=kind, slope=0.25)
    device.ops.activation_forward(x, x, kind=kind, slope=0.25)
    assert_same_bits(np.asarray(x), np.asarray(y))
    device.ops.activation_backward(None, y, dy, dx, kind=kind, slope=0.25)
    device.ops.activation_backward(None, y, dy, dy, kind=kind, slope=0.25)
    assert_same_bits(np.asarray(dy), np.asarray(dx))


def test_derivative_at_zero(device: Any) -> None:
    zeros, dy = upload(device, np.zeros(5, np.float32)), upload(device, np.ones(5, np.float32))
    for kind, expected in (("relu", 0.0), ("leaky_relu", 0.25), ("elu", 0.25)):
        dx = poisoned(device, 5)
        device.ops.activation_backward(None, zeros, dy, dx, kind=kind, slope=0.25)
        assert np.asarray(dx).tolist() == [expected] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_special_values(device: Any, kind: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30], np.float32)
    expected = np.empty(5)
    with np.errstate(invalid="ignore"):
        reference.activation_forward(x.astype(np.float64), expected, kind=kind, slope=0.25)
    y = poisoned(device, 5)
    device.ops.activation_forward(upload(device, x), y, kind=kind, slope=0.25)
    assert np.isnan(np.asarray(y)[0]), "a NaN must show, not vanish"
    assert_close(np.asarray(y)[1:], expected[1:], gamma(8) * np.nan_to_num(np.abs(expected[1:])))


def test_wrong_calls_are_refused(device: Any) -> None:
    five, six = poisoned(device, 5), poisoned(device, 6)
    with pytest.raises(ValueError, match=r"\(6,\).*\(5,\)"):
        device.ops.activation_forward(five, six, kind="relu")
    with pytest.raises(ValueError, match=r"dx.*\(6,\).*\(5,\)"):
        device.ops.activation_backward(None, five, five, six, kind="relu")
    for unknown in ("gelu", None):
        with pytest.raises(ValueError, match="unknown"):
            device.ops.activation_forward(five, five, kind=unknown)
    with pytest.raises(TypeError, match="from_numpy"):
        device.ops.activation_forward(np.zeros(5, np.float32), five, kind="relu")


def test_empty_arrays_are_no_work(device: Any) -> None:
    nothing = device.empty((0, 3), np.float32)
    device.ops.activation_forward(nothing, nothing, kind="tanh")
    device.ops.activation_backward(None, nothing, nothing, nothing, kind="tanh")
