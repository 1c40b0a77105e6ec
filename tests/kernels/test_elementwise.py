"""Sums, products, broadcasts, copies and joins against their twins."""

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

SEEDS = st.integers(0, 2**32)
SIZES = st.sampled_from([1, 3, 4, 5, 255, 1021, 1024, 4099]) | st.integers(1, 3000)


def shifted(device: Any, host: np.ndarray, first: int) -> Any:
    """`host` on the device, `first` floats into an allocation: only 0 allows float4 accesses."""
    return upload(device, np.concatenate([np.zeros(first, np.float32), host]))[first:]


def test_flat_operators_are_the_twins_bit_for_bit(device: Any) -> None:
    def body(case: tuple[int, tuple[int, int, int], int]) -> None:
        n, (first_a, first_b, first_y), seed = case
        rng = np.random.default_rng(seed)
        a, b = numbers(rng, n), numbers(rng, n)
        on_a, on_b = shifted(device, a, first_a), shifted(device, b, first_b)
        whole = poisoned(device, n + first_y)
        y = whole[first_y:]
        device.ops.add_forward(on_a, on_b, y)
        assert_same_bits(np.asarray(y), a + b, "add")
        device.ops.multiply_forward(on_a, on_b, y)
        assert_same_bits(np.asarray(y), a * b, "multiply")
        device.ops.axpy(on_a, y)
        assert_same_bits(np.asarray(y), a, "copy")
        device.ops.axpy(on_a, y, alpha=-1.75)
        assert_same_bits(np.asarray(y), a * np.float32(-1.75), "scale")
        device.ops.fill(y, value=0.1)
        assert_same_bits(np.asarray(y), np.full(n, 0.1, np.float32), "fill")
        assert np.isnan(np.asarray(whole)[:first_y]).all(), "what lies before a view is untouched"

    firsts = st.sampled_from([(0, 0, 0), (0, 0, 1), (1, 0, 0), (4, 4, 4), (3, 1, 2)])
    for_all(st.tuples(SIZES, firsts, SEEDS), examples_for(device, 25), body)


def test_results_may_be_operands(device: Any) -> None:
    rng = np.random.default_rng(1)
    a, b = numbers(rng, 1501), numbers(rng, 1501)
    for name, expected in (("add_forward", a + b), ("multiply_forward", a * b)):
        on_a, on_b = upload(device, a), upload(device, b)
        getattr(device.ops, name)(on_a, on_b, on_a)
        assert_same_bits(np.asarray(on_a), expected)
        on_a = upload(device, a)
        getattr(device.ops, name)(on_a, on_b, on_b)
        assert_same_bits(np.asarray(on_b), expected)
    doubled = upload(device, a)
    device.ops.add_forward(doubled, doubled, doubled)
    assert_same_bits(np.asarray(doubled), a + a)


def test_flat_gradients(device: Any) -> None:
    def body(case: tuple[int, int]) -> None:
        n, seed = case
        rng = np.random.default_rng(seed)
        dy, other = numbers(rng, n), numbers(rng, n)
        on_dy, on_other = upload(device, dy), upload(device, other)
        exact = dy.astype(np.float64) * other
        check_write_and_accumulate(
            device,
            lambda out, accumulate: device.ops.multiply_backward(
                on_dy, on_other, out, accumulate=accumulate
            ),
            exact,
            gamma(1) * np.abs(exact),
            rng,
            "multiply backward",
        )
        check_write_and_accumulate(
            device,
            lambda out, accumulate: device.ops.axpy(on_dy, out, alpha=0.3, accumulate=accumulate),
            dy * np.float64(np.float32(0.3)),
            gamma(1) * np.abs(dy),
            rng,
            "axpy",
        )

    for_all(st.tuples(SIZES, SEEDS), examples_for(device, 15), body)


# exp within 2 units in the last place is 4 roundings; beside it stand at most two products.
EXP_ROUNDINGS = 8


