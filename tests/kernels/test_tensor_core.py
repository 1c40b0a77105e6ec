"""Convolutions and fully connected layers on tensor cores (TF32, bf16), on every tile size.

The comparison is with the twin in float64 on operands rounded as the kernel must round them:
products of rounded operands are exact in float32, so only the rounding of sums remains. That is a
thousand times sharper than what the precision costs, which one test measures on its own.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convolution_cases import Case, Problem, cases
from hypothesis import strategies as st

from pygan import reference
from pygan.bindings import compiler, operators
from pygan.bindings.operators.plans import tensor_core
from pygan.bindings.operators.plans.choice import plan_of, plan_of_sides
from pygan.bindings.operators.plans.passes import PASSES, Product
from pygan.bindings.operators.plans.plan import Tiles
from pygan.bindings.operators.plans.tensor_core import LARGE, MEDIUM, NARROW, WIDE
from pygan.bindings.operators.product_launch import check_capability
from pygan.reference.precision import rounded
from support import (
    assert_close,
    assert_same_bits,
    check_write_and_accumulate,
    examples_for,
    for_all,
    numbers,
    poisoned,
    random_sum_bound,
    upload,
    workspace_for,
)

PRECISIONS = ("tf32", "bf16")
UNIT_ROUNDOFFS = {"tf32": 2.0**-11, "bf16": 2.0**-8}
TILES = {"large": LARGE, "wide": WIDE, "medium": MEDIUM, "narrow": NARROW}
CONVOLUTIONS = tuple(name for name in PASSES if name.startswith("convolution"))
TRANSPOSED = tuple(name for name in PASSES if name.startswith("transposed"))
FULLY_CONNECTED = tuple(name for name in PASSES if name.startswith("fully"))
ODD = Case(1, (7, 6), (3, 2), (2, 2), (1, 1), (1, 1), 1, 5, 7)
ALIGNED = Case(2, (5, 6), (3, 2), (2, 1), (1, 0), (1, 1), 2, 12, 20)


@pytest.fixture
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of the kind that the test names, whatever the shape of a product."""
    tile = TILES[request.param]

    def fixed(precision: str, product: Any) -> Tiles:
        return Tiles(tile, 2 if product.depth >= 2 * tile.depth else 1)

    monkeypatch.setattr(tensor_core, "tiles_for", fixed)
    plan_of_sides.cache_clear()
    yield
    monkeypatch.undo()
    plan_of_sides.cache_clear()


every_tile = pytest.mark.parametrize("tiles", TILES, indirect=True)
both = pytest.mark.parametrize("precision", PRECISIONS)


def sum_bound(terms: int) -> float:
    """Relative to the sum of the products' magnitudes. A tensor core adds with truncation, which
    errs by twice as much as rounding to nearest; a product and its bias enter one after another."""
    return 2 * random_sum_bound(terms + 2)


def check(device: Any, operator: str, inputs: list[Any], result: Any, terms: int, **options: Any):
    """`operator` agrees with its twin, written and accumulated.

    inputs: float32 arrays (the bias, third, may be None); result: its shape; terms: products in the
    longest sum; options: the operator's attributes with precision.
    """
    rng = np.random.default_rng(terms)
    wide = [None if a is None else a.astype(np.float64) for a in inputs]
    absolute = [None if a is None else np.abs(a) for a in wide]
    expected, magnitude = np.zeros(result), np.zeros(result)
    getattr(reference, operator)(*wide, expected, **options)
    getattr(reference, operator)(*absolute, magnitude, **options)

    shapes = [None if a is None else a.shape for a in inputs] + [result]
    workspace = workspace_for(device, operator, *shapes, **options)
    sources = [upload(device, array) for array in inputs]
    run = getattr(device.ops, operator)

    def launch(out: Any, accumulate: bool) -> None:
        if workspace is not None:
            workspace.fill(np.nan)
        run(*sources, out, **options, accumulate=accumulate, workspace=workspace)

    what = f"{operator} {shapes} {options}"
    allowed = sum_bound(terms) * magnitude
    check_write_and_accumulate(device, launch, expected, allowed, rng, what)


def check_case(device: Any, operator: str, case: Case, precision: str) -> None:
    problem = Problem(operator, case)
    options = case.attributes | {"precision": precision}
    check(device, operator, problem.inputs, problem.result, problem.terms, **options)


