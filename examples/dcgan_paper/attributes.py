"""What can be measured of a digit besides which it is. Images are (N, height, width, 1) in 0..1."""

from __future__ import annotations

import numpy as np

INK = 0.5
"""Pixels above are ink."""


def slant(images: np.ndarray) -> np.ndarray:
    """Degrees, (N,), by which digits lean to the right: from second moments, the shear that makes
    them upright. 0 for an empty image."""
    _, height, width, _ = images.shape
    weights = images[..., 0].astype(np.float64)
    total = np.maximum(weights.sum(axis=(1, 2)), 1e-9)[:, None, None]
    y, x = np.mgrid[:height, :width]
    y = y - (weights * y).sum(axis=(1, 2), keepdims=True) / total
    x = x - (weights * x).sum(axis=(1, 2), keepdims=True) / total
    mixed, upright = ((weights * product).sum(axis=(1, 2)) for product in (x * y, y * y))
    return np.degrees(np.arctan2(-mixed, np.maximum(upright, 1e-9)))


def ink(images: np.ndarray) -> np.ndarray:
    """The mean brightness in percent, (N,): thick strokes have more of it."""
    return 100 * images.mean(axis=(1, 2, 3), dtype=np.float64)


ATTRIBUTES = {"slant": (slant, "°"), "ink": (ink, " %")}


def horizontal_strokes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels are ink of strokes within 30 degrees of the horizontal, and which are other ink:
    two arrays of bool, (N, height, width).

    By the structure tensor: across a horizontal stroke the brightness changes upwards.
    """
    from scipy.ndimage import gaussian_filter, sobel

    brightness = images[..., 0].astype(np.float64)
    y, x = (sobel(brightness, axis=axis) for axis in (1, 2))
    sigma = (0, *[images.shape[1] / 20] * 2)
    yy, xx, xy = (gaussian_filter(product, sigma) for product in (y * y, x * x, x * y))
    across = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))  # -90..90, 90 is vertical
    inked = brightness > INK
    horizontal = inked & (np.abs(across) > 60)
    return horizontal, inked & ~horizontal
