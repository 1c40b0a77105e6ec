"""Programs: many launches as one, with the bits of the launches.

Sums of products are added in the same order. Batch norm adds its rows in other groups where several
blocks share what one does in a launch of its own; and which multiply-adds become one instruction is
the compiler's choice, in each kernel anew: a few roundings may differ there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pygan.bindings import compiler, cpu_driver, job_products, program
from pygan.bindings.errors import LaunchError
from pygan.bindings.job import BARRIER_MICROSECONDS, LAUNCH_MICROSECONDS
from support import assert_close, assert_same_bits, gamma, numbers, upload, workspace_for

GEOMETRY = ("stride", "pad", "dilation")
BATCH_NORM = {"eps": 2.0**-10, "fix_gamma": False, "slope": 0.25}


class Arrays:
    """Named arrays on the device, the same every time; what is written begins as NaN."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.rng = np.random.default_rng(5)
        self.by_name: dict[str, Any] = {}

    def given(self, name: str, *shape: int) -> Any:
        return self._keep(name, numbers(self.rng, *shape))

    def written(self, name: str, *shape: int) -> Any:
        return self._keep(name, np.full(shape, np.nan, np.float32))

    def _keep(self, name: str, host: np.ndarray) -> Any:
        self.by_name[name] = upload(self.device, host)
        return self.by_name[name]

    def call(self, function: str, *arrays: Any, **attributes: Any) -> Callable[[], None]:
        shapes = [None if a is None else a.shape for a in arrays]
        sized = {k: v for k, v in attributes.items() if not k.startswith("accumulate")}
        workspace = workspace_for(self.device, function, *shapes, **sized)
        if workspace is not None:
            attributes["workspace"] = workspace
        operator = getattr(self.device.ops, function)
        return lambda: operator(*arrays, **attributes)


Calls = list[Callable[[], None]]


class Layer(NamedTuple):
    """A convolution of x (2, size, size, channels) to `filters`; `groups` of both."""

    size: int
    channels: int
    filters: int
    kernel: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def attributes(self) -> dict[str, Any]:
        pairs = {name: (getattr(self, name),) * 2 for name in GEOMETRY}
        return pairs | {"groups": self.groups}

    @property
    def out(self) -> int:
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + 2 * self.pad - reach) // self.stride + 1


LAYERS = [
    Layer(5, 8, 12, 3, stride=2, pad=1),  # everything in fours
    Layer(6, 1, 24, 3),  # an image
    Layer(4, 24, 1, 4),  # one filter
    Layer(7, 6, 10, 3, pad=2, dilation=2, groups=2),  # groups of 3 and 5
    Layer(3, 64, 36, 2, stride=3),  # deep: slices; a kernel smaller than its stride
]


