"""The experiments of the DCGAN paper on what you have trained.

    pygan train dcgan --data DIR --dataset cifar10 --out runs/dcgan_cifar
    python -m pygan.examples.dcgan_paper features --checkpoint runs/dcgan_cifar --data DIR

features    how well a linear SVM tells images by the discriminator's features (section 5.1)
guided      what makes the discriminator's features large, by guided back-propagation (6.2)
walk        a closed walk between nine random codes (6.1)
arithmetic  slanted 4 - usual 4 + usual 7, on averaged codes (6.3.2)
drop        the generator without the feature maps that draw horizontal strokes (6.3.1)
neighbours  test digits told by their nearest neighbour among drawn digits (table of MNIST)

Each writes NAME.png and NAME.json into --out. No image is augmented, as in the paper.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pygan import checkpoint, cli
from pygan import device as devices
from pygan.examples.dcgan_paper import arithmetic, drop, features, guided, neighbours, walk

EXPERIMENTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (features, guided, walk, arithmetic, drop, neighbours)
}
"""By name: modules with ``add_options(parser)`` and ``run(device, options)``, which gives
`pygan.examples.dcgan_paper.Results`."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pygan.examples.dcgan_paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    experiments = parser.add_subparsers(metavar="EXPERIMENT", required=True, dest="experiment")
    for name, module in EXPERIMENTS.items():
        title = (module.__doc__ or "").partition("\n")[0]
        experiment = experiments.add_parser(name, help=title, description=title)
        experiment.add_argument(
            "--checkpoint", required=True, metavar="FILE", help="a checkpoint, or a run's folder"
        )
        experiment.add_argument("--out", default="runs/dcgan_paper", metavar="DIR")
        experiment.add_argument("--seed", type=cli.seed, default=0, metavar="N")
        experiment.add_argument("--device", choices=cli.DEVICES, default="auto")
        module.add_options(experiment)
    options = parser.parse_args(arguments)
    return cli.guarded(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """One experiment: its numbers and its figure, in the folder asked for."""
    device = devices.get(options.device)
    print(f"{device.name}: {device.description}\nseed {options.seed}", flush=True)
    numbers, text, draw = EXPERIMENTS[options.experiment].run(device, options)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    picture, result = (folder / f"{options.experiment}.{ending}" for ending in ("png", "json"))
    draw(picture)
    entry = {"experiment": options.experiment, "seed": options.seed, "device": device.name}
    checkpoint.write_json(result, entry | numbers)
    print(f"{text}\n{picture}, {result}")


if __name__ == "__main__":
    sys.exit(main())
