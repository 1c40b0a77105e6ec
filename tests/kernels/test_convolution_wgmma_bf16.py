"""Convolutions on Hopper's tensor cores (wgmma) of arrays that hold bf16 numbers, asked for, on
device `cpu` and on GPUs that have them; the comparison is that of test_bf16_arrays.py. The
instructions alone: test_wgmma.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_bf16_arrays
from conftest import chosen_devices
from convolution_cases import Case, cases
from hypothesis import strategies as st
from test_bf16_arrays import DATA, FORWARD, WEIGHT, check, halves_of
from test_wgmma import FENCES
from test_wide_accesses import intermediate_code

from pygan.bindings.operators.plans import tensor_core, tuning, wgmma
from pygan.bindings.operators.plans.choice import plan_of_sides
from pygan.bindings.operators.plans.passes import PASSES, Halves, Product
from pygan.bindings.operators.plans.plan import Tiles
from pygan.bindings.operators.product_launch import check_capability
from pygan.bindings.operators.shapes import geometry
from support import examples_for, for_all

LARGE, MEDIUM, TALL, NARROW = wgmma.TILES_OF_HALVES
OPERATORS = (*FORWARD, *DATA, *WEIGHT)
# On the CPU driver the two that differ most: of them, one with results in bf16.
CHOICES = (
    {"large": (LARGE, True), "narrow": (NARROW, False)}
    if "cuda" not in chosen_devices()
    else {
        f"{tile.lines}x{tile.columns} {result}": (tile, result)
        for tile in wgmma.TILES_OF_HALVES
        for result in (True, False)
    }
)
GROUPED = Case(2, (5, 6), (3, 2), (2, 1), (1, 0), (1, 1), 2, 8, 24)
SEVERAL_TILES = Case(3, (11, 9), (3, 3), (1, 1), (1, 1), (1, 1), 1, 40, 136)
PHASES = Case(3, (11, 9), (4, 4), (2, 2), (1, 1), (1, 1), 1, 24, 72)
SPARSE = Case(1, (11, 9), (2, 2), (3, 4), (0, 1), (1, 1), 1, 8, 8)  # pixels that no tap reaches
SMALL = Case(1, (5, 4), (2, 3), (1, 1), (1, 0), (1, 1), 1, 8, 16)  # for check mode


@pytest.fixture(autouse=True)
def capable(request: pytest.FixtureRequest) -> None:
    if "device" in request.fixturenames:
        device = request.getfixturevalue("device")
        if device.context.device.compute_capability() != wgmma.CAPABILITY:
            pytest.skip("wgmma is for GPUs of compute capability 9.0")


@pytest.fixture(params=CHOICES)
def result(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether results hold bf16 numbers, with a tile of the test's own for every shape; where they
    do, without slices, so that there are more steps than stages, and else with some, of which the
    last may be empty."""
    tile, result = CHOICES[request.param]

    def fixed(kind: str, shape: Any, product: Any, _: bool, device: Any) -> Tiles | None:
        if not wgmma.can_be_taken(kind, shape, product):
            return None
        steps = -(-product.depth // wgmma.DEPTH_STEP_OF_HALVES)
        slices = 4 if steps > 4 else steps + 1
        return Tiles(tile, slices if steps > 1 and not result else 1)

    monkeypatch.setattr(wgmma, "tiles_of_halves", fixed)
    plan_of_sides.cache_clear()
    yield result
    monkeypatch.undo()
    plan_of_sides.cache_clear()


def plan_of(operator: str, case: Case, device: str | None = None) -> Any:
    sides = (case.large, case.weight, case.small)
    attributes = (case.stride, case.pad, case.dilation, case.groups)
    weight = PASSES[operator].kind != "backward_weight"
    halves = Halves(True, weight, True)
    return plan_of_sides(operator, "bf16", *sides, *attributes, device, halves)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_kernel(device: Any, result: bool, operator: str) -> None:
    """Odd sizes, groups, strides with phases, more lines and columns than a tile has, more steps
    than stages, written and accumulated over poison."""
    if device.check and (result or operator.startswith("transposed")):
        pytest.skip("the same accesses as of the convolutions, and of the narrow tile")
    for case in (SMALL,) if device.check else (GROUPED, SEVERAL_TILES, PHASES, SPARSE):
        assert plan_of(operator, case).file == wgmma.FILE_OF_HALVES
        check(device, operator, case, halves_of(operator, result))


def test_any_shape(device: Any, result: bool) -> None:
    if device.check:
        pytest.skip("large tiles of few elements take long in check mode; one shape is above")

    def body(drawn: Any) -> None:
        case, operator, large, small = drawn
        case = replace(case, large_channels=large, small_channels=small)
        while case.products > 100_000 and case.batch > 1:
            case = replace(case, batch=case.batch - 1)
        assert plan_of(operator, case).file == wgmma.FILE_OF_HALVES
        check(device, operator, case, halves_of(operator, result))

    channels = st.sampled_from((8, 16, 40))
    drawn = st.tuples(cases(), st.sampled_from(OPERATORS), channels, channels)
    for_all(drawn, examples_for(device, 8), body)


def test_activations_at_the_end(device: Any, result: bool) -> None:
    """In a tile whose threads have exchanged their sums, and after slices."""
    if device.check or not result:
        pytest.skip("once, for results in bf16")
    test_bf16_arrays.test_ends_with_every_activation(device, GROUPED)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A table of the test's own, so that none of the machine's is read or written."""
    path = tmp_path / tuning.CACHED
    monkeypatch.setattr(tuning, "cached_path", lambda: path)
    monkeypatch.delenv("PYGAN_WGMMA", raising=False)
    tuning.tables.cache_clear()
    plan_of_sides.cache_clear()
    yield path
    tuning.tables.cache_clear()
    plan_of_sides.cache_clear()


def test_it_is_off_until_it_is_measured_or_asked_for(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = geometry(
        "x", *(GROUPED.large, GROUPED.weight, GROUPED.small), (2, 1), (1, 0), (1, 1), 2
    )
    for operator in OPERATORS:
        assert plan_of(operator, GROUPED, "Some GPU").file == tensor_core.FILE
    choices = {
        tuning.key(wgmma.key_of_halves("forward"), shape): [MEDIUM.lines, MEDIUM.columns, 2],
        tuning.key(wgmma.key("backward_data", "bf16"), shape): [128, 128, 1],  # of float32 arrays
    }
    tuning.write(table, "Some GPU", choices)
    plan_of_sides.cache_clear()
    plan = plan_of(FORWARD[0], GROUPED, "Some GPU")
    assert (plan.file, plan.slices) == (wgmma.FILE_OF_HALVES, 2)
    assert plan.defines == {"TILE_M": 128, "TILE_N": 128}, "slices are float32"
    assert plan_of(DATA[0], GROUPED, "Some GPU").file == tensor_core.FILE
    assert plan_of(FORWARD[0], GROUPED, "Another GPU").file == tensor_core.FILE

    monkeypatch.setenv("PYGAN_WGMMA", "0")
    plan_of_sides.cache_clear()
    assert plan_of(FORWARD[0], GROUPED, "Some GPU").file == tensor_core.FILE
    monkeypatch.setenv("PYGAN_WGMMA", "1")
    plan_of_sides.cache_clear()
    for operator in OPERATORS:
        assert plan_of(operator, GROUPED).file == wgmma.FILE_OF_HALVES
        beyond = replace(GROUPED, size=(1 << 14, 6))  # of the 15 bits of a coordinate
        assert plan_of(operator, beyond).file == tensor_core.FILE


def test_hardware_without_the_instructions_is_refused(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Context:
        class device:
            @staticmethod
            def compute_capability() -> tuple[int, int]:
                return (10, 0)

    monkeypatch.setenv("PYGAN_WGMMA", "1")
    with pytest.raises(ValueError, match=r"'bf16'.*needs.*9\.0.*PYGAN_WGMMA=1.*unset"):
        check_capability(FORWARD[0], "bf16", wgmma.FILE_OF_HALVES, Context())


def test_tiles_fit_a_multiprocessor() -> None:
    """227 KiB of shared memory, and stages enough to copy two steps ahead."""
    for tile in wgmma.TILES_OF_HALVES:
        assert tile.resident * tile.shared_bytes() <= wgmma.SHARED_BYTES
        assert tile.stages >= 4


def test_tiles_of_256_lines_are_predicted_to_be_quickest() -> None:
    """A layer of DCGAN-64 at batch 128, which the bytes through the cache decide."""
    layer = Product(128 * 256, 128, 16 * 256, 1)
    best = wgmma.candidates_of_halves(layer, result=True)[0]
    assert best.tile is LARGE
    narrow = wgmma.candidates_of_halves(layer._replace(columns=64), result=True)[0]
    assert narrow.tile is TALL


def test_a_gpu_gets_the_instructions() -> None:
    """Copies of 16 bytes past the registers, products of both orders, no conversion of operands."""
    code = intermediate_code(wgmma.FILE_OF_HALVES, MEDIUM.defines(True))
    orders = {"forward": "0, 0", "backward_data": "0, 1", "backward_weight": "1, 1"}
    assert set(code) == {f"convolution_{kind}_wgmma_bf16" for kind in orders}
    for kind, order in orders.items():
        text = code[f"convolution_{kind}_wgmma_bf16"]
        for instruction in FENCES:
            assert instruction in text, f"{kind} has no {instruction}"
        products = text.split("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16")[1:]
        assert products and all(f", 1, 1, 1, {order};" in each.split("\n")[0] for each in products)
        assert "cp.async.cg.shared.global" in text and "cp.async.ca" not in text
        assert "ld.global.nc.v" not in text and "st.shared" not in text
        weights = kind == "backward_weight"
        assert ("cvt.rn.bf16x2.f32" in text) != weights
        assert ("st.global.v4" if weights else "st.global.v2") in text
