"""Graphs: names, shapes, errors, files."""

from __future__ import annotations

import ast
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from pygan import networks, operators
from pygan import symbol as sym
from pygan.errors import GraphError, ShapeError


def test_the_lesson_has_mxnets_argument_order() -> None:
    assert networks.lesson_generator().list_arguments() == [
        "noise",
        *("gen_deconv1_weight", "gen_bn1_gamma", "gen_bn1_beta"),
        *("gen_deconv2_weight", "gen_bn2_gamma", "gen_bn2_beta"),
        *("gen_deconv3_weight", "gen_bn3_gamma", "gen_bn3_beta"),
        "gen_deconv4_weight",
    ]
    discriminator = networks.lesson_discriminator()
    assert discriminator.list_outputs() == ["dis_loss", "dis_probabilities"]
    assert discriminator.list_arguments()[-3:] == ["dis_conv5_weight", "dis_conv5_bias", "label"]
    assert discriminator.list_auxiliary()[:2] == ["dis_bn1_moving_mean", "dis_bn1_moving_var"]


def test_the_lesson_has_the_shapes_of_the_text() -> None:
    inner = networks.lesson_generator().internals()
    shapes = inner.infer_shape(noise=(5, 1, 1, 10)).outputs
    sizes = [shapes[f"gen_deconv{i}_output"] for i in (1, 2, 3, 4)]
    assert sizes == [(5, 4, 4, 256), (5, 7, 7, 128), (5, 14, 14, 64), (5, 28, 28, 1)]
    inner = networks.lesson_discriminator().internals()
    shapes = inner.infer_shape(img=(5, 28, 28, 1)).outputs
    sizes = [shapes[f"dis_{name}_output"][1] for name in ("conv1", "pool1", "conv2", "conv3")]
    assert sizes == [26, 13, 6, 4]
    assert shapes["dis_loss"] == (1,)


SHAPE_CASES: list[tuple[Any, tuple[int, ...], tuple[int, ...]]] = [
    (operators.Convolution(kernel=3, num_filter=7), (2, 9, 8, 4), (2, 7, 6, 7)),
    (operators.Convolution(kernel=(3, 5), num_filter=6, stride=2, pad=(0, 2), dilation=(2, 1),
                           groups=2), (2, 9, 8, 4), (2, 3, 4, 6)),
    (operators.TransposedConvolution(kernel=4, num_filter=3, stride=2), (2, 1, 1, 5), (2, 4, 4, 3)),
    (operators.TransposedConvolution(kernel=3, num_filter=3, stride=2, pad=1, output_padding=1,
                                     dilation=2), (2, 5, 4, 5), (2, 12, 10, 3)),
    (operators.Pooling(kernel=2, stride=2), (1, 13, 13, 3), (1, 6, 6, 3)),
    (operators.Pooling(kernel=2, stride=2, convention="full"), (1, 13, 13, 3), (1, 7, 7, 3)),
    (operators.Pooling(global_pool=True, kind="avg"), (1, 13, 9, 3), (1, 1, 1, 3)),
    (operators.FullyConnected(num_hidden=4), (3, 2, 5, 7), (3, 4)),
    (operators.Flatten(), (3, 2, 5, 7), (3, 70)),
    (operators.Reshape(shape=(0, -1, 7)), (3, 2, 5, 7), (3, 10, 7)),
    (operators.Softmax(), (3, 7), (3, 7)),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "data", "output"), SHAPE_CASES, ids=lambda v: str(v)[:40])
def test_output_shapes(operator: Any, data: tuple, output: tuple) -> None:
    unknown = [None] * (len(operator.argument_names()) - 1)
    assert operator.infer_shape([data, *unknown]).outputs[0] == output


def test_weights_are_stored_by_the_small_side() -> None:
    convolution = operators.Convolution(kernel=(2, 3), num_filter=6, groups=2)
    assert convolution.infer_shape([(1, 5, 5, 4), None, None]).inputs[1] == (6, 2, 3, 2)
    transposed = operators.TransposedConvolution(kernel=(2, 3), num_filter=6, groups=2)
    assert transposed.infer_shape([(1, 5, 5, 4), None]).inputs[1] == (4, 2, 3, 3)


