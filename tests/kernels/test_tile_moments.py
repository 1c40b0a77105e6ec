"""Convolutions whose tiles leave the moments of their channels, and the batch norm that merges
them: the result's bits, the statistics of what was stored, and those of the twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convolution_cases import Case, Problem, cases
from halves import half_numbers, poisoned_as, read, upload_half
from hypothesis import strategies as st

from pygan import reference
from support import (
    assert_close,
    assert_same_bits,
    examples_for,
    for_all,
    gamma,
    numbers,
    poisoned,
    upload,
)

FORWARD = ("convolution_forward", "transposed_convolution_forward")
EPS = 2.0**-10
PATH = 256
"""Roundings between a number and its channel's sum, at most: 32 lines of a thread, lanes, warps,
and as many merges as there are tiles here."""


def prepared(device: Any, operator: str, case: Case, offset: float, half: bool) -> list[Any]:
    """Arrays of an operator's inputs; the bias has a mean of `offset`, so that the result has."""
    problem = Problem(operator, case)
    x, w, bias = problem.inputs
    w /= np.sqrt(w[0].size)
    if bias is not None:
        bias += np.float32(offset)
    if not half:
        return [upload(device, a) for a in (x, w, bias)]
    rng = np.random.default_rng(case.seed)
    halves = [upload_half(device, half_numbers(rng, *a.shape)) for a in (x, w)]
    return [*halves, upload(device, bias)]


def tiles_of(operator: str, arrays: Any, result: Any, options: dict[str, Any]) -> int:
    """How many tiles leave moments, and the tests of their own account for."""
    from pygan.bindings.operators.plans.choice import plan_of
    from pygan.bindings.operators.tile_moments import tiles_of_moments

    shapes = [None if a is None else a.shape for a in arrays] + [result.shape]
    dtypes = [None if a is None else str(a.dtype) for a in (*arrays, result)]
    stored = {"dtypes": dtypes} if "uint16" in dtypes else {}
    return tiles_of_moments(plan_of(operator, shapes, **options, **stored), result.shape[-1])


def check(
    device: Any, operator: str, case: Case, offset: float = 0.0, half: bool = False, **more: Any
) -> int:
    """Returns how many tiles left moments."""
    arrays = prepared(device, operator, case, offset, half)
    shape = Problem(operator, case).result
    options = case.attributes | more
    what = f"{operator} {case} {more}"
    y, whole = (poisoned_as(device, half, *shape) for _ in range(2))
    run = getattr(device.ops, operator)
    tiles, channels = tiles_of(operator, arrays, y, options), shape[-1]
    if not tiles:
        with pytest.raises(ValueError, match="these shapes leave none; ask left_moments"):
            run(*arrays, y, None, poisoned(device, 2 * channels + 1), **options)
        return 0
    moments, again = (poisoned(device, tiles * (2 * channels + 1)) for _ in range(2))
    run(*arrays, y, None, moments, **options)
    run(*arrays, whole, **options)
    assert_same_bits(np.asarray(y), np.asarray(whole), what)
    run(*arrays, y, None, again, **options)
    assert_same_bits(np.asarray(moments), np.asarray(again), f"{what}, again")

    rows = read(y).reshape(-1, channels).astype(np.float64)
    counts = np.asarray(moments)[2 * tiles * channels :]
    assert counts.sum() == len(rows) and (counts >= 0).all(), what
    mean, var, errors = exact_statistics(rows)
    twin_mean, twin_var = np.empty(channels, np.float32), np.empty(channels, np.float32)
    check_normalised(device, y, moments, rows, what)
    reference.batch_norm_forward_training(
        *(read(y), np.ones(channels, np.float32), np.zeros(channels, np.float32)),
        *(np.empty(shape, np.float32), twin_mean, twin_var, None, None, np.asarray(moments)),
        **{"eps": EPS, "fix_gamma": False},
    )
    assert_close(twin_mean, mean, errors[0], f"mean by the twin, {what}")
    assert_close(twin_var, var, errors[1], f"var by the twin, {what}")
    return tiles


