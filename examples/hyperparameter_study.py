"""The lesson's exercise: one setting of its GAN changed at a time, all of them side by side.

    pygan train study --data DIR --batches 1500    (or: python examples/hyperparameter_study.py ...)

Asks what the lesson asks: another optimizer, ReLU or leaky ReLU on either side, a generator without
its sigmoid, fake and real images in one batch or apart, labels turned round, noisy or wrong. The
settings are `SETTINGS`, below; networks and step, `StudyGan.train_batch`, are in `study_gan.py`.
Ends in one figure and one table (`study_report.py`): losses, samples, and in the features of a
digit classifier the Frechet distance, precision and recall, and the digits covered
(`pygan.quality`).

Each setting is a run in a folder of its own; the same command with --resume goes on after a stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pygan import checkpoint, cli, quality
from pygan import device as devices
from pygan.data import load_train_and_test
from pygan.device import Device
from pygan.errors import PyganError
from pygan.examples.study_gan import Drawing, Report, Settings, StudyGan
from pygan.examples.study_report import (
    COLUMNS,
    ROWS,
    draw,
    for_the_table,
    losses_at_the_end,
    markdown_table,
    print_table,
    table_rows,
)
from pygan.training.classifier import DigitClassifier
from pygan.training.command import run_part
from pygan.training.folder import CHECKPOINT
from pygan.training.log import read_log
from pygan.training.systems import SYSTEMS, System

EPOCHS = 20
BATCH = 100
# The judge, where none is given: enough for 98 % of MNIST's test digits.
JUDGE = replace(SYSTEMS["classifier"], epochs=2, least_batches=2000)


@dataclass(frozen=True)
class Change:
    """One setting of the study: what it is called, and what differs from the lesson's."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "lesson": Change("the lesson's own settings"),
    "adam-fast": Change("Adam 1e-3 / 0.9 (2e-4 / 0.5)", {"learning_rate": 1e-3, "momentum": 0.9}),
    "sgd": Change(
        "SGD 0.01, momentum 0.9 (Adam)",
        {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9},
    ),
    "gen-leaky": Change("leaky ReLU in G (ReLU)", {"generator_slope": 0.25}),
    "dis-relu": Change("ReLU in D (leaky ReLU)", {"discriminator_slope": 0.0}),
    "unbounded": Change("G's output not bounded (sigmoid)", {"bounded": False}),
    "one-update": Change("one update of D a step (two)", {"passes": "summed"}),
    "one-batch": Change("fake and real in one batch (apart)", {"passes": "joint"}),
    "one-batch-for-g": Change("in one batch, and in G's pass too", {"passes": "beside"}),
    "labels-turned": Change("labels turned round", {"fake_label": 1.0, "real_label": 0.0}),
    "labels-noisy": Change("noisy labels, up to 0.1 off", {"label_noise": 0.1}),
    "labels-wrong": Change("one of D's labels in 20 wrong", {"wrong_labels": 0.05}),
}
"""In the order of figure and table; in brackets what the lesson has instead."""


class Judge:
    """A digit classifier, with the real digits that generated ones are compared with."""

    def __init__(self, device: Device, where: str, classifier: Path, count: int, seed: int) -> None:
        self.network = DigitClassifier(device)
        self.metadata = self.network.load(classifier)
        self.train, self.test = load_train_and_test(where)
        self.count, self.seed = count, seed
        self.real, probabilities = self.network(self.test.images)
        self.accuracy = float((probabilities.argmax(axis=1) == self.test.labels).mean())

    def __call__(self, images: np.ndarray) -> dict[str, Any]:
        """`quality.compare` with the test digits."""
        return quality.compare(self.real, *self.network(images), seed=self.seed)

    def reference(self) -> tuple[dict[str, Any], np.ndarray]:
        """What training digits reach in place of generated ones, and some of them."""
        chosen = np.random.default_rng(self.seed).permutation(len(self.train))[: self.count]
        images = self.train.images[chosen]
        return self(images), images[: ROWS * COLUMNS].astype(np.float32) / 255


