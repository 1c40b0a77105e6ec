"""Arithmetic on codes: slanted 4 - upright 4 + upright 7 should be a slanted 7.

Section 6.3.2 of the paper (its figure 7): each term is the mean of three codes whose images show
it. The attributes are ones that can be measured, slant and amount of ink, and the digit classifier
tells the digits, so that all pairs of digits are tried and none is picked out.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from pygan import cli, pictures, quality
from pygan.errors import PyganError
from pygan.examples.dcgan_paper.attributes import ATTRIBUTES
from pygan.training.classifier import CLASSES, DigitClassifier
from pygan.training.judging import as_digits
from pygan.training.sampling import BATCH, Sampler, open_sampler

EXEMPLARS = 3
CONFIDENT = 0.9
STRONG, MIDDLE = (0.9, 1.0), (0.4, 0.6)
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


def run(device: Any, options: argparse.Namespace):
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
        "network": metadata["network"],
        "batches": metadata["batches_done"],
        "images_searched": options.images,
        "digits": np.bincount(pool.digits[pool.sure], minlength=CLASSES).tolist(),
        "attributes": results,
    }
    return numbers, table(results), lambda path: draw(sampler, pool, shown, random, path)


def choose(pool: Pool, attribute: str, repeats: int, random: np.random.Generator) -> np.ndarray:
    """Rows of the pool, (equations, 3 terms, 3 exemplars): strong a, middling a, middling b, for
    all pairs of digits of which there are enough."""
    found = []
    for a in range(CLASSES):
        for b in range(CLASSES):
            places = [(a, STRONG), (a, MIDDLE), (b, MIDDLE)]
            candidates = [pool.rows(digit, attribute, part) for digit, part in places]
            if a == b or min(map(len, candidates)) < EXEMPLARS:
                continue
            for _ in range(repeats):
                found.append([random.choice(rows, EXEMPLARS, replace=False) for rows in candidates])
    return np.array(found, int).reshape(-1, 3, EXEMPLARS)


def measure(
    sampler: Sampler, classifier: DigitClassifier, pool: Pool, attribute: str, terms: np.ndarray
) -> dict:
    """What the arithmetic did to images of the third term: terms (equations, 3, exemplars)."""
    means = pool.codes[terms].mean(axis=2)  # (equations, 3, *code)
    changed = means[:, 0] - means[:, 1] + means[:, 2]
    value, _ = ATTRIBUTES[attribute]
    drawn = {
        name: as_digits(sampler.images(codes.astype(np.float32)))
        for name, codes in {"strong": means[:, 0], "middle": means[:, 1]}.items()
    }
    before, after = (as_digits(sampler.images(codes)) for codes in (means[:, 2], changed))
    gained = value(after) - value(before)
    asked = value(drawn["strong"]) - value(drawn["middle"])
    wanted = pool.digits[terms[:, 2, 0]]
    margin = 1.96 * gained.std(ddof=1) / np.sqrt(len(gained)) if len(gained) > 1 else 0.0
    return {
        "equations": len(terms),
        "asked_for": float(asked.mean()),
        "gained": vars(
            quality.Interval(
                float(gained.mean()), float(gained.mean() - margin), float(gained.mean() + margin)
            )
        ),
        "gained_in": vars(quality.proportion(int((gained > 0).sum()), len(gained))),
        "digit_before": vars(quality.agreement(classifier(before)[1], wanted)),
        "digit_after": vars(quality.agreement(classifier(after)[1], wanted)),
    }


def table(results: dict) -> str:
    lines = [f"{'':22}{'asked':>9}{'gained':>9}{'gained in':>11}{'digit before':>14}{'after':>8}"]
    for attribute, kinds in results.items():
        unit = ATTRIBUTES[attribute][1]
        for kind, row in kinds.items():
            asked, gained = (f"{v:.1f}{unit}" for v in (row["asked_for"], row["gained"]["value"]))
            shares = (row[key]["value"] for key in ("gained_in", "digit_before", "digit_after"))
            share, before, after = (f"{value:.0%}" for value in shares)
            title = f"{attribute}, {kind.replace('_', ' ')}"
            lines.append(f"{title:22}{asked:>9}{gained:>9}{share:>11}{before:>14}{after:>8}")
    return "\n".join(lines)


def draw(sampler: Sampler, pool: Pool, shown: list, random: np.random.Generator, path) -> None:
    """A row for each equation: the three terms, three exemplars and the image of their mean; then
    the result, and three with uniform noise added to its code."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.05 * len(shown)), layout="constrained")
    for axes, (attribute, terms) in zip(figure.subplots(len(shown), 4), shown, strict=True):
        means = pool.codes[terms].mean(axis=1)
        result = means[0] - means[1] + means[2]
        noise = random.uniform(-NOISE, NOISE, (3, *result.shape))
        codes = [
            np.concatenate([pool.codes[t], m[None]]) for t, m in zip(terms, means, strict=True)
        ]
        codes.append(np.concatenate([result[None], result + noise]))
        a, b = pool.digits[terms[0, 0]], pool.digits[terms[2, 0]]
        name = {"slant": ("slanted", "upright"), "ink": ("bold", "middling")}[attribute]
        titles = [f"{name[0]} {a}", f"− {name[1]} {a}", f"+ {name[1]} {b}", f"= {name[0]} {b}"]
        for place, row, title in zip(axes, codes, titles, strict=True):
            images = sampler.images(row.astype(np.float32))
            grid = np.asarray(pictures.grid(images, 1, len(images)))
            place.imshow(grid, cmap="gray", vmin=0, vmax=255)
            place.set_title(title, fontsize=9)
            place.axis("off")
    pictures.save_figure(figure, path)