def exact_statistics(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[Any, Any]]:
    """Mean, variance, and their errors allowed. A tile's mean is rounded once, as is the whole's,
    and everything else is relative to them; what it is off by, the deviations of all its pixels
    from the whole mean are."""
    mean, var = rows.mean(axis=0), rows.var(axis=0)
    spread = np.abs(rows - mean).max(axis=0)
    of_mean = gamma(4) * np.abs(rows).max(axis=0) + gamma(PATH) * spread
    of_var = gamma(PATH) * spread**2 + 2 * of_mean * np.sqrt(var) + of_mean**2
    return mean, var, (of_mean, of_var)


def check_normalised(device: Any, x: Any, moments: Any, rows: np.ndarray, what: str) -> None:
    """Batch norm of x by these moments, against that of `rows` by float64."""
    channels = rows.shape[1]
    rng = np.random.default_rng(channels)
    scale, beta = numbers(rng, channels), numbers(rng, channels)
    mean, var = poisoned(device, channels), poisoned(device, channels)
    y = poisoned_as(device, x.dtype == np.uint16, *x.shape)
    given = (upload(device, scale), upload(device, beta), y, mean, var, None, None, moments)
    attributes = {"eps": EPS, "fix_gamma": False, "activation": "relu"}
    device.ops.batch_norm_forward_training(x, *given, **attributes)

    exact_mean, exact_var, (of_mean, of_var) = exact_statistics(rows)
    assert_close(mean, exact_mean, of_mean, f"mean, {what}")
    assert_close(var, exact_var, of_var, f"var, {what}")
    check_merged(device, x, given[:2], moments, (exact_mean, exact_var, of_mean, of_var), what)
    deviation = np.sqrt(exact_var + EPS)
    xhat = (rows - exact_mean) / deviation
    of_xhat = (of_mean + gamma(3) * np.abs(rows)) / deviation
    of_xhat += np.abs(xhat) * (of_var / (exact_var + EPS) + gamma(8))
    z = xhat * scale + beta
    allowed = np.abs(scale) * of_xhat + gamma(2) * (np.abs(xhat * scale) + np.abs(beta))
    if x.dtype == np.uint16:
        allowed = allowed + 2.0**-8 * (np.abs(z) + allowed)
    assert_close(read(y).reshape(rows.shape), np.maximum(z, 0), allowed, f"y, {what}")


def check_merged(
    device: Any, x: Any, parameters: Any, moments: Any, exact: tuple[Any, ...], what: str
) -> None:
    """The batch norm without a normalising pass, which does not read x."""
    exact_mean, exact_var, of_mean, of_var = exact
    channels = len(exact_mean)
    mean, var = poisoned(device, channels), poisoned(device, channels)
    left = poisoned(device, channels, 4)
    given = (*parameters, mean, var, left, None, None, moments)
    device.ops.batch_norm_normalisation_training(x, *given, eps=EPS, fix_gamma=False)
    assert_close(mean, exact_mean, of_mean, f"mean, merged alone, {what}")
    assert_close(var, exact_var, of_var, f"var, merged alone, {what}")
    inverse = 1 / np.sqrt(np.asarray(var, np.float64) + EPS)
    columns = np.stack([np.asarray(mean), inverse, *map(np.asarray, parameters)], axis=1)
    assert_close(left, columns, gamma(4) * np.abs(columns), f"normalisation, {what}")


ONE, TWO = (1, 1), (2, 2)
SHAPES = {
    # Of the large side and the small one, with the channels of each as the last two.
    "several tiles, the last not full": Case(3, (17, 15), (3, 3), ONE, ONE, ONE, 1, 12, 12),
    "wide tiles": Case(5, (12, 12), (3, 3), ONE, ONE, ONE, 1, 4, 132),
    "phases": Case(2, (10, 10), (4, 4), TWO, ONE, ONE, 1, 20, 8),
    "phases of other sizes": Case(3, (13, 9), (3, 3), TWO, (0, 1), ONE, 1, 8, 8),
    "phases without pixels": Case(9, (1, 1), (1, 1), TWO, (0, 0), ONE, 1, 8, 12),
    "phases without taps": Case(2, (9, 9), (1, 1), TWO, (0, 0), ONE, 1, 12, 8),
    "groups": Case(2, (11, 12), (3, 3), TWO, ONE, ONE, 3, 8, 36),
    "no bias": Case(2, (9, 9), (3, 3), ONE, ONE, ONE, 1, 8, 40, bias=False),
    "channels not in fours behind": Case(2, (10, 10), (3, 3), ONE, ONE, ONE, 1, 3, 36),
}