def passes(a: Arrays, layer: Layer) -> Calls:
    """All six passes of a layer and its bias, written and added."""
    n, size, out = 2, layer.size, layer.out
    x, dx = (
        a.given("x", n, size, size, layer.channels),
        a.written("dx", n, size, size, layer.channels),
    )
    w_shape = (layer.filters, layer.kernel, layer.kernel, layer.channels // layer.groups)
    w, dw = a.given("w", *w_shape), a.written("dw", *w_shape)
    y, dy = a.written("y", n, out, out, layer.filters), a.given("dy", n, out, out, layer.filters)
    bias, dbias = a.given("bias", layer.filters), a.written("dbias", layer.filters)
    wide_bias = a.given("wide bias", layer.channels)
    added = {name: a.given(f"added {name}", *a.by_name[name].shape) for name in ("dx", "dw", "y")}
    t_dx, t_dw = a.written("t dx", *y.shape), a.given("t dw", *w_shape)
    t_y = a.written("t y", *x.shape)
    c = layer.attributes
    return [
        a.call("convolution_forward", x, w, bias, y, **c),
        a.call("convolution_backward_data", dy, w, dx, **c),
        a.call("convolution_backward_weight", x, dy, dw, **c),
        a.call("convolution_forward", x, w, None, added["y"], accumulate=True, **c),
        a.call("convolution_backward_data", dy, w, added["dx"], accumulate=True, **c),
        a.call("convolution_backward_weight", x, dy, added["dw"], accumulate=True, **c),
        a.call("bias_backward", dy, dbias),
        a.call("transposed_convolution_forward", dy, w, wide_bias, t_y, **c),
        a.call("transposed_convolution_backward_data", x, w, t_dx, **c),
        a.call("transposed_convolution_backward_weight", dy, x, t_dw, accumulate=True, **c),
    ]


def batch_norms(a: Arrays, rows: int, channels: int, kind: str | None) -> Calls:
    x, dy = a.given("x", rows, channels), a.given("dy", rows, channels)
    y, dx = a.written("y", rows, channels), a.given("dx", rows, channels)
    gamma, beta = a.given("gamma", channels), a.given("beta", channels)
    mean, var = a.written("mean", channels), a.written("var", channels)
    dgamma, dbeta = a.written("dgamma", channels), a.given("dbeta", channels)
    moving = (a.given("moving mean", channels), a.given("moving var", channels))
    c = BATCH_NORM | {"activation": kind}
    inference = a.written("inference", rows, channels)
    backward = {"use_global_stats": False, "momentum": 0.9, "accumulate": True}
    positive = a.given("positive", channels)
    positive[...] = np.abs(positive.get()) + 0.5
    return [
        a.call("batch_norm_forward_training", x, gamma, beta, y, mean, var, **c),
        a.call("batch_norm_forward_inference", x, gamma, beta, beta, positive, inference, **c),
        a.call(
            *("batch_norm_backward", x, gamma, beta, mean, var, dy, dx, dgamma, dbeta, *moving),
            **c | backward | {"accumulate_beta": True},
        ),
    ]


def small_network(a: Arrays) -> Calls:
    """Two layers with batch norm, forward and back: every job waits for the one before."""
    first, second = Layer(6, 8, 8, 3, pad=1), Layer(6, 8, 16, 3, stride=2)
    x, w = a.given("x", 2, 6, 6, 8), a.given("w", 8, 3, 3, 8)
    h, n = a.written("h", 2, 6, 6, 8), a.written("n", 2, 6, 6, 8)
    v, y = a.given("v", 16, 3, 3, 8), a.written("y", 2, 2, 2, 16)
    gamma, beta = a.given("gamma", 8), a.given("beta", 8)
    mean, var = a.written("mean", 8), a.written("var", 8)
    dv, dn = a.written("dv", 16, 3, 3, 8), a.written("dn", 2, 6, 6, 8)
    dgamma, dbeta = a.written("dgamma", 8), a.written("dbeta", 8)
    dw, dx = a.written("dw", 8, 3, 3, 8), a.written("dx", 2, 6, 6, 8)
    b = BATCH_NORM | {"activation": "leaky_relu"}
    statistics = (gamma, beta, mean, var)
    return [
        a.call("convolution_forward", x, w, None, h, **first.attributes),
        a.call("batch_norm_forward_training", h, gamma, beta, n, mean, var, **b),
        a.call("convolution_forward", n, v, None, y, **second.attributes),
        a.call("convolution_backward_weight", n, y, dv, **second.attributes),
        a.call("convolution_backward_data", y, v, dn, **second.attributes),
        a.call("batch_norm_backward", h, *statistics, dn, dn, dgamma, dbeta, **b,
               use_global_stats=False),
        a.call("convolution_backward_weight", x, dn, dw, **first.attributes),
        a.call("convolution_backward_data", dn, w, dx, **first.attributes),
    ]  # fmt: skip


def results(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: array.get() for name, array in arrays.by_name.items()}


def jobs_of(device: Any, calls: Calls) -> list[program.Job]:
    return [job for call in calls for job in program.jobs_of(device.context, call)]


def check_same(device: Any, make: Callable[[Arrays], Calls], roundings: int = 0) -> program.Program:
    """Launches and a program of them do the same; recording alone does nothing.

    roundings: by how many of an array's largest number they may differ, or of 1, about which the
    numbers are whose means and sums arrays hold."""
    launched, together = Arrays(device), Arrays(device)
    for call in make(launched):
        call()
    calls = make(together)
    untouched = results(together)
    made = program.Program(device.context, jobs_of(device, calls))
    for name, before in untouched.items():
        assert_same_bits(together.by_name[name], before, name)
    made()
    for name, expected in results(launched).items():
        computed = together.by_name[name]
        if np.isnan(expected).all():  # of a call that has no job
            assert np.isnan(computed.get()).all(), name
        elif roundings:
            allowed = gamma(roundings) * max(1.0, np.abs(expected).max())
            assert_close(computed, expected, allowed, name)
        else:
            assert_same_bits(computed, expected, name)
    return made


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_all_passes_of_a_layer(device: Any, layer: Layer) -> None:
    made = check_same(device, lambda a: [c for c in passes(a, layer) if small(device, c)])
    assert len(made.jobs) >= 4
    # each call has arrays of its own, and no second stage waits: the last block adds few slices
    assert made.barriers == 0
    made()  # the counts of slices are 0 again
    assert not made._counts.get().any()


def small(device: Any, call: Callable[[], None]) -> bool:
    try:
        program.jobs_of(device.context, call)
    except program.NotInProgram:
        return False
    return True


@pytest.mark.parametrize(("kind", "groups"), [("relu", 1), ("leaky_relu", 2), ("sigmoid", 1)])
def test_ends_of_convolutions(device: Any, kind: str, groups: int) -> None:
    """Activations and their derivatives, of whole sums, of few slices and of many."""
    made = check_same(device, lambda a: activated_convolutions(a, kind, groups))
    sliced = {job.numbers[16] for job in made.jobs if job.counts}
    assert sliced and max(sliced) <= job_products.FINISHED_SLICES
    names = [job.operation for job in made.jobs]
    # what a thread with many sums cannot apply, a job does
    assert ("activation_forward" in names) == (kind == "sigmoid")
    assert "sum_many_partials" in names


def activated_convolutions(a: Arrays, kind: str, groups: int) -> Calls:
    calls = []
    end = {"activation": kind, "slope": 0.25}
    for depth, layer in enumerate(
        [Layer(6, 16, 40, 3, groups=groups), Layer(4, 64, 40, 3, groups=groups),
         Layer(4, 256, 8, 4, groups=groups)]
    ):  # fmt: skip
        c, shape = layer.attributes, (2, layer.size, layer.size, layer.channels)
        x = a.given(f"x {depth}", *shape)
        w_shape = (layer.filters, layer.kernel, layer.kernel, layer.channels // groups)
        w, bias = a.given(f"w {depth}", *w_shape), a.given(f"bias {depth}", layer.filters)
        y = a.written(f"y {depth}", 2, layer.out, layer.out, layer.filters)
        added = a.given(f"added {depth}", *y.shape)
        dy, dx = a.given(f"dy {depth}", *y.shape), a.written(f"dx {depth}", *shape)
        calls += [
            a.call("convolution_forward", x, w, bias, y, **c, **end),
            a.call("convolution_forward", x, w, None, added, accumulate=True, **c, **end),
            a.call("convolution_backward_data", dy, w, dx, x, **c, **end),
        ]
    return calls


def elements(a: Arrays, kind: str, pooling: str) -> Calls:
    shape, small = (3, 7, 9, 12), (3, 4, 5, 12)
    x, y, dy = a.given("x", *shape), a.written("y", *shape), a.given("dy", *shape)
    dx, added = a.written("dx", *shape), a.given("added", *shape)
    pooled, dsmall = a.written("pooled", *small), a.given("dsmall", *small)
    windows = {"kind": pooling, "kernel": (3, 2), "stride": (2, 2), "pad": (1, 1)}
    back = {"x": a.written("back", *shape), "added": a.given("back added", *shape)}
    source = x if pooling == "max" else None
    return [
        a.call("activation_forward", x, y, kind=kind, slope=0.25),
        a.call("activation_backward", x, y, dy, dx, kind=kind, slope=0.25),
        a.call("activation_backward", x, y, dy, added, kind=kind, slope=0.25, accumulate=True),
        a.call("pooling_forward", x, pooled, count_include_pad=False, **windows),
        a.call("pooling_backward", source, dsmall, back["x"], **windows),
        a.call("pooling_backward", source, dsmall, back["added"], accumulate=True, **windows),
    ]


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("relu", "max"), ("leaky_relu", "avg"), ("elu", "max"), ("sigmoid", "avg"), ("tanh", "max"),
     ("softplus", "avg")],
)  # fmt: skip
def test_activations_and_pooling(device: Any, kind: str, pooling: str) -> None:
    # dy * f' + what is there may be one instruction or two
    made = check_same(device, lambda a: elements(a, kind, pooling), roundings=2)
    assert len(made.jobs) == 6 and made.barriers == 1


