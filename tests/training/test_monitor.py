"""Norms of chosen outputs and gradients."""

from __future__ import annotations

import numpy as np
import pytest

import pygan.device
from pygan import networks
from pygan.errors import PyganError
from pygan.training.monitor import Monitor, with_internals

PATTERN = r"dact\d_output|dloss_output|d1_weight_gradient"


@pytest.fixture(scope="module")
def executor():
    symbol = with_internals(networks.dcgan_discriminator(2), PATTERN)
    bound = symbol.bind(pygan.device.get("numpy"), {"data": (2, 64, 64, 1)})
    random = np.random.default_rng(1)
    for name in bound.parameter_names:
        bound.arg_dict[name][...] = random.normal(size=bound.arg_dict[name].shape)
    bound.forward(is_train=True, data=random.normal(size=(2, 64, 64, 1)), label=1)
    bound.backward()
    return bound


def test_norms_are_roots_of_mean_squares(executor):
    norms = Monitor({"D": executor}, PATTERN, every=3).norms()
    names = [f"D.dact{i}_output" for i in range(1, 5)]
    assert sorted(norms) == sorted([*names, "D.dloss_output", "D.d1_weight_gradient"])
    first = np.maximum(x := convolution(executor), 0.2 * x)
    assert norms["D.dact1_output"] == pytest.approx(np.sqrt(np.mean(first**2)), rel=1e-5)
    gradient = executor.grad_dict["d1_weight"].astype(float)
    assert norms["D.d1_weight_gradient"] == pytest.approx(np.sqrt(np.mean(gradient**2)), rel=1e-12)


def convolution(executor) -> np.ndarray:
    """d1: 4x4, stride 2, pad 1, in float64"""
    data = np.pad(executor.arg_dict["data"].astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(data, (4, 4), (1, 2))[:, ::2, ::2]
    return np.einsum("nhwcij,oijc->nhwo", windows, executor.arg_dict["d1_weight"].astype(float))


def test_it_speaks_every_so_many_batches(executor):
    monitor = Monitor({"D": executor}, "dloss_output", every=3)
    assert [batch for batch in range(1, 10) if monitor.lines(batch)] == [3, 6, 9]
    assert "D.dloss_output" in monitor.lines(3)[0]


@pytest.mark.parametrize(
    ("pattern", "every", "message"),
    [
        ("nothing", 1, "matches nothing; there are dloss_output"),
        ("(", 1, "no regular expression"),
        ("dloss_output", 0, "not 0"),
    ],
)
def test_requests_that_cannot_be_met(executor, pattern, every, message):
    with pytest.raises(PyganError, match=message):
        Monitor({"D": executor}, pattern, every)