@pytest.mark.parametrize("name", SHAPES)
def test_float32(device: Any, name: str) -> None:
    tiles = check(device, FORWARD["phases" in name], SHAPES[name])
    assert tiles == 4 if name == "phases without pixels" else tiles
    check(device, FORWARD["phases" not in name], SHAPES[name])


@pytest.mark.parametrize("operator", FORWARD)
def test_mean_far_from_zero(device: Any, operator: str) -> None:
    """Deviations of about 1 around 1e4 survive."""
    assert check(device, operator, SHAPES["several tiles, the last not full"], offset=1e4) > 1
    check(device, operator, SHAPES["phases"], offset=1e4)


@pytest.mark.parametrize("operator", FORWARD)
def test_a_batch_norm_on_the_way_in(device: Any, operator: str) -> None:
    """What a convolution normalises on the way in does not stand in the way of its own moments."""
    case = replace(SHAPES["phases" if operator == FORWARD[1] else "groups"], groups=1)
    arrays, shape = (
        prepared(device, operator, case, 1e4, half=False),
        Problem(operator, case).result,
    )
    of_input = upload(device, np.abs(numbers(np.random.default_rng(3), arrays[0].shape[-1], 4)))
    given = case.attributes | {"x_activation": "leaky_relu", "x_slope": 0.25}
    y, whole = poisoned(device, *shape), poisoned(device, *shape)
    tiles, channels = tiles_of(operator, arrays, y, case.attributes), shape[-1]
    moments = poisoned(device, tiles * (2 * channels + 1))
    run = getattr(device.ops, operator)
    run(*arrays, y, of_input, moments, **given)
    run(*arrays, whole, of_input, **given)
    assert_same_bits(np.asarray(y), np.asarray(whole), operator)
    rows = read(y).reshape(-1, channels).astype(np.float64)
    check_normalised(device, y, moments, rows, operator)
    one_channel = replace(case, large_channels=6, small_channels=36)  # 4-byte copies
    arrays = prepared(device, FORWARD[0], one_channel, 0.0, half=False)
    with pytest.raises(ValueError, match="these shapes leave none"):
        y, c = poisoned(device, *one_channel.small), poisoned(device, 6, 4)
        device.ops.convolution_forward(*arrays, y, c, moments, **one_channel.attributes)


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """Tensor cores then have the tile of that place in a list alone: small layers would take the
    narrowest."""
    from pygan.bindings.operators.plans import tensor_core
    from pygan.bindings.operators.plans.choice import plan_of_sides

    def alone(name: str, place: int) -> None:
        monkeypatch.setattr(tensor_core, name, (getattr(tensor_core, name)[place],))
        plan_of_sides.cache_clear()

    yield alone
    plan_of_sides.cache_clear()


def test_tensor_cores(device: Any, tiles: Callable[[str, int], None]) -> None:
    wide, options = Case(2, (12, 12), (3, 3), ONE, ONE, ONE, 1, 8, 72), {"precision": "tf32"}
    assert not check(device, FORWARD[0], replace(wide, small_channels=8), **options)
    tiles("TILES", 1)
    assert check(device, FORWARD[0], wide, 1e4, **options) == 3
    phases = Case(2, (15, 11), (3, 3), TWO, ONE, ONE, 1, 64, 8)
    assert check(device, FORWARD[1], phases, **options) == 4
    groups = replace(wide, groups=2, large_channels=5, small_channels=12, seed=1)
    assert check(device, FORWARD[0], groups, **options) == 3


