"""PyCUDA's own tests on the CPU driver: the yardstick for "unmodified PyCUDA works".

The tests come from PyCUDA's source package of the installed version, fetched through pip once and
kept in the cache folder. Which of them fail, and why, stands in the driver's README; this test
holds that list to the truth.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

from pygan.bindings.cache import cache_dir

pytest.importorskip("pycuda")

# Two processes of about the same length: most of test_gpuarray.py is one parametrised test.
SHARES = [
    ["test_gpuarray.py", "-k", "unequal_dtypes"],
    ["test_driver.py", "test_cumath.py", "test_gpuarray.py", "-k", "not unequal_dtypes"],
]
# With a PyCUDA built without cuRAND these loop over an empty list of generators: nothing is tested.
NEED_CURAND = ("test_curand_wrappers",)
REQUIRED_SHARE = 0.9


@dataclass
class Outcome:
    name: str
    result: str  # "passed", "failed", "skipped", "xfailed"
    reason: str


def source_package() -> Path:
    """The unpacked source package of the installed PyCUDA."""
    version = importlib.metadata.version("pycuda")
    folder = cache_dir() / "pycuda-source"
    unpacked = folder / f"pycuda-{version}"
    if not (unpacked / "test").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "pycuda"]
        result = subprocess.run(
            [*command, f"pycuda=={version}", "--dest", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        archive = folder / f"pycuda-{version}.tar.gz"
        if result.returncode != 0 or not archive.exists():
            message = f"PyCUDA {version}'s source package cannot be fetched: {result.stderr[-500:]}"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return unpacked / "test"


def outcomes_in(report: Path) -> list[Outcome]:
    outcomes = []
    for case in ET.parse(report).getroot().iter("testcase"):
        file, _, group = case.attrib["classname"].rpartition(".test_")[2].partition(".")
        name = "::".join(filter(None, [f"test_{file}.py", group, case.attrib["name"]]))
        result, reason = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                result, reason = "failed", child.attrib.get("message", "")
            elif child.tag == "skipped":
                expected = child.attrib.get("type") == "pytest.xfail"
                result = "xfailed" if expected else "skipped"
                reason = child.attrib.get("message", "")
        outcomes.append(Outcome(name, result, reason))
    return outcomes


def run_all(tests: Path, tmp_path: Path) -> list[Outcome]:
    environment = os.environ | {
        # Small enough that PyCUDA skips what needs more than 4 GB.
        "PYGAN_CPU_MEMORY": str(4 * 10**9),
        "PYCUDA_CACHE_DIR": str(cache_dir() / "pycuda-tests"),
        "PYTHONPATH": "",
    }
    environment.pop("PYGAN_CPU_CHECK", None)
    environment.pop("PYGAN_CPU_THREAD_ORDER", None)
    Path(environment["PYCUDA_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
    runner = [sys.executable, "-m", "pygan.bindings.cpu_driver", "-m", "pytest"]
    options = ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
    started = []
    for number, share in enumerate(SHARES):
        report = tmp_path / f"report-{number}.xml"
        log = (tmp_path / f"log-{number}.txt").open("w+")
        command = [*runner, *options, f"--junitxml={report}", *share]
        started.append(
            (
                subprocess.Popen(
                    command, cwd=tests, env=environment, stdout=log, stderr=subprocess.STDOUT
                ),
                report,
                log,
            )
        )
    outcomes = []
    for process, report, log in started:
        process.wait()
        log.seek(0)
        text = log.read()
        log.close()
        # 1 only says that some tests failed; anything else, a crash above all, is an error here.
        assert process.returncode in (0, 1) and report.exists(), text[-4000:]
        outcomes += outcomes_in(report)
    return outcomes


def listed_failures(readme: str) -> dict[str, str]:
    """Test name -> reason, from the list in the README."""
    section = re.search(r"### PyCUDA's tests that fail\n(.*?)\n#", readme, re.DOTALL)
    assert section, "the README of the CPU driver lacks the list of failing tests"
    return dict(re.findall(r"^- `(test_\w+\.py::[^`]+)`: (.+)$", section[1], re.MULTILINE))


def test_pycudas_own_tests_pass_but_for_those_listed(repository: Path, tmp_path: Path) -> None:
    outcomes = run_all(source_package(), tmp_path)
    assert len(outcomes) > 250
    listed = listed_failures((repository / "bindings/cpu_driver/README.md").read_text())

    failed = {o.name: o.reason for o in outcomes if o.result == "failed"}
    assert set(failed) == set(listed), {
        "fail but are not listed": {k: v for k, v in failed.items() if k not in listed},
        "listed but do not fail": sorted(set(listed) - set(failed)),
    }

    def counts(outcome: Outcome) -> bool:
        reason = outcome.reason + listed.get(outcome.name, "")
        out_of_scope = re.search(r"texture|surface|second GPU|JIT linker", reason)
        return not out_of_scope and outcome.result != "xfailed"

    pool = [o for o in outcomes if counts(o)]
    passed = [o for o in pool if o.result == "passed" and not o.name.endswith(NEED_CURAND)]
    assert len(passed) >= REQUIRED_SHARE * len(pool)
