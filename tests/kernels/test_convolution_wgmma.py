"""Convolutions on Hopper's tensor cores (wgmma), asked for, on device `cpu` and on GPUs that have
them; the comparison is that of test_tensor_core.py. The instructions alone: test_wgmma.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import chosen_devices
from convolution_cases import Case, Problem, cases
from hypothesis import strategies as st
from test_epilogue import run_all
from test_tensor_core import check_case, shifted, smaller, sum_bound
from test_wgmma import instructions
from test_wide_accesses import intermediate_code

from pygan.bindings.operators.plans import tensor_core, tuning, wgmma
from pygan.bindings.operators.plans.choice import plan_of_sides
from pygan.bindings.operators.plans.plan import Tiles
from pygan.bindings.operators.product_launch import check_capability
from pygan.bindings.operators.shapes import geometry
from pygan.reference.precision import rounded
from support import assert_close, assert_same_bits, examples_for, for_all, poisoned, upload

REPOSITORY = Path(__file__).resolve().parents[2]
LARGE, MEDIUM, NARROW = wgmma.TILES
# On the CPU driver one tile for each format: the two that differ most in how threads share them.
CHOICES = {"tf32 narrow": ("tf32", NARROW), "bf16 large": ("bf16", LARGE)}
if "cuda" in chosen_devices():
    CHOICES |= {
        "tf32 large": ("tf32", LARGE),
        "tf32 medium": ("tf32", MEDIUM),
        "bf16 medium": ("bf16", MEDIUM),
        "bf16 narrow": ("bf16", NARROW),
    }
KERNELS = (
    "convolution_forward",
    "convolution_backward_data",
    "convolution_backward_weight",
    "transposed_convolution_forward",
)
GROUPED = Case(2, (5, 6), (3, 2), (2, 1), (1, 0), (1, 1), 2, 12, 20)
SEVERAL_TILES = Case(3, (10, 9), (3, 3), (1, 1), (1, 1), (1, 1), 1, 36, 68)
PHASES = Case(3, (11, 9), (4, 4), (2, 2), (1, 1), (1, 1), 1, 20, 36)
SMALL = Case(1, (5, 4), (2, 3), (1, 1), (1, 0), (1, 1), 1, 8, 12)  # for check mode
SPARSE = Case(1, (11, 9), (2, 2), (3, 4), (0, 1), (1, 1), 1, 4, 8)  # pixels that no tap reaches


@pytest.fixture(autouse=True)
def capable(request: pytest.FixtureRequest) -> None:
    if "device" in request.fixturenames:
        device = request.getfixturevalue("device")
        if device.context.device.compute_capability() != wgmma.CAPABILITY:
            pytest.skip("wgmma is for GPUs of compute capability 9.0")


@pytest.fixture(params=CHOICES)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The precision, with a tile of the test's own for every shape, and two slices where they
    are long enough."""
    precision, tile = CHOICES[request.param]

    def fixed(kind: str, _: str, shape: Any, product: Any, device: Any) -> Tiles | None:
        if not wgmma.can_be_taken(kind, shape, product):
            return None
        return Tiles(tile, 2 if product.depth >= 2 * wgmma.DEPTH_STEP else 1)

    monkeypatch.setattr(wgmma, "tiles_for", fixed)
    plan_of_sides.cache_clear()
    yield precision
    monkeypatch.undo()
    plan_of_sides.cache_clear()


def file_of(operator: str, case: Case, precision: str = "tf32", device: str | None = None) -> str:
    sides = (case.large, case.weight, case.small)
    attributes = (case.stride, case.pad, case.dilation, case.groups)
    return str(plan_of_sides(operator, precision, *sides, *attributes, device).file)


@pytest.mark.parametrize("operator", KERNELS)
def test_every_kernel(device: Any, precision: str, operator: str) -> None:
    """Odd sizes, groups, strides with phases, more lines and columns than a tile has."""
    for case in (SMALL,) if device.check else (GROUPED, SEVERAL_TILES, PHASES, SPARSE):
        assert file_of(operator, case, precision) == wgmma.FILE
        check_case(device, operator, case, precision)


@pytest.mark.parametrize("operator", [KERNELS[3], KERNELS[1]])
def test_activations_at_the_end(device: Any, precision: str, operator: str) -> None:
    """One that 128 sums of a thread take, and one that they leave to a launch of its own."""
    if device.check:
        pytest.skip("test_epilogue.py checks the accesses")
    for kind in ("leaky_relu", "tanh"):
        run_all(device, operator, GROUPED, kind, accumulate=False, precision=precision)


