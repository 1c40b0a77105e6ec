"""The batch normalisation kernels against their twin."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

from pygan import reference
from support import (
    assert_close,
    assert_same_bits,
    check_write_and_accumulate,
    examples_for,
    for_all,
    gamma,
    numbers,
    poisoned,
    upload,
    workspace_for,
)

KINDS = (None, "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus")
KINKED = ("relu", "leaky_relu")
EPS = 2.0**-10  # float32 holds it, so that both sides compute with the same
SLOPE = 0.25


def path(rows: int) -> int:
    """Roundings between a row and its channel's sum.

    A thread takes at most rows / 32 rows beyond its first 8 (32 threads or more share a channel),
    with at most one rounding each (4 per merged batch of 4 or 8 rows); then come the block, the
    splits, and the last product: under 112.
    """
    return 112 + rows // 32


class Case(NamedTuple):
    """x (*leading, C), with a mean of `offset` deviations. `shift`: floats between a multiple of 16
    bytes and the arrays, which decides how many channels a thread takes at once."""

    leading: tuple[int, ...]
    channels: int
    offset: float
    kind: str | None
    fix_gamma: bool
    seed: int
    shift: int = 0

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "eps": EPS,
            "fix_gamma": self.fix_gamma,
            "activation": self.kind,
            "slope": SLOPE,
        }


class Arrays(NamedTuple):
    x: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    dy: np.ndarray


def draw(case: Case) -> Arrays:
    rng = np.random.default_rng(case.seed)
    x = numbers(rng, *case.leading, case.channels) + np.float32(case.offset)
    return Arrays(
        x,
        numbers(rng, case.channels),
        numbers(rng, case.channels),
        numbers(rng, *case.leading, case.channels),
    )


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(a).astype(np.float64) for a in arrays]


def normalised(a: Arrays, case: Case, mean: Any, var: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """xhat, the activation's input z, and the size |gamma xhat| + |beta| of z's terms."""
    x, scale, beta, mean, var = wide(a.x, a.gamma, a.beta, mean, var)
    scale = np.ones_like(scale) if case.fix_gamma else scale
    xhat = (x - mean) / np.sqrt(var + EPS)
    return xhat, xhat * scale + beta, np.abs(xhat * scale) + np.abs(beta)


def shifted(device: Any, host: np.ndarray, shift: int) -> Any:
    """A copy of host on the device, `shift` floats into a buffer of its own."""
    buffer = poisoned(device, shift + host.size)
    view = buffer[shift:].reshape(host.shape)
    view[...] = host
    return view


def forward(device: Any, case: Case, a: Arrays) -> tuple[Any, Any, Any, Any]:
    shape, channels = a.x.shape, (case.channels,)
    scale = upload(device, a.gamma)
    y = shifted(device, np.full(shape, np.nan, np.float32), case.shift)
    mean, var = poisoned(device, *channels), poisoned(device, *channels)
    workspace = workspace_for(
        device,
        "batch_norm_forward_training",
        shape,
        *[channels] * 2,
        shape,
        *[channels] * 2,
        **case.attributes,
    )
    device.ops.batch_norm_forward_training(
        shifted(device, a.x, case.shift),
        scale,
        upload(device, a.beta),
        y,
        mean,
        var,
        **case.attributes,
        workspace=workspace,
    )
    return y, mean, var, scale


def check_forward(device: Any, case: Case) -> None:
    a = draw(case)
    rows = a.x.reshape(-1, case.channels)
    y, mean, var, scale = forward(device, case, a)

    # The kernel sums relative to the channel's first value, and rounds the mean once at the end.
    exact = rows.astype(np.float64)
    relative = exact - exact[0]
    error = gamma(path(len(rows)))
    exact_mean = exact.mean(axis=0)
    assert_close(
        mean,
        exact_mean,
        error * np.abs(relative).mean(axis=0) + gamma(1) * np.abs(exact_mean),
        "mean",
    )
    assert_close(var, exact.var(axis=0), error * (relative**2).mean(axis=0), "variance")
    expected_gamma = np.ones_like(a.gamma) if case.fix_gamma else a.gamma
    assert_same_bits(np.asarray(scale), expected_gamma, "gamma")

    # From here on, given the device's own statistics.
    check_output(device, case, a, y, mean, var)

    again, mean_again, var_again, _ = forward(device, case, a)
    for one, other in ((y, again), (mean, mean_again), (var, var_again)):
        assert_same_bits(np.asarray(one), np.asarray(other), "repeated")


def check_output(device: Any, case: Case, a: Arrays, y: Any, mean: Any, var: Any) -> None:
    expected = np.empty(a.x.shape)
    x, scale, beta, mean, var = wide(a.x, a.gamma, a.beta, mean, var)
    reference.batch_norm_forward_inference(x, scale, beta, mean, var, expected, **case.attributes)
    _, _, size = normalised(a, case, mean, var)
    # z: a difference, three roundings in 1 / sqrt(var + eps), two products, one fma. No activation
    # here is steeper than 1; its own value has at most 12 roundings (test_activation.py).
    assert_close(y, expected, gamma(8) * size + gamma(12) * np.abs(expected), "y")


def check_backward(device: Any, case: Case, use_global_stats: bool) -> None:
    a = draw(case)
    rng = np.random.default_rng(case.seed + 1)
    shape, channels = a.x.shape, (case.channels,)
    rows = a.x.size // case.channels
    mean = a.x.reshape(rows, -1).mean(axis=0) + np.float32(0.25) * use_global_stats
    var = a.x.reshape(rows, -1).var(axis=0) + np.float32(0.5) * use_global_stats
    xhat, z, size = normalised(a, case, mean, var)
    if case.kind in KINKED:
        # rounding may put z on the other side of the kink: no gradient comes from there
        a.dy[np.abs(z) <= gamma(8) * size] = 0

    attributes = {**case.attributes, "use_global_stats": use_global_stats}
    x, scale, beta, dy = wide(*a)
    exact = {"dx": np.empty(shape), "dgamma": np.empty(channels), "dbeta": np.empty(channels)}
    reference.batch_norm_backward(
        x, scale, beta, *wide(mean, var), dy, *exact.values(), **attributes
    )

    slopes = activation_derivative(case.kind, z)
    g = dy * slopes
    # the derivative's own 12 roundings, and what z's error does to it: no second derivative here
    # exceeds 1
    g_error = np.abs(dy) * (gamma(14) * np.abs(slopes) + gamma(8) * size * smooth(case.kind))
    over_rows = tuple(range(a.x.ndim - 1))
    along = gamma(path(rows))
    beta_error = (g_error + along * np.abs(g)).sum(axis=over_rows)
    gamma_error = ((g_error + gamma(6) * np.abs(g)) * np.abs(xhat)).sum(axis=over_rows) + (
        along * np.abs(g * xhat)
    ).sum(axis=over_rows)
    factor = np.abs(np.ones_like(scale) if case.fix_gamma else scale) / np.sqrt(
        var.astype(np.float64) + EPS
    )
    spread = np.abs(g).sum(axis=over_rows) + np.abs(xhat) * np.abs(g * xhat).sum(axis=over_rows)
    dx_error = g_error + gamma(10) * np.abs(g)
    if not use_global_stats:
        dx_error = dx_error + (beta_error + np.abs(xhat) * gamma_error + gamma(10) * spread) / rows
    allowed = {
        "dx": factor * dx_error,
        "dgamma": np.zeros(channels) if case.fix_gamma else gamma_error,
        "dbeta": beta_error,
    }

    inputs = [upload(device, h) for h in (a.x, a.gamma, a.beta, mean, var)]
    inputs.append(shifted(device, a.dy, case.shift))
    workspace = workspace_for(
        device,
        "batch_norm_backward",
        shape,
        *[channels] * 4,
        shape,
        shape,
        *[channels] * 2,
        **attributes,
    )
    modes = {"dx": "accumulate", "dgamma": "accumulate_gamma", "dbeta": "accumulate_beta"}
    for wanted, mode in modes.items():
        # one gradient alone, then all of them: the others may be absent
        for alone in (True, False):

            def launch(
                out: Any,
                accumulate: bool,
                wanted: str = wanted,
                mode: str = mode,
                alone: bool = alone,
            ) -> None:
                outs = {
                    name: None if alone else poisoned(device, *exact[name].shape) for name in exact
                }
                outs[wanted] = out
                device.ops.batch_norm_backward(
                    *inputs,
                    outs["dx"],
                    outs["dgamma"],
                    outs["dbeta"],
                    **attributes,
                    **{mode: accumulate},
                    workspace=workspace,
                )

            check_write_and_accumulate(device, launch, exact[wanted], allowed[wanted], rng, wanted)


def activation_derivative(kind: str | None, z: np.ndarray) -> np.ndarray:
    if kind is None:
        return np.ones_like(z)
    y, dz = np.empty_like(z), np.empty_like(z)
    reference.activation_forward(z, y, kind=kind, slope=SLOPE)
    reference.activation_backward(z, y, np.ones_like(z), dz, kind=kind, slope=SLOPE)
    return dz


def smooth(kind: str | None) -> bool:
    return kind is not None and kind not in KINKED


CHANNELS = {4: (4, 8, 12, 24, 32, 64), 1: (1, 2, 3, 7, 31, 33, 97)}


def cases(device: Any) -> st.SearchStrategy[Case]:
    # images and vectors; channels that are and are not multiples of 4 and of a block's
    leading = st.tuples(st.integers(1, 700)) | st.tuples(
        st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)
    )
    # the activation makes no difference to accesses: few of them one at a time, or in check mode
    few = st.sampled_from((None, "leaky_relu"))
    all_kinds = few if device.check else st.sampled_from(KINDS)
    by_fours = {"channels": st.sampled_from(CHANNELS[4]), "kind": all_kinds}
    misaligned = {"channels": st.sampled_from(CHANNELS[4]), "kind": few}
    odd = {"channels": st.sampled_from(CHANNELS[1]), "kind": few}
    common = {
        "leading": leading,
        "offset": st.sampled_from([0.0, 1e4]),
        "fix_gamma": st.booleans(),
        "seed": st.integers(0, 2**32),
    }
    return (
        st.builds(Case, **common, **by_fours, shift=st.just(0))
        | st.builds(Case, **common, **odd, shift=st.just(0))
        | st.builds(Case, **common, **misaligned, shift=st.integers(1, 3))
    )


def large_cases(device: Any) -> list[Case]:
    """Shapes whose rows are split over blocks, so that there are two launches, by fours and not."""
    split = [
        Case((8200,), 4, 1e4, "leaky_relu", True, 5),
        Case((8200,), 4, 1e4, "leaky_relu", False, 5, shift=1),
    ]
    if not device.check:
        split += [
            Case((40_001,), 1, 0.0, None, False, 6),
            Case((3, 37, 91), 20, 1e4, "leaky_relu", False, 7),
            Case((9001,), 9, 1e4, None, True, 8),
        ]
    return split


def test_training_agrees_with_the_twin(device: Any) -> None:
    for_all(cases(device), examples_for(device, 25), lambda case: check_forward(device, case))


def test_backward_agrees_with_the_twin(device: Any) -> None:
    both = st.tuples(cases(device), st.booleans())
    for_all(both, examples_for(device, 20), lambda case: check_backward(device, *case))


def test_split_channels(device: Any) -> None:
    for case in large_cases(device):
        size = device.ops.workspace_size(
            "batch_norm_forward_training", (*case.leading, case.channels), **case.attributes
        )
        assert size > 0, "this shape is to be split"
        check_forward(device, case)
        check_backward(device, case, use_global_stats=False)


@pytest.mark.parametrize("kind", [None, "leaky_relu"])
@pytest.mark.parametrize("fix_gamma", [True, False])
def test_inference_agrees_with_the_twin(device: Any, kind: str | None, fix_gamma: bool) -> None:
    case = Case((5, 7, 3), 19, 0.0, kind, fix_gamma, 3)
    a = draw(case)
    mean, var = a.dy[0, 0, 0] * 0.5, np.abs(a.dy[1, 1, 1])
    y, scale = poisoned(device, *a.x.shape), upload(device, a.gamma)
    device.ops.batch_norm_forward_inference(
        upload(device, a.x),
        scale,
        upload(device, a.beta),
        upload(device, mean),
        upload(device, var),
        y,
        **case.attributes,
    )
    check_output(device, case, a, y, mean, var)
    assert_same_bits(np.asarray(scale), np.ones_like(a.gamma) if fix_gamma else a.gamma)


def test_large_mean_keeps_its_deviation(device: Any) -> None:
    """E[x^2] - E[x]^2 would give 0, or garbage, here."""
    case = Case((2500,), 3, 1e4, None, True, 11)
    y, _, var, _ = forward(device, case, draw(case))
    assert np.all(np.abs(np.asarray(var) - 1) < 0.2)  # the sample's own variance is near 1
    assert np.all(np.abs(np.asarray(y).std(axis=0) - 1) < 1e-2)


def test_constant_channel_has_no_variance(device: Any) -> None:
    case = Case((700,), 4, 0.0, None, True, 12)
    a = draw(case)
    a.x[...] = np.float32(1234.567)
    _, mean, var, _ = forward(device, case, a)
    assert np.asarray(var).tolist() == [0.0] * 4
    assert np.asarray(mean).tolist() == [float(np.float32(1234.567))] * 4


@pytest.mark.parametrize("rows", [50, 20_000])
@pytest.mark.parametrize("wanted", ["everything", "parameters", "nothing"])
def test_backward_moves_the_statistics(device: Any, rows: int, wanted: str) -> None:
    """To the bits of batch_norm_update_moving, and whatever else is computed: in one launch, in
    two, and in a launch of its own."""
    channels, rng = 4, np.random.default_rng(rows)
    x, dy = upload(device, numbers(rng, rows, channels)), upload(device, numbers(rng, rows, 4))
    scale, beta, mean, moving = (upload(device, numbers(rng, channels)) for _ in range(4))
    var, moving_var = (upload(device, np.abs(numbers(rng, channels))) for _ in range(2))
    expected = [upload(device, np.asarray(a)) for a in (moving, moving_var)]
    device.ops.batch_norm_update_moving(mean, var, *expected, momentum=0.875)
    dx = poisoned(device, rows, channels) if wanted == "everything" else None
    gradients = [None if wanted == "nothing" else poisoned(device, channels) for _ in range(2)]
    device.ops.batch_norm_backward(
        *(x, scale, beta, mean, var, dy, dx, *gradients, moving, moving_var),
        **{"eps": EPS, "fix_gamma": False, "use_global_stats": False, "momentum": 0.875},
        workspace=workspace_for(device, "batch_norm_backward", (rows, channels)),
    )
    for array, wished in zip((moving, moving_var), expected, strict=True):
        assert_same_bits(np.asarray(array), np.asarray(wished), "moving statistics")
    for array in (dx, *gradients):
        assert array is None or np.isfinite(np.asarray(array)).all()


@pytest.mark.parametrize("channels", [1, 37, 600])
def test_moving_statistics(device: Any, channels: int) -> None:
    rng = np.random.default_rng(channels)
    arrays = [numbers(rng, channels) for _ in range(4)]
    exact = wide(*arrays)
    reference.batch_norm_update_moving(*exact, momentum=0.875)
    on_device = [upload(device, a) for a in arrays]
    device.ops.batch_norm_update_moving(*on_device, momentum=0.875)
    for k in (2, 3):
        size = np.abs(arrays[k]) + np.abs(arrays[k - 2])
        assert_close(on_device[k], exact[k], gamma(3) * size)


def test_wrong_calls_are_refused(device: Any) -> None:
    x, c, d = poisoned(device, 6, 4), poisoned(device, 4), poisoned(device, 5)
    ops, attributes = device.ops, {"eps": EPS, "fix_gamma": False}
    with pytest.raises(ValueError, match=r"beta.*\(5,\).*\(6, 4\).*\(4,\)"):
        ops.batch_norm_forward_training(x, c, d, x, c, c, **attributes)
    with pytest.raises(ValueError, match=r"\(4,\).*\(6, 4\)"):
        ops.batch_norm_forward_training(x, c, c, c, c, c, **attributes)
    with pytest.raises(ValueError, match="'swish'"):
        ops.batch_norm_forward_training(x, c, c, x, c, c, **attributes, activation="swish")
    tall = poisoned(device, 20_000, 4)
    with pytest.raises(ValueError, match=r"0 float32.*need \d+.*workspace_size"):
        ops.batch_norm_backward(
            tall, c, c, c, c, tall, tall, None, None, **attributes, use_global_stats=False
        )
    with pytest.raises(ValueError, match=r"momentum .here None. go together"):
        ops.batch_norm_backward(
            x, c, c, c, c, x, x, None, None, c, c, **attributes, use_global_stats=False
        )
    with pytest.raises(ValueError, match="at least one row"):
        nothing = device.empty((0, 4), np.float32)
        ops.batch_norm_forward_training(nothing, c, c, nothing, c, c, **attributes)
    with pytest.raises(ValueError, match=r"moving_var.*\(5,\).*\(4,\)"):
        ops.batch_norm_update_moving(c, c, c, d, momentum=0.9)
