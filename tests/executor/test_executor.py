"""What executors promise: semantics of forward and backward, requests, memory, errors."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import networks, operators
from pygan import symbol as sym
from pygan.errors import GraphError, OutOfDeviceMemory, PyganError, ShapeError, StateError
from pygan.executor import Executor
from pygan.executor.options import ExecutorOptions


def small_net() -> sym.Symbol:
    """Convolution, fused batch norm, a second layer and a loss; x (4, 5, 5, 2)."""
    x = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=3, no_bias=True, name="conv")
    x = sym.LeakyReLU(sym.BatchNorm(x, fix_gamma=False, name="bn"), name="act")
    x = sym.FullyConnected(x, num_hidden=1, name="fc")
    return sym.SigmoidCrossEntropy(x, name="loss")


def bound(device: Any, requests: Any = "write", **options: Any) -> Any:
    executor = small_net().bind(device, {"x": (4, 5, 5, 2)}, requests, **options)
    fill_randomly(executor, 1)
    return executor


def host(arrays: Any) -> Any:
    """Private host copies of a dictionary or list of arrays."""
    if isinstance(arrays, dict):
        return {name: np.array(array) for name, array in arrays.items()}
    return [np.array(array) for array in arrays]


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


# Forward and backward


def test_inputs_are_copied_filled_or_left_alone(device: Any) -> None:
    executor = bound(device)
    images = np.random.default_rng(0).standard_normal((4, 5, 5, 2))
    first = host(executor.forward(x=images, loss_label=1.0))
    executor.arg_dict["x"][...] = images.astype(np.float32)
    assert np.array_equal(first[1], host(executor.forward())[1])
    assert np.all(np.asarray(executor.arg_dict["loss_label"]) == 1)
    other = device.from_numpy(images.astype(np.float32)[::-1].copy())
    second = host(executor.forward(x=other))
    assert np.array_equal(second[1], first[1][::-1])


def test_outputs_keep_their_memory_and_survive_backward(device: Any) -> None:
    executor = bound(device)
    outputs = list(executor.outputs)
    executor.forward(is_train=True)
    before = host(outputs)
    executor.backward()
    assert all(a is b for a, b in zip(outputs, executor.outputs, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(before, host(outputs), strict=True))
    assert executor.output_dict["loss_probabilities"] is executor.outputs[1]


def test_moving_statistics_move_in_backward_alone(device: Any) -> None:
    executor = bound(device, keep_forward=True)
    start = host(executor.aux_dict)
    executor.forward(is_train=True)
    assert same(host(executor.aux_dict), start)
    executor.backward(wanted=["fc_bias"])  # bn lies below, and still moves
    once = host(executor.aux_dict)
    executor.backward()
    twice = host(executor.aux_dict)
    for name, first in start.items():
        change = once[name] - first
        assert np.all(change != 0)
        # moving' - batch = 0.9 (moving - batch): the second change is 0.9 of the first, to float32
        np.testing.assert_allclose(
            twice[name] - once[name], 0.9 * change, rtol=0, atol=4e-7 * np.abs(first).max()
        )


def test_statistics_below_frozen_layers_do_not_move(device: Any) -> None:
    """As in MXNet, only operators that the bound gradients pass are part of backward."""
    frozen = {name: "null" for name in ("x", "conv_weight", "bn_gamma", "bn_beta")}
    executor = bound(device, frozen)
    start = host(executor.aux_dict)
    executor.forward(is_train=True)
    executor.backward()
    assert same(host(executor.aux_dict), start)


def test_fix_gamma_overwrites_gamma_and_has_no_gradient(device: Any) -> None:
    normalized = sym.BatchNorm(sym.Variable("x"), name="bn")
    executor = normalized.bind(device, {"x": (6, 2)})
    fill_randomly(executor, 5)
    executor.grad_dict["bn_gamma"][...] = np.full(2, 7, np.float32)
    executor.forward(is_train=True)
    executor.backward(np.ones((6, 2), np.float32))
    assert np.array_equal(np.asarray(executor.arg_dict["bn_gamma"]), [1, 1])
    assert np.array_equal(np.asarray(executor.grad_dict["bn_gamma"]), [0, 0])
    executor.arg_dict["bn_gamma"][...] = np.full(2, 3, np.float32)
    executor.forward()
    assert np.array_equal(np.asarray(executor.arg_dict["bn_gamma"]), [1, 1])


def test_loss_heads_ignore_gradients_from_outside(device: Any) -> None:
    executor = bound(device, keep_forward=True)
    executor.forward(is_train=True)
    executor.backward()
    alone = host(executor.grad_dict)
    executor.backward([np.full(1, 9, np.float32), np.ones((4, 1), np.float32)])
    assert same(host(executor.grad_dict), alone)


def test_a_label_is_no_parameter(device: Any) -> None:
    executor = bound(device)
    assert executor.input_names == ["x", "loss_label"]
    assert executor.parameter_names == [
        *("conv_weight", "bn_gamma", "bn_beta", "fc_weight", "fc_bias"),
    ]
    executor.forward(is_train=True, loss_label=0)
    executor.backward()
    # d/dt of the mean of -t z: the logits, from the probabilities; exact to float32's logarithms
    p = np.asarray(executor.outputs[1], np.float64)
    np.testing.assert_allclose(
        np.asarray(executor.grad_dict["loss_label"]), -np.log(p / (1 - p)) / 4, rtol=1e-4, atol=1e-6
    )


def test_logistic_regression_output_takes_labels_of_one_axis(device: Any) -> None:
    graph = sym.LogisticRegressionOutput(sym.Variable("x"), grad_scale=2.0, name="out")
    executor = graph.bind(device, {"x": (3, 1), "out_label": (3,)})
    assert list(executor.grad_dict) == ["x"]
    values = np.array([[-1.0], [0.0], [2.0]])
    executor.forward(is_train=True, x=values, out_label=[0, 1, 1])
    executor.backward()
    p = 1 / (1 + np.exp(-values))
    np.testing.assert_allclose(np.asarray(executor.outputs[0]), p, rtol=1e-6)
    np.testing.assert_allclose(
        np.asarray(executor.grad_dict["x"]), 2 * (p - [[0], [1], [1]]), rtol=1e-6
    )


# Requests and wanted gradients


def test_add_adds_and_null_leaves_no_gradient(device: Any) -> None:
    reference = bound(device)
    reference.forward(is_train=True)
    reference.backward()
    once = host(reference.grad_dict)
    requests = {name: "add" for name in once} | {"bn_beta": "null", "x": "write"}
    executor = bound(device, requests)
    assert "bn_beta" not in executor.grad_dict
    for gradient in executor.grad_dict.values():
        gradient[...] = np.ones(gradient.shape, np.float32)
    for _ in range(2):
        executor.forward(is_train=True)
        executor.backward()
    for name, gradient in host(executor.grad_dict).items():
        expected = once[name] if name == "x" else 1 + 2 * once[name]
        # three roundings of a sum of that size
        size = 1 + 2 * np.abs(once[name]).max()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=4e-7 * size, err_msg=name)
    executor.zero_gradients()
    assert not any(np.any(gradient) for gradient in host(executor.grad_dict).values())


def test_only_wanted_gradients_are_written(device: Any) -> None:
    executor = bound(device)
    executor.forward(is_train=True)
    executor.backward()
    everything = host(executor.grad_dict)
    for wanted in (["x"], ["conv_weight", "fc_bias"], []):
        for gradient in executor.grad_dict.values():
            gradient[...] = np.full(gradient.shape, 5, np.float32)
        executor.aux_dict["bn_moving_mean"][...] = np.zeros(3, np.float32)
        executor.forward(is_train=True)
        executor.backward(wanted=wanted)
        for name, gradient in host(executor.grad_dict).items():
            assert np.array_equal(
                gradient, everything[name] if name in wanted else gradient * 0 + 5
            )


def test_wanted_saves_the_work_that_nobody_needs(numpy_device: Any) -> None:
    """A pass for the image's gradient computes no gradient of a weight, and the reverse."""
    counted = Counting(numpy_device)
    executor = networks.lesson_discriminator().bind(counted, {"img": (2, 28, 28, 1)})
    fill_randomly(executor, 0)
    weights = [name for name in executor.grad_dict if name.endswith("weight")]
    for wanted, data, weight in ((["img"], 5, 0), (weights, 4, 5), (["dis_conv5_bias"], 0, 0)):
        executor.forward(is_train=True)
        counted.calls.clear()
        executor.backward(wanted=wanted)
        assert counted.calls.count("convolution_backward_data") == data
        assert counted.calls.count("convolution_backward_weight") == weight


