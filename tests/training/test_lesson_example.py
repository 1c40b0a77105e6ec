"""examples/lesson_gan.py: it ends in a picture and a number, and says what it cannot do."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pygan.examples import lesson_gan


def test_a_few_batches(tmp_path, capsys):
    out = tmp_path / "digits.png"
    command = ["--data", "digits", "--device", "numpy", "--batches", "1", "--out", str(out)]
    assert lesson_gan.main(command) == 0
    assert Image.open(out).size == (10 * 58 + 2, 6 * 58 + 2)
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["batches"] == 1 and result["seed"] == 0
    assert 0 <= result["pairs_with_the_real_one_higher"] <= 1
    assert "seed 0" in capsys.readouterr().out
    first = out.read_bytes()
    assert lesson_gan.main(command) == 0
    assert out.read_bytes() == first
    assert lesson_gan.main([*command, "--seed", "1"]) == 0
    assert out.read_bytes() != first


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "no such folder: nowhere"),
        ("SMALL", "a tenth of 40 images is held out, and 32 are needed"),
    ],
)
def test_wrong_requests_are_one_line_and_code_1(small_data, tmp_path, capsys, data, message):
    folder = str(small_data) if data == "SMALL" else data
    assert lesson_gan.main(["--data", folder, "--device", "numpy"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