def test_arrays_of_bf16(device: Any, tiles: Callable[[str, int], None]) -> None:
    """The moments are those of the numbers as they are stored."""
    case, options = Case(3, (11, 13), (3, 3), ONE, ONE, ONE, 1, 8, 72), {"precision": "bf16"}
    largest = not device.check  # of 256 x 128, by 8 warps
    tiles("TILES_OF_HALVES", 0 if largest else -1)
    assert check(device, FORWARD[0], case, 100.0, half=True, **options) == (2 if largest else 7)
    case = replace(case, stride=TWO, small_channels=24)
    assert check(device, FORWARD[1], case, half=True, **options) >= 4


def test_the_result_alone_in_bf16(device: Any, tiles: Callable[[str, int], None]) -> None:
    tiles("TILES", 2)
    case = Case(2, (12, 12), (3, 3), ONE, ONE, ONE, 1, 8, 64)
    arrays = prepared(device, FORWARD[0], case, 0.0, half=False)
    options = case.attributes | {"precision": "bf16"}
    y = poisoned_as(device, True, *case.small)
    count = tiles_of(FORWARD[0], arrays, y, options)
    moments = poisoned(device, count * 129)
    device.ops.convolution_forward(*arrays, y, None, moments, **options)
    check_normalised(device, y, moments, read(y).reshape(-1, 64).astype(np.float64), "bf16")


@st.composite
def in_fours(draw: st.DrawFn) -> tuple[str, Case]:
    """Channels of the pipelined kernel, of few enough taps that the depth is not cut."""
    case = draw(cases())
    fours = st.sampled_from((4, 8, 12, 36))
    case = replace(case, large_channels=draw(fours), small_channels=draw(fours))
    while case.products > 400_000 and case.batch > 1:
        case = replace(case, batch=case.batch - 1)
    return draw(st.sampled_from(FORWARD)), case


def test_any_shape(device: Any) -> None:
    left: list[int] = []
    for_all(in_fours(), examples_for(device, 16), lambda one: left.append(check(device, *one)))
    assert sum(map(bool, left)) > len(left) // 2


def test_parts_of_any_size(device: Any) -> None:
    """Batch norm merges what it is given: parts of other sizes, and empty ones that hold NaN."""

    def merges(case: tuple[int, list[int], float, int]) -> None:
        channels, sizes, offset, seed = case
        rng = np.random.default_rng(seed)
        rows = numbers(rng, max(1, sum(sizes)), channels) + np.float32(offset)
        sizes = sizes if sum(sizes) else [*sizes, 1]
        parts = np.split(rows.astype(np.float64), np.cumsum(sizes)[:-1])
        empty = np.full(channels, np.nan)
        means = [p.mean(axis=0) if len(p) else empty for p in parts]
        squares = [np.square(p - p.mean(axis=0)).sum(axis=0) if len(p) else empty for p in parts]
        given = np.concatenate([*means, *squares, sizes]).astype(np.float32)
        exact = rows.astype(np.float64)
        check_normalised(device, upload(device, rows), upload(device, given), exact, str(case))

    sizes = st.lists(st.sampled_from((0, 1, 2, 7, 128)), min_size=1, max_size=40)
    drawn = st.tuples(
        st.sampled_from((1, 3, 4, 12, 24)), sizes, st.sampled_from((0.0, 1e4)), st.integers(0, 99)
    )
    for_all(drawn, examples_for(device, 20), merges)


