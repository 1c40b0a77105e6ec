"""Convolutions, activations and sums on arrays that hold bf16 numbers.

The comparison is with the twin in float64 on the same numbers, whose products are exact in float32:
what remains is the rounding of sums, and one rounding to bf16 where the result is stored so.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from convolution_cases import Case, Problem, cases
from halves import (
    check_write_and_accumulate,
    half_numbers,
    poisoned_as,
    read,
    read_half,
    stored,
    upload_half,
)
from hypothesis import strategies as st

from pygan import reference
from pygan.bindings import compiler
from pygan.bindings.operators.plans import choice, image_weight, tensor_core
from pygan.bindings.operators.plans.choice import plan_of, plan_of_sides
from pygan.bindings.operators.plans.passes import Product
from pygan.bindings.operators.plans.plan import Tiles
from pygan.bindings.operators.plans.tensor_core import MEDIUM_OF_HALVES, TILES_OF_HALVES
from pygan.reference.activation import FROM_OUTPUT, KINDS
from pygan.reference.precision import rounded
from support import (
    assert_close,
    assert_same_bits,
    examples_for,
    for_all,
    gamma,
    numbers,
    poisoned,
    random_sum_bound,
    upload,
)

FORWARD = ("convolution_forward", "transposed_convolution_forward")
DATA = ("convolution_backward_data", "transposed_convolution_backward_data")
WEIGHT = ("convolution_backward_weight", "transposed_convolution_backward_weight")
GROUPED = Case(2, (5, 6), (3, 2), (2, 1), (1, 0), (1, 1), 2, 8, 24)
LONG = Case(3, (7, 5), (4, 4), (2, 2), (1, 1), (1, 1), 1, 40, 72)
IMAGE = Case(2, (9, 10), (4, 4), (2, 2), (1, 1), (1, 1), 1, 3, 24)
IMAGE_OF_ONE = Case(2, (13, 10), (3, 3), (1, 1), (0, 0), (1, 1), 1, 1, 8)


@pytest.fixture(params=TILES_OF_HALVES, ids=lambda tile: f"{tile.lines}x{tile.columns}")
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every tile, with slices where the depth allows them."""

    def fixed(kind: str, shape: Any, of: Any, result: bool, device: Any) -> Tiles:
        return Tiles(request.param, 3 if of.depth > 4 * request.param.depth else 1)

    monkeypatch.setattr(tensor_core, "tiles_of_halves", fixed)
    plan_of_sides.cache_clear()
    yield request.param
    monkeypatch.undo()
    plan_of_sides.cache_clear()


def sum_bound(terms: int) -> float:
    """As in test_tensor_core.py: tensor cores cut off where others round."""
    return 2 * random_sum_bound(terms + 2)


def halves_of(operator: str, result: bool) -> list[bool]:
    """Of each array: both operands hold bf16 numbers, a bias never does, `result` if it may."""
    if operator in FORWARD:
        return [True, True, False, result]
    return [True, True, result and operator in DATA]


def check(device: Any, operator: str, case: Case, halves: list[bool]) -> None:
    """`operator` agrees with its twin, written and accumulated. halves: of each array."""
    problem = Problem(operator, case)
    options = case.attributes | {"precision": "bf16"}
    inputs = [None if a is None else a.copy() for a in problem.inputs]
    for i in (0, 1):
        inputs[i] = rounded(inputs[i], "bf16")
    wide = [None if a is None else a.astype(np.float64) for a in inputs]
    absolute = [None if a is None else np.abs(a) for a in wide]
    expected, magnitude = np.zeros(problem.result), np.zeros(problem.result)
    getattr(reference, operator)(*wide, expected, **case.attributes)
    getattr(reference, operator)(*absolute, magnitude, **case.attributes)

    sources = [
        (upload_half if half else upload)(device, array)
        for array, half in zip(inputs, halves, strict=False)
    ]
    dtypes = tuple("uint16" if half else "float32" for half in halves)
    size = device.ops.workspace_size(operator, *problem.shapes, dtypes=dtypes, **options)
    workspace = poisoned(device, size) if size else None
    run = getattr(device.ops, operator)

    def launch(out: Any, accumulate: bool) -> None:
        if workspace is not None:
            workspace.fill(np.nan)
        run(*sources, out, **options, accumulate=accumulate, workspace=workspace)

    allowed = sum_bound(problem.terms) * magnitude
    rng, what = np.random.default_rng(case.seed), f"{operator} {case} {halves}"
    check_write_and_accumulate(device, halves[-1], launch, expected, allowed, rng, what)


