"""Pictures of generated images: grids, the lesson's PDF page, and loss curves.

Images are (N, height, width, channels) float32 in 0..1 with 1 or 3 channels, on the host.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pygan.errors import PyganError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 2
BACKGROUND = 64
# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def grid(images: np.ndarray, rows: int, columns: int, scale: int = 1) -> Image.Image:
    """A picture of rows x columns images in reading order, dark grey lines between them.

    scale: each pixel becomes scale x scale. Places beyond the last image stay dark grey. Raises
    PyganError for more images than places, for a channel count other than 1 and 3, and for numbers
    that are not finite.
    """
    if np.ndim(images) != 4:
        raise PyganError(
            f"images are an array (N, height, width, channels), not one of shape {np.shape(images)}"
        )
    if min(rows, columns, scale) < 1:
        raise PyganError(f"a grid of {rows}x{columns}, enlarged {scale} times, shows nothing")
    if not np.isfinite(images).all():
        raise PyganError("images hold numbers that are not finite, which no grey stands for")
    count, height, width, channels = images.shape
    if count > rows * columns:
        raise PyganError(f"{count} images do not fit a grid of {rows}x{columns}")
    if channels not in (1, 3):
        raise PyganError(f"images of {channels} channels cannot be drawn; expected 1 or 3")
    pixels = np.clip(np.rint(images * 255.0), 0, 255).astype(np.uint8)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    high, wide = height * scale, width * scale
    canvas = np.full(
        (rows * (high + GAP) + GAP, columns * (wide + GAP) + GAP, channels), BACKGROUND, np.uint8
    )
    for index, image in enumerate(pixels):
        top = GAP + (index // columns) * (high + GAP)
        left = GAP + (index % columns) * (wide + GAP)
        canvas[top : top + high, left : left + wide] = image
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def grid_shape(count: int) -> tuple[int, int]:
    """Rows and columns of the squarest grid for ``count`` images, wider than high."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Writes a picture in the format its name ends with, creating its folder.

    Raises PyganError where the ending is no format of pillow's or the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except ValueError:
        raise PyganError(
            f"{path}: {path.suffix or 'no ending'!r} names no picture format; end it with .png"
        ) from None
    except OSError as error:
        raise PyganError(f"{path} could not be written: {error.strerror or error}") from None


def save_page(images: np.ndarray, path: str | Path, rows: int = 3, columns: int = 3) -> None:
    """The lesson's page: a PDF with rows x columns images and nothing else."""
    from matplotlib.figure import Figure

    picture = grid(images, rows, columns)
    figure = Figure(figsize=(6, 6 * picture.height / picture.width))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    # The image's own pixels go into the file; the viewer enlarges them.
    axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255, interpolation="none")
    save_figure(figure, path)


