"""Gradients of whole graphs, and the independence of results from the memory plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly, random_graphs, run_unplanned, shapes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pygan import symbol as sym
from pygan.symbol import Symbol

SEEDS = st.integers(0, 2**31)


def scalar(executor: Any, out_grads: list[np.ndarray | None]) -> float:
    """The value whose gradient backward computes: losses, and other outputs times out_grads."""
    executor.forward(is_train=True)
    total = 0.0
    for name, output, gradient in zip(
        executor.symbol.list_outputs(), executor.outputs, out_grads, strict=True
    ):
        if name.endswith("_loss"):
            total += float(output[0])
        elif gradient is not None:
            total += float(np.sum(output * gradient))
    return total


def outside_gradients(executor: Any, rng: np.random.Generator) -> list[np.ndarray | None]:
    """Random gradients for outputs that are no losses."""
    return [
        None if name.endswith("_loss") else rng.standard_normal(output.shape)
        for name, output in zip(executor.symbol.list_outputs(), executor.outputs, strict=True)
    ]


@settings(max_examples=40)
@given(graph=random_graphs(), seed=SEEDS)
def test_gradients_are_slopes(numpy_device: Any, graph: Symbol, seed: int) -> None:
    """Along a random direction of all arguments, the gradient is the slope of the loss.

    In float64 a central difference of step h errs by h^2 f'''/6 and by 1e-16 |f| / h. Two steps, h
    and h / 2, are extrapolated (Richardson) to h^4, and the slope of h alone tells how large the
    terms are: an error of a thousandth of what they differ by is round-off of the truncation.
    """
    executor = graph.bind(numpy_device, shapes_of(graph), dtype="float64")
    rng = fill_randomly(executor, seed)
    out_grads = outside_gradients(executor, rng)
    value = scalar(executor, out_grads)
    executor.backward(out_grads)
    direction = {name: rng.standard_normal(a.shape) for name, a in executor.grad_dict.items()}
    start = {name: np.array(executor.arg_dict[name]) for name in direction}
    size = np.sqrt(sum(np.sum(d**2) for d in direction.values()))
    predicted = sum(np.sum(direction[n] * executor.grad_dict[n]) for n in direction) / size

    def slope(step: float) -> float:
        values = []
        for sign in (1, -1):
            for name, at in start.items():
                executor.arg_dict[name][...] = at + sign * step * direction[name] / size
            values.append(scalar(executor, out_grads))
        return (values[0] - values[1]) / (2 * step)

    coarse, fine = slope(2e-4), slope(1e-4)
    extrapolated = fine + (fine - coarse) / 3
    allowed = abs(fine - coarse) / 50 + 1e-10 * (abs(value) + abs(predicted) + 1)
    assert abs(extrapolated - predicted) <= allowed


@settings(max_examples=60)
@given(graph=random_graphs(), seed=SEEDS, data=st.data())
def test_the_memory_plan_changes_no_bit(
    numpy_device: Any, graph: Symbol, seed: int, data: Any
) -> None:
    """Every array in memory of its own gives the same outputs, gradients and statistics, for any
    choice of wanted gradients and requests."""
    arguments = graph.list_arguments()
    requests = {
        name: data.draw(st.sampled_from(["write", "write", "add", "null"])) for name in arguments
    }
    again = data.draw(st.booleans())
    executor = graph.bind(numpy_device, shapes_of(graph), requests, keep_forward=again)
    if not executor.grad_dict:
        return
    rng = fill_randomly(executor, seed)
    for gradient in executor.grad_dict.values():
        gradient[...] = rng.standard_normal(gradient.shape)
    names = sorted(executor.grad_dict)
    wanted = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    out_grads = outside_gradients(executor, rng)
    out_grads = [None if data.draw(st.booleans()) else gradient for gradient in out_grads]
    outputs, gradients, auxiliary = run_unplanned(executor, out_grads, wanted)

    poison(executor)
    executor.forward(is_train=True)
    for mine, other in zip(executor.outputs, outputs, strict=True):
        assert np.array_equal(mine, other)
    executor.backward(out_grads, wanted=wanted)
    for found, expected in ((executor.grad_dict, gradients), (executor.aux_dict, auxiliary)):
        for name, array in found.items():
            assert np.array_equal(array, expected[name]), name
    for mine, other in zip(executor.outputs, outputs, strict=True):
        assert np.array_equal(mine, other)  # backward leaves them alone
    if again:
        executor.backward(out_grads, wanted=wanted)
        for name in wanted:
            if requests[name] == "write":
                assert np.array_equal(executor.grad_dict[name], gradients[name]), name


def poison(executor: Any) -> None:
    """NaN wherever a forward pass must write: the memory of the outputs at least."""
    inputs = [executor.arg_dict[name] for name in executor.input_names]
    for output in executor.outputs:
        if not any(np.shares_memory(output, array) for array in inputs):
            output.fill(np.nan)


@settings(max_examples=20)
@given(graph=random_graphs(), seed=SEEDS)
def test_fusing_changes_no_more_than_roundings(numpy_device: Any, graph: Symbol, seed: int) -> None:
    """In float64, with and without fused batch norm; 1e-9 is a million roundings."""
    results = []
    for fuse in (True, False):
        executor = graph.bind(numpy_device, shapes_of(graph), fuse=fuse, dtype="float64")
        rng = fill_randomly(executor, seed)
        executor.forward(is_train=True)
        executor.backward(outside_gradients(executor, rng))
        results.append((executor.outputs, executor.grad_dict, executor.aux_dict))
    (outputs, gradients, auxiliary), (outputs2, gradients2, auxiliary2) = results
    for mine, other in zip(outputs, outputs2, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9)
    for found, expected in ((gradients, gradients2), (auxiliary, auxiliary2)):
        for name, array in found.items():
            scale = 1 + np.abs(expected[name]).max()
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-9 * scale)


def shared_graph() -> Symbol:
    """x feeds a branch twice, the branch feeds two heads, one weight serves two layers."""
    x, weight = sym.Variable("x"), sym.Variable("w")
    with sym.name_scope():
        first = sym.FullyConnected(x, weight, num_hidden=5, no_bias=True, name="fc1")
        first = sym.Activation(first, kind="relu", name="relu")
        second = sym.FullyConnected(first, weight, num_hidden=5, name="fc2")
        both = sym.Concat(sym.Add(second, first, name="sum"), first, name="cat")
        loss = sym.MeanSquaredError(both, normalization="none", name="mse")
        return sym.group([loss, sym.Multiply(x, x, name="square")])


def test_shared_expressions_and_weights_add_up(device: Any) -> None:
    """Against the same gradients written out by hand in float64.

    Sums have at most 10 terms of size about 1 through a chain of 6 operators: 2e-5 is 50 times the
    bound of float32 on them.
    """
    executor = shared_graph().bind(device, {"x": (3, 5)})
    rng = fill_randomly(executor, 3)
    values = {name: np.asarray(a, np.float64) for name, a in executor.arg_dict.items()}
    out_grad = rng.standard_normal((3, 5)).astype(np.float32)
    executor.forward(is_train=True)
    executor.backward([None, out_grad])

    x, w = values["x"], values["w"]
    r = np.maximum(x @ w.T, 0)
    s = r @ w.T + values["fc2_bias"]
    d = 2 * (np.concatenate([s + r, r], axis=1) - values["mse_target"])
    ds, dcopy = d[:, :5], d[:, 5:]
    dr = ds @ w + ds + dcopy
    dz = dr * (r > 0)
    expected = {
        "x": dz @ w + 2 * x * out_grad,
        "w": ds.T @ r + dz.T @ x,
        "fc2_bias": ds.sum(axis=0),
        "mse_target": -d,
    }
    assert set(executor.grad_dict) == set(expected)
    for name, gradient in executor.grad_dict.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            np.asarray(gradient), expected[name], rtol=0, atol=2e-5 * scale, err_msg=name
        )


@pytest.mark.parametrize("kind", ["Flatten", "Reshape"])
def test_views_hand_gradients_through_without_a_copy(numpy_device: Any, kind: str) -> None:
    x = sym.Variable("x")
    y = sym.Activation(x, kind="tanh", name="act")
    z = sym.Flatten(y, name="view") if kind == "Flatten" else sym.Reshape(y, shape=(0, -1))
    executor = sym.MeanSquaredError(z, normalization="none", name="mse").bind(
        numpy_device, {"x": (2, 3, 4)}, {"mse_target": "null"}
    )
    rng = fill_randomly(executor, 0)
    executor.arg_dict["mse_target"][...] = rng.standard_normal((2, 12))
    executor.forward(is_train=True)
    executor.backward()
    y = np.tanh(executor.arg_dict["x"])
    expected = (1 - y**2) * 2 * (y - executor.arg_dict["mse_target"].reshape(2, 3, 4))
    np.testing.assert_allclose(executor.grad_dict["x"], expected, rtol=1e-5, atol=1e-6)
    # x, its gradient, the target, the loss, tanh(x) and one gradient for both shapes
    assert executor.memory.unplanned == 7 * 256
