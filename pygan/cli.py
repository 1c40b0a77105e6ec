"""The command line: train, average, sample, interpolate, quality, export, summary, devices, doctor.

Exit codes: 0 done, 1 an error the user can put right (printed without a traceback), 2 wrong
arguments, 128 + n stopped by signal n after saving.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from pygan import commands
from pygan.commands import GRID_LIMIT
from pygan.errors import PyganError

if TYPE_CHECKING:
    Parsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEVICES = ("auto", "numpy", "cpu", "cuda")
TRAINED = {
    "lesson": ("the lesson's GAN on handwritten digits", 20, 32),
    "conditional": ("the conditional GAN, which draws the digit asked for", 20, 32),
    "classifier": ("the digit classifier", 10, 20),
    "colour-classifier": ("a classifier of CIFAR-10's classes, to judge colour images", 10, 50),
    "autoencoder": ("a plain auto-encoder with a code of two numbers", 20, 50),
    "autoencoder-penalised": ("an auto-encoder whose code of two numbers is kept small", 20, 50),
    "vae": ("a variational auto-encoder with a code of 32 numbers", 20, 50),
    "vae2": ("a variational auto-encoder with a code of two numbers", 20, 50),
    "anomaly-vae": ("the variational auto-encoder of all digits but 2 and 3", 10, 20),
    "anomaly-lenet": ("LeNet on ten 2s, as anomalies, against normal digits", 1, 20),
}
"""What ``pygan train`` trains with checkpoints: title, and epochs and batch size unless asked. The
names are those of ``pygan.training.systems.SYSTEMS``, which is not imported for every command."""
LEAN = ("lesson", "conditional", "colour-classifier")
"""Those at whose peak of memory lie results of batch norms that convolutions alone read."""
EXAMPLES = {
    "dcgan": ("dcgan", "DCGAN at 64x64 pixels on MNIST or CIFAR-10, as in MXNet's example"),
    "fully-connected": ("fully_connected_gan", "a GAN of fully connected layers, on digits"),
    "autoencoders": ("autoencoders", "four auto-encoders side by side: error, codes, pictures"),
    "study": ("hyperparameter_study", "the lesson's exercise: one setting changed at a time"),
    "cifar10": ("cifar10_gan", "a GAN of one class of CIFAR-10 (dogs), in the manner of Keras"),
    "transfer": ("transfer", "the discriminator's layers as the start of a classifier of digits"),
    "generated-data": (
        "generated_data",
        "a digit classifier that learns from generated images too",
    ),
    "anomaly": ("anomaly_detection", "2s and 3s as anomalies: LeNet against an auto-encoder"),
}
"""What ``pygan train`` hands to a script of ``examples/``, options and all: script and title."""
SUMMARISED_EXAMPLES = ("dcgan", "fully-connected")
"""The examples of two networks of their own, which ``pygan summary`` knows too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["train"] and arguments[1:2] and arguments[1] in EXAMPLES:
        return guarded(lambda: _example(arguments[1])(arguments[2:]))
    options = _parser().parse_args(arguments)
    return guarded(lambda: options.command(options))


def guarded(command: Callable[[], int | None]) -> int:
    """Runs a command; the exit code. What the user can put right is said without a traceback."""
    try:
        return command() or 0
    except KeyboardInterrupt:
        print("\npygan: interrupted; a run's last checkpoint is whole", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output (say, head) is gone; nothing can be printed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        print(f"pygan: error: {error}", file=sys.stderr)
        return 1


def _example(name: str) -> Callable[[Sequence[str]], int]:
    return import_module(f"pygan.examples.{EXAMPLES[name][0]}").main


def _expected_errors() -> tuple[type[BaseException], ...]:
    """What users can put right. Imported late: the doctor must work where numpy is broken."""
    from pygan.bindings.errors import BindingsError
    from pygan.device import DeviceError

    return PyganError, DeviceError, BindingsError, MemoryError, OSError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pygan", description="Generative adversarial networks on hand-written CUDA kernels."
    )
    parser.add_argument("--version", action="version", version=f"pygan {version('pygan')}")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = parsers.add_parser("train", help="train a network")
    networks = train.add_subparsers(title="networks", metavar="NETWORK", required=True)
    for name in TRAINED:
        _add_train(networks, name)
    for name, (_, title) in EXAMPLES.items():
        networks.add_parser(name, help=title, add_help=False)
    _add_average(parsers)
    _add_sample(parsers)
    _add_interpolate(parsers)
    _add_quality(parsers)

    text = "write a trained generator for PyTorch, and print the modules that take it"
    out = parsers.add_parser("export", help=text, description=text)
    _add_checkpoint(out)
    out.add_argument(
        "--out", default="generator.safetensors", metavar="FILE", help="safetensors (%(default)s)"
    )
    _add_device(out)
    out.set_defaults(command=commands.export)

    text = "print a network's layers, output shapes and parameters"
    table = parsers.add_parser("summary", help=text, description=text)
    table.add_argument("network", choices=(*TRAINED, *SUMMARISED_EXAMPLES))
    table.add_argument("--batch-size", type=positive, default=32, metavar="N")
    table.set_defaults(command=commands.summary)

    text = "say which devices work here and, for each that does not, why"
    listing = parsers.add_parser("devices", help=text, description=text)
    listing.set_defaults(command=commands.devices)

    text = "check Python, PyCUDA, compilers, driver and GPUs"
    checkup = parsers.add_parser("doctor", help=text, description=text)
    checkup.add_argument("--json", action="store_true", help="for programs")
    checkup.set_defaults(command=commands.doctor)
    return parser


