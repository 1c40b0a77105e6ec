"""Everything there is to know about pygan on one GPU, in one folder: what `make gpu-record` runs.

    python benchmarks/gpu_record.py [--out DIR] [--only PART ...] [--within S] [--device cuda]
                                    [--quick]

The parts, in this order: ``machine`` (driver, compiler, packages), ``compile`` (every kernel, on
all cores at once, into the cache that the others read), ``tests`` (kernels, executors, bindings and
training on the GPU), ``step`` and ``kernels`` (the benchmarks, with their peers), ``memcheck``,
``racecheck``, ``initcheck`` and ``synccheck`` (a few tests of the kernels under compute-sanitizer),
``tune`` (which tiles are quickest, as a table in the folder), ``nvcc`` (registers and spills of
every kernel, which needs no GPU), ``figures``. Each runs in a process of its own, with a time
limit, and leaves a log and its files in one folder,
``benchmarks/records/<date>-<gpu>-<commit>/``; ``summary.md`` there is brought up to date after
each, so that a run that was broken off keeps what it has. A part that fails does not stop the
others. The packages are those of the Python that runs this script; what the parts lack, they say.

With a machine for minutes only, ``--within S`` ends in time: no part gets more than is left of
S seconds, and those that did not begin are named as waiting. Calls with ``--only`` (groups, or
names of parts) do the rest, in folders of their own; ``compile`` comes before them unasked.

Exit code: 0 if every part that could run succeeded, 1 if one failed, 2 without a usable GPU.
``--device cpu --quick`` tries all of it out on the CPU driver.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from measuring import REPOSITORY, commit, machine, write_json

# Parts run in this folder, not in the repository's root: there `python -m` would find the folder
# pygan, which lacks the packages that an installation adds to it, before an installed one.
BENCHMARKS = REPOSITORY / "benchmarks"
REPORT_TEST = "test_nvcc_report.py"  # of tests/bindings: what the part ``nvcc`` does
SANITIZER = "compute-sanitizer"
SANITIZER_ERROR = 86  # its exit code when it found something
TESTED = ("kernels", "executor", "bindings")
TRAINED = (
    "test_step.py",
    "test_recording.py",
    "test_classifier.py",
    "test_conditional.py",
)  # of tests/training
# Tests of tests/kernels that between them use every way of sharing memory, inside a block and
# between blocks. They are some hundred times slower than without the tools: the most telling come
# first, and those that would begin late are left out.
SANITIZED = (
    "test_tensor_core.py::test_long_sums_are_cut_into_slices",
    "test_wgmma.py::test_a_tile_of_a_product",
    "test_wgmma.py::test_a_tile_of_copied_operands",
    "test_convolution_pipelined.py::test_few_channels_in_several_bands",
    "test_normalisation.py::test_tensor_cores",
    "test_normalisation.py::test_bands_that_leave_threads_their_sums",
    "test_tile_moments.py::test_float32",
    "test_bf16_arrays.py::test_every_kernel_on_every_tile",
    "test_program.py::test_a_network_forward_and_back",
    "test_batch_norm_together.py::test_repeated",
    "test_capture.py",
    "test_fully_connected.py",
    "test_loss.py",
    "test_batch_norm.py",
    "test_batch_norm_slices.py",
)
# PyTorch's variants of a step, in parts of which each is done in ten minutes: the compiler takes
# long. Variants that are not begun within the budget are named in the record.
STEP_PEERS = (("", ("eager", "graph")), ("-compile", ("compile",)), ("-autotune", ("autotune",)))
STEP_BUDGET = 400.0
NARROW = ("tf32", "bf16", "bf16-stored")  # of kernels, beside float32
WITHOUT_KERNELS = {"machine", "nvcc", "nvcc-report", "figures"}  # parts that launch none
LEAST = 20.0  # seconds without which no part begins
SANITIZER_LIMIT = 300.0  # seconds of each tool
LATEST = 0.6  # of that, a test may begin
HANGING = 240  # seconds of a test, after which blocks wait for each other for ever
LOG_LINES = 12  # of a failed part, in the summary


@dataclass(frozen=True)
class Part:
    """One process of the record; `limit` in seconds, `only_cuda` where a GPU is needed."""

    name: str
    group: str
    command: Sequence[str]
    limit: float
    only_cuda: bool = False
    needs: Callable[[], str | None] = lambda: None  # why it cannot run here, or None
    latest: float | None = None  # share of the limit after which no test is begun


@dataclass(frozen=True)
class Outcome:
    name: str
    state: str  # "passed", "failed" or "not run"
    seconds: float
    text: str  # the last lines, or why it did not run


def parts(device: str, quick: bool, out: Path, limit: float) -> list[Part]:
    """`out` is the folder as the parts, which run in BENCHMARKS, name it."""
    python = sys.executable
    tests = Path("..", "tests")
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if _has("pytest_timeout"):  # a launch that never ends is one test's fault, not the part's end
        pytest += ["--timeout", str(HANGING), "--timeout-method", "thread"]
    folders = [str(tests / name) for name in TESTED]
    if quick:
        folders = [str(tests / "kernels" / "test_elementwise.py")]
    report = [python, "-m", "pygan.bindings.nvcc_report", "--workers", str(os.cpu_count() or 2)]
    report += ["--json", str(out / "nvcc-report.json")]
    report += ["--arch", "sm_90a", "--", "elementwise.cu"] if quick else []
    lacks_tests = _lacks("pytest", "hypothesis")
    made = [Part("machine", "machine", [python, "gpu_record.py", "--describe", str(out)], 120)]
    ahead = [python, "-m", "pygan.bindings.precompile"]
    made.append(Part("compile", "compile", ahead, limit, only_cuda=True, needs=_lacks_nvcc))
    # Side by side where that is installed: the numpy twins, which are most of it, take all cores.
    workers = ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"]
    beside = workers if _has("xdist") and not quick else []
    for folder in folders:
        name = "tests" if quick else f"tests-{Path(folder).name}"
        command = [*pytest, *beside, folder, "--ignore", str(tests / "bindings" / REPORT_TEST)]
        made.append(Part(name, "tests", command, limit, needs=lacks_tests))
    if not quick:
        trained = [str(tests / "training" / name) for name in TRAINED]
        command = [*pytest, *beside, *trained]
        made.append(Part("tests-training", "tests", command, limit, needs=lacks_tests))
    made += _benchmarks(device, quick, out, limit)
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [SANITIZER, "--tool", tool, "--error-exitcode", str(SANITIZER_ERROR)]
        # What a call of the driver says goes to the tests, some of which expect a refusal.
        command += ["--report-api-errors", "no"] if tool == "memcheck" else []
        command += [*pytest, *(str(tests / "kernels" / name) for name in SANITIZED)]
        most = min(limit, SANITIZER_LIMIT)
        needs = _lacks_sanitizer
        made.append(Part(tool, tool, command, most, only_cuda=True, needs=needs, latest=LATEST))
    tune = [python, "tune.py", "--device", device, "--json", str(out / "tune.json")]
    tune += ["--table", str(out / "tuning.json"), "--budget", str(0.8 * limit)]
    tune += ["--quick", "--network", "lesson", "--only", "D4"] if quick else []
    made.append(Part("tune", "tune", tune, limit))
    made.append(Part("nvcc-report", "nvcc", report, limit, needs=_lacks_nvcc))
    made.append(Part("figures", "figures", [python, "figures.py", str(out)], 300))
    return made


def _benchmarks(device: str, quick: bool, out: Path, limit: float) -> list[Part]:
    """`numpy` is measured beside the GPU only where it takes seconds: the lesson, batch 32."""
    graph = ["--graph"] if _has("cuda.bindings") else []
    small = ["--quick"] if quick else []
    made = []
    steps = [("lesson", 32), ("dcgan", 64)]
    if not quick:
        steps += [("lesson", 128), ("lesson", 1024), ("dcgan", 128), ("dcgan", 512)]
    for network, batch in steps:
        base = [sys.executable, "step.py", "--network", network, "--batch", str(batch), *graph]
        base += ["--cooperative"] if device == "cuda" else []
        peers = STEP_PEERS if _has("torch") else (("", ()),)
        # The compiler is tried at the sizes that the networks' own scripts have.
        for ending, groups in peers if (network, batch) in steps[:2] else peers[:1]:
            name = f"step-{network}-{batch}{ending}"
            beside = ["numpy"] if name == "step-lesson-32" else []
            command = [*base, "--devices", *beside, device]
            command += ["--torch", *groups] if groups else []
            command += ["--budget", str(STEP_BUDGET), "--json", str(out / f"{name}.json"), *small]
            made.append(Part(name, "step", command, limit))
        if _has("jax") and (network, batch) in steps[:2]:
            name = f"step-{network}-{batch}-jax"
            command = [*base, "--devices", device, "--jax", "--json", str(out / f"{name}.json")]
            command += ["--budget", str(STEP_BUDGET), *small]
            made.append(Part(name, "step", command, limit))
    # What takes long to compile comes after what every network and batch has.
    made.sort(key=lambda part: part.name.count("-") > 2)
    cases = [("lesson", 32), ("dcgan", 64)]
    if quick:
        small += ["--only", "fully_connected", "batch_norm", "fill"]
    else:
        cases += [("lesson", 128), ("lesson", 1024), ("dcgan", 128), ("dcgan", 512)]
    for network, batch in cases:
        name = f"kernels-{network}-{batch}"
        command = [sys.executable, "kernels.py", "--network", network]
        command += ["--batch", str(batch), "--peers", *graph]
        command += ["--devices", *(["numpy"] if (network, batch) == ("lesson", 32) else []), device]
        record = ["--json", str(out / f"{name}.json"), *small]
        made.append(Part(name, "kernels", [*command, *record], limit))
        for precision in NARROW if batch <= 64 and not quick else ():
            record = ["--precision", precision, "--json", str(out / f"{name}-{precision}.json")]
            made.append(Part(f"{name}-{precision}", "kernels", [*command, *record], limit))
    return made


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _lacks(*modules: str) -> Callable[[], str | None]:
    def ask() -> str | None:
        missing = [name for name in modules if not _has(name)]
        return f"{', '.join(missing)} cannot be imported" if missing else None

    return ask


def _lacks_nvcc() -> str | None:
    from pygan.bindings import probe

    return None if probe.nvcc() else "no nvcc (python -m pygan.bindings.nvcc_report --fetch)"


def _lacks_sanitizer() -> str | None:
    """compute-sanitizer refuses some drivers and virtual machines: tried on one small launch."""
    missing = _lacks("pytest", "hypothesis")()
    if missing:
        return missing
    if shutil.which(SANITIZER) is None:
        return f"{SANITIZER} is not on PATH"
    script = (
        "import pygan.device as d; g = d.get('cuda'); y = g.empty(8); "
        "g.ops.fill(y, value=1.0); g.synchronize(); assert y.get().sum() == 8"
    )
    command = [SANITIZER, "--error-exitcode", str(SANITIZER_ERROR), sys.executable, "-c", script]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return f"{SANITIZER} did not end within 120 s on one launch"
    if run.returncode == 0:
        return None
    last = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()][-3:]
    return f"{SANITIZER} does not work here: {' / '.join(last)}"


def run_part(part: Part, out: Path, device: str) -> Outcome:
    """Runs it with its output in ``<name>.log``; whatever it started ends with it."""
    if part.only_cuda and device != "cuda":
        return Outcome(part.name, "not run", 0.0, "needs a GPU")
    lacking = part.needs()
    if lacking:
        return Outcome(part.name, "not run", 0.0, lacking)
    started = time.perf_counter()
    log = out / f"{part.name}.log"
    environment = {**os.environ, "PYGAN_TEST_DEVICES": device, "PYTHONUNBUFFERED": "1"}
    if part.latest is not None:
        environment["PYGAN_TEST_SECONDS"] = str(part.latest * part.limit)
    with open(log, "w") as stream:
        stream.write(f"$ {shlex.join(part.command).replace(sys.executable, 'python')}\n")
        stream.flush()
        process = subprocess.Popen(
            part.command,
            cwd=BENCHMARKS,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(part.limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = time.perf_counter() - started
    said = log.read_text(errors="replace").rstrip().splitlines()[1:]
    if code == 0:
        text = headline(out / f"{part.name}.json") or (said[-1].strip() if said else "")
        return Outcome(part.name, "passed", seconds, text)
    why = f"not done after {part.limit:.0f} s" if code is None else f"exit code {code}"
    return Outcome(part.name, "failed", seconds, "\n".join([*said[-LOG_LINES:], why]))


def headline(path: Path) -> str | None:
    """What a benchmark's record comes down to; None where there is none."""
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if "flops_per_step" in record:
        times = {name: each["seconds"]["median"] for name, each in record["devices"].items()}
        return "; ".join(f"{name} {1e3 * time:.3g} ms" for name, time in times.items())
    if "kernels" not in record:
        return None
    ratios: dict[str, list[float]] = {}
    for row in record["kernels"]:
        for name, ratio in row["ratios"].items():
            if row["flops"]:
                ratios.setdefault(name, []).append(ratio)
    text = f"{len(record['kernels'])} functions"
    means = {name: statistics.geometric_mean(each) for name, each in ratios.items()}
    said = [f"{mean:.3g} of {name}'s (of {len(ratios[name])})" for name, mean in means.items()]
    missing = len(record["not_measured"])
    if said:
        text += f"; time of products, geometric mean: {', '.join(said)}"
    return text + (f"; {missing} peers' figures missing, see its log" if missing else "")