def test_inputs_and_their_gradients_can_lie_in_arrays_of_another_executor(device: Any) -> None:
    first = sym.FullyConnected(sym.Variable("x"), num_hidden=3, name="first")
    second = sym.FullyConnected(sym.Variable("y"), num_hidden=2, name="second")
    below = first.bind(device, {"x": (4, 5)})
    shared = {"inputs": {"y": below.outputs[0]}, "input_gradients": {"y": below.head_gradients[0]}}
    found = []
    for options in ({}, shared):
        above = second.bind(device, {"y": (4, 3)}, **options)
        fill_randomly(below, 1)
        fill_randomly(above, 2)
        below.forward(is_train=True)
        above.forward(is_train=True, y=below.outputs[0])
        above.backward(np.cos(np.arange(8)).reshape(4, 2).astype(np.float32))
        below.backward(above.grad_dict["y"])
        found.append(host(below.grad_dict) | host(above.grad_dict))
    assert above.grad_dict["y"] is below.head_gradients[0]
    for name, gradient in found[0].items():
        assert np.abs(gradient).max() > 0
        np.testing.assert_array_equal(found[1][name], gradient, err_msg=name)
    with pytest.raises(ShapeError, match=r"input 'y'.*\(4, 2\).*\(4, 3\)"):
        second.bind(device, {"y": (4, 2)}, inputs={"y": below.outputs[0]})
    with pytest.raises(GraphError, match="no gradient of input 'second_weight'"):
        second.bind(device, {"y": (4, 3)}, input_gradients={"second_weight": below.outputs[0]})


