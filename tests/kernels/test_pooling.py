"""The pooling kernels against their twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from pygan.reference.shapes import pooling_output_size
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

LOWEST = np.finfo(np.float32).min


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], int]:
    """Shapes of x and y, the attributes, a seed."""
    spatial, kernel, stride, pad, windows = [], [], [], [], []
    convention = draw(st.sampled_from(["valid", "full"]))
    for _ in range(2):
        k = draw(st.integers(1, 4))
        p = draw(st.integers(0, k - 1))
        s = draw(st.integers(1, 5))
        n = draw(st.integers(max(1, k - 2 * p), 13))
        windows.append(pooling_output_size(n, k, s, p, convention))
        for values, value in zip((spatial, kernel, stride, pad), (n, k, s, p), strict=True):
            values.append(value)
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 4, 12, 33]))
    attributes = {"kernel": tuple(kernel), "stride": tuple(stride), "pad": tuple(pad)}
    return (
        (batch, *spatial, channels),
        (batch, *windows, channels),
        attributes,
        draw(st.integers(0, 2**32)),
    )


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_agrees_with_the_twin(device: Any, kind: str, count_include_pad: bool) -> None:
    def body(case: tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], int]) -> None:
        x_shape, y_shape, attributes, seed = case
        attributes = {**attributes, "kind": kind, "count_include_pad": count_include_pad}
        rng = np.random.default_rng(seed)
        # few different values, so that maxima are tied
        x = rng.integers(-3, 4, x_shape).astype(np.float32)
        dy = numbers(rng, *y_shape)

        exact, size = np.empty(y_shape), np.empty(y_shape)
        reference.pooling_forward(x.astype(np.float64), exact, **attributes)
        reference.pooling_forward(np.abs(x).astype(np.float64), size, **attributes)
        y = poisoned(device, *y_shape)
        device.ops.pooling_forward(upload(device, x), y, **attributes)
        if kind == "max":
            assert_same_bits(np.asarray(y), np.maximum(exact, LOWEST).astype(np.float32))
        else:
            # a sum over the window, the reciprocal of its count, a product
            assert_close(y, exact, gamma(np.prod(attributes["kernel"]) + 2) * size)

        gradient, size = np.empty(x_shape), np.empty(x_shape)
        wide = x.astype(np.float64)
        reference.pooling_backward(wide, dy.astype(np.float64), gradient, **attributes)
        reference.pooling_backward(wide, np.abs(dy).astype(np.float64), size, **attributes)
        check_write_and_accumulate(
            device,
            lambda out, accumulate: device.ops.pooling_backward(
                upload(device, x) if kind == "max" else None,
                upload(device, dy),
                out,
                **attributes,
                accumulate=accumulate,
            ),
            gradient,
            # at most every cell of the kernel's extent is a window that meets a pixel
            gamma(np.prod(attributes["kernel"]) + 3) * size,
            rng,
            "backward",
        )

    for_all(cases(), examples_for(device, 20), body)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_several_blocks(device: Any, kind: str) -> None:
    attributes = {"kind": kind, "kernel": (3, 2), "stride": (2, 2), "pad": (1, 0)}
    rng = np.random.default_rng(1)
    x, dy = numbers(rng, 2, 21, 18, 17), numbers(rng, 2, 11, 9, 17)
    exact, gradient = np.empty(dy.shape), np.empty(x.shape)
    reference.pooling_forward(x.astype(np.float64), exact, **attributes)
    reference.pooling_backward(x.astype(np.float64), dy.astype(np.float64), gradient, **attributes)
    y, dx = poisoned(device, *dy.shape), poisoned(device, *x.shape)
    device.ops.pooling_forward(upload(device, x), y, **attributes)
    device.ops.pooling_backward(upload(device, x), upload(device, dy), dx, **attributes)
    assert_close(y, exact, gamma(8) * 4)  # |x| < 4 with this seed
    assert_close(dx, gradient, gamma(8) * 4 * np.abs(dy).max())


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_arrays_between_multiples_of_16_bytes(device: Any, kind: str) -> None:
    """Channels by fours need whole packs: without them the same results, one by one."""
    attributes = {"kind": kind, "kernel": (3, 2), "stride": (2, 1), "pad": (1, 0)}
    rng = np.random.default_rng(2)
    x, dy = numbers(rng, 1, 5, 6, 8), numbers(rng, 1, 3, 5, 8)
    results = []
    for shift in (0, 1):
        arrays = []
        for host in (x, dy, np.full(dy.shape, np.nan), np.full(x.shape, np.nan)):
            arrays.append(poisoned(device, shift + host.size)[shift:].reshape(host.shape))
            arrays[-1][...] = host.astype(np.float32)
        on_x, on_dy, y, dx = arrays
        device.ops.pooling_forward(on_x, y, **attributes)
        device.ops.pooling_backward(on_x, on_dy, dx, **attributes)
        results.append((np.asarray(y), np.asarray(dx)))
    for aligned, shifted in zip(*results, strict=True):
        assert_same_bits(shifted, aligned)
        assert np.isfinite(aligned).all()


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("kernel, pad", [(1, 0), (2, 0), (2, 1)])
def test_maximum_of_minus_infinities(device: Any, channels: int, kernel: int, pad: int) -> None:
    """It is minus infinity, at the window's first pixel; without a pixel it is a finite number."""
    attributes = {"kernel": (kernel,) * 2, "stride": (kernel,) * 2, "pad": (pad,) * 2}
    x = np.full((1, 2, 2, channels), -np.inf, np.float32)
    # one window, or four of a pixel each
    windows = 1 if (kernel, pad) == (2, 0) else 2
    y, dx = poisoned(device, 1, windows, windows, channels), poisoned(device, *x.shape)
    device.ops.pooling_forward(upload(device, x), y, kind="max", **attributes)
    assert (np.asarray(y) == -np.inf).all()
    dy = upload(device, np.ones(y.shape, np.float32))
    device.ops.pooling_backward(upload(device, x), dy, dx, kind="max", **attributes)
    firsts = [1, 0, 0, 0] if windows == 1 else [1] * 4
    assert np.asarray(dx).reshape(4, channels).T.tolist() == [firsts] * channels