@pytest.mark.parametrize("operator", (*FORWARD, *DATA, *WEIGHT))
def test_every_kernel_on_every_tile(device: Any, tile: Any, operator: str) -> None:
    """With groups, and in slices; results in bf16 and in float32."""
    wanted = (WEIGHT[0],) if tile.threads > 128 else ()  # 8 warps, and lines across
    wanted = (*FORWARD, *DATA, *WEIGHT) if tile is MEDIUM_OF_HALVES else wanted
    if device.check and operator not in wanted:
        pytest.skip("large tiles take long in check mode, and have the accesses of the others")
    for case, result in ((GROUPED, True), (LONG, True), (LONG, False)):
        if not (device.check and case is LONG):
            check(device, operator, case, halves_of(operator, result))


def test_any_shape(device: Any, tile: Any) -> None:
    if device.check:
        pytest.skip("every kernel's accesses are checked above")

    def body(drawn: Any) -> None:
        case, operator, large, small, result = drawn
        case = replace(case, large_channels=large, small_channels=small)
        while case.products > 100_000 and case.batch > 1:
            case = replace(case, batch=case.batch - 1)
        check(device, operator, case, halves_of(operator, result))

    channels = st.sampled_from((8, 16, 40))
    operators = st.sampled_from((*FORWARD, *DATA, *WEIGHT))
    drawn = st.tuples(cases(), operators, channels, channels, st.booleans())
    for_all(drawn, examples_for(device, 8), body)


@pytest.mark.parametrize("case", (IMAGE, IMAGE_OF_ONE))
def test_images_beside_bf16_arrays(device: Any, case: Case) -> None:
    """A layer's image stays float32, its other side is bf16: in, out, and in both gradients."""
    check(device, "convolution_forward", case, [False, False, False, True])
    check(device, "transposed_convolution_backward_data", case, [False, False, True])
    check(device, "convolution_backward_data", case, [True, False, False])
    check(device, "transposed_convolution_forward", case, [True, False, False, False])
    check(device, "convolution_backward_weight", case, [False, True, False])
    check(device, "transposed_convolution_backward_weight", case, [True, False, False])