@pytest.mark.parametrize("precision", ("float32", "tf32", "bf16"))
def test_twins_leave_moments(precision: str) -> None:
    for operator in FORWARD:
        case = Case(2, (5, 5), (3, 3), TWO, ONE, ONE, 1, 3, 4)
        problem = Problem(operator, case)
        run, channels = getattr(reference, operator), problem.result[-1]
        y, whole = (np.empty(problem.result, np.float32) for _ in range(2))
        moments = np.full(3 * (2 * channels + 1), np.nan, np.float32)
        attributes = case.attributes | {"precision": precision}
        run(*problem.inputs, y, None, moments, **attributes)
        run(*problem.inputs, whole, **attributes)
        np.testing.assert_array_equal(y, whole)
        results = []
        for more in ((), (None, None, moments)):
            out = [np.empty(problem.result, np.float32), *np.empty((2, channels), np.float32)]
            c = np.ones(channels, np.float32)
            attributes = {"eps": EPS, "fix_gamma": False}
            reference.batch_norm_forward_training(y, c, c, *out, *more, **attributes)
            results.append(out)
        for one, two in zip(*results, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_what_does_not_go_together_is_refused(device: Any) -> None:
    case = SHAPES["no bias"]
    for ops, make in ((device.ops, lambda a: upload(device, a)), (reference, np.array)):
        arrays = [None if a is None else make(a) for a in Problem(FORWARD[0], case).inputs]
        y, moments = make(np.zeros(case.small, np.float32)), make(np.zeros(81 * 9, np.float32))
        run, attributes = ops.convolution_forward, case.attributes
        for more in ({"activation": "relu"}, {"accumulate": True}, {"in_slices": True}):
            with pytest.raises(ValueError, match="moments are those of a finished sum"):
                run(*arrays, y, None, moments, **attributes, **more)
        with pytest.raises(ValueError, match=r"moments has shape \(728,\)"):
            run(*arrays, y, None, moments[:-1], **attributes)
        c = make(np.zeros(40, np.float32))
        given = (y, c, c, y, c, c)
        with pytest.raises(ValueError, match=r"moments .*, and not in slices"):
            slices = make(np.zeros((1, *case.small), np.float32))
            ops.batch_norm_forward_training(*given, slices, None, moments, eps=EPS, fix_gamma=True)
        with pytest.raises(ValueError, match=r"moments has .*728.* a multiple of 81"):
            wrong = moments[:-1]
            ops.batch_norm_forward_training(*given, None, None, wrong, eps=EPS, fix_gamma=True)
    shifted = poisoned(device, 1 + int(np.prod(case.small)))[1:].reshape(case.small)
    arrays = prepared(device, FORWARD[0], case, 0.0, half=False)
    tiles = tiles_of(FORWARD[0], arrays, shifted, case.attributes)
    with pytest.raises(ValueError, match="multiples of 16 bytes leave no moments"):
        device.ops.convolution_forward(
            *arrays, shifted, None, poisoned(device, tiles * 81), **case.attributes
        )


def test_left_moments_are_those_that_gain(device: Any) -> None:
    """DCGAN's layers before a batch norm, as the model has them."""
    from pygan.bindings.operators import moments

    name, one = FORWARD[0], {"pad": ONE, "dilation": ONE, "groups": 1, "stride": TWO}
    many = ((64, 32, 32, 64), (128, 4, 4, 64), None, (64, 16, 16, 128))
    assert device.ops.left_moments(name, *many, **one) == 128 * 257
    deep = ((64, 8, 8, 256), (512, 4, 4, 256), None, (64, 4, 4, 512))
    assert device.ops.left_moments(name, *deep, **one) == 0
    stored = {"precision": "bf16", "dtypes": ["uint16", "uint16", None, "uint16"]}
    assert device.ops.left_moments(name, *many, **one, **stored) == 128 * 257
    few = ((1, 16, 16, 8), (8, 3, 3, 8), None, (1, 8, 8, 8))
    assert device.ops.left_moments(name, *few, **one) == 0
    for ops in (device.ops, reference):
        with pytest.raises(ValueError, match="'add_forward' is not one of"):
            ops.left_moments("add_forward", (3,), (3,))
    assert reference.left_moments(name, *many, **one) == 0

    class Tiles:
        grid, sums, threads = (128, 1, 1), 128, 128

    # a launch of 2 us and a read of 8.4 MB, against 4.5 MB to merge, and 1462 cycles
    assert moments.saved_microseconds(16384, 128, 128, Tiles) == pytest.approx(2.16, abs=0.01)
    # tiles of 64 pixels with 16 channels have little to merge for
    Tiles.grid = (8192, 1, 1)
    assert moments.saved_microseconds(2**19, 16, 8192, Tiles) < 0
    # nothing is normalised, so blocks of no rows have to merge: a launch and a read, less the tiles
    Tiles.grid = (128, 1, 1)
    assert moments.saved_microseconds(16384, 128, 128, Tiles, merged=True) > 2.9