def save_loss_curves(
    batches: Sequence[int],
    losses: Mapping[str, Sequence[float]],
    scores: Mapping[str, Sequence[float]],
    batches_per_epoch: int,
    path: str | Path,
    title: str,
) -> None:
    """Losses above, the discriminator's mean scores below, against epochs.

    Each series is drawn pale as it is and strong as its mean over a moving window of 1/100 of the
    run. Two lines mark the balance: loss ln 2 and score 1/2, a discriminator that cannot tell.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    epochs = np.asarray(batches) / batches_per_epoch
    window = max(1, len(epochs) // 100)
    _draw(upper, epochs, losses, window, COLOURS[:2])
    _draw(lower, epochs, scores, window, COLOURS[2:])
    upper.axhline(math.log(2), color="0.4", lw=0.8, ls="--", label="cannot tell (ln 2)")
    lower.axhline(0.5, color="0.4", lw=0.8, ls="--", label="cannot tell (1/2)")
    upper.set_ylabel("loss (nats per image)")
    upper.set_ylim(0, 1.1 * max(max(map(max, losses.values())), math.log(2)))
    lower.set_ylabel("mean score of D")
    lower.set_ylim(0, 1)
    lower.set_xlabel(f"epoch ({batches_per_epoch:,} batches each)")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=3)
    if len(epochs) > 1:
        lower.set_xlim(1 / batches_per_epoch, epochs[-1])  # where the log begins later, a gap
    figure.suptitle(title)
    save_figure(figure, path)


def save_learning_curves(
    batches: Sequence[int],
    losses: Sequence[float],
    accuracies: Mapping[int, float],
    batches_per_epoch: int,
    path: str | Path,
    title: str,
) -> None:
    """A classifier's loss on its batches above, its accuracy on test images below, against epochs.

    losses: one for each of ``batches``, drawn as in ``save_loss_curves``. accuracies: by epoch.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    epochs = np.asarray(batches) / batches_per_epoch
    _draw(upper, epochs, {"training batches": losses}, max(1, len(epochs) // 100), COLOURS[:1])
    upper.set_ylabel("cross-entropy / 10 (nats)")
    upper.set_yscale("log")
    lower.plot(list(accuracies), [100 * v for v in accuracies.values()], "o-", color=COLOURS[2])
    if not accuracies:
        lower.set_ylim(0, 100)
        lower.text(
            0.5, 0.5, "measured at the end of each epoch", transform=lower.transAxes, ha="center"
        )
    lower.set_ylabel("test accuracy (%)")
    lower.set_xlabel(f"epoch ({batches_per_epoch:,} batches each)")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)


def save_series(
    batches: Sequence[int],
    series: Mapping[str, Sequence[float]],
    held_out: Mapping[int, float],
    batches_per_epoch: int,
    path: str | Path,
    title: str,
) -> None:
    """Losses against epochs, drawn as in ``save_loss_curves`` on a logarithmic axis; ``held_out``,
    the error of held-out images by epoch, as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    epochs = np.asarray(batches) / batches_per_epoch
    _draw(axes, epochs, series, max(1, len(epochs) // 100), COLOURS[: len(series)])
    if held_out:
        numbers = list(held_out), list(held_out.values())
        axes.plot(*numbers, "o", color=COLOURS[2], ms=4, label="held-out images")
    axes.set_yscale("log")
    axes.set_ylabel("loss")
    axes.set_xlabel(f"epoch ({batches_per_epoch:,} batches each)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(title)
    save_figure(figure, path)


def scatter_by_label(axes: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    """Points (N, 2) into matplotlib's axes, as `save_scatter` draws them."""
    from matplotlib import colormaps

    for label in np.unique(labels):
        of_label = points[labels == label]
        colour = colormaps["tab10"](int(label) % 10)
        axes.scatter(of_label[:, 0], of_label[:, 1], s=3, color=colour, alpha=0.4, linewidths=0)
        frame = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour}
        x, y = np.median(of_label, axis=0)
        axes.text(x, y, str(label), color=colour, bbox=frame, weight="bold")
    axes.grid(alpha=0.3)


def save_scatter(
    points: np.ndarray, labels: np.ndarray, axes: Sequence[str], path: str | Path, title: str
) -> None:
    """Points (N, 2) in a colour for each label (N,), the label's name at its points' median."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    plot = figure.subplots()
    scatter_by_label(plot, points, labels)
    plot.set(xlabel=axes[0], ylabel=axes[1], title=title)
    save_figure(figure, path)


def _draw(
    axes: Axes,
    epochs: np.ndarray,
    series: Mapping[str, Sequence[float]],
    window: int,
    colours: Sequence[str],
) -> None:
    for colour, (name, values) in zip(colours, series.items(), strict=True):
        numbers = np.asarray(values, float)
        label: str | None = name
        for piece in unbroken(epochs):
            if window > 1:
                axes.plot(epochs[piece], numbers[piece], color=colour, lw=0.5, alpha=0.2)
            size = min(window, len(numbers[piece]))
            smooth = np.convolve(numbers[piece], np.ones(size) / size, "valid")
            axes.plot(epochs[piece][size - 1 :], smooth, color=colour, lw=1.6, label=label)
            label = None  # one line in the legend, however many pieces


def unbroken(places: Sequence[float] | np.ndarray) -> list[slice]:
    """The pieces of ascending places in which none lacks: no step is wider than the least."""
    steps = np.diff(places)
    gaps = np.flatnonzero(steps > 1.5 * steps.min(initial=np.inf)) + 1
    ends = [0, *gaps.tolist(), len(places)]
    return [slice(first, last) for first, last in itertools.pairwise(ends)]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes matplotlib's figure, creating its folder. Raises PyganError where that fails."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise PyganError(f"{path} could not be written: {error.strerror or error}") from None