@pytest.mark.parametrize("n", [1, 3, 32, 1030, 4096])
@pytest.mark.parametrize("wanted", ["all", "loss", "gradient"])
def test_losses(device: Any, n: int, wanted: str) -> None:
    def make(a: Arrays) -> Calls:
        logits, labels = a.given("logits", n, 1), a.given("labels", n, 1)
        loss, p, d = a.written("loss", 1), a.written("p", n, 1), a.written("d", n, 1)
        outputs = {"all": (p, loss, d), "loss": (None, loss, None), "gradient": (None, None, d)}
        operands = (logits, labels, *outputs[wanted])
        return [a.call("sigmoid_cross_entropy_forward", *operands, scale=1.0 / n)]

    check_same(device, make)


@pytest.mark.parametrize(
    ("rows", "channels", "kind"),
    [
        (3, 4, None),
        (70, 12, "leaky_relu"),
        (1100, 8, "leaky_relu"),
        (8300, 4, "relu"),
        (130, 20, "leaky_relu"),
    ],
)
def test_batch_norm(device: Any, rows: int, channels: int, kind: str | None) -> None:
    made = check_same(device, lambda a: batch_norms(a, rows, channels, kind), roundings=16)
    names = {job.operation for job in made.jobs}
    # in halves: as it is launched (8300 rows), or where blocks that share the rows are quicker
    assert ("batch_norm_statistics" in names) == (rows > 1000)
    assert ("batch_norm_backward_data" in names) == (rows > 1000)
    assert sum(job.launches for job in made.jobs) == (5 if rows > 8000 else 3)


