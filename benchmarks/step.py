"""One whole training step of the lesson's GAN, per device, beside PyTorch where it is installed.

    python benchmarks/step.py [--devices numpy cpu] [--graph] [--torch] [--json FILE] [--quick]

A step draws noise, runs the generator, updates the discriminator on generated and on real images,
then updates the generator through it: three forward and three backward passes of the discriminator
(the third for the image gradient only), one of the generator, three Adam updates.

`--graph` also times the step recorded once as a CUDA graph and replayed. Every device starts from
the same seed. Before the timing its losses over three steps are compared
with numpy's, after the timing they must be numbers; a device that is wrong makes the exit code 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import default_devices, devices, machine, measure, print_table, write_json

# Three Adam steps of 2e-4 from equal seeds. Sums in another order move a loss of about 0.7 by 1e-6;
# Adam's first steps are the sign of a gradient, so a weight whose gradient rounds to the other side
# of zero moves by 4e-4: a few such weights among 560,000 stay far below this bound.
LOSS_TOLERANCE = 2e-3
COMPARED_STEPS = 3
# Useful multiply-adds of a forward pass per image, and passes of each in a step.
GENERATOR_MACS, DISCRIMINATOR_MACS = 11.4e6, 0.76e6
GENERATOR_PASSES, DISCRIMINATOR_PASSES = 3, 3 + 2 * 2 + 1


def flops(batch: int) -> float:
    """Useful floating-point operations of a step; the generator's first layer needs no gradient of
    its input, which this counts all the same (0.3 %)."""
    macs = GENERATOR_MACS * GENERATOR_PASSES + DISCRIMINATOR_MACS * DISCRIMINATOR_PASSES
    return 2.0 * batch * macs


def make_gan(device: Any, images: Any, batch: int) -> Any:
    from pygan.training.gan import GanSettings, LessonGan

    return LessonGan(device, images, GanSettings(batch_size=batch, seed=11))


def first_losses(gan: Any) -> np.ndarray:
    """(steps, 3): the losses of the first steps."""
    for _ in range(COMPARED_STEPS):
        gan.step()
    return np.array([(each.d_fake, each.d_real, each.g) for each in gan.read_losses()])


class Step:
    """A step that reads the kept losses when there is no more room for them, as training does."""

    def __init__(self, gan: Any) -> None:
        self.gan = gan
        self.losses: list[Any] = []

    def __call__(self) -> None:
        if self.gan.losses_full:
            self.losses = self.gan.read_losses()
        self.gan.step()


class Replay:
    """The same step as a CUDA graph. A replay writes its losses where the recorded step did."""

    def __init__(self, gan: Any) -> None:
        from pygan.bindings.graph import Graph

        gan.step()  # compiles every kernel, which cannot be recorded
        gan.read_losses()
        self.gan = gan
        self.graph = Graph(gan.device.context, gan.step)

    def __call__(self) -> None:
        self.graph.launch()

    @property
    def losses(self) -> list[Any]:
        return self.gan.read_losses()


def time_device(
    device: Any, images: Any, batch: int, samples: int, expected: np.ndarray, graph: bool = False
) -> dict:
    """Figures of one device; raises AssertionError where its losses are wrong."""
    gan = make_gan(device, images, batch)
    losses = first_losses(gan)
    apart = float(np.abs(losses - expected).max())
    if not apart <= LOSS_TOLERANCE:  # NaN fails
        raise AssertionError(f"losses differ from numpy's by {apart:.3g}: {losses} {expected}")
    step = Replay(gan) if graph else Step(gan)
    timing = measure(device, [step], samples=samples, seconds=0.0)
    last = [(each.d_fake, each.d_real, each.g) for each in step.losses or gan.read_losses()]
    if not np.isfinite(last).all():
        raise AssertionError(f"losses after the timing are no numbers: {last}")
    return {
        "description": device.description,
        "seconds": timing,
        "images_per_second": batch / timing.median,
        "gflops": 1e-9 * flops(batch) / timing.median,
        "largest_loss_difference": apart,
    }


def load_images(quick: bool) -> Any:
    """Real digits where they can be had without a download, else scikit-learn's."""
    from pygan.data.mnist import load_digits

    where = os.environ.get("PYGAN_DATA")
    return load_digits(where if where and not quick else "digits")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Times a training step of the lesson's GAN.")
    parser.add_argument("--devices", nargs="+", choices=["numpy", "cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--samples", type=int, help="steps timed (default 50 and 10 on cpu)")
    parser.add_argument("--graph", action="store_true", help="also the step as a CUDA graph")
    parser.add_argument("--torch", action="store_true", help="also the same step in PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--quick", action="store_true", help="batch 2, few samples")
    options = parser.parse_args(arguments)
    batch = 2 if options.quick else options.batch
    about = machine()
    images = load_images(options.quick)
    chosen = devices(options.devices or default_devices())
    numpy_device = devices(["numpy"])[0]
    expected = first_losses(make_gan(numpy_device, images, batch))
    figures: dict[str, Any] = {}
    wrong = []
    for device in chosen:
        samples = options.samples or (3 if options.quick else 10 if device.name == "cpu" else 50)
        for graph in (False, True) if options.graph and device.name != "numpy" else (False,):
            name = f"{device.name} graph" if graph else device.name
            try:
                figures[name] = time_device(device, images, batch, samples, expected, graph)
            except AssertionError as error:
                wrong.append(f"{name}: {error}")
    if options.torch:
        from torch_step import time_torch

        samples = options.samples or (3 if options.quick else 50)
        for name, figure in time_torch(images, batch, samples).items():
            figures[name] = {**figure, "gflops": 1e-9 * flops(batch) / figure["seconds"].median}
    rows = [
        [
            name,
            str(figure["seconds"]),
            f"{figure['images_per_second']:.0f}",
            f"{figure['gflops']:.3g}",
            figure["description"],
        ]
        for name, figure in figures.items()
    ]
    titles = ["", "one step", "images/s", "GFLOP/s", ""]
    print_table(
        f"Lesson GAN, batch {batch}: median (10th-90th percentile) of one training step",
        titles,
        rows,
    )
    if options.json:
        content = {
            "machine": about,
            "batch": batch,
            "data": f"{len(images)} images, {images.source.partition(' in ')[0]}",
            "flops_per_step": flops(batch),
            "wrong": wrong,
            "devices": figures,
        }
        write_json(options.json, content)
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
