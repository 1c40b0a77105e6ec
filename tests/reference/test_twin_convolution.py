"""The convolution twins against sums written out, scipy, and each other's adjoints."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
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
from pygan.reference import by_taps, columns, parallel, shapes, winograd


def written_out(large, weight, stride, pad, dilation, groups):
    """The joining tensor T[p,q,o,h,w,c]: small[p,q,o] = sum T large[h,w,c]. Independent of numpy's
    slicing tricks: plain loops over the definition."""
    height, width, channels = large
    many, kernel_h, kernel_w, few = weight.shape
    rows = (height + 2 * pad[0] - dilation[0] * (kernel_h - 1) - 1) // stride[0] + 1
    cols = (width + 2 * pad[1] - dilation[1] * (kernel_w - 1) - 1) // stride[1] + 1
    tensor = np.zeros((rows, cols, many, height, width, channels))
    for p, q, i, j in np.ndindex(rows, cols, kernel_h, kernel_w):
        h = p * stride[0] - pad[0] + i * dilation[0]
        w = q * stride[1] - pad[1] + j * dilation[1]
        if not (0 <= h < height and 0 <= w < width):
            continue
        for o, c in np.ndindex(many, few):
            group = o // (many // groups)
            tensor[p, q, o, h, w, group * few + c] += weight[o, i, j, c]
    return tensor


@st.composite
def joins(draw):
    """Shapes and attributes of a convolution whose output has at least one pixel."""
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    kernel, stride, pad, dilation = pair(1, 4), pair(1, 3), pair(0, 2), pair(1, 2)
    groups = draw(st.integers(1, 3))
    few, many = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    small = pair(1, 3)
    # Sizes that one output size shares differ by what a transposed convolution pads its output.
    extra = (draw(st.integers(0, stride[0] - 1)), draw(st.integers(0, stride[1] - 1)))
    large = tuple(
        stride[a] * (small[a] - 1) + dilation[a] * (kernel[a] - 1) + 1 - 2 * pad[a] + extra[a]
        for a in (0, 1)
    )
    if min(large) < 1:
        pad = (0, 0)
        large = tuple(
            stride[a] * (small[a] - 1) + dilation[a] * (kernel[a] - 1) + 1 + extra[a]
            for a in (0, 1)
        )
    n = draw(st.integers(1, 3))
    return {
        "large": (n, *large, few * groups),
        "small": (n, *small, many * groups),
        "weight": (many * groups, *kernel, few),
        "attributes": {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups},
        "seed": draw(st.integers(0, 1 << 16)),
    }


@settings(max_examples=80)
@given(join=joins())
def test_all_six_passes_match_the_definition(join):
    check_all_six_passes(join)


@settings(max_examples=80)
@given(join=joins())
def test_all_six_passes_match_the_definition_tap_by_tap(join):
    join["attributes"]["groups"], join["weight"] = 1, (*join["weight"][:3], join["large"][3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_taps, "pays", lambda *_: True)
        patch.setattr(by_taps, "MOST_ROWS", 2)
        check_all_six_passes(join)


def test_small_images_are_taken_tap_by_tap():
    """The lesson's second layer is; images that are large, with few channels, or few, are not."""
    half, same = (columns.Taps((3, 3), (stride,) * 2, (1, 1), (1, 1)) for stride in (2, 1))
    for n, height, small, channels, taps, expected in (
        (32, 7, 4, 128, half, True),
        (32, 4, 4, 64, same, True),
        (32, 8, 8, 64, same, False),
        (32, 7, 4, 63, half, False),
        (8, 7, 4, 128, half, False),
    ):
        large = np.empty((n, height, height, channels), np.float32)
        assert by_taps.pays(large, np.empty((n, small, small, 256)), taps, 1) == expected
        assert not by_taps.pays(large, np.empty((n, small, small, 256)), taps, 2)


