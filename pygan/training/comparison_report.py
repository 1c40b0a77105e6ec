"""What a comparison found: means with intervals, paired differences, a table and a picture.

A training is {"way", "seed", "accuracy" (0..1), "curve": [[batches, loss, accuracy], ...]}, as
`pygan.training.comparison.Comparison.finished` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pygan import pictures
from pygan.quality import LEVEL, student_quantile

LEAST_FOR_INTERVAL = 4
"""Seeds that an interval needs: Student's quantile is not known well enough below three degrees."""


def summarize(
    finished: Sequence[Mapping[str, Any]], ways: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By way: seeds, the mean accuracy with its 95 % interval over seeds, and the same of the
    difference from the first way, seed by seed; None where no seed has both."""
    accuracies = {
        way: {e["seed"]: e["accuracy"] for e in finished if e["way"] == way} for way in ways
    }
    first = accuracies[ways[0]]
    result = {}
    for way, by_seed in accuracies.items():
        pairs = [value - first[seed] for seed, value in by_seed.items() if seed in first]
        result[way] = {
            "seeds": len(by_seed),
            "accuracy": mean_interval(list(by_seed.values())),
            "difference": None if way == ways[0] else mean_interval(pairs),
        }
    return result


def by_batches(
    finished: Sequence[Mapping[str, Any]], ways: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """``summarize`` at each measurement, by the batches done then."""
    places = [row[0] for row in finished[0]["curve"]] if finished else []
    return {
        str(batches): summarize([{**e, "accuracy": e["curve"][place][2]} for e in finished], ways)
        for place, batches in enumerate(places)
    }


def mean_interval(values: Sequence[float]) -> dict[str, float | None] | None:
    """Mean and Student's 95 % interval of independent values, the interval from four values on;
    None of no values."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) < LEAST_FOR_INTERVAL:
        return {"value": mean, "low": None, "high": None}
    spread = student_quantile(LEVEL, len(values) - 1) * np.std(values, ddof=1)
    margin = float(spread / math.sqrt(len(values)))
    return {"value": mean, "low": mean - margin, "high": mean + margin}


def table(ways: Mapping[str, Mapping[str, Any]]) -> str:
    """The result of ``summarize`` in lines for a terminal."""

    def shown(interval: Mapping[str, Any] | None, form: str) -> str:
        if interval is None:
            return "-"
        parts = [form.format(100 * v) for v in interval.values() if v is not None]
        return parts[0] + (f" [{parts[1]}, {parts[2]}]" if parts[1:] else "")

    wide = max(24, *(len(way) + 2 for way in ways))
    lines = [f"{'':{wide}}{'seeds':>5}  {'test accuracy in %':26}difference, paired by seed"]
    for way, row in ways.items():
        lines.append(
            f"{way:{wide}}{row['seeds']:5}  {shown(row['accuracy'], '{:.2f}'):26}"
            f"{shown(row['difference'], '{:+.2f}')}"
        )
    return "\n".join(lines)


def draw(
    finished: Sequence[Mapping[str, Any]],
    ways: Mapping[str, Mapping[str, Any]],
    path: Path,
    title: str,
) -> None:
    """Left: the error on test images against batches, a thin line a training, their mean strong.
    Right: the accuracies reached, a line joining each seed's, means and intervals in black."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for colour, way in zip(pictures.COLOURS, ways, strict=False):
        curves = [np.array(e["curve"])[:, [0, 2]] for e in finished if e["way"] == way]
        for curve in curves:
            left.plot(curve[:, 0], 100 - 100 * curve[:, 1], color=colour, lw=0.6, alpha=0.35)
        if curves:
            mean = np.mean(curves, axis=0)
            left.plot(mean[:, 0], 100 - 100 * mean[:, 1], color=colour, lw=2, label=way)
    left.set(xlabel="batches", ylabel="error on test images (%)", yscale="log")
    for set_formatter in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.legend(frameon=False)

    names = list(ways)
    for seed in sorted({entry["seed"] for entry in finished}):
        of_seed = {e["way"]: 100 * e["accuracy"] for e in finished if e["seed"] == seed}
        places = [names.index(way) for way in names if way in of_seed]
        values = [of_seed[way] for way in names if way in of_seed]
        right.plot(places, values, "o-", color="0.65", ms=3, lw=0.8)
    for place, row in enumerate(ways.values()):
        mean = row["accuracy"]
        if mean is None:
            continue
        ends = [0, 0]
        if mean["low"] is not None:
            ends = [100 * (mean["value"] - mean["low"]), 100 * (mean["high"] - mean["value"])]
        margins = np.reshape(ends, (2, 1))
        right.errorbar(place, 100 * mean["value"], margins, fmt="s", color="black", capsize=5)
    right.set_xticks(range(len(names)), names)
    right.set(ylabel="test accuracy (%)", xlim=(-0.4, len(names) - 0.6))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    pictures.save_figure(figure, path)
