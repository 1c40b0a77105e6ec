"""Measured choices of tiles: the tables, and the script that writes one."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pygan.bindings.operators.plans import tensor_core, tuning, wgmma
from pygan.bindings.operators.plans.choice import plan_of_sides
from pygan.bindings.operators.plans.passes import Halves, product_of
from pygan.bindings.operators.plans.pipelined import TILES
from pygan.bindings.operators.shapes import geometry

REPOSITORY = Path(__file__).resolve().parents[2]
SIDES = ((2, 8, 8, 8), (12, 4, 4, 8), (2, 4, 4, 12))
ATTRIBUTES = ((2, 2), (1, 1), (1, 1), 1)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A table of the test's own, so that none of the machine's is read or written."""
    path = tmp_path / tuning.CACHED
    monkeypatch.setattr(tuning, "cached_path", lambda: path)
    monkeypatch.delenv("PYGAN_WGMMA", raising=False)
    tuning.tables.cache_clear()
    plan_of_sides.cache_clear()
    yield path
    tuning.tables.cache_clear()
    plan_of_sides.cache_clear()


def plan(device: str | None) -> Any:
    return plan_of_sides("convolution_forward", "float32", *SIDES, *ATTRIBUTES, device)


def test_a_measured_choice_goes_before_the_model(table: Path) -> None:
    """For its device and shape, and for no other."""
    shape = geometry("x", *SIDES, *ATTRIBUTES)
    model = plan("Some GPU")
    other = next(tile for tile in TILES if tile.lines != model.defines["TILE_M"])
    tuning.write(table, "Some GPU", {tuning.key("forward", shape): [other.lines, other.columns, 2]})
    plan_of_sides.cache_clear()
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
    """The script measures, checks and writes; but times of the CPU driver steer nothing unasked."""
    if device.check:
        pytest.skip("the script takes device cpu or cuda")
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.delitem(sys.modules, "tune", raising=False)
    import tune

    name = device.context.name
    options = ["--device", name, "--quick", "--network", "lesson", "--only", "D4"]
    options += ["--precision", "float32"]  # on a GPU all would be measured
    record = table.with_name("record.json")
    assert tune.main([*options, "--table", str(table), "--json", str(record)]) == 0
    assert "choices written" in capsys.readouterr().out
    (choices,) = json.loads(table.read_text()).values()
    assert choices and all(key.split()[0] in tune.KINDS for key in choices)
    measured = json.loads(record.read_text())["measured"]
    assert sorted(each["choice"] for each in measured) == sorted(choices.values())

    table.unlink()
    assert tune.main([*options, "--candidates", "1", "--budget", "0"]) == 0
    said = capsys.readouterr().out
    assert "--budget was spent: lesson 1 D4 forward" in said
    if name == "cpu":
        assert "no table written (the CPU driver's times" in said
        assert not table.exists()


def divided_less(layers: Any, network: Any, batch: int, divide: int) -> Any:
    return layers(network, batch, min(divide, 4))


def test_wgmma_is_measured_against_mma_sync(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: Any
) -> None:
    """What was quicker is written down, under a key of its own that a plan then finds."""
    if device.check:
        pytest.skip("the script takes device cpu or cuda")
    if device.context.device.compute_capability() != wgmma.CAPABILITY:
        pytest.skip("wgmma is for GPUs of compute capability 9.0")
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.delitem(sys.modules, "tune", raising=False)
    import tune

    monkeypatch.setattr(tune, "KINDS", ("backward_weight",))
    name = device.context.name
    options = ["--device", name, "--quick", "--network", "lesson", "--only", "D4"]
    options += ["--precision", "tf32", "--candidates", "1", "--table", str(table)]
    assert tune.main(options) == 0
    (choices,) = json.loads(table.read_text()).values()
    assert all(key.startswith("tf32 wgmma backward_weight ") for key in choices)
    tiles = [[tile.lines, tile.columns] for tile in wgmma.TILES]
    assert choices and all(each[:2] in tiles or each == tune.NOT_TAKEN for each in choices.values())

    # bf16 arrays have channels in multiples of 8, which --quick divides by too much.
    monkeypatch.setattr(tune, "layers", partial(divided_less, tune.layers))
    options[options.index("tf32")] = "bf16-stored"
    table.unlink()
    assert tune.main(options) == 0
    (choices,) = json.loads(table.read_text()).values()
    keys = [each.key_of_halves("backward_weight") for each in (tensor_core, wgmma)]
    assert [key[: len(begins)] for key, begins in zip(choices, keys, strict=True)] == keys

    # A kernel that computes something else is not written down, however quick it is.
    monkeypatch.setattr(tune.Halves, "agrees", lambda *_: False)
    table.unlink()
    assert tune.main(options) == 1
    assert "differs from what it must agree with" in capsys.readouterr().err
    assert not table.exists()


def test_every_tile_of_bf16_arrays_is_searched_and_agrees(
    monkeypatch: pytest.MonkeyPatch, device: Any
) -> None:
    """Those of 256 lines among them; a tile that computes something else does not."""
    if device.check:
        pytest.skip("the script takes device cpu or cuda")
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import tune

    layer = tune.Layer("E", (2, 9, 9, 16), (24, 3, 3, 16), (2, 7, 7, 24), 1, 0)
    for kind in tune.KINDS:
        way = tune.Halves(tune.Pass(device, kind, layer, stored=True))
        assert way.tuned
        found = way.candidates(100)
        assert all(any(each is tile for each, _ in found) for tile in tensor_core.TILES_OF_HALVES)
        for tile in tensor_core.TILES_OF_HALVES:
            assert way.agrees(way.plan(tile, 1)), f"{kind} {tile}"
    wrong = way.plan(tensor_core.TILES_OF_HALVES[0], 1)
    assert not way.agrees(wrong._replace(arguments=(1, *wrong.arguments[1:])))  # of 2 images


def test_a_measured_tile_of_bf16_arrays_goes_before_the_model(table: Path) -> None:
    sides = ((2, 8, 8, 16), (16, 4, 4, 16), (2, 4, 4, 16))
    shape = geometry("x", *sides, *ATTRIBUTES)
    halves = Halves(True, True, True)

    def plan(device: str | None) -> Any:
        plan_of_sides.cache_clear()
        return plan_of_sides("convolution_forward", "bf16", *sides, *ATTRIBUTES, device, halves)

    model = plan("Some GPU")
    key = tuning.key(tensor_core.key_of_halves("forward"), shape)
    tuning.write(table, "Some GPU", {key: [256, 128, 2]})
    chosen = plan("Some GPU")
    assert (chosen.defines["TILE_M"], chosen.defines["TILE_N"], chosen.slices) == (256, 128, 2)
    assert chosen != model == plan("Another GPU")


def test_what_was_measured_to_be_slower_is_not_taken(table: Path) -> None:
    shape = geometry("x", *SIDES, *ATTRIBUTES)
    key = tuning.key(wgmma.key("forward", "tf32"), shape)
    for choice, taken in (([128, 64, 2], True), ([0, 0, 0], False)):
        tuning.write(table, "Some GPU", {key: choice})
        product = product_of("forward", shape)
        found = wgmma.tiles_for("forward", "tf32", shape, product, "Some GPU")
        assert (found is not None) == taken
