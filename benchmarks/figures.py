"""Draws the records of kernels.py and step.py: a picture beside each JSON file.

    python benchmarks/figures.py FOLDER-OR-JSON ...

A record of kernels becomes two panels that hold every kernel between them. Left, the roofline of
those whose arithmetic counts: useful operations per second over useful operations per byte, below
the ceilings measured in the same run. Right, those that move bytes: useful bytes per second over
the bytes of a call. Filled points are pygan on the record's main device, as a CUDA graph where that
was measured; an open one joined to it is the fastest float32 peer. A record of steps becomes bars,
with the time that its useful operations take at the measured rate of products (a function that
multiplies less than its definition says can be quicker).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

# Okabe and Ito's colours, which the colour-blind can tell apart; a family keeps its own.
FAMILIES = (
    ("transposed convolution", ("transposed_convolution_",), "#0072B2", "o"),
    ("convolution", ("convolution_",), "#E69F00", "s"),
    ("fully connected", ("fully_connected_",), "#009E73", "D"),
    ("batch norm", ("batch_norm_",), "#CC79A7", "o"),
    ("activation", ("activation_", "softmax_forward", "softmax_backward"), "#56B4E9", "s"),
    ("pooling", ("pooling_",), "#D55E00", "D"),
    ("loss", ("sigmoid_cross", "softmax_cross", "mean_squared", "kullback"), "#F0E442", "^"),
    ("optimizer", ("adam_", "sgd_", "rmsprop_"), "#000000", "v"),
    ("random", ("random_", "dropout_"), "#999999", "P"),
    ("other", ("",), "#7A5C3E", "X"),
)
OURS, THEIRS = "#0072B2", "#B0B0B0"
PEERS = ("torch", "jax", "cuBLAS")


def family(function: str) -> int:
    """The index in FAMILIES; the last takes what no other does."""
    return next(
        index for index, (_, starts, _, _) in enumerate(FAMILIES) if function.startswith(starts)
    )


def main_figure(record: dict[str, Any], row: dict[str, Any]) -> dict[str, Any] | None:
    """What the main device reached, None where its result was wrong."""
    main = record.get("main") or list(record["devices"])[-1]
    return row["devices"].get(f"{main} graph") or row["devices"].get(main)


def best_peer(row: dict[str, Any]) -> dict[str, Any] | None:
    """The fastest that computes in float32."""
    found = [
        figure
        for name, figure in row["devices"].items()
        if name.startswith(PEERS) and "TF32" not in name and "bf16" not in name
    ]
    return min(found, key=lambda figure: figure["seconds"]["median"], default=None)


def draw_kernels(record: dict[str, Any], path: Path) -> None:
    figure, (products, bytes_) = plt.subplots(1, 2, figsize=(12, 5.6), layout="constrained")
    for axes in (products, bytes_):  # first, since limits are read before the end
        axes.set(xscale="log", yscale="log")
    shown: set[int] = set()
    peers = False
    for row in record["kernels"]:
        ours, theirs = main_figure(record, row), best_peer(row)
        if ours is None:
            continue
        is_product = row["flops"] > 0
        axes = products if is_product else bytes_
        key = "gflops" if is_product else "gigabytes_per_second"
        x = row["flops"] / row["bytes"] if is_product else row["bytes"]
        index = family(row["function"])
        name, _, color, marker = FAMILIES[index]
        if theirs is not None:
            peers = True
            axes.plot([x, x], [ours[key], theirs[key]], color=THEIRS, linewidth=0.8, zorder=1)
            axes.plot(x, theirs[key], marker, color="white", mec="#777777", ms=5, zorder=2)
        label = name if index not in shown else None
        shown.add(index)
        axes.plot(
            x, ours[key], marker, color=color, mec="black", mew=0.4, ms=6, label=label, zorder=3
        )
    _ceilings(record, products, bytes_)
    products.set(
        title="Products",
        xlabel="useful operations per byte",
        ylabel="useful GFLOP/s",
    )
    bytes_.set(
        title="Data movement",
        xlabel="useful bytes of a call",
        ylabel="useful GB/s",
    )
    if peers:
        products.plot([], [], "o", color="white", mec="#777777", ms=5, label="fastest float32 peer")
    for axes in (products, bytes_):
        axes.grid(alpha=0.25, which="major")
        if axes.get_legend_handles_labels()[0]:
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncol": 4}
            axes.legend(fontsize=8, frameon=False, **below)
    main = record.get("main") or list(record["devices"])[-1]
    network, batch = record.get("network", "lesson"), record.get("batch", 32)
    figure.suptitle(
        f"Kernels of {network}, batch {batch}: {record['devices'][main]}{_when(record)}"
    )
    _save(figure, path)


def _ceilings(record: dict[str, Any], products: Any, bytes_: Any) -> None:
    """The lines that no kernel passes unless a cache helps; absent in records without them."""
    ceilings = record.get("roofline")
    if not ceilings:
        return
    bandwidth = ceilings["copy_gigabytes_per_second"]
    rate = ceilings["float32_product_gflops"]
    low, high = products.get_xlim() if products.lines else (0.1, 100.0)
    intensity = np.geomspace(low, max(high, 4 * rate / bandwidth), 200)
    roof = np.minimum(bandwidth * intensity, rate)
    products.plot(intensity, roof, color="black", linewidth=1.2, zorder=0)
    text = {"fontsize": 8, "ha": "left", "va": "bottom"}
    transform = products.get_yaxis_transform()
    products.text(0.02, 1.05 * rate, f"product {rate:.4g} GFLOP/s", transform=transform, **text)
    bytes_.axhline(bandwidth, color="black", linewidth=1.2, zorder=0)
    transform = bytes_.get_yaxis_transform()
    bytes_.text(0.02, 1.05 * bandwidth, f"copy {bandwidth:.4g} GB/s", transform=transform, **text)


def draw_step(record: dict[str, Any], path: Path) -> None:
    names = list(record["devices"])[::-1]
    figures = [record["devices"][name] for name in names]
    times = [1e3 * each["seconds"]["median"] for each in figures]
    errors = [
        [1e3 * (each["seconds"]["median"] - each["seconds"]["low"]) for each in figures],
        [1e3 * (each["seconds"]["high"] - each["seconds"]["median"]) for each in figures],
    ]
    colors = [THEIRS if name.startswith(PEERS) else OURS for name in names]
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.45 * len(names)), layout="constrained")
    axes.barh(names, times, xerr=errors, color=colors, height=0.65, error_kw={"lw": 1})
    right = max(time + error for time, error in zip(times, errors[1], strict=True))
    for place, (time, error, each) in enumerate(zip(times, errors[1], figures, strict=True)):
        text = f"{_rate(time)} ms, {_rate(each['images_per_second'])} images/s"
        if each.get("launches"):
            text += f", {each['launches']} launches"
        clear = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # of the line below
        axes.text(time + error + 0.01 * right, place, text, va="center", fontsize=8, bbox=clear)
    if ceilings := record.get("roofline"):
        floor = 1e-6 * record["flops_per_step"] / ceilings["float32_product_gflops"]
        rate = f"{ceilings['float32_product_gflops']:.4g} GFLOP/s"
        text = f"its products at the measured {rate}: {_rate(floor)} ms"
        axes.axvline(floor, color="black", linewidth=1, linestyle="--", label=text)
        below: dict[str, Any] = {
            "loc": "upper left",
            "bbox_to_anchor": (0, -0.14 - 0.25 / len(names)),
        }
        axes.legend(fontsize=8, frameon=False, **below)
    axes.set(xlabel="ms per training step, median with 10th and 90th percentile")
    axes.set_xlim(0, 1.6 * right)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    title = record.get("title", "Lesson GAN")
    figure.suptitle(f"{title}, batch {record['batch']}{_when(record)}", fontsize=10)
    _save(figure, path)


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _when(record: dict[str, Any]) -> str:
    about = record["machine"]
    cores = f"{about['cores']} core{'' if about['cores'] == 1 else 's'}"
    return f"\n{about['processor']}, {cores}; {about['time'][:10]}, {about['commit']}"


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def draw(path: Path) -> Path | None:
    """Draws one record beside itself and returns the picture; None where the file is no record."""
    record = json.loads(path.read_text())
    picture = path.with_suffix(".png")
    if not isinstance(record, dict) or "machine" not in record:
        return None
    if "kernels" in record:
        draw_kernels(record, picture)
    elif "devices" in record:
        draw_step(record, picture)
    else:
        return None
    return picture


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draws the records of the benchmarks.")
    parser.add_argument("paths", nargs="+", type=Path, help="JSON files, or folders of them")
    options = parser.parse_args(arguments)
    files: list[Path] = []
    for path in options.paths:
        if not path.exists():
            print(f"{path} does not exist", file=sys.stderr)
            return 1
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    pictures = [picture for picture in map(draw, files) if picture is not None]
    for picture in pictures:
        print(picture)
    if not pictures:
        print(f"no record of kernels.py or step.py among {len(files)} files", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
