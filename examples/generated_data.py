"""Generated data as help: a classifier of digits that learns from a conditional generator's, too.

    pygan train generated-data --data DIR --generator runs/conditional

The generator of a run of `pygan train conditional`, or the mean of several that `pygan average`
makes of one (without ``--generator``, such a run comes first), draws images with the digits that it
is asked for; those digits are their labels. The lesson's classifier learns, in as many batches each
way, from

    real        real images
    both        batches of which one half is real and the other generated
    generated   generated images alone; how far that leads says how good they are (Ravuri and
                Vinyals, "Classification accuracy score for conditional generative models", 2019)

All are tested on real images. ``--labelled N`` takes a small part of the real images, drawn anew
for each seed; the generator has learned from the labels of all, so what it adds then is not made
from the N alone. Ends in test accuracies, their differences by seed, both with 95 % intervals, and
two pictures.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pygan import cli, pictures
from pygan import device as devices
from pygan.data import ImageSet, ResidentImages, load_train_and_test, some_of
from pygan.errors import PyganError
from pygan.executor import precision_scope
from pygan.training.classifier import (
    CLASSES,
    Classifier,
    ClassifierSettings,
    DigitClassifier,
    count_right,
)
from pygan.training.comparison import Comparison, Plan, batches_of, digest
from pygan.training.comparison_session import Session, choose, in_session, trained_gan
from pygan.training.sampling import (
    BATCH,
    described,
    draw_noise,
    generator_file,
    open_sampler,
    origin,
)
from pygan.training.systems import SYSTEMS

NAME = "generated-data"
CONDITIONAL = SYSTEMS["conditional"]
WAYS = ("real", "both", "generated")
DEFAULTS: dict[str, Any] = {
    "ways": ",".join(WAYS),
    "labelled": 0,
    "generated": 0,
    "epochs": 10,
    "batch_size": 20,
    "seed": 0,
    "seeds": 5,
    "precision": "float32",
    "data": "auto",
}
ROWS = 8


class HelpedClassifier(Classifier):
    """The classifier on batches of real and of generated images; its step is `Supervised.step`:
    forward, backward, Adam.

    images: the real ones, or, where there are no real ones in a batch, the generated ones. helping:
    what half of each batch is taken from, or None.
    """

    def __init__(
        self, device: Any, images: ImageSet, settings: ClassifierSettings, helping: ImageSet | None
    ) -> None:
        self.helping = helping
        super().__init__(device, images, settings)

    def tables_of(
        self, device: Any, images: ImageSet, settings: ClassifierSettings
    ) -> dict[str, ResidentImages]:
        if self.helping is None:
            return super().tables_of(device, images, settings)
        count, half = settings.batch_size, settings.batch_size // 2
        parts = {"data": (images, count - half), "generated": (self.helping, half)}
        return {
            name: ResidentImages(device, part, size, settings.seed)
            for name, (part, size) in parts.items()
        }

    def feed(self) -> None:
        inputs, start = self.executor.arg_dict, 0
        for table in self.tables.values():
            rows = slice(start, start + table.batch_size)
            table.next_batch(inputs["data"][rows], inputs["label"][rows])
            start += table.batch_size


def draw_images(device: Any, path: Path, count: int, seed: int) -> tuple[ImageSet, dict[str, Any]]:
    """``count`` images of the digits 0 to 9 in turn, drawn by the generator of a checkpoint, in
    bytes; and where they are from.

    Raises PyganError for a generator that cannot be asked for digits.
    """
    sampler, metadata = open_sampler(device, path, BATCH)
    if not sampler.takes_digits:
        raise PyganError(
            f"{path}: {metadata['network']} cannot be asked for a digit, and its images have no "
            "labels; 'pygan train conditional' makes a generator that can"
        )
    digits = np.arange(count) % CLASSES
    images = sampler.images(draw_noise(device, count, seed), digits)
    images = np.clip(np.rint(images * 255), 0, 255).astype(np.uint8)
    source = f"{path}, {described(metadata)}"
    drawn = ImageSet(images, digits.astype(np.uint8), source)
    executor = sampler.executor
    parameters = digest(np.array(executor.arg_dict[name]) for name in executor.parameter_names)
    found = {**origin(metadata), "source": metadata["source"], "generator": parameters}
    return drawn, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, compares; 0, or 128 + the number of the signal that stopped it."""
    parser = argparse.ArgumentParser(
        prog="pygan train generated-data", description=__doc__.splitlines()[0]
    )
    cli.add_run_options(parser, NAME, DEFAULTS["epochs"], DEFAULTS["batch_size"])
    cli.add_gan_options(parser, "--generator", "conditional")
    parser.add_argument(
        "--labelled", type=cli.positive, metavar="N", help="real images with labels (all)"
    )
    parser.add_argument(
        "--generated", type=cli.positive, metavar="N", help="images to draw (as many as real ones)"
    )
    parser.add_argument("--seeds", type=cli.positive, metavar="N", help="how many seeds (5)")
    parser.add_argument(
        "--ways", metavar="LIST", help=f"of these, the first to compare with ({DEFAULTS['ways']})"
    )
    options = parser.parse_args(arguments)
    return in_session(options, lambda session: compare(options, session))


