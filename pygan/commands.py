"""What the commands of ``pygan`` do with their options, which `pygan.cli` has parsed.

Each imports what it needs when it runs: the doctor must work where numpy is broken, and `--help`
shall not wait for it.
"""

from __future__ import annotations

import argparse
from typing import Any

from pygan.errors import GraphError, PyganError

GRID_LIMIT = 10_000
"""Images in a picture, at most."""
DIGIT_ROWS = 8
AUTOENCODER_KINDS = {
    "autoencoder": "plain",
    "autoencoder-penalised": "penalised",
    "vae": "vae32",
    "vae2": "vae2",
    "anomaly-vae": "anomaly",
}
"""The names in ``pygan.networks.AUTOENCODERS`` of those that are auto-encoders."""


def train(options: argparse.Namespace) -> int:
    from pygan.training.command import run_system
    from pygan.training.systems import SYSTEMS

    return run_system(options, SYSTEMS[options.system])


def average(options: argparse.Namespace) -> None:
    from pygan import device
    from pygan.training.averaging import average_run
    from pygan.training.sampling import described

    chosen = device.get(options.device)
    path, metadata = average_run(chosen, options.run, options.last, options.out, options.seed)
    print(
        f"{path}: {described(metadata)}, seed {options.seed}; 'pygan sample' and 'pygan quality' "
        "draw with it"
    )


