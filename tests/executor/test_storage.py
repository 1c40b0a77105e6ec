"""Executors whose activations lie in bf16: which do, what they hold, and what that saves."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import networks
from pygan import symbol as sym
from pygan.errors import GraphError
from pygan.executor import precision_scope, storage_scope
from pygan.lowering.storage import _beside_image
from pygan.reference.precision import rounded
from pygan.working_memory import WorkingMemory

HALF = {"precision": "bf16", "storage": "bf16"}
IMAGE = (2, 9, 10, 3)


def branching(channels: int = 8) -> sym.Symbol:
    """From an image over a bias and fused activations to an array that two layers read, so that its
    gradient is added up, one of them an activation of its own; and to two ends that are added."""
    with sym.name_scope():
        x = sym.Variable("x")
        x = sym.Convolution(x, kernel=4, num_filter=2 * channels, stride=2, pad=1, name="c1")
        x = sym.LeakyReLU(x, slope=0.2, name="r1")
        x = sym.Convolution(x, kernel=3, num_filter=3 * channels, pad=1, no_bias=True, name="c2")
        x = sym.BatchNorm(x, fix_gamma=False, name="b2")
        a = sym.Convolution(x, kernel=3, num_filter=2 * channels, pad=1, name="c3")
        b = sym.Activation(x, kind="tanh", name="t")
        b = sym.TransposedConvolution(b, kernel=3, num_filter=2 * channels, pad=1, name="c4")
        ends = [sym.BatchNorm(end, name=f"b{i}") for i, end in ((3, a), (4, b))]
        return sym.MeanSquaredError(sym.Add(*ends), name="loss")


def bound(device: Any, graph: sym.Symbol, shapes: dict[str, Any], **options: Any) -> Any:
    executor = graph.bind(device, shapes, **options)
    fill_randomly(executor, 3)
    return executor


def pass_through(executor: Any) -> dict[str, np.ndarray]:
    executor.forward(is_train=True)
    executor.backward()
    found = dict(zip(executor.symbol.list_outputs(), executor.outputs, strict=True))
    found |= executor.grad_dict | executor.aux_dict
    return {name: np.array(array) for name, array in found.items()}


def half_labels(executor: Any) -> set[str]:
    return {array.label for array in executor._memory.arrays if array.half}


def test_which_arrays_hold_bf16(device: Any) -> None:
    executor = bound(device, branching(), {"x": IMAGE}, **HALF)
    activations = {"r1_output", "c2_output", "b2_output", "t_output"}
    activations |= {"c3_output", "c4_output"}
    gradients = {f"gradient of {label}" for label in activations}
    copies = {f"{name}_weight in bf16" for name in ("c2", "c3", "c4")}
    assert half_labels(executor) == activations | gradients | copies
    wanted = np.float32 if device.name == "numpy" else np.uint16
    for array, memory in executor._memory.arrays.items():
        assert memory.dtype == (wanted if array.half else array.dtype), array.label
    for arrays in (executor.arg_dict, executor.grad_dict, executor.aux_dict):
        assert all(array.dtype == np.float32 for array in arrays.values())


def test_dcgan_keeps_only_its_ends_in_float32(numpy_device: Any) -> None:
    """The first layer of G is read by batch norm alone, the last of D makes one channel: they and
    what they read stay float32; images do."""
    generator = networks.dcgan_generator(ngf=8).bind(numpy_device, {"rand": (1, 1, 1, 100)}, **HALF)
    labels = half_labels(generator)
    assert {f"gact{i}_output" for i in (1, 2, 3, 4)} <= labels
    assert {f"g{i}_output" for i in (2, 3, 4)} <= labels
    assert {"g1_output", "g5_output", "gact5_output"}.isdisjoint(labels)
    shapes = {"data": (1, 64, 64, 3), "label": (1, 1)}
    discriminator = networks.dcgan_discriminator(ndf=8).bind(numpy_device, shapes, **HALF)
    labels = half_labels(discriminator)
    assert {"dact1_output", "dact2_output", "dact3_output", "d4_output"} <= labels
    assert {"dact4_output", "d5_output", "data", "gradient of data"}.isdisjoint(labels)


def test_what_has_no_units_of_channels_stays_float32(device: Any) -> None:
    """12 and 18 channels: nothing is stored in bf16, and no bit changes."""
    shapes = {"x": IMAGE}
    asked = bound(device, branching(6), shapes, **HALF)
    plain = bound(device, branching(6), shapes, precision="bf16")
    assert not half_labels(asked) and asked.memory == plain.memory
    results = pass_through(asked), pass_through(plain)
    for name, array in results[0].items():
        assert np.array_equal(array, results[1][name]), name


def test_layers_beside_images_have_kernels_where_the_rule_says_so(device: Any) -> None:
    """Wide images, many filters: what no block's memory holds is not promised."""
    if device.name == "numpy":
        pytest.skip("its functions take any shape")
    found = []
    for width, channels, filters, kernel, stride in product(
        (5, 64, 256, 2000), (1, 3, 4), (8, 64, 512), (3, 4, 5), (1, 2)
    ):
        operator = (
            sym.Convolution(
                sym.Variable("x"), kernel=kernel, num_filter=filters, stride=stride, pad=1
            )
            .heads[0][0]
            .operator
        )
        size = (width + 2 - kernel) // stride + 1
        image, small = (1, width, width, channels), (1, size, size, filters)
        weight = (filters, kernel, kernel, channels)
        options = {"stride": (stride,) * 2, "pad": (1, 1), "dilation": (1, 1), "groups": 1}
        found.append(_beside_image(image, small, operator))
        if not found[-1]:
            continue
        for name, shapes, half in (
            ("convolution_forward", (image, weight, None, small), 3),
            ("convolution_backward_data", (small, weight, image), 0),
            ("convolution_backward_weight", (image, small, weight), 1),
        ):
            dtypes = ["uint16" if i == half else "float32" for i in range(len(shapes))]
            needed = device.ops.workspace_size(
                name, *shapes, dtypes=dtypes, precision="bf16", **options
            )
            assert needed >= 0
    assert 0.2 < np.mean(found) < 0.8