@pytest.mark.parametrize("channels", [1, 4])
def test_nan_in_a_window_shows(device: Any, channels: int) -> None:
    values = np.array([1, np.nan, 3, np.nan], np.float32).reshape(1, 2, 2, 1)
    x = np.ascontiguousarray(np.broadcast_to(values, (1, 2, 2, channels)))
    attributes = {"kind": "max", "kernel": (2, 2), "stride": (2, 2), "pad": (0, 0)}
    y, dx = poisoned(device, 1, 1, 1, channels), poisoned(device, *x.shape)
    device.ops.pooling_forward(upload(device, x), y, **attributes)
    assert np.isnan(np.asarray(y)).all()
    dy = upload(device, np.ones((1, 1, 1, channels), np.float32))
    device.ops.pooling_backward(upload(device, x), dy, dx, **attributes)
    # the first of the two NaN
    assert np.asarray(dx).reshape(4, channels).T.tolist() == [[0, 1, 0, 0]] * channels


def test_wrong_calls_are_refused(device: Any) -> None:
    x, y = poisoned(device, 1, 5, 5, 2), poisoned(device, 1, 2, 2, 2)
    good = {"kernel": (2, 2), "stride": (2, 2), "pad": (0, 0)}
    device.ops.pooling_forward(x, y, kind="avg", **good)
    with pytest.raises(ValueError, match="'median'"):
        device.ops.pooling_forward(x, y, kind="median", **good)
    with pytest.raises(ValueError, match=r"\(1, 5, 5, 2\).*\(1, 2, 2, 2\)"):
        device.ops.pooling_forward(x, y, kind="avg", **{**good, "stride": (1, 1)})
    with pytest.raises(ValueError, match="smaller than the kernel"):
        device.ops.pooling_forward(x, y, kind="avg", **{**good, "pad": (2, 0)})
    with pytest.raises(ValueError, match="needs its input"):
        device.ops.pooling_backward(None, y, x, kind="max", **good)
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2\).*\(1, 5, 5, 2\)"):
        device.ops.pooling_backward(y, y, x, kind="max", **good)
