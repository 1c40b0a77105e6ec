"""The second stage of sums that are cut into slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support import (
    assert_same_bits,
    check_write_and_accumulate,
    numbers,
    poisoned,
    random_sum_bound,
    upload,
)


@pytest.mark.parametrize("slices", [1, 2, 8, 9, 67, 256])
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (3, 11), (5, 64)])
def test_slices_are_added_with_bias(device: Any, slices: int, rows: int, channels: int) -> None:
    """Up to 8 slices one thread adds; more are shared by 8 threads."""
    from pygan.bindings.operators.partial_sums import sum_partials

    rng = np.random.default_rng(slices)
    partials, bias = numbers(rng, slices, rows, channels), numbers(rng, channels)
    workspace = upload(device, partials.reshape(-1))
    for added in (bias, None):
        on_device = upload(device, added)
        exact = partials.astype(np.float64).sum(axis=0)
        magnitude = np.abs(partials.astype(np.float64)).sum(axis=0)
        if added is not None:
            exact, magnitude = exact + added, magnitude + np.abs(added)

        def launch(out: Any, accumulate: bool, bias: Any = on_device) -> None:
            sum_partials(workspace, bias, out, slices, accumulate)

        allowed = random_sum_bound(slices + 1) * magnitude
        check_write_and_accumulate(device, launch, exact, allowed, rng, f"{slices} slices")


@pytest.mark.parametrize("slices", [3, 67])
@pytest.mark.parametrize("added", [True, False])
def test_four_at_a_time_gives_the_same_bits(device: Any, slices: int, added: bool) -> None:
    from pygan.bindings.operators.epilogue import of_output
    from pygan.bindings.operators.partial_sums import sum_partials

    rng = np.random.default_rng(slices)
    shape = (11, 12) if added else (13, 4, 7)  # a bias needs whole packs of channels
    partials, bias = numbers(rng, slices, *shape), numbers(rng, shape[-1]) if added else None
    end = of_output("sum_partials", "tanh", 0.0)
    results = []
    for first in (0, 1):  # floats behind a multiple of 16 bytes
        flat = np.concatenate([np.zeros(first, np.float32), partials.reshape(-1)])
        out = poisoned(device, *shape)
        sum_partials(upload(device, flat)[first:], upload(device, bias), out, slices, False, end)
        results.append(np.asarray(out))
    assert np.isfinite(results[0]).all()
    assert_same_bits(*results)


@pytest.mark.parametrize("rows", [7, 600])
def test_columns_four_at_a_time_give_the_same_bits(device: Any, rows: int) -> None:
    channels = 36
    dy = numbers(np.random.default_rng(rows), rows * channels)
    workspace = device.empty((device.ops.workspace_size("bias_backward", (rows, channels), None),))
    results = []
    for first in (0, 3):
        flat = upload(device, np.concatenate([np.zeros(first, np.float32), dy]))
        out = poisoned(device, channels)
        source = flat[first:].reshape((rows, channels))
        device.ops.bias_backward(source, out, workspace=workspace)
        results.append(np.asarray(out))
    assert np.isfinite(results[0]).all()
    assert_same_bits(*results)
