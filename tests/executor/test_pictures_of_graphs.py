"""The table and the drawing of a network."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pygan import networks
from pygan import symbol as sym
from pygan.drawing import draw
from pygan.errors import GraphError, ShapeError
from pygan.summary import summary


def test_the_table_lists_layers_shapes_and_parameters() -> None:
    out = io.StringIO()
    table = summary(networks.lesson_generator(), {"noise": (32, 1, 1, 10)}, file=out)
    text = out.getvalue()
    assert (
        text
        == f"{table}\n"
        == f"{networks.lesson_generator().summary({'noise': (32, 1, 1, 10)})}\n"
    )
    assert [layer.name for layer in table.layers][:3] == ["gen_deconv1", "gen_bn1", "gen_relu1"]
    line = next(line for line in text.splitlines() if line.startswith("gen_deconv2"))
    assert line.split() == [
        *("gen_deconv2", "TransposedConvolution", "32", "x", "7", "x", "7", "x", "128"),
        *("gen_relu1", "294,912"),
    ]
    assert table.parameters == 10 * 256 * 16 + 256 * 128 * 9 + 128 * 64 * 16 + 64 * 16 + 2 * 448
    assert "468,864 parameters" in text and "896 moving statistics" in text


def test_a_terminal_gets_the_same_table_through_rich() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    summary(networks.lesson_discriminator(), {"img": (2, 28, 28, 1)}, file=out)
    assert "dis_conv4" in out.getvalue() and "91,529 parameters" in out.getvalue()


def test_a_shared_parameter_counts_once() -> None:
    x, w = sym.Variable("x"), sym.Variable("w")
    first = sym.FullyConnected(x, w, num_hidden=4, no_bias=True, name="a")
    table = sym.FullyConnected(first, w, num_hidden=4, no_bias=True, name="b").summary(
        {"x": (1, 4)}
    )
    assert table.parameters == 16
    assert [layer.inputs for layer in table.layers] == [("x",), ("a",)]


def test_a_table_needs_shapes_and_layers() -> None:
    with pytest.raises(ShapeError, match="unknown"):
        networks.lesson_generator().summary({})
    with pytest.raises(ShapeError, match="no operator"):
        sym.Variable("x").summary({"x": (1,)})


def branching() -> sym.Symbol:
    x = sym.Variable("x")
    y = sym.Activation(sym.FullyConnected(x, num_hidden=3, name="fc"), kind="relu", name="relu")
    both = sym.Concat(sym.Add(y, y, name="twice"), x, name="cat")
    return sym.group([sym.SoftmaxCrossEntropy(both, name="loss"), y])


def test_a_drawing_names_every_operator_input_and_shape(tmp_path: Path) -> None:
    path = draw(branching(), tmp_path / "graph.svg", {"x": (2, 5)})
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    # matplotlib draws letters as shapes and keeps each text as a comment beside them
    text = path.read_text(encoding="utf-8")
    for word in ("fc: FullyConnected", "3 units, 18 par.", "relu: Activation", "twice: Add",
                 "cat: Concat", "loss: SoftmaxCrossEntropy", "2 × 5", "2 × 8", "loss_label",
                 "loss_loss, loss_probabilities", "relu_output"):  # fmt: skip
        assert f"<!-- {word} -->" in text, word
    assert "fc_weight" not in text


def test_a_drawing_of_the_lesson_is_a_picture(tmp_path: Path) -> None:
    path = networks.lesson_discriminator().draw(tmp_path / "lesson.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[0] > 2 * pixels.shape[1] > 800  # a tall chain
    ink = (pixels < 250).any(axis=2)
    assert 0.2 < ink.mean() < 0.9
    assert not ink[:, [0, -1]].any() and not ink[[0, -1]].any()  # nothing is cut off


def test_another_ending_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"graph.gif.*\.svg"):
        draw(branching(), tmp_path / "graph.gif")
    assert not list(tmp_path.iterdir())
