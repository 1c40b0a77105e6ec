"""What a GPU is given and the CPU driver cannot show: read in the PTX that nvcc makes."""

from __future__ import annotations

import re

from compiled import intermediate_code


def test_only_what_is_written_as_fused_is_fused() -> None:
    """A gradient that is added, old + dy * slope: two roundings in every kernel that computes it.
    An instruction without `rn` would let ptxas fuse it with another."""
    code = intermediate_code("activation.cu", {"ACTIVATION": "relu"})["activation_backward"]
    arithmetic = set(re.findall(r"\b(?:fma|mul|add|sub)\.[\w.]*f32\b", code))
    assert {"mul.rn.f32", "add.rn.f32"} <= arithmetic
    assert not any(name.startswith("fma") for name in arithmetic)
    assert all(".rn" in name for name in arithmetic)


def test_a_program_reads_no_results_through_the_read_only_path() -> None:
    """ld.global.nc does not see what other blocks wrote in the same launch: of a program it reads
    the table of jobs alone, which has 64-bit numbers."""
    (code,) = intermediate_code("program.cu", {"MOST_JOBS": "48"}).values()
    assert set(re.findall(r"\bld\.global\.nc[\w.]*", code)) == {"ld.global.nc.u64"}
    assert re.search(r"\bld\.acquire\.gpu\.global\.u64\b", code)
    assert "atom.add.acq_rel.gpu.global.u64" in code and "atom.acq_rel.gpu.global.inc.u32" in code