def test_a_network_forward_and_back(device: Any) -> None:
    made = check_same(device, small_network, roundings=64)
    # gradients of weights run beside those of data
    assert made.barriers < len(made.jobs) - 1
    waits = LAUNCH_MICROSECONDS + made.barriers * BARRIER_MICROSECONDS
    alone = sum(each.microseconds + each.latency for each in made.jobs)
    assert waits < made.microseconds < waits + alone  # what runs side by side counts once
    made()


def bias_of_a_layer(a: Arrays) -> Calls:
    """The second convolution's bias is what the first one gives."""
    c = Layer(4, 8, 12, 3, pad=1).attributes
    given = (a.given("code", 1, 3, 3, 8), a.given("u", 12, 3, 3, 8))
    x, w, y = a.given("x", 2, 4, 4, 8), a.given("w", 12, 3, 3, 8), a.written("y", 2, 4, 4, 12)
    bias = a.written("bias", 1, 1, 1, 12)
    return [
        a.call("convolution_forward", *given, None, bias, **c | {"pad": (0, 0)}),
        a.call("convolution_forward", x, w, bias.reshape((12,)), y, **c),
    ]


def test_a_bias_may_be_what_a_job_wrote(device: Any) -> None:
    assert check_same(device, bias_of_a_layer).barriers > 0


def test_replayed_from_a_recording(device: Any) -> None:
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    for make in (small_network, deep_layer):
        launched, together = Arrays(device), Arrays(device)
        for call in make(launched):
            call()
        made = program.Program(device.context, jobs_of(device, make(together)))
        recorded = device.record(made)
        assert recorded.nodes == 1
        for _ in range(2):
            together.by_name["dx"].fill(np.nan)
            recorded.launch()
            expected = launched.by_name["dx"].get()
            allowed = gamma(64) * np.abs(expected).max()
            assert_close(together.by_name["dx"], expected, allowed, "dx")
        assert not made._counts.get().any()


