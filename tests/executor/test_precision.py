"""The precision that an executor is bound with reaches every product, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import symbol as sym
from pygan.errors import GraphError
from pygan.executor import precision_scope
from pygan.reference.precision import rounded

LAYERS = {
    "convolution": (
        sym.Convolution(sym.Variable("x"), kernel=3, num_filter=5, stride=2, name="layer"),
        (2, 7, 6, 3),
    ),
    "transposed": (
        sym.TransposedConvolution(
            sym.Variable("x"), kernel=4, num_filter=8, stride=2, pad=1, no_bias=False, name="layer"
        ),
        (1, 3, 3, 200),  # a sum long enough for slices, and so for a workspace
    ),
    "fully connected": (
        sym.FullyConnected(sym.Variable("x"), num_hidden=6, name="layer"),
        (3, 4, 5, 2),
    ),
}
PRECISIONS = ("tf32", "bf16")


def pass_through(
    device: Any, layer: str, precision: str, dtype: str = "float32", rounding=""
) -> Any:
    """[output, gradients of x, weight and bias], as float64, of one forward and backward.

    rounding: to what x, weight and the output's gradient are rounded before.
    """
    graph, shape = LAYERS[layer]
    executor = graph.bind(device, {"x": shape}, precision=precision, dtype=dtype)
    fill_randomly(executor, 3)
    gradient = np.random.default_rng(4).standard_normal(executor.outputs[0].shape)
    gradient = gradient.astype(np.float32).astype(dtype)
    if rounding:
        gradient = rounded(gradient, rounding)
        for name in ("x", "layer_weight"):
            executor.arg_dict[name][...] = rounded(np.asarray(executor.arg_dict[name]), rounding)
    executor.forward(is_train=True)
    executor.backward(gradient)
    results = [executor.outputs[0], *executor.grad_dict.values()]
    return [np.array(result, np.float64) for result in results]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_product_of_a_layer_has_it(
    device: Any, numpy_device: Any, layer: str, precision: str
) -> None:
    """One layer equals the layer in float64 on operands rounded by hand, to float32's accuracy;
    and it differs from the layer in float32 by about the precision."""
    computed = pass_through(device, layer, precision)
    exact = pass_through(numpy_device, layer, "float32", "float64", rounding=precision)
    in_float32 = pass_through(device, layer, "float32")
    unit = {"tf32": 2.0**-11, "bf16": 2.0**-8}[precision]
    for got, wanted, other in zip(computed, exact, in_float32, strict=True):
        # Sums of up to 800 products: 1e-5 of the largest is 160 roundings.
        limit = 1e-5 * np.abs(wanted).max()
        if wanted.ndim == 1:  # the bias's gradient is a sum of the gradient as it came
            assert np.array_equal(got, other)
            continue
        assert np.abs(got - wanted).max() <= limit
        off = np.abs(got - other).max()
        assert limit < off <= 40 * unit * np.abs(wanted).max()


def test_gradients_can_be_added(device: Any) -> None:
    graph, shape = LAYERS["convolution"]
    executor = graph.bind(device, {"x": shape}, "add", precision="tf32", keep_forward=True)
    fill_randomly(executor, 3)
    executor.zero_gradients()
    executor.forward(is_train=True)
    gradient = np.ones(executor.outputs[0].shape, np.float32)
    executor.backward(gradient)
    once = {name: np.array(array) for name, array in executor.grad_dict.items()}
    executor.backward(gradient)
    for name, array in executor.grad_dict.items():
        np.testing.assert_allclose(np.asarray(array), 2 * once[name], rtol=1e-5, atol=1e-5)


def test_executors_of_two_precisions_share_parameters(device: Any) -> None:
    graph, shape = LAYERS["fully connected"]
    training = graph.bind(device, {"x": shape}, precision="bf16")
    fill_randomly(training, 3)
    exact = graph.bind(device, {"x": shape}, "null", shared=training)
    image = np.asarray(training.arg_dict["x"])
    rough, fine = (np.array(e.forward(x=image)[0]) for e in (training, exact))
    assert 0 < np.abs(rough - fine).max() < 0.1 * np.abs(fine).max()


def test_a_scope_chooses_for_all_that_are_bound_inside(numpy_device: Any) -> None:
    graph, shape = LAYERS["convolution"]
    with precision_scope("bf16"):
        assert graph.bind(numpy_device, {"x": shape}).precision == "bf16"
        assert graph.bind(numpy_device, {"x": shape}, precision="tf32").precision == "tf32"
        exact = graph.bind(numpy_device, {"x": shape}, precision="float32", dtype="float64")
        assert exact.precision == "float32"
    assert graph.bind(numpy_device, {"x": shape}).precision == "float32"
    with pytest.raises(GraphError, match="'half'"), precision_scope("half"):
        pass


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "half"}, "'half'.*float32, tf32, bf16"),
        ({"precision": "tf32", "dtype": "float64"}, "'tf32'.*float64"),
    ],
)
def test_other_precisions_are_refused(numpy_device: Any, options: Any, text: str) -> None:
    graph, shape = LAYERS["convolution"]
    with pytest.raises(GraphError, match=text):
        graph.bind(numpy_device, {"x": shape}, **options)
