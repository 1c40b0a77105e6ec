"""A batch norm, and its activation, on the way into a convolution."""

from __future__ import annotations

import numpy as np

from . import shapes
from .activation import activation_forward

KINDS = (None, "relu", "leaky_relu")


def normalised(
    operator: str,
    x: np.ndarray,
    normalisation: np.ndarray | None,
    activation: str | None,
    slope: float,
) -> np.ndarray:
    """x (..., C) as it is, or normalised, with the activation behind."""
    if activation not in KINDS or (normalisation is None and activation is not None):
        raise ValueError(
            f"{operator}: x_activation {activation!r} comes behind a normalisation, and is one of "
            f"{KINDS}; use activation_forward"
        )
    if normalisation is None:
        return x
    shapes.check_shape(operator, "normalisation", normalisation, (x.shape[-1], 4), f"x {x.shape}")
    mean, inverse, gamma, beta = normalisation.T
    y = (x - mean) * inverse * gamma + beta
    if activation is not None:
        activation_forward(y, y, kind=activation, slope=slope)
    return y