def examine(
    folder: Path, device: Device, judge: Judge
) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
    """A trained run's numbers, its first images, and its losses by batch for the figure."""
    state, metadata = checkpoint.load(folder / CHECKPOINT)
    drawing = Drawing(device, Settings(**metadata["settings"]), BATCH)
    drawing.load(state)
    images = drawing(judge.count, judge.seed)
    log = read_log(folder / "log.jsonl", "batch")
    measured = judge(images)
    numbers = {
        "seed": metadata["settings"]["seed"],
        "batches": metadata["batches_done"],
        "device": metadata["device"],
        **losses_at_the_end(log),
        **for_the_table(measured),
        "quality": measured,
        "settings": metadata["settings"],
    }
    curves = {
        "batches": [entry["batch"] + 1 for entry in log],
        "D": [(entry["d_fake"] + entry["d_real"]) / 2 for entry in log],
        "G": [entry["g"] for entry in log],
    }
    return numbers, images[: ROWS * COLUMNS], curves


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains every setting, then measures; 0, or 128 + the number of the signal that stopped it."""
    parser = argparse.ArgumentParser(
        prog="pygan train study",
        description=__doc__.splitlines()[0],
        epilog="settings: " + "; ".join(f"{n}: {c.title}" for n, c in SETTINGS.items()),
    )
    cli.add_run_options(parser, "study", EPOCHS, Settings.batch_size, lean=True)
    parser.add_argument(
        "--batches",
        type=cli.positive,
        metavar="N",
        dest="max_batches",
        help="batches of each setting, in place of whole epochs; the same as --max-batches",
    )
    parser.add_argument(
        "--only", metavar="LIST", default=",".join(SETTINGS), help="of these (%(default)s)"
    )
    parser.add_argument(
        "--seeds", type=cli.positive, default=1, metavar="N", help="runs of each setting (1)"
    )
    parser.add_argument(
        "--classifier",
        metavar="RUN",
        help="the judge, a run of 'pygan train classifier'; without, one is trained for "
        f"{JUDGE.epochs} epochs",
    )
    parser.add_argument(
        "--judged", type=cli.positive, default=10_000, metavar="N", help="images of each (10000)"
    )
    options = parser.parse_args(arguments)
    chosen = list(dict.fromkeys(options.only.split(",")))  # each once
    unknown = sorted(set(chosen) - set(SETTINGS))
    if unknown:
        raise PyganError(f"--only {', '.join(unknown)}: choose from {', '.join(SETTINGS)}")

    folder = Path(options.out)
    device = devices.get(options.device)
    where, seed = options.data or "auto", options.seed or 0
    part = partial(run_part, options)
    classifier = Path(options.classifier or folder / "classifier")
    if not options.classifier:
        own = {"epochs": None, "batch_size": None, "max_batches": None}
        if code := part(JUDGE, classifier, **own):
            return code
    judge = Judge(device, where, classifier, options.judged, seed)

    runs = [
        (name, run_seed, folder / name / f"seed_{run_seed}")
        for run_seed in range(seed, seed + options.seeds)
        for name in chosen
    ]
    for number, (name, run_seed, place) in enumerate(runs, 1):
        print(f"{number} of {len(runs)}: {name} ({SETTINGS[name].title}), seed {run_seed}")
        system = System(
            "study",
            StudyGan,
            Settings,
            Report,
            EPOCHS,
            load=lambda where, settings: load_train_and_test(where)[0],
            least_batches=5000,
        )
        if code := part(system, place, asked=SETTINGS[name].settings, seed=run_seed):
            return code

    results: dict[str, list[dict[str, Any]]] = {}
    samples: dict[str, np.ndarray] = {}
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, _, place in sorted(runs, key=lambda run: chosen.index(run[0])):
        numbers, images, losses = examine(place, device, judge)
        results.setdefault(name, []).append(numbers)
        samples.setdefault(name, images)
        curves.setdefault(name, []).append(losses)
    reference = judge.reference()
    titles = {name: SETTINGS[name].title for name in chosen}
    rows = table_rows(results, titles, reference[0])
    draw(results, samples, curves, titles, reference, folder / "study.png")
    entry = {
        "data": judge.test.source,
        "judged_images": options.judged,
        "classifier": {"path": str(classifier), "test_accuracy": judge.accuracy},
        "settings": {name: {"title": titles[name], "runs": results[name]} for name in chosen},
        "real_digits": reference[0],
    }
    checkpoint.write_json(folder / "result.json", entry)
    checkpoint.atomic_write(folder / "study.md", (markdown_table(rows) + "\n").encode())
    print_table(rows, options.plain)
    print(f"{folder / 'study.png'}, {folder / 'study.md'}, {folder / 'result.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
