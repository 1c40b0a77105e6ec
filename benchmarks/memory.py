"""Bytes that a training step plans: of the lesson's GAN and of DCGAN-64, with Adam's moments.

    python benchmarks/memory.py                                            # the table
    python benchmarks/memory.py --network dcgan --batch 64 --lean --peak   # and what is at the peak

What executors plan depends on shapes alone, so that device `cpu` plans what a GPU would. Nothing
is run. Beside it lie the data set, the losses kept and the counters of optimizers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from measuring import run_script
from steps import STEPS

MB = 1e6
BATCHES = {"lesson": (32,), "dcgan": (64, 128)}
STORED = "bf16 stored"
PRECISIONS = ("float32", "tf32", "bf16", STORED)
SHOWN = 12
"""Arrays listed of an executor's peak."""


def bind(device: Any, network: str, batch: int, precision: str, lean: bool) -> Any:
    """The GAN of a network, on images that are nothing."""
    from pygan.data import ImageSet
    from pygan.executor import lean_scope, precision_scope, storage_scope

    side, channels = (64, 3) if network == "dcgan" else (28, 1)
    images = np.zeros((batch, side, side, channels), np.uint8)
    nothing = ImageSet(images, np.zeros(batch, np.uint8), "nothing")
    stored = precision == STORED
    with (
        precision_scope("bf16" if stored else precision),
        storage_scope("bf16" if stored else "float32"),
        lean_scope(lean),
    ):
        return STEPS[network].make(device, nothing, batch, False, 1)


def executors_of(gan: Any) -> dict[str, Any]:
    return {
        "G": gan.generator,
        "D on generated images": gan.on_fake,
        "D on real images": gan.discriminator,
        "D for G": gan.on_generated,
    }


def bytes_of(gan: Any) -> dict[str, int]:
    """What a step takes, by what it is for."""
    uses = [executor.memory for executor in executors_of(gan).values()]
    between = getattr(gan, "image_gradient", None)  # from D to G, DCGAN's
    found = {
        "parameters": sum(use.parameters + use.auxiliary for use in uses),
        "gradients": sum(use.gradients for use in uses),
        "moments": 2 * (gan.generator.gradients.nbytes + gan.discriminator.gradients.nbytes),
        "passes": sum(use.arrays + use.workspace for use in uses),
        "image gradient": 0 if between is None else between.nbytes,
    }
    return found | {"sum": sum(found.values())}


def peaks(gan: Any) -> str:
    """The largest arrays of each executor when it needs most."""
    lines = []
    for name, executor in executors_of(gan).items():
        arrays = executor.at_the_peak()
        lines.append(f"{name}: {sum(nbytes for _, nbytes in arrays) / MB:.1f} MB")
        lines += [f"    {nbytes / MB:6.2f}  {label}" for label, nbytes in arrays[:SHOWN]]
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=BATCHES, help="one of them (both)")
    parser.add_argument("--batch", type=int, metavar="N", help="images a batch (32; 64 and 128)")
    parser.add_argument("--precision", choices=PRECISIONS, help="one of them (all)")
    parser.add_argument("--lean", action="store_true", help="only what --lean plans (both)")
    parser.add_argument("--device", default="cpu", help="whose plan (cpu)")
    parser.add_argument("--peak", action="store_true", help="list what lies there at the peak")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    from pygan.device import get

    options = make_parser().parse_args(arguments)
    device = get(options.device)
    rows, listed = [], []
    for network in [options.network] if options.network else BATCHES:
        for batch in [options.batch] if options.batch else BATCHES[network]:
            for precision in [options.precision] if options.precision else PRECISIONS:
                for lean in (True,) if options.lean else (False, True):
                    gan = bind(device, network, batch, precision, lean)
                    name = f"{network}, batch {batch}, {precision}{', lean' if lean else ''}"
                    rows.append((name, bytes_of(gan)))
                    if options.peak:
                        listed.append(f"\n{name}\n{peaks(gan)}")
    print("| MB | " + " | ".join(rows[0][1]) + " |")
    print("|---" * (1 + len(rows[0][1])) + "|")
    for name, found in rows:
        print(f"| {name} | " + " | ".join(f"{n / MB:.1f}" for n in found.values()) + " |")
    print("\n".join(listed), end="\n" if listed else "")
    return 0


if __name__ == "__main__":
    run_script(main)