def test_exponential_also_in_place(device: Any) -> None:
    def body(case: tuple[int, int, int]) -> None:
        n, first, seed = case
        x = (numbers(np.random.default_rng(seed), n) * 20).astype(np.float32)
        on_x, y = shifted(device, x, first), poisoned(device, n)
        exact = np.exp(x.astype(np.float64))
        device.ops.exp_forward(on_x, y)
        assert_close(y, exact, gamma(EXP_ROUNDINGS) * exact)
        in_place = upload(device, x)
        device.ops.exp_forward(in_place, in_place)
        assert_same_bits(np.asarray(in_place), np.asarray(y), "in place")

    for_all(st.tuples(SIZES, st.sampled_from([0, 1]), SEEDS), examples_for(device, 12), body)


def test_reparametrization(device: Any) -> None:
    def body(case: tuple[int, int, int]) -> None:
        n, first, seed = case
        rng = np.random.default_rng(seed)
        mean, lnsd, noise, dcode = (numbers(rng, n) for _ in range(4))
        lnsd = (lnsd * rng.choice([0.1, 1, 8], n)).astype(np.float32)
        on = [shifted(device, a, first) for a in (mean, lnsd, noise, dcode)]
        sd = np.exp(lnsd.astype(np.float64))
        code = poisoned(device, n)
        device.ops.reparametrization_forward(*on[:3], code)
        size = sd * np.abs(noise) + np.abs(mean)
        assert_close(code, mean + sd * noise, gamma(EXP_ROUNDINGS) * size, "sample")
        for name, arrays, exact in (
            ("reparametrization_backward_lnsd", on[1:], sd * noise * dcode),
            ("reparametrization_backward_noise", [on[1], on[3]], sd * dcode),
        ):
            check_write_and_accumulate(
                device,
                lambda out, accumulate, name=name, arrays=arrays: getattr(device.ops, name)(
                    *arrays, out, accumulate=accumulate
                ),
                exact,
                gamma(EXP_ROUNDINGS) * np.abs(exact),
                rng,
                name,
            )

    for_all(st.tuples(SIZES, st.sampled_from([0, 3]), SEEDS), examples_for(device, 15), body)


def test_more_elements_than_the_largest_grid_holds(device: Any) -> None:
    if device.check:
        pytest.skip("4 million elements take long under check mode, and add no new access")
    n = 4096 * 1024 + 4099
    a = numbers(np.random.default_rng(2), n)
    on_a, y = upload(device, a), poisoned(device, n)
    device.ops.add_forward(on_a, on_a, y)
    assert_same_bits(np.asarray(y), a + a)


