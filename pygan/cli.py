"""The command line: train, sample, interpolate, summary, devices, doctor.

Exit codes: 0 done, 1 an error the user can put right (printed without a traceback), 2 wrong
arguments, 128 + n stopped by signal n after saving.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pygan.errors import PyganError

DEVICES = ("auto", "numpy", "cpu", "cuda")
NETWORKS = ("lesson",)
GRID_LIMIT = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
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


def _expected_errors() -> tuple[type[BaseException], ...]:
    """What users can put right. Imported late: the doctor must work where numpy is broken."""
    from pygan.bindings.errors import BindingsError
    from pygan.device import DeviceError

    return PyganError, DeviceError, BindingsError, MemoryError, OSError


def train_lesson(options: argparse.Namespace) -> int:
    from pygan import device
    from pygan.progress import make_progress
    from pygan.training.run import RunOptions, train

    fields = RunOptions.__dataclass_fields__
    asked = RunOptions(**{name: getattr(options, name) for name in fields})
    chosen = device.get(options.device)
    progress = make_progress(plain=options.plain)
    try:
        outcome = train(asked, chosen, progress)
    finally:
        progress.close()
    return 0 if outcome.signal_number is None else 128 + outcome.signal_number


def sample(options: argparse.Namespace) -> None:
    from pygan import device, pictures
    from pygan.training.sampling import BATCH, Sampler, draw_noise

    count = options.count
    if options.grid is None:
        count = count or 64
        rows, columns = pictures.grid_shape(count)
    else:
        rows, columns = options.grid
        count = count or rows * columns
    if count > rows * columns:
        raise PyganError(f"--count {count} images do not fit --grid {rows}x{columns}")
    chosen = device.get(options.device)
    sampler = Sampler(chosen, min(count, BATCH))
    metadata = sampler.load(options.checkpoint)
    images = sampler.images(draw_noise(chosen, count, options.seed))
    pictures.save_picture(pictures.grid(images, rows, columns, options.scale), options.out)
    print(
        f"{options.out}: {count} images, seed {options.seed}, of a generator trained for "
        f"{metadata['batches_done']:,} batches; device {chosen.name}"
    )


def interpolate(options: argparse.Namespace) -> None:
    import numpy as np

    from pygan import device, pictures
    from pygan.training.sampling import BATCH, Sampler, draw_noise
    from pygan.training.sampling import interpolate as walk

    chosen = device.get(options.device)
    total = options.rows * options.steps
    sampler = Sampler(chosen, min(total, BATCH))
    metadata = sampler.load(options.checkpoint)
    ends = draw_noise(chosen, 2 * options.rows, options.seed)
    noise = [
        walk(ends[2 * r], ends[2 * r + 1], options.steps, options.mode) for r in range(options.rows)
    ]
    images = sampler.images(np.concatenate(noise))
    picture = pictures.grid(images, options.rows, options.steps, options.scale)
    pictures.save_picture(picture, options.out)
    print(
        f"{options.out}: {options.rows} {options.mode} walk{'s' if options.rows > 1 else ''} of "
        f"{options.steps} images, seed {options.seed}, of a generator trained for "
        f"{metadata['batches_done']:,} batches; device {chosen.name}"
    )


def summary(options: argparse.Namespace) -> None:
    from pygan import networks
    from pygan.training.gan import IMAGE_SHAPE, NOISE_SIZE

    count = options.batch_size
    print(networks.lesson_generator().summary({"noise": (count, 1, 1, NOISE_SIZE)}))
    print()
    shapes = {"img": (count, *IMAGE_SHAPE), "label": (count, 1, 1, 1)}
    print(networks.lesson_discriminator().summary(shapes))


def doctor(options: argparse.Namespace) -> int:
    from pygan import doctor

    return doctor.main(["--json"] if options.json else [])


def devices(options: argparse.Namespace) -> None:
    from pygan import doctor

    works = []
    for name in doctor.DEVICES:
        report = doctor.examine(name)
        if report.works:
            works.append(name)
            print(f"{name:6} works: {report.description}")
        else:
            print(f"{name:6} does not work: {report.why}" + (report.mend and f"; {report.mend}"))
    print(f"{'auto':6} takes {'cuda' if 'cuda' in works else 'numpy'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pygan", description="Generative adversarial networks on hand-written CUDA kernels."
    )
    parser.add_argument("--version", action="version", version=f"pygan {version('pygan')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="train a network")
    networks = train.add_subparsers(title="networks", metavar="NETWORK", required=True)
    _add_train_lesson(networks)
    _add_sample(commands)
    _add_interpolate(commands)

    text = "print a network's layers, output shapes and parameters"
    table = commands.add_parser("summary", help=text, description=text)
    table.add_argument("network", choices=NETWORKS)
    table.add_argument("--batch-size", type=_positive, default=32, metavar="N")
    table.set_defaults(command=summary)

    text = "say which devices work here and, for each that does not, why"
    listing = commands.add_parser("devices", help=text, description=text)
    listing.set_defaults(command=devices)

    text = "check Python, PyCUDA, compilers, driver and GPUs"
    checkup = commands.add_parser("doctor", help=text, description=text)
    checkup.add_argument("--json", action="store_true", help="for programs")
    checkup.set_defaults(command=doctor)
    return parser


def _add_train_lesson(networks) -> None:
    lesson = networks.add_parser(
        "lesson",
        help="the lesson's GAN on handwritten digits",
        description="Train the lesson's GAN on 28x28 handwritten digits. Ctrl-C saves and says how "
        "to go on.",
    )
    lesson.add_argument(
        "--data",
        metavar="DIR",
        help="folder with MNIST's idx files or the lesson's train.csv; or 'download' (MNIST, kept "
        "in a cache), 'digits' (scikit-learn's), 'auto' (default: the folder in PYGAN_DATA, else "
        "the download, else scikit-learn's)",
    )
    lesson.add_argument(
        "--out", default="runs/lesson", metavar="DIR", help="folder of the run (%(default)s)"
    )
    lesson.add_argument("--epochs", type=_positive, metavar="N", help="epochs in all (20)")
    lesson.add_argument("--batch-size", type=_positive, metavar="N", help="images a batch (32)")
    lesson.add_argument("--seed", type=_seed, metavar="N", help="seed of all random numbers (0)")
    lesson.add_argument(
        "--max-batches", type=_positive, metavar="N", help="stop after so many batches in all"
    )
    going_on = lesson.add_mutually_exclusive_group()
    going_on.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder, bit for bit"
    )
    going_on.add_argument(
        "--overwrite", action="store_true", help="start anew where the folder holds a run"
    )
    lesson.add_argument("--plain", action="store_true", help="plain lines instead of a live bar")
    _add_device(lesson)
    lesson.set_defaults(command=train_lesson)


def _add_sample(commands) -> None:
    text = "draw images with a trained generator"
    draw = commands.add_parser("sample", help=text, description=text)
    _add_checkpoint(draw)
    draw.add_argument("--count", type=_positive, metavar="N", help="images (64, or the grid's)")
    draw.add_argument("--grid", type=_grid, metavar="RxC", help="rows and columns, such as 6x10")
    _add_picture(draw, "samples.png")
    draw.set_defaults(command=sample)


def _add_interpolate(commands) -> None:
    text = "walk through the latent space from one noise to another, a row each walk"
    walk = commands.add_parser("interpolate", help=text, description=text)
    _add_checkpoint(walk)
    walk.add_argument("--rows", type=_positive, default=5, metavar="N", help="walks (%(default)s)")
    walk.add_argument(
        "--steps", type=_steps, default=10, metavar="N", help="images a walk (%(default)s)"
    )
    walk.add_argument(
        "--mode",
        choices=("linear", "spherical"),
        default="spherical",
        help="along the straight line, or the great circle (%(default)s)",
    )
    _add_picture(walk, "interpolation.png")
    walk.set_defaults(command=interpolate)


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="a checkpoint, or the folder of a run for its newest",
    )


def _add_picture(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the noise (0)")
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


def _positive(text: str) -> int:
    return _integer(text, 1, 10**9)


def _scale(text: str) -> int:
    return _integer(text, 1, 64)


def _steps(text: str) -> int:
    return _integer(text, 2, GRID_LIMIT)


def _seed(text: str) -> int:
    return _integer(text, 0, 2**63 - 1)


def _integer(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{value} is not between {low:,} and {high:,}")
    return value


def _grid(text: str) -> tuple[int, int]:
    rows, cross, columns = text.lower().partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWSxCOLUMNS, such as 6x10")
    shape = _integer(rows, 1, GRID_LIMIT), _integer(columns, 1, GRID_LIMIT)
    if shape[0] * shape[1] > GRID_LIMIT:
        raise argparse.ArgumentTypeError(f"{text} is more than {GRID_LIMIT:,} images")
    return shape
