"""Hopper's products of matrices in shared memory: the instructions, without a convolution around.

On the CPU driver the plain body reads shared memory through descriptors, bit by bit as the PTX ISA
describes them, so these tests hold the driver to the ISA and the layout to the driver. On a GPU of
compute capability 9.0 they hold the same code to the instructions themselves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygan.bindings import compiler, nvcc_report
from pygan.bindings.errors import LaunchError
from pygan.reference.precision import rounded
from support import assert_close, numbers, poisoned, random_sum_bound, upload

TILE = Path(__file__).parent / "wgmma_tile.cu"
LINES = 64
SLABS = 1024
"""Bytes that a launch asks for beside its slabs, for their alignment."""

VARIANTS = (("tf32", 64), ("bf16", 128))
BYTES = {"tf32": 4, "bf16": 2}
PATTERNS = {0: 16, 1: 128, 2: 64, 3: 32}
"""Bytes of a row that are shuffled together, by the number in bits 62 and 63 of a descriptor."""

FAULTS = (
    "none",
    "no fence after the stores",
    "no fence before the products",
    "sums are read before they are waited for",
    "operands are overwritten before they are waited for",
    "no barrier",
    "rows are not shuffled",
    "descriptors name no pattern",
    "slabs are not aligned",
    "operands are not rounded",
)

both = pytest.mark.parametrize(("precision", "columns"), VARIANTS)


@pytest.fixture
def hopper(device: Any) -> Any:
    if device.context.device.compute_capability() != (9, 0):
        pytest.skip("wgmma is for GPUs of compute capability 9.0")
    return device


def sum_bound(terms: int) -> float:
    """As in test_tensor_core.py: relative to the sum of the products' magnitudes."""
    return 2 * random_sum_bound(terms + 2)


def run_tile(device: Any, precision: str, columns: int, depth: int, fault: int) -> Any:
    """(computed, expected, allowed) of a tile of random numbers."""
    rng = np.random.default_rng(depth + fault)
    left, right = numbers(rng, LINES, depth), numbers(rng, columns, depth)
    out = poisoned(device, LINES, columns)
    kernel = device.context.kernel(TILE, "tile", PRECISION=precision, TILE_N=columns)
    shared = 2 * (LINES + columns) * 32 * BYTES[precision] + SLABS
    operands = upload(device, left), upload(device, right)
    kernel(1, 128, *operands, out, depth, fault, shared_bytes=shared)
    exact = [rounded(each, precision).astype(np.float64) for each in (left, right)]
    magnitude = np.abs(exact[0]) @ np.abs(exact[1]).T
    return np.asarray(out), exact[0] @ exact[1].T, sum_bound(depth) * magnitude


@both
@pytest.mark.parametrize("depth", [32, 160])
def test_a_tile_of_a_product(hopper: Any, precision: str, columns: int, depth: int) -> None:
    """Stores, shuffled rows, descriptors, fences and waits, as a convolution uses them."""
    assert_close(*run_tile(hopper, precision, columns, depth, 0))


@both
@pytest.mark.parametrize("fault", range(1, len(FAULTS)), ids=FAULTS[1:])
def test_what_is_forgotten_shows(device: Any, precision: str, columns: int, fault: int) -> None:
    """On the CPU driver: each fault ends the launch or leaves wrong sums."""
    if device.name != "cpu" or device.check:
        pytest.skip("for the CPU driver, where the order of events is known")
    try:
        computed, expected, allowed = run_tile(device, precision, columns, 64, fault)
    except LaunchError:
        return
    assert not (np.abs(computed - expected) <= allowed).all()


def test_stores_without_fence_are_unwritten_memory_in_check_mode(device: Any) -> None:
    if not device.check:
        pytest.skip("for check mode")
    with pytest.raises(LaunchError, match="no thread of this block has written"):
        run_tile(device, *VARIANTS[0], 32, FAULTS.index("no fence after the stores"))


class Layout:
    """Where an operand's chunks of 16 bytes lie, from the ISA's canonical layouts: with T numbers
    in 16 bytes, ((8, m), (T, 2)) : ((span / 16 * T, stride), (1, T)), and without a pattern
    ((T, stride), (1, leading)); a pattern of span bytes then exchanges chunks of its 8 rows."""

    def __init__(
        self, pattern: int, rows: int, start: int, stride: int, leading: int = 16, first: int = 0
    ) -> None:
        """first: of 128 bytes each, rows from a multiple of 1024 to where the pattern begins."""
        self.pattern, self.rows, self.start = pattern, rows, start + 128 * first
        self.stride, self.leading, self.first = stride, leading, first

    def bytes_of(self, row: int, chunk: int) -> int:
        span = PATTERNS[self.pattern]
        eight, within = divmod(row, 8)
        if self.pattern == 0:
            return self.start + eight * self.stride + within * 16 + chunk * self.leading
        plain = self.start + eight * self.stride + within * span + chunk * 16
        bits = {128: 3, 64: 2, 32: 1}[span]  # Swizzle<bits, 4, 3>
        return plain ^ (((plain >> 7) - self.first) % (1 << bits)) << 4

    def descriptor(self) -> int:
        fields = (self.start >> 4, 0), (self.leading >> 4, 16), (self.stride >> 4, 32)
        fields += (self.first, 49), (self.pattern, 62)
        return sum(value << place for value, place in fields)

    def write(self, image: np.ndarray, operand: np.ndarray, precision: str) -> None:
        """Rows of 32 bytes of the tensor core's numbers into an image of shared memory."""
        words = operand.astype(np.float32).view(np.uint32)
        if precision == "bf16":
            halves = words >> 16
            words = halves[:, 0::2] | halves[:, 1::2] << 16
        for row in range(self.rows):
            for chunk in range(2):
                place = self.bytes_of(row, chunk) // 4
                assert not image[place : place + 4].any(), "two chunks lie in one place"
                image[place : place + 4] = words[row, 4 * chunk : 4 * chunk + 4]


