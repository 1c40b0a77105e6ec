"""Activations that convolutions take along: the same numbers, and where it must not be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import symbol as sym
from pygan.training.monitor import with_internals

SHAPES = {"x": (2, 6, 6, 2)}


def chain() -> sym.Symbol:
    """Activations between convolutions, before something else, and at the end; x (2, 6, 6, 2)."""
    with sym.name_scope():
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=5, pad=1, name="c1")
        y = sym.LeakyReLU(y, slope=0.2, name="a1")
        y = sym.Convolution(y, kernel=4, num_filter=4, stride=2, pad=1, no_bias=True, name="c2")
        y = sym.Activation(y, kind="relu", name="a2")
        y = sym.TransposedConvolution(y, kernel=4, num_filter=3, stride=2, pad=1, name="t3")
        y = sym.Activation(y, kind="softplus", name="a3")
        y = sym.Convolution(y, kernel=1, num_filter=4, name="c4")
        y = sym.Activation(y, kind="sigmoid", name="a4")
        y = sym.Pooling(y, kernel=2, stride=2, kind="avg", name="pool")
        y = sym.TransposedConvolution(
            y, kernel=4, num_filter=2, stride=2, pad=1, no_bias=False, name="t5"
        )
        return sym.Activation(y, kind="tanh", name="a5")


def results(executor: Any) -> dict[str, np.ndarray]:
    """Outputs and gradients of a step, gradients on top of 1."""
    rng = fill_randomly(executor, 3)
    for gradient in executor.grad_dict.values():
        gradient[...] = np.ones(gradient.shape, np.float32)
    inference = {
        f"{n} used": np.array(a)
        for n, a in zip(executor.symbol.list_outputs(), executor.forward(), strict=True)
    }
    executor.forward(is_train=True)
    heads = [rng.standard_normal(o.shape).astype(np.float32) for o in executor.outputs]
    executor.backward(heads)
    found = inference | {n: np.array(a) for n, a in executor.output_dict.items()}
    return found | {f"{n} gradient": np.array(a) for n, a in executor.grad_dict.items()}


def functions(executor: Any) -> list[str]:
    """What a training step calls."""
    graph = executor._graph
    given = [i for i, head in enumerate(graph.heads) if head.landing is not None]
    passes = graph.forward(training=True) + graph.backward(given, list(executor.grad_dict))
    return [call.function for calls in passes for call in calls]


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        ("write", {}),
        ("add", {"branches": True}),
        ({"x": "null", "c1_weight": "null", "c1_bias": "null", "c2_weight": "add"}, {}),
        ("write", {"precision": "tf32", "keep_forward": True}),
    ],
)
def test_same_numbers(device: Any, request_: Any, options: dict[str, Any]) -> None:
    fused, apart = (
        chain().bind(device, SHAPES, request_, fuse=fuse, **options) for fuse in (True, False)
    )
    assert "activation_forward" not in functions(fused)
    # a3's derivative is no epilogue, a4's gradient comes from pooling, a5's from outside
    assert functions(fused).count("activation_backward") == 3
    assert functions(apart).count("activation_forward") == 5
    expected = results(apart)
    for name, array in results(fused).items():
        # the very same operations in the same order, whatever kernel makes them
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_what_others_read_is_not_fused(device: Any) -> None:
    """A monitored sum before the activation exists, and gets its share of the gradient; so does an
    activation's result that something else reads too."""
    watched = with_internals(chain(), "c1_output|a2_output|t5_output")
    fused, apart = (watched.bind(device, SHAPES, fuse=fuse) for fuse in (True, False))
    calls = functions(fused)
    assert calls.count("activation_forward") == 2 and calls.count("activation_backward") == 5
    assert set(fused.output_dict) == {"c1_output", "a2_output", "t5_output", "a5_output"}
    expected = results(apart)
    for name, array in results(fused).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_two_readers(device: Any) -> None:
    """Gradients of an activation that two convolutions read are added before its derivative."""
    with sym.name_scope():
        y = sym.Convolution(sym.Variable("x"), kernel=1, num_filter=4, name="c1")
        shared = sym.LeakyReLU(y, slope=0.1, name="a1")
        ends = [sym.Convolution(shared, kernel=3, num_filter=2, name=f"e{i}") for i in (1, 2)]
        graph = sym.group(ends)
    fused, apart = (graph.bind(device, SHAPES, fuse=fuse) for fuse in (True, False))
    assert functions(fused).count("activation_backward") == 1
    expected = results(apart)
    for name, array in results(fused).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_negative_slope_is_not_fused(device: Any) -> None:
    """Its output does not tell the sign of its input."""
    y = sym.Convolution(sym.Variable("x"), kernel=1, num_filter=3, name="c")
    executor = sym.LeakyReLU(y, slope=-0.5, name="a").bind(device, SHAPES)
    assert "activation_forward" in functions(executor)