def test_a_gradient_can_arrive_in_an_array_that_keeps_it(device: Any) -> None:
    """Also where the head is a view of what has the gradient."""
    x = sym.Variable("x")
    deep = sym.Activation(sym.FullyConnected(x, num_hidden=6, name="fc"), kind="tanh", name="tanh")
    for head in (deep, sym.Reshape(deep, shape=(-1, 2, 3), name="image")):
        (name,) = head.list_outputs()
        plain = head.bind(device, {"x": (4, 5)})
        arrival = device.zeros(plain.outputs[0].shape, np.float32)
        executor = head.bind(device, {"x": (4, 5)}, output_gradients={name: arrival})
        assert executor.head_gradients[0] is arrival
        given = np.cos(np.arange(24)).reshape(arrival.shape).astype(np.float32)
        arrival[...] = given
        found = []
        for each, gradient in ((plain, given), (executor, arrival)):
            fill_randomly(each, 1)
            each.forward(is_train=True)
            each.backward([gradient])
            found.append(host(each.grad_dict))
        np.testing.assert_array_equal(np.asarray(arrival), given)
        for key, gradient in found[0].items():
            assert np.abs(gradient).max() > 0
            np.testing.assert_array_equal(found[1][key], gradient, err_msg=key)
        with pytest.raises(ShapeError, match=rf"gradient of output '{name}'.*\(2,\)"):
            wrong = {name: device.zeros((2,), np.float32)}
            head.bind(device, {"x": (4, 5)}, output_gradients=wrong)
    with pytest.raises(GraphError, match=r"no gradient of output 'x'.*outputs are image_output"):
        head.bind(device, {"x": (4, 5)}, output_gradients={"x": arrival})


