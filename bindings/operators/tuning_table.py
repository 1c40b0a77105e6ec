"""Tiles and slices that were measured on GPUs and come with the library; tuning.py tells the form.

None were measured yet: the model of tiling.py chooses.
"""

from __future__ import annotations

TABLE: dict[str, dict[str, list[int]]] = {}
"""By device name, then by product."""