@pytest.fixture
def image_tiles(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tensor cores for the weights that images meet, in 3 slices where there is depth for them."""
    few = choice.few_channels

    def slow(kind: str, shape: Any) -> Any:
        found = few(kind, shape)
        return None if found is None else (found[0], float("inf"))

    monkeypatch.setattr(choice, "few_channels", slow)
    monkeypatch.setattr(
        tensor_core, "predicted_microseconds", lambda tiles, *_, **__: abs(tiles.slices - 3)
    )
    plan_of_sides.cache_clear()
    yield
    monkeypatch.undo()
    plan_of_sides.cache_clear()


@pytest.mark.parametrize(
    "case",
    (
        IMAGE,
        IMAGE_OF_ONE,
        Case(4, (20, 21), (4, 4), (2, 2), (1, 1), (1, 1), 1, 3, 72),
        Case(1, (12, 11), (3, 2), (1, 2), (2, 0), (2, 1), 1, 4, 16),
        Case(1, (4, 4), (4, 4), (1, 1), (1, 1), (1, 1), 1, 2, 8),
    ),
    ids=("image", "one channel", "slices", "dilation", "fewer pixels than a step"),
)
def test_weights_that_images_meet_on_tensor_cores(
    device: Any, image_tiles: Any, case: Case
) -> None:
    operator = "convolution_backward_weight"
    check(device, operator, case, [False, True, False])
    check(device, f"transposed_{operator}", case, [True, False, False])
    x, w, _, y = Problem("convolution_forward", case).shapes
    plan = plan_of(operator, (x, y, w), "bf16", (None, "uint16", None), **case.attributes)
    assert plan.file == image_weight.FILE
    assert plan.slices == (3 if case.small_channels == 72 else 1)


def test_images_of_dcgan_meet_tensor_cores_and_small_ones_do_not() -> None:
    """By the model: 16 columns of 64 filters at 32 x 32 pixels, and 9 of 24."""
    for large, small, kernel, stride, file in (
        ((64, 64, 64, 3), (64, 32, 32, 64), 4, 2, image_weight.FILE),
        ((32, 28, 28, 1), (32, 26, 26, 24), 3, 1, "convolution_few_channels_weight.cu"),
    ):
        pad = 1 if stride == 2 else 0
        weight = (small[3], kernel, kernel, large[3])
        plan = plan_of(
            *("convolution_backward_weight", (large, small, weight), "bf16"),
            (None, "uint16", None),
            stride=(stride, stride),
            pad=(pad, pad),
            dilation=(1, 1),
            groups=1,
        )
        assert plan.file == file


@pytest.mark.parametrize("case", (GROUPED, LONG), ids=("one slice", "slices"))
def test_ends_with_every_activation(device: Any, case: Case) -> None:
    """As fused: what is applied, or the derivative that is taken from an output in bf16, comes
    before the one rounding; a launch of its own for a kind that many sums cannot have rounds twice.
    """
    kinds = ("leaky_relu", "tanh") if device.check else KINDS
    options = case.attributes | {"precision": "bf16"}
    forward, backward = Problem(FORWARD[0], case), Problem(DATA[0], case)
    for kind, problem in product(kinds, (forward, backward)):
        gradient = problem is backward
        if gradient and kind not in FROM_OUTPUT:
            continue
        x, w, *bias = (None if a is None else a.astype(np.float64) for a in problem.inputs)
        x, w = rounded(x, "bf16"), rounded(w, "bf16")
        expected, magnitude = np.zeros(problem.result), np.zeros(problem.result)
        twin = getattr(reference, problem.operator)
        twin(x, w, *bias, expected, **case.attributes)
        twin(np.abs(x), np.abs(w), *(abs(b) for b in bias), magnitude, **case.attributes)
        allowed = sum_bound(problem.terms) * magnitude
        rng = np.random.default_rng(3)
        given = half_numbers(rng, *problem.result)
        given = rounded(given / (1 + np.abs(given)), "bf16")
        end, arrays = {"activation": kind, "slope": 1.0}, []
        if gradient:
            arrays = [upload_half(device, given)]
            ones, slopes = np.ones(problem.result), np.zeros(problem.result)
            reference.activation_backward(
                None, given.astype(float), ones, slopes, kind=kind, slope=1.0
            )
            expected, allowed = expected * slopes, allowed * np.abs(slopes)
        else:
            z = expected.copy()
            reference.activation_forward(z, expected, kind=kind, slope=1.0)
            # A sum of its own would be rounded, then activated, then rounded; no slope passes 1.
            allowed = stored(z, allowed) + 16 * gamma(1) * (1 + np.abs(z))
        size = device.ops.workspace_size(
            problem.operator,
            *problem.shapes,
            dtypes=("uint16", "uint16", *("float32" for _ in bias), "uint16"),
            **options,
        )
        out = poisoned_as(device, True, *problem.result)
        inputs = [upload_half(device, a.astype(np.float32)) for a in (x, w)]
        inputs += [upload(device, a) for a in problem.inputs[2:]]
        workspace = poisoned(device, size) if size else None
        run = getattr(device.ops, problem.operator)
        run(*inputs, out, *arrays, **options, **end, workspace=workspace)
        limit = stored(expected, allowed + 4 * gamma(1) * np.abs(expected))
        assert_close(read_half(out), expected, limit, f"{problem.operator} {kind}")


def test_stored_numbers_are_rounded_to_nearest(device: Any) -> None:
    """Sums that float32 holds exactly: ties go to the even neighbour, both signs, infinities."""
    steps = np.arange(-6, 7) * 2.0**-9
    finite = np.concatenate([1 + steps, -3 - 4 * steps, [0.0]]).astype(np.float32)
    largest = np.float32((2 - 2**-7) * 2.0**127)
    first = np.concatenate([rounded(finite, "bf16"), [largest, -largest]])
    x = np.zeros((1, 1, first.size, 8), np.float32)
    x[0, 0, :, 0] = first
    x[0, 0, :, 1] = np.concatenate([finite - first[:-2], [2.0**119, -(2.0**119)]])
    exact = (x[..., 0].astype(np.float64) + x[..., 1]).astype(np.float32)
    y = poisoned_as(device, True, 1, 1, first.size, 8)
    w = upload_half(device, np.ones((8, 1, 1, 8), np.float32))
    options = {"stride": (1, 1), "pad": (0, 0), "dilation": (1, 1), "groups": 1}
    device.ops.convolution_forward(upload_half(device, x), w, None, y, **options, precision="bf16")
    wanted = np.repeat(rounded(exact, "bf16")[..., None], 8, axis=-1)
    assert np.isinf(wanted).any()
    assert_same_bits(read_half(y) + np.float32(0), wanted + np.float32(0))


def test_arrays_are_rounded_as_the_twin_rounds_them(device: Any) -> None:
    rng = np.random.default_rng(7)
    ties = (np.arange(64, dtype=np.uint32) * 0x8000 + 0x3F7FC000).view(np.float32)
    special = np.array([np.inf, -np.inf, 0.0, -0.0, 1e-41, np.finfo(np.float32).max], np.float32)
    x = np.concatenate([ties, -ties, special, numbers(rng, 997)])
    for start in (0, 1):
        source = upload(device, np.concatenate([x[:start], x]))[start:]
        y, twin = poisoned_as(device, True, x.size), np.empty(x.size, np.uint16)
        device.ops.to_bf16(source, y)
        reference.to_bf16(x, twin)
        assert_same_bits(np.asarray(y), twin)
        values = np.empty_like(x)
        reference.to_bf16(x, values)
        assert_same_bits(read_half(y), values)
    not_a_number = poisoned_as(device, True, 1)
    device.ops.to_bf16(upload(device, np.full(1, np.nan, np.float32)), not_a_number)
    assert np.isnan(read_half(not_a_number)).all()
    with pytest.raises(ValueError, match="to_bf16"):
        device.ops.to_bf16(source, device.zeros((3,), np.uint16))


def test_activations_of_bf16_arrays(device: Any) -> None:
    rng = np.random.default_rng(1)
    kinds = ("leaky_relu",) if device.check else KINDS
    for kind, size in product(kinds, (1, 37, 1024)):
        x, dy = half_numbers(rng, size), half_numbers(rng, size)
        y, dx = poisoned_as(device, True, size), upload_half(device, half_numbers(rng, size))
        start = read_half(dx).astype(np.float64)
        device.ops.activation_forward(upload_half(device, x), y, kind=kind, slope=0.3)
        expected, gradient = np.zeros(size), np.zeros(size)
        reference.activation_forward(x.astype(float), expected, kind=kind, slope=0.3)
        limit = stored(expected, 16 * gamma(1) * np.abs(expected))
        assert_close(read_half(y), expected, limit, kind)
        device.ops.activation_backward(
            None, y, upload_half(device, dy), dx, kind=kind, slope=0.3, accumulate=True
        )
        output = read_half(y).astype(np.float64)
        reference.activation_backward(
            None, output, dy.astype(float), gradient, kind=kind, slope=0.3
        )
        size_of = np.abs(gradient) + np.abs(start) + np.abs(dy)
        limit = stored(start + gradient, 16 * gamma(1) * size_of)
        assert_close(read_half(dx), start + gradient, limit, kind)


@pytest.mark.parametrize(("of_x", "of_y"), ((True, True), (False, True), (True, False)))
@pytest.mark.parametrize("shape", ((3, 5, 2, 8), (9100, 24)), ids=("one launch", "two launches"))
def test_batch_norm(device: Any, shape: tuple[int, ...], of_x: bool, of_y: bool) -> None:
    """What the float32 kernels compute of the same numbers, rounded once; statistics and gradients
    per channel, which may be added up in another order, stay float32."""
    channels, rows = shape[-1], int(np.prod(shape[:-1]))
    more = of_x and of_y and rows < 1000 and not device.check
    kinds = ("leaky_relu", None) if more else ("leaky_relu",)
    for kind in kinds:
        rng = np.random.default_rng(5)
        x, dy = half_numbers(rng, *shape) + np.float32(of_x), half_numbers(rng, *shape)
        x, vectors = rounded(x, "bf16"), [numbers(rng, channels) for _ in range(2)]
        attributes = {"eps": 1e-3, "fix_gamma": False, "activation": kind, "slope": 0.25}
        start = half_numbers(rng, *shape)
        found = []
        for x_half, y_half in ((False, False), (of_x, of_y)):
            to_x, to_y = (upload_half if half else upload for half in (x_half, y_half))
            y, dx = poisoned_as(device, y_half, *shape), to_x(device, start)
            inference = poisoned_as(device, y_half, *shape)
            mean, var, dgamma, dbeta = (poisoned(device, channels) for _ in range(4))
            arguments = to_x(device, x), *(upload(device, v) for v in vectors)
            for name, *arrays in (
                ("batch_norm_forward_training", y, mean, var),
                ("batch_norm_backward", mean, var, to_y(device, dy), dx, dgamma, dbeta),
            ):
                options = dict(attributes)
                if name.endswith("backward"):
                    options |= {"use_global_stats": False, "accumulate": True}
                size = device.ops.workspace_size(name, shape, *[a.shape for a in arrays])
                workspace = poisoned(device, size) if size else None
                getattr(device.ops, name)(*arguments, *arrays, **options, workspace=workspace)
            moving = (upload(device, np.full(channels, value, np.float32)) for value in (0.5, 2))
            device.ops.batch_norm_forward_inference(*arguments, *moving, inference, **attributes)
            results = (y, dx, inference, mean, var, dgamma, dbeta)
            found.append([read(array).astype(np.float64) for array in results])
        steps = 2 * (112 + rows // 32)  # of both sums' rounding: test_batch_norm.py
        sizes = [np.abs(x).max() ** 2, rows**0.5 * 4, 8, 4, 4, 4 * rows, 4 * rows]
        names = ("y", "dx", "inference", "mean", "var", "dgamma", "dbeta")
        half = (of_y, of_x, of_y, False, False, False, False)
        for name, one, other, is_half, size in zip(names, *found, half, sizes, strict=True):
            allowed = gamma(steps) * size
            assert_close(other, one, stored(one, allowed) if is_half else allowed, f"{name} {kind}")


def test_batch_norm_of_channels_that_are_no_fours_is_refused(device: Any) -> None:
    x, y = device.zeros((6, 7), np.uint16), device.zeros((6, 7), np.uint16)
    vectors = [device.zeros((7,)) for _ in range(4)]
    with pytest.raises(ValueError, match=r"channels \(here 7\) in fours"):
        device.ops.batch_norm_forward_training(
            x, *vectors[:2], y, *vectors[2:], eps=1e-3, fix_gamma=False
        )


def test_gradient_of_a_bias(device: Any) -> None:
    rng = np.random.default_rng(2)
    for rows, channels in ((1, 8), (700, 40)):
        dy = half_numbers(rng, rows, channels)
        size = device.ops.workspace_size("bias_backward", dy.shape, (channels,))
        dbias = poisoned(device, channels)
        workspace = poisoned(device, size) if size else None
        device.ops.bias_backward(upload_half(device, dy), dbias, workspace=workspace)
        allowed = gamma(rows) * np.abs(dy).astype(np.float64).sum(axis=0)
        assert_close(dbias, dy.astype(np.float64).sum(axis=0), allowed)


@pytest.mark.parametrize(
    ("operator", "case", "halves", "precision"),
    [
        (FORWARD[0], replace(GROUPED, large_channels=12), [1, 1, 0, 1], "bf16"),
        (FORWARD[0], replace(GROUPED, small_channels=3), [0, 0, 0, 1], "bf16"),
        (FORWARD[0], GROUPED, [1, 0, 0, 1], "bf16"),
        (FORWARD[0], GROUPED, [0, 1, 0, 0], "bf16"),
        (FORWARD[0], GROUPED, [1, 1, 0, 1], "tf32"),
        (WEIGHT[0], GROUPED, [1, 1, 1], "bf16"),
        (WEIGHT[0], GROUPED, [0, 1, 0], "bf16"),
        (DATA[0], IMAGE, [1, 1, 0], "bf16"),
    ],
)
def test_what_no_kernel_takes_is_refused(
    device: Any, operator: str, case: Case, halves: list[int], precision: str
) -> None:
    """Never read as if it were something else."""
    problem = Problem(operator, case)
    arrays = [
        None if shape is None else device.zeros(shape, np.uint16 if half else np.float32)
        for shape, half in zip(problem.shapes, halves, strict=True)
    ]
    with pytest.raises(ValueError, match=rf"{operator}: with precision '{precision}' no kernel"):
        getattr(device.ops, operator)(*arrays, **case.attributes, precision=precision)
    if precision == "bf16":
        dtypes = ["uint16" if half else "float32" for half in halves]
        options = case.attributes | {"precision": precision, "dtypes": dtypes}
        with pytest.raises(ValueError, match=operator):
            device.ops.workspace_size(operator, *problem.shapes, **options)


def test_addresses_between_units_are_refused(device: Any) -> None:
    problem = Problem(FORWARD[0], GROUPED)
    x, w, _, y = (device.zeros(shape or (1,), np.uint16) for shape in problem.shapes)
    moved = device.zeros((x.size + 8,), np.uint16)[4 : 4 + x.size].reshape(x.shape)
    with pytest.raises(ValueError, match="begins 8 bytes behind a multiple"):
        device.ops.convolution_forward(moved, w, None, y, **GROUPED.attributes, precision="bf16")


def test_shared_memory_fits_small_gpus() -> None:
    for kind, each in product(("forward", "backward_data", "backward_weight"), TILES_OF_HALVES):
        assert tensor_core.shared_bytes(kind, each, halves=True) <= 99 * 1024


def test_half_the_bytes_are_predicted_to_take_less_time() -> None:
    """A layer of DCGAN-64 at batch 64, which the bytes through the cache decide."""
    layer = Product(64 * 64, 256, 16 * 128, 1)
    predicted = tensor_core.predicted_microseconds
    floats = predicted(tensor_core.tiles_for("bf16", layer), "bf16", layer)
    tiles = tensor_core.candidates_of_halves(layer, result=True)[0]
    assert predicted(tiles, "bf16", layer, operand_bytes=2, result_bytes=2) < 0.7 * floats


def test_a_gpu_gets_matrices_at_once_and_no_conversions() -> None:
    nvcc = compiler.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc; `pip install pygan[nvcc]` or nvcc_report --fetch brings one")
    path = compiler.kernels_dir() / tensor_core.FILE
    flags = ["-ptx", "-arch=sm_80", "-std=c++17", "-DPRECISION=bf16", "-DELEMENT=Bf16"]
    text = compiler.run_nvcc(nvcc, path, [*flags, "-DTILE_M=64"], [path.parent])[0].decode()
    entries = text.split(".visible .entry ")[1:]
    assert len(entries) == 3
    for entry in entries:
        assert "ldmatrix.sync.aligned.m8n8.x4" in entry
        assert "cp.async.cg.shared.global" in entry and "cp.async.ca.shared.global" not in entry
        assert "cvt.rn.bf16x2.f32" not in entry  # the result is float32
    assert all(".trans" in entry for entry in entries if "_forward_" not in entry.split("(")[0])
