"""The fully connected layer on device, against the numpy twin in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from support import (
    check_write_and_accumulate,
    examples_for,
    for_all,
    numbers,
    random_sum_bound,
    upload,
    workspace_for,
)

OPERATORS = (
    "fully_connected_forward",
    "fully_connected_backward_data",
    "fully_connected_backward_weight",
)

# 1, odd, prime; below, at and above the tile sizes 8, 16, 32 and 64.
SIZES = st.sampled_from((1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 97))


def check(device: Any, operator: str, sizes: tuple[int, int, int], bias: bool) -> None:
    """`operator` agrees with its twin for (batch, inputs, outputs)."""
    batch, inputs, outputs = sizes
    rng = np.random.default_rng(sizes)
    x, w, y = numbers(rng, batch, inputs), numbers(rng, outputs, inputs), (batch, outputs)
    if operator == OPERATORS[0]:
        arrays, result = [x, w, numbers(rng, outputs) if bias else None], y
        terms = inputs
    elif operator == OPERATORS[1]:
        arrays, result = [numbers(rng, *y), w], x.shape
        terms = outputs
    else:
        arrays, result = [x, numbers(rng, *y)], w.shape
        terms = batch
    wide = [None if a is None else a.astype(np.float64) for a in arrays]
    expected, magnitude = np.zeros(result), np.zeros(result)
    getattr(reference, operator)(*wide, expected)
    getattr(reference, operator)(*(None if a is None else np.abs(a) for a in wide), magnitude)

    shapes = [None if a is None else a.shape for a in arrays]
    workspace = workspace_for(device, operator, *shapes, result)
    sources = [upload(device, a) for a in arrays]

    def launch(out: Any, accumulate: bool) -> None:
        run = getattr(device.ops, operator)
        run(*sources, out, accumulate=accumulate, workspace=workspace)

    # Every product and every addition of the longest sum rounds once, and so may the bias.
    allowed = random_sum_bound(terms + 2) * magnitude
    check_write_and_accumulate(device, launch, expected, allowed, rng, f"{operator} {sizes}")


@pytest.mark.parametrize("operator", OPERATORS)
def test_agrees_with_the_twin_on_any_shape(device: Any, operator: str) -> None:
    for_all(
        st.tuples(SIZES, SIZES, SIZES, st.booleans()),
        examples_for(device, 60),
        lambda drawn: check(device, operator, drawn[:3], drawn[3]),
    )


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("long", [300, 515, 2049])
def test_long_sums_are_cut_into_slices(device: Any, operator: str, long: int) -> None:
    batch, inputs, outputs = 6, 7, 5
    place = {OPERATORS[0]: 1, OPERATORS[1]: 2, OPERATORS[2]: 0}[operator]
    sizes = [batch, inputs, outputs]
    sizes[place] = long
    batch, inputs, outputs = sizes
    x, w, y = (batch, inputs), (outputs, inputs), (batch, outputs)
    shapes = {OPERATORS[0]: (x, w, None, y), OPERATORS[1]: (y, w, x), OPERATORS[2]: (x, y, w)}
    needed = device.ops.workspace_size(operator, *shapes[operator])
    result = shapes[operator][-1]
    assert needed >= 2 * result[0] * result[1]
    check(device, operator, (batch, inputs, outputs), bias=True)

    arrays = [None if shape is None else device.zeros(shape) for shape in shapes[operator]]
    for workspace in (None, device.empty(needed - 1)):
        with pytest.raises(ValueError, match=str(needed)):
            getattr(device.ops, operator)(*arrays, workspace=workspace)


def test_the_shapes_of_the_lessons_autoencoder(device: Any) -> None:
    for operator in OPERATORS:
        check(device, operator, (50, 784, 128), bias=True)


@pytest.mark.parametrize(
    ("x", "w", "bias", "y"),
    [
        ((4, 5), (3, 6), (3,), (4, 3)),
        ((4, 5), (3, 5), (4,), (4, 3)),
        ((4, 5), (3, 5), (3,), (4, 4)),
        ((4, 5), (3, 5), (3,), (5, 3)),
        ((4, 5, 1), (3, 5), (3,), (4, 3)),
        ((4, 5), (15,), (3,), (4, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(device: Any, x: Any, w: Any, bias: Any, y: Any) -> None:
    with pytest.raises(ValueError):
        reference.fully_connected_forward(*(np.zeros(s, np.float32) for s in (x, w, bias, y)))
    with pytest.raises(ValueError, match="fully_connected_forward"):
        device.ops.fully_connected_forward(*(device.zeros(s) for s in (x, w, bias, y)))


def test_empty_sums(device: Any) -> None:
    """No rows: nothing to write, except a weight gradient of zeros."""
    x, w, y = device.zeros((0, 5)), device.zeros((3, 5)), device.zeros((0, 3))
    device.ops.fully_connected_forward(x, w, None, y)
    device.ops.fully_connected_backward_data(y, w, x)
    w.fill(np.nan)
    device.ops.fully_connected_backward_weight(x, y, w)
    assert not np.asarray(w).any()
