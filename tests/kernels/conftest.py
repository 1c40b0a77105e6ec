"""The devices on which every kernel test runs.

``PYGAN_TEST_DEVICES`` is a comma-separated choice of ``cpu`` (the CPU driver), ``cpu-check`` (the
CPU driver in check mode) and ``cuda``; the default is ``cpu,cpu-check``. One process holds one CUDA
driver, so ``cuda`` cannot be combined with the others: test_on_gpu.py runs this folder a second
time on ``cuda`` where a GPU answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pygan.device
from pygan.bindings import compiler, nvcc_report
from pygan.bindings.context import Context

KNOWN = ("cpu", "cpu-check", "cuda")


def chosen_devices() -> list[str]:
    names = os.environ.get("PYGAN_TEST_DEVICES", "cpu,cpu-check").split(",")
    names = [name.strip() for name in names]
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise pytest.UsageError(f"PYGAN_TEST_DEVICES names {unknown}; known are {', '.join(KNOWN)}")
    if "cuda" in names and len(names) > 1:
        raise pytest.UsageError("PYGAN_TEST_DEVICES=cuda stands alone: one driver per process")
    return names


@pytest.fixture(scope="session", params=chosen_devices())
def device(request: pytest.FixtureRequest) -> Any:
    name, _, mode = request.param.partition("-")
    return pygan.device.get(name, check=mode == "check")


@pytest.fixture(scope="session", autouse=True)
def every_launched_set_is_listed() -> Iterator[None]:
    """What was compiled for a launch stands in the file's `// variants:` lines: that is what the
    compile report covers, and what is compiled ahead on a GPU."""
    image = Context.image
    unknown: set[tuple[str, str]] = set()

    def watched(context: Context, path: Path, defines: dict[str, Any]) -> bytes:
        if path.parent == compiler.kernels_dir():
            named = {name: str(value) for name, value in defines.items()}
            if named not in nvcc_report.launched(path.read_text(encoding="utf-8")):
                unknown.add((path.name, " ".join(compiler.define_flags(defines))))
        return image(context, path, defines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "image", watched)
        yield
    assert not unknown, f"launched, but not listed as variants: {sorted(unknown)}"