def _add_train(networks: Parsers, name: str) -> None:
    title, epochs, batch_size = TRAINED[name]
    network = networks.add_parser(
        name,
        help=title,
        description=f"Train {title}. Ctrl-C saves and says how to go on.",
    )
    data = CIFAR10 if name == "colour-classifier" else DIGITS
    add_run_options(network, name, epochs, batch_size, data, lean=name in LEAN)
    network.set_defaults(command=commands.train, system=name)


DIGITS = (
    "folder with MNIST's idx files or the lesson's train.csv; or 'download' (MNIST, kept in a "
    "cache), 'digits' (scikit-learn's), 'auto' (default: the folder in PYGAN_DATA, else the "
    "download, else scikit-learn's)"
)
CIFAR10 = "folder with cifar-10-batches-bin, or that one itself (default: the folder in PYGAN_DATA)"


def add_run_options(
    parser: argparse.ArgumentParser,
    name: str,
    epochs: int,
    batch_size: int,
    data: str = DIGITS,
    *,
    lean: bool = False,
) -> None:
    """The options that every run has, as ``pygan.training.command`` reads them. data: which images
    it takes. lean: its convolutions can normalise what they read."""
    parser.add_argument("--data", type=_named, metavar="DIR", help=data)
    parser.add_argument(
        "--out",
        type=_named,
        default=f"runs/{name}",
        metavar="DIR",
        help="folder of the run (%(default)s)",
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help=f"epochs in all ({epochs})")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help=f"images a batch ({batch_size})"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="seed of all random numbers (0)")
    parser.add_argument(
        "--max-batches", type=positive, metavar="N", help="stop after so many batches in all"
    )
    going_on = parser.add_mutually_exclusive_group()
    going_on.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder, bit for bit"
    )
    going_on.add_argument(
        "--overwrite", action="store_true", help="start anew where the folder holds a run"
    )
    parser.add_argument("--plain", action="store_true", help="plain lines instead of a live bar")
    parser.add_argument(
        "--graph",
        choices=("auto", "on", "off"),
        default="auto",
        help="record a step once as a CUDA graph and replay it: the same bits with less work for "
        "the host; auto: on device cuda, where cuda-bindings is installed (%(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "tf32", "bf16"),
        help="what the operands of convolutions and fully connected layers are rounded to in "
        "training; tf32 and bf16 are for tensor cores, of GPUs since compute capability 8.0 "
        "(float32)",
    )
    parser.add_argument(
        "--storage",
        choices=("float32", "bf16"),
        help="what activations and their gradients lie in while training; bf16, with --precision "
        "bf16, takes half the bytes; parameters stay float32 (float32)",
    )
    if lean:
        parser.add_argument(
            "--lean",
            action="store_true",
            help="convolutions normalise what they read wherever a kernel can, or backward makes "
            "the results of batch norms again, so that those are not kept: less memory for a "
            "little more time, which is not measured on a GPU yet; unless asked for, only where no "
            "time should be lost (devices cuda and cpu)",
        )
    parser.add_argument(
        "--cooperative",
        action="store_true",
        help="run small layers that follow each other as one cooperative launch; not yet measured "
        "on a GPU, so off unless asked for (devices cuda and cpu)",
    )
    _add_device(parser)


def add_gan_options(parser: argparse.ArgumentParser, option: str, system: str) -> None:
    """``option``, which names a trained GAN, and ``--gan-batches``, as
    ``pygan.training.comparison_session.trained_gan`` reads them."""
    parser.add_argument(
        option,
        dest="gan",
        metavar="RUN",
        help=f"a run of 'pygan train {system}', or a checkpoint of it (OUT/{system}, trained here)",
    )
    parser.add_argument(
        "--gan-batches", type=positive, metavar="N", help="of that run, where it is trained here"
    )