def assert_near(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """float32 sums of two devices differ by some 1e-6; where such a sum lies that near to a tie, a
    stored number is rounded the other way, by 2^-8 of itself: few numbers, so that results differ
    by a small part of that on the whole, and nowhere by more than a few of it, where no kink
    follows (test_side_by_side.py has what one does, and a closer look at each call)."""
    for name, array in found.items():
        difference, size = np.abs(array - wanted[name]), np.abs(wanted[name]).max()
        assert difference.max() <= 4 * 2.0**-8 * size + 1e-6, name
        assert difference.mean() <= 0.1 * 2.0**-8 * size + 1e-6, name


@pytest.mark.parametrize("request_", ("write", "add"))
def test_devices_agree(device: Any, numpy_device: Any, request_: str) -> None:
    results = []
    for each in (device, numpy_device):
        executor = bound(each, branching(), {"x": IMAGE}, grad_req=request_, branches=True, **HALF)
        if request_ == "add":
            for array in executor.grad_dict.values():
                array[...] = np.full(array.shape, 0.5, np.float32)
        results.append(pass_through(executor))
    assert_near(*results)
    again = pass_through(bound(device, branching(), {"x": IMAGE}, grad_req="write", **HALF))
    same = pass_through(bound(device, branching(), {"x": IMAGE}, grad_req="write", **HALF))
    assert all(np.array_equal(again[name], same[name]) for name in again)


def test_numbers_are_those_of_layers_rounded_one_by_one(numpy_device: Any) -> None:
    """Forward, by hand: each stored array is rounded once, after its activation; the weights are
    copied rounded; and statistics are of the stored numbers."""
    ops = numpy_device.ops
    executor = bound(numpy_device, branching(), {"x": IMAGE}, **HALF)
    executor.forward(is_train=True)
    found = {array.label: memory for array, memory in executor._memory.arrays.items()}
    given = executor.arg_dict
    near = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}
    y = np.empty(found["r1_output"].shape, np.float32)
    operands = (rounded(given["x"], "bf16"), rounded(given["c1_weight"], "bf16"), given["c1_bias"])
    ops.convolution_forward(*operands, y, **near, activation="leaky_relu", slope=0.2)
    wanted = rounded(y, "bf16")
    # the last bit of a float32 sum may differ by the way in which it was added
    assert np.mean(found["r1_output"] == wanted) > 0.99
    x = found["c2_output"].astype(np.float64)
    z = (x - x.mean(axis=(0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-3)
    z = z * given["b2_gamma"] + given["b2_beta"]
    assert np.mean(found["b2_output"] == rounded(z.astype(np.float32), "bf16")) > 0.99
    for array, memory in executor._memory.arrays.items():
        if array.half and "gradient" not in array.label:
            assert np.array_equal(memory, rounded(memory, "bf16")), array.label


@pytest.mark.parametrize("kind", ("relu", "sigmoid", "tanh"))
def test_an_activation_behind_a_convolution_is_rounded_once(
    device: Any, numpy_device: Any, kind: str
) -> None:
    """What both devices store behind it differs no more often than float32 sums lie at ties."""

    def graph() -> sym.Symbol:
        x = sym.Variable("x")
        for i in (1, 2):
            x = sym.Convolution(x, kernel=3, num_filter=16, pad=1, name=f"c{i}")
        x = sym.Activation(x, kind=kind, name="t")
        return sym.BatchNorm(sym.Convolution(x, kernel=3, num_filter=8, pad=1), name="b")

    found = []
    for each in (device, numpy_device):
        executor = bound(each, graph(), {"x": IMAGE}, **HALF)
        executor.forward(is_train=True)
        (array,) = (
            memory for array, memory in executor._memory.arrays.items() if array.label == "t_output"
        )
        assert "t_output" in half_labels(executor)
        stored = np.array(array)
        if stored.dtype == np.uint16:
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        found.append(stored)
    assert np.mean(found[0] != found[1]) < 0.01


def test_results_are_near_those_of_float32(device: Any) -> None:
    """A loss to the precision of its numbers, and gradients that point the same way."""
    half, plain = (
        pass_through(bound(device, branching(), {"x": IMAGE}, **options))
        for options in (HALF, {"precision": "float32"})
    )
    loss = branching().list_outputs()[0]
    assert abs(half[loss] - plain[loss]) <= 0.02 * abs(plain[loss])
    for name, gradient in half.items():
        if name.endswith("weight"):
            cosine = np.vdot(gradient, plain[name])
            cosine /= np.linalg.norm(gradient) * np.linalg.norm(plain[name])
            assert cosine > 0.99, name


def test_half_the_memory_of_what_is_stored(device: Any) -> None:
    if device.name == "numpy":
        pytest.skip("device numpy holds rounded numbers in float32")
    shapes = {"data": (8, 64, 64, 3), "label": (8, 1)}
    graph = networks.dcgan_discriminator(ndf=8)
    half, plain = (
        graph.bind(device, shapes, **options).memory for options in (HALF, {"precision": "bf16"})
    )
    # The image and its gradient are float32, the rest are activations and their gradients.
    images = 2 * 4 * 8 * 64 * 64 * 3
    assert half.arrays - images < 0.6 * (plain.arrays - images)
    assert half.parameters == plain.parameters and half.gradients == plain.gradients


def test_weights_are_copied_by_every_forward(device: Any) -> None:
    """What an optimizer changed counts in the next forward, for executors that share parameters in
    one block of working memory too."""
    working = WorkingMemory()
    first = bound(device, branching(), {"x": IMAGE}, working_memory=working, **HALF)
    second = branching().bind(device, {"x": IMAGE}, shared=first, working_memory=working, **HALF)
    for name in second.input_names:
        second.arg_dict[name][...] = np.asarray(first.arg_dict[name])
    losses = [float(np.asarray(first.forward(is_train=True)[0])[0])]
    first.arg_dict["c2_weight"][...] = -np.asarray(first.arg_dict["c2_weight"])
    losses += [float(np.asarray(e.forward(is_train=True)[0])[0]) for e in (second, first)]
    assert losses[0] != losses[1] == losses[2]


def test_a_recorded_pass_has_the_bits_of_calls(device: Any) -> None:
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    executor = bound(device, branching(), {"x": IMAGE}, branches=True, **HALF)
    wanted = pass_through(executor)

    def step() -> None:
        executor.forward(is_train=True)
        executor.backward()

    recorded = device.record(step)
    for array in executor.grad_dict.values():
        array[...] = np.full(array.shape, np.nan, np.float32)
    recorded.launch()
    for name, array in executor.grad_dict.items():
        assert np.array_equal(np.asarray(array), wanted[name]), name


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"storage": "bf16"}, "storage 'bf16' is not available with precision 'float32'"),
        ({"storage": "bf16", "precision": "tf32"}, "with precision 'tf32'"),
        ({"storage": "half", "precision": "bf16"}, "'half'.*float32, bf16"),
        ({"storage": "", "precision": "bf16"}, "storage ''.*float32, bf16"),
        ({"precision": ""}, "precision ''"),
        ({**HALF, "cooperative": True}, "cooperative=True is not available with storage 'bf16'"),
    ],
)
def test_what_does_not_go_together_is_refused(numpy_device: Any, options: Any, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        branching().bind(numpy_device, {"x": IMAGE}, **options)


def test_a_scope_chooses_for_all_that_are_bound_inside(numpy_device: Any) -> None:
    graph, shapes = branching(), {"x": IMAGE}
    with precision_scope("bf16"), storage_scope("bf16"):
        assert graph.bind(numpy_device, shapes).storage == "bf16"
        assert graph.bind(numpy_device, shapes, storage="float32").storage == "float32"
    assert graph.bind(numpy_device, shapes).storage == "float32"
    with pytest.raises(GraphError, match="'half'"), storage_scope("half"):
        pass
