"""Batch norm of many rows in one cooperative launch: the bits of two launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan.bindings import cooperative
from pygan.bindings.operators import batch_norm, batch_norm_together
from pygan.bindings.operators.plans import batch_norm as batch_norm_plans
from support import (
    assert_same_bits,
    examples_for,
    for_all,
    numbers,
    poisoned,
    upload,
    workspace_for,
)

ATTRIBUTES = {"eps": 2.0**-10, "fix_gamma": False, "slope": 0.25}
Launches = Counter[str]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """Rows of few numbers are split, over as many blocks as the CPU driver holds; the result counts
    the cooperative launches by their kernel."""
    monkeypatch.setattr(batch_norm_plans, "SPLIT_BLOCKS", 8)
    monkeypatch.setattr(batch_norm_plans, "WHOLE_FLOATS", 2048)
    counted: Launches = Counter()
    found = batch_norm.together

    def together(context: Any, operator: str, *arguments: Any) -> Any:
        one = found(context, operator, *arguments)
        counted[operator] += one is not None
        return one

    monkeypatch.setattr(batch_norm, "together", together)
    yield counted


def forward(device: Any, x: np.ndarray, kind: str | None, cooperative: bool) -> list[np.ndarray]:
    rng, channels = np.random.default_rng(1), x.shape[1]
    vectors = [upload(device, numbers(rng, channels)) for _ in range(2)]
    y, mean, var = (
        poisoned(device, *x.shape),
        poisoned(device, channels),
        poisoned(device, channels),
    )
    name = "batch_norm_forward_training"
    options = ATTRIBUTES | {"activation": kind}
    device.ops.batch_norm_forward_training(
        *(upload(device, x), *vectors, y, mean, var),
        **options,
        cooperative=cooperative,
        workspace=workspace_for(device, name, x.shape, **options),
    )
    return [np.asarray(a).copy() for a in (y, mean, var)]


def backward(
    device: Any, x: np.ndarray, kind: str | None, accumulate: bool, cooperative: bool
) -> list[np.ndarray]:
    rng, channels = np.random.default_rng(2), x.shape[1]
    vectors = [upload(device, numbers(rng, channels)) for _ in range(3)]
    vectors.append(upload(device, np.abs(numbers(rng, channels)) + 0.5))
    dx = upload(device, numbers(rng, *x.shape))
    results = [upload(device, numbers(rng, channels)) for _ in range(4)]
    name = "batch_norm_backward"
    device.ops.batch_norm_backward(
        *(upload(device, x), *vectors, upload(device, numbers(rng, *x.shape)), dx, *results),
        **ATTRIBUTES,
        **{"use_global_stats": False, "momentum": 0.875, "activation": kind},
        **{"accumulate": accumulate, "accumulate_beta": True, "cooperative": cooperative},
        workspace=workspace_for(device, name, x.shape),
    )
    return [np.asarray(a).copy() for a in (dx, *results)]


def check(device: Any, rows: int, channels: int, kind: str | None, accumulate: bool) -> None:
    rng = np.random.default_rng(rows)
    x = numbers(rng, rows, channels) + np.float32(1e4)
    for make in (
        lambda cooperative: forward(device, x, kind, cooperative),
        lambda cooperative: backward(device, x - np.float32(1e4), kind, accumulate, cooperative),
    ):
        for one, two in zip(make(True), make(False), strict=True):
            assert np.isfinite(one).all()
            assert_same_bits(one, two, f"{rows} x {channels} {kind}")


def test_any_shape(device: Any, launches: Launches) -> None:
    shapes = st.tuples(
        st.integers(513, 3000),
        st.sampled_from((1, 3, 4, 8, 20, 33, 64)),
        # the activation makes no difference to accesses
        st.sampled_from(("leaky_relu",) if device.check else (None, "leaky_relu")),
        st.booleans(),
    )
    for_all(shapes, examples_for(device, 12), lambda drawn: check(device, *drawn))
    assert launches["batch_norm_forward_training"] > 0 < launches["batch_norm_backward"]


def test_repeated(device: Any, launches: Launches) -> None:
    """The count of blocks at the barrier goes on where the last launch left it."""
    x = numbers(np.random.default_rng(3), 2100, 4)
    expected = forward(device, x, "leaky_relu", cooperative=False)
    for _ in range(3):
        for one, two in zip(
            forward(device, x, "leaky_relu", cooperative=True), expected, strict=True
        ):
            assert_same_bits(one, two)
    assert launches["batch_norm_forward_training"] == 3


def test_rows_that_fit_once(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many for x and dy together: dy is read again."""
    if device.check:
        pytest.skip("the same accesses, and many of them")
    rows = 9000
    plan = batch_norm_plans.split_plan(rows, 4, 4)
    most = device.context.limits.shared_bytes_opt_in // batch_norm_together.RESIDENT
    monkeypatch.setattr(device.context.limits, "shared_bytes_opt_in", 3 * 4 * plan.numbers)
    assert 4 * plan.numbers < most
    batch_norm_together.fitting.cache_clear()
    kept = []
    fitting = batch_norm.together
    monkeypatch.setattr(
        batch_norm, "together", lambda *a: kept.append((a[-1], found := fitting(*a))) or found
    )
    x = numbers(np.random.default_rng(3), rows, 4)
    results = [
        backward(device, x, "leaky_relu", False, cooperative) for cooperative in (True, False)
    ]
    batch_norm_together.fitting.cache_clear()
    assert [(arrays, one is not None) for arrays, one in kept] == [(2, False), (1, True)]
    for one, two in zip(*results, strict=True):
        assert_same_bits(one, two)


def test_what_does_not_fit_takes_two_launches(
    device: Any, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More blocks than the device holds at once, however many processors it has."""
    counts = cooperative.prepare(device.context)
    assert counts is not None
    monkeypatch.setattr(batch_norm_plans, "SPLIT_BLOCKS", 2 * counts.size)
    x = numbers(np.random.default_rng(3), 3000, 16 * -(-counts.size // 8))
    blocks = batch_norm_plans.split_plan(*x.shape, 4)
    assert blocks.columns * blocks.splits >= counts.size
    one, two = (forward(device, x, "leaky_relu", together)[0] for together in (True, False))
    assert_same_bits(one, two)
    assert not +launches


def test_a_recording_without_preparation_has_two_launches(
    device: Any, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(device.context, "arrivals", None)
    batch_norm_together.fitting.cache_clear()
    x = upload(device, numbers(np.random.default_rng(1), 3000, 8))
    vectors = [upload(device, numbers(np.random.default_rng(2), 8)) for _ in range(4)]
    y = poisoned(device, 3000, 8)
    name = "batch_norm_forward_training"
    workspace = workspace_for(device, name, x.shape)

    def forward() -> None:
        operands = (x, *vectors[:2], y, *vectors[2:])
        device.ops.batch_norm_forward_training(
            *operands, **ATTRIBUTES, cooperative=True, workspace=workspace
        )

    assert device.record(forward).nodes == 2
    forward()
    assert launches[name] == 1
    assert device.record(forward).nodes == 1
