"""Anomalies among handwritten digits: a classifier that saw ten of them, a VAE that saw none.

    pygan train anomaly --data DIR                (or: python examples/anomaly_detection.py ...)

The digits 2 and 3 are the anomalies. Training data have all other digits, ten labelled 2s and no 3.
LeNet learns batches of half anomalies, half normal digits, and scores by its probability; the
variational auto-encoder (784-64-8-64-784) learns normal digits alone, and scores by the error of
its reconstruction. Ends in ROC curves and their areas over the held-out digits: overall, for the 2s
alone and for the 3s alone. The threshold is Youden's (largest sensitivity + specificity - 1: W. J.
Youden, "Index for rating diagnostic tests", 1950), taken on one half of the held-out digits;
sensitivity and specificity are those of the other half.
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
from pygan.errors import DataError
from pygan.training.anomaly import ANOMALIES, AnomalyScores
from pygan.training.autoencoder import Codec
from pygan.training.command import run_part
from pygan.training.systems import SYSTEMS

VAE, LENET = SYSTEMS["anomaly-vae"], SYSTEMS["anomaly-lenet"]


def measure(
    scores: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Areas, threshold, sensitivity and specificity of scores (N,), high for anomalies, of images
    with these digits (N,); and the ROC curves, (false positives, true positives) by name."""
    from sklearn.metrics import roc_auc_score, roc_curve

    anomalous = np.isin(labels, ANOMALIES)
    groups = {"overall": np.ones(len(labels), bool)}
    groups |= {f"digit {digit}": ~anomalous | (labels == digit) for digit in ANOMALIES}
    curves = {n: roc_curve(anomalous[rows], scores[rows])[:2] for n, rows in groups.items()}
    areas = {n: float(roc_auc_score(anomalous[rows], scores[rows])) for n, rows in groups.items()}

    # Chosen and judged on the same images, a threshold would look better than it is.
    choosing = np.zeros(len(labels), bool)
    order = np.random.default_rng(seed).permutation(len(labels))
    choosing[order[: len(labels) // 2]] = True
    false_positives, true_positives, thresholds = roc_curve(anomalous[choosing], scores[choosing])
    threshold = float(thresholds[np.argmax(true_positives - false_positives)])
    judged = ~choosing
    flagged = scores >= threshold

    def share(rows: np.ndarray) -> float:
        return float(flagged[rows].mean())

    numbers = {
        "area": areas,
        "threshold": threshold,
        "sensitivity": share(judged & anomalous),
        **{f"sensitivity_{d}": share(judged & (labels == d)) for d in ANOMALIES},
        "specificity": 1 - share(judged & ~anomalous),
        "images_choosing": int(choosing.sum()),
        "images_judged": int(judged.sum()),
    }
    return numbers, curves


def draw(curves: dict[str, dict[str, Any]], results: dict[str, dict[str, Any]], path: Path) -> None:
    """ROC curves: a panel for each group of anomalies, a line for each detector."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    names = list(next(iter(curves.values())))
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for colour, (detector, of_group) in zip(pictures.COLOURS, curves.items(), strict=False):
            area = results[detector]["area"][name]
            label = f"{detector}, area {area:.3f}"
            axes.plot(*of_group[name], color=colour, label=label)
        axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
        axes.set(title=name, xlabel="false positives (1 - specificity)", aspect="equal")
        axes.set(ylabel="true positives (sensitivity)")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", frameon=False)
    pictures.save_figure(figure, path)


def draw_extremes(codec: Codec, test: ImageSet, errors: np.ndarray, path: Path) -> None:
    """A column an image, its reconstruction below it: the ten normal digits that the VAE takes for
    the most anomalous, then ten anomalies of middling score."""
    anomalous = np.isin(test.labels, ANOMALIES)
    ranked = np.argsort(errors)
    normal, odd = ranked[~anomalous[ranked]][-10:], ranked[anomalous[ranked]]
    middle = odd[len(odd) // 2 - 5 :][:10]
    images = test.images[np.concatenate([normal, middle])]
    made = np.clip(codec.reconstruct(images), 0, 1)
    pairs = np.concatenate([images.astype(np.float32) / 255, made])
    pictures.save_picture(pictures.grid(pairs, 2, len(images), 2), path)


def table(results: dict[str, dict[str, Any]]) -> str:
    names = list(next(iter(results.values()))["area"])
    heads = [f"AUC {name}" for name in names]
    lines = [f"{'':8}" + "".join(f"{h:>13}" for h in [*heads, "sensitivity", "specificity"])]
    for detector, row in results.items():
        values = [*row["area"].values(), row["sensitivity"], row["specificity"]]
        lines.append(f"{detector:8}" + "".join(f"{value:13.4f}" for value in values))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, then measures; 0, or 128 + the number of the signal that stopped the training."""
    parser = argparse.ArgumentParser(
        prog="pygan train anomaly", description=__doc__.splitlines()[0]
    )
    cli.add_run_options(parser, "anomaly", VAE.epochs, VAE.settings.batch_size)
    parser.add_argument(
        "--lenet-epochs", type=cli.positive, metavar="N", help=f"LeNet's epochs ({LENET.epochs})"
    )
    options = parser.parse_args(arguments)
    folder = Path(options.out)
    for system, epochs in ((VAE, options.epochs), (LENET, options.lenet_epochs)):
        code = run_part(options, system, folder / system.command, epochs=epochs)
        if code:
            return code

    device = devices.get(options.device)
    _, test = load_train_and_test(options.data or "auto")
    if set(ANOMALIES) - set(test.labels):
        raise DataError(f"{test.source}: the held-out images have no {ANOMALIES[0]} or no 3")
    codec, lenet = Codec(device, VAE.model.kind), AnomalyScores(device)
    trained = {
        "LeNet": lenet.load(folder / LENET.command),
        "VAE": codec.load(folder / VAE.command, VAE.network),
    }
    scores = {"LeNet": lenet(test.images), "VAE": codec.errors(test.images)}
    results, curves = {}, {}
    for detector, values in scores.items():
        numbers, curves[detector] = measure(values, test.labels, options.seed or 0)
        metadata = trained[detector]
        numbers["batches"] = metadata["batches_done"]
        results[detector] = {**numbers, "settings": metadata["settings"]}
    draw(curves, results, folder / "roc.png")
    draw_extremes(codec, test, scores["VAE"], folder / "reconstructions.png")
    entry = {"device": device.name, "held_out_images": len(test), "detectors": results}
    path = folder / "result.json"
    checkpoint.write_json(path, entry)
    print(f"{table(results)}\n{folder / 'roc.png'}, {folder / 'reconstructions.png'}, {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