@every_tile
@both
@pytest.mark.parametrize("operator", (*CONVOLUTIONS, TRANSPOSED[0]))
def test_every_kernel_on_every_tile(
    device: Any, tiles: None, operator: str, precision: str
) -> None:
    """Channels that are no multiple of 4, and channels that are, with groups."""
    for case in (ODD,) if device.check else (ODD, ALIGNED):
        check_case(device, operator, case, precision)


@every_tile
def test_agrees_with_the_twin_on_any_shape(device: Any, tiles: None, request: Any) -> None:
    if device.check and request.node.callspec.params["tiles"] in ("large", "wide"):
        pytest.skip("a large tile of few elements takes long in check mode; one shape is above")
    drawn = st.tuples(
        cases(), st.sampled_from((*CONVOLUTIONS, *TRANSPOSED)), st.sampled_from(PRECISIONS)
    )

    def body(example: tuple[Case, str, str]) -> None:
        case, operator, precision = example
        check_case(device, operator, smaller(case), precision)

    for_all(drawn, examples_for(device, 20), body)


def smaller(case: Case) -> Case:
    """Fragments go from lane to lane on the CPU driver: a tenth of the work of other tests."""
    while case.products > 40_000 and max(case.large_channels, case.small_channels) > 1:
        if case.large_channels >= case.small_channels:
            case = replace(case, large_channels=-(-case.large_channels // 2))
        else:
            case = replace(case, small_channels=-(-case.small_channels // 2))
    return case


@both
@pytest.mark.parametrize("operator", FULLY_CONNECTED)
def test_fully_connected_layers(device: Any, operator: str, precision: str) -> None:
    for sizes in ((5, 7, 3), (12, 36, 40)) if device.check else ((1, 1, 1), (37, 520, 66)):
        batch, inputs, outputs = sizes
        rng = np.random.default_rng(sizes)
        x, w, y = numbers(rng, batch, inputs), numbers(rng, outputs, inputs), (batch, outputs)
        if operator == FULLY_CONNECTED[0]:
            arrays, result, terms = [x, w, numbers(rng, outputs)], y, inputs
        elif operator == FULLY_CONNECTED[1]:
            arrays, result, terms = [numbers(rng, *y), w], x.shape, outputs
        else:
            arrays, result, terms = [x, numbers(rng, *y)], w.shape, batch
        check(device, operator, arrays, result, terms, precision=precision)


FEW = Case(2, (9, 10), (4, 4), (2, 2), (1, 1), (1, 1), 1, 3, 64)
FEW_OF_ONE = Case(8, (13, 10), (3, 3), (1, 1), (0, 0), (1, 1), 1, 1, 24)


@pytest.fixture
def no_tile_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_core, "predicted_microseconds", lambda *_: float("inf"))
    plan_of_sides.cache_clear()
    yield
    monkeypatch.undo()
    plan_of_sides.cache_clear()


@both
@pytest.mark.parametrize("operator", ("convolution_backward_data", "convolution_backward_weight"))
def test_images_of_few_channels(
    device: Any, no_tile_is_quicker: None, operator: str, precision: str
) -> None:
    """The kernels for 1 to 4 channels round as the twin does, of odd rows and columns too; at an
    address that allows no loads of 16 bytes a tile gives the same to the rounding of sums."""
    cases = (FEW_OF_ONE,) if device.check else (FEW, FEW_OF_ONE)
    for case in cases:
        options = case.attributes | {"precision": precision}
        problem = Problem(operator, case)
        plan = plan_of(operator, problem.shapes, precision, **case.attributes)
        assert "few_channels" in plan.file and plan.defines["PRECISION"] == precision
        check_case(device, operator, case, precision)
        inputs = [shifted(device, array, 1) for array in problem.inputs]
        workspace = workspace_for(device, operator, *problem.shapes, **options)
        out = poisoned(device, *problem.result)
        getattr(device.ops, operator)(*inputs, out, **options, workspace=workspace)
        wide = [rounded(array, precision).astype(np.float64) for array in problem.inputs]
        expected, magnitude = np.zeros(problem.result), np.zeros(problem.result)
        getattr(reference, operator)(*wide, expected, **case.attributes)
        getattr(reference, operator)(*map(np.abs, wide), magnitude, **case.attributes)
        assert_close(out, expected, sum_bound(problem.terms) * magnitude)


def test_few_channels_are_for_those_alone() -> None:
    """By the model: DCGAN's last layer gains, its weight gradient fills a tile's columns better."""
    case = Case(64, (64, 64), (4, 4), (2, 2), (1, 1), (1, 1), 1, 3, 64)
    shapes = (case.small, case.weight, None, case.large)
    plan = plan_of("transposed_convolution_forward", shapes, "bf16", **case.attributes)
    assert plan.file == "convolution_few_channels.cu"
    shapes = (case.small, case.large, case.weight)
    plan = plan_of("transposed_convolution_backward_weight", shapes, "bf16", **case.attributes)
    assert plan.file == tensor_core.FILE


SLICED = {
    "convolution_forward": Case(2, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1, 60, 6),
    "convolution_backward_weight": Case(10, (9, 8), (2, 2), (1, 1), (0, 0), (1, 1), 1, 5, 9),
    "transposed_convolution_forward": Case(2, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1, 7, 60),
}


@both
@pytest.mark.parametrize("operator", SLICED)
def test_long_sums_are_cut_into_slices(device: Any, operator: str, precision: str) -> None:
    """The slices are added in order by a second kernel, which does bias and accumulation too."""
    case = SLICED[operator]
    options = case.attributes | {"precision": precision}
    problem = Problem(operator, case)
    needed = device.ops.workspace_size(operator, *problem.shapes, **options)
    assert needed >= 2 * int(np.prod(problem.result))
    check_case(device, operator, case, precision)
    inputs = [upload(device, array) for array in problem.inputs]
    out = device.zeros(problem.result)
    for workspace in (None, device.empty(needed - 1)):
        with pytest.raises(ValueError, match=str(needed)):
            getattr(device.ops, operator)(*inputs, out, **options, workspace=workspace)
    assert not np.asarray(out).any()


@both
def test_operands_are_rounded_as_the_twin_rounds_them(device: Any, precision: str) -> None:
    """A product with 1 alone in its sum is the rounded operand: ties, both signs, infinities."""
    bits = np.array([0x3F800000, 0x40490FDB, 0x00800000, 0x7F000000], np.uint32)
    low = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0x18000])
    bits = (bits[:, None] + low.astype(np.uint32)).reshape(-1)
    special = np.array([np.inf, -np.inf, 0.0, -0.0, np.finfo(np.float32).max], np.float32)
    x = np.concatenate([bits.view(np.float32), -bits.view(np.float32), special])
    one = upload(device, np.ones((1, 1), np.float32))
    y, dx = poisoned(device, x.size, 1), poisoned(device, x.size, 1)
    source = upload(device, x[:, None])
    device.ops.fully_connected_forward(source, one, None, y, precision=precision)
    device.ops.fully_connected_backward_data(source, one, dx, precision=precision)
    expected = rounded(x, precision)[:, None] + 0.0  # a tensor core may give either zero
    assert not np.array_equal(expected[:, 0], x)
    assert_same_bits(np.asarray(y) + np.float32(0), expected, "line operand")
    assert_same_bits(np.asarray(dx) + np.float32(0), expected, "line operand of the gradient")
    w = poisoned(device, 1, x.size)
    device.ops.fully_connected_forward(one, source, None, w, precision=precision)
    assert_same_bits(np.asarray(w) + np.float32(0), expected.T, "column operand")

    not_a_number = upload(device, np.full((1, 1), np.nan, np.float32))
    out = device.zeros((1, 1))
    device.ops.fully_connected_forward(not_a_number, one, None, out, precision=precision)
    assert np.isnan(np.asarray(out)).all()


@both
@pytest.mark.parametrize("operator", (*CONVOLUTIONS, TRANSPOSED[0]))
def test_addresses_that_allow_no_16_byte_copies(device: Any, operator: str, precision: str) -> None:
    """Operands at 4-byte aligned addresses give the same bits, and nothing beside the result is
    touched."""
    problem = Problem(operator, ALIGNED)
    options = ALIGNED.attributes | {"precision": precision}
    workspace = workspace_for(device, operator, *problem.shapes, **options)
    run = getattr(device.ops, operator)
    results = []
    for shift in (0, 1):
        inputs = [None if a is None else shifted(device, a, shift) for a in problem.inputs]
        size = int(np.prod(problem.result))
        surroundings = poisoned(device, size + 2 + shift)
        out = surroundings[1 + shift : 1 + shift + size].reshape(problem.result)
        run(*inputs, out, **options, workspace=workspace)
        results.append(np.asarray(out))
        host = np.asarray(surroundings)
        assert np.isnan(host[: 1 + shift]).all() and np.isnan(host[-1])
    assert_same_bits(*results, operator)


def shifted(device: Any, array: np.ndarray, shift: int) -> Any:
    """A device copy of `array` that starts `shift` floats after an aligned address."""
    room = device.empty(array.size + shift)
    view = room[shift : shift + array.size]
    view[...] = array.reshape(-1)
    return view.reshape(array.shape)


@both
def test_an_empty_batch(device: Any, precision: str) -> None:
    """Nothing is written, except a weight gradient, which is a sum over no pixels."""
    options = ODD.attributes | {"precision": precision}
    large, small = ((0, *shape[1:]) for shape in (ODD.large, ODD.small))
    x, y = device.zeros(large), device.zeros(small)
    w, dw = device.zeros(ODD.weight), poisoned(device, *ODD.weight)
    device.ops.convolution_forward(x, w, None, y, **options)
    device.ops.convolution_backward_data(y, w, x, **options)
    device.ops.convolution_backward_weight(x, y, dw, **options)
    assert_same_bits(dw, np.zeros(ODD.weight, np.float32))


def test_phases_without_taps_and_single_pixels(device: Any) -> None:
    """Strides beyond the kernel leave pixels that no tap reaches: they are the bias alone."""
    for case in (
        Case(1, (11, 9), (2, 2), (3, 4), (0, 1), (1, 1), 1, 3, 5),
        Case(3, (4, 4), (4, 4), (1, 1), (0, 0), (1, 1), 1, 8, 12),
        Case(1, (20, 13), (3, 2), (4, 6), (2, 3), (6, 4), 1, 4, 4),
    ):
        check_case(device, "transposed_convolution_forward", case, "tf32")
        check_case(device, "convolution_backward_data", case, "bf16")


@both
def test_what_a_precision_costs(device: Any, precision: str) -> None:
    """Against the operands as they are: each of a product's two errs by one rounding. That much
    must show, or the kernel computed in another precision; float32 is the default and as ever."""
    problem = Problem("convolution_forward", ODD)
    inputs = [upload(device, array) for array in problem.inputs]
    default, named, chosen = (poisoned(device, *problem.result) for _ in range(3))
    device.ops.convolution_forward(*inputs, default, **ODD.attributes)
    device.ops.convolution_forward(*inputs, named, **ODD.attributes, precision="float32")
    device.ops.convolution_forward(*inputs, chosen, **ODD.attributes, precision=precision)
    assert_same_bits(np.asarray(default), np.asarray(named))
    assert_close(default, problem.exact(), problem.allowed)
    unit, magnitude = UNIT_ROUNDOFFS[precision], problem.exact(absolute=True)
    used = assert_close(
        chosen, problem.exact(), (2 * unit + unit**2 + sum_bound(problem.terms)) * magnitude
    )
    assert used.share > 0.05


@pytest.mark.parametrize("operator", ["convolution_forward", "fully_connected_forward"])
def test_unknown_precisions_are_refused(device: Any, operator: str) -> None:
    one = (1, 1, 1, 1) if operator.startswith("conv") else (1, 1)
    attributes = ODD.attributes | {"pad": (0, 0)} if operator.startswith("conv") else {}
    arrays = [device.zeros(one), device.zeros(one), None, device.zeros(one)]
    hosts = [None if a is None else np.zeros(one, np.float32) for a in arrays]
    for ops, given in ((device.ops, arrays), (reference, hosts)):
        with pytest.raises(ValueError, match=r"'float16'.*float32, tf32, bf16"):
            getattr(ops, operator)(*given, **attributes, precision="float16")


def test_shapes_that_do_not_fit_are_refused(device: Any) -> None:
    x, w, b, y = ODD.large, ODD.weight, (ODD.small[3],), ODD.small
    options = ODD.attributes | {"precision": "tf32"}
    for wrong in (
        ((*x[:3], 6), w, b, y),
        (x, w, b, (*y[:3], 8)),
        (x, w, (8,), y),
        (x[1:], w, b, y),
        (x, w, b, (y[0] + 1, *y[1:])),
    ):
        with pytest.raises(ValueError, match="convolution_forward"):
            device.ops.convolution_forward(*(device.zeros(s) for s in wrong), **options)
    with pytest.raises(ValueError, match="fully_connected_forward"):
        arrays = (device.zeros(s) for s in ((4, 5), (3, 6), (3,), (4, 3)))
        device.ops.fully_connected_forward(*arrays, precision="bf16")


def test_more_phases_than_a_grid_has_blocks_are_refused(device: Any) -> None:
    """Not computed in another precision instead; the message names the way out."""
    case = Case(1, (301, 302), (2, 1), (300, 300), (1, 0), (1, 1), 1, 1, 2)
    arrays = [device.zeros(shape) for shape in (case.small, case.weight, case.large)]
    with pytest.raises(ValueError, match=r"90000 products.*precision='float32'"):
        device.ops.convolution_backward_data(*arrays, **case.attributes, precision="tf32")


def test_more_than_the_kernels_count_is_refused() -> None:
    """A tile rounds up to 128 lines, so that 2^31 - 70 of them would pass the largest int."""
    lines = 2**31 - 70
    shapes = [(lines, 1), (1, 1), None, (lines, 1)]
    with pytest.raises(ValueError, match="fully_connected_forward: 2147483578 lines"):
        operators.workspace_size("fully_connected_forward", *shapes, precision="tf32")


def test_hardware_without_such_tensor_cores_is_refused() -> None:
    class Turing:
        @staticmethod
        def compute_capability() -> tuple[int, int]:
            return 7, 5

    class Context:
        device = Turing

    with pytest.raises(ValueError, match=r"'bf16' needs compute capability 8\.0.*7\.5.*float32"):
        check_capability("convolution_forward", "bf16", tensor_core.FILE, Context())


@both
@pytest.mark.parametrize(
    ("product", "tiles"),
    [
        (Product(64 * 1024, 3, 4 * 64, 4), (NARROW,)),  # DCGAN's images, at batch 64
        (Product(4096, 4096, 4096, 1), (LARGE,)),
        (Product(64 * 256, 64, 4 * 128, 4), (WIDE,)),  # to 64 channels of 32 x 32
        (Product(32 * 36, 32, 9 * 24, 1), (MEDIUM, NARROW)),  # the lesson's discriminator
    ],
)
def test_tiles_are_chosen_by_shape(precision: str, product: Product, tiles: tuple) -> None:
    chosen = tensor_core.tiles_for(precision, product)
    assert chosen.tile in tiles
    others = [Tiles(tile, 1) for tile in tensor_core.TILES]
    least = tensor_core.predicted_microseconds(chosen, precision, product)
    assert all(
        least <= tensor_core.predicted_microseconds(other, precision, product) for other in others
    )


def test_few_tiles_are_cut_into_slices() -> None:
    """One tile of a long sum would leave all multiprocessors but one idle."""
    assert tensor_core.tiles_for("tf32", Product(64, 64, 2**16, 1)).slices >= 16
    assert tensor_core.tiles_for("tf32", Product(64, 64, 128, 1)).slices == 1
    assert tensor_core.tiles_for("tf32", Product(2**15, 512, 2**12, 1)).slices == 1


@pytest.mark.parametrize("kind", ["forward", "backward_data", "backward_weight"])
def test_every_tile_fits_the_shared_memory_of_small_gpus(kind: str) -> None:
    """99 KiB a block is the least of GPUs with these tensor cores (capabilities 8.6, 8.9, 12.0)."""
    for tile in tensor_core.TILES:
        assert tensor_core.shared_bytes(kind, tile) <= 99 * 1024


@pytest.mark.parametrize(
    ("precision", "instruction"),
    [
        ("tf32", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
        ("bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
    ],
)
def test_a_gpu_gets_tensor_cores_and_asynchronous_copies(precision: str, instruction: str) -> None:
    """The plain bodies are for the CPU driver alone: nothing of them reaches a GPU."""
    nvcc = compiler.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc; `pip install pygan[nvcc]` or nvcc_report --fetch brings one")
    path = compiler.kernels_dir() / tensor_core.FILE
    flags = ["-ptx", "-arch=sm_80", "-std=c++17", f"-DPRECISION={precision}", "-DTILE_N=8"]
    text = compiler.run_nvcc(nvcc, path, [*flags, "-DTILE_M=128"], [path.parent])[0].decode()
    entries = re.split(r"\.visible \.entry ", text)[1:]
    assert len(entries) == 3
    for entry in entries:
        assert instruction in entry
        assert "cp.async.cg.shared.global" in entry and "cp.async.wait_group" in entry
        assert "bar.warp.sync" not in entry
