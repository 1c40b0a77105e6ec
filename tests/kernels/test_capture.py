"""What a step keeps on the device (random state, cursor, update counts) moves on in every replay of
a recorded step, as it does in direct launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pygan.bindings.graph import Graph
from support import assert_same_bits, numbers, poisoned, upload

STEPS = 4
SAMPLES, ROW = 5, 7


def make_step(device: Any) -> tuple[Callable[[], None], dict[str, Any]]:
    """Gather, disturb, drop, update; and every array that the step leaves behind."""
    rng = np.random.default_rng(1)
    flat = SAMPLES * ROW
    a = {
        "cursor": upload(device, np.array([8], np.int32)),
        "state": upload(device, np.array([3, 2**32 - 5], np.uint64)),
        "step": upload(device, np.zeros(1024, np.int32)),
        "w": upload(device, numbers(rng, flat)),
        "m": upload(device, np.zeros(flat, np.float32)),
        "v": upload(device, np.zeros(flat, np.float32)),
        "noise": poisoned(device, SAMPLES, ROW),
        "g": poisoned(device, SAMPLES, ROW),
        "mask": upload(device, np.zeros((SAMPLES, ROW), np.uint8)),
        "table": upload(device, rng.integers(0, 256, (11, ROW)).astype(np.uint8)),
        "order": upload(device, rng.permutation(11).astype(np.int32)),
        "rate": upload(device, np.array([0.01], np.float32)),
    }
    ops = device.ops

    def step() -> None:
        ops.gather_rows(a["table"], a["order"], a["cursor"], a["g"], scale=1 / 255)
        ops.advance_cursor(a["cursor"], step=SAMPLES, modulo=11)
        ops.random_normal(a["state"], a["noise"])
        ops.add_forward(a["g"], a["noise"], a["g"])
        ops.dropout_forward(a["state"], a["g"], a["g"], a["mask"], rate=0.5)
        ops.adam_update(
            *[a["w"], a["g"].reshape(flat), a["m"], a["v"], a["step"], a["rate"]],
            beta1=0.5,
            beta2=0.999,
            eps=1e-8,
        )

    return step, a


def test_replays_go_on_where_the_last_one_ended(device: Any) -> None:
    pytest.importorskip("cuda.bindings", reason="CUDA graphs need cuda-bindings")
    direct, expected = make_step(device)
    for _ in range(STEPS):
        direct()

    recorded, arrays = make_step(device)
    recorded()  # compiles what the recording needs, and is the first step
    graph = Graph(arrays["w"].context, recorded)
    for _ in range(STEPS - 1):
        graph.launch()
    device.synchronize()
    for name, array in expected.items():
        assert_same_bits(np.asarray(arrays[name]), np.asarray(array), name)
    assert np.asarray(arrays["step"]).tolist() == [STEPS] * 1024