def test_agrees_with_the_twin_on_any_shape(device: Any, precision: str) -> None:
    """Channels in multiples of 4 take the kernel, others convolution_tensor_core.cu."""
    if device.check:
        pytest.skip("large tiles of few elements take long in check mode; one shape is above")

    def body(example: tuple[Case, str]) -> None:
        case, operator = example
        case = smaller(case)
        channels = (-(-count // 4) * 4 for count in (case.large_channels, case.small_channels))
        large, small = channels
        case = replace(case, large_channels=large, small_channels=small)
        assert file_of(operator, case, precision) == wgmma.FILE
        check_case(device, operator, case, precision)

    for_all(st.tuples(cases(), st.sampled_from(KERNELS)), examples_for(device, 10), body)


def test_operands_are_rounded_to_nearest(device: Any, precision: str) -> None:
    """A product with 1 alone in its sum is the rounded operand: ties, both signs, infinities. What
    is cut off instead of rounded shows in every second one."""
    if device.check:
        pytest.skip("of accesses there is nothing new here")
    bits = np.array([0x3F800000, 0x40490FDB, 0x00800000, 0x7F000000], np.uint32)
    low = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0x18000])
    bits = (bits[:, None] + low.astype(np.uint32)).reshape(-1)
    special = np.array([np.inf, -np.inf, 0.0, -0.0, np.finfo(np.float32).max], np.float32)
    values = np.concatenate([bits.view(np.float32), -bits.view(np.float32), special])
    count = len(values)  # beside them zeros, to fill up 4 channels
    many, one = np.zeros((count, 4), np.float32), np.zeros((4, 4), np.float32)
    many[:, 0], one[0, 0] = values, 1.0
    source, unit = upload(device, many), upload(device, one)
    expected = rounded(values, precision) + 0.0  # a tensor core may give either zero
    out, across = poisoned(device, count, 4), poisoned(device, 4, count)
    device.ops.fully_connected_forward(source, unit, None, out, precision=precision)
    assert_same_bits(np.asarray(out)[:, 0] + np.float32(0), expected, "line operand")
    device.ops.fully_connected_forward(unit, source, None, across, precision=precision)
    assert_same_bits(np.asarray(across)[0] + np.float32(0), expected, "column operand")


def test_addresses_that_allow_no_16_byte_reads(device: Any, precision: str) -> None:
    """Such arrays take convolution_tensor_core.cu, with as many slices."""
    if device.check:
        pytest.skip("that kernel's accesses are checked in test_tensor_core.py")
    operator = KERNELS[0]
    problem = Problem(operator, GROUPED)
    options = GROUPED.attributes | {"precision": precision}
    size = device.ops.workspace_size(operator, *problem.shapes, **options)
    workspace = poisoned(device, size) if size else None
    out = poisoned(device, *problem.result)
    inputs = [None if a is None else shifted(device, a, 1) for a in problem.inputs]
    device.ops.convolution_forward(*inputs, out, **options, workspace=workspace)
    exact = [a if a is None else rounded(a, precision) for a in problem.inputs[:2]]
    problem.inputs = [*exact, problem.inputs[2]]
    allowed = sum_bound(problem.terms) * problem.exact(absolute=True)
    assert_close(out, problem.exact(), allowed)


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
    forward = KERNELS[0]
    assert file_of(forward, GROUPED, device="Some GPU") == tensor_core.FILE
    shape = geometry("x", GROUPED.large, GROUPED.weight, GROUPED.small, (2, 1), (1, 0), (1, 1), 2)
    key = tuning.key(wgmma.key("forward", "tf32"), shape)
    tuning.write(table, "Some GPU", {key: [MEDIUM.lines, MEDIUM.columns, 1]})
    plan_of_sides.cache_clear()
    assert file_of(forward, GROUPED, device="Some GPU") == wgmma.FILE
    for other in (("bf16", "Some GPU"), ("tf32", "Another GPU"), ("tf32", None)):
        assert file_of(forward, GROUPED, *other) == tensor_core.FILE

    monkeypatch.setenv("PYGAN_WGMMA", "0")
    plan_of_sides.cache_clear()
    assert file_of(forward, GROUPED, device="Some GPU") == tensor_core.FILE
    monkeypatch.setenv("PYGAN_WGMMA", "1")
    plan_of_sides.cache_clear()
    for operator in KERNELS:
        assert file_of(operator, GROUPED) == wgmma.FILE
        odd = replace(GROUPED, large_channels=13, small_channels=21)
        assert file_of(operator, odd) == tensor_core.FILE
    monkeypatch.setenv("PYGAN_WGMMA", "yes")
    plan_of_sides.cache_clear()
    with pytest.raises(ValueError, match=r"PYGAN_WGMMA is 'yes'.*1 .*0 .*unset"):
        file_of(forward, GROUPED)


@pytest.mark.parametrize("setting", ["1", None])
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (10, 0), (12, 0)])
def test_hardware_without_the_instructions_is_refused(
    table: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], setting: str | None
) -> None:
    class Device:
        @staticmethod
        def compute_capability() -> tuple[int, int]:
            return capability

    class Context:
        device = Device

    asked = ("convolution_forward", "bf16", wgmma.FILE)
    if setting is not None:
        monkeypatch.setenv("PYGAN_WGMMA", setting)
    who = "PYGAN_WGMMA=1.*unset" if setting else f"{table}.*tune.py.*PYGAN_WGMMA=0"
    with pytest.raises(ValueError, match=rf"'bf16'.*needs.*9\.0.*{who}"):
        check_capability(*asked, Context())
    check_capability(*asked[:2], tensor_core.FILE, Context())


def test_tiles_fit_a_multiprocessor() -> None:
    """227 KiB of shared memory, 2048 threads, by what is resident together."""
    for tile in wgmma.TILES:
        for precision in wgmma.BYTES:
            assert tile.resident * tile.shared_bytes(precision) <= 227 * 1024


@pytest.mark.parametrize(("precision", "tile"), CHOICES.values(), ids=CHOICES)
def test_a_gpu_gets_the_instructions(precision: str, tile: wgmma.Tile) -> None:
    code = intermediate_code(wgmma.FILE, tile.defines(precision))
    assert len(code) == 3
    for entry, text in code.items():
        for instruction in instructions(precision, tile.columns):
            assert instruction in text, f"{entry} has no {instruction}"
        assert "ld.global.nc.v4" in text and "st.shared.v" in text
        assert "shfl" not in text and "cp.async" not in text
