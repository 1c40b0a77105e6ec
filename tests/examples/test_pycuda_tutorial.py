"""The PyCUDA tutorial: every chapter runs on device cpu, and a wrong result makes it fail."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(repository: Path) -> Path:
    return repository / "examples" / "pycuda_tutorial.py"


@pytest.fixture
def tutorial(script: Path) -> ModuleType:
    """The script as a module; importing it loads neither a driver nor PyCUDA."""
    spec = importlib.util.spec_from_file_location("pycuda_tutorial", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_chapter_runs_on_the_cpu_driver(script: Path, tutorial: ModuleType) -> None:
    pytest.importorskip("pycuda")
    command = [sys.executable, "-m", "pygan.bindings.cpu_driver", str(script)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYGAN_CPU_")}
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert result.stdout.startswith("cpu: ")

    titles = [tutorial.title(chapter) for chapter in tutorial.CHAPTERS]
    parts = re.split(r"^\d+\. (.*)$", result.stdout, flags=re.MULTILINE)[1:]
    assert parts[0::2] == titles
    for title, text in zip(titles, parts[1::2], strict=True):
        assert "\n    ok: " in text, f"{title}: nothing was held against numpy"

    report = parts[1::2][tutorial.CHAPTERS.index(tutorial.forgotten_barrier)]
    line = int(re.search(r"race in kernel block_sums at \S*reduction\.cu:(\d+)", report)[1])
    assert "sums[threadIdx.x] += " in tutorial.REDUCTION.splitlines()[line - 1]


def test_list_names_the_chapters(tutorial: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tutorial.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(tutorial.CHAPTERS)
    assert lines[0].split() == ["1.", "Double", "an", "array"]


def test_a_chapter_that_does_not_exist_is_refused(
    tutorial: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tutorial.main(["--chapter", str(len(tutorial.CHAPTERS) + 1)])
    assert stop.value.code == 2
    assert "--chapter" in capsys.readouterr().err


def test_a_wrong_result_ends_the_program_with_an_error(
    tutorial: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def chapter(context: object) -> None:
        """Sums"""
        tutorial.verify(float("nan") <= 1, "2 + 2 = 5")

    monkeypatch.setattr(tutorial, "CHAPTERS", (chapter,))
    monkeypatch.setattr(tutorial, "run", lambda *_: chapter(None))
    monkeypatch.setattr(tutorial, "start", lambda _: None)
    assert tutorial.main(["--brief"]) == 1
    assert "2 + 2 = 5" in capsys.readouterr().err
