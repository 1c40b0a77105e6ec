"""Mistakes of users, where they are made: the error names value, limit and what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pygan import data, device, exchange, initializer, networks, optimizer, pictures
from pygan import symbol as sym
from pygan.errors import CheckpointError, DataError, GraphError, PyganError, ShapeError, StateError
from pygan.executor import cooperative_scope

X = sym.Variable("x")
SHAPES = {"x": (2, 6, 6, 3)}
TOO_LARGE = 10**400


def bound(**options: Any) -> Any:
    x = sym.BatchNorm(sym.Convolution(X, kernel=3, num_filter=8, name="c"), name="bn")
    return sym.MeanSquaredError(x, sym.Variable("y"), name="loss").bind("numpy", SHAPES, **options)


ATTRIBUTES: list[tuple[Callable[..., sym.Symbol], dict[str, Any], str]] = [
    (sym.BatchNorm, {"eps": "small"}, "eps must be a finite number, not 'small'"),
    (sym.BatchNorm, {"eps": None}, "eps must be a finite number, not None"),
    (sym.BatchNorm, {"eps": float("inf")}, "eps must be a finite number, not inf"),
    (sym.BatchNorm, {"momentum": True}, "momentum must be a finite number, not True"),
    (sym.BatchNorm, {"momentum": "0.9"}, "momentum must be a finite number, not '0.9'"),
    (sym.LeakyReLU, {"slope": "x"}, "slope must be a finite number, not 'x'"),
    (sym.LeakyReLU, {"slope": 1j}, "slope must be a finite number, not 1j"),
    (sym.Dropout, {"rate": "half"}, "rate must be a finite number, not 'half'"),
    (sym.MeanSquaredError, {"grad_scale": "2"}, "grad_scale must be a finite number, not '2'"),
    (sym.MeanSquaredError, {"grad_scale": np.inf}, "grad_scale must be a finite number, not inf"),
    (sym.LogisticRegressionOutput, {"grad_scale": None}, "grad_scale must be a finite number"),
    (sym.Pooling, {"kernel": None}, r"kernel must be one integer or two \(height, width\), not"),
    (sym.Pooling, {"kernel": 2.0}, r"kernel must be one integer or two \(height, width\), not 2.0"),
    (sym.Pooling, {"kernel": {2: 2}}, r"kernel must be one integer or two \(height, width\), not"),
    (sym.Concat, {"axis": "channels", "data1": X}, "axis must be an integer, not 'channels'"),
    (sym.Concat, {"axis": None, "data1": X}, "axis must be an integer, not None"),
    (sym.Reshape, {"shape": None}, "each size of shape must be an integer, not None"),
    (sym.Reshape, {"shape": (0, 2.5)}, "each size of shape must be an integer, not 2.5"),
    (sym.FullyConnected, {"num_hidden": True}, "num_hidden must be a positive integer, not True"),
]


@pytest.mark.parametrize(("operator", "attributes", "message"), ATTRIBUTES)
def test_attributes_that_cannot_be(operator: Any, attributes: dict, message: str) -> None:
    with pytest.raises(GraphError, match=f"^{operator.__name__}: {message}"):
        operator(X, **attributes)


def test_numbers_of_numpy_are_numbers() -> None:
    def made(integer: Any, real: Any) -> str:
        with sym.name_scope():
            x = sym.Convolution(X, kernel=integer(3), num_filter=integer(4), stride=(integer(2), 1))
            x = sym.Dropout(sym.BatchNorm(x, momentum=real(0.5)), rate=real(0.25))
            x = sym.Reshape(x, shape=(integer(0), integer(-1)))
            return sym.FullyConnected(x, num_hidden=integer(3)).to_json()

    assert made(np.int64, np.float32) == made(int, float)


CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # graphs and shapes
    (lambda: bound().symbol.infer_shape(x=(np.inf, 1)), ShapeError, "positive integers, not .inf"),
    (lambda: bound().symbol.infer_shape(x=(True, 6, 6, 3)), ShapeError, "not .True, 6, 6, 3"),
    (lambda: sym.bind("lesson", "numpy", SHAPES), GraphError, "takes a symbol.*not 'lesson'"),
    (lambda: sym.group(None), GraphError, r"group\(\[a, b\]\), not None"),
    (lambda: X[None], GraphError, "by its number, its name or a slice, not by None"),
    (lambda: X[0.5], GraphError, "by its number, its name or a slice, not by 0.5"),
    (lambda: sym.name_scope(3).__enter__(), GraphError, "prefix of names is text.*not 3"),
    (
        lambda: sym.from_json(X.to_json().replace("null", 'null, "shape": ["a"]')),
        GraphError,
        "'x' must hold positive integers",
    ),
    # executors
    (lambda: bound(cooperative_limit=True), GraphError, "cooperative_limit is True; .*above 0"),
    (lambda: cooperative_scope(limit="x"), GraphError, "cooperative_limit is 'x'; .*above 0"),
    (lambda: cooperative_scope(limit=-3), GraphError, "cooperative_limit is -3; .*above 0"),
    (lambda: X.bind(type(device.get("numpy")), {"x": (1,)}), GraphError, r"get\('auto'\), not <cl"),
    (
        lambda: bound(output_gradients={"loss_loss": np.zeros(1, np.float32)}),
        GraphError,
        "'loss_loss' to lie in an array of yours; outputs are none",
    ),
    (lambda: bound().forward(is_train=2), GraphError, "is_train is True or False, not a int"),
    (lambda: bound().forward(x=TOO_LARGE), GraphError, "'x' takes real numbers.*no float holds"),
    (lambda: trained().backward(wanted=3), GraphError, r"\['data', 'conv1_weight'\], not 3"),
    (lambda: trained().backward(wanted=[["x"]]), GraphError, r"wanted names.*not \[\['x'\]\]"),
    # optimizers and initializers
    (lambda: optimizer.Adam(bound(), learning_rate=True), GraphError, "from 0 to .*, not True"),
    (lambda: optimizer.Adam(bound(), learning_rate=1e39), GraphError, r"to 3.4e\+38, not 1e\+39"),
    (lambda: optimizer.Adam(bound(), learning_rate=TOO_LARGE), GraphError, r"to 3.4e\+38"),
    (lambda: optimizer.SGD(bound(), clip_gradient=True), GraphError, "clip_gradient .*not True"),
    (lambda: initializer.Uniform(True), GraphError, "scale must be a finite number >= 0, not True"),
    # pictures and data
    (lambda: pictures.grid(np.zeros((4, 8, 8)), 2, 2), PyganError, r"not one of shape \(4, 8, 8\)"),
    (lambda: pictures.grid(None, 2, 2), PyganError, r"not one of shape \(\)"),
    (lambda: pictures.grid(np.zeros((1, 8, 8, 1)), 1, 1, 0), PyganError, "enlarged 0 times"),
    (lambda: pictures.grid(np.full((1, 8, 8, 1), np.nan), 1, 1), PyganError, "not finite"),
    (
        lambda: resident(batch_size="4"),
        DataError,
        "must be a whole number from 1 on, not '4'",
    ),
    (
        lambda: resident(batch_size=2.0),
        DataError,
        "must be a whole number from 1 on, not 2.0",
    ),
    (lambda: resident(seed=-1), DataError, "seed must be a whole number from 0 on, not -1"),
    (lambda: resident(seed=None), DataError, "seed must be a whole number from 0 on, not None"),
    (lambda: fill(resident(), 4), StateError, r"no order yet; call start_epoch\(0\)"),
    (lambda: fill(begun(resident()), 5), DataError, "a batch has 4 images, the array for it 5"),
]


@pytest.mark.parametrize(("call", "error", "message"), CALLS)
def test_calls_that_cannot_be(call: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def trained() -> Any:
    executor = bound()
    initializer.Uniform()(executor, np.random.default_rng(1))
    executor.forward(is_train=True, x=np.random.default_rng(2).random((2, 6, 6, 3)))
    return executor


class Tensor:
    """An array of another library: numpy reads it, or is told why not."""

    def __init__(self, numbers: Any, why_not: str = "") -> None:
        self.numbers, self.why_not = np.asarray(numbers), why_not
        self.shape = self.numbers.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.why_not:
            raise RuntimeError(self.why_not)
        return self.numbers.astype(dtype or self.numbers.dtype)

    def detach(self) -> Tensor:
        return Tensor(self.numbers)


def test_arrays_of_other_libraries_are_read_by_numpy(device: Any) -> None:
    executor = X.bind(device, {"x": (2, 3)}, "null")
    numbers = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(executor.forward(x=Tensor(numbers))[0], numbers)
    with pytest.raises(GraphError, match="'x' takes real numbers, but complex128 was given"):
        executor.forward(x=Tensor(1j * numbers))
    with pytest.raises(GraphError, match="'x' takes what numpy can read as an array: use cpu"):
        executor.forward(x=Tensor(numbers, "use cpu()"))
    with pytest.raises(ShapeError, match=r"\(2, 3\), but an array of \(3, 2\)"):
        executor.forward(x=Tensor(numbers.T))


def test_parameters_of_a_module_are_read_for_their_numbers() -> None:
    executor = bound().symbol.bind("numpy", SHAPES)
    state = {name: array + 2 for name, array in exchange.to_torch(executor).items()}
    state["bn.weight"] = np.ones(8)
    wrapped = {name: Tensor(array, "detach() first") for name, array in state.items()}
    exchange.from_torch(executor, wrapped)
    found = exchange.to_torch(executor)
    assert all(np.array_equal(found[name], state[name]) for name in state)


def test_wanted_may_be_what_is_gone_through_once() -> None:
    executor = trained()
    executor.backward(wanted=(name for name in ["c_weight"]))
    assert np.any(executor.grad_dict["c_weight"]) and not np.any(executor.grad_dict["x"])


def test_arrays_of_a_device_are_copied_as_they_are(device: Any) -> None:
    if device.name == "numpy":
        pytest.skip("its arrays are the host's")
    executor = X.bind(device, {"x": (2, 3)}, "null")
    with pytest.raises(GraphError, match=r"'x' holds float32, .* but one of int32 was given"):
        executor.forward(x=device.zeros((2, 3), np.int32))


def resident(batch_size: Any = 4, seed: Any = 0) -> data.ResidentImages:
    images = data.ImageSet(np.zeros((9, 8, 8, 1), np.uint8), np.zeros(9, np.uint8), "nothing")
    return data.ResidentImages(device.get("numpy"), images, batch_size, seed)


def begun(images: data.ResidentImages) -> data.ResidentImages:
    images.start_epoch(0)
    return images


def fill(images: data.ResidentImages, count: int) -> None:
    images.next_batch(np.zeros((count, 8, 8, 1), np.float32))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("m/c_weight", np.full((8, 3, 3, 3), "a"), "m/c_weight of the state holds <U1"),
        ("m/c_weight", np.full((8, 3, 3, 3), None), "m/c_weight of the state holds object"),
        ("learning_rate", np.array(["a"]), "learning_rate of the state holds <U1"),
        ("learning_rate", np.array([np.nan]), "the learning rate of the state is nan"),
        (3, np.zeros(2), r"3 \(2,\) \(expected none\)"),
    ],
)
def test_states_of_optimizers_without_numbers_change_nothing(name, value, message) -> None:
    executor = bound()
    adam = optimizer.Adam(executor)
    executor.forward(is_train=True, x=1.0)
    executor.backward()
    adam.update()
    before = {key: array.tobytes() for key, array in adam.state_dict().items()}
    state = optimizer.Adam(executor, learning_rate=0.5).state_dict() | {name: value}
    with pytest.raises(CheckpointError, match=message):
        adam.load_state_dict(state)
    assert {key: array.tobytes() for key, array in adam.state_dict().items()} == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((64, 1, 4, 4), "a"), "holds <U1, no real numbers"),
        (np.full((64, 1, 4, 4), 1j), "holds complex128, no real numbers"),
        ([[1], [1, 2]], "cannot be read: "),
    ],
)
def test_states_of_modules_without_numbers_change_nothing(value: Any, message: str) -> None:
    executor = networks.lesson_generator().bind("numpy", {"noise": (1, 1, 1, 10)}, "null")
    state = exchange.to_torch(executor)
    name = list(state)[-1]
    changed = {key: array + 1 for key, array in state.items()} | {name: value, 7: 1.0}
    with pytest.raises(CheckpointError, match=f"{name} of the state {message}"):
        exchange.from_torch(executor, changed)
    now = exchange.to_torch(executor)
    assert all(np.array_equal(now[key], state[key]) for key in state)
