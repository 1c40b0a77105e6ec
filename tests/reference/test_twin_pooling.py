"""The pooling twins against windows written out, in both conventions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twin_support import assert_within, check_both_modes, numbers, rounding

from pygan import reference
from pygan.reference import shapes


def windows(size, count, kernel, stride, pad):
    """Per window: its pixels inside the image, and its extent inside the padded image."""
    for k in range(count):
        start = k * stride - pad
        end = min(start + kernel, size + pad)
        yield range(max(start, 0), max(min(end, size), max(start, 0))), max(end - start, 0)


def written_out(x, head, y_shape, kind, kernel, stride, pad, count_include_pad):
    y, dx = np.empty(y_shape), np.zeros(x.shape)
    rows = list(windows(x.shape[1], y_shape[1], kernel[0], stride[0], pad[0]))
    columns = list(windows(x.shape[2], y_shape[2], kernel[1], stride[1], pad[1]))
    for n, p, q, c in np.ndindex(y_shape):
        (hs, height), (ws, width) = rows[p], columns[q]
        pixels = [(h, w) for h in hs for w in ws]
        values = [x[n, h, w, c] for h, w in pixels]
        if kind == "max":
            y[n, p, q, c] = max(values, default=np.finfo(x.dtype).min)
            if values:
                h, w = pixels[values.index(max(values))]
                dx[n, h, w, c] += head[n, p, q, c]
        else:
            divisor = height * width if count_include_pad else len(pixels)
            y[n, p, q, c] = sum(values) / divisor if values else 0
            for h, w in pixels:
                dx[n, h, w, c] += head[n, p, q, c] / divisor
    return y, dx


@st.composite
def poolings(draw):
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    pad = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    size = tuple(draw(st.integers(max(1, kernel[a] - 2 * pad[a]), 8)) for a in (0, 1))
    count = tuple(
        shapes.pooling_output_size(
            size[a], kernel[a], stride[a], pad[a], draw(st.sampled_from(["valid", "full"]))
        )
        for a in (0, 1)
    )
    n, channels = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    # Few different values, so that maxima are often shared.
    x = np.round(numbers(draw(st.integers(0, 999)), n, *size, channels) * draw(st.floats(0.5, 9)))
    return x, (n, *count, channels), kernel, stride, pad


@settings(max_examples=120)
@given(case=poolings(), kind=st.sampled_from(["max", "avg"]), count_include_pad=st.booleans())
def test_both_passes_match_the_windows(case, kind, count_include_pad):
    x, y_shape, kernel, stride, pad = case
    head = numbers(7, *y_shape)
    options = {"kind": kind, "kernel": kernel, "stride": stride, "pad": pad}
    options["count_include_pad"] = count_include_pad
    expected, gradient = written_out(x, head, y_shape, **options)
    y = np.full(y_shape, np.nan)
    reference.pooling_forward(x, y, **options)
    assert_within(y, expected, rounding(20, np.float64) * np.abs(x).max() * 16)
    given_x = x if kind == "max" else None
    check_both_modes(
        lambda out, accumulate: reference.pooling_backward(
            given_x, head, out, accumulate=accumulate, **options
        ),
        gradient,
        rounding(40, np.float64) * 16 * 5,
    )


def test_windows_wholly_in_the_padding():
    """An image one pixel wide: the window that "full" adds on the right holds padding alone."""
    x = np.full((1, 2, 1, 1), 5.0, np.float32)
    options = {"kernel": (2, 2), "stride": (2, 2), "pad": (1, 1)}
    assert shapes.pooling_output_size(2, 2, 2, 1, "full") == 2
    assert shapes.pooling_output_size(1, 2, 2, 1, "full") == 2
    y = np.full((1, 2, 2, 1), np.nan, np.float32)
    reference.pooling_forward(x, y, kind="max", **options)
    assert (y[0, :, 1, 0] == np.finfo(np.float32).min).all() and (y[0, :, 0, 0] == 5).all()
    reference.pooling_forward(x, y, kind="avg", **options)
    assert (y[0, :, 1, 0] == 0).all()
    dx = np.full_like(x, np.nan)
    reference.pooling_backward(x, np.ones_like(y), dx, kind="max", **options)
    assert dx.ravel().tolist() == [1, 1]


@pytest.mark.parametrize("kernel, pad", [(1, 0), (2, 0), (2, 1)])
def test_maximum_of_minus_infinities(kernel, pad):
    x = np.full((1, 2, 2, 1), -np.inf, np.float32)
    options = {"kernel": (kernel,) * 2, "stride": (kernel,) * 2, "pad": (pad,) * 2}
    windows = 1 if (kernel, pad) == (2, 0) else 2
    y, dx = np.full((1, windows, windows, 1), np.nan, np.float32), np.full_like(x, np.nan)
    reference.pooling_forward(x, y, kind="max", **options)
    assert (y == -np.inf).all()
    reference.pooling_backward(x, np.ones_like(y), dx, kind="max", **options)
    assert dx.ravel().tolist() == ([1, 0, 0, 0] if windows == 1 else [1] * 4)


def test_a_nan_in_a_window_is_not_hidden():
    x = np.array([[1.0, np.nan], [np.nan, 2.0]], np.float32).reshape(1, 2, 2, 1)
    y, dx = np.zeros((1, 1, 1, 1), np.float32), np.zeros_like(x)
    options = {"kind": "max", "kernel": (2, 2), "stride": (2, 2), "pad": (0, 0)}
    reference.pooling_forward(x, y, **options)
    assert np.isnan(y).all()
    reference.pooling_backward(x, np.ones_like(y), dx, **options)
    assert dx.ravel().tolist() == [0, 1, 0, 0]


def test_conventions_of_the_output_size():
    assert shapes.pooling_output_size(13, 2, 2, 0, "valid") == 6
    assert shapes.pooling_output_size(13, 2, 2, 0, "full") == 7
    assert shapes.pooling_output_size(2, 5) == 0
    with pytest.raises(ValueError, match="'same' is unknown"):
        shapes.pooling_output_size(13, 2, 2, 0, "same")


def test_what_does_not_fit_is_refused():
    x, y = np.zeros((1, 6, 6, 2)), np.zeros((1, 4, 3, 2))
    options = {"kernel": (2, 2), "stride": (2, 2), "pad": (0, 0)}
    with pytest.raises(ValueError, match=r"\(1, 6, 6, 2\) does not pool to \(1, 4, 3, 2\)"):
        reference.pooling_forward(x, y, kind="avg", **options)
    with pytest.raises(ValueError, match="'sum' is unknown"):
        reference.pooling_forward(x, np.zeros((1, 3, 3, 2)), kind="sum", **options)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        reference.pooling_forward(x, y, kind="avg", kernel=(2, 2), stride=(2, 2), pad=(2, 0))
    with pytest.raises(ValueError, match="needs its input"):
        reference.pooling_backward(None, np.zeros((1, 3, 3, 2)), x, kind="max", **options)
