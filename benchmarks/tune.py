"""Measures which tile and how many slices are quickest for the convolutions of a network here.

    python benchmarks/tune.py [--device cuda] [--network lesson dcgan] [--batch N ...]
                              [--only NAME ...] [--precision float32 ...] [--candidates 12]
                              [--budget SECONDS] [--table FILE] [--json FILE] [--dry] [--quick]

For each pass of each layer the tiles and slices that bindings/operators/plans/model.py predicts to
be quickest are run: first compared bit for bit with the general path, which adds in the
same order, then timed. The quickest goes into ``tuning.json`` in the cache folder, under the
device's name, and later processes launch it; other shapes and devices keep the model's choice.
Each choice is written as soon as it is measured, and so is ``--json``, a record of all of them.
Of arrays that hold bf16 numbers (``bf16-stored``, from compute capability 8.0 on) the same is done
for the tiles of kernels/convolution_tensor_core.cu, which must agree with those of float32 arrays
up to the order of sums. On a GPU of compute capability 9.0 each pass is then measured in TF32 and
bf16, too: Hopper's own instructions (kernels/convolution_wgmma.cu; of bf16 arrays
kernels/convolution_wgmma_bf16.cu) with the tiles that bindings/operators/plans/wgmma.py predicts to
be quickest against mma.sync, which they must agree with likewise. Where they are quicker they are
written down, and launched from then on; where not, mma.sync stays. ``--precision`` names what to
measure.

``--table FILE`` writes the choices there instead, and ``--dry`` nowhere. Other work on the GPU
while this runs makes the choices worse, not wrong: every choice gives right results, and none
changes after it was written until this is run again.

``--device cpu --quick`` tries the script out on small shapes without a GPU; what it measures there
says nothing about one, and goes into no table but a ``--table``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import stored as stored_numbers
from cases import NETWORKS, Network
from measuring import devices, machine, measure, print_table, write_json

NOT_TAKEN = [0, 0, 0]
"""In the table: measured, and another kernel was quicker."""

PRECISIONS = ("float32", "tf32", "bf16", stored_numbers.STORED)
KINDS = ("forward", "backward_data", "backward_weight")


class Layer(NamedTuple):
    """A convolution of a network: name, large side, weight, small side, stride, pad."""

    name: str
    large: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    small: tuple[int, int, int, int]
    stride: int
    pad: int


def layers(network: Network, batch: int, divide: int) -> Iterator[Layer]:
    """Every convolution, transposed convolution and fully connected layer, the channels divided."""

    def channels(count: int) -> int:
        return max(1, count // divide) if count > 10 else count

    for transposed, found in ((True, network.generator), (False, network.discriminator)):
        for name, c_in, size_in, c_out, size_out, kernel, stride, pad in found:
            entered = (batch, size_in, size_in, channels(c_in))
            left = (batch, size_out, size_out, channels(c_out))
            large, small = (left, entered) if transposed else (entered, left)
            weight = (small[3], kernel, kernel, large[3])
            yield Layer(name, large, weight, small, stride, pad)
    inputs, units = (channels(count) for count in network.fully_connected)
    pixel = (batch, 1, 1)
    yield Layer("FC", (*pixel, inputs), (units, 1, 1, inputs), (*pixel, units), 1, 0)


class Pass:
    """One kind of pass of a layer on a device, with its arrays and its candidates."""

    def __init__(self, device: Any, kind: str, layer: Layer, stored: bool = False) -> None:
        """stored: whether its arrays hold bf16 numbers, but gradients of weights."""
        from pygan.bindings.operators.plans.passes import geometry_of, product_of

        self.device, self.kind, self.layer, self.stored = device, kind, layer, stored
        self.half_result = stored and kind != "backward_weight"
        pairs = ((layer.stride,) * 2, (layer.pad,) * 2, (1, 1))
        sides = (layer.large, layer.weight, layer.small)
        self.shape = geometry_of(kind, kind, *sides, *pairs, 1)
        self.product = product_of(kind, self.shape)
        read, self.result = {
            "forward": ((layer.large, layer.weight, None), layer.small),
            "backward_data": ((layer.small, layer.weight, None), layer.large),
            "backward_weight": ((layer.large, layer.small), layer.weight),
        }[kind]
        rng = np.random.default_rng(1)
        self._numbers = [None if one is None else self._drawn(rng, one) for one in read]
        self._inputs = self._uploaded(self._numbers)

    def run(self, plan: Any, absolute: bool = False) -> np.ndarray:
        """What `plan` makes of the inputs, or of their absolute values."""
        numbers = self._numbers
        if absolute:
            numbers = [None if one is None else np.abs(one) for one in numbers]
        out = self._poisoned()
        inputs = self._uploaded(numbers) if absolute else self._inputs
        self._launch(plan, inputs, out, self._workspace(plan))
        return stored_numbers.numbers_of(out)

    def _drawn(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        from pygan.reference.precision import rounded

        numbers = rng.standard_normal(shape, np.float32)
        return rounded(numbers, "bf16") if self.stored else numbers

    def _uploaded(self, numbers: Sequence[np.ndarray | None]) -> list[Any]:
        upload = partial(stored_numbers.upload, self.device, half=self.stored)
        return [None if one is None else upload(one) for one in numbers]

    def _poisoned(self) -> Any:
        if self.half_result:
            poison = np.full(self.result, stored_numbers.NOT_A_NUMBER, np.uint16)
        else:
            poison = np.full(self.result, np.nan, np.float32)
        return self.device.from_numpy(poison)

    def seconds(self, plan: Any, how: dict[str, Any]) -> float:
        """The median time of a launch, second stage included."""
        out = self._poisoned()
        workspace = self._workspace(plan)
        call = partial(self._launch, plan, self._inputs, out, workspace)
        return float(measure(self.device, [call], **how).median)

    def _launch(self, plan: Any, inputs: Sequence[Any], out: Any, workspace: Any) -> None:
        from pygan.bindings.operators.product_launch import launch

        launch(self.kind, plan, tuple(inputs), out, workspace=workspace)

    def _workspace(self, plan: Any) -> Any:
        size = int(np.prod(self.result)) * plan.slices
        return self.device.empty(size) if plan.slices > 1 else None


class Pipelined:
    """The fast path of float32: which tile and how many slices."""

    precision = "float32"

    def __init__(self, one: Pass) -> None:
        self._pass = one
        self.key = one.kind

    @property
    def tuned(self) -> bool:
        """Whether the pass has tiles to choose from."""
        from pygan.bindings.operators.plans.choice import is_pipelined

        return bool(is_pipelined(self._pass.kind, self._pass.shape))

    def candidates(self, most: int) -> list[tuple[Any, int]]:
        """(tile, slices), what the model predicts to be quickest first."""
        from pygan.bindings.operators.plans import pipelined

        one = self._pass
        product = pipelined.pipelined_product(one.kind, one.shape)
        tiles = pipelined.tiles_of(one.kind, one.shape)
        return list(pipelined.candidates(product, tiles)[:most])

    def plan(self, tile: Any, slices: int) -> Any:
        from pygan.bindings.operators.plans.pipelined import pipelined_plan
        from pygan.bindings.operators.plans.plan import Tiles

        return pipelined_plan(self._pass.kind, self._pass.shape, Tiles(tile, slices))

    def agrees(self, plan: Any) -> bool:
        """With the general path, bit for bit."""
        from pygan.bindings.operators.plans.general import general_plan

        one = self._pass
        general = general_plan(one.kind, one.shape, plan.slices)
        return one.run(plan).tobytes() == one.run(general).tobytes()

    def other(self) -> None:
        """The general path is not what these tiles compete with."""


class Warpgroups:
    """wgmma in a precision of the tensor cores, of float32 arrays: whether, which tile, and how
    many slices."""

    def __init__(self, one: Pass, precision: str) -> None:
        from pygan.bindings.operators.plans import plan, tensor_core, wgmma

        self._pass, self._tensor_core, self._wgmma = one, tensor_core, wgmma
        self._tiles = plan.Tiles
        self.precision = precision
        self.key = wgmma.key(one.kind, precision)

    @property
    def tuned(self) -> bool:
        return self._wgmma.can_be_taken(self._pass.kind, self._pass.shape, self._pass.product)

    def candidates(self, most: int) -> list[tuple[Any, int]]:
        return list(self._wgmma.candidates(self.precision, self._pass.product)[:most])

    def plan(self, tile: Any, slices: int) -> Any:
        one, tiles = self._pass, self._tiles(tile, slices)
        return self._wgmma.wgmma_plan(one.kind, self.precision, one.shape, tiles)

    def agrees(self, plan: Any) -> bool:
        """With mma.sync, whose operands are the same: each of both sums errs by a cut-off bit for
        every 8 products."""
        one, mma = self._pass, self.other()
        allowed = one.product.depth / 4 * 2.0**-23 * one.run(mma, absolute=True)
        return bool((np.abs(one.run(plan) - one.run(mma)) <= allowed).all())

    def other(self) -> Any:
        """mma.sync, as it is launched where wgmma is not."""
        return rounding_mma(self._pass, self.precision)


def rounding_mma(one: Pass, precision: str) -> Any:
    """mma.sync of float32 arrays, which rounds their numbers."""
    from pygan.bindings.operators.plans.tensor_core import tensor_core_plan, tiles_for

    tiles = tiles_for(precision, one.product)
    return tensor_core_plan(one.kind, one.kind, precision, one.shape, tiles)


class Halves:
    """mma.sync of arrays that hold bf16 numbers: which tile and how many slices."""

    precision = stored_numbers.STORED

    def __init__(self, one: Pass) -> None:
        from pygan.bindings.operators.plans import plan, tensor_core

        self._pass, self._tensor_core = one, tensor_core
        self._tiles = plan.Tiles
        self.key = tensor_core.key_of_halves(one.kind)

    @property
    def tuned(self) -> bool:
        return bool(self._tensor_core.can_take_halves(self._pass.shape, self._pass.product))

    def candidates(self, most: int) -> list[tuple[Any, int]]:
        one = self._pass
        return list(self._tensor_core.candidates_of_halves(one.product, one.half_result)[:most])

    def plan(self, tile: Any, slices: int) -> Any:
        one, tiles = self._pass, self._tiles(tile, slices)
        plan_of = self._tensor_core.tensor_core_plan_of_halves
        return plan_of(one.kind, one.shape, tiles, one.half_result)

    def agrees(self, plan: Any) -> bool:
        """With mma.sync of float32 arrays, which rounds them to the same operands; numbers stored
        in bf16 may be rounded to either neighbour."""
        expected, allowed = self._expected
        return bool((np.abs(self._pass.run(plan) - expected) <= allowed).all())

    @cached_property
    def _expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Results, and how far others may be from them."""
        one = self._pass
        plain = Pass(one.device, one.kind, one.layer)
        mma = rounding_mma(one, "bf16")
        expected = plain.run(mma)
        allowed = one.product.depth / 4 * 2.0**-23 * plain.run(mma, absolute=True)
        if one.half_result:
            allowed += stored_numbers.TOLERANCE * (np.abs(expected) + allowed)
        return expected, allowed

    def other(self) -> Any:
        """Nothing else takes such arrays everywhere."""