def compare(options: argparse.Namespace, session: Session) -> int:
    """All trainings, or those that are missing; 0, or the exit code of the GAN's where that was
    stopped."""
    asked = {name: getattr(options, name) for name in DEFAULTS}
    chosen = choose(session, NAME, asked, DEFAULTS)
    ways = tuple(chosen["ways"].split(","))
    if not set(ways) <= set(WAYS) or len(set(ways)) < len(ways):
        raise PyganError(f"--ways {chosen['ways']}: choose from {', '.join(WAYS)}, each once")
    count = chosen["batch_size"]
    if "both" in ways and count < 2:
        raise PyganError(f"--batch-size {count}: the way 'both' needs 2 images, one of each kind")
    device = devices.get(options.device)
    data = chosen.pop("data")
    train, test = load_train_and_test(data)
    labelled = chosen["labelled"] or len(train)
    batches = batches_of(train, labelled, count, chosen["epochs"])
    code, path = trained_gan(options, session, CONDITIONAL)
    if code:
        return code
    path = generator_file(path)
    drawn, found = draw_images(device, path, chosen["generated"] or labelled, chosen["seed"])
    picture = pictures.grid(drawn.images[: ROWS * CLASSES] / np.float32(255), ROWS, CLASSES, 2)
    lies = data, os.path.abspath(path)
    plan = Plan(NAME, ways, batches, *lies, train.fingerprint, chosen, found)
    session.progress.say(
        f"data: {train.describe()}; {labelled:,} of them are used\ndevice: {device.description}\n"
        f"generated: {drawn.describe()}\n"
        f"seeds {plan.seeds[0]} to {plan.seeds[-1]}, {batches:,} batches of {count} each"
    )

    def accuracy(model: HelpedClassifier) -> float:
        return count_right(DigitClassifier(device, model.executor), test) / len(test)

    comparison = Comparison(session, plan, device, accuracy)
    pictures.save_picture(picture, session.folder.path / "generated.png")
    for way, seed in comparison.missing():
        real = some_of(train, labelled, seed)
        images, helping = {
            "real": (real, None),
            "both": (real, drawn),
            "generated": (drawn, None),
        }[way]
        settings = ClassifierSettings(batch_size=count, seed=seed)
        with precision_scope(chosen["precision"]):
            model = HelpedClassifier(device, images, settings, helping)
        for _ in comparison.batches(model):
            model.step()
    title = f"{labelled:,} real and {len(drawn):,} generated images"
    further = {"test_images": len(test), "test_source": test.source}
    session.progress.say(comparison.report(title, further))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
