"""Every function of the kernel interface, per device: checked, timed, checked again.

    python benchmarks/kernels.py [--devices numpy cpu] [--network lesson] [--batch 32] [--peers]
                                 [--graph] [--only NAME ...] [--precision tf32] [--json FILE]
                                 [--quick]

Each function runs at the shapes of the lesson's GAN, or of DCGAN (benchmarks/cases.py). Before and
after the timing its results on poisoned outputs are compared with the numpy twin's; a function that
is wrong is not timed and makes the exit code 1. GFLOP/s and GB/s count useful work: products that
the operator is defined by, every input read once, every output written once. On a GPU calls rotate
among copies of the arrays that together exceed twice the L2 cache.

``--graph`` times calls recorded as a CUDA graph too, which leaves the cost of launching them from
Python out. ``--peers`` adds PyTorch and cuBLAS where they are installed (benchmarks/peers.py).
``--precision`` times the functions that have a choice of it, held to twins that round alike (peers
are held to float32 results, and the roofline stays that of float32 products); ``bf16-stored`` those
that take arrays of bf16 numbers, on such arrays. The last device is
the one that ratios and the share of the roofline (benchmarks/roofline.py) are for: a ratio is its
time over the other's, both as graphs where both are.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import stored
from cases import NETWORKS, TOLERANCE, Case, all_cases
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
from peers import Figure, How, find_peers
from roofline import Roofline, measure_roofline
from stored import STORED, numbers_of, upload

from pygan.cli import positive

Row = dict[str, Any]


class Bound:
    """A case's arrays on a device, and calls of its function on them."""

    def __init__(self, device: Any, case: Case) -> None:
        self.device, self.case = device, case
        self.arrays = [
            None if host is None else upload(device, host, index in case.halves)
            for index, host in enumerate(case.arrays)
        ]
        for index in case.written:
            _poison(self.arrays[index], index in case.halves)
        attributes = dict(case.attributes)
        described = dict(case.attributes)
        if case.halves:
            described["dtypes"] = [None if a is None else a.dtype.name for a in self.arrays]
        needed = device.ops.workspace_size(case.function, *case.shapes, **described)
        if needed:
            attributes["workspace"] = device.empty(needed)
        self._call = device.ops.bind(case.function, *self.arrays, **attributes)  # as executors do

    def __call__(self) -> None:
        self._call()
        if self.device.name == "numpy":  # which rounds where other devices store
            for index in set(self.case.written).intersection(self.case.halves):
                self.device.ops.to_bf16(self.arrays[index], self.arrays[index])

    def check(self, expected: Sequence[np.ndarray]) -> float:
        """Call, compare with the twin's results, and return the largest share of the bound."""
        self()
        outputs = (*self.case.written, *self.case.updated)
        shares = []
        for index, twin in zip(outputs, expected, strict=True):
            half = index in self.case.halves
            found = numbers_of(self.arrays[index]) if half else self.arrays[index]
            tolerance = stored.TOLERANCE if half else TOLERANCE
            name = f"{self.case.function} argument {index}"
            shares.append(difference(name, found, twin, tolerance))
        return max(shares)


def _poison(array: Any, half: bool) -> None:
    if array.dtype.kind == "f":
        array[...] = np.nan
    else:
        array[...] = stored.NOT_A_NUMBER if half else 0xEE


def twin_results(case: Case) -> list[Any]:
    """What the numpy twin writes, on fresh copies."""
    import pygan.device

    bound = Bound(pygan.device.get("numpy"), case)
    bound()
    return [bound.arrays[index] for index in (*case.written, *case.updated)]


def run_case(device: Any, case: Case, expected: Sequence[np.ndarray], how: How) -> Iterator[Figure]:
    """Yields the figures; raises AssertionError where the results are wrong."""
    share = Bound(device, case).check(expected)
    bounds = [Bound(device, case) for _ in range(how.copies if device.name == "cuda" else 1)]
    timings = {
        device.name: measure(device, bounds, samples=how.samples, seconds=how.seconds),
    }
    if how.graph and device.name != "numpy":
        timings[f"{device.name} graph"] = _time_graph(device, bounds, how)
    share = max(share, Bound(device, case).check(expected))
    for name, timing in timings.items():
        yield name, timing, share


