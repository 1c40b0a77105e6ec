"""The second stage of sums that are cut into slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support import (
    check_write_and_accumulate,
    numbers,
    random_sum_bound,
    upload,
)


@pytest.mark.parametrize("slices", [1, 2, 8, 9, 67, 256])
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (3, 11), (5, 64)])
def test_slices_are_added_with_bias(device: Any, slices: int, rows: int, channels: int) -> None:
    """Up to 8 slices one thread adds; more are shared by 8 threads."""
    from pygan.bindings.operators.tiling import sum_partials

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
