"""Options that are on or off take bools, of Python or of numpy; "no", which is true, is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pygan import device
from pygan import symbol as sym
from pygan.errors import GraphError
from pygan.executor import cooperative_scope, lean_scope
from pygan.training.conditional import bind_conditional_generator
from pygan.training.gan import bind_generator
from pygan.training.run_options import RunOptions

X = sym.Variable("x")
SHAPES = {"x": (2, 4, 4, 3)}
TAKERS: dict[str, Callable[[Any], Any]] = {
    **{
        name: lambda value, name=name: bound(**{name: value})
        for name in ("fuse", "lean", "keep_forward", "branches", "cooperative", "lend_gradients")
    },
    "lean (scope)": lean_scope,
    "cooperative (scope)": cooperative_scope,
    "fix_gamma": lambda value: sym.BatchNorm(X, fix_gamma=value),
    "use_global_stats": lambda value: sym.BatchNorm(X, use_global_stats=value),
    "no_bias": lambda value: sym.FullyConnected(X, num_hidden=2, no_bias=value),
    "no_bias (convolution)": lambda value: sym.Convolution(
        X, kernel=1, num_filter=2, no_bias=value
    ),
    "no_bias (deconvolution)": lambda value: sym.TransposedConvolution(
        X, kernel=1, num_filter=2, no_bias=value
    ),
    "global_pool": lambda value: sym.Pooling(X, global_pool=value),
    "count_include_pad": lambda value: sym.Pooling(X, count_include_pad=value),
    "check": lambda value: device.get("numpy", check=value),
    "training": lambda value: bind_generator("numpy", 2, training=value),
    "training (conditional)": lambda value: bind_conditional_generator("numpy", 2, value),
    **{
        f"{name} (run)": lambda value, name=name: RunOptions(out="nowhere", **{name: value})
        for name in ("resume", "overwrite", "cooperative", "part")
    },
}


def bound(**options: Any) -> Any:
    graph = sym.MeanSquaredError(sym.BatchNorm(X, name="bn"), sym.Variable("y"), name="loss")
    return graph.bind("numpy", SHAPES, **options)


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("value", ["no", "False", 1, 0.0, np.array([True, False])])
def test_what_is_no_bool_is_refused(name: str, value: Any) -> None:
    option = name.split()[0]
    with pytest.raises(Exception, match=f"{option} must be True or False, not ") as caught:
        TAKERS[name](value)
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, GraphError | device.DeviceError)


@pytest.mark.parametrize("name", TAKERS)
def test_bools_of_numpy_are_bools(name: str) -> None:
    if name not in ("check", "cooperative", "lend_gradients"):  # which need more than a bool
        TAKERS[name](np.bool_(True))
    TAKERS[name](np.bool_(False))


def test_a_graph_with_bools_of_numpy_can_be_written() -> None:
    made = sym.BatchNorm(X, fix_gamma=np.bool_(False), name="bn")
    assert made.to_json() == sym.BatchNorm(X, fix_gamma=False, name="bn").to_json()
