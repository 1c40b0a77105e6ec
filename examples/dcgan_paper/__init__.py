"""The experiments of the DCGAN paper on trained networks, a module each; ``__main__`` runs them.

A. Radford, L. Metz and S. Chintala, "Unsupervised representation learning with deep convolutional
generative adversarial networks" (2015, arXiv:1511.06434).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Results = tuple[dict[str, Any], str, Callable[[Path], None]]
"""Of an experiment: numbers for JSON, a line about them, and what draws the figure to a path."""