def _add_average(parsers: Parsers) -> None:
    text = "average a run's generators over its last epochs, which often draws better than each"
    mean = parsers.add_parser("average", help=text, description=text)
    mean.add_argument("--run", required=True, metavar="DIR", help="folder of the run of a GAN")
    mean.add_argument(
        "--last", type=positive, metavar="N", help="so many epochs (the second half of the run)"
    )
    mean.add_argument("--seed", type=seed, default=0, metavar="N", help="of the noise (0)")
    mean.add_argument(
        "--out", metavar="FILE", help="checkpoint (averaged.safetensors in the run's folder)"
    )
    _add_device(mean)
    mean.set_defaults(command=commands.average)


def _add_sample(parsers: Parsers) -> None:
    text = "draw images with a trained generator"
    draw = parsers.add_parser("sample", help=text, description=text)
    _add_checkpoint(draw)
    draw.add_argument("--count", type=_images, metavar="N", help="images (64, or the grid's)")
    draw.add_argument("--grid", type=_grid, metavar="RxC", help="rows and columns, such as 6x10")
    _add_digits(draw, "in turn, for a generator that draws the digits asked for (0-9)")
    _add_picture(draw, "samples.png")
    draw.set_defaults(command=commands.sample)


def _add_interpolate(parsers: Parsers) -> None:
    text = "walk through the latent space from one noise to another, a row each walk"
    walk = parsers.add_parser("interpolate", help=text, description=text)
    _add_checkpoint(walk)
    walk.add_argument("--rows", type=positive, default=5, metavar="N", help="walks (%(default)s)")
    walk.add_argument(
        "--steps", type=_steps, default=10, metavar="N", help="images a walk (%(default)s)"
    )
    walk.add_argument(
        "--mode",
        choices=("linear", "spherical"),
        default="spherical",
        help="along the straight line, or the great circle (%(default)s)",
    )
    _add_digits(walk, "a walk each, for a generator that draws the digits asked for (0-9)")
    _add_picture(walk, "interpolation.png")
    walk.set_defaults(command=commands.interpolate)


def _add_quality(parsers: Parsers) -> None:
    text = "measure generated images: Frechet distance, precision, recall, digits as asked"
    measure = parsers.add_parser("quality", help=text, description=text)
    _add_checkpoint(measure)
    measure.add_argument(
        "--classifier",
        required=True,
        metavar="FILE",
        help="a checkpoint, or the folder of a run, of 'pygan train classifier'; for a generator "
        "trained on CIFAR-10, of 'pygan train colour-classifier'",
    )
    measure.add_argument(
        "--data",
        type=_named,
        default="auto",
        metavar="DIR",
        help="the real images, as for training",
    )
    measure.add_argument(
        "--count", type=positive, default=10_000, metavar="N", help="images (%(default)s)"
    )
    measure.add_argument("--seed", type=seed, default=0, metavar="N", help="of the noise (0)")
    measure.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    _add_device(measure)
    measure.set_defaults(command=commands.quality)


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="a checkpoint, or the folder of a run: the mean of its generators where there is one "
        "(averaged.safetensors), else its newest",
    )


def _add_digits(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "--digits", type=_digits, metavar="LIST", help=f"digits such as 0-9 or 3,1,4: {text}"
    )


def _add_picture(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the noise (0)")
    parser.add_argument(
        "--scale", type=_scale, default=2, metavar="N", help="enlarge pixels (%(default)s)"
    )
    parser.add_argument("--out", default=name, metavar="FILE", help="picture (%(default)s)")
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where to compute; auto: cuda where a GPU answers, else numpy (%(default)s)",
    )


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("its value is empty; name a folder")
    return text


def positive(text: str) -> int:
    return _integer(text, 1, 10**9)


def _scale(text: str) -> int:
    return _integer(text, 1, 64)


def _images(text: str) -> int:
    return _integer(text, 1, GRID_LIMIT)


def _steps(text: str) -> int:
    return _integer(text, 2, GRID_LIMIT)


def seed(text: str) -> int:
    return _integer(text, 0, 2**63 - 1)


def _integer(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{value} is not between {low:,} and {high:,}")
    return value


def _digits(text: str) -> list[int]:
    digits: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = _integer(first, 0, 9)
        digits += range(low, (_integer(last, low, 9) if dash else low) + 1)
    return digits


def _grid(text: str) -> tuple[int, int]:
    rows, _, columns = text.lower().partition("x")
    if not (rows.isdecimal() and columns.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWSxCOLUMNS, such as 6x10")
    shape = _integer(rows, 1, GRID_LIMIT), _integer(columns, 1, GRID_LIMIT)
    if shape[0] * shape[1] > GRID_LIMIT:
        raise argparse.ArgumentTypeError(f"{text} is more than {GRID_LIMIT:,} images")
    return shape
