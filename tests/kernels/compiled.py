"""What nvcc makes of a kernel, for tests that read it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from pygan.bindings import compiler


def intermediate_code(file: str, defines: Mapping[str, str]) -> dict[str, str]:
    """PTX by entry point."""
    nvcc, path = compiler.find_nvcc(), compiler.source_path(file)
    if nvcc is None:
        pytest.skip("no nvcc; `pip install pygan[nvcc]` or nvcc_report --fetch brings one")
    folders = [compiler.kernels_dir()]
    flags = ["-ptx", "-arch=sm_90a", *compiler.NVCC_FLAGS, *compiler.define_flags(defines)]
    version = "nvcc " + compiler.nvcc_version(nvcc)
    key = compiler.content_key(path, folders, flags, version, anywhere=True)
    text = compiler.cached(key, lambda: compiler.run_nvcc(nvcc, path, flags, folders)[0]).decode()
    _, *parts = re.split(r"^\.visible \.entry ", text, flags=re.M)
    return {re.match(r"\w+", part)[0]: part for part in parts}