def test_what_has_no_job_is_not_recorded(device: Any) -> None:
    a = Arrays(device)
    x, y = a.given("x", 3, 5), a.written("y", 3, 5)
    with pytest.raises(program.NotInProgram, match="softmax_forward"):
        program.jobs_of(device.context, a.call("softmax_forward", x, y))
    with pytest.raises(program.NotInProgram, match="four elements"):
        program.jobs_of(device.context, a.call("activation_forward", x, y, kind="relu"))
    large = Layer(36, 64, 64, 5)
    x, w = device.empty((2, 36, 36, 64)), device.empty((64, 5, 5, 64))
    y = device.empty((2, 32, 32, 64))
    with pytest.raises(program.NotInProgram, match="would take"):
        call = a.call("convolution_forward", x, w, None, y, **large.attributes)
        program.jobs_of(device.context, call)
    with pytest.raises(program.NotInProgram, match="no tanh"):
        program.jobs_of(device.context, batch_norms(Arrays(device), 9, 4, "tanh")[0])
    with pytest.raises(ValueError, match="1 to"):
        program.Program(device.context, [])
    half = device.from_numpy(np.zeros((4, 4), np.uint16))
    with pytest.raises(program.NotInProgram, match="float32"):
        call = a.call("activation_forward", half, half, kind="relu")
        program.jobs_of(device.context, call)
    # the context launches again
    a.call("activation_forward", *(a.by_name[n] for n in "xy"), kind="relu")()
    assert np.isfinite(a.by_name["y"].get()).all()


def test_phases_keep_dependent_jobs_apart(device: Any) -> None:
    made = jobs_of(device, small_network(Arrays(device)))
    phases = program.in_phases(made)
    for phase in phases:
        assert not any(a.waits_for(b) for a in phase for b in phase if a is not b)
    place = {id(job): level for level, phase in enumerate(phases) for job in phase}
    for i, job in enumerate(made):
        for before in made[:i]:
            if job.waits_for(before):
                assert place[id(before)] < place[id(job)]


