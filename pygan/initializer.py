"""Initial values of parameters, by MXNet's rule of names.

Weights are drawn in the order of list_arguments, so one seed gives one network on every device.
By suffix: ``_gamma`` is 1, ``_beta`` and ``_bias`` are 0, moving means 0 and moving variances 1;
everything else is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod, sqrt
from typing import Any

import numpy as np

from pygan.errors import GraphError, ShapeError
from pygan.executor import Executor

Generator = np.random.Generator | np.random.RandomState


class Initializer:
    """Base: subclasses draw the values of one weight."""

    def draw(self, name: str, shape: tuple[int, ...], rng: Generator) -> np.ndarray:
        raise NotImplementedError

    def __call__(self, executor: Executor, rng: Generator) -> None:
        """Fills the parameters and moving statistics of an executor.

        rng: such as ``numpy.random.default_rng(0)``. Raises GraphError for another kind of either.
        """
        if not isinstance(executor, Executor):
            raise GraphError(f"an initializer fills an executor; bind {executor!r} first")
        if not hasattr(rng, "uniform"):
            raise GraphError(
                f"rng is a generator, such as numpy.random.default_rng(0), not {rng!r}"
            )
        for name in executor.parameter_names:
            array = executor.arg_dict[name]
            _write(array, self.value(name, tuple(array.shape), rng))
        for name, array in executor.aux_dict.items():
            _write(array, np.full(array.shape, 1.0 if name.endswith("_moving_var") else 0.0))

    def value(self, name: str, shape: tuple[int, ...], rng: Generator) -> np.ndarray:
        """What the parameter of that name starts as."""
        if name.endswith("_gamma"):
            return np.ones(shape)
        if name.endswith(("_beta", "_bias")):
            return np.zeros(shape)
        return self.draw(name, shape, rng)


def _spread(value: float, name: str) -> None:
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not (isfinite(value) and value >= 0):
        raise GraphError(f"{name} must be a finite number >= 0, not {value!r}")


def _write(array: Any, values: np.ndarray) -> None:
    array[...] = values.astype(array.dtype)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform on [-scale, scale)."""

    scale: float = 0.07

    def __post_init__(self) -> None:
        _spread(self.scale, "scale")

    def draw(self, name: str, shape: tuple[int, ...], rng: Generator) -> np.ndarray:
        return rng.uniform(-self.scale, self.scale, shape)


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with mean 0 and standard deviation sigma."""

    sigma: float = 0.01

    def __post_init__(self) -> None:
        _spread(self.sigma, "sigma")

    def draw(self, name: str, shape: tuple[int, ...], rng: Generator) -> np.ndarray:
        return rng.normal(0.0, self.sigma, shape)


@dataclass(frozen=True)
class Xavier(Initializer):
    """Uniform with variance magnitude / (3 * fan) (Glorot and Bengio 2010; MXNet's Xavier).

    fan is the mean of fan-in and fan-out: for a weight (a, kh, kw, b) these are b kh kw and
    a kh kw, for (a, b) b and a. The draw is uniform on +-sqrt(magnitude / fan).
    """

    magnitude: float = 3.0

    def __post_init__(self) -> None:
        _spread(self.magnitude, "magnitude")

    def draw(self, name: str, shape: tuple[int, ...], rng: Generator) -> np.ndarray:
        if len(shape) < 2:
            raise ShapeError(f"Xavier needs a weight with 2 axes or more; {name!r} has {shape}")
        window = prod(shape[1:-1])
        bound = sqrt(self.magnitude / ((shape[0] + shape[-1]) * window / 2))
        return rng.uniform(-bound, bound, shape)
