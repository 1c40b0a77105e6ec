"""Optimizers: the formulas over all parameters at once, state that goes on to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import optimizer
from pygan import symbol as sym
from pygan.errors import CheckpointError, GraphError, StateError

State = dict[str, np.ndarray]


def bound(device: Any, requests: Any = "write") -> Any:
    x = sym.FullyConnected(sym.Variable("x"), num_hidden=70, name="fc1")
    x = sym.FullyConnected(x, num_hidden=3, name="fc2")
    executor = sym.MeanSquaredError(x, name="loss").bind(device, {"x": (2, 5)}, requests)
    fill_randomly(executor, 2)
    return executor


def gradients(executor: Any, seed: int) -> State:
    """New random gradients, written into the executor and returned in float64."""
    rng = np.random.default_rng(seed)
    written = {}
    for name in executor.trainable():
        values = rng.standard_normal(executor.grad_dict[name].shape).astype(np.float32)
        executor.grad_dict[name][...] = values
        written[name] = values.astype(np.float64)
    return written


def adam(w: np.ndarray, g: np.ndarray, state: State, t: int, lr: float) -> np.ndarray:
    g = np.clip(0.5 * g + 0.01 * w, -0.7, 0.7)
    state["m"] = 0.6 * state.get("m", 0) + 0.4 * g
    state["v"] = 0.99 * state.get("v", 0) + 0.01 * g**2
    rate = lr * math.sqrt(1 - 0.99**t) / (1 - 0.6**t)
    return w - rate * state["m"] / (np.sqrt(state["v"]) + 1e-5)


def sgd(w: np.ndarray, g: np.ndarray, state: State, t: int, lr: float) -> np.ndarray:
    g = np.clip(0.5 * g, -0.7, 0.7) + 0.01 * w
    state["momentum"] = 0.9 * state.get("momentum", 0) - lr * g
    return w + state["momentum"]


def plain(w: np.ndarray, g: np.ndarray, state: State, t: int, lr: float) -> np.ndarray:
    return w - lr * g


def rmsprop(w: np.ndarray, g: np.ndarray, state: State, t: int, lr: float) -> np.ndarray:
    g = np.clip(g, -0.7, 0.7)
    state["a"] = 0.8 * state.get("a", 0) + 0.2 * g**2
    return w - lr / (1 + 0.1 * (t - 1)) * g / (np.sqrt(state["a"]) + 1e-5)


Build = Callable[[Any], optimizer.Optimizer]
COMMON = {"weight_decay": 0.01, "rescale_grad": 0.5, "clip_gradient": 0.7}
OPTIMIZERS: dict[str, tuple[Build, Any]] = {
    "adam": (
        lambda e: optimizer.Adam(e, 0.1, beta1=0.6, beta2=0.99, eps=1e-5, **COMMON),
        adam,
    ),
    "sgd": (lambda e: optimizer.SGD(e, 0.1, momentum=0.9, **COMMON), sgd),
    "plain": (lambda e: optimizer.SGD(e, 0.1), plain),
    "rmsprop": (
        lambda e: optimizer.RMSprop(
            e, 0.1, rho=0.8, eps=1e-5, clip_gradient=0.7, learning_rate_decay=0.1
        ),
        rmsprop,
    ),
}
each = pytest.mark.parametrize("name", OPTIMIZERS)


@each
def test_steps_follow_the_formula(device: Any, name: str) -> None:
    """Four steps, the rate halved after two. Per step a parameter of size up to 4 is rounded a few
    times (3e-7 each) and the update of at most 0.1 has a relative error below 1e-5 (v of Adam and
    RMSprop loses digits where gradients are near 0): 1e-5 covers four."""
    build, formula = OPTIMIZERS[name]
    executor = bound(device)
    stepper = build(executor)
    expected = {n: np.asarray(executor.arg_dict[n], np.float64) for n in executor.trainable()}
    states: dict[str, State] = {n: {} for n in expected}
    for t in range(1, 5):
        lr = 0.1 if t <= 2 else 0.05
        stepper.set_learning_rate(lr)
        for parameter, g in gradients(executor, t).items():
            expected[parameter] = formula(expected[parameter], g, states[parameter], t, lr)
        stepper.update()
        assert stepper.step_count == t
    for parameter, values in expected.items():
        np.testing.assert_allclose(
            np.asarray(executor.arg_dict[parameter]), values, rtol=0, atol=1e-5, err_msg=parameter
        )


@each
def test_saved_state_goes_on_to_the_bit(device: Any, name: str) -> None:
    build, _ = OPTIMIZERS[name]
    executors = [bound(device), bound(device)]
    steppers = [build(executor) for executor in executors]
    for t in range(3):
        gradients(executors[0], t)
        steppers[0].update()
    steppers[0].set_learning_rate(0.03)
    executors[1].parameters[...] = np.array(executors[0].parameters)
    saved = steppers[0].state_dict()
    assert all(isinstance(array, np.ndarray) for array in saved.values())
    steppers[1].load_state_dict({key: array.copy() for key, array in saved.items()})
    for t in range(3, 5):
        for executor, stepper in zip(executors, steppers, strict=True):
            gradients(executor, t)
            stepper.update()
    first, second = (np.array(executor.parameters) for executor in executors)
    assert np.array_equal(first, second)
    states = [stepper.state_dict() for stepper in steppers]
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_frozen_parameters_and_gaps_stay_under_weight_decay(device: Any) -> None:
    executor = bound(device, {"fc1_weight": "null"})
    frozen = np.array(executor.arg_dict["fc1_weight"])
    stepper = optimizer.SGD(executor, 0.1, weight_decay=0.5)
    gradients(executor, 0)
    before = np.array(executor.arg_dict["fc2_weight"])
    stepper.update()
    assert np.array_equal(np.asarray(executor.arg_dict["fc1_weight"]), frozen)
    assert not np.any(np.asarray(executor.arg_dict["fc2_weight"]) == before)
    parameters, inside = np.asarray(executor.parameters), np.zeros(executor.parameters.size, bool)
    for place in executor.trainable().values():
        inside[place] = True
    inside[executor.gradients.size :] = True
    assert not inside.all() and not parameters[~inside].any()


def test_state_of_another_network_changes_nothing(device: Any) -> None:
    stepper = optimizer.Adam(bound(device))
    gradients(stepper.executor, 0)
    stepper.update()
    state = stepper.state_dict()
    kept = {key: array.copy() for key, array in state.items()}
    for change, message in (
        ({"m/fc1_weight": np.zeros((70, 6), np.float32)}, r"m/fc1_weight \(70, 6\).*\(70, 5\)"),
        ({"m/fc9_bias": np.zeros(3, np.float32)}, "m/fc9_bias"),
        ({"step": np.full(1, np.nan)}, "step count of the state is nan"),
        ({"step": np.full(1, -1)}, "step count of the state is -1"),
    ):
        with pytest.raises(CheckpointError, match=message):
            stepper.load_state_dict(state | change)
    with pytest.raises(CheckpointError, match=r"step missing"):
        stepper.load_state_dict({key: a for key, a in state.items() if key != "step"})
    assert all(np.array_equal(kept[key], a) for key, a in stepper.state_dict().items())


def test_senseless_settings_are_errors(numpy_device: Any) -> None:
    executor = bound(numpy_device)
    for build in (
        lambda: optimizer.Adam(executor, float("nan")),
        lambda: optimizer.Adam(executor, -1),
        lambda: optimizer.Adam(executor, beta1=1.0),
        lambda: optimizer.SGD(executor, momentum=1.5),
        lambda: optimizer.RMSprop(executor, rho=-0.1),
        lambda: optimizer.Adam(executor, "0.1"),
        lambda: optimizer.Adam(executor, eps=-1e-8),
        lambda: optimizer.Adam(executor, weight_decay=float("inf")),
        lambda: optimizer.SGD(executor, clip_gradient=0.0),
    ):
        with pytest.raises(GraphError, match="must"):
            build()
    with pytest.raises(GraphError, match="bind <Symbol"):
        optimizer.Adam(executor.symbol)
    with pytest.raises(StateError, match="no parameter"):
        optimizer.Adam(bound(numpy_device, "null"))