def test_check_mode_finds_a_lacking_wait(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All jobs in one phase: what they read is being written."""
    if not getattr(device, "check", False):
        pytest.skip("check mode only")
    first = jobs_of(device, small_network(Arrays(device)))[:2]
    monkeypatch.setattr(program, "in_phases", lambda all_jobs: [list(all_jobs)])
    made = program.Program(device.context, first)
    cpu_driver.take_reports()
    with pytest.raises(LaunchError, match="race"):
        made()
    assert {report.kind for report in cpu_driver.take_reports()} == {"race"}


def deep_layer(a: Arrays) -> Calls:
    """Products with slices that the last block of a tile adds."""
    layer = Layer(3, 64, 36, 2, stride=3)
    return passes(a, layer)[:3]


def counted(device: Any) -> tuple[Arrays, program.Program]:
    arrays = Arrays(device)
    made = program.Program(device.context, jobs_of(device, deep_layer(arrays)))
    assert sum(job.counts for job in made.jobs)
    return arrays, made


def test_a_count_that_is_not_0_again_shows(device: Any) -> None:
    """One too many: a block that is not the last adds slices that are not there."""
    if device.name != "cpu":
        pytest.skip("on a GPU they may be there: the block that was left out may have been quicker")
    launched, (together, made) = Arrays(device), counted(device)
    for call in deep_layer(launched):
        call()
    made._counts.fill(1)
    cpu_driver.take_reports()
    if getattr(device, "check", False):
        with pytest.raises(LaunchError, match="race"):
            made()
        cpu_driver.take_reports()
    else:
        made()  # the slices are NaN before
        found = results(together)
        assert any(found[n].tobytes() != a.tobytes() for n, a in results(launched).items())
        made._counts.fill(0)
    made()
    for name, expected in results(launched).items():
        assert_same_bits(together.by_name[name], expected, name)


def test_a_failed_launch_leaves_no_counts(device: Any) -> None:
    if not getattr(device, "check", False):
        pytest.skip("check mode only: a launch that fails")
    arrays, made = counted(device)
    whole, y = made._arrays, arrays.by_name["y"]
    made._arrays = tuple(a if a is not y else y[:1] for a in whole)
    with pytest.raises(LaunchError, match="out_of_bounds"):
        made()
    cpu_driver.take_reports()
    assert not made._counts.get().any()
    made._arrays = whole
    made()
    assert np.isfinite(y.get()).all()


LAST = """
#include "last_slice.cuh"

// y = the sum of what all blocks wrote; a block that does not wait adds what is there.
extern "C" __global__ void last(float* x, float* y, unsigned* arrivals, int waits) {
    x[blockIdx.x * 32 + threadIdx.x] = blockIdx.x + 1.0f;
    if (!comes_last(arrivals, gridDim.x) && waits) return;
    float sum = 0.0f;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += x[b * 32 + 31 - threadIdx.x];
    if (waits) y[threadIdx.x] = sum;
}
"""


@pytest.mark.parametrize("waits", [1, 0])
def test_the_block_that_comes_last(device: Any, tmp_path: Path, waits: int) -> None:
    path = tmp_path / "last.cu"
    path.write_text(LAST, encoding="utf-8")
    kernel = device.context.kernel(path, "last")
    x, y = device.empty((7, 32)), device.empty((32,))
    arrivals = device.from_numpy(np.zeros(1, np.uint32))
    checks = getattr(device, "check", False)
    for _ in range(3):
        x.fill(np.nan)
        if checks and not waits:
            cpu_driver.take_reports()
            with pytest.raises(LaunchError, match="race"):
                kernel(7, 32, x, y, arrivals, waits)
            assert {report.kind for report in cpu_driver.take_reports()} == {"race"}
        else:
            kernel(7, 32, x, y, arrivals, waits)
        assert not arrivals.get().any()
        assert not waits or (y.get() == 28).all()


def test_check_mode_holds_a_program_to_its_arrays(device: Any) -> None:
    if not getattr(device, "check", False):
        pytest.skip("check mode only")
    arrays = Arrays(device)
    layer = Layer(5, 8, 12, 3, stride=2, pad=1)
    job, *_ = jobs_of(device, passes(arrays, layer)[:1])
    made = program.Program(device.context, [job])
    y = arrays.by_name["y"]
    made._arrays = tuple(a if a is not y else y[:1] for a in made._arrays)
    cpu_driver.take_reports()
    with pytest.raises(LaunchError, match="out_of_bounds"):
        made()
    cpu_driver.take_reports()


def test_other_threads_launch_while_one_records(device: Any) -> None:
    a = Arrays(device)
    x, y = a.given("x", 3, 5), a.written("y", 3, 5)
    launched = threading.Thread(target=a.call("activation_forward", x, y, kind="relu"))

    def call() -> None:
        launched.start()
        launched.join()

    assert program.jobs_of(device.context, call) == []
    assert_same_bits(y, np.maximum(x.get(), 0.0), "y")


def test_only_the_table_goes_through_the_read_only_path() -> None:
    """A GPU may answer ld.global.nc with what memory held before the launch. sm_75 has no cp.async,
    and copies operands by loads, as all the rest."""
    nvcc = compiler.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc; `pip install pygan[nvcc]` or nvcc_report --fetch brings one")
    folder = compiler.kernels_dir()
    flags = ["-ptx", "-arch=compute_75", "-std=c++17", f"-DMOST_JOBS={program.MOST_JOBS}"]
    code = compiler.run_nvcc(nvcc, folder / program.FILE, flags, [folder])[0].decode()
    assert set(re.findall(r"ld\.global\.nc\.(\S+)", code)) == {"u64"}
    # what a block wrote before it counts itself is there for the block that counts last
    assert "atom.acq_rel.gpu.global.inc.u32" in code