def _time_graph(device: Any, bounds: Sequence[Bound], how: How) -> Timing:
    from pygan.bindings.graph import Graph

    rounds = how.rounds(bounds)

    def work() -> None:
        for _ in range(rounds):
            for bound in bounds:
                bound()

    graph = Graph(device.context, work)
    timing = measure(device, [graph.launch], samples=how.samples, seconds=how.seconds)
    return timing.divided(rounds * len(bounds))


def _copies(chosen: Sequence[Any], case: Case) -> int:
    """Enough sets of arrays that a GPU's L2 cache holds none of them at the next turn."""
    for device in chosen:
        if device.name == "cuda":
            context = device.context
            cache = context.device.get_attribute(context.cuda.device_attribute.L2_CACHE_SIZE)
            return int(min(64, max(2, -(-2 * cache // max(case.nbytes, 1)))))
    return 1


class Session:
    """One run of the benchmark: its devices, peers and ceilings, and what it found."""

    def __init__(self, chosen: Sequence[Any], options: argparse.Namespace) -> None:
        self.chosen, self._options = chosen, options
        self.main = chosen[-1].name
        self.peers, self.missing = find_peers(chosen) if options.peers else ([], [])
        self.roofline: Roofline = measure_roofline(chosen[-1], options.quick)
        self.rows: list[Row] = []
        self.wrong: list[str] = []

    def add(self, case: Case) -> None:
        samples = self._options.samples or (3 if self._options.quick else 15)
        seconds = 0.002 if self._options.quick else 0.02
        how = How(samples, seconds, _copies(self.chosen, case), self._options.graph)
        expected = twin_results(case)
        figures: dict[str, Any] = {}
        ours, rounded = case, expected
        if self._options.precision == STORED:
            halved = stored.stored(case)
            assert halved is not None  # or the case had not been chosen
            ours = halved
        elif self._options.precision != "float32":
            ours = replace(
                case, attributes=case.attributes | {"precision": self._options.precision}
            )
        if ours is not case:
            rounded = twin_results(ours)
        for device in self.chosen:
            try:
                for name, timing, share in run_case(device, ours, rounded, how):
                    figures[name] = self._figure(ours, timing, share)
            except AssertionError as error:
                self.wrong.append(f"{device.name}: {case.function} ({case.label}): {error}")
        for peer in self.peers:
            if not peer.takes(case):
                continue
            try:
                for name, timing, share in peer.run(case, expected, how):
                    figures[name] = self._figure(case, timing, share)
            except (AssertionError, RuntimeError) as error:  # a peer's fault is not pygan's
                self.missing.append(f"{peer.name}: {case.function} ({case.label}): {error}")
        self.rows.append(
            {
                "function": case.function,
                "label": case.label,
                "shapes": case.shapes,
                "flops": case.flops,
                "bytes": ours.nbytes,
                "devices": figures,
                "ratios": self._ratios(figures),
            }
        )

    def _figure(self, case: Case, timing: Timing, share: float) -> dict[str, Any]:
        floor = self.roofline.floor(case.nbytes, case.flops)
        return {
            "seconds": timing,
            "gflops": 1e-9 * case.flops / timing.median,
            "gigabytes_per_second": 1e-9 * case.nbytes / timing.median,
            "share_of_tolerance": share,
            "share_of_roofline": floor / timing.median,
        }

    def _ratios(self, figures: dict[str, Any]) -> dict[str, float]:
        """The main device's time over each other's."""

        def best(name: str, graph: bool) -> float:
            return figures[f"{name} graph" if graph else name]["seconds"].median

        if self.main not in figures:
            return {}
        ratios = {}
        for name in figures:
            if name.endswith(" graph") or name == self.main:
                continue
            graph = f"{name} graph" in figures and f"{self.main} graph" in figures
            # numpy has no launches to save: the better of ours is the fair one beside it
            ours = graph or (name == "numpy" and f"{self.main} graph" in figures)
            ratios[name] = best(self.main, ours) / best(name, graph)
        return ratios

    @property
    def names(self) -> list[str]:
        """Everything that was timed, in order of its first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row["devices"]))

    def print(self) -> None:
        names = self.names
        compared = list(dict.fromkeys(name for row in self.rows for name in row["ratios"]))
        titles = ["function", "shape"]
        for name in names:
            titles += [name] if name.startswith(("torch", "cuBLAS")) else [name, "GFLOP/s or GB/s"]
        titles += ["of roofline", *(f"{self.main} / {name}" for name in compared)]
        rows = [self._cells(row, names, compared) for row in self.rows]
        network, precision = self._options.network, self._options.precision
        print_table(
            f"Kernels of {network} in {precision}: median (10th-90th percentile) of one call. "
            f"Roofline: {self.roofline}",
            titles,
            rows,
        )

    def _cells(self, row: Row, names: Sequence[str], compared: Sequence[str]) -> list[str]:
        cells = [row["function"], row["label"]]
        for name in names:
            figure = row["devices"].get(name)
            peer = name.startswith(("torch", "cuBLAS"))
            absent = "" if peer else "wrong"
            cells.append(str(figure["seconds"]) if figure else absent)
            if not peer:
                cells.append(_rate(row, figure) if figure else "")
        ours = row["devices"].get(f"{self.main} graph") or row["devices"].get(self.main)
        cells.append(f"{ours['share_of_roofline']:.1%}" if ours else "")
        ratios = row["ratios"]
        return cells + [f"{ratios[name]:.3g}" if name in ratios else "" for name in compared]


def _rate(row: Row, figure: dict[str, Any]) -> str:
    if row["flops"]:
        return f"{figure['gflops']:.3g} GFLOP/s"
    return f"{figure['gigabytes_per_second']:.3g} GB/s"


def takes(precision: str, case: Case) -> bool:
    """Whether a case's function has the choice."""
    from pygan import reference

    if precision == STORED:
        return stored.stored(case) is not None
    parameters = inspect.signature(getattr(reference, case.function)).parameters
    return precision == "float32" or "precision" in parameters


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Times every function of the kernel interface.")
    parser.add_argument("--devices", nargs="+", choices=["numpy", "cpu", "cuda"])
    parser.add_argument("--network", choices=list(NETWORKS), default="lesson", help="whose shapes")
    parser.add_argument("--batch", type=positive, help="images (default: 32, of dcgan 64)")
    parser.add_argument("--peers", action="store_true", help="also PyTorch and cuBLAS")
    parser.add_argument("--graph", action="store_true", help="also recorded as a CUDA graph")
    parser.add_argument("--only", nargs="+", default=[""], help="functions whose name holds this")
    parser.add_argument(
        "--precision",
        choices=["float32", "tf32", "bf16", STORED],
        default="float32",
        help="of the products, where a function has the choice; bf16-stored: with bf16 in memory, "
        "where a function takes it; others are left out then",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--quick", action="store_true", help="small sizes, few samples")
    parser.add_argument("--samples", type=positive, help="samples per case (default 15)")
    options = parser.parse_args(arguments)
    about = machine()
    chosen = devices(options.devices or default_devices())
    for device in chosen:
        print(device.description)
    session = Session(chosen, options)
    print(f"roofline: {session.roofline}")

    def write() -> None:
        """Brings the record up to date, so that a run that is broken off keeps what it has."""
        if options.json:
            content = {
                "machine": about,
                "network": options.network,
                "precision": options.precision,
                "batch": 2 if options.quick else options.batch or NETWORKS[options.network].batch,
                "devices": {device.name: device.description for device in chosen},
                "main": session.main,
                "roofline": session.roofline.record(),
                "wrong": session.wrong,
                "not_measured": session.missing,
                "kernels": session.rows,
            }
            write_json(options.json, content)

    functions, measured = {}, 0
    for case in all_cases(options.quick, options.network, options.batch):
        functions[case.function] = True
        if takes(options.precision, case) and any(part in case.function for part in options.only):
            session.add(case)
            measured += 1
            write()
    if not measured:
        parser.error(f"--only {' '.join(options.only)}: no function of {', '.join(functions)}")
    write()
    session.print()
    for text in (*session.missing, *session.wrong):
        print(text, file=sys.stderr)
    return 1 if session.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
