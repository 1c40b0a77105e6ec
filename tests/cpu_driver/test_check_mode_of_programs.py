"""Check mode as a PyCUDA program meets it, whose images PyCUDA keeps in a cache of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pycuda")


def test_check_mode_is_not_answered_by_an_image_compiled_without_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    # tmp_path makes it a source that PyCUDA's cache has not seen before the unchecked run.
    program.write_text(f"""
import numpy as np
import pycuda.autoprimaryctx, pycuda.driver as drv
from pycuda.compiler import SourceModule

kernel = SourceModule('''// {tmp_path}
    __global__ void reverse(float *x) {{
        __shared__ float s[32];
        s[threadIdx.x] = x[threadIdx.x];
        x[threadIdx.x] = s[31 - threadIdx.x];
    }}
''').get_function("reverse")
kernel(drv.InOut(np.ones(32, np.float32)), block=(32, 1, 1))
print("done")
""")
    environment = {k: v for k, v in os.environ.items() if k != "PYGAN_CPU_CHECK"}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pygan.bindings.cpu_driver", *options, str(program)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=300,
        )

    plain = run()
    assert plain.stdout == "done\n", plain.stderr
    checked = run("--check")
    assert checked.returncode == 1
    assert "in kernel reverse at" in checked.stderr
