"""The lesson's exercise: one setting of its GAN changed at a time, all of them side by side.

    pygan train study --data DIR --batches 1500    (or: python examples/hyperparameter_study.py ...)

Asks what the lesson asks: another optimizer, ReLU or leaky ReLU on either side, a generator without
its sigmoid, fake and real images in one batch or apart, labels turned round, noisy or wrong. The
settings are `SETTINGS`, the networks `generator` and `discriminator`, the step is
`StudyGan.train_batch`, all below. Ends in one figure and one table: losses, samples, and in the
features of a digit classifier the Frechet distance, precision and recall, and the digits covered
(`pygan.quality`).

Each setting is a run in a folder of its own; the same command with --resume goes on after a stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pygan import checkpoint, cli, optimizer, pictures, quality
from pygan import device as devices
from pygan import symbol as sym
from pygan.data import ImageSet, load_train_and_test
from pygan.errors import PyganError
from pygan.training.classifier import DigitClassifier
from pygan.training.command import run_part
from pygan.training.folder import CHECKPOINT, RunFolder
from pygan.training.gan import IMAGE_SHAPE, NOISE_SIZE, Gan, Losses, load_network
from pygan.training.gan_report import draw_gan_curves
from pygan.training.log import read_log
from pygan.training.sampling import GENERATORS, Generator, draw_noise
from pygan.training.systems import SYSTEMS, System

EPOCHS = 20
AVERAGED = 100
"""Losses in the table are means over so many last batches."""
ROWS, COLUMNS, SCALE = 2, 12, 2
BATCH = 100
# The judge, where none is given: enough for 98 % of MNIST's test digits.
JUDGE = replace(SYSTEMS["classifier"], epochs=2, least_batches=2000)
# The figure, in pixels: its pictures, a row's pitch, its width.
DPI = 120
IMAGE_WIDTH = COLUMNS * (28 * SCALE + pictures.GAP) + pictures.GAP
IMAGE_HEIGHT = ROWS * (28 * SCALE + pictures.GAP) + pictures.GAP
CURVES_LEFT, IMAGES_LEFT = 60, 410  # tick labels stand left of the curves
PITCH, FIGURE_WIDTH = IMAGE_HEIGHT + 56, IMAGES_LEFT + IMAGE_WIDTH + 150


@dataclass(frozen=True)
class Settings:
    """What the study varies, with the lesson's own values as defaults.

    momentum: SGD's, and Adam's beta1. ..._slope: of the leaky ReLU, 0 for ReLU. bounded: whether G
    ends in a sigmoid. passes: how D sees generated and real images in a step: "apart", with an
    update after each; "summed", apart, but one update for both; "joint", in one batch; "beside", in
    one batch, with the real images beside the generated ones in G's pass too.
    label_noise: labels lie up to so far from 0 and 1. wrong_labels: the share of D's labels that
    say the opposite. G aims at real_label.
    """

    batch_size: int = 32
    seed: int = 0
    optimizer: str = "adam"
    learning_rate: float = 2e-4
    momentum: float = 0.5
    generator_slope: float = 0.0
    discriminator_slope: float = 0.25
    bounded: bool = True
    passes: str = "apart"
    fake_label: float = 0.0
    real_label: float = 1.0
    label_noise: float = 0.0
    wrong_labels: float = 0.0
    initial_range: float = 0.01

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Change:
    """One setting of the study: what it is called, and what differs from the lesson's."""

    title: str
    settings: dict = field(default_factory=dict)


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


def activation(x: sym.Symbol, slope: float, name: str) -> sym.Symbol:
    if slope:
        return sym.LeakyReLU(x, slope=slope, name=name)
    return sym.Activation(x, kind="relu", name=name)