def check_all_six_passes(join):
    large = numbers(join["seed"], *join["large"])
    small = numbers(join["seed"] + 1, *join["small"])
    weight = numbers(join["seed"] + 2, *join["weight"])
    bias_small = numbers(join["seed"] + 3, small.shape[3])
    bias_large = numbers(join["seed"] + 4, large.shape[3])
    attributes = join["attributes"]
    tensor = written_out(large.shape[1:], weight, *attributes.values())
    # No sum here has more terms than this; every term is one product, and 4 stands for the bias
    # and the sums of blocks.
    unit = rounding(2 * (large.size + small.size) + 4, np.float64)

    def check(name, arrays, expected, magnitude):
        function = getattr(reference, name)
        check_both_modes(
            lambda out, accumulate: function(*arrays, out, accumulate=accumulate, **attributes),
            expected,
            unit * (magnitude + 4),
        )

    gather = "pqohwc,nhwc->npqo"
    expected = np.einsum(gather, tensor, large)
    magnitude = np.einsum(gather, np.abs(tensor), np.abs(large))
    check("convolution_forward", (large, weight, None), expected, magnitude)
    check("convolution_forward", (large, weight, bias_small), expected + bias_small, magnitude)
    check("transposed_convolution_backward_data", (large, weight), expected, magnitude)

    spread = "pqohwc,npqo->nhwc"
    expected = np.einsum(spread, tensor, small)
    magnitude = np.einsum(spread, np.abs(tensor), np.abs(small))
    check("convolution_backward_data", (small, weight), expected, magnitude)
    check("transposed_convolution_forward", (small, weight, None), expected, magnitude)
    check(
        "transposed_convolution_forward",
        (small, weight, bias_large),
        expected + bias_large,
        magnitude,
    )

    # The weight's gradient is what makes <small, gather(large)> linear in the weight: element by
    # element, that product with the weight a unit vector.
    expected = np.empty_like(weight)
    for index in np.ndindex(weight.shape):
        one = np.zeros_like(weight)
        one[index] = 1
        joined = written_out(large.shape[1:], one, *attributes.values())
        expected[index] = np.einsum("npqo,pqohwc,nhwc->", small, joined, large, optimize=True)
    magnitude = np.abs(small).sum() * np.abs(large).max()
    check("convolution_backward_weight", (large, small), expected, magnitude)
    check("transposed_convolution_backward_weight", (small, large), expected, magnitude)


