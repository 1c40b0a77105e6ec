"""Measures which tile and how many slices are quickest for the convolutions of a network here.

    python benchmarks/tune.py [--device cuda] [--network lesson dcgan] [--batch N ...]
                              [--only NAME ...] [--candidates 12] [--dry] [--quick]

For each pass of each layer the tiles and slices that the model of bindings/operators/tiling.py
predicts to be quickest are run: first compared bit for bit with the general path, which adds in the
same order, then timed. The quickest goes into ``tuning.json`` in the cache folder, under the
device's name, and later processes launch it; other shapes and devices keep the model's choice.
``--dry`` writes nothing. Other work on the GPU while this runs makes the choices worse, not wrong:
every choice gives right results, and none changes after it was written until this is run again.

``--device cpu --quick`` tries the script out on small shapes without a GPU; what it measures there
says nothing about one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from cases import NETWORKS, Network
from measuring import devices, measure, print_table

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

    def __init__(self, device: Any, kind: str, layer: Layer) -> None:
        from pygan.bindings.operators import convolution
        from pygan.bindings.operators.shapes import geometry, with_fewer_idle_taps

        self.device, self.kind, self.layer = device, kind, layer
        pairs = ((layer.stride,) * 2, (layer.pad,) * 2, (1, 1))
        shape = geometry(kind, layer.large, layer.weight, layer.small, *pairs, 1)
        if kind == "backward_data":
            shape = with_fewer_idle_taps(shape)
        self.shape = shape
        self._convolution = convolution
        read, self.result = {
            "forward": ((layer.large, layer.weight, None), layer.small),
            "backward_data": ((layer.small, layer.weight, None), layer.large),
            "backward_weight": ((layer.large, layer.small), layer.weight),
        }[kind]
        rng = np.random.default_rng(1)
        self._inputs = [
            None if one is None else device.from_numpy(rng.standard_normal(one, np.float32))
            for one in read
        ]

    @property
    def tuned(self) -> bool:
        """Whether the pass has tiles to choose from."""
        sides = (self.layer.large, self.layer.weight, self.layer.small)
        pairs = ((self.layer.stride,) * 2, (self.layer.pad,) * 2, (1, 1))
        plan = self._convolution._plan(self.kind, self.kind, *sides, *pairs, 1)
        return plan.file == self._convolution.PIPELINED_FILE

    def candidates(self, most: int) -> list[tuple[Any, int]]:
        """(tile, slices), what the model predicts to be quickest first."""
        from pygan.bindings.operators import tiling

        lines, columns, depth, count = self._convolution.as_pipelined(self.kind, self.shape)
        fours = self._convolution.can_be_pipelined(self.kind, self.shape)
        steps = max(1, -(-depth // tiling.DEPTH_STEP) // tiling.LEAST_STEPS)
        ranked = sorted(
            (tiling.predicted_microseconds(tile, slices, lines, columns, depth, count), i, slices)
            for i, tile in enumerate(tiling.TILES if fours else tiling.SINGLES)
            for slices in tiling.SLICES
            if slices <= min(steps, tiling.MOST_BLOCKS // count)
        )
        tiles = tiling.TILES if fours else tiling.SINGLES
        return [(tiles[i], slices) for _, i, slices in ranked[:most]]

    def seconds(self, tile: Any, slices: int, how: dict[str, Any]) -> float:
        """The median time of a launch, second stage included, after its result was checked."""
        poison = np.full(self.result, np.nan, np.float32)
        out, again = (self.device.from_numpy(poison) for _ in range(2))
        workspace = self.device.empty(out.size * slices) if slices > 1 else None
        plan = self._convolution.pipelined_plan(self.kind, self.shape, tile, slices)
        product = self._convolution.product_of(self.kind, self.shape)
        general = self._convolution._general_plan(self.kind, self.shape, product, out.size, slices)

        def launch(plan: Any, to: Any) -> None:
            self._convolution._launch(
                self.kind, plan, tuple(self._inputs), to, None, False, workspace
            )

        launch(plan, out)
        launch(general, again)
        if np.asarray(out).tobytes() != np.asarray(again).tobytes():
            raise AssertionError(
                f"{self.layer.name} {self.kind}: tile {tile.lines} x {tile.columns} with {slices} "
                f"slices differs from the general path; nothing was written"
            )
        return float(measure(self.device, [lambda: launch(plan, out)], **how).median)


def tune(one: Pass, most: int, how: dict[str, Any]) -> tuple[list[int], list[str]]:
    """(what goes into the table, a row for people)."""
    candidates = one.candidates(most)
    times = [one.seconds(tile, slices, how) for tile, slices in candidates]
    best = times.index(min(times))
    named = [f"{tile.lines} x {tile.columns}, {slices}" for tile, slices in candidates]
    tile, slices = candidates[best]
    row = [one.layer.name, one.kind, named[best], f"{times[best] * 1e6:.3g} us"]
    row += [named[0], f"{times[0] / times[best]:.2f}"]
    return [tile.lines, tile.columns, slices], row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, help="default: the network's own")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="layers, as G2 D1 FC")
    parser.add_argument("--candidates", type=int, default=12, help="tiles and slices per pass")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    parser.add_argument("--quick", action="store_true", help="small shapes, one candidate or two")
    options = parser.parse_args(arguments)
    from pygan.bindings.context import device_name
    from pygan.bindings.operators import tuning

    (device,) = devices([options.device])
    how = {"samples": 3 if options.quick else 7, "seconds": 0.0 if options.quick else 0.01}
    most = min(2, options.candidates) if options.quick else options.candidates
    choices, rows = {}, []
    for name in options.network:
        network = NETWORKS[name]
        for batch in options.batch or [1 if options.quick else network.batch]:
            for layer in layers(network, batch, 16 if options.quick else 1):
                if options.only and layer.name not in options.only:
                    continue
                for kind in KINDS:
                    one = Pass(device, kind, layer)
                    if one.tuned:
                        choice, row = tune(one, most, how)
                        choices[tuning.key(kind, one.shape)] = choice
                        rows.append([name, str(batch), *row])
    titles = ["network", "batch", "layer", "pass", "tile, slices", "time"]
    titles += ["model's choice", "its time over the best"]
    print_table(f"Tiles on {device_name()}", titles, rows)
    path = tuning.cached_path()
    if options.dry or not choices or path is None:
        print(f"nothing written ({'--dry' if options.dry else 'no choices, or no cache folder'})")
        return 0
    tuning.write(path, str(device_name()), choices)
    print(f"{len(choices)} choices written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
