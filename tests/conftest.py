"""What all tests share: how hypothesis draws, and where real data and recorded results lie."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test has a deadline: a first call compiles a kernel, and machines differ. Under CI the examples
# are the same in every run, so that a red run is the fault of the change under test.
settings.register_profile(
    "dev", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# BLAS threads spin while they wait for each other; where cores are shared with compilers, child
# processes or other jobs, that makes small products a hundred times slower. Read when numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Beside other test processes (pytest-xdist) device `cpu` takes its share of the cores; at least
# two, so that blocks still run side by side.
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("PYGAN_CPU_THREADS", str(max(2, (os.cpu_count() or 1) // processes)))

# PYGAN_TEST_SECONDS: what would begin later than so many seconds after this is skipped.
LATEST = time.monotonic() + float(os.environ.get("PYGAN_TEST_SECONDS", "inf"))

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes ``-n auto`` (make test) means: one per core. 0, all tests in this process,
    on one core, and where a GPU answers, which the tests then have to themselves."""
    from pygan.bindings import probe

    ours = getattr(os, "sched_getaffinity", None)
    cores = len(ours(0)) if ours else os.cpu_count() or 1
    alone = cores < 2 or probe.nvidia_driver().works
    return 0 if alone else min(cores, 8)


def pytest_runtest_setup() -> None:
    if time.monotonic() > LATEST:
        pytest.skip("the seconds of PYGAN_TEST_SECONDS are spent")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working copy."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets (PYGAN_DATA); the test is skipped where there is none."""
    named = os.environ.get("PYGAN_DATA")
    if not named:
        pytest.skip("PYGAN_DATA is not set: it names the folder with mnist/ and CIFAR-10")
    folder = Path(named).expanduser().resolve()
    if not folder.is_dir():
        pytest.fail(f"PYGAN_DATA names {named}, which is no folder")
    return folder


@pytest.fixture(scope="session")
def golden_dir(data_dir: Path) -> Path:
    """The folder of full recorded results beside the data; skipped where there is none."""
    folder = data_dir.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"no folder golden beside {data_dir}")
    return folder