@both
@pytest.mark.parametrize("pattern", PATTERNS)
def test_descriptors_are_read_as_the_isa_says(
    hopper: Any, precision: str, columns: int, pattern: int
) -> None:
    """Every pattern, at the first and, where a row is longer, the last 32 bytes of its rows."""
    span = PATTERNS[pattern]
    begins = 16 * 1024
    if pattern == 0:  # 128 bytes of 8 rows, second chunks behind all first ones
        left = Layout(pattern, LINES, 0, 128, 128 * (LINES // 8))
        right = Layout(pattern, columns, begins, 256, 256 * (columns // 8))
        check_descriptors(hopper, precision, left, right)
        return
    for within in {0, span - 32}:
        left = Layout(pattern, LINES, within, 8 * span)
        right = Layout(pattern, columns, begins + within, 16 * span)
        check_descriptors(hopper, precision, left, right)


@pytest.mark.parametrize("pattern", [1, 2, 3])
def test_patterns_that_begin_elsewhere(device: Any, pattern: int) -> None:
    """Their descriptors name the row; no kernel here uses them, and no GPU has been asked."""
    if device.name != "cpu":
        pytest.skip("what the ISA says of it is held to the CPU driver alone")
    precision, columns = VARIANTS[0]
    left = Layout(pattern, LINES, 0, 8 * PATTERNS[pattern], first=3)
    right = Layout(pattern, columns, 16 * 1024, 8 * PATTERNS[pattern], first=5)
    check_descriptors(device, precision, left, right)


def check_descriptors(device: Any, precision: str, left: Layout, right: Layout) -> None:
    """One product of random numbers that lie as `left` and `right` say."""
    depth = 32 // BYTES[precision]
    rng = np.random.default_rng(left.pattern)
    operands = [rounded(numbers(rng, layout.rows, depth), precision) for layout in (left, right)]
    image = np.zeros(48 * 1024 // 4, np.uint32)
    halves = []
    for layout, operand in zip((left, right), operands, strict=True):
        layout.write(image, operand, precision)
        bits = layout.descriptor()
        halves += [bits & 0xFFFFFFFF, bits >> 32]
    kernel = device.context.kernel(
        TILE, "product_of_descriptors", PRECISION=precision, TILE_N=right.rows
    )
    out = poisoned(device, LINES, right.rows)
    source = device.from_numpy(image.view(np.int32))
    kernel(1, 128, source, image.size, *halves, out, shared_bytes=image.nbytes + SLABS)
    exact = [operand.astype(np.float64) for operand in operands]
    magnitude = np.abs(exact[0]) @ np.abs(exact[1]).T
    assert_close(out, exact[0] @ exact[1].T, sum_bound(depth) * magnitude)


def machine_code(path: Path, defines: dict[str, Any]) -> dict[str, str]:
    """PTX by entry point for sm_90a, after ptxas has taken it with warnings as errors, and said
    nothing of products that it could not leave under way."""
    nvcc = compiler.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc; `pip install pygan[nvcc]` or nvcc_report --fetch brings one")
    flags = ["-arch=sm_90a", "-std=c++17", *compiler.define_flags(defines)]
    folders = [compiler.kernels_dir()]
    strict = ["-cubin", "-Werror", "all-warnings", "-Xptxas", "-v", *flags]
    said = compiler.run_nvcc(nvcc, path, strict, folders)[1]
    assert not nvcc_report.SERIALIZED.search(said), said
    text = compiler.run_nvcc(nvcc, path, ["-ptx", *flags], folders)[0].decode()
    _, *parts = re.split(r"^\.visible \.entry ", text, flags=re.M)
    return {re.match(r"\w+", part)[0]: part for part in parts}


def instructions(precision: str, columns: int) -> tuple[str, ...]:
    depth = {"tf32": 8, "bf16": 16}[precision]
    return (
        f"wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{precision}.{precision}",
        "wgmma.fence.sync.aligned",
        "wgmma.commit_group.sync.aligned",
        "wgmma.wait_group.sync.aligned",
        "fence.proxy.async.shared::cta",
    )


@both
def test_a_gpu_gets_the_instructions(precision: str, columns: int) -> None:
    """The plain bodies are for the CPU driver alone, and products stay under way on a GPU."""
    for code in machine_code(TILE, {"PRECISION": precision, "TILE_N": columns}).values():
        for instruction in instructions(precision, columns):
            assert instruction in code, f"no {instruction}"
        assert "shfl" not in code