class WarpgroupsOfHalves(Halves):
    """wgmma of the same: whether, which tile, and how many slices."""

    def __init__(self, one: Pass, mma: list[int] | None) -> None:
        """mma: tile and slices that were measured to be mma.sync's quickest."""
        from pygan.bindings.operators.plans import wgmma

        super().__init__(one)
        self._wgmma, self._mma = wgmma, mma
        self.key = wgmma.key_of_halves(one.kind)

    @property
    def tuned(self) -> bool:
        one = self._pass
        return super().tuned and self._wgmma.can_be_taken(one.kind, one.shape, one.product)

    def candidates(self, most: int) -> list[tuple[Any, int]]:
        one = self._pass
        return list(self._wgmma.candidates_of_halves(one.product, one.half_result)[:most])

    def plan(self, tile: Any, slices: int) -> Any:
        one, tiles = self._pass, self._tiles(tile, slices)
        return self._wgmma.wgmma_plan_of_halves(one.kind, one.shape, tiles, one.half_result)

    def other(self) -> Any:
        """mma.sync, as it is launched where wgmma is not."""
        if self._mma is None:
            return super().plan(*super().candidates(1)[0])
        tiles = self._tensor_core.TILES_OF_HALVES
        found = (tile for tile in tiles if [tile.lines, tile.columns] == self._mma[:2])
        return super().plan(next(found), self._mma[2])


