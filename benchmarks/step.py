"""One whole training step of a GAN, per device, beside PyTorch and JAX where they are installed.

    python benchmarks/step.py [--network lesson|dcgan] [--batch N] [--devices numpy cpu] [--graph]
                              [--precisions float32 tf32 bf16 bf16-stored] [--cooperative]
                              [--torch [GROUP ...]] [--jax] [--budget SECONDS] [--json FILE]
                              [--quick]

A step draws noise, runs the generator, updates the discriminator on generated and on real images,
then updates the generator through it: three forward and three backward passes of the discriminator
(the third for the image gradient only), one of the generator. The lesson's discriminator has an
update for each kind of image, DCGAN's one for both.

`--graph` also times the step recorded once as a CUDA graph and replayed, as `pygan train` does on a
GPU. `--cooperative` also times both with small layers as cooperative launches. `--torch` times
PyTorch's variants, all or by group: eager, graph (CUDA graphs made by hand), compile and autotune
(torch.compile). `--jax` times the step under jax.jit, one in a call and 20. Every one starts from
the same weights, and its losses over three steps from the same noise and images are compared with
numpy's before it is timed; after the timing they must be numbers. A device that is wrong makes the
exit code 1, a peer that is wrong, or that cannot run here, is named under `not_measured`, and so is
what `--budget` left no time for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax_step
import numpy as np
import torch_step
from cores import between_cores
from measuring import (
    default_devices,
    devices,
    host_seconds,
    machine,
    measure,
    print_table,
    run_script,
    write_json,
)
from roofline import measure_roofline
from steps import (
    COMPARED_STEPS,
    READ_EVERY,
    STEPS,
    TOLERANCES,
    Start,
    Steps,
    difference_of_losses,
    losses_of,
    start_of,
)

from pygan.cli import positive

# Three Adam steps of 2e-4 from equal seeds. Sums in another order move a loss of about 0.7 by 1e-6;
# Adam's first steps are the sign of a gradient, so a weight whose gradient rounds to the other side
# of zero moves by 4e-4. A few such weights among the lesson's 560,000 stay far below this bound; on
# DCGAN, whose losses reach 6, weights apart by one rounding move a third loss by 0.2 % of itself.
LOSS_TOLERANCE = 4e-3
# Narrower operands are allowed what PyTorch's are.
PRECISIONS = {"float32": LOSS_TOLERANCE, "tf32": TOLERANCES["TF32"], "bf16": TOLERANCES["bf16"]}
STORED = "bf16-stored"  # precision bf16 with activations in bf16 in memory, as autocast has them
PRECISIONS[STORED] = PRECISIONS["bf16"]


class Step:
    """A step that reads the kept losses when there is no more room for them, as training does."""

    def __init__(self, gan: Any) -> None:
        self.gan = gan
        self.losses = np.zeros((0, 3))

    def __call__(self) -> None:
        if self.gan.losses_full:
            self.read()
        self.gan.step()

    def read(self) -> None:
        found = losses_of(self.gan)
        self.losses = found if len(found) else self.losses


def launches_of(gan: Any) -> int | None:
    """Kernels, fills and copies of a step, counted in a recording of it; None where nothing can be
    recorded. The recording is not launched."""
    if gan.device.cannot_record() is not None:
        return None
    return gan.device.record(gan.train_batch).nodes


def bytes_of(gan: Any) -> int:
    """What networks, optimizers and images take on the device; a step takes no more."""
    from pygan.executor import Executor

    total = gan.data.table.nbytes + gan.data.order.nbytes
    for executor in vars(gan).values():
        if isinstance(executor, Executor):  # those that share parameters count none
            total += executor.memory.total
    if (between := getattr(gan, "image_gradient", None)) is not None:  # from D to G, DCGAN's
        total += between.nbytes
    for network in (gan.generator, gan.discriminator):
        total += 2 * network.gradients.nbytes  # Adam's two buffers
    return total


def time_device(
    device: Any, steps: Steps, images: Any, batch: int, start: Start, how: How
) -> dict[str, Any]:
    """Figures of one device; AssertionError where its losses are wrong."""
    from pygan.executor import cooperative_scope, precision_scope, storage_scope

    stored = how.precision == STORED
    scopes = (
        precision_scope("bf16" if stored else how.precision),
        cooperative_scope(how.cooperative),
    )
    with scopes[0], scopes[1], storage_scope("bf16" if stored else "float32"):
        gan = steps.make(device, images, batch, how.quick, READ_EVERY)
    if how.graph:
        gan.recording.start()
    gan.start_epoch(0)
    for _ in range(COMPARED_STEPS):
        gan.step()
    apart = difference_of_losses(losses_of(gan), start, PRECISIONS[how.precision])
    step = Step(gan)
    timing = measure(device, [step], samples=how.samples, seconds=how.seconds)
    on_gpu = device.name == "cuda"
    host = host_seconds(device, step, step.read, how.samples) if on_gpu else None
    step.read()
    if not np.isfinite(step.losses).all():
        raise AssertionError(f"losses after the timing are no numbers: {step.losses}")
    return {
        "description": device.description,
        "seconds": timing,
        "images_per_second": batch / timing.median,
        "largest_loss_difference": apart,
        "launches": launches_of(gan),
        "host_seconds": host,
        "peak_bytes": bytes_of(gan) + device.kept_bytes(),
    }


class How:
    """How to time: `samples` of `seconds` each (0: of one step), whether from a graph, in which
    precision, and whether small layers are launched together."""

    def __init__(
        self,
        options: argparse.Namespace,
        device: str,
        graph: bool = False,
        precision: str = "float32",
        cooperative: bool = False,
    ) -> None:
        self.quick, self.graph, self.precision = options.quick, graph, precision
        self.cooperative = cooperative
        few = 3 if options.quick else 10 if device == "cpu" else 30
        self.samples = options.samples or few
        # On a GPU many steps in a row, as in training: the first launches of one hide behind
        # the last of the one before.
        self.seconds = 0.05 if device == "cuda" else 0.0


class Run:
    """Everything that one call of this script measures, written to its record as it comes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.steps = STEPS[options.network]
        self.batch = 2 if options.quick else options.batch or self.steps.shapes.batch
        self.about = machine()
        self.images = self.steps.load(options.quick)
        self.figures: dict[str, Any] = {}
        self.wrong: list[str] = []
        self.missing: list[str] = []
        self._began = time.perf_counter()
        chosen = devices(options.devices or default_devices())
        numpy_device = devices(["numpy"])[0]
        self.roofline = measure_roofline(chosen[-1], options.quick)
        self.start = start_of(self.steps, numpy_device, self.images, self.batch, options.quick)
        for device in chosen:
            for graph in (False, True) if options.graph and device.name != "numpy" else (False,):
                for precision in self._precisions(device.name):
                    self._add_device(device, graph, precision)
                if options.cooperative and device.name != "numpy":
                    self._add_device(device, graph, "float32", cooperative=True)
        if options.torch is not None:
            self._add_torch(options.torch or torch_step.GROUPS)
        if options.jax:
            self._add_jax()

    def _precisions(self, device: str) -> Sequence[str]:
        """numpy has float32 alone; a GPU all, unless some were asked for."""
        if device == "numpy":
            return ("float32",)
        return self.options.precisions or (tuple(PRECISIONS) if device == "cuda" else ("float32",))

    def _add_device(
        self, device: Any, graph: bool, precision: str, cooperative: bool = False
    ) -> None:
        name = f"{device.name} graph" if graph else device.name
        name += "" if precision == "float32" else f" {precision}"
        name += " cooperative" if cooperative else ""
        how = How(self.options, device.name, graph, precision, cooperative)
        arguments = (device, self.steps, self.images, self.batch, self.start, how)
        try:
            self._measure(name, lambda: time_device(*arguments))
        except AssertionError as error:
            self.wrong.append(f"{name}: {error}")
            self.write()

    def _add_torch(self, groups: Sequence[str]) -> None:
        try:
            torch = torch_step.import_torch()
        except RuntimeError as error:
            raise SystemExit(f"--torch: {error}") from error
        session = torch_step.Session(torch, self.steps, self.images, self.start, self.batch)
        self._add_peers(session, [v for v in torch_step.VARIANTS if v.group in groups])

    def _add_jax(self) -> None:
        try:
            jax = jax_step.import_jax()
        except RuntimeError as error:
            raise SystemExit(f"--jax: {error}") from error
        session = jax_step.Session(jax, self.steps, self.images, self.start, self.batch)
        self._add_peers(session, jax_step.VARIANTS)

    def _add_peers(self, session: Any, variants: Sequence[Any]) -> None:
        how = How(self.options, session.place)
        for variant in variants:
            self._try(variant.name, partial(session.time, variant, how.samples, how.seconds))

    def _try(self, name: str, measured: Callable[[], dict[str, Any]]) -> None:
        """A peer's failure is not pygan's: it is named, and the others go on."""
        spent, budget = time.perf_counter() - self._began, self.options.budget
        if budget is not None and spent > budget:
            self.missing.append(f"{name}: the {budget:.0f} s of --budget are spent")
            return
        try:
            self._measure(name, measured)
        except Exception as error:  # whatever a compiler or a driver throws
            text = " ".join(str(error).split()) or type(error).__name__
            self.missing.append(f"{name}: {text[:600]}")
            self.write()

    def _measure(self, name: str, measured: Callable[[], dict[str, Any]]) -> None:
        """Adds a figure, with what a line of the cache takes between cores before and after it."""
        before = between_cores()
        figure = measured()
        figure["between_cores_ns"] = before and {"before": before, "after": between_cores()}
        figure["gflops"] = 1e-9 * self.start.flops / figure["seconds"].median
        self.figures[name] = figure
        self.write()

    def write(self) -> None:
        """Brings the record up to date, so that a run that is broken off keeps what it has."""
        if not self.options.json:
            return
        content = {
            "machine": self.about,
            "network": self.options.network,
            "title": self.steps.title,
            "batch": self.batch,
            "data": f"{len(self.images)} images, {self.images.source.partition(' in ')[0]}",
            "flops_per_step": self.start.flops,
            "roofline": self.roofline.record(),
            "wrong": self.wrong,
            "not_measured": self.missing,
            "devices": self.figures,
        }
        write_json(self.options.json, content)

    def print(self) -> None:
        rows = [
            [
                name,
                str(figure["seconds"]),
                f"{figure['images_per_second']:.0f}",
                f"{figure['gflops']:.3g}",
                "" if figure["launches"] is None else str(figure["launches"]),
                "" if figure["host_seconds"] is None else str(figure["host_seconds"]),
                "" if figure["peak_bytes"] is None else f"{figure['peak_bytes'] / 2**20:.1f}",
                _between(figure["between_cores_ns"]),
                figure["description"],
            ]
            for name, figure in self.figures.items()
        ]
        titles = ["", "one step", "images/s", "GFLOP/s", "launches", "host time", "MiB", "line", ""]
        print_table(
            f"{self.steps.title}, batch {self.batch}: median (10th-90th percentile) of one "
            f"training step; line: of the cache, from core to core before and after. Roofline: "
            f"{self.roofline}",
            titles,
            rows,
        )
        for text in (*self.missing, *self.wrong):
            print(text, file=sys.stderr)