def summary(title: str, device: str, outcomes: Sequence[Outcome], waiting: Sequence[str]) -> str:
    """Markdown: a row per part, the end of what failed, and what the folder holds."""
    lines = [f"# {title}", ""]
    if device != "cuda":
        lines += ["A trial without a GPU: no figure here says anything about one.", ""]
    lines += ["| part | | seconds | |", "| --- | --- | --- | --- |"]
    for each in outcomes:
        text = "see below" if each.state == "failed" else _one_line(each.text)
        lines.append(f"| {each.name} | {each.state} | {each.seconds:.0f} | {text} |")
    lines += [f"| {name} | waiting | | |" for name in waiting]
    for each in outcomes:
        if each.state == "failed":
            lines += ["", f"## {each.name} failed", "", "```", each.text, "```"]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    text = text.replace("|", "\\|").replace(str(REPOSITORY), ".")
    return text if len(text) <= 400 else text[:397] + "..."


def _pictures(out: Path) -> str:
    found = sorted(out.glob("*.png"))
    return "".join(f"\n![{path.stem}]({path.name})\n" for path in found)


def describe(out: Path) -> int:
    """The part ``machine``: what figures mean nothing without, as machine.json."""
    about = machine()
    about["commands"] = {
        command: _answer(shlex.split(command))
        for command in ("nvidia-smi", "nvcc --version", f"{SANITIZER} --version", "uname -srm")
    }
    about["packages"] = _answer([sys.executable, "-m", "pip", "list", "--format=freeze"])
    write_json(out / "machine.json", about)
    print(f"{about['processor']}, {about['cores']} cores, commit {about['commit']}")
    return 0


