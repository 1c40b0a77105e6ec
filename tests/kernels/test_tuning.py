"""Measured choices of tiles: the tables, and the script that writes one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pygan.bindings.operators import convolution, tuning
from pygan.bindings.operators.shapes import geometry
from pygan.bindings.operators.tiling import TILES

REPOSITORY = Path(__file__).resolve().parents[2]
SIDES = ((2, 8, 8, 8), (12, 4, 4, 8), (2, 4, 4, 12))
ATTRIBUTES = ((2, 2), (1, 1), (1, 1), 1)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A table of the test's own, so that none of the machine's is read or written."""
    path = tmp_path / tuning.CACHED
    monkeypatch.setattr(tuning, "cached_path", lambda: path)
    tuning.tables.cache_clear()
    convolution._plan.cache_clear()
    yield path
    tuning.tables.cache_clear()
    convolution._plan.cache_clear()


def plan(device: str | None) -> Any:
    return convolution._plan("convolution_forward", "forward", *SIDES, *ATTRIBUTES, device)


def test_a_measured_choice_goes_before_the_model(table: Path) -> None:
    """For its device and shape, and for no other."""
    shape = geometry("x", *SIDES, *ATTRIBUTES)
    model = plan("Some GPU")
    other = next(tile for tile in TILES if tile.lines != model.defines["TILE_M"])
    tuning.write(table, "Some GPU", {tuning.key("forward", shape): [other.lines, other.columns, 2]})
    convolution._plan.cache_clear()
    chosen = plan("Some GPU")
    assert chosen.defines == {"TILE_M": other.lines, "TILE_N": other.columns}
    assert chosen.slices == chosen.unaligned.slices == 2
    assert plan("Another GPU") == plan(None) == model


def test_the_tables_can_be_left_out(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = geometry("x", *SIDES, *ATTRIBUTES)
    tuning.write(table, "Some GPU", {tuning.key("forward", shape): [64, 64, 3]})
    monkeypatch.setenv("PYGAN_TUNING", "0")
    assert plan("Some GPU").slices != 3


def test_writing_keeps_what_was_measured_before(table: Path) -> None:
    tuning.write(table, "Some GPU", {"forward a": [64, 64, 1]})
    tuning.write(table, "Another GPU", {"forward a": [64, 32, 1]})
    tuning.write(table, "Some GPU", {"forward b": [128, 64, 2]})
    assert tuning.tables() == {
        "Some GPU": {"forward a": [64, 64, 1], "forward b": [128, 64, 2]},
        "Another GPU": {"forward a": [64, 32, 1]},
    }


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"GPU": {"forward a": [1, "x", 2]}}'])
def test_a_damaged_table_is_left_out_with_a_warning(table: Path, text: str) -> None:
    table.write_text(text)
    with pytest.warns(RuntimeWarning, match=r"tuning\.json"):
        assert tuning.tables() == {}


def test_tuning_on_the_cpu_driver(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: Any
) -> None:
    """The script measures, checks and writes; the next plan is what it wrote."""
    if device.check:
        pytest.skip("the script takes device cpu or cuda")
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.delitem(sys.modules, "tune", raising=False)
    import tune

    name = device.context.name
    assert tune.main(["--device", name, "--quick", "--network", "lesson", "--only", "D4"]) == 0
    assert "choices written" in capsys.readouterr().out
    (choices,) = json.loads(table.read_text()).values()
    assert choices and all(key.split()[0] in tune.KINDS for key in choices)
