"""Initial values: MXNet's rule of names, one order, one stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pygan import initializer, networks
from pygan.errors import GraphError


def discriminator(device: Any) -> Any:
    executor = networks.lesson_discriminator().bind(device, {"img": (1, 28, 28, 1)})
    for array in [*executor.arg_dict.values(), *executor.aux_dict.values()]:
        array[...] = np.full(array.shape, 9, np.float32)
    return executor


@pytest.mark.parametrize(
    "make_rng", [np.random.default_rng, np.random.RandomState], ids=["Generator", "RandomState"]
)
def test_weights_are_drawn_in_order_and_the_rest_by_name(device: Any, make_rng: Any) -> None:
    executor = discriminator(device)
    initializer.Uniform(0.01)(executor, make_rng(4))
    rng = make_rng(4)
    for name in executor.parameter_names:
        values = np.asarray(executor.arg_dict[name])
        if name.endswith("_weight"):
            expected = rng.uniform(-0.01, 0.01, values.shape).astype(np.float32)
        else:
            expected = np.full(values.shape, 1 if name.endswith("_gamma") else 0, np.float32)
        assert np.array_equal(values, expected), name
    for name, array in executor.aux_dict.items():
        assert np.all(np.asarray(array) == (1 if name.endswith("_var") else 0))
    assert np.all(np.asarray(executor.arg_dict["img"]) == 9)


def test_normal_and_xavier_have_their_spread(numpy_device: Any) -> None:
    """65,536 draws: the standard deviation is known to 1 in 360; 2 % is 7 of these."""
    executor = discriminator(numpy_device)
    weight = executor.arg_dict["dis_conv4_weight"]  # (64, 4, 4, 64): both fans are 1024
    initializer.Normal(0.02)(executor, np.random.default_rng(0))
    assert abs(weight.std() / 0.02 - 1) < 0.02
    initializer.Xavier()(executor, np.random.default_rng(0))
    bound = np.sqrt(3 / 1024)
    assert 0.999 * bound < np.abs(weight).max() <= np.float32(bound)
    assert abs(weight.std() / (bound / np.sqrt(3)) - 1) < 0.02


def test_senseless_settings_are_errors(numpy_device: Any) -> None:
    executor, rng = discriminator(numpy_device), np.random.default_rng(0)
    for build in (
        lambda: initializer.Uniform(-0.1),
        lambda: initializer.Normal(float("nan")),
        lambda: initializer.Xavier("3"),
    ):
        with pytest.raises(GraphError, match="must be a finite number >= 0"):
            build()
    with pytest.raises(GraphError, match="bind <Symbol"):
        initializer.Uniform()(executor.symbol, rng)
    with pytest.raises(GraphError, match=r"default_rng\(0\), not 0"):
        initializer.Uniform()(executor, 0)
