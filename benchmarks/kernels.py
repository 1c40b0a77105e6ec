"""Every function of the kernel interface, per device: checked, timed, checked again.

    python benchmarks/kernels.py [--devices numpy cpu] [--only NAME ...] [--json FILE] [--quick]

Each function runs at the shapes of the lesson's GAN, batch 32 (benchmarks/cases.py). Before and
after the timing its results on poisoned outputs are compared with the numpy twin's; a function that
is wrong is not timed and makes the exit code 1. GFLOP/s and GB/s count useful work: products that
the operator is defined by, every input read once, every output written once. On a GPU calls rotate
among copies of the arrays that together exceed twice the L2 cache.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import TOLERANCE, Case, all_cases
from measuring import (
    Timing,
    default_devices,
    devices,
    difference,
    machine,
    measure,
    print_table,
    write_json,
)


@dataclass(frozen=True)
class Result:
    """One case on one device; `share` is the largest share of the allowed difference."""

    case: Case
    device: str
    timing: Timing
    share: float

    @property
    def gflops(self) -> float:
        return 1e-9 * self.case.flops / self.timing.median

    @property
    def gigabytes(self) -> float:
        return 1e-9 * self.case.nbytes / self.timing.median


class Bound:
    """A case's arrays on a device, and calls of its function on them."""

    def __init__(self, device: Any, case: Case) -> None:
        self.device, self.case = device, case
        self.arrays = [None if host is None else device.from_numpy(host) for host in case.arrays]
        for index in case.written:
            _poison(self.arrays[index])
        self.attributes = dict(case.attributes)
        needed = device.ops.workspace_size(case.function, *case.shapes, **case.attributes)
        if needed:
            self.attributes["workspace"] = device.empty(needed)
        self.function = getattr(device.ops, case.function)

    def __call__(self) -> None:
        self.function(*self.arrays, **self.attributes)

    def check(self, expected: Sequence[np.ndarray]) -> float:
        """Call, compare with the twin's results, and return the largest share of the bound."""
        self()
        outputs = (*self.case.written, *self.case.updated)
        return max(
            difference(
                f"{self.case.function} argument {index}", self.arrays[index], twin, TOLERANCE
            )
            for index, twin in zip(outputs, expected, strict=True)
        )


def _poison(array: Any) -> None:
    array[...] = np.nan if array.dtype.kind == "f" else 0xEE


def twin_results(case: Case) -> list[np.ndarray]:
    """What the numpy twin writes, on fresh copies."""
    import pygan.device

    bound = Bound(pygan.device.get("numpy"), case)
    bound()
    return [bound.arrays[index] for index in (*case.written, *case.updated)]


def run_case(device: Any, case: Case, samples: int, seconds: float) -> Result:
    """Raises AssertionError where the results are wrong."""
    expected = twin_results(case)
    share = Bound(device, case).check(expected)
    bounds = [Bound(device, case) for _ in range(_copies(device, case))]
    works: list[Callable[[], None]] = list(bounds)
    timing = measure(device, works, samples=samples, seconds=seconds)
    share = max(share, Bound(device, case).check(expected))
    return Result(case, device.name, timing, share)


def _copies(device: Any, case: Case) -> int:
    """Enough sets of arrays that a GPU's L2 cache holds none of them at the next turn."""
    if device.name != "cuda":
        return 1
    context = device.context
    cache = context.device.get_attribute(context.cuda.device_attribute.L2_CACHE_SIZE)
    return int(min(64, max(2, -(-2 * cache // max(case.nbytes, 1)))))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Times every function of the kernel interface.")
    parser.add_argument("--devices", nargs="+", choices=["numpy", "cpu", "cuda"])
    parser.add_argument("--only", nargs="+", default=[""], help="functions whose name holds this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--quick", action="store_true", help="small sizes, few samples")
    parser.add_argument("--samples", type=int, help="samples per case (default 15)")
    options = parser.parse_args(arguments)
    samples = options.samples or (3 if options.quick else 15)
    seconds = 0.002 if options.quick else 0.02
    about = machine()
    chosen = devices(options.devices or default_devices())
    for device in chosen:
        print(device.description)
    cases = [
        case
        for case in all_cases(options.quick)
        if any(part in case.function for part in options.only)
    ]
    results: list[dict[str, Result]] = []
    wrong = []
    for case in cases:
        of_case = {}
        for device in chosen:
            try:
                of_case[device.name] = run_case(device, case, samples, seconds)
            except AssertionError as error:
                wrong.append(f"{device.name}: {case.function} ({case.label}): {error}")
        results.append(of_case)
    names = [device.name for device in chosen]
    _print(cases, results, names)
    if options.json:
        write_json(options.json, _record(about, chosen, cases, results, wrong))
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


def _print(cases: Sequence[Case], results: Sequence[dict[str, Result]], names: list[str]) -> None:
    titles = ["function", "shape"]
    for name in names:
        titles += [name, f"{name} GFLOP/s or GB/s"]
    compare = "numpy" in names and len(names) > 1
    titles += [f"{name} / numpy" for name in names if compare and name != "numpy"]
    rows = []
    for case, of_case in zip(cases, results, strict=True):
        row = [case.function, case.label]
        for name in names:
            result = of_case.get(name)
            row += [str(result.timing), _rate(result)] if result else ["wrong", ""]
        for name in names if compare else []:
            if name != "numpy":
                row.append(_ratio(of_case, name))
        rows.append(row)
    print_table("Kernels: median (10th-90th percentile) of one call", titles, rows)


def _rate(result: Result) -> str:
    if result.case.flops:
        return f"{result.gflops:.3g} GFLOP/s"
    return f"{result.gigabytes:.3g} GB/s"


def _ratio(of_case: dict[str, Result], name: str) -> str:
    if name not in of_case or "numpy" not in of_case:
        return ""
    return f"{of_case[name].timing.median / of_case['numpy'].timing.median:.3g}"


def _record(
    about: dict[str, Any],
    chosen: Sequence[Any],
    cases: Sequence[Case],
    results: Sequence[dict[str, Result]],
    wrong: Sequence[str],
) -> dict[str, Any]:
    rows = [
        {
            "function": case.function,
            "label": case.label,
            "shapes": case.shapes,
            "flops": case.flops,
            "bytes": case.nbytes,
            "devices": {
                name: {
                    "seconds": result.timing,
                    "gflops": result.gflops,
                    "gigabytes_per_second": result.gigabytes,
                    "share_of_tolerance": result.share,
                }
                for name, result in of_case.items()
            },
        }
        for case, of_case in zip(cases, results, strict=True)
    ]
    return {
        "machine": about,
        "devices": {device.name: device.description for device in chosen},
        "wrong": list(wrong),
        "kernels": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
