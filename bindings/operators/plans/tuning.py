"""Measured choices of tile and slices, which go before what model.py predicts.

There are two tables of one form: tuning_table.py, which comes with the library, and ``tuning.json``
in the cache folder, which ``python benchmarks/tune.py`` writes on a user's machine and which goes
first. Each holds, per device name and product (:func:`key`), the tile and the number of slices:

    {"NVIDIA H200": {"forward n64 32x32x64 k4x4 s2x2 p1x1 d1x1 g1 16x16x128": [128, 64, 1]}}

Both are read once per process: a choice depends on shapes, the device's name and the tables as they
were at the first launch, never on load. Tiles do not change a bit of a result; slices do, so that
results of two tables may differ by rounding. ``PYGAN_TUNING=0`` leaves the tables out.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ... import cache
from ..shapes import Geometry
from .plan import Tiles
from .tuning_table import TABLE

CACHED = "tuning.json"
"""In the cache folder."""

Table = Mapping[str, Mapping[str, list[int]]]


def key(kind: str, shape: Geometry) -> str:
    """The name of a pass on a shape: kind, batch, large side, kernel, stride, pad, dilation,
    groups, small side."""
    large = f"{shape.height}x{shape.width}x{shape.large_channels}"
    small = f"{shape.small_height}x{shape.small_width}x{shape.small_channels}"
    pairs = zip("kspd", (shape.kernel, shape.stride, shape.pad, shape.dilation), strict=True)
    attributes = " ".join(f"{name}{pair[0]}x{pair[1]}" for name, pair in pairs)
    return f"{kind} n{shape.batch} {large} {attributes} g{shape.groups} {small}"


def chosen(kind: str, shape: Geometry, device: str | None, tiles: Sequence[Any]) -> Tiles | None:
    """One of `tiles`, and slices, of the tables for a product on `device`, or None where they have
    none. kind: of :func:`key`."""
    if device is None or os.environ.get("PYGAN_TUNING") == "0":
        return None
    found = tables().get(device, {}).get(key(kind, shape))
    if found is None:
        return None
    lines, columns, slices = found
    for tile in tiles:
        if (tile.lines, tile.columns) == (lines, columns) and slices >= 1:
            return Tiles(tile, slices)
    return None


@lru_cache(maxsize=1)
def tables() -> Table:
    """Both tables as one. A file that cannot be understood is left out with a warning."""
    merged = {device: dict(choices) for device, choices in TABLE.items()}
    for device, choices in read(cached_path()).items():
        merged.setdefault(device, {}).update(choices)
    return merged


def cached_path() -> Path | None:
    """The user's own table; None where there is no cache folder."""
    try:
        return cache.cache_dir() / CACHED
    except OSError:
        return None


def read(path: Path | None) -> dict[str, dict[str, list[int]]]:
    if path is None or not path.exists():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(device): {str(key): [int(number) for number in choice] for key, choice in c.items()}
            for device, c in table.items()
            if all(len(choice) == 3 for choice in c.values())
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(
            f"{path} is no table of measured tiles ({error}) and is left out; delete it, or run "
            f"benchmarks/tune.py again",
            RuntimeWarning,
            stacklevel=2,
        )
        return {}


def write(path: Path, device: str, choices: Mapping[str, list[int]]) -> None:
    """Puts `choices` for `device` into the table at `path`, beside what it holds already."""
    table = read(path)
    table.setdefault(device, {}).update({key: list(choice) for key, choice in choices.items()})
    cache.atomic_write(path, (json.dumps(table, indent=1, sort_keys=True) + "\n").encode())
    tables.cache_clear()
