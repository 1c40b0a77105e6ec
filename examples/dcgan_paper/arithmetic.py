"""Arithmetic on codes: slanted 4 - usual 4 + usual 7 should be a slanted 7.

Section 6.3.2 of the paper (its figure 7): each term is the mean of three codes whose images show
it. The attributes are ones that can be measured, slant and amount of ink, and the digit classifier
tells the digits, so that all pairs of digits are tried and none is picked out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from pygan import cli, pictures, quality
from pygan.errors import PyganError
from pygan.examples.dcgan_paper import Results
from pygan.examples.dcgan_paper.attributes import ATTRIBUTES
from pygan.training.classifier import CLASSES, DigitClassifier
from pygan.training.judging import as_digits
from pygan.training.sampling import BATCH, Sampler, open_sampler, origin

EXEMPLARS = 3
CONFIDENT = 0.9
STRONG, USUAL = (0.9, 1.0), (0.3, 0.7)
"""Quantiles, within a digit, of what counts as having the attribute and as not having it."""
NOISE = 0.25
EQUATIONS_SHOWN = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classifier", required=True, metavar="FILE", help="a run of 'pygan train classifier'"
    )
    parser.add_argument(
        "--images", type=cli.positive, default=5000, metavar="N", help="searched (%(default)s)"
    )
    parser.add_argument(
        "--repeats", type=cli.positive, default=2, metavar="N", help="of each pair of digits (2)"
    )


class Pool:
    """Random codes, their images, digits and attributes: what exemplars are chosen from."""

    def __init__(self, sampler: Sampler, classifier: DigitClassifier, count: int, seed: int):
        self.codes = sampler.draw_noise(count, seed)
        self.images = sampler.images(self.codes)
        grey = as_digits(self.images)
        _, probabilities = classifier(grey)
        self.digits = probabilities.argmax(axis=1)
        self.sure = probabilities.max(axis=1) > CONFIDENT
        self.values = {name: measure(grey) for name, (measure, _) in ATTRIBUTES.items()}

    def rows(self, digit: int, attribute: str, quantiles: tuple[float, float]) -> np.ndarray:
        """Rows of sure images of the digit whose attribute lies between these quantiles of it."""
        of_digit = np.flatnonzero(self.sure & (self.digits == digit))
        if not len(of_digit):
            return of_digit
        values = self.values[attribute][of_digit]
        low, high = np.quantile(values, quantiles)
        return of_digit[(values >= low) & (values <= high)]


def run(device: Any, options: argparse.Namespace) -> Results:
    sampler, metadata = open_sampler(device, options.checkpoint, BATCH)
    if sampler.takes_digits:
        raise PyganError(
            f"{options.checkpoint}: this generator is told the digit, so no code holds it; name a "
            "run of 'pygan train dcgan' or 'pygan train lesson'"
        )
    classifier = DigitClassifier(device)
    classifier.load(options.classifier)
    pool = Pool(sampler, classifier, options.images, options.seed)
    random = np.random.default_rng(options.seed)
    results, shown = {}, []
    for attribute in ATTRIBUTES:
        terms = choose(pool, attribute, options.repeats, random)
        if not len(terms):
            raise PyganError(
                f"among {options.images:,} images there are not {EXEMPLARS} sure ones of two "
                "digits; train the generator longer, or ask for more with --images"
            )
        results[attribute] = {
            f"means_of_{EXEMPLARS}": measure(sampler, classifier, pool, attribute, terms),
            "single_codes": measure(sampler, classifier, pool, attribute, terms[:, :, :1]),
        }
        picked = random.permutation(len(terms))[:EQUATIONS_SHOWN]
        shown += [(attribute, terms[row]) for row in picked]
    numbers = {
        **origin(metadata),
        "images_searched": options.images,
        "digits": np.bincount(pool.digits[pool.sure], minlength=CLASSES).tolist(),
        "attributes": results,
    }
    return numbers, table(results), lambda path: draw(sampler, pool, shown, random, path)


def choose(pool: Pool, attribute: str, repeats: int, random: np.random.Generator) -> np.ndarray:
    """Rows of the pool, (equations, 4 terms, 3 exemplars), for all pairs of digits of which there
    are enough: strong a, usual a, usual b, and other usual a's for a control."""
    found = []
    for a in range(CLASSES):
        for b in range(CLASSES):
            strong, usual, others = (
                pool.rows(digit, attribute, part)
                for digit, part in ((a, STRONG), (a, USUAL), (b, USUAL))
            )
            enough = min(len(strong), len(usual) // 2, len(others)) >= EXEMPLARS
            for _ in range(repeats if enough and a != b else 0):
                twice = random.choice(usual, 2 * EXEMPLARS, replace=False)
                once = [random.choice(rows, EXEMPLARS, replace=False) for rows in (strong, others)]
                found.append([once[0], twice[:EXEMPLARS], once[1], twice[EXEMPLARS:]])
    return np.array(found, int).reshape(-1, 4, EXEMPLARS)


def measure(
    sampler: Sampler, classifier: DigitClassifier, pool: Pool, attribute: str, terms: np.ndarray
) -> dict[str, Any]:
    """What the arithmetic did: terms (equations, 4, exemplars).

    The gain is over the control, usual a - usual a + usual b, whose code is as long: the mean of
    three codes is shorter than a random one, and shorter codes draw other images.
    """
    strong, usual, others, control = np.moveaxis(pool.codes[terms].mean(axis=2), 1, 0)
    codes = {
        "strong": strong,
        "usual": usual,
        "before": others,
        "after": strong - usual + others,
        "control": control - usual + others,
    }
    drawn = {name: as_digits(sampler.images(rows)) for name, rows in codes.items()}
    value, _ = ATTRIBUTES[attribute]
    values = {name: value(images) for name, images in drawn.items()}
    gained = values["after"] - values["control"]
    margin = 1.96 * gained.std(ddof=1) / np.sqrt(len(gained)) if len(gained) > 1 else 0.0
    wanted = pool.digits[terms[:, 2, 0]]
    return {
        "equations": len(terms),
        "asked_for": float((values["strong"] - values["usual"]).mean()),
        "gained": vars(
            quality.Interval(
                float(gained.mean()), float(gained.mean() - margin), float(gained.mean() + margin)
            )
        ),
        "gained_in": vars(quality.proportion(int((gained > 0).sum()), len(gained))),
        **{
            f"digit_{name}": vars(quality.agreement(classifier(drawn[name])[1], wanted))
            for name in ("before", "after", "control")
        },
    }


def table(results: dict[str, Any]) -> str:
    lines = [f"{'':22}{'asked':>9}{'gained':>9}{'in':>6}   {'digit kept':>11}{'control':>9}"]
    for attribute, kinds in results.items():
        unit = ATTRIBUTES[attribute][1]
        for kind, row in kinds.items():
            asked, gained = (f"{v:.1f}{unit}" for v in (row["asked_for"], row["gained"]["value"]))
            keys = ("gained_in", "digit_after", "digit_control")
            share, kept, control = (f"{row[key]['value']:.0%}" for key in keys)
            title = f"{attribute}, {kind.replace('_', ' ')}"
            lines.append(f"{title:22}{asked:>9}{gained:>9}{share:>6}   {kept:>11}{control:>9}")
    return "\n".join(lines)


def draw(
    sampler: Sampler, pool: Pool, shown: list[Any], random: np.random.Generator, path: Path
) -> None:
    """A row for each equation: the three terms, three exemplars and the image of their mean; then
    the result, and three with uniform noise added to its code."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.05 * len(shown)), layout="constrained")
    for axes, (attribute, chosen) in zip(figure.subplots(len(shown), 4), shown, strict=True):
        terms = chosen[:3]
        means = pool.codes[terms].mean(axis=1)
        result = means[0] - means[1] + means[2]
        noise = random.uniform(-NOISE, NOISE, (3, *result.shape))
        codes = [
            np.concatenate([pool.codes[t], m[None]]) for t, m in zip(terms, means, strict=True)
        ]
        codes.append(np.concatenate([result[None], result + noise]))
        a, b = pool.digits[terms[0, 0]], pool.digits[terms[2, 0]]
        name = {"slant": "slanted", "ink": "bold"}[attribute]
        titles = [f"{name} {a}", f"− usual {a}", f"+ usual {b}", f"= {name} {b}"]
        for place, row, title in zip(axes, codes, titles, strict=True):
            images = sampler.images(row.astype(np.float32))
            grid = np.asarray(pictures.grid(images, 1, len(images)))
            place.imshow(grid, cmap="gray", vmin=0, vmax=255)
            place.set_title(title, fontsize=9)
            place.axis("off")
    pictures.save_figure(figure, path)
