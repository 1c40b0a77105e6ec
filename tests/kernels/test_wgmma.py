"""Hopper's products of matrices in shared memory: the instructions, without a convolution around.

On the CPU driver the plain body reads shared memory through descriptors, bit by bit as the PTX ISA
describes them, so these tests hold the driver to the ISA and the layout to the driver. On a GPU of
compute capability 9.0 they hold the same code to the instructions themselves.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from halves import half_numbers, upload_half

from pygan.bindings import compiler, nvcc_report
from pygan.bindings.errors import LaunchError
from pygan.reference.precision import rounded
from support import assert_close, numbers, poisoned, random_sum_bound, upload

TILE = Path(__file__).parent / "wgmma_tile.cu"
BF16_TILE = Path(__file__).parent / "wgmma_bf16_tile.cu"
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

COPY_FAULTS = (
    "none",
    "copies are not waited for",
    "no fence after the copies",
    "the fence comes before the wait",
    "no barrier",
    "operands are overwritten before they are waited for",
    "rows are not shuffled",
    "the other order is named",
    "descriptors name no leading offset",
)
ORDERS = {"along, along": (0, 0), "along, across": (0, 1), "across, across": (1, 1)}
"""Of rows of both operands, along the depth or across the lines, as the three passes have them."""

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
        return self.exchanged(self.start + eight * self.stride + within * span + chunk * 16)

    def exchanged(self, plain: int) -> int:
        bits = self.pattern and 4 - self.pattern  # Swizzle<bits, 4, 3>
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


def check_descriptors(
    device: Any,
    precision: str,
    left: Layout,
    right: Layout,
    across: tuple[int, int] | None = None,
) -> None:
    """One product of random numbers that lie as `left` and `right` say. across: of each operand,
    whether rows lie across lines; None for the kernel that has them along the depth alone."""
    depth = 32 // BYTES[precision]
    rng = np.random.default_rng(left.pattern)
    operands = [rounded(numbers(rng, layout.rows, depth), precision) for layout in (left, right)]
    image = np.zeros(48 * 1024 // 4, np.uint32)
    halves = []
    for layout, operand in zip((left, right), operands, strict=True):
        layout.write(image, operand, precision)
        bits = layout.descriptor()
        halves += [bits & 0xFFFFFFFF, bits >> 32]
    path, defines, orders = TILE, {"PRECISION": precision}, ()
    if across is not None:
        path, defines, orders = BF16_TILE, {}, across
    kernel = device.context.kernel(path, "product_of_descriptors", TILE_N=right.rows, **defines)
    out = poisoned(device, LINES, right.rows)
    source = device.from_numpy(image.view(np.int32))
    kernel(1, 128, source, image.size, *halves, *orders, out, shared_bytes=image.nbytes + SLABS)
    exact = [operand.astype(np.float64) for operand in operands]
    magnitude = np.abs(exact[0]) @ np.abs(exact[1]).T
    assert_close(out, exact[0] @ exact[1].T, sum_bound(depth) * magnitude)


class AcrossLines(Layout):
    """As Layout, of rows across lines. The ISA's canonical layouts of numbers are, with T of them
    in 16 bytes, ((T, span / 16, m), (8, k)) : ((1, T, leading), (span / 16 * T, stride)), and
    without a pattern ((T, m), (8, k)) : ((1, stride), (T, leading))."""

    def bytes_of(self, row: int, chunk: int) -> int:
        """row: a depth; chunk: of 8 lines."""
        span = PATTERNS[self.pattern]
        eight, within = divmod(row, 8)
        further, beside = divmod(chunk, span // 16)
        if self.pattern == 0:
            return self.start + further * self.stride + within * 16 + eight * self.leading
        place = further * self.leading + eight * self.stride + within * span + beside * 16
        return self.exchanged(self.start + place)

    def write(self, image: np.ndarray, operand: np.ndarray, precision: str) -> None:
        words = operand.T.astype(np.float32).view(np.uint32) >> 16
        words = words[:, 0::2] | words[:, 1::2] << 16
        for row in range(words.shape[0]):
            for chunk in range(self.rows // 8):
                place = self.bytes_of(row, chunk) // 4
                assert not image[place : place + 4].any(), "two chunks lie in one place"
                image[place : place + 4] = words[row, 4 * chunk : 4 * chunk + 4]


def layout_of(across: int, pattern: int, lines: int, start: int) -> Layout:
    """Rows of one instruction, with room between what the descriptor's two offsets part."""
    span = PATTERNS[pattern]
    if not across:
        if pattern == 0:
            return Layout(pattern, lines, start, 128, 128 * (lines // 8))
        return Layout(pattern, lines, start, 8 * span)
    if pattern == 0:
        return AcrossLines(pattern, lines, start, 384, 128)
    return AcrossLines(pattern, lines, start, 8 * span, 24 * span)


@pytest.mark.parametrize("columns", [64, 128])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_across_lines_are_read_as_the_isa_says(
    hopper: Any, columns: int, pattern: int
) -> None:
    """bf16, both orders of either operand."""
    if hopper.check:
        pytest.skip("of accesses there is nothing new here")
    for across in itertools.product((0, 1), repeat=2):
        left = layout_of(across[0], pattern, LINES, 0)
        right = layout_of(across[1], pattern, columns, 24 * 1024)
        check_descriptors(hopper, "bf16", left, right, across)


def run_copies(device: Any, columns: int, depth: int, across: tuple[int, int], fault: int) -> Any:
    """(computed, expected, allowed) of a tile of random bf16 numbers, copied as they lie."""
    rng = np.random.default_rng(depth + fault)
    operands = [half_numbers(rng, lines, depth) for lines in (LINES, columns)]
    out = poisoned(device, LINES, columns)
    kernel = device.context.kernel(BF16_TILE, "tile_of_copies", TILE_N=columns)
    sources = [
        upload_half(device, each.T if turned else each)
        for each, turned in zip(operands, across, strict=True)
    ]
    shared = 3 * (LINES + columns) * 64 * 2 + SLABS
    kernel(1, 128, *sources, out, depth, *across, fault, shared_bytes=shared)
    exact = [each.astype(np.float64) for each in operands]
    magnitude = np.abs(exact[0]) @ np.abs(exact[1]).T
    return np.asarray(out), exact[0] @ exact[1].T, sum_bound(depth) * magnitude


@pytest.mark.parametrize("across", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("columns", [64, 128])
def test_a_tile_of_copied_operands(hopper: Any, columns: int, across: tuple[int, int]) -> None:
    """Copies, both orders of rows, fences and waits, as a convolution of bf16 arrays uses them."""
    for depth in (64, 320):
        assert_close(*run_copies(hopper, columns, depth, across, 0))


@pytest.mark.parametrize("across", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("fault", range(1, len(COPY_FAULTS)), ids=COPY_FAULTS[1:])
def test_what_is_forgotten_of_copies_shows(
    device: Any, fault: int, across: tuple[int, int]
) -> None:
    """On the CPU driver: each fault ends the launch or leaves wrong sums."""
    if device.name != "cpu" or device.check:
        pytest.skip("for the CPU driver, where the order of events is known")
    if COPY_FAULTS[fault].endswith("leading offset") and not across[1]:
        pytest.skip("rows along the depth have none")
    try:
        computed, expected, allowed = run_copies(device, 128, 320, across, fault)
    except LaunchError:
        return
    assert not (np.abs(computed - expected) <= allowed).all()


def test_copies_without_fence_are_unwritten_memory_in_check_mode(device: Any) -> None:
    if not device.check:
        pytest.skip("for check mode")
    for fault in ("copies are not waited for", "no fence after the copies"):
        with pytest.raises(LaunchError, match="no thread of this block has written"):
            run_copies(device, 64, 64, (1, 1), COPY_FAULTS.index(fault))


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


FENCES = (
    "wgmma.fence.sync.aligned",
    "wgmma.commit_group.sync.aligned",
    "wgmma.wait_group.sync.aligned",
    "fence.proxy.async.shared::cta",
)


def instructions(precision: str, columns: int) -> tuple[str, ...]:
    depth = {"tf32": 8, "bf16": 16}[precision]
    return (
        f"wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{precision}.{precision}",
        *FENCES,
    )


@both
def test_a_gpu_gets_the_instructions(precision: str, columns: int) -> None:
    """The plain bodies are for the CPU driver alone, and products stay under way on a GPU."""
    for code in machine_code(TILE, {"PRECISION": precision, "TILE_N": columns}).values():
        for instruction in instructions(precision, columns):
            assert instruction in code, f"no {instruction}"
        assert "shfl" not in code


@pytest.mark.parametrize("columns", [64, 128])
def test_a_gpu_gets_both_orders(columns: int) -> None:
    """The last two operands of the instruction say which rows lie across lines."""
    codes = machine_code(BF16_TILE, {"TILE_N": columns})
    for instruction in instructions("bf16", columns)[:-1]:
        assert all(instruction in code for code in codes.values()), f"no {instruction}"
    assert "cp.async.cg.shared.global" in codes["tile_of_copies"]
    for code, orders in (
        (codes["tile_of_copies"], ORDERS.values()),
        (codes["product_of_descriptors"], itertools.product((0, 1), repeat=2)),
    ):
        found = re.findall(r"wgmma\.mma_async.*?(\w+),\s*(\w+)\s*;", code, flags=re.S)
        assert {(int(left), int(right)) for left, right in found} == set(orders)
