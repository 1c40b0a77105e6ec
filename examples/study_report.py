"""Table and figure of `hyperparameter_study`: a row for each setting, and one for real digits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygan import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AVERAGED = 100
"""Losses in the table are means over so many last batches."""
ROWS, COLUMNS, SCALE = 2, 12, 2
# The figure, in pixels: its pictures, a row's pitch, its width.
DPI = 120
IMAGE_WIDTH = COLUMNS * (28 * SCALE + pictures.GAP) + pictures.GAP
IMAGE_HEIGHT = ROWS * (28 * SCALE + pictures.GAP) + pictures.GAP
CURVES_LEFT, IMAGES_LEFT = 60, 410  # tick labels stand left of the curves
PITCH, FIGURE_WIDTH = IMAGE_HEIGHT + 56, IMAGES_LEFT + IMAGE_WIDTH + 150

HEADINGS = (
    # heading, key of the numbers, form
    ("D loss", "d_loss", "{:.3f}"),
    ("G loss", "g_loss", "{:.3f}"),
    ("D(x)", "score_real", "{:.3f}"),
    ("D(G(z))", "score_fake", "{:.3f}"),
    ("Frechet", "frechet", "{:.2f}"),
    ("precision", "precision", "{:.1%}"),
    ("recall", "recall", "{:.1%}"),
    ("digits", "covered", "{:g}"),
)


def losses_at_the_end(log: list[dict[str, Any]]) -> dict[str, float | None]:
    """Means over the last batches; D's loss is the mean of its two (nats an image). None where the
    log of a finished run was lost."""
    if not log:
        return dict.fromkeys(("d_loss", "g_loss", "score_real", "score_fake"))
    means = {
        name: float(np.mean([entry[name] for entry in log[-AVERAGED:]]))
        for name in ("d_fake", "d_real", "g", "score_real", "score_fake")
    }
    return {
        "d_loss": (means["d_fake"] + means["d_real"]) / 2,
        "g_loss": means["g"],
        "score_real": means["score_real"],
        "score_fake": means["score_fake"],
    }


def for_the_table(measured: dict[str, Any]) -> dict[str, float]:
    """The single numbers of `quality.compare` that the table shows."""
    return {
        **{name: measured[name]["value"] for name in ("frechet", "precision", "recall")},
        "covered": measured["classes"]["covered"],
    }


def table_rows(
    results: dict[str, list[dict[str, Any]]], titles: Mapping[str, str], reference: dict[str, Any]
) -> list[list[str]]:
    """Headings, a row for each setting, and the real digits; of several seeds the mean, and the
    lowest and the highest."""
    rows = [["setting", *(heading for heading, _, _ in HEADINGS)]]
    for name, runs in results.items():
        cells = []
        for _, key, form in HEADINGS:
            values = [run[key] for run in runs if run[key] is not None]
            cell = form.format(float(np.mean(values))) if values else "-"
            if len(values) > 1:
                cell += f" ({form.format(min(values))} to {form.format(max(values))})"
            cells.append(cell)
        rows.append([titles[name], *cells])
    known = for_the_table(reference)
    cells = [form.format(known[key]) if key in known else "-" for _, key, form in HEADINGS]
    return [*rows, ["real digits", *cells]]


def plain_table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def markdown_table(rows: list[list[str]]) -> str:
    headings, *others = (f"| {' | '.join(row)} |" for row in rows)
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    return "\n".join([headings, rule, *others])


def print_table(rows: list[list[str]], plain: bool) -> None:
    """With rich on a terminal, as plain text elsewhere."""
    if plain or not sys.stdout.isatty():
        print(plain_table(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for place, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)


def draw(
    results: dict[str, list[dict[str, Any]]],
    samples: dict[str, np.ndarray],
    curves: dict[str, list[dict[str, Any]]],
    titles: Mapping[str, str],
    reference: tuple[dict[str, Any], np.ndarray],
    path: Path,
) -> None:
    """A row for each setting: losses of D and G, what it drew, its numbers; then real digits."""
    from matplotlib.figure import Figure

    rows = len(results) + 1
    width, height = FIGURE_WIDTH, rows * PITCH + 20
    figure = Figure(figsize=(width / DPI, height / DPI))

    def place(row: int, left: int, across: int) -> Axes:
        """Axes in whole pixels, so that each of an image's becomes SCALE of the figure's."""
        bottom = height - (row + 1) * PITCH
        share = left / width, bottom / height, across / width, IMAGE_HEIGHT / height
        axes = figure.add_axes(share)
        axes.tick_params(labelsize=7)
        return axes

    for row, name in enumerate([*results, "real digits"]):
        title, images = "real digits", reference[1]
        numbers = for_the_table(reference[0])
        if name in results:
            title, images = titles[name], samples[name]
            keys = numbers
            numbers = {key: float(np.mean([run[key] for run in results[name]])) for key in keys}
            _draw_losses(place(row, CURVES_LEFT, 330), curves[name], legend=row == 0)
        middle = place(row, IMAGES_LEFT, IMAGE_WIDTH)
        middle.axis("off")
        grid = np.asarray(pictures.grid(images, ROWS, COLUMNS, SCALE))
        middle.imshow(grid, "gray", vmin=0, vmax=255, aspect="auto", interpolation="nearest")
        lines = [f"{head} {form.format(numbers[key])}" for head, key, form in HEADINGS[-4:]]
        top = 1 - (row * PITCH + PITCH - IMAGE_HEIGHT - 6) / height
        figure.text(CURVES_LEFT / width, top, title, fontsize=9, va="bottom")
        text: dict[str, Any] = {"fontsize": 8, "va": "center", "linespacing": 1.5}
        bottom = height - (row + 1) * PITCH
        beside = IMAGES_LEFT + IMAGE_WIDTH + 10
        figure.text(beside / width, (bottom + IMAGE_HEIGHT / 2) / height, "\n".join(lines), **text)
    pictures.save_figure(figure, path)


def _draw_losses(axes: Axes, runs: list[dict[str, Any]], legend: bool) -> None:
    """Moving means over 1/50 of the run, a line for each seed; dashed: D cannot tell (ln 2)."""
    logged = [run for run in runs if run["batches"]]
    for number, run in enumerate(logged):
        batches = run["batches"]
        for colour, network in zip(pictures.COLOURS, ("D", "G"), strict=False):
            losses = run[network]
            window = max(1, len(losses) // 50)
            smooth = np.convolve(losses, np.ones(window) / window, "valid")
            label = None if number else f"{network} loss"
            axes.plot(batches[window - 1 :], smooth, color=colour, label=label)
    axes.axhline(np.log(2), color="0.4", lw=0.8, ls="--")
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    if legend and logged:
        axes.legend(frameon=False, fontsize=7, ncols=2)