@pytest.mark.parametrize("pad", [0, 3])
def test_stride_one_is_scipys_correlation(pad):
    x, w = numbers(1, 2, 6, 7, 3), numbers(2, 4, 4, 4, 3)
    mode = {0: "valid", 3: "full"}[pad]
    expected = np.stack(
        [
            np.stack([scipy.signal.correlate(image, kernel, mode) for kernel in w], axis=-1)
            for image in x
        ]
    )
    # Along the channels scipy correlates too; the middle lag is the sum over all of them.
    expected = expected[:, :, :, expected.shape[3] // 2]
    y = np.full(expected.shape, np.nan)
    attributes = {"stride": (1, 1), "pad": (pad, pad), "dilation": (1, 1), "groups": 1}
    reference.convolution_forward(x, w, None, y, **attributes)
    assert_within(y, expected, rounding(2 * 48, np.float64) * 48 * 4 * 4)


def test_a_transposed_convolution_is_scipys_convolution_with_zeros_between_the_pixels():
    x, w = numbers(1, 1, 4, 5, 2), numbers(2, 2, 4, 4, 3)
    stretched = np.zeros((7, 9, 2))
    stretched[::2, ::2] = x[0]
    full = sum(
        np.stack(
            [scipy.signal.convolve(stretched[..., c], w[c, :, :, o]) for o in range(3)], axis=-1
        )
        for c in range(2)
    )
    y = np.full((1, 8, 10, 3), np.nan)
    attributes = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    reference.transposed_convolution_forward(x, w, None, y, **attributes)
    assert_within(y[0], full[1:-1, 1:-1], rounding(2 * 32, np.float64) * 32 * 4 * 4)


@pytest.mark.parametrize("operator", ["convolution", "transposed_convolution"])
def test_gradients_are_finite_differences(operator):
    attributes = {"stride": (2, 1), "pad": (1, 0), "dilation": (1, 2), "groups": 2}
    large, small = numbers(3, 2, 5, 6, 4), numbers(4, 2, 3, 4, 6)
    weight = numbers(5, 6, 3, 2, 2)
    x, y_shape = (large, small.shape) if operator == "convolution" else (small, large.shape)
    head = numbers(6, *y_shape)
    bias = numbers(7, y_shape[3])

    def loss():
        y = np.empty(y_shape)
        getattr(reference, f"{operator}_forward")(x, weight, bias, y, **attributes)
        return float((y * head).sum())

    dx, dw, db = np.empty_like(x), np.empty_like(weight), np.empty_like(bias)
    getattr(reference, f"{operator}_backward_data")(head, weight, dx, **attributes)
    getattr(reference, f"{operator}_backward_weight")(x, head, dw, **attributes)
    reference.bias_backward(head, db)
    for array, gradient in ((x, dx), (weight, dw), (bias, db)):
        numeric = numeric_gradient(loss, array)
        assert_within(gradient, numeric, DIFFERENCE * (1 + np.abs(numeric)))


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_results_do_not_depend_on_how_the_batch_is_cut_into_blocks(monkeypatch, channels):
    """Blocks of one image, the last of them, and rows of channels copied in either order."""
    large, small = numbers(1, 5, 9, 9, channels), numbers(2, 5, 4, 4, 8)
    weight = numbers(3, 8, 3, 3, channels)
    attributes = {"stride": (2, 2), "pad": (0, 0), "dilation": (1, 1), "groups": 1}

    def results():
        y, dx, dw = np.empty_like(small), np.empty_like(large), np.empty_like(weight)
        reference.convolution_forward(large, weight, None, y, **attributes)
        reference.convolution_backward_data(small, weight, dx, **attributes)
        reference.convolution_backward_weight(large, small, dw, **attributes)
        return y, dx, dw

    whole = results()
    monkeypatch.setattr(columns, "LEAST_ROWS", 1)
    for least in (1, 2 * 16 * 9 * channels * columns.OPERATIONS_PER_NUMBER):
        monkeypatch.setattr(parallel, "LEAST_OPERATIONS", least)
        for computed, expected in zip(results(), whole, strict=True):
            # At most 5 x 16 products a sum, of numbers below 5.
            assert_within(computed, expected, rounding(160, np.float64) * 80 * 25)


@pytest.mark.parametrize(
    ("large", "small", "weight", "stride", "pad"),
    [
        ((32, 4, 4, 256), (32, 1, 1, 10), (10, 4, 4, 256), 2, 0),
        ((32, 7, 7, 128), (32, 4, 4, 256), (256, 3, 3, 128), 2, 1),
        ((32, 14, 14, 64), (32, 7, 7, 128), (128, 4, 4, 64), 2, 1),
        ((32, 28, 28, 1), (32, 14, 14, 64), (64, 4, 4, 1), 2, 1),
        ((32, 13, 13, 24), (32, 6, 6, 32), (32, 3, 3, 24), 2, 0),
    ],
)
def test_float32_at_the_lessons_shapes_is_as_exact_as_float32_can_be(
    large, small, weight, stride, pad
):
    """Against float64, within the rounding of the longest sum, as it grows on average: the square
    root of its length (Higham and Mary 2019), times 8 for the worst of up to 4e5 elements."""
    attributes = {"stride": (stride,) * 2, "pad": (pad,) * 2, "dilation": (1, 1), "groups": 1}
    arrays = [numbers(k, *shape) for k, shape in enumerate((large, small, weight))]
    taps = weight[1] * weight[2]
    for name, inputs, output, terms in (
        ("convolution_forward", (0, 2, None), 1, taps * weight[3]),
        ("convolution_backward_data", (1, 2), 0, taps * weight[0]),
        ("convolution_backward_weight", (0, 1), 2, small[0] * small[1] * small[2]),
    ):
        results = []
        for dtype in (np.float32, np.float64):
            given_arrays = [None if k is None else arrays[k].astype(dtype) for k in inputs]
            out = np.full(arrays[output].shape, np.nan, dtype)
            getattr(reference, name)(*given_arrays, out, **attributes)
            results.append(out)
        # A sum of `terms` products of standard normal numbers is of size sqrt(terms); the inputs
        # themselves are rounded to float32 as well.
        assert_within(*results, 8 * rounding(1, np.float32) * terms, name)


def test_an_empty_batch_has_no_gradient():
    attributes = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    large, small = np.zeros((0, 8, 8, 3)), np.zeros((0, 4, 4, 5))
    dw = np.full((5, 3, 3, 3), np.nan)
    reference.convolution_forward(large, dw, None, small, **attributes)
    reference.convolution_backward_data(small, dw, large, **attributes)
    reference.convolution_backward_weight(large, small, dw, **attributes)
    assert (dw == 0).all()


def test_bias_gradient_sums_all_axes_but_the_last():
    dy = numbers(1, 3, 4, 5, 6)
    check_both_modes(
        lambda out, accumulate: reference.bias_backward(dy, out, accumulate=accumulate),
        dy.sum(axis=(0, 1, 2)),
        rounding(60, np.float64) * 60 * 4,
    )


@pytest.mark.parametrize(
    ("large", "small", "weight", "stride", "groups"),
    [
        ((2, 8, 8, 3), (2, 4, 4, 5), (5, 3, 3, 4), 2, 1),
        ((2, 8, 8, 3), (2, 4, 4, 5), (4, 3, 3, 3), 2, 1),
        ((2, 8, 8, 3), (2, 5, 4, 5), (5, 3, 3, 3), 2, 1),
        ((2, 8, 8, 3), (3, 4, 4, 5), (5, 3, 3, 3), 2, 1),
        ((2, 2, 2, 3), (2, 1, 1, 5), (5, 5, 5, 3), 1, 1),
        ((2, 8, 8, 3), (2, 4, 4, 5), (5, 3, 3, 3), 0, 1),
        ((2, 8, 8, 3), (2, 4, 4, 5), (5, 3, 3, 3), 2, 2),
        ((2, 8, 8), (2, 4, 4, 5), (5, 3, 3, 3), 2, 1),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_named(large, small, weight, stride, groups):
    attributes = {
        "stride": (stride, stride),
        "pad": (1, 1),
        "dilation": (1, 1),
        "groups": groups,
    }
    a, b, w = (np.zeros(shape, np.float32) for shape in (large, small, weight))
    for name, arrays in (
        ("convolution_forward", (a, w, None, b)),
        ("convolution_backward_data", (b, w, a)),
        ("convolution_backward_weight", (a, b, w)),
        ("transposed_convolution_forward", (b, w, None, a)),
        ("transposed_convolution_backward_data", (a, w, b)),
        ("transposed_convolution_backward_weight", (b, a, w)),
    ):
        with pytest.raises(ValueError, match=name):
            getattr(reference, name)(*arrays, **attributes)


def test_the_message_names_both_shapes_and_what_would_fit():
    x, w, y = np.zeros((2, 8, 8, 3)), np.zeros((5, 3, 3, 3)), np.zeros((2, 5, 4, 5))
    attributes = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    with pytest.raises(ValueError) as refusal:
        reference.convolution_forward(x, w, None, y, **attributes)
    for shape in ("(2, 8, 8, 3)", "(2, 5, 4, 5)", "(2, 4, 4, 5)"):
        assert shape in str(refusal.value)


def test_an_output_that_cannot_be_written_in_place_is_refused():
    x, w = np.zeros((2, 8, 8, 3)), np.zeros((5, 3, 3, 3))
    y = np.zeros((2, 5, 8, 8)).transpose(0, 2, 3, 1)
    attributes = {"stride": (1, 1), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    with pytest.raises(ValueError, match="not C-contiguous"):
        reference.convolution_forward(x, w, None, y, **attributes)


@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    pad=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
def test_output_sizes_count_the_places_where_the_kernel_fits(size, kernel, stride, pad, dilation):
    places = range(-pad, size + pad - dilation * (kernel - 1), stride)
    computed = shapes.convolution_output_size(size, kernel, stride, pad, dilation)
    assert max(computed, 0) == len(places)
    for output_padding in range(stride):
        grown = shapes.transposed_convolution_output_size(
            size, kernel, stride, pad, dilation, output_padding
        )
        if grown + 2 * pad >= dilation * (kernel - 1) + 1:
            assert shapes.convolution_output_size(grown, kernel, stride, pad, dilation) == size
    with pytest.raises(ValueError, match="output_padding"):
        shapes.transposed_convolution_output_size(size, kernel, stride, pad, dilation, stride)


# n, P, Q, channels of the small image and of the large one: tiles that fill several blocks, one
# block and not even one; sizes that differ and odd ones; channels that are no multiple of anything.
FEWER_PRODUCTS = [
    (3, 2, 6, 5, 3),
    (2, 3, 1, 4, 2),
    (40, 7, 7, 33, 36),
    (64, 4, 4, 33, 40),
    (70, 8, 4, 64, 32),
    (9, 16, 16, 32, 35),
    (1, 64, 4, 37, 32),
]


def fewer_products(n, height, width, many, few, dtype):
    """(large, weight, small) of a kernel 4x4, stride 2, pad 1."""
    large = numbers(1, n, 2 * height, 2 * width, few, dtype=dtype)
    weight = numbers(2, many, 4, 4, few, dtype=dtype)
    return large, weight, numbers(3, n, height, width, many, dtype=dtype)


@pytest.mark.parametrize("shape", FEWER_PRODUCTS)
def test_fewer_products_give_the_plain_sums(shape):
    large, weight, small = fewer_products(*shape, np.float64)
    attributes = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    for plain, fewer, arrays, like in (
        (reference.convolution_forward, winograd.gather, (large, weight, None), small),
        (reference.convolution_backward_data, winograd.spread, (small, weight), large),
        (reference.convolution_backward_weight, winograd.weigh, (large, small), weight),
    ):
        expected = np.empty_like(like)
        plain(*arrays, expected, **attributes)
        # Every number is below 6; a sum has `terms` products of sums of up to 4 numbers each, and
        # goes into a result with 15 others.
        terms = large.size + small.size
        allowed = rounding(30, np.float64) * np.sqrt(terms) * 16 * 16 * 36

        def function(out, accumulate, fewer=fewer, arrays=arrays):
            fewer(*arrays[:2], out, accumulate)

        check_both_modes(function, expected, allowed)


@pytest.mark.parametrize("shape", FEWER_PRODUCTS[2:])
def test_fewer_products_round_little_more_than_plain_sums(shape):
    """float32: the root mean square of the error is within four times that of the plain sums."""
    large, weight, small = fewer_products(*shape, np.float32)
    taps = columns.Taps((4, 4), (2, 2), (1, 1), (1, 1))
    assert winograd.pays(large, small, taps, 1)
    assert not winograd.pays(large.astype(np.float64), small, taps, 1)
    attributes = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    for name, arrays, like in (
        ("convolution_forward", (large, weight, None), small),
        ("convolution_backward_data", (small, weight), large),
        ("convolution_backward_weight", (large, small), weight),
        ("transposed_convolution_forward", (small, weight, None), large),
        ("transposed_convolution_backward_data", (large, weight), small),
        ("transposed_convolution_backward_weight", (small, large), weight),
    ):

        def run(dtype, name=name, arrays=arrays, like=like):
            given = [None if array is None else array.astype(dtype) for array in arrays]
            out = np.full(like.shape, np.nan, dtype)
            getattr(reference, name)(*given, out, **attributes)
            return out

        exact, fewer = run(np.float64), run(np.float32)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(winograd, "pays", lambda *_: False)
            plain = run(np.float32)
        assert not np.array_equal(fewer, plain), f"{name} took the plain sums"
        error, usual = (np.sqrt(np.mean((out - exact) ** 2)) for out in (fewer, plain))
        assert error <= 4 * usual, name


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("prefix", ["convolution", "transposed_convolution"])
def test_activations_at_the_end(prefix, accumulate):
    """As the activation twins have them, of the whole: bias, and what was there."""
    rng = np.random.default_rng(5)
    options = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    sides = numbers(rng, 2, 6, 5, 3), numbers(rng, 2, 3, 2, 4)
    given, result = sides if prefix == "convolution" else sides[::-1]
    w, bias = numbers(rng, 4, 3, 4, 3), numbers(rng, result.shape[3])
    forward = getattr(reference, f"{prefix}_forward")
    backward = getattr(reference, f"{prefix}_backward_data")
    for kind in reference.activation.KINDS:
        end = {"activation": kind, "slope": 0.3}
        fused, apart = result.copy(), result.copy()
        forward(given, w, bias, fused, **options, **end, accumulate=accumulate)
        forward(given, w, bias, apart, **options, accumulate=accumulate)
        reference.activation_forward(apart, apart, kind=kind, slope=0.3)
        np.testing.assert_array_equal(fused, apart)
        if kind not in reference.activation.FROM_OUTPUT:
            continue
        fused, apart, gradient = given.copy(), given.copy(), np.empty_like(given)
        x = np.tanh(given)
        backward(result, w, fused, x, **options, **end, accumulate=accumulate)
        backward(result, w, gradient, **options)
        reference.activation_backward(
            None, x, gradient, apart, kind=kind, slope=0.3, accumulate=accumulate
        )
        np.testing.assert_array_equal(fused, apart)