def test_shape_errors_name_the_operator_and_both_shapes() -> None:
    x = sym.Variable("x")
    joined = sym.Add(x, sym.Variable("y"), name="total")
    with pytest.raises(ShapeError, match=r"Add 'total'.*\(2, 3\).*\(3, 2\).*Variable 'y'") as said:
        joined.infer_shape(x=(2, 3), y=(3, 2))
    assert "BroadcastMultiply" not in str(said.value)
    layer = sym.FullyConnected(x, num_hidden=4, name="fc")
    with pytest.raises(ShapeError, match=r"'fc'.*weight has shape \(4, 5\).*needs \(4, 3\)"):
        layer.infer_shape(x=(2, 3), fc_weight=(4, 5))
    convolution = sym.Convolution(x, kernel=5, num_filter=1, name="conv")
    with pytest.raises(ShapeError, match=r"'conv'.*spans \(5, 5\).*\(4, 4\)"):
        convolution.infer_shape(x=(2, 4, 4, 1))
    with pytest.raises(ShapeError, match=r"'conv'.*4 axes.*\(2, 4\)"):
        convolution.infer_shape(x=(2, 4))
    parts = sym.Concat(x, sym.Variable("y"), name="cat")
    with pytest.raises(ShapeError, match=r"'cat'.*\(2, 4\).*\(3, 4\)"):
        parts.infer_shape(x=(3, 4), y=(2, 4))
    with pytest.raises(ShapeError, match=r"'cat'.*unknown"):
        parts.infer_shape(x=(3, 4))
    with pytest.raises(ShapeError, match=r"'z'.*arguments are x, y"):
        parts.infer_shape(x=(3, 4), z=(1,))
    with pytest.raises(ShapeError, match="positive integers"):
        parts.infer_shape(x=(3, 0), y=(3, 1))