Way = Pipelined | Warpgroups | Halves


def ways_of(precision: str, one: Pass, wgmma: bool, chosen: dict[str, list[int]]) -> Iterator[Way]:
    """What a pass has to choose from, one after the other. wgmma: whether this device has it;
    chosen: by key, what was measured before."""
    if precision == "float32":
        yield Pipelined(one)
    elif one.stored:
        yield (mma := Halves(one))
        if wgmma:
            yield WarpgroupsOfHalves(one, chosen.get(mma.key))
    else:
        yield Warpgroups(one, precision)


def tune(one: Pass, way: Way, most: int, how: dict[str, Any]) -> tuple[list[int], list[str]]:
    """(what goes into the table, a row for people)."""
    candidates = way.candidates(most)
    times = []
    for tile, slices in candidates:
        plan = way.plan(tile, slices)
        if not way.agrees(plan):
            raise AssertionError(
                f"{one.layer.name} {way.key}: tile {tile.lines} x {tile.columns} with {slices} "
                f"slices differs from what it must agree with; no choice was written for it"
            )
        times.append(one.seconds(plan, how))
    best = times.index(min(times))
    named = [f"{tile.lines} x {tile.columns}, {slices}" for tile, slices in candidates]
    tile, slices = candidates[best]
    row = [one.layer.name, way.key, named[best], f"{times[best] * 1e6:.3g} us"]
    row += [named[0], f"{times[0] / times[best]:.2f}"]
    other = way.other()
    if other is None:
        return [tile.lines, tile.columns, slices], [*row, "-"]
    ratio = one.seconds(other, how) / times[best]
    row.append(f"{ratio:.2f}")
    return [tile.lines, tile.columns, slices] if ratio > 1 else NOT_TAKEN, row


