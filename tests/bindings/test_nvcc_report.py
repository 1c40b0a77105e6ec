"""Every kernel under real nvcc: no warning, no spilled register.

Every set of macros is compiled for sm_90a, and every file in its first set for sm_75. All sets for
sm_75, sm_80 and sm_100 is what `make report` is for: three times the work.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pygan.bindings import compiler, nvcc_report
from pygan.bindings.errors import DeviceUnavailable


@pytest.fixture(scope="module")
def nvcc() -> Path:
    found = compiler.find_nvcc()
    if found is None:
        text = "no nvcc; `pip install pygan[nvcc]` or nvcc_report --fetch brings one"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


@pytest.mark.parametrize("file", sorted(compiler.kernels_dir().glob("*.cu")), ids=lambda f: f.name)
def test_every_kernel_compiles_without_warning_or_spill(nvcc: Path, file: Path) -> None:
    report = nvcc_report.make_report([file], quick=True)
    assert not report.failures, "\n\n".join(report.failures)
    spilling = [usage for usage in report.usages if usage.spills]
    assert not spilling, f"registers are spilled: {spilling}"
    source = file.read_text(encoding="utf-8")
    expected = {
        (" ".join(defines), arch)
        for arch in nvcc_report.ARCHITECTURES
        for defines in nvcc_report.compiled_sets(source, arch, quick=True)
    }
    assert {" ".join(defines) for defines in nvcc_report.variants(source)} <= {
        defines for defines, arch in expected if arch == nvcc_report.MAIN
    }
    assert {(usage.defines, usage.arch) for usage in report.usages} == expected


def test_there_are_kernels_to_compile() -> None:
    """An empty folder would pass every test of its files."""
    assert len(list(compiler.kernels_dir().glob("*.cu"))) > 10


SPILLING = """// variants: -DN=200 | -DN=2
extern "C" __global__ void __launch_bounds__(1024, 1) heavy(const float* x, float* y, int n) {
    float a[N];
    #pragma unroll
    for (int i = 0; i < N; i++) a[i] = x[i * n + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < N; i++) y[(N - 1 - i) * n + threadIdx.x] = a[i] * a[(i * 7) % N];
}
"""


def test_spills_are_found(nvcc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "heavy.cu"
    file.write_text(SPILLING)
    out = tmp_path / "report.json"
    arguments = [str(file), "--arch", "sm_75", "--json", str(out)]
    assert nvcc_report.main(arguments) == 1
    printed = capsys.readouterr()
    assert "SPILLS" in printed.out
    assert "these entry points spill registers: heavy" in printed.err
    content = json.loads(out.read_text())
    spilled = {usage["defines"]: usage["spill_store_bytes"] for usage in content["usages"]}
    assert not content["good"]
    assert spilled["-DN=200"] > 0
    assert spilled["-DN=2"] == 0


def test_warnings_fail(nvcc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "warns.cu"
    file.write_text('extern "C" __global__ void k(float* y) {\n    int unused = 1;\n}\n')
    assert nvcc_report.main([str(file), "--arch", "sm_80"]) == 1
    printed = capsys.readouterr().err
    assert "unused" in printed
    assert "warns.cu(2)" in printed


SERIALIZED = """#include "wgmma.cuh"
extern "C" __global__ void k(float* y) {
    float sums[32] = {};
    Products<tf32, 64> products;
    products.fence();
    for (int i = 0; i < 8; i++) {
        products.multiply_add(sums, descriptor<128>(0), descriptor<128>(8192));
        products.end_group();
        y[i] = sums[0];  // read before they are waited for
    }
    products.wait<0>();
}
"""


def test_products_that_cannot_stay_under_way_fail(
    nvcc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serialized.cu"
    file.write_text(SERIALIZED)
    assert nvcc_report.main([str(file), "--arch", "sm_90a"]) == 1
    assert "products of warpgroups wait for each other" in capsys.readouterr().err


def test_shared_memory_and_registers_are_read() -> None:
    text = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_75'
ptxas info    : Function properties for a
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 2048 bytes smem, 392 bytes cmem[0]
ptxas info    : Compiling entry function 'b' for 'sm_90a'
ptxas info    : Function properties for b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers
"""
    first, second = nvcc_report.parse_usages(text, "f.cu", "-DX")
    assert (first.entry, first.arch, first.registers, first.shared_bytes) == (
        "a",
        "sm_75",
        30,
        2048,
    )
    assert (first.stack_bytes, first.spill_store_bytes, first.spill_load_bytes) == (8, 4, 12)
    assert first.spills
    assert (second.entry, second.registers, second.shared_bytes) == ("b", 18, 0)
    assert not second.spills


def test_variants_of_a_file() -> None:
    assert nvcc_report.variants("int x;") == [()]
    listed = "// variants: -DA=1 -DB | -DA=2\n  // variants: -DA=3\n"
    assert nvcc_report.variants(listed) == [("-DA=1", "-DB"), ("-DA=2",), ("-DA=3",)]
    with pytest.raises(ValueError, match="-O0"):
        nvcc_report.variants("// variants: -O0")


def test_variants_for_newer_hardware_are_left_out_for_older() -> None:
    listed = "// variants: -DA=1\n// variants(sm_80): -DA=2 | -DA=3\n// variants(sm_90): -DA=4\n"
    assert nvcc_report.variants(listed) == [("-DA=1",), ("-DA=2",), ("-DA=3",), ("-DA=4",)]
    assert nvcc_report.variants(listed, "sm_75") == [("-DA=1",)]
    assert nvcc_report.variants(listed, "sm_80") == [("-DA=1",), ("-DA=2",), ("-DA=3",)]
    assert len(nvcc_report.variants(listed, "sm_100")) == 4
    assert nvcc_report.variants("// variants(sm_80): -DA", "sm_75") == []
    # What only sm_90a has is compiled for nothing else.
    kept = [nvcc_report.variants("// variants(sm_90a): -DA", a) for a in nvcc_report.ARCHITECTURES]
    assert kept == [[], [], [("-DA",)], []]
    with pytest.raises(ValueError, match="compute_80"):
        nvcc_report.variants("// variants(compute_80): -DA", "sm_75")


def test_a_quick_report_has_all_sets_of_one_architecture_and_the_first_of_the_oldest() -> None:
    listed = "// variants: -DA=1 | -DA=2\n// variants(sm_80): -DA=3\n// variants(sm_90a): -DA=4\n"
    sets = {a: nvcc_report.compiled_sets(listed, a, True) for a in nvcc_report.ARCHITECTURES}
    first, everything = [("-DA=1",)], [("-DA=1",), ("-DA=2",), ("-DA=3",), ("-DA=4",)]
    assert sets == {"sm_75": first, "sm_80": [], "sm_90a": everything, "sm_100": []}
    assert nvcc_report.compiled_sets(listed, "sm_75", False) == [("-DA=1",), ("-DA=2",)]
    assert nvcc_report.compiled_sets("// variants(sm_80): -DA", "sm_75", True) == []


def test_without_nvcc_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nvcc_report.compiler.probe, "nvcc", lambda: None)
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path))
    compiler.require_nvcc.cache_clear()
    with pytest.raises(DeviceUnavailable, match="--fetch"):
        compiler.require_nvcc()
    assert nvcc_report.main([]) == 2
    assert "--fetch" in capsys.readouterr().err
