"""Four auto-encoders of handwritten digits side by side: what a code can hold, and what it is like.

    pygan train autoencoders --data DIR           (or: python examples/autoencoders.py ...)

Plain and penalised with a code of two numbers, variational with two and with 32. The networks are
`pygan.networks.AUTOENCODERS`, the step is `pygan.training.supervised.Supervised.step`; each is also
a command of its own (``pygan train vae``). Ends in one figure (codes by digit, decoded random
codes, walks from a 6 to a 0) and one table: the mean squared error of held-out digits, and how well
the code alone tells the digits (5 nearest neighbours of scikit-learn among the training codes).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pygan import checkpoint, cli, pictures
from pygan import device as devices
from pygan.data import ImageSet, load_train_and_test
from pygan.errors import PyganError
from pygan.training.autoencoder import Codec, in_the_plane, medoid_walk
from pygan.training.command import run_part
from pygan.training.systems import SYSTEMS

EPOCHS = 20
COMMANDS = ("autoencoder", "autoencoder-penalised", "vae2", "vae")
ROWS, COLUMNS = 6, 10
NEIGHBOURS = 5


def measure(
    codec: Codec, train: ImageSet, test: ImageSet, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers for the table, and what the figure shows."""
    from sklearn.neighbors import KNeighborsClassifier

    codes = codec.encode(test.images)
    neighbours = KNeighborsClassifier(NEIGHBOURS).fit(codec.encode(train.images), train.labels)
    numbers = {
        "held_out_error": float(codec.errors(test.images).mean()),
        "digits_told_by_the_code": float(neighbours.score(codes, test.labels)),
        "mean_square_of_the_code": float(np.square(codes, dtype=float).mean()),
    }
    drawn = codec.decode(codec.random_codes(ROWS * COLUMNS, seed, codes))
    walk = medoid_walk(codes, test.labels)
    shown = {
        "plane": in_the_plane(codes),
        "random": pictures.grid(np.clip(drawn, 0, 1), ROWS, COLUMNS),
    }
    if walk is not None:
        shown["walk"] = pictures.grid(np.clip(codec.decode(walk), 0, 1), 1, len(walk))
    return numbers, shown


def draw(shown: dict[str, dict[str, Any]], labels: np.ndarray, path: Path) -> None:
    """A column for each auto-encoder: codes by digit, decoded random codes, the walk."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(shown), 8), layout="constrained")
    rows = figure.subplots(3, len(shown), squeeze=False, height_ratios=(1.5, 1, 0.2))
    for column, (command, parts) in zip(rows.T, shown.items(), strict=True):
        points, axes = parts["plane"]
        pictures.scatter_by_label(column[0], points, labels)
        column[0].set(title=SYSTEMS[command].model.title, xlabel=axes[0], ylabel=axes[1])
        for place, name in zip(column[1:], ("random", "walk"), strict=True):
            place.axis("off")
            if name in parts:
                place.imshow(np.asarray(parts[name]), cmap="gray", vmin=0, vmax=255)
        column[1].set_title("decoded random codes", fontsize=10)
        column[2].set_title("from a 6 to a 0", fontsize=10)
    pictures.save_figure(figure, path)


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'network':24}{'error':>10}{'digits told':>13}{'code^2':>9}"]
    for command, row in results.items():
        lines.append(
            f"{command:24}{row['held_out_error']:10.5f}{row['digits_told_by_the_code']:13.2%}"
            f"{row['mean_square_of_the_code']:9.2f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, then measures; 0, or 128 + the number of the signal that stopped the training."""
    parser = argparse.ArgumentParser(
        prog="pygan train autoencoders", description=__doc__.splitlines()[0]
    )
    cli.add_run_options(parser, "autoencoders", EPOCHS, SYSTEMS["vae"].settings.batch_size)
    parser.add_argument(
        "--only", metavar="LIST", default=",".join(COMMANDS), help="of these (%(default)s)"
    )
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    unknown = sorted(set(chosen) - set(COMMANDS))
    if unknown:
        raise PyganError(f"--only {', '.join(unknown)}: choose from {', '.join(COMMANDS)}")

    folder = Path(options.out)
    for command in chosen:
        code = run_part(options, SYSTEMS[command], folder / command)
        if code:
            return code

    train, test = load_train_and_test(options.data or "auto")
    device = devices.get(options.device)
    results, shown = {}, {}
    for command in chosen:
        codec = Codec(device, SYSTEMS[command].model.kind)
        metadata = codec.load(folder / command, SYSTEMS[command].network)
        numbers, shown[command] = measure(codec, train, test, options.seed or 0)
        settings = metadata["settings"]
        results[command] = {**numbers, "batches": metadata["batches_done"], "settings": settings}
    draw(shown, test.labels, folder / "autoencoders.png")
    entry = {"device": device.name, "held_out_images": len(test), "networks": results}
    path = folder / "result.json"
    checkpoint.write_json(path, entry)
    print(f"{table(results)}\n{folder / 'autoencoders.png'}, {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