def _answer(command: Sequence[str]) -> str | list[str]:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (run.stdout + run.stderr).splitlines()


def gpu_name() -> str | None:
    """The first GPU's name; says on stderr why there is none."""
    from pygan.bindings import probe

    driver = probe.nvidia_driver()
    if driver.works:
        return driver.gpus[0].name
    reason = driver.error or "the driver has no GPU"
    print(f"no NVIDIA GPU can be used here ({reason}); nothing was recorded.", file=sys.stderr)
    print("`--device cpu --quick` tries the record out without one.", file=sys.stderr)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Tests, sanitizer runs and benchmarks of one GPU, in one folder."
    )
    parser.add_argument("--out", type=Path, help="folder (default: under benchmarks/records)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these groups or parts")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try it out")
    parser.add_argument("--limit", type=float, default=540, help="seconds a part may take")
    parser.add_argument("--within", type=float, metavar="S", help="seconds for all of them")
    parser.add_argument("--describe", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.describe:
        return describe(options.describe)
    if not _has("pygan.bindings"):
        print("pygan is not installed for this Python: pip install -e .", file=sys.stderr)
        return 2
    name = gpu_name() if options.device == "cuda" else "CPU driver"
    if name is None:
        return 2
    label = re.sub(r"[^a-z0-9]+", "-", name.removeprefix("NVIDIA ").lower()).strip("-")
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    folder = f"{today}-{label}-{commit().replace('+', '-')}"
    out = (options.out or BENCHMARKS / "records" / folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    title = f"{name}, {today}, commit {commit()}"
    named = out.relative_to(BENCHMARKS) if out.is_relative_to(BENCHMARKS) else out
    chosen = parts(options.device, options.quick, named, options.limit)
    known = {name for part in chosen for name in (part.group, part.name)}
    only = set(options.only or known)
    if only - known:
        names = ", ".join(dict.fromkeys(n for part in chosen for n in (part.group, part.name)))
        parser.error(f"there is no part {', '.join(sorted(only - known))}; there are {names}")
    if options.device == "cuda" and only - WITHOUT_KERNELS:
        only.add("compile")  # what follows would compile one by one
    chosen = [part for part in chosen if {part.group, part.name} & only]
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for index, part in enumerate(chosen):
        if options.within is not None:
            left = options.within - (time.monotonic() - began)
            if left < LEAST:
                print(f"the {options.within:.0f} s are spent", flush=True)
                break
            part = replace(part, limit=min(part.limit, left))
        print(f"{part.name} ...", flush=True)
        outcomes.append(run_part(part, out, options.device))
        latest = outcomes[-1]
        print(f"{latest.name}: {latest.state}, {latest.seconds:.0f} s. {_one_line(latest.text)}")
        waiting = [each.name for each in chosen[index + 1 :]]
        text = summary(title, options.device, outcomes, waiting)
        (out / "summary.md").write_text(text + _pictures(out))
    print(f"the record is in {out}")
    return 1 if any(each.state == "failed" for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