def sample(options: argparse.Namespace) -> None:
    from pygan import device, pictures
    from pygan.training.sampling import BATCH, described, open_sampler

    chosen = device.get(options.device)
    sampler, metadata = open_sampler(chosen, options.checkpoint, BATCH)
    digits = options.digits
    if sampler.takes_digits and digits is None:
        digits = list(range(10))
    count = options.count
    if options.grid is not None:
        rows, columns = options.grid
        count = count or rows * columns
    elif digits is not None:
        # A column for each digit asked for; each image has a noise of its own.
        count = count or DIGIT_ROWS * len(digits)
        columns = min(len(digits), count)
        rows = -(-count // columns)
    else:
        count = count or 64
        rows, columns = pictures.grid_shape(count)
    if count > rows * columns:
        raise PyganError(f"--count {count} images do not fit --grid {rows}x{columns}")
    asked = None if digits is None else [digits[i % len(digits)] for i in range(count)]
    images = sampler.images(sampler.draw_noise(count, options.seed), asked)
    pictures.save_picture(pictures.grid(images, rows, columns, options.scale), options.out)
    of = "" if asked is None else f" of the digits {', '.join(map(str, digits))} in turn"
    print(
        f"{options.out}: {count} images{of}, seed {options.seed}, of {described(metadata)}; device "
        f"{chosen.name}"
    )


def interpolate(options: argparse.Namespace) -> None:
    import numpy as np

    from pygan import device, pictures
    from pygan.training.sampling import BATCH, described, open_sampler
    from pygan.training.sampling import interpolate as walk

    chosen = device.get(options.device)
    total = options.rows * options.steps
    if total > GRID_LIMIT:
        raise PyganError(
            f"--rows {options.rows:,} of --steps {options.steps:,} are {total:,} images; a picture "
            f"holds at most {GRID_LIMIT:,}"
        )
    sampler, metadata = open_sampler(chosen, options.checkpoint, min(total, BATCH))
    digits = options.digits
    if sampler.takes_digits and digits is None:
        digits = list(range(10))
    ends = sampler.draw_noise(2 * options.rows, options.seed)
    noise = [
        walk(ends[2 * r], ends[2 * r + 1], options.steps, options.mode) for r in range(options.rows)
    ]
    # A walk keeps its digit.
    asked = None
    if digits is not None:
        asked = [digits[i // options.steps % len(digits)] for i in range(total)]
    images = sampler.images(np.concatenate(noise), asked)
    picture = pictures.grid(images, options.rows, options.steps, options.scale)
    pictures.save_picture(picture, options.out)
    print(
        f"{options.out}: {options.rows} {options.mode} walk{'s' if options.rows > 1 else ''} of "
        f"{options.steps} images, seed {options.seed}, of {described(metadata)}; device "
        f"{chosen.name}"
    )


def export(options: argparse.Namespace) -> None:
    import safetensors.numpy

    from pygan import checkpoint, device, exchange
    from pygan.training.sampling import described, open_sampler

    sampler, metadata = open_sampler(device.get(options.device), options.checkpoint, 1)
    state = exchange.to_torch(sampler.executor)
    try:
        checkpoint.atomic_write(options.out, safetensors.numpy.save(state))
    except OSError as error:
        raise PyganError(f"{options.out} could not be written: {error.strerror}") from None
    numbers = sum(array.size for array in state.values())
    # All that is printed is Python, so that it can be a file.
    print(f"# {options.out}: {len(state)} arrays, {numbers:,} numbers, of {described(metadata)}")
    try:
        modules = exchange.torch_modules(sampler.executor)
    except GraphError as error:
        print(f"# no modules to go with them: {error}")
        return
    print("\nfrom collections import OrderedDict\n")
    print("from safetensors.torch import load_file\nfrom torch import nn\n")
    print(f"generator = {modules}")
    print(f'generator.load_state_dict(load_file("{options.out}"))\ngenerator.eval()')


def summary(options: argparse.Namespace) -> None:
    from pygan import networks
    from pygan.training.autoencoder import input_shapes
    from pygan.training.gan import IMAGE_SHAPE, NOISE_SIZE

    count = options.batch_size
    noise = {"noise": (count, 1, 1, NOISE_SIZE)}
    image, label = {"img": (count, *IMAGE_SHAPE)}, {"label": (count, 1, 1, 1)}
    digit = {"digit": (count, 1, 1, 10)}
    parts: dict[str, list[tuple[Any, dict[str, Any]]]] = {
        "lesson": [
            (networks.lesson_generator, noise),
            (networks.lesson_discriminator, image | label),
        ],
        "conditional": [
            (networks.conditional_generator, noise | digit),
            (networks.conditional_discriminator, image | digit | label),
        ],
        "classifier": [
            (networks.classifier, {"data": (count, *IMAGE_SHAPE), "label": (count, 10)}),
        ],
        "colour-classifier": [
            (networks.colour_classifier, {"data": (count, 32, 32, 3), "label": (count, 10)}),
        ],
        "anomaly-lenet": [(networks.lenet, {"data": (count, *IMAGE_SHAPE)})],
        "dcgan": [
            (networks.dcgan_generator, {"rand": (count, 1, 1, 100)}),
            (networks.dcgan_discriminator, {"data": (count, 64, 64, 3), "label": (count, 1)}),
        ],
        "fully-connected": [
            (networks.fully_connected_generator, {"noise": (count, 100)}),
            (networks.fully_connected_discriminator, image | {"label": (count, 1)}),
        ],
    }
    for name, kind in AUTOENCODER_KINDS.items():
        graph = networks.AUTOENCODERS[kind].training_graph
        parts[name] = [(graph, input_shapes(kind, count))]
    tables = [network().summary(shapes) for network, shapes in parts[options.network]]
    print("\n\n".join(map(str, tables)))


def quality(options: argparse.Namespace) -> None:
    from pygan import checkpoint, device
    from pygan.training.judging import judge, table
    from pygan.training.sampling import described

    chosen = device.get(options.device)
    result = judge(
        chosen, options.checkpoint, options.classifier, options.data, options.count, options.seed
    )
    print(
        f"{result['generated_images']:,} images, seed {options.seed}, of {result['network']}, "
        f"{described(result)}, against {result['real_images']:,} real ones; device {chosen.name}; "
        "95 % intervals"
    )
    print(table(result))
    if options.out:
        checkpoint.write_json(options.out, result)


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