@pytest.mark.parametrize(
    ("kind", "operator"),
    [
        (sym.SigmoidCrossEntropy, "sigmoid_cross_entropy"),
        (sym.LogisticRegressionOutput, "sigmoid_cross_entropy"),
        (sym.SoftmaxCrossEntropy, "softmax_cross_entropy"),
        (sym.MeanSquaredError, "mean_squared_error"),
    ],
)
def test_a_loss_leaves_its_gradient_in_forward_where_nothing_else_adds_to_it(
    numpy_device: Any, kind: Any, operator: str
) -> None:
    def gradient(watched: bool) -> tuple[int, np.ndarray]:
        counted = Counting(numpy_device)
        logits = sym.FullyConnected(sym.Variable("x"), num_hidden=4, name="fc")
        loss = kind(logits, sym.Variable("wanted"), name="loss")
        graph = sym.group([loss, logits]) if watched else loss
        executor = graph.bind(counted, {"x": (3, 2)}, {"wanted": "null"})
        fill_randomly(executor, 5)
        executor.forward(is_train=True)
        from_outside = [None] * (len(executor.outputs) - 1)
        executor.backward([*from_outside, np.zeros((3, 4), np.float32)] if watched else None)
        number = counted.calls.count(f"{operator}_backward")
        return number, np.array(executor.grad_dict["fc_weight"])

    alone, expected = gradient(watched=False)
    watched, found = gradient(watched=True)
    assert (alone, watched) == (0, 1)
    assert np.any(expected)
    np.testing.assert_array_equal(found, expected)


def test_gradients_that_nothing_reaches_are_zero(device: Any) -> None:
    x = sym.Variable("x")
    graph = sym.group([sym.Flatten(x, name="a"), sym.Activation(sym.Variable("y"), kind="tanh")])
    executor = graph.bind(device, {"x": (2, 3), "y": (2, 3)})
    executor.grad_dict["y"][...] = np.ones((2, 3), np.float32)
    executor.forward(is_train=True)
    executor.backward([np.full((2, 3), 2, np.float32), None])
    assert np.all(np.asarray(executor.grad_dict["x"]) == 2)
    assert np.all(np.asarray(executor.grad_dict["y"]) == 0)


def test_an_argument_can_be_an_output_and_an_output_can_be_listed_twice(device: Any) -> None:
    x = sym.Variable("x")
    y = sym.Activation(x, kind="relu", name="relu")
    executor = sym.group([x, y, y]).bind(device, {"x": (1, 3)}, "add")
    executor.grad_dict["x"][...] = np.full((1, 3), 10, np.float32)
    executor.forward(is_train=True, x=np.array([[-1, 2, 3]]))
    executor.backward([np.array([[1, 2, 4]]), np.array([[100, 100, 100]]), np.full((1, 3), 1000)])
    assert np.array_equal(np.asarray(executor.grad_dict["x"]), [[11, 1112, 1114]])


# Dropout


def test_dropout_draws_from_the_executors_stream(device: Any) -> None:
    graph = sym.Dropout(sym.Variable("x"), rate=0.25, name="drop")
    executor = graph.bind(device, {"x": (40, 25)})
    ones = np.ones((40, 25), np.float32)
    drawn = []
    for seed in (1, 1, 2):
        executor.random_state[...] = np.array([seed, 0], np.uint64)
        output = np.array(executor.forward(is_train=True, x=ones)[0])
        executor.backward(ones)
        # With x and out_grads of ones, output and gradient are the same mask.
        assert np.array_equal(np.asarray(executor.grad_dict["x"]), output)
        drawn.append(output)
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert np.asarray(executor.random_state)[1] == 250
    assert set(np.unique(drawn[0])) == {np.float32(0), np.float32(1 / np.float32(0.75))}
    assert 650 < np.count_nonzero(drawn[0]) < 850  # 750 +- 7 standard deviations
    assert np.array_equal(np.asarray(executor.forward(x=ones)[0]), ones)


# Memory