def has_wgmma(device: Any) -> bool:
    from pygan.bindings.operators.plans import wgmma

    return bool(device.context.device.compute_capability() == wgmma.CAPABILITY)


def measurable(device: Any) -> tuple[str, ...]:
    """The precisions that have tiles to choose from on this device."""
    from pygan.bindings.operators.plans import tensor_core

    if has_wgmma(device):
        return PRECISIONS
    narrow = device.context.device.compute_capability() >= tensor_core.LEAST_CAPABILITY
    return ("float32", stored_numbers.STORED) if narrow else ("float32",)


def default_precisions(device: Any) -> tuple[str, ...]:
    """All that a GPU has; on the CPU driver, whose times mean nothing, the first."""
    return measurable(device) if device.name == "cuda" else PRECISIONS[:1]


class Run:
    """The passes that one call measures, written down as they come: what breaks a run off, or a
    `--budget` that is spent, leaves what was measured before."""

    def __init__(self, options: argparse.Namespace, device: Any, table: Path | None) -> None:
        from pygan.bindings.context import device_name

        self.options, self.device, self.table = options, device, table
        self.name = str(device_name())
        self.precisions = options.precision or default_precisions(device)
        self.rows: list[list[str]] = []
        self.wrong: list[str] = []
        self.waiting: list[str] = []
        self._measured: list[dict[str, Any]] = []
        self._about = machine()
        self._began = time.perf_counter()

    def all(self) -> None:
        options = self.options
        for name in options.network:
            network = NETWORKS[name]
            for batch in options.batch or [1 if options.quick else network.batch]:
                for layer in layers(network, batch, 16 if options.quick else 1):
                    if not options.only or layer.name in options.only:
                        for kind in KINDS:
                            self._pass(name, batch, layer, kind)

    def _pass(self, network: str, batch: int, layer: Layer, kind: str) -> None:
        budget = self.options.budget
        if budget is not None and time.perf_counter() - self._began > budget:
            self.waiting.append(f"{network} {batch} {layer.name} {kind}")
            return
        one = Pass(self.device, kind, layer)
        chosen: dict[str, list[int]] = {}
        for precision in self.precisions:
            if precision == stored_numbers.STORED:
                one = Pass(self.device, kind, layer, stored=True)
            for way in ways_of(precision, one, has_wgmma(self.device), chosen):
                if not way.tuned:
                    continue
                try:
                    choice, row = tune(one, way, *self._how())
                except AssertionError as error:
                    self.wrong.append(str(error))
                    continue
                chosen[way.key] = choice
                self.rows.append([network, str(batch), *row])
                self._measured.append(
                    {"network": network, "batch": batch, "layer": layer.name, "pass": way.key}
                    | {"choice": choice, "row": row}
                )
                self._write(way, one, choice)

    def _how(self) -> tuple[int, dict[str, Any]]:
        if self.options.quick:
            return min(2, self.options.candidates), {"samples": 3, "seconds": 0.0}
        return self.options.candidates, {"samples": 7, "seconds": 0.01}

    def _write(self, way: Way, one: Pass, choice: list[int]) -> None:
        from pygan.bindings.operators.plans import tuning

        if self.table is not None:
            tuning.write(self.table, self.name, {tuning.key(way.key, one.shape): choice})
        self.write_json()

    def write_json(self) -> None:
        if self.options.json:
            content: dict[str, Any] = {"machine": self._about, "device": self.name}
            content |= {"wrong": self.wrong, "not_measured": self.waiting}
            content |= {"measured": self._measured}
            write_json(self.options.json, content)

    def print(self) -> None:
        titles = ["network", "batch", "layer", "pass", "tile, slices", "time"]
        titles += ["model's choice", "its time over the best", "mma.sync's over the best"]
        print_table(f"Tiles on {self.name}", titles, self.rows)
        if self.waiting:
            print(f"not measured, as --budget was spent: {'; '.join(self.waiting)}")
        for text in self.wrong:
            print(text, file=sys.stderr)


