"""What a run shows while it works, or waits."""

from __future__ import annotations

import logging

from pygan import progress
from pygan.bindings import compiler


class Lines:
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_compiling_is_said_once_and_then_now_and_then(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Lines()
    with progress.CompilingSaid(shown):
        for _ in range(3):
            compiler.log.info("%s for device cpu", "pooling.cu")
        now += progress.PLAIN_SECONDS
        compiler.log.info("%s for device cpu", "pooling.cu")
    compiler.log.info("%s for device cpu", "after.cu")
    assert shown.lines == [
        "compiling kernels, which are kept for later runs",
        "compiling kernels: 3 done",
    ]
    assert not compiler.log.isEnabledFor(logging.INFO)


def test_a_compiled_kernel_is_named_and_a_cached_one_is_not(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path))
    monkeypatch.setattr("pygan.bindings.cpu_driver.compile", lambda *args, **options: b"image")
    path = compiler.source_path("pooling.cu")
    with caplog.at_level(logging.INFO, "pygan.compiling"):
        assert compiler.compile_for_cpu(path, {}, check=False) == b"image"
        assert compiler.compile_for_cpu(path, {}, check=False) == b"image"
    assert caplog.messages == ["pooling.cu for device cpu"]
