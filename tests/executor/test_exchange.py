"""Networks for PyTorch: the same numbers under its names, in its layouts."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import exchange, networks
from pygan import symbol as sym
from pygan.errors import CheckpointError, GraphError
from pygan.layout import to_nchw, to_nhwc


def bound(graph: sym.Symbol, seed: int = 1, device: Any = "numpy", **shapes: Any) -> Any:
    executor = graph.bind(device, shapes)
    fill_randomly(executor, seed)
    return executor


def classifier() -> sym.Symbol:
    """A fully connected layer behind an image of several channels, by way of other layers."""
    x = sym.Convolution(sym.Variable("x"), kernel=(3, 2), num_filter=3, stride=2, name="conv")
    x = sym.Dropout(sym.Flatten(sym.LeakyReLU(x, name="act"), name="flat"), name="drop")
    return sym.FullyConnected(x, num_hidden=4, name="fc")


def test_a_state_dict_computes_the_same_on_channels_first_images() -> None:
    executor = bound(classifier(), x=(2, 7, 6, 2))
    images = np.random.default_rng(0).standard_normal((2, 2, 7, 6)).astype(np.float32)
    state = exchange.to_torch(executor)
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 2), axis=(2, 3))[:, :, ::2, ::2]
    z = np.einsum("ncpqrs,kcrs->nkpq", windows, state["conv.weight"])
    z += state["conv.bias"][:, None, None]
    z = np.where(z > 0, z, 0.25 * z).reshape(2, -1)
    expected = z @ state["fc.weight"].T + state["fc.bias"]
    (output,) = executor.forward(x=to_nhwc(images))
    # Sums of at most 27 products of numbers of order 1, in another order.
    np.testing.assert_allclose(np.asarray(output), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (networks.lesson_generator, {"noise": (2, 1, 1, 10)}),
        (networks.conditional_discriminator, {"img": (1, 28, 28, 1), "digit": (1, 1, 1, 10)}),
        (networks.lenet, {"data": (2, 28, 28, 1)}),
        (classifier, {"x": (2, 7, 6, 2)}),
    ],
)
def test_what_goes_out_comes_back(network: Any, shapes: Any) -> None:
    first, second = bound(network(), 1, **shapes), bound(network(), 2, **shapes)
    state = exchange.to_torch(first)
    exchange.from_torch(second, state | {"bn.num_batches_tracked": np.array(3)})
    for name in first.parameter_names:
        if not name.endswith("_gamma"):
            assert np.array_equal(first.arg_dict[name], second.arg_dict[name]), name
    for name, array in first.aux_dict.items():
        assert np.array_equal(array, second.aux_dict[name]), name
    assert all(np.array_equal(array, state[n]) for n, array in exchange.to_torch(second).items())


def test_batch_norm_has_pytorchs_names() -> None:
    executor = bound(networks.lesson_generator(), noise=(2, 1, 1, 10))
    state = exchange.to_torch(executor)
    assert list(state)[:5] == [
        "gen_deconv1.weight",
        *(f"gen_bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    ]
    assert state["gen_deconv1.weight"].shape == (10, 256, 4, 4)
    assert np.all(state["gen_bn1.weight"] == 1), "gamma is fixed"
    assert np.array_equal(state["gen_bn1.running_var"], executor.aux_dict["gen_bn1_moving_var"])


def test_a_state_of_other_modules_changes_nothing() -> None:
    executor = bound(networks.lesson_generator(), noise=(2, 1, 1, 10))
    state = exchange.to_torch(executor)
    before = executor.parameters.copy()
    for change, message in (
        ({"gen_deconv1.weight": np.zeros((10, 4, 4, 256))}, r"deconv1.weight is \(10, 4, 4, 256\)"),
        ({"gen_bn9.bias": np.zeros(3)}, r"gen_bn9.bias \(3,\) is unknown"),
        ({"gen_bn1.weight": np.full(256, 2.0)}, "gen_bn1.weight is not 1.*fix_gamma"),
    ):
        with pytest.raises(CheckpointError, match=message):
            exchange.from_torch(executor, state | change)
    del state["gen_bn2.bias"]
    with pytest.raises(CheckpointError, match=r"gen_bn2.bias \(128,\) is missing"):
        exchange.from_torch(executor, state)
    with pytest.raises(CheckpointError, match="not a list"):
        exchange.from_torch(executor, [])
    assert np.array_equal(before, executor.parameters)
    with pytest.raises(GraphError, match="bind <Symbol"):
        exchange.to_torch(executor.symbol)


def test_orders_that_only_channels_last_images_have_are_refused() -> None:
    x = sym.Variable("x")
    image = sym.Reshape(sym.FullyConnected(x, num_hidden=12, name="fc"), shape=(0, 2, 2, 3))
    flat = sym.Flatten(x)
    for graph, shape in (
        (image, (2, 5)),
        (sym.BatchNorm(flat, name="bn"), (2, 2, 2, 3)),
        (sym.FullyConnected(sym.Add(flat, flat), num_hidden=2, name="fc"), (2, 2, 2, 3)),
    ):
        with pytest.raises(GraphError, match=r"\(H, W, C\) = \(2, 2, 3\)"):
            exchange.to_torch(graph.bind("numpy", {"x": shape}))


def test_modules_are_written_in_order() -> None:
    text = exchange.torch_modules(bound(classifier(), x=(2, 7, 6, 2)))
    assert '("conv", nn.Conv2d(2, 3, (3, 2), stride=(2, 2), padding=(0, 0),' in text
    assert '("fc", nn.Linear(27, 4, bias=True)),' in text
    assert text.index("Conv2d") < text.index("LeakyReLU(0.25)") < text.index("Flatten()")
    for network, shapes in (
        (networks.conditional_generator, {"noise": (1, 1, 1, 10), "digit": (1, 1, 1, 10)}),
        (networks.lesson_discriminator, {"img": (1, 28, 28, 1)}),
    ):
        with pytest.raises(GraphError, match="to_torch gives"):
            exchange.torch_modules(network().bind("numpy", shapes))


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (networks.lesson_generator, {"noise": (3, 1, 1, 10)}),
        (lambda: networks.dcgan_generator(4), {"rand": (3, 1, 1, 100)}),
        (networks.fully_connected_generator, {"noise": (3, 100)}),
        (classifier, {"x": (2, 7, 6, 2)}),
    ],
)
def test_pytorch_computes_the_same(network: Any, shapes: Any) -> None:
    torch = pytest.importorskip("torch")
    executor = bound(network(), **shapes)
    executor.parameters[...] *= 0.1  # layers' sums of order 1, which no sigmoid makes 0 or 1
    names = {"nn": torch.nn, "OrderedDict": OrderedDict}
    modules = eval(exchange.torch_modules(executor), names)
    state = {n: torch.from_numpy(a) for n, a in exchange.to_torch(executor).items()}
    modules.load_state_dict(state)
    (name, shape), *_ = shapes.items()
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (mine,) = executor.forward(**{name: data})
    with torch.no_grad():
        given = torch.from_numpy(to_nchw(data) if data.ndim == 4 else data)
        theirs = modules.eval()(given).numpy()
    mine = to_nchw(mine) if mine.ndim == 4 else mine
    np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-4 * np.abs(mine).max())