def table_of(options: argparse.Namespace) -> tuple[Path | None, str]:
    """(where the choices go, why nowhere)."""
    from pygan.bindings.operators.plans import tuning

    if options.dry:
        return None, "--dry"
    if options.table:
        return options.table, ""
    if options.device == "cpu":
        return None, "the CPU driver's times say nothing about a GPU; --table FILE writes them"
    return tuning.cached_path(), "there is no cache folder"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, help="default: the network's own")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="layers, as G2 D1 FC")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        help="default: float32, and on a GPU bf16-stored from compute capability 8.0 on, all of "
        "them on 9.0",
    )
    parser.add_argument("--candidates", type=int, default=12, help="tiles and slices per pass")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds after which none begins")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the choices here instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--dry", action="store_true", help="write no table")
    parser.add_argument("--quick", action="store_true", help="small shapes, one candidate or two")
    options = parser.parse_args(arguments)

    (device,) = devices([options.device])
    table, why_not = table_of(options)
    run = Run(options, device, table)
    if lacking := sorted(set(run.precisions) - set(measurable(device))):
        parser.error(
            f"nothing to choose for {', '.join(lacking)} on this device: tf32 and bf16 have tiles "
            f"to choose from on compute capability 9.0 alone, bf16-stored from 8.0 on"
        )
    run.all()
    run.write_json()
    run.print()
    if table is None or not run.rows:
        print(f"no table written ({why_not if table is None else 'no choices'})")
    else:
        print(f"{len(run.rows)} choices written to {table}")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
