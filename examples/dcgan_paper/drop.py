"""The generator without the feature maps that draw horizontal strokes.

Section 6.3.1 of the paper, which made bedrooms without windows: a logistic regression tells, from
the second highest maps, the places where the thing is drawn from others; the maps with positive
weights are dropped. Strokes within 30 degrees of the horizontal are the thing here: they are found
without anybody drawing boxes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from pygan import cli, pictures, quality
from pygan.errors import PyganError
from pygan.examples.dcgan_paper import Results
from pygan.examples.dcgan_paper.attributes import horizontal_strokes
from pygan.examples.dcgan_paper.cut import CutGenerator
from pygan.training.classifier import DigitClassifier
from pygan.training.judging import as_digits
from pygan.training.sampling import origin

LEARNED_FROM = 150
"""Images of the logistic regression, as in the paper."""
PLACES = 20_000
"""Places of each kind that it sees, at most."""
SHARE = 0.4
"""Of a place's pixels, in the image, that make it one of the stroke."""
RANDOM_DRAWS = 5
SHOWN = 12
PENALTY = 1e-3
"""C of the regression: weights that are only noise stay near 0."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", type=cli.positive, default=1000, metavar="N", help="measured (%(default)s)"
    )
    parser.add_argument("--classifier", metavar="FILE", help="a run of 'pygan train classifier'")


def run(device: Any, options: argparse.Namespace) -> Results:
    generator = CutGenerator(device, options.checkpoint)
    learned = generator.maps(LEARNED_FROM, options.seed)
    weights, told = stroke_weights(learned, generator.images(learned), options.seed)
    dropped = weights > 0
    maps = generator.maps(options.images, options.seed + 1)
    random = np.random.default_rng(options.seed)
    others = [random.permutation(dropped) for _ in range(RANDOM_DRAWS)]

    drawn = {
        "whole": generator.images(maps),
        "without": generator.images(maps * ~dropped),
        "random": generator.images(maps * ~others[0]),
    }
    changes = {name: left_over(drawn["whole"], images) for name, images in drawn.items()}
    again = [left_over(drawn["whole"], generator.images(maps * ~other)) for other in others[1:]]
    changes["random"] = {
        key: float(np.mean([changes["random"][key], *(row[key] for row in again)]))
        for key in changes["random"]
    }
    numbers = {
        **origin(generator.metadata),
        "maps": len(weights),
        "dropped": int(dropped.sum()),
        "places_told": told,
        "images": options.images,
        "random_choices": RANDOM_DRAWS,
        "ink_left": changes,
    }
    lines = [
        f"{numbers['dropped']} of {numbers['maps']} maps draw horizontal strokes ({told:.1%} of "
        "places told); ink left where there was",
        f"{'':28}{'a horizontal stroke':>20}{'another':>10}",
    ]
    for name, title in (("without", "without them"), ("random", "without as many others")):
        row = changes[name]
        lines.append(f"{title:28}{row['horizontal']:20.1%}{row['other']:10.1%}")
    if options.classifier:
        classifier = DigitClassifier(device)
        classifier.load(options.classifier)
        numbers["digits"], text = seen(classifier, drawn)
        lines.append(text)
    return numbers, "\n".join(lines), lambda path: draw(drawn, numbers, path)


def stroke_weights(maps: np.ndarray, images: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """The weight (K,) of each map in telling horizontal strokes from everything else, and the
    share of places told right.

    maps (N, h, w, K); a place is one of their pixels, a stroke's where the stroke has at least
    ``SHARE`` of that place's pixels in the image. As many places of other ink as of background are
    "else".
    """
    from sklearn.linear_model import LogisticRegression

    horizontal, other = horizontal_strokes(images.mean(axis=3, keepdims=True))
    count, height, width, channels = maps.shape

    def at_places(pixels: np.ndarray) -> np.ndarray:
        finer = pixels.shape[1] // height
        shares = pixels.reshape(count, height, finer, width, finer).mean(axis=(2, 4))
        return shares.ravel() >= SHARE

    stroke, others = at_places(horizontal), at_places(other)
    empty = ~at_places(horizontal | other)
    random = np.random.default_rng(seed)
    most = min(PLACES, stroke.sum(), 2 * others.sum(), 2 * empty.sum())
    if most < channels:
        raise PyganError(
            f"{len(images)} images have only {most} places to learn {channels} weights from; train "
            "the generator until it draws strokes"
        )
    chosen = [
        random.permutation(np.flatnonzero(rows))[: int(share * most)]
        for rows, share in ((stroke, 1), (others, 0.5), (empty, 0.5))
    ]
    rows = np.concatenate(chosen)
    truth = np.arange(len(rows)) < len(chosen[0])
    values = maps.reshape(-1, channels)[rows]
    deviation = values.std(axis=0)
    values = values / np.where(deviation > 0, deviation, 1)
    machine = LogisticRegression(C=PENALTY, max_iter=1000).fit(values, truth)
    return machine.coef_[0], float(machine.score(values, truth))


def left_over(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """The share of brightness that is left in the pixels of ``before``'s horizontal strokes, and in
    those of its other strokes."""
    grey = [images.mean(axis=3) for images in (before, after)]
    kinds = horizontal_strokes(grey[0][..., None])
    return {
        name: float(grey[1][pixels].sum() / max(grey[0][pixels].sum(), 1e-9))
        for name, pixels in zip(("horizontal", "other"), kinds, strict=True)
    }


def seen(classifier: DigitClassifier, drawn: dict[str, np.ndarray]) -> tuple[dict[str, Any], str]:
    """How often a classifier sees the same digit as in the whole generator's image."""
    digits = {
        name: classifier(as_digits(images))[1].argmax(axis=1) for name, images in drawn.items()
    }
    same = {
        name: vars(quality.proportion(int((found == digits["whole"]).sum()), len(found)))
        for name, found in digits.items()
        if name != "whole"
    }
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (digits["whole"], digits["without"]), 1)
    text = "the classifier sees the same digit in " + ", in ".join(
        f"{row['value']:.1%} {title}"
        for title, row in zip(
            ("without them", "without as many others"), same.values(), strict=True
        )
    )
    return {"same": same, "from_to": matrix.tolist()}, text


def draw(drawn: dict[str, np.ndarray], numbers: dict[str, Any], path: Path) -> None:
    """A column an image: whole, without the maps, without as many random ones."""
    from matplotlib.figure import Figure

    rows = np.concatenate([images[:SHOWN] for images in drawn.values()])
    grid = np.asarray(pictures.grid(rows, len(drawn), SHOWN))
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255)
    side = grid.shape[0] / len(drawn)
    dropped = numbers["dropped"]
    titles = [
        "whole",
        f"without the {dropped} maps\nof horizontal strokes",
        f"without {dropped}\nrandom maps",
    ]
    axes.set_yticks([side * (row + 0.5) for row in range(len(drawn))], titles)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    pictures.save_figure(figure, path)