def generator(slope: float = 0.0, bounded: bool = True) -> sym.Symbol:
    """noise (N, 1, 1, 10) -> images (N, 28, 28, 1)."""
    x = sym.Variable("noise")
    # 4x4x256, 7x7x128, 14x14x64, 28x28x1
    for layer, (filters, kernel, pad) in enumerate([(256, 4, 0), (128, 3, 1), (64, 4, 1)], 1):
        x = sym.TransposedConvolution(
            x,
            num_filter=filters,
            kernel=kernel,
            stride=2,
            pad=pad,
            no_bias=True,
            name=f"gen_deconv{layer}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"gen_bn{layer}")
        x = activation(x, slope, f"gen_relu{layer}")
    x = sym.TransposedConvolution(
        x, num_filter=1, kernel=4, stride=2, pad=1, no_bias=True, name="gen_deconv4"
    )
    return sym.Activation(x, kind="sigmoid", name="gen_out") if bounded else x


def discriminator(slope: float = 0.25) -> sym.Symbol:
    """img (N, 28, 28, 1), label (N, 1, 1, 1) -> the mean loss (1,), scores (N, 1, 1, 1)."""
    x = sym.Variable("img")
    # 26x26x24, pooled to 13x13, 6x6x32, 4x4x64, 1x1x64
    layers = [(24, 3, 1), (32, 3, 2), (64, 3, 1), (64, 4, 1)]
    for layer, (filters, kernel, stride) in enumerate(layers, 1):
        x = sym.Convolution(
            x,
            num_filter=filters,
            kernel=kernel,
            stride=stride,
            no_bias=True,
            name=f"dis_conv{layer}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"dis_bn{layer}")
        x = activation(x, slope, f"dis_act{layer}")
        if layer == 1:
            x = sym.Pooling(x, kernel=2, stride=2, kind="avg", name="dis_pool1")
    logits = sym.Convolution(x, num_filter=1, kernel=1, name="dis_conv5")
    return sym.SigmoidCrossEntropy(logits, sym.Variable("label"), name="dis")


class StudyGan(Gan):
    """The lesson's GAN with whatever `Settings` say.

    ``Losses.d_fake`` and ``d_real`` are both the joint loss where D sees one batch.
    """

    network = "lesson-study"
    title = "lesson's GAN, varied"

    def __init__(self, device, images: ImageSet, settings: Settings, losses_kept: int = 20) -> None:
        super().__init__(device, images, settings, losses_kept)
        count = settings.batch_size
        # D's labels of a whole epoch, (M, 1, 1, 1) for fake and for real images, walked along the
        # cursor of the images.
        self.labels = [device.zeros((len(images), 1, 1, 1), np.float32) for _ in range(2)]
        self.places = device.from_numpy(np.arange(len(images), dtype=np.int32))
        self.target = device.from_numpy(np.full((count, 1, 1, 1), settings.real_label, np.float32))
        self.both = None
        if settings.passes in ("joint", "beside"):
            # The same parameters and statistics in a batch of twice the size.
            self.both = bind_discriminator(device, 2 * count, settings, shared=self.discriminator)
            img, label = self.both.arg_dict["img"], self.both.arg_dict["label"]
            self.both_images = img[:count], img[count:]
            self.both_labels = label[:count], label[count:]

    def bind(self, device, batch_size: int):
        settings = self.settings
        gen = generator(settings.generator_slope, settings.bounded)
        shape = (batch_size, 1, 1, NOISE_SIZE)
        return (
            gen.bind(device, {"noise": shape}, {"noise": "null"}),
            bind_discriminator(device, batch_size, settings),
        )

    def make_optimizer(self, executor) -> optimizer.Optimizer:
        """Adam, or what the settings have in its place."""
        rate, momentum = self.settings.learning_rate, self.settings.momentum
        if self.settings.optimizer == "sgd":
            return optimizer.SGD(executor, learning_rate=rate, momentum=momentum)
        return optimizer.Adam(executor, learning_rate=rate, beta1=momentum)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        settings = self.settings
        # A third number keeps this stream apart from that of the images' order.
        random = np.random.default_rng((settings.seed, epoch, 1))
        for table, label in zip(
            self.labels, (settings.fake_label, settings.real_label), strict=True
        ):
            table[...] = draw_labels(label, settings, random, self.data.count)

    def train_batch(self) -> None:
        """One batch: D on generated and real images, then G through D."""
        gen, dis = self.generator, self.discriminator
        self.device.ops.random_normal(self.random_state, gen.arg_dict["noise"])
        gen.forward(is_train=True)
        made = gen.outputs[0]

        if self.both:
            self._joint_pass(made)
        else:
            self._two_passes(made)

        if self.settings.passes == "beside":
            # The real images are still there; all labels say "real". (The loss is a mean over twice
            # as many images, which Adam does not feel.)
            both = self.both
            both.forward(is_train=True, label=self.settings.real_label)
            both.backward(wanted=["img"])
            self._keep(2, both.outputs[0], both.outputs[1][: self.settings.batch_size])
            gradient = both.grad_dict["img"][: self.settings.batch_size]
        else:
            dis.forward(is_train=True, img=made, label=self.target)
            dis.backward(wanted=["img"])
            self._keep(2, *dis.outputs)
            gradient = dis.grad_dict["img"]
        gen.backward(out_grads=[gradient])
        self.generator_optimizer.update()

    def _two_passes(self, made) -> None:
        """D on generated, then on real images: batch norm sees each kind by itself."""
        dis = self.discriminator
        summed = self.settings.passes == "summed"
        if summed:
            dis.zero_gradients()

        self._next_labels(0, dis.arg_dict["label"])
        dis.forward(is_train=True, img=made)
        dis.backward(wanted=self.discriminator_weights)
        self._keep(0, *dis.outputs)
        if not summed:
            self.discriminator_optimizer.update()

        self._next_labels(1, dis.arg_dict["label"])
        self.data.next_batch(dis.arg_dict["img"])
        dis.forward(is_train=True)
        dis.backward(wanted=self.discriminator_weights)
        self._keep(1, *dis.outputs)
        self.discriminator_optimizer.update()

    def _joint_pass(self, made) -> None:
        """D on generated and real images at once: batch norm's statistics are those of both."""
        for which, labels in enumerate(self.both_labels):
            self._next_labels(which, labels)
        fake, real = self.both_images
        fake[...] = made
        self.data.next_batch(real)
        self.both.forward(is_train=True)
        self.both.backward(wanted=self.discriminator_weights)
        self.discriminator_optimizer.update()

        loss, scores = self.both.outputs
        count = self.settings.batch_size
        self._keep(0, loss, scores[:count])
        self._keep(1, loss, scores[count:])

    def _next_labels(self, which: int, target) -> None:
        """D's labels of this batch's generated (0) or real (1) images."""
        self.device.ops.gather_rows(self.labels[which], self.places, self.data.cursor, target)

    def read_losses(self) -> list[Losses]:
        """As ever; scores are probabilities of "real", whatever the labels."""
        entries = super().read_losses()
        if self.settings.real_label > self.settings.fake_label:
            return entries
        return [
            replace(e, score_real=1 - e.score_real, score_fake=1 - e.score_fake) for e in entries
        ]

    def state_dict(self) -> dict[str, np.ndarray]:
        fake, real = self.labels
        return super().state_dict() | {
            "labels/fake": np.array(fake),
            "labels/real": np.array(real),
        }

    def load_state_dict(self, state: dict[str, np.ndarray], batches_done: int) -> None:
        super().load_state_dict(state, batches_done)
        for table, name in zip(self.labels, ("fake", "real"), strict=True):
            table[...] = state[f"labels/{name}"]


def bind_discriminator(device, count: int, settings: Settings, shared=None):
    """D for batches of ``count``; its weights' gradients are summed where the settings say so."""
    symbol = discriminator(settings.discriminator_slope)
    request = "add" if settings.passes == "summed" else "write"
    requests = dict.fromkeys(symbol.list_arguments(), request) | {"img": "write", "label": "null"}
    shapes = {"img": (count, *IMAGE_SHAPE), "label": (count, 1, 1, 1)}
    return symbol.bind(device, shapes, requests, shared=shared)


def draw_labels(
    label: float, settings: Settings, random: np.random.Generator, count: int
) -> np.ndarray:
    """Labels (count, 1, 1, 1) about ``label``, 0 or 1, noisy and wrong as the settings say."""
    inwards = settings.label_noise * random.random((count, 1, 1, 1), np.float32)
    labels = label + (1 - 2 * label) * inwards
    wrong = random.random((count, 1, 1, 1), np.float32) < settings.wrong_labels
    return np.where(wrong, 1 - labels, labels).astype(np.float32)


class Report:
    """A grid of one fixed noise while training, and the loss curves."""

    def __init__(self, model: StudyGan, where: str) -> None:
        self.model = model
        self.draw = Drawing(model.device, model.settings, ROWS * COLUMNS, model.generator)

    def samples(self, folder: RunFolder, batches_done: int) -> None:
        images = self.draw(ROWS * COLUMNS, self.model.settings.seed)
        picture = pictures.grid(images, ROWS, COLUMNS, SCALE)
        pictures.save_picture(picture, folder.sample(batches_done))

    def measure(self) -> dict[str, float]:
        """Nothing beyond the batches' own numbers; the study measures at its end."""
        return {}

    def page(self, folder: RunFolder, epoch: int) -> str:
        self.samples(folder, self.model.batches_done)
        return str(folder.sample(self.model.batches_done))

    def curves(self, folder: RunFolder, batches_per_epoch: int) -> None:
        draw_gan_curves(self.model, folder, batches_per_epoch)

    def result(self, folder: RunFolder) -> str:
        return ""


class Drawing:
    """A generator of the study in use, by its moving statistics, ``count`` images at a time.

    trained: an executor whose parameters are used as they stand; else ``load`` brings them.
    """

    def __init__(self, device, settings: Settings, count: int, trained=None) -> None:
        shape = {"noise": (count, 1, 1, NOISE_SIZE)}
        graph = generator(settings.generator_slope, settings.bounded)
        self.count = count
        self.executor = graph.bind(device, shape, "null", shared=trained)

    def load(self, state: dict[str, np.ndarray]) -> None:
        load_network(self.executor, state, "generator")

    def __call__(self, count: int, seed: int) -> np.ndarray:
        """Images (count, 28, 28, 1), what an unbounded G puts beyond black and white cut off."""
        images = np.empty((count, *IMAGE_SHAPE), np.float32)
        noise = np.zeros((self.count, 1, 1, NOISE_SIZE), np.float32)
        drawn = draw_noise(self.executor.device, count, seed)
        for start in range(0, count, self.count):
            part = drawn[start : start + self.count]
            noise[: len(part)] = part
            made = np.array(self.executor.forward(is_train=False, noise=noise)[0])[: len(part)]
            images[start : start + self.count] = np.clip(made, 0, 1)
        return images


def bind_sampler(device, count: int, settings: Mapping[str, Any]):
    """noise (count, 1, 1, 10) -> images (count, 28, 28, 1), for `pygan.training.sampling`."""
    return Drawing(device, Settings(**settings), count).executor


GENERATORS[StudyGan.network] = Generator(bind_sampler)


HEADINGS = (
    # heading, key of the numbers, form
    ("D loss", "d_loss", "{:.3f}"),
    ("G loss", "g_loss", "{:.3f}"),
    ("D(x)", "score_real", "{:.3f}"),
    ("D(G(z))", "score_fake", "{:.3f}"),
    ("Frechet", "frechet", "{:.2f}"),
    ("precision", "precision", "{:.1%}"),
    ("recall", "recall", "{:.1%}"),
    ("digits", "covered", "{:g}"),
)


class Judge:
    """A digit classifier, with the real digits that generated ones are compared with."""

    def __init__(self, device, where: str, classifier: Path, count: int, seed: int) -> None:
        self.network = DigitClassifier(device)
        self.metadata = self.network.load(classifier)
        self.train, self.test = load_train_and_test(where)
        self.count, self.seed = count, seed
        self.real, probabilities = self.network(self.test.images)
        self.accuracy = float((probabilities.argmax(axis=1) == self.test.labels).mean())

    def __call__(self, images: np.ndarray) -> dict:
        """`quality.compare` with the test digits."""
        return quality.compare(self.real, *self.network(images), seed=self.seed)

    def reference(self) -> tuple[dict, np.ndarray]:
        """What training digits reach in place of generated ones, and some of them."""
        chosen = np.random.default_rng(self.seed).permutation(len(self.train))[: self.count]
        images = self.train.images[chosen]
        return self(images), images[: ROWS * COLUMNS].astype(np.float32) / 255


def losses_at_the_end(log: list[dict]) -> dict[str, float | None]:
    """Means over the last batches; D's loss is the mean of its two (nats an image). None where the
    log of a finished run was lost."""
    if not log:
        return dict.fromkeys(("d_loss", "g_loss", "score_real", "score_fake"))
    means = {
        name: float(np.mean([entry[name] for entry in log[-AVERAGED:]]))
        for name in ("d_fake", "d_real", "g", "score_real", "score_fake")
    }
    return {
        "d_loss": (means["d_fake"] + means["d_real"]) / 2,
        "g_loss": means["g"],
        "score_real": means["score_real"],
        "score_fake": means["score_fake"],
    }


def for_the_table(measured: dict) -> dict[str, float]:
    """The single numbers of `quality.compare` that the table shows."""
    return {
        **{name: measured[name]["value"] for name in ("frechet", "precision", "recall")},
        "covered": measured["classes"]["covered"],
    }


def examine(folder: Path, device, judge: Judge) -> tuple[dict, np.ndarray, dict]:
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


def table_rows(results: dict[str, list[dict]], reference: dict) -> list[list[str]]:
    """Headings, a row for each setting, and the real digits; of several seeds the mean, and the
    lowest and the highest."""
    rows = [["setting", *(heading for heading, _, _ in HEADINGS)]]
    for name, runs in results.items():
        cells = []
        for _, key, form in HEADINGS:
            values = [run[key] for run in runs if run[key] is not None]
            cell = form.format(float(np.mean(values))) if values else "-"
            if len(values) > 1:
                cell += f" ({form.format(min(values))} to {form.format(max(values))})"
            cells.append(cell)
        rows.append([SETTINGS[name].title, *cells])
    known = for_the_table(reference)
    cells = [form.format(known[key]) if key in known else "-" for _, key, form in HEADINGS]
    return [*rows, ["real digits", *cells]]


def plain_table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def markdown_table(rows: list[list[str]]) -> str:
    headings, *others = (f"| {' | '.join(row)} |" for row in rows)
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    return "\n".join([headings, rule, *others])


def print_table(rows: list[list[str]], plain: bool) -> None:
    """With rich on a terminal, as plain text elsewhere."""
    if plain or not sys.stdout.isatty():
        print(plain_table(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for place, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)


def draw(
    results: dict[str, list[dict]],
    samples: dict[str, np.ndarray],
    curves: dict[str, list[dict]],
    reference: tuple[dict, np.ndarray],
    path: Path,
) -> None:
    """A row for each setting: losses of D and G, what it drew, its numbers; then real digits."""
    from matplotlib.figure import Figure

    rows = len(results) + 1
    width, height = FIGURE_WIDTH, rows * PITCH + 20
    figure = Figure(figsize=(width / DPI, height / DPI))

    def place(row: int, left: int, across: int):
        """Axes in whole pixels, so that each of an image's becomes SCALE of the figure's."""
        bottom = height - (row + 1) * PITCH
        share = left / width, bottom / height, across / width, IMAGE_HEIGHT / height
        axes = figure.add_axes(share)
        axes.tick_params(labelsize=7)
        return axes

    for row, name in enumerate([*results, "real digits"]):
        title, images = "real digits", reference[1]
        numbers = for_the_table(reference[0])
        if name in results:
            title, images = SETTINGS[name].title, samples[name]
            keys = numbers
            numbers = {key: float(np.mean([run[key] for run in results[name]])) for key in keys}
            _draw_losses(place(row, CURVES_LEFT, 330), curves[name], legend=row == 0)
        middle = place(row, IMAGES_LEFT, IMAGE_WIDTH)
        middle.axis("off")
        grid = np.asarray(pictures.grid(images, ROWS, COLUMNS, SCALE))
        middle.imshow(grid, "gray", vmin=0, vmax=255, aspect="auto", interpolation="nearest")
        lines = [f"{head} {form.format(numbers[key])}" for head, key, form in HEADINGS[-4:]]
        top = 1 - (row * PITCH + PITCH - IMAGE_HEIGHT - 6) / height
        figure.text(CURVES_LEFT / width, top, title, fontsize=9, va="bottom")
        text = {"fontsize": 8, "va": "center", "linespacing": 1.5}
        bottom = height - (row + 1) * PITCH
        beside = IMAGES_LEFT + IMAGE_WIDTH + 10
        figure.text(beside / width, (bottom + IMAGE_HEIGHT / 2) / height, "\n".join(lines), **text)
    pictures.save_figure(figure, path)


def _draw_losses(axes, runs: list[dict], legend: bool) -> None:
    """Moving means over 1/50 of the run, a line for each seed; dashed: D cannot tell (ln 2)."""
    logged = [run for run in runs if run["batches"]]
    for number, run in enumerate(logged):
        batches = run["batches"]
        for colour, network in zip(pictures.COLOURS, ("D", "G"), strict=False):
            losses = run[network]
            window = max(1, len(losses) // 50)
            smooth = np.convolve(losses, np.ones(window) / window, "valid")
            label = None if number else f"{network} loss"
            axes.plot(batches[window - 1 :], smooth, color=colour, label=label)
    axes.axhline(np.log(2), color="0.4", lw=0.8, ls="--")
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    if legend and logged:
        axes.legend(frameon=False, fontsize=7, ncols=2)


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

    results, samples, curves = {}, {}, {}
    for name, _, place in sorted(runs, key=lambda run: chosen.index(run[0])):
        numbers, images, losses = examine(place, device, judge)
        results.setdefault(name, []).append(numbers)
        samples.setdefault(name, images)
        curves.setdefault(name, []).append(losses)
    reference = judge.reference()
    rows = table_rows(results, reference[0])
    draw(results, samples, curves, reference, folder / "study.png")
    entry = {
        "data": judge.test.source,
        "judged_images": options.judged,
        "classifier": {"path": str(classifier), "test_accuracy": judge.accuracy},
        "settings": {
            name: {"title": SETTINGS[name].title, "runs": results[name]} for name in chosen
        },
        "real_digits": reference[0],
    }
    checkpoint.write_json(folder / "result.json", entry)
    checkpoint.atomic_write(folder / "study.md", (markdown_table(rows) + "\n").encode())
    print_table(rows, options.plain)
    print(f"{folder / 'study.png'}, {folder / 'study.md'}, {folder / 'result.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