@st.composite
def broadcasts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Two shapes that broadcast, of one to four axes each."""
    extents = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 19]), min_size=1, max_size=4))
    shapes = []
    for _ in range(2):
        ones = draw(st.lists(st.booleans(), min_size=len(extents), max_size=len(extents)))
        shape = [1 if one else n for n, one in zip(extents, ones, strict=True)]
        cut = draw(st.integers(0, len(shape) - 1))
        shapes.append(tuple(shape[cut:]))
    return shapes[0], shapes[1], draw(SEEDS)


def check_broadcast(
    device: Any, case: tuple[tuple[int, ...], tuple[int, ...], int], first: int = 0
) -> None:
    """first: floats by which arrays lie behind a multiple of 16 bytes."""
    a_shape, b_shape, seed = case
    rng = np.random.default_rng(seed)
    a, b = numbers(rng, *a_shape), numbers(rng, *b_shape)
    dy = numbers(rng, *np.broadcast_shapes(a_shape, b_shape))
    on_a, on_b, on_dy = (
        shifted(device, host.reshape(-1), first).reshape(host.shape) for host in (a, b, dy)
    )
    y = poisoned(device, *dy.shape)
    device.ops.broadcast_multiply_forward(on_a, on_b, y)
    assert_same_bits(np.asarray(y), a * b, "broadcast multiply")

    exact, size = np.empty(a.shape), np.empty(a.shape)
    wide = dy.astype(np.float64), b.astype(np.float64)
    reference.broadcast_multiply_backward(*wide, exact)
    reference.broadcast_multiply_backward(*map(np.abs, wide), size)
    terms = dy.size // a.size
    check_write_and_accumulate(
        device,
        lambda out, accumulate: device.ops.broadcast_multiply_backward(
            on_dy, on_b, out, accumulate=accumulate
        ),
        exact,
        # at most 16 terms, or 1 / 32 of them, by one thread; 8 steps of a tree, 2 of a pack
        gamma(27 + terms // 32) * size,
        rng,
        "broadcast multiply backward",
    )


def test_broadcast_multiply(device: Any) -> None:
    def body(case: tuple[tuple[tuple[int, ...], tuple[int, ...], int], int]) -> None:
        check_broadcast(device, *case)

    cases = st.tuples(broadcasts(), st.sampled_from([0, 0, 1]))
    for_all(cases, examples_for(device, 30), body)


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 28, 28, 1), (3, 1, 1, 10)),  # the conditional discriminator's image times its digit
        ((3, 1, 1, 10), (3, 28, 28, 1)),
        ((3, 1, 1, 40), (3, 9, 7, 40)),  # more packs of sums than a block takes, over pixels
        ((1,), (5, 1013)),  # one sum over everything: a block for it
        ((1,), (4, 1032)),
        ((1, 3), (1471, 3)),
        ((1, 4), (4100, 1)),
    ],
)
def test_broadcast_sums_by_thread_warp_and_block(
    device: Any, a: tuple[int, ...], b: tuple[int, ...], first: int
) -> None:
    check_broadcast(device, (a, b, 4), first)


def test_concatenate(device: Any) -> None:
    def body(case: tuple[list[int], int, list[int], int]) -> None:
        rest, axis, parts, seed = case
        axis %= len(rest)
        rng = np.random.default_rng(seed)
        shapes = [(*rest[:axis], n, *rest[axis + 1 :]) for n in parts]
        inputs = [numbers(rng, *shape) for shape in shapes]
        expected = np.concatenate(inputs, axis=axis)
        y = poisoned(device, *expected.shape)
        offset = 0
        for k, x in enumerate(inputs):
            named = axis - len(rest) if k % 2 else axis  # both ways to name an axis
            device.ops.concatenate_forward(upload(device, x), y, axis=named, offset=offset)
            offset += parts[k]
        assert_same_bits(np.asarray(y), expected)
        offset = 0
        for k, x in enumerate(inputs):
            at = offset
            check_write_and_accumulate(
                device,
                lambda out, accumulate, at=at: device.ops.concatenate_backward(
                    y, out, axis=axis, offset=at, accumulate=accumulate
                ),
                x.astype(np.float64),
                0.0,
                rng,
            )
            offset += parts[k]

    cases = st.tuples(
        # rows that are and are not multiples of 4 floats
        st.lists(st.sampled_from([1, 3, 4, 11]), min_size=1, max_size=4),
        st.integers(0, 3),
        st.lists(st.sampled_from([1, 4, 7, 40]), min_size=1, max_size=3),
        SEEDS,
    )
    for_all(cases, examples_for(device, 15), body)


def test_wrong_calls_are_refused(device: Any) -> None:
    ops, a, b = device.ops, poisoned(device, 3, 4), poisoned(device, 4, 3)
    both = r"\(4, 3\).*\(3, 4\)"
    for call in (
        lambda: ops.add_forward(a, a, b),
        lambda: ops.multiply_forward(a, b, a),
        lambda: ops.multiply_backward(a, a, b),
        lambda: ops.axpy(a, b),
        lambda: ops.exp_forward(a, b),
        lambda: ops.reparametrization_forward(a, a, b, a),
        lambda: ops.reparametrization_backward_lnsd(a, a, a, b),
        lambda: ops.reparametrization_backward_noise(a, a, b),
    ):
        with pytest.raises(ValueError, match=both):
            call()
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(4, 3\) do not broadcast"):
        ops.broadcast_multiply_forward(a, b, a)
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(1, 4\).*\(1, 4\)"):
        row = poisoned(device, 1, 4)
        ops.broadcast_multiply_forward(row, row, a)
    with pytest.raises(ValueError, match="more than 4"):
        five = poisoned(device, 1, 1, 1, 1, 2)
        ops.broadcast_multiply_forward(five, five, five)
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 6\) at 3 of axis 1"):
        ops.concatenate_forward(a, poisoned(device, 3, 6), axis=1, offset=3)
    with pytest.raises(ValueError, match="axis 2"):
        ops.concatenate_backward(a, a, axis=2, offset=0)
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3, 4\)"):
        ops.concatenate_backward(a, b, axis=0, offset=0)