class Counting:
    """A device that counts allocations and names the functions called."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.name = device.name
        self.allocations: list[str] = []
        self.calls: list[str] = []
        self.ops = self

    def __getattr__(self, name: str) -> Any:
        if hasattr(self.device, name):
            found = getattr(self.device, name)
            if name in ("arena", "empty", "zeros", "from_numpy"):
                return self._noting(self.allocations, name, found)
            return found
        return self._noting(self.calls, name, getattr(self.device.ops, name))

    def bind(self, name: str, *arrays: Any, **attributes: Any) -> Any:
        return partial(getattr(self, name), *arrays, **attributes)

    @staticmethod
    def _noting(log: list[str], name: str, function: Any) -> Any:
        def noted(*args: Any, **options: Any) -> Any:
            log.append(name)
            return function(*args, **options)

        return noted


def test_memory_names_what_the_functions_keep(numpy_device: Any) -> None:
    executor = bound(numpy_device)
    executor.forward(is_train=True)
    executor.backward()
    memory = executor.memory
    assert memory.kept == numpy_device.kept_bytes() > 0
    assert f"{memory.kept:,} kept" in str(memory)
    parts = (memory.parameters, memory.gradients, memory.auxiliary, memory.arrays)
    assert memory.total == sum(parts) + memory.workspace


def test_one_arena_holds_everything_and_steps_allocate_nothing(device: Any) -> None:
    counting = Counting(device)
    executor = bound(counting)
    assert counting.allocations == ["arena"]
    for wanted in (None, ["x"]):
        executor.forward(is_train=True)
        executor.backward(wanted=wanted)
        executor.forward()
    assert counting.allocations == ["arena"]


def test_parameters_lie_in_one_buffer_and_those_without_gradient_last(device: Any) -> None:
    executor = bound(device, {"bn_gamma": "null", "x": "null"})
    places = executor.trainable()
    assert list(places) == ["conv_weight", "bn_beta", "fc_weight", "fc_bias"]
    executor.forward(is_train=True)
    executor.backward()
    parameters, gradients = np.asarray(executor.parameters), np.asarray(executor.gradients)
    for name, place in places.items():
        assert place.start % 64 == 0
        assert np.array_equal(parameters[place], np.ravel(np.asarray(executor.arg_dict[name])))
        assert np.array_equal(gradients[place], np.ravel(np.asarray(executor.grad_dict[name])))
    outside = np.ones(gradients.size, bool)
    for place in places.values():
        outside[place] = False
    assert outside.any() and not gradients[outside].any()
    assert not parameters[: gradients.size][outside].any()
    tail = parameters[gradients.size :]
    assert np.array_equal(tail[:3], np.asarray(executor.arg_dict["bn_gamma"]))


def test_sharing_saves_memory_and_inference_needs_less(numpy_device: Any) -> None:
    graph, shapes = networks.lesson_generator(), {"noise": (32, 1, 1, 10)}
    training = graph.bind(numpy_device, shapes).memory
    inference = graph.bind(numpy_device, shapes, "null").memory
    assert training.arrays < 0.7 * training.unplanned
    assert inference.arrays < 0.6 * training.arrays and inference.gradients == 0
    assert f"{training.total:,} bytes" in str(training)


@pytest.mark.parametrize("requests", ["write", "null", {"fc_weight": "null"}])
def test_executors_share_parameters(device: Any, requests: Any) -> None:
    executor = bound(device, {"conv_weight": "null"} if requests == "null" else "write")
    other = small_net().bind(device, {"x": (2, 5, 5, 2)}, requests, shared=executor)
    assert other.memory.parameters == other.memory.gradients == 0
    executor.arg_dict["fc_bias"][...] = np.full(1, 3, np.float32)
    images = np.ones((4, 5, 5, 2), np.float32)
    images[1] = 2
    first = np.asarray(executor.forward(x=images)[1])[:2]
    assert np.array_equal(first, np.asarray(other.forward(x=images[:2])[1]))
    if requests == "write":
        other.forward(is_train=True)
        other.backward()
        for name in other.parameter_names:
            gradients = executor.grad_dict[name], other.grad_dict[name]
            assert np.array_equal(*map(np.asarray, gradients))


def test_executors_that_differ_cannot_share(device: Any) -> None:
    executor = bound(device, {"fc_weight": "null"})
    with pytest.raises(ShapeError, match=r"no conv_weight \(3, 3, 3, 1\)"):
        small_net().bind(device, {"x": (4, 5, 5, 1)}, shared=executor)
    with pytest.raises(ShapeError, match=r"gradient of fc_weight"):
        small_net().bind(device, {"x": (4, 5, 5, 2)}, shared=executor)
    with pytest.raises(GraphError, match="one device and one dtype"):
        small_net().bind(Counting(device), {"x": (4, 5, 5, 2)}, shared=executor)


def test_too_little_memory_says_how_much_was_needed(numpy_device: Any) -> None:
    class Small(Counting):
        def memory_info(self) -> tuple[int, int]:
            return 1000, 2000

    with pytest.raises(OutOfDeviceMemory, match=r"needs [\d,]+ bytes.*1,000 bytes are free.*batch"):
        bound(Small(numpy_device))

    class Failing(Counting):
        def memory_info(self) -> None:
            return None

        def arena(self, nbytes: int) -> Any:
            raise MemoryError("no")

    with pytest.raises(OutOfDeviceMemory, match=r"x \(4, 5, 5, 2\)") as caught:
        bound(Failing(numpy_device))
    assert caught.value.needed_bytes > 4 * 4 * 5 * 5 * 2 and caught.value.free_bytes is None


# Errors


def test_backward_at_the_wrong_moment_is_an_error(device: Any) -> None:
    executor = bound(device)
    with pytest.raises(StateError, match="no forward has run"):
        executor.backward()
    executor.forward()
    with pytest.raises(StateError, match="is_train=False"):
        executor.backward()
    executor.forward(is_train=True)
    executor.backward()
    with pytest.raises(StateError, match="keep_forward"):
        executor.backward()
    frozen = bound(device, "null")
    frozen.forward(is_train=True)
    with pytest.raises(StateError, match="null"):
        frozen.backward()


def test_wrong_arrays_and_names_are_errors(device: Any) -> None:
    executor = bound(device)
    with pytest.raises(ShapeError, match=r"'x' has shape \(4, 5, 5, 2\).*\(4, 5, 5\)"):
        executor.forward(x=np.zeros((4, 5, 5)))
    with pytest.raises(ShapeError, match=r"'loss_label'.*\(4, 1\).*\(4,\)"):
        executor.forward(loss_label=device.zeros((4,)))
    with pytest.raises(GraphError, match=r"no argument 'image'.*conv_weight"):
        executor.forward(image=np.zeros(3))
    executor.forward(is_train=True)
    with pytest.raises(GraphError, match=r"'fc_wieght'.*fc_weight"):
        executor.backward(wanted=["fc_wieght"])
    executor.backward(wanted=["fc_weight"])  # the mistake cost nothing

    open_ended = sym.Activation(sym.Variable("x"), kind="relu", name="act")
    executor = open_ended.bind(device, {"x": (2, 2)})
    executor.forward(is_train=True)
    with pytest.raises(StateError, match=r"out_grads.*act_output"):
        executor.backward()
    with pytest.raises(ShapeError, match=r"2 out_grads.*1 output"):
        executor.backward([np.zeros((2, 2)), None])
    with pytest.raises(ShapeError, match=r"\(2, 2\).*\(2, 3\)"):
        executor.backward([np.zeros((2, 3))])


@pytest.mark.parametrize(
    ("shapes", "requests", "options", "message"),
    [
        ({"y": (1,)}, "write", {}, "'y'"),
        ({}, "write", {}, "'conv'.*unknown"),
        ({"x": (4, 5, 5, 2)}, "read", {}, "'read'"),
        ({"x": (4, 5, 5, 2)}, {"z": "write"}, {}, "'z'"),
        ({"x": (4, 5, 5, 2)}, ["write"], {}, "grad_req.*'write'"),
        ({"x": (4, 5, 5, 2)}, None, {}, "grad_req.*None"),
        ([("x", (4, 5, 5, 2))], "write", {}, "by name"),
        ({"x": (4, 5, 5, 2)}, "write", {"dtype": "float16"}, "float16"),
    ],
)
def test_wrong_bindings_are_errors(
    device: Any, shapes: Any, requests: Any, options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_net().bind(device, shapes, requests, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.forward(np.zeros((4, 5, 5, 2))), GraphError, r"is_train.*by name.*x="),
        (lambda e: e.forward(x=np.zeros((4, 5, 5, 2), complex)), GraphError, "'x'.*complex128"),
        (lambda e: e.forward(x="zeros"), GraphError, "'x' takes real numbers"),
        (lambda e: e.forward(x=None), GraphError, "'x' takes real numbers"),
        (lambda e: e.forward(loss_label=[[1], [1, 2]]), ShapeError, "'loss_label'.*length"),
        (lambda e: e.backward("x"), ShapeError, "1 out_grads"),
        (lambda e: e.backward(1.0), ShapeError, "1 out_grads"),
        (lambda e: e.backward(wanted="y"), GraphError, "for 'y';"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(
    numpy_device: Any, call: Any, error: Any, message: str
) -> None:
    executor = bound(numpy_device)
    executor.forward(is_train=True, x=1.0)
    with pytest.raises(error, match=message):
        call(executor)
    assert np.all(executor.arg_dict["x"] == 1)


def test_arrays_are_written_in_place_and_cannot_be_exchanged(device: Any) -> None:
    executor = bound(device)
    values = np.ones((4, 5, 5, 2), np.float32)
    for change in (
        lambda d: d.__setitem__("x", values),
        lambda d: d.update(x=values),
        lambda d: d.pop("x"),
        lambda d: d.clear(),
    ):
        with pytest.raises(GraphError, match=r"arg_dict\[name\]\[...\] = values"):
            change(executor.arg_dict)
    with pytest.raises(KeyError, match=r"grad_dict has no 'z'; it has .*conv_weight"):
        executor.grad_dict["z"]
    with pytest.raises(StateError, match="cannot be copied"):
        copy.deepcopy(executor)
    executor.arg_dict["x"][...] = values
    assert np.all(np.asarray(executor.arg_dict["x"]) == 1)
    own = executor.arg_dict | {"y": values}
    own["x"] = None
    assert executor.arg_dict["x"] is not None and "y" not in executor.arg_dict


def test_a_device_and_a_dtype_may_be_named(numpy_device: Any) -> None:
    executor = small_net().bind("numpy", {"x": (4, 5, 5, 2)}, dtype=np.float64)
    assert executor.device is numpy_device and executor.outputs[0].dtype == np.float64
    for device, message in ((None, "pygan.device.get"), ("cdua", "'cdua'; choose one of")):
        with pytest.raises(PyganError, match=message):
            small_net().bind(device, {"x": (4, 5, 5, 2)})
    shown = repr(executor)
    assert "numpy" in shown and "x (4, 5, 5, 2)" in shown and "loss_loss" in shown


def test_inputs_lie_in_arrays_of_the_device_alone(device: Any) -> None:
    shapes = {"x": (4, 5, 5, 2)}
    spaced = np.zeros((4, 5, 5, 4), np.float32)[..., ::2]
    for array in (spaced, spaced.tolist()):
        with pytest.raises(GraphError, match="'x' lies in a C-contiguous array of device"):
            small_net().bind(device, shapes, inputs={"x": array})
    with pytest.raises(GraphError, match="by name, not as"):
        small_net().bind(device, shapes, inputs=[spaced])
    with pytest.raises(GraphError, match="another executor, not a Symbol"):
        small_net().bind(device, shapes, shared=small_net())


def test_a_gradient_that_no_operator_states_is_an_error_when_asked_for(device: Any) -> None:
    graph = sym.SoftmaxCrossEntropy(sym.Variable("x"), name="loss")
    assert list(graph.bind(device, {"x": (2, 3)}).grad_dict) == ["x"]
    with pytest.raises(GraphError, match=r"'loss_label'.*'null'"):
        graph.bind(device, {"x": (2, 3)}, {"loss_label": "write"})


def test_every_operator_computes_on_every_device(device: Any, numpy_device: Any) -> None:
    """One graph with all operators, against the same graph in float64.

    Sums have at most 60 terms of size about 1 over a dozen operators; 1e-4 of the largest element
    is a hundred times the usual error of float32 there, and far below any wrong gradient.
    """
    graph = everything()
    results = []
    for where, dtype in ((numpy_device, "float64"), (device, "float32")):
        executor = graph.bind(where, {"x": (4, 6, 6, 2), "gate": (1, 1, 1, 3)}, dtype=dtype)
        fill_randomly(executor, 11)
        executor.random_state[...] = np.array([3, 5], np.uint64)
        executor.forward(is_train=True)
        outputs = host(executor.outputs)
        out_grads = [np.cos(np.arange(o.size)).reshape(o.shape).astype(dtype) for o in outputs]
        executor.backward(out_grads)
        arrays = {f"output {i}": o for i, o in enumerate(outputs)}
        arrays |= host(executor.grad_dict) | host(executor.aux_dict)
        arrays["inference"] = np.array(executor.forward()[-1])
        results.append(arrays)
    exact, computed = results
    assert exact.keys() == computed.keys()
    for name, array in exact.items():
        scale = np.abs(array).max() + 1e-3
        np.testing.assert_allclose(
            computed[name], array, rtol=0, atol=1e-4 * scale, err_msg=name, equal_nan=False
        )


def everything() -> sym.Symbol:
    x = sym.Variable("x")
    with sym.name_scope():
        y = sym.Convolution(x, kernel=3, num_filter=3, stride=2, pad=1, no_bias=True)
        y = sym.BroadcastMultiply(y, sym.Variable("gate"))
        y = sym.Activation(sym.BatchNorm(y, fix_gamma=False), kind="softplus")
        z = sym.TransposedConvolution(y, kernel=4, num_filter=2, stride=2, pad=1, no_bias=False)
        z = sym.Add(sym.LeakyReLU(z), sym.Multiply(z, x))
        pooled = sym.Concat(
            sym.Pooling(z, kernel=2, stride=2, kind="max"),
            sym.Pooling(z, kernel=3, stride=2, pad=1, kind="avg"),
            y,
        )
        flat = sym.Flatten(sym.Dropout(pooled, rate=0.3))
        hidden = sym.LeakyReLU(sym.FullyConnected(flat, num_hidden=6), kind="elu", slope=0.7)
        rows = sym.Reshape(hidden, shape=(0, 2, -1))
        soft = sym.Softmax(rows, name="soft")
        mean, lnsd = sym.Activation(hidden, kind="tanh"), sym.Activation(hidden, kind="sigmoid")
        code = sym.Reparametrization(lnsd, mean, sym.Exp(mean))
        ends = [
            sym.KullbackLeibler(lnsd, mean, name="prior"),
            sym.MeanSquaredError(code, name="code_error"),
            sym.SigmoidCrossEntropy(hidden, name="sce"),
            sym.SoftmaxCrossEntropy(sym.Activation(hidden, kind="tanh"), name="ce"),
            sym.MeanSquaredError(z, name="mse"),
            sym.LogisticRegressionOutput(sym.Activation(hidden, kind="sigmoid"), name="lro"),
            soft,
        ]
        graph = sym.group(ends)
    used = {type(node.operator).__name__ for node in graph.nodes() if node.operator}
    assert used == set(operators.OPERATORS)
    return graph


def test_type_checkers_know_the_options_of_bind() -> None:
    """`Symbol.bind` hands on what the executor takes: the same names, of the same types."""
    taken = inspect.signature(Executor.__init__).parameters.values()
    named = {p.name: p.annotation for p in taken if p.kind is p.KEYWORD_ONLY}
    told = ExecutorOptions.__annotations__
    assert {name: kind.__forward_arg__ for name, kind in told.items()} == named
