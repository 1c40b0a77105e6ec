"""examples/conditional_gan.py: its networks are the package's; it ends in a picture and numbers."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from run_support import Trainer

from pygan import networks
from pygan.examples import conditional_gan


def test_the_networks_shown_are_the_networks_of_the_package():
    digit, image, label = (4, 1, 1, 10), (4, 28, 28, 1), (4, 1, 1, 1)
    for shown, known, shapes in (
        (conditional_gan.generator, networks.conditional_generator, {"noise": digit}),
        (
            conditional_gan.discriminator,
            networks.conditional_discriminator,
            {"img": image, "label": label},
        ),
    ):
        shapes = {"digit": digit, **shapes}
        assert str(shown().summary(shapes)) == str(known().summary(shapes))
        assert shown().to_json() == known().to_json()


def test_a_few_batches(labelled_data, tmp_path, capsys):
    out = tmp_path / "digits.png"
    command = ["--data", str(labelled_data), "--device", "numpy", "--batches", "2"]
    assert conditional_gan.main([*command, "--out", str(out)]) == 0
    assert Image.open(out).size == (10 * 58 + 2, 10 * 58 + 2)
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["batches"] == 2 and "quality" not in result
    assert sorted(result["losses"]) == ["generator"] and "seed 0" in capsys.readouterr().out
    first = out.read_bytes()
    assert conditional_gan.main([*command, "--out", str(out)]) == 0
    assert out.read_bytes() == first
    assert conditional_gan.main([*command, "--out", str(out), "--seed", "1"]) == 0
    assert out.read_bytes() != first


def test_a_classifier_judges_the_digits(labelled_data, tmp_path, capsys):
    Trainer(labelled_data)(tmp_path / "run", system="classifier", epochs=1)
    out = tmp_path / "digits.png"
    command = ["--data", "digits", "--device", "numpy", "--batches", "1", "--judged", "30"]
    command += ["--classifier", str(tmp_path / "run"), "--out", str(out)]
    assert conditional_gan.main(command) == 0
    assert "the classifier sees the digit asked for in" in capsys.readouterr().out
    found = json.loads(out.with_suffix(".json").read_text())["quality"]
    assert found["generated_images"] == 30 and 0 <= found["agreement"]["value"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "no such folder: nowhere"),
        (["--data", "DATA", "--classifier", "nowhere"], "nowhere: no such checkpoint"),
    ],
)
def test_user_errors_are_one_line_and_code_1(labelled_data, capsys, arguments, message):
    arguments = [str(labelled_data) if text == "DATA" else text for text in arguments]
    assert conditional_gan.main([*arguments, "--device", "numpy"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("pygan: error: ") and message in error