def _between(lines: dict[str, Any] | None) -> str:
    return f"{lines['before'].other:.1f}, {lines['after'].other:.1f} ns" if lines else ""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Times a training step of a GAN.")
    parser.add_argument("--network", choices=list(STEPS), default="lesson", help="whose step")
    parser.add_argument("--devices", nargs="+", choices=["numpy", "cpu", "cuda"])
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), help="of pygan (on a GPU all)"
    )
    parser.add_argument("--batch", type=positive, help="images (default: 32, of dcgan 64)")
    parser.add_argument("--samples", type=positive, help="steps timed (default 30 and 10 on cpu)")
    parser.add_argument("--graph", action="store_true", help="also the step as a CUDA graph")
    parser.add_argument(
        "--cooperative",
        action="store_true",
        help="also the step with small layers as cooperative launches (float32)",
    )
    parser.add_argument(
        "--torch",
        nargs="*",
        choices=torch_step.GROUPS,
        help="also the same step in PyTorch, all or by group",
    )
    parser.add_argument("--jax", action="store_true", help="also the same step in JAX")
    parser.add_argument(
        "--budget", type=float, metavar="S", help="seconds after which no peer is begun"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--quick", action="store_true", help="batch 2, few samples, few channels")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    run = Run(make_parser().parse_args(arguments))
    run.write()
    run.print()
    return 1 if run.wrong else 0


if __name__ == "__main__":
    run_script(main)
