"""The benchmark scripts run, check what they time, and write what they measured."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pygan.reference


@pytest.fixture
def run_script(repository: Path, context):
    # Small sizes gain nothing from threads, and threads that wait for each other on a busy
    # machine cost minutes.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYGAN_DATA", None)

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(repository / "benchmarks" / name), *arguments],
            capture_output=True,
            text=True,
            timeout=900,
            env=environment,
            check=False,
        )

    return run


def test_every_function_is_timed_and_right(run_script, tmp_path: Path, context) -> None:
    out = tmp_path / "kernels.json"
    done = run_script(
        "kernels.py", "--quick", "--devices", "numpy", context.name, "--json", str(out)
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["wrong"] == []
    names = {name for name, _ in inspect.getmembers(pygan.reference, inspect.isfunction)}
    families = ("forward", "backward", "_update", "random_", "gather_", "_cursor", "fill", "axpy")
    functions = {name for name in names if any(family in name for family in families)}
    assert {row["function"] for row in record["kernels"]} >= functions
    for row in record["kernels"]:
        for name in ("numpy", context.name):
            figure = row["devices"][name]
            assert 0 < figure["seconds"]["low"] <= figure["seconds"]["median"]
            assert 0 <= figure["share_of_tolerance"] <= 1
    assert {"processor", "cores", "versions", "commit", "command"} <= record["machine"].keys()
    assert "| batch_norm_backward" in done.stdout


def test_kernels_of_a_precision(run_script, tmp_path: Path, context) -> None:
    """Functions that have the choice, and they alone; the twins round alike, or all would fail."""
    out = tmp_path / "kernels.json"
    done = run_script(
        *("kernels.py", "--quick", "--precision", "bf16", "--only", "fully_connected", "fill"),
        *("--devices", "numpy", context.name, "--json", str(out)),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["precision"] == "bf16" and record["wrong"] == []
    assert {row["function"] for row in record["kernels"]} == {
        f"fully_connected_{part}" for part in ("forward", "backward_data", "backward_weight")
    }


def test_kernels_of_arrays_in_bf16(run_script, tmp_path: Path, context) -> None:
    """Functions that take such arrays, and they alone, with half the bytes."""
    out = tmp_path / "kernels.json"
    done = run_script(
        *("kernels.py", "--quick", "--network", "dcgan", "--precision", "bf16-stored"),
        *("--only", "convolution_forward", "batch_norm_backward", "activation_backward", "fill"),
        *("--devices", "numpy", context.name, "--json", str(out), "--samples", "1"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["wrong"] == []
    rows = {(row["function"], row["label"].split()[0]): row for row in record["kernels"]}
    functions = {function for function, _ in rows}
    assert functions == {
        *("convolution_forward", "transposed_convolution_forward"),
        *("batch_norm_backward", "activation_backward"),
    }
    assert ("transposed_convolution_forward", "G5") in rows  # beside an image
    assert ("convolution_forward", "D5") not in rows  # one channel
    labels = [row["label"] for row in record["kernels"] if row["function"] == "batch_norm_backward"]
    assert any("slices" in label for label in labels)
    layer = rows["convolution_forward", "D3"]
    weights, *sides = layer["shapes"][1], layer["shapes"][0], layer["shapes"][3]
    assert layer["bytes"] == 2 * sum(math.prod(shape) for shape in (weights, *sides))


def test_shapes_ratios_and_graphs_of_kernels(run_script, tmp_path: Path, context) -> None:
    pytest.importorskip("cuda.bindings", reason="--graph needs cuda-bindings")
    out = tmp_path / "kernels.json"
    done = run_script(
        *("kernels.py", "--quick", "--network", "dcgan", "--graph", "--peers"),
        *("--only", "convolution_forward", "fill", "--devices", "numpy", context.name),
        *("--json", str(out)),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    ceilings = record["roofline"]
    assert ceilings["copy_gigabytes_per_second"] > 0
    assert record["main"] == context.name
    # a peer that cannot be measured is named, not left out in silence
    assert (
        any(text.startswith("cuBLAS") for text in record["not_measured"]) or context.name == "cuda"
    )
    rows = [row for row in record["kernels"] if not row["label"].endswith("normalised")]
    assert [row["label"].split()[0] for row in rows] == [
        *(f"G{layer}" for layer in range(1, 6)),
        *(f"D{layer}" for layer in range(1, 6)),
        rows[-1]["label"],
    ]
    for row in rows:
        figure = row["devices"][f"{context.name} graph"]
        numpy = row["devices"]["numpy"]["seconds"]["median"]
        assert row["ratios"]["numpy"] == pytest.approx(figure["seconds"]["median"] / numpy)
        floor = max(
            row["bytes"] / (1e9 * ceilings["copy_gigabytes_per_second"]),
            row["flops"] / (1e9 * ceilings["float32_product_gflops"]),
        )
        assert figure["share_of_roofline"] == pytest.approx(floor / figure["seconds"]["median"])


def test_pytorch_computes_the_same(run_script, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "kernels.json"
    names = ("convolution", "fully_connected", "batch_norm", "activation", "pooling", "adam")
    arguments = ("--quick", "--peers", "--devices", "numpy", "--only", *names, "--json", str(out))
    done = run_script("kernels.py", *arguments)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert not any("differs" in text for text in record["not_measured"])
    for row in record["kernels"]:
        alone = ("batch_norm_update_moving", "batch_norm_normalisation_training")
        if row["function"] not in alone and not row["label"].endswith("normalised"):
            assert "torch fp32 NHWC" in row["devices"], row["function"]


def test_layer_shapes_fit_together(repository: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import cases

    for network in cases.NETWORKS.values():
        for _, _, size_in, _, size_out, kernel, stride, pad in network.generator:
            assert size_out == (size_in - 1) * stride - 2 * pad + kernel
        for _, _, size_in, _, size_out, kernel, stride, pad in network.discriminator:
            assert size_out == (size_in + 2 * pad - kernel) // stride + 1
        channels, size = network.generator[-1][3:5]
        assert (size, size, channels) == network.image
        assert network.discriminator[0][1:3] == (channels, size)


@pytest.mark.skipif(
    os.environ.get("PYGAN_TEST_DEVICES") == "cuda", reason="a GPU's record holds this test"
)
def test_a_record_is_gathered_in_one_folder(run_script, tmp_path: Path) -> None:
    out = tmp_path / "record"
    trial = ("gpu_record.py", "--device", "cpu", "--quick", "--out", str(out))
    done = run_script(*trial, "--only", "machine", "tests", "memcheck", "kernels", "figures")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (out / "summary.md").read_text()
    states = dict(re.findall(r"^\| ([\w-]+) \| (passed|failed|not run|waiting) \|", summary, re.M))
    assert states == {
        "machine": "passed",
        "tests": "passed",
        "memcheck": "not run",
        "kernels-lesson-32": "passed",
        "kernels-dcgan-64": "passed",
        "figures": "passed",
    }
    assert "without a GPU" in summary
    assert re.search(r"\d+ passed", (out / "tests.log").read_text())
    for name in ("lesson-32", "dcgan-64"):
        assert json.loads((out / f"kernels-{name}.json").read_text())["wrong"] == []
        assert (out / f"kernels-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "machine.json").read_text())["packages"]


def test_a_part_that_fails_does_not_stop_the_others(run_script, tmp_path: Path) -> None:
    trial = ("gpu_record.py", "--device", "cpu", "--quick", "--out", str(tmp_path))
    done = run_script(*trial, "--only", "machine", "tests", "figures", "--limit", "0.01")
    assert done.returncode == 1
    summary = (tmp_path / "summary.md").read_text()
    assert "| machine | passed |" in summary
    assert "| tests | failed |" in summary and "not done after" in summary
    assert "| figures | failed |" in summary and "no record of kernels.py" in summary


def test_without_a_gpu_nothing_is_recorded(run_script, tmp_path: Path) -> None:
    from pygan.bindings import probe

    if probe.nvidia_driver().works:
        pytest.skip("this machine has a GPU")
    out = tmp_path / "record"
    done = run_script("gpu_record.py", "--out", str(out))
    assert done.returncode == 2
    assert "no NVIDIA GPU" in done.stderr
    assert not out.exists()


def test_a_wrong_kernel_is_reported(repository: Path, monkeypatch, context, capsys) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import kernels

    monkeypatch.setattr(pygan.device.get(context.name).ops, "fill", lambda y, value: None)
    arguments = ["--quick", "--devices", context.name, "--only", "fill"]
    assert kernels.main(arguments) == 1
    assert "differs from its twin" in capsys.readouterr().err


@pytest.mark.parametrize("network", ["lesson", "dcgan"])
def test_a_training_step_is_timed_on_every_device(
    run_script, tmp_path: Path, context, network: str
) -> None:
    out = tmp_path / "step.json"
    pytest.importorskip("cuda.bindings", reason="--graph needs cuda-bindings")
    # Tensor cores are emulated on the CPU driver, which takes seconds a step.
    narrow = ("tf32", "bf16", "bf16-stored") if context.name == "cuda" else ()
    done = run_script(
        *("step.py", "--quick", "--network", network, "--graph", "--samples", "1"),
        *("--precisions", "float32", *narrow),
        *("--devices", "numpy", context.name, "--json", str(out)),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["wrong"] == record["not_measured"] == []
    launched, replayed = context.name, f"{context.name} graph"
    figures = record["devices"]
    named = {f"{name} {precision}" for name in (launched, replayed) for precision in narrow}
    assert set(figures) == {"numpy", launched, replayed} | named
    for figure in figures.values():
        assert figure["seconds"]["median"] > 0
        assert figure["images_per_second"] > 0
        if (lines := figure["between_cores_ns"]) is not None:  # None on one core
            assert lines["before"]["other"] > 0 and lines["after"]["own"] > 0
        rate = 1e-9 * record["flops_per_step"] / figure["seconds"]["median"]
        assert figure["gflops"] == pytest.approx(rate)
    assert figures["numpy"]["launches"] is None
    assert figures["numpy"]["peak_bytes"] > 100_000
    assert figures[launched]["launches"] == figures[replayed]["launches"] > 50
    assert figures[launched]["peak_bytes"] > 100_000
    assert (figures[replayed]["host_seconds"] is None) == (context.name == "cpu")


def test_a_wrong_step_is_reported(repository: Path, monkeypatch, context, capsys) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import step

    ops = pygan.device.get(context.name).ops
    name = "sigmoid_cross_entropy_forward"
    right = getattr(ops, name)
    wrong = lambda *arrays, scale, **options: right(*arrays, scale=1.1 * scale, **options)  # noqa: E731
    monkeypatch.setattr(ops, name, wrong)
    arguments = ["--quick", "--devices", context.name, "--samples", "1"]
    assert step.main(arguments) == 1
    assert "losses differ from numpy's" in capsys.readouterr().err


def test_steps_of_pytorch_start_with_the_losses_of_numpy(run_script, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for network in ("lesson", "dcgan"):
        out = tmp_path / f"{network}.json"
        arguments = ("--torch", "eager", "graph", "--samples", "1", "--json", str(out))
        done = run_script(
            "step.py", "--quick", "--network", network, "--devices", "numpy", *arguments
        )
        assert done.returncode == 0, done.stderr
        record = json.loads(out.read_text())
        if not torch.cuda.is_available():  # what cannot run is named
            assert any(text == "torch graph NHWC: needs a GPU" for text in record["not_measured"])
        assert not any("differ" in text for text in record["not_measured"])
        assert {"torch NCHW", "torch NHWC", "torch NHWC fused Adam"} <= record["devices"].keys()


def test_steps_of_jax_start_with_the_losses_of_numpy(run_script, tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    for network in ("lesson", "dcgan"):
        out = tmp_path / f"{network}.json"
        arguments = ("--jax", "--samples", "1", "--json", str(out))
        done = run_script(
            "step.py", "--quick", "--network", network, "--devices", "numpy", *arguments
        )
        assert done.returncode == 0, done.stderr
        record = json.loads(out.read_text())
        if jax.default_backend() == "cpu":  # what cannot run is named
            assert record["not_measured"] == ["jax TF32: needs a GPU", "jax scan TF32: needs a GPU"]
        assert {"jax", "jax scan", "jax bf16", "jax scan bf16"} <= record["devices"].keys()
        for name in ("jax", "jax scan"):  # so close only by the same arithmetic
            assert 0 < record["devices"][name]["largest_loss_difference"] < 1e-3
            assert record["devices"][name]["peak_bytes"] > 100_000


def test_a_peer_that_fails_does_not_stop_the_others(repository: Path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import step

    def broken(_, variant, *__):
        if variant.name == "first":
            raise RuntimeError("a compiler's\nlong complaint")
        return {
            "description": "a peer",
            "seconds": step.measure(pygan.device.get("numpy"), [lambda: None], samples=1),
            "images_per_second": 1.0,
            "launches": None,
            "host_seconds": None,
            "peak_bytes": None,
        }

    monkeypatch.setattr(step.jax_step, "import_jax", lambda: None)
    monkeypatch.setattr(step.jax_step.Session, "__init__", lambda *_: None)
    monkeypatch.setattr(step.jax_step.Session, "place", "cpu", raising=False)
    monkeypatch.setattr(step.jax_step.Session, "time", broken)
    variants = tuple(step.jax_step.Variant(name) for name in ("first", "second"))
    monkeypatch.setattr(step.jax_step, "VARIANTS", variants)
    assert step.main(["--quick", "--devices", "numpy", "--samples", "1", "--jax"]) == 0
    said = capsys.readouterr()
    assert "first: a compiler's long complaint" in said.err
    assert "| second" in said.out


def test_useful_operations_of_a_step(repository: Path, monkeypatch) -> None:
    """Against the lesson's layers by hand: weights times the pixels of the small side."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import steps

    chosen = steps.STEPS["lesson"]
    start = steps.start_of(chosen, pygan.device.get("numpy"), chosen.load(True), 2, True)
    generator = 16 * 2560 + 16 * 9 * 32768 + 49 * 16 * 8192 + 196 * 16 * 64
    discriminator = 676 * 9 * 24 + 36 * 9 * 768 + 16 * 9 * 2048 + 16 * 4096 + 64
    assert start.flops == 2 * 2 * (3 * generator + 8 * discriminator)
    assert start.losses.shape == (3, 3) and len(start.noises) == len(start.reals) == 3