def test_names_are_unique_and_automatic_where_not_given() -> None:
    x = sym.Variable("x")
    with sym.name_scope("net_"):
        first, second = sym.Flatten(x), sym.Flatten(x)
        hidden = sym.FullyConnected(first, num_hidden=1)
    assert first.list_outputs() == ["net_flatten0_output"]
    assert second.list_outputs() == ["net_flatten1_output"]
    assert sym.LeakyReLU(x, slope=0.2).list_outputs()[0].startswith("leaky_relu")
    assert hidden.list_arguments() == [
        *("x", "net_fully_connected0_weight", "net_fully_connected0_bias"),
    ]
    again = sym.FullyConnected(hidden, num_hidden=1, name="net_fully_connected0")
    with pytest.raises(GraphError, match=r"more than one.*'net_fully_connected0'"):
        again.list_arguments()
    with pytest.raises(GraphError, match=r"more than one.*'x'"):
        sym.Add(x, sym.Variable("x")).list_arguments()
    with pytest.raises(GraphError, match="'bn_moving_mean'"):
        sym.Add(sym.BatchNorm(x, name="bn"), sym.Variable("bn_moving_mean")).bind("numpy", {})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: sym.Convolution(x, kernel=3, num_filter=2, strides=2), "'strides'.*stride"),
        (lambda x: sym.Convolution(x, kernel=3), "num_filter"),
        (lambda x: sym.Convolution(x, kernel=0, num_filter=2), "kernel.*at least 1.*0"),
        (lambda x: sym.Convolution(x, kernel=(1, 2, 3), num_filter=2), "kernel"),
        (lambda x: sym.Convolution(x, kernel=1, num_filter=3, groups=2), "3.*groups 2"),
        (
            lambda x: sym.TransposedConvolution(x, kernel=3, num_filter=1, output_padding=2),
            "stride",
        ),
        (lambda x: sym.Activation(x, kind="swish"), "relu.*'swish'"),
        (lambda x: sym.Pooling(x, kernel=2, pad=2), "pad"),
        (lambda x: sym.Dropout(x, rate=1.0), "rate"),
        (lambda x: sym.Reshape(x, shape=(-1, -1)), "-1 once"),
        (lambda x: sym.BatchNorm(x, eps=0), "eps"),
        (lambda x: sym.Add(x, name="a"), "Add 'a'.*'right'"),
        (lambda x: sym.Add(x, x, x), "2 inputs"),
        (lambda x: sym.Add(x, left=x), "twice"),
        (lambda x: sym.Flatten(x, weight=x), "no input 'weight'"),
        (lambda x: sym.Flatten(sym.group([x, x])), "2 outputs"),
        (lambda x: sym.Flatten(x, name="no spaces"), "no name"),
        (lambda x: sym.group([]), "at least one"),
        (lambda x: sym.group([x, "y"]), "symbols, not 'y'"),
        (lambda x: sym.FullyConnected(x, 3), "FullyConnected needs num_hidden="),
        (lambda x: x["y"], "no output.*'y'.*x"),
    ],
)
def test_a_graph_that_cannot_be_says_why(build: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        build(sym.Variable("x"))


def branching() -> sym.Symbol:
    x = sym.Variable("x", shape=(4, 6, 6, 2))
    y = sym.Convolution(x, kernel=(3, 1), num_filter=4, pad=(1, 0), groups=2, name="conv")
    y = sym.LeakyReLU(sym.BatchNorm(y, name="bn"), slope=0.1, kind="elu", name="elu")
    both = sym.Concat(y, x, sym.Dropout(y, rate=0.25, name="drop"), name="cat")
    flat = sym.Reshape(both, shape=(0, -1), name="flat")
    loss = sym.SoftmaxCrossEntropy(sym.FullyConnected(flat, num_hidden=3, name="fc"), name="loss")
    return sym.group([loss[0], y])


def test_a_file_gives_the_same_graph(tmp_path: Path) -> None:
    graph = branching()
    graph.save(tmp_path / "graph.json")
    read = sym.load(tmp_path / "graph.json")
    assert read.to_json() == graph.to_json()
    assert read.list_outputs() == graph.list_outputs() == ["loss_loss", "elu_output"]
    assert read.infer_shape().arguments == graph.infer_shape().arguments
    assert [p.name for p in tmp_path.iterdir()] == ["graph.json"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 9', "version 9.*version 1"),
        ('"pygan-symbol"', '"onnx"', "'onnx'"),
        ('"BatchNorm"', '"GroupNorm"', "no operator 'GroupNorm'"),
        ('"momentum"', '"momentun"', "no attribute 'momentun'"),
        ('"nodes"', '"knots"', "no graph"),
        ("{", "", "no graph"),
        ('"format"', '"attrs"', "no graph written by pygan.*'format'"),
        ("{", "[" * 10**6, "no graph"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "graph.json"
    text = branching().to_json()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(GraphError, match=f"graph.json.*{message}"):
        sym.load(path)


def test_help_lists_the_attributes() -> None:
    import inspect

    parameters = inspect.signature(sym.Convolution).parameters
    assert list(parameters)[:4] == ["inputs", "kernel", "num_filter", "stride"]
    assert parameters["stride"].default == 1 and parameters["kernel"].default is inspect._empty
    assert "num_filter" in sym.Convolution.__doc__


def test_outputs_are_picked_by_place_name_and_slice() -> None:
    outputs = branching().internals()
    names = outputs.list_outputs()
    assert outputs[1:3].list_outputs() == names[1:3]
    assert outputs[names[2]].list_outputs() == outputs[2].list_outputs() == [names[2]]
    with pytest.raises(GraphError, match="at least one"):
        outputs[len(names) :]
    with pytest.raises(ShapeError, match="positive integers"):
        sym.Variable("x", shape=())


def test_a_variational_code_has_one_shape() -> None:
    lnsd, mean, noise = (sym.Variable(name) for name in ("lnsd", "mean", "noise"))
    code = sym.Reparametrization(lnsd, mean, noise, name="code")
    inferred = code.infer_shape(noise=(4, 2))
    assert set(inferred.arguments.values()) == {(4, 2)}
    with pytest.raises(ShapeError, match=r"'code': mean has shape \(4, 3\).*\(4, 2\)"):
        code.infer_shape(lnsd=(4, 2), mean=(4, 3), noise=(4, 2))
    prior = sym.KullbackLeibler(lnsd, mean, name="prior")
    assert prior.infer_shape(lnsd=(4, 2), mean=(4, 2)).outputs == {"prior_loss": (1,)}
    with pytest.raises(ShapeError, match=r"'prior': mean has shape \(4, 3\).*\(4, 2\)"):
        prior.infer_shape(lnsd=(4, 2), mean=(4, 3))


def test_type_checkers_know_what_operators_take(repository: Path) -> None:
    """operators.pyi has every operator's inputs, and its attributes with their defaults."""
    shown = (repository / "pygan" / "symbol" / "operators.pyi").read_text(encoding="utf-8")
    functions = {f.name: f.args for f in ast.parse(shown).body if isinstance(f, ast.FunctionDef)}
    assert set(functions) == set(operators.OPERATORS)
    for kind, operator in operators.OPERATORS.items():
        told = functions[kind]
        attributes = {item.name: item for item in fields(operator) if item.repr}
        if kind == "Concat":  # takes any number of inputs, and counts them
            del attributes["count"]
            assert told.vararg is not None and not told.args
        else:
            given = {"kind": "relu", "kernel": 1, "num_filter": 1, "num_hidden": 1, "shape": (1,)}
            needed = {n: given[n] for n, item in attributes.items() if item.default is MISSING}
            if "no_bias" in attributes:
                needed["no_bias"] = False
            inputs = operator(**needed).argument_names()
            assert [argument.arg for argument in told.args] == list(inputs)
            for argument in inputs[len(inputs) - len(told.defaults) :]:
                assert argument in ("weight", "bias", "gamma", "beta", *operator.label_inputs)
        assert [item.arg for item in told.kwonlyargs] == [*attributes, "name"]
        for argument, default in zip(told.kwonlyargs, told.kw_defaults, strict=True):
            if argument.arg == "name":
                continue
            item = attributes[argument.arg]
            assert (default is None) == (item.default is MISSING)
            assert default is None or ast.literal_eval(default) == item.default
            taken = str(item.type).replace("tuple[int, int]", "Sequence[int]")
            taken = taken.replace("tuple[int, ...]", "Sequence[int]")
            assert argument.annotation is not None and ast.unparse(argument.annotation) == taken
