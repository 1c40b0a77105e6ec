"""Tiles and slices that were measured on GPUs and come with the library; tuning.py tells the form.

None were measured yet: model.py chooses.
"""

from __future__ import annotations

TABLE: dict[str, dict[str, list[int]]] = {}
"""By device name, then by product."""