def test_parts_of_a_gpus_record_fit_ten_minutes(repository: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import gpu_record
    import step

    monkeypatch.setattr(gpu_record, "_has", lambda _: True)
    made = gpu_record.parts("cuda", False, Path("out"), 540)
    steps = [part for part in made if part.group == "step"]
    names = [part.name for part in steps]
    assert names[:2] == ["step-lesson-32", "step-dcgan-64"]
    assert {"step-lesson-32-compile", "step-dcgan-64-jax"} <= set(names)
    for part in steps:
        assert part.command[1] == "step.py"
        step.make_parser().parse_args(part.command[2:])
    assert all(part.limit <= 540 for part in made)
    groups = list(dict.fromkeys(part.group for part in made))
    assert groups[:3] == ["machine", "compile", "tests"]  # what is wrong need not be timed
    checks = ["memcheck", "racecheck", "initcheck", "synccheck"]
    assert groups[3:] == ["step", "kernels", *checks, "tune", "nvcc", "figures"]
    assert (repository / "tests" / "bindings" / gpu_record.REPORT_TEST).exists()


def test_a_record_ends_in_time(run_script, tmp_path: Path) -> None:
    trial = ("gpu_record.py", "--device", "cpu", "--quick", "--out", str(tmp_path))
    done = run_script(*trial, "--only", "machine", "tests", "figures", "--within", "21")
    summary = (tmp_path / "summary.md").read_text()
    assert "| machine | passed |" in summary and "| figures | waiting |" in summary
    assert "the 21 s are spent" in done.stdout
    done = run_script(*trial, "--only", "step-lesson-33")
    assert done.returncode == 2
    assert re.search("no part step-lesson-33; there are .*step-lesson-32", done.stderr)


def test_tests_that_would_begin_late_are_skipped(repository: Path) -> None:
    """What the sanitizers slow down then ends in time, with what it has found."""
    test = repository / "tests" / "kernels" / "test_support.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    environment = {**os.environ, "PYGAN_TEST_SECONDS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ skipped", done.stdout, re.M), done.stdout


def test_what_the_sanitizers_run_is_there(repository: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import gpu_record

    for named in gpu_record.SANITIZED:
        file, _, test = named.partition("::")
        text = (repository / "tests" / "kernels" / file).read_text()
        assert f"def {test or 'test_'}" in text, named


def test_planned_memory(run_script, context) -> None:
    """Sums of what is listed; less of it with lean, in the same columns."""
    asked = ("--network", "dcgan", "--batch", "2", "--precision", "float32", "--peak")
    done = run_script("memory.py", *asked, "--device", context.name)
    assert done.returncode == 0, done.stderr
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    columns, _, *rows = table
    assert columns[-1] == "sum" and [name[-4:] for name, *_ in rows] == ["at32", "lean"]
    for _, *figures in rows:
        *parts, whole = map(float, figures)
        assert whole == pytest.approx(sum(parts), abs=0.05 * (len(parts) + 1))
    assert float(rows[1][-1]) < float(rows[0][-1])
    assert "dact1_output" in done.stdout  # D's first layer, which its backward reads last


def test_what_a_user_can_mend_is_told_without_a_traceback(run_script) -> None:
    done = run_script("memory.py", "--device", "abacus")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("memory.py: ") and "'abacus'" in done.stderr
