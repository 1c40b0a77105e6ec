"""A closed walk between nine random codes: does anything jump?

Section 6.1 of the paper (its figure 4): sharp transitions would mean images learned by heart.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from pygan import cli, pictures
from pygan.examples.dcgan_paper import Results
from pygan.training.sampling import BATCH, interpolate, open_sampler, origin

CODES = 9


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps", type=cli.positive, default=10, metavar="N", help="from code to code (10)"
    )
    parser.add_argument("--mode", choices=("linear", "spherical"), default="spherical")
    parser.add_argument(
        "--digit", type=int, choices=range(10), help="for a generator that is told the digit (8)"
    )


def run(device: Any, options: argparse.Namespace) -> Results:
    sampler, metadata = open_sampler(device, options.checkpoint, BATCH)
    digit = 8 if sampler.takes_digits and options.digit is None else options.digit

    def images(codes: np.ndarray) -> np.ndarray:
        return sampler.images(codes, None if digit is None else [digit] * len(codes))

    codes = sampler.draw_noise(CODES, options.seed)
    legs = zip(codes, np.roll(codes, -1, axis=0), strict=True)
    # A leg's last code is the next one's first.
    walked = [interpolate(a, b, options.steps + 1, options.mode)[:-1] for a, b in legs]
    drawn = images(np.concatenate(walked))
    steps = distances(drawn, np.roll(drawn, -1, axis=0))
    apart = distances(drawn, images(sampler.draw_noise(len(drawn), options.seed + 1)))
    numbers = {
        **origin(metadata),
        "mode": options.mode,
        "steps": options.steps,
        "digit": digit,
        "mean_step": float(steps.mean() / apart.mean()),
        "largest_step": float(steps.max() / apart.mean()),
    }
    text = (
        f"a step changes the image by {numbers['mean_step']:.3f} of what two random draws differ "
        f"by, the largest by {numbers['largest_step']:.3f}"
    )
    picture = pictures.grid(drawn, CODES, options.steps, 1 if drawn.shape[1] > 32 else 2)
    return numbers, text, lambda path: pictures.save_picture(picture, path)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Roots of the mean squares between images (N, ...) of the same place, (N,)."""
    return np.sqrt(np.square(a - b, dtype=np.float64).reshape(len(a), -1).mean(axis=1))
