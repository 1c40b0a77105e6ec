"""Softmax and the losses against their twins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from support import (
    UNIT_ROUNDOFF,
    assert_close,
    assert_same_bits,
    check_write_and_accumulate,
    examples_for,
    for_all,
    gamma,
    numbers,
    poisoned,
    upload,
    workspace_for,
)

SCALE = 2.0**-5  # float32 holds it, so that both sides compute with the same
COLUMNS = st.sampled_from([1, 2, 3, 10, 31, 32, 33, 100, 1000])
SEEDS = st.integers(0, 2**32)

# A term has at most 16 roundings (two functions within 2 units in the last place, and four
# operations); the sums below hold at most 16 terms per thread, 8 steps in a block, and 4 + 8 more
# over the blocks' sums.
SUM_ROUNDINGS = 52


def element_counts(device: Any) -> st.SearchStrategy[int]:
    """From one element to several blocks (one up to 4096 elements, then one for every 1024)."""
    return st.sampled_from([1, 2, 255, 256, 1023, 1025, 4096, 4097]) | st.integers(
        1, 3000 if device.check else 9000
    )


def check_loss(
    device: Any,
    name: str,
    inputs: tuple[np.ndarray, ...],
    allowed: float,
    probabilities_error: np.ndarray | None,
) -> None:
    """Loss and probabilities (where the loss has them), with and without, and twice."""
    shapes = [a.shape for a in inputs]
    exact_loss = np.empty(1)
    exact_probabilities = np.empty(inputs[0].shape)
    has_probabilities = probabilities_error is not None
    between = (exact_probabilities,) if has_probabilities else ()
    wide = [a.astype(np.float64) for a in inputs]
    getattr(reference, name)(*wide, *between, exact_loss, scale=SCALE)

    results = []
    for wanted in (True, True, False):
        loss = poisoned(device, 1)
        probabilities = poisoned(device, *inputs[0].shape) if wanted else None
        arrays = (probabilities,) if has_probabilities else ()
        workspace = workspace_for(
            device,
            name,
            *shapes,
            *[inputs[0].shape if wanted else None for _ in arrays],
            (1,),
            scale=SCALE,
        )
        getattr(device.ops, name)(
            *[upload(device, a) for a in inputs], *arrays, loss, scale=SCALE, workspace=workspace
        )
        results.append(np.asarray(loss))
        if has_probabilities and wanted:
            assert_close(probabilities, exact_probabilities, probabilities_error, "probabilities")
    assert_close(results[0], exact_loss, allowed, name)
    assert_same_bits(results[0], results[1], "repeated")
    assert_same_bits(results[0], results[2], "without probabilities")


def check_gradient(
    device: Any, name: str, inputs: tuple[np.ndarray, ...], allowed: Any, rng: np.random.Generator
) -> None:
    exact = np.empty(inputs[0].shape)
    getattr(reference, name)(*[a.astype(np.float64) for a in inputs], exact, scale=SCALE)
    arrays = [upload(device, a) for a in inputs]

    def launch(out: Any, accumulate: bool) -> None:
        getattr(device.ops, name)(*arrays, out, scale=SCALE, accumulate=accumulate)

    check_write_and_accumulate(device, launch, exact, allowed, rng, name)


def test_sigmoid_cross_entropy(device: Any) -> None:
    def body(case: tuple[int, int]) -> None:
        n, seed = case
        rng = np.random.default_rng(seed)
        z = (numbers(rng, n) * rng.choice([1, 10, 50], n)).astype(np.float32)
        t = rng.random(n).astype(np.float32)
        t[: n // 2] = rng.integers(0, 2, n // 2)
        wide = z.astype(np.float64)
        size = np.maximum(wide, 0) + np.abs(wide * t) + np.log1p(np.exp(-np.abs(wide)))
        p = 1 / (1 + np.exp(-wide))
        name = "sigmoid_cross_entropy"
        check_loss(
            device,
            f"{name}_forward",
            (z, t),
            SCALE * gamma(SUM_ROUNDINGS) * size.sum(),
            gamma(8) * p,
        )
        check_gradient(device, f"{name}_backward", (z, t), SCALE * gamma(10) * (p + t), rng)
        check_gradient_of_forward(device, name, z, t, None)
        check_sigmoid_cross_entropy_without_loss(device, z, t)

    for_all(st.tuples(element_counts(device), SEEDS), examples_for(device, 20), body)


def check_gradient_of_forward(
    device: Any, name: str, x: np.ndarray, t: np.ndarray, *absent: None
) -> None:
    """The gradient that forward leaves on the way has the bits of backward's, and the loss those of
    a forward without it. absent: optional outputs before the loss."""
    inputs, shape = (upload(device, x), upload(device, t)), x.shape
    shapes = (shape, shape, *absent, (1,))
    workspace = workspace_for(device, f"{name}_forward", *shapes, shape, scale=SCALE)
    forward = partial(getattr(device.ops, f"{name}_forward"), scale=SCALE, workspace=workspace)
    loss, alone = poisoned(device, 1), poisoned(device, 1)
    ahead, expected = poisoned(device, *shape), poisoned(device, *shape)
    forward(*inputs, *absent, loss, ahead)
    forward(*inputs, *absent, alone)
    getattr(device.ops, f"{name}_backward")(*inputs, expected, scale=SCALE)
    assert np.isfinite(np.asarray(loss)).all() and np.isfinite(np.asarray(ahead)).all()
    assert_same_bits(np.asarray(ahead), np.asarray(expected), f"gradient of {name}")
    assert_same_bits(np.asarray(loss), np.asarray(alone), f"{name} without its gradient")


def check_sigmoid_cross_entropy_without_loss(device: Any, z: np.ndarray, t: np.ndarray) -> None:
    name, shape = "sigmoid_cross_entropy_forward", z.shape
    logits, labels = upload(device, z), upload(device, t)
    probabilities, alone = poisoned(device, *shape), poisoned(device, *shape)
    expected = poisoned(device, *shape)
    device.ops.sigmoid_cross_entropy_backward(logits, labels, expected, scale=SCALE)
    device.ops.sigmoid_cross_entropy_forward(
        logits, labels, probabilities, None, alone, scale=SCALE
    )
    assert_same_bits(np.asarray(alone), np.asarray(expected), "without the loss")
    wide = 1 / (1 + np.exp(-z.astype(np.float64)))
    assert_close(probabilities, wide, gamma(8) * wide, "probabilities without the loss")
    assert device.ops.workspace_size(name, shape, shape, shape, None, shape, scale=SCALE) == 0


def test_mean_squared_error(device: Any) -> None:
    def body(case: tuple[int, int]) -> None:
        n, seed = case
        rng = np.random.default_rng(seed)
        x, target = numbers(rng, n), numbers(rng, n)
        difference = np.abs(x.astype(np.float64) - target)
        name = "mean_squared_error"
        allowed = SCALE * gamma(SUM_ROUNDINGS) * (difference**2).sum()
        check_loss(device, f"{name}_forward", (x, target), allowed, None)
        check_gradient(
            device, f"{name}_backward", (x, target), 2 * SCALE * gamma(3) * difference, rng
        )
        check_gradient_of_forward(device, name, x, target)

    for_all(st.tuples(element_counts(device), SEEDS), examples_for(device, 15), body)


def test_kullback_leibler(device: Any) -> None:
    def body(case: tuple[int, float, int]) -> None:
        n, spread, seed = case
        rng = np.random.default_rng(seed)
        mean, lnsd = numbers(rng, n), (numbers(rng, n) * spread).astype(np.float32)
        wide = lnsd.astype(np.float64)
        size = np.abs(np.expm1(wide)) + np.abs(wide) + np.square(mean.astype(np.float64))
        name = "kullback_leibler"
        allowed = SCALE * gamma(SUM_ROUNDINGS) * size.sum()
        check_loss(device, f"{name}_forward", (mean, lnsd), allowed, None)
        # expm1 within 2 units in the last place, and a product
        gradient = SCALE * gamma(6) * np.abs(np.expm1(wide))
        check_gradient(device, f"{name}_backward", (lnsd,), gradient, rng)

    cases = st.tuples(element_counts(device), st.sampled_from([0.01, 1.0, 5.0]), SEEDS)
    for_all(cases, examples_for(device, 15), body)


def softmax_error(z: np.ndarray) -> np.ndarray:
    """Relative error of exp(z - max) / sum: the rounded difference stands in an exponent, and the
    sum runs over a lane's columns and the warp."""
    return gamma(24 + z.shape[-1] // 32) + UNIT_ROUNDOFF * (z.max(axis=-1, keepdims=True) - z)


def test_softmax(device: Any) -> None:
    def body(case: tuple[int, int, int]) -> None:
        rows, columns, seed = case
        rng = np.random.default_rng(seed)
        x = (numbers(rng, rows, columns) * 5 + rng.choice([0, 1e4])).astype(np.float32)
        dy = numbers(rng, rows, columns)
        exact = np.empty(x.shape)
        reference.softmax_forward(x.astype(np.float64), exact)
        y = poisoned(device, *x.shape)
        device.ops.softmax_forward(upload(device, x), y)
        assert_close(y, exact, softmax_error(x) * exact, "softmax")
        in_place = upload(device, x)
        device.ops.softmax_forward(in_place, in_place)
        assert_same_bits(np.asarray(in_place), np.asarray(y), "in place")

        kept = np.asarray(y).astype(np.float64)
        gradient = np.empty(x.shape)
        reference.softmax_backward(kept, dy.astype(np.float64), gradient)
        size = kept * (np.abs(dy) + np.abs(kept * dy).sum(axis=-1, keepdims=True))
        check_write_and_accumulate(
            device,
            lambda out, accumulate: device.ops.softmax_backward(
                y, upload(device, dy), out, accumulate=accumulate
            ),
            gradient,
            gamma(12 + columns // 32) * size,
            rng,
            "softmax backward",
        )

    cases = st.tuples(st.integers(1, 40), COLUMNS, SEEDS)
    for_all(cases, examples_for(device, 20), body)


def test_softmax_of_an_image_is_over_channels(device: Any) -> None:
    x = numbers(np.random.default_rng(1), 2, 3, 4, 5)
    y = poisoned(device, *x.shape)
    device.ops.softmax_forward(upload(device, x), y)
    assert np.all(np.abs(np.asarray(y).sum(axis=-1) - 1) < 1e-6)  # a few roundings of 6e-8


def test_softmax_cross_entropy(device: Any) -> None:
    def body(case: tuple[int, int, int]) -> None:
        rows, columns, seed = case
        rng = np.random.default_rng(seed)
        z = (numbers(rng, rows, columns) * 5 + rng.choice([0, 1e3])).astype(np.float32)
        t = rng.random((rows, columns)).astype(np.float32)
        wide = z.astype(np.float64)
        shifted = wide - wide.max(axis=-1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        # log(sum) has the sum's relative error as an absolute one: 1 beside its own size
        size = (t * (1 + np.abs(log_sum) + np.abs(shifted))).sum()
        error = softmax_error(wide)
        p = np.exp(shifted - log_sum)
        name = "softmax_cross_entropy"
        allowed = SCALE * gamma(2 * SUM_ROUNDINGS + columns // 8) * size
        check_loss(device, f"{name}_forward", (z, t), allowed, error * p)
        weight = t.sum(axis=-1, keepdims=True, dtype=np.float64)
        gradient_error = (error + gamma(12 + columns // 32)) * p * weight + gamma(3) * t
        check_gradient(device, f"{name}_backward", (z, t), SCALE * gradient_error, rng)
        check_gradient_of_forward(device, name, z, t, None)

    cases = st.tuples(st.integers(1, 90), COLUMNS, SEEDS)
    for_all(cases, examples_for(device, 15), body)


def test_confident_answers_neither_saturate_nor_overflow(device: Any) -> None:
    """log(1 - sigmoid(60)) is -inf, or -18.42 with the usual clamp; the loss is 60."""
    z = upload(device, np.array([60, -60, 200, -200], np.float32))
    wrong = upload(device, np.array([0, 1, 0, 1], np.float32))
    right = upload(device, np.array([1, 0, 1, 0], np.float32))
    loss = poisoned(device, 1)
    device.ops.sigmoid_cross_entropy_forward(z, wrong, None, loss, scale=1)
    assert np.asarray(loss).tolist() == [520.0]
    device.ops.sigmoid_cross_entropy_forward(z, right, None, loss, scale=1)
    expected = 2 * np.exp(-60.0)  # the other two are below every float32
    assert_close(loss, np.array([expected]), gamma(8) * expected)


def test_nan_shows_in_the_loss(device: Any) -> None:
    z, t = np.zeros(5000, np.float32), upload(device, np.zeros(5000, np.float32))
    z[1234] = np.nan
    loss = upload(device, np.zeros(1, np.float32))
    workspace = workspace_for(device, "sigmoid_cross_entropy_forward", (5000,), (5000,), None, (1,))
    device.ops.sigmoid_cross_entropy_forward(
        upload(device, z), t, None, loss, scale=1, workspace=workspace
    )
    assert np.isnan(np.asarray(loss)[0])


FLAT = {
    "sigmoid_cross_entropy": 2,
    "mean_squared_error": 2,
    "kullback_leibler": 1,
}


@pytest.mark.parametrize("name", FLAT)
def test_arrays_between_multiples_of_16_bytes(device: Any, name: str) -> None:
    """Gradients to the same bits, four at a time and one by one; the sum only nearly, as its terms
    meet in another order."""
    rng = np.random.default_rng(4)
    hosts = [numbers(rng, 1027), rng.random(1027).astype(np.float32)]
    losses, gradients = [], []
    for shift in (0, 1):
        arrays = [poisoned(device, shift + 1027)[shift:] for _ in range(3)]
        for array, host in zip(arrays, hosts, strict=False):
            array[...] = host
        loss, between = poisoned(device, 1), (None,) if "sigmoid" in name else ()
        getattr(device.ops, f"{name}_forward")(*arrays[:2], *between, loss, scale=SCALE)
        inputs = arrays[: FLAT[name]]
        getattr(device.ops, f"{name}_backward")(*inputs, arrays[2], scale=SCALE)
        losses.append(np.asarray(loss))
        gradients.append(np.asarray(arrays[2]))
    assert_same_bits(*gradients)
    assert np.isfinite(gradients[0]).all()
    assert_close(losses[1], losses[0], gamma(2 * SUM_ROUNDINGS) * np.abs(losses[0]) * 4)


Call = Callable[[Any, Any, Any, Any], None]
WRONG: dict[str, Call] = {
    "labels": lambda ops, a, b, one: ops.sigmoid_cross_entropy_forward(a, b, None, one, scale=1),
    "probabilities": lambda ops, a, b, one: ops.sigmoid_cross_entropy_forward(
        a, a, b, one, scale=1
    ),
    "loss": lambda ops, a, b, one: ops.mean_squared_error_forward(a, a, b, scale=1),
    "dlogits": lambda ops, a, b, one: ops.softmax_cross_entropy_backward(a, a, b, scale=1),
    "dx": lambda ops, a, b, one: ops.softmax_backward(a, a, b),
    "lnsd": lambda ops, a, b, one: ops.kullback_leibler_forward(a, b, one, scale=1),
    "dlnsd": lambda ops, a, b, one: ops.kullback_leibler_backward(a, b, scale=1),
    "y": lambda ops, a, b, one: ops.softmax_forward(a, b),
}


@pytest.mark.parametrize("culprit", WRONG)
def test_wrong_shapes_are_refused(device: Any, culprit: str) -> None:
    a, b, one = poisoned(device, 3, 4), poisoned(device, 4, 3), poisoned(device, 1)
    with pytest.raises(ValueError, match=rf"{culprit} has shape \(4, 3\).*\((3, 4|1,)\)"):
        WRONG[culprit](device.ops, a, b, one)


def test_missing_workspace_is_refused(device: Any) -> None:
    x, loss = poisoned(device, 5000), poisoned(device, 1)
    assert device.ops.workspace_size("mean_squared_error_forward", (5000,), (5000,), (1,)) == 5
    assert device.ops.workspace_size("mean_squared_error_forward", (4096,), (4096,), (1,)) == 0
    for workspace in (None, poisoned(device, 4)):
        with pytest.raises(ValueError, match="need 5"):
            device.ops.mean_squared_error_forward(x, x, loss, scale=1, workspace=workspace)
