"""How good generated images are: distances between features of generated and of real images.

Features are rows (N, D) of any network's activations; for digits, those of our own classifier
(``pygan.training.classifier.DigitClassifier``: D = 64). All numbers depend on that network and on
the number of images: compare only what was measured with the same ones. Everything is computed in
float64 on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from pygan.errors import PyganError

LEVEL = 0.95
NEIGHBOURS = 3
RESAMPLES = 200
BLOCK = 500
CHUNK = 128  # rows of distances at a time, a few MB: they stay near the processor


@dataclass(frozen=True)
class Interval:
    """A number and its confidence interval (95 % unless asked otherwise)."""

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        value, low, high = (format(v, form) for v in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to two sets of features (N, D), (M, D).

    Heusel et al., "GANs trained by a two time-scale update rule" (2017), there with Inception's
    features: |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), covariances with n - 1. Of two sets
    from one distribution it is not 0 but shrinks as 1/n. Raises PyganError for fewer than 2 rows,
    other widths, and numbers that are not finite.
    """
    a, b = _checked(a, b)
    return frechet_between(*_moments(a), *_moments(b))


def frechet_between(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """The Frechet distance between two Gaussians given by means (D,) and covariances (D, D)."""
    # The trace of the root of C_a C_b is that of the symmetric root(C_a) C_b root(C_a), whose
    # eigenvalues are real and not negative but for rounding.
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariance_b @ root)
    difference = mean_a - mean_b
    distance = (
        difference @ difference
        + np.trace(covariance_a)
        + np.trace(covariance_b)
        - 2 * np.sqrt(np.maximum(inner, 0)).sum()
    )
    return float(max(distance, 0.0))


def frechet(
    a: np.ndarray,
    b: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """`frechet_distance` with a bootstrap interval, rows of both sets drawn with replacement.

    The interval is the basic one, 2 value - quantiles (Davison and Hinkley, "Bootstrap methods",
    1997, section 5.2): resampling raises the distance as finite samples do, and this interval takes
    that off again, so that it may lie below the value.
    """
    a, b = _checked(a, b)
    if resamples < 20:
        raise PyganError(f"{resamples} resamples are too few for an interval; take at least 20")
    value = frechet_distance(a, b)
    random = np.random.default_rng(seed)

    centre = a.mean(axis=0)
    a, b = a - centre, b - centre
    drawn = [
        frechet_between(*_resampled_moments(a, random), *_resampled_moments(b, random))
        for _ in range(resamples)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, max(0.0, 2 * value - float(high)), max(0.0, 2 * value - float(low)))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (x y / D + 1)^3.

    Binkowski et al., "Demystifying MMD GANs" (2018), equation 4 and section 4: its expectation is 0
    for two sets from one distribution at any size; a single value may be negative.
    """
    a, b = _checked(a, b)
    within = [_kernel(rows, rows) for rows in (a, b)]
    sums = [(gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)) for gram in within]
    return float(sum(sums) - 2 * _kernel(a, b).mean())


def kernel(
    a: np.ndarray,
    b: np.ndarray,
    *,
    seed: int = 0,
    block: int = BLOCK,
    level: float = LEVEL,
) -> Interval:
    """`kernel_distance` averaged over blocks of both sets that share no row, after a shuffle.

    The blocks' values are independent, so their mean has a Student interval. block: rows of each
    set in a block; smaller where the sets have less than four blocks of it. Raises PyganError for
    sets of fewer than 8 rows.
    """
    a, b = _checked(a, b)
    shorter = min(len(a), len(b))
    if shorter < 8:
        raise PyganError(f"{shorter} images are too few for blocks; take at least 8")
    block = min(block, shorter // 4)
    random = np.random.default_rng(seed)
    a, b = a[random.permutation(len(a))], b[random.permutation(len(b))]
    values = [
        kernel_distance(a[start : start + block], b[start : start + block])
        for start in range(0, shorter - block + 1, block)
    ]
    value = float(np.mean(values))
    spread = student_quantile(level, len(values) - 1) * np.std(values, ddof=1)
    margin = float(spread / np.sqrt(len(values)))
    return Interval(value, value - margin, value + margin)


def student_quantile(level: float, degrees: int) -> float:
    """The two-sided quantile of Student's distribution: 2.26 for 0.95 and 9 degrees.

    By the expansion in 1/degrees about the normal quantile (Abramowitz and Stegun, "Handbook of
    mathematical functions", 26.7.5); within 0.5 % from 3 degrees on at levels up to 0.95.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def proportion(hits: int, count: int, level: float = LEVEL) -> Interval:
    """hits / count with Wilson's interval (Wilson 1927), good near 0 and 1 too."""
    if not 0 <= hits <= count or count < 1:
        raise PyganError(f"{hits} of {count} is no proportion")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z / (1 + z**2 / count)
    margin *= np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(share, max(0.0, float(centre - margin)), min(1.0, float(centre + margin)))


def precision_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[Interval, Interval]:
    """Precision and recall of Kynkaanniemi et al., "Improved precision and recall metric for
    assessing generative models" (2019), equations 1 and 2.

    A set's manifold is the union of spheres about its features, each reaching the feature's k-th
    nearest neighbour in the set (k = neighbours). Precision: the share of generated images inside
    the manifold of real ones; recall: the share of real images inside that of generated ones. Both
    intervals are Wilson's, for the manifolds as they are.
    """
    real, generated = _checked(real, generated)
    if min(len(real), len(generated)) <= neighbours:
        raise PyganError(
            f"{min(len(real), len(generated))} images have no {neighbours} neighbours each; take "
            f"at least {neighbours + 1}"
        )
    return (
        _share_inside(generated, real, neighbours),
        _share_inside(real, generated, neighbours),
    )


@dataclass(frozen=True)
class Classes:
    """How a classifier spreads images over classes.

    histogram: images in each class, by the largest probability. covered: classes that hold at least
    a tenth of an even share. confidence: the mean of each image's largest probability.
    """

    histogram: list[int]
    covered: int
    confidence: float


def classes(probabilities: np.ndarray) -> Classes:
    """The classes of images by their probabilities (N, K)."""
    count, kinds = probabilities.shape
    histogram = np.bincount(probabilities.argmax(axis=1), minlength=kinds)
    covered = int((histogram >= max(1.0, count / kinds / 10)).sum())
    confidence = float(probabilities.max(axis=1).mean(dtype=float))
    return Classes(histogram.tolist(), covered, confidence)


def agreement(probabilities: np.ndarray, asked: np.ndarray) -> Interval:
    """The share of images (N, K) whose most probable class is the one asked for (N,)."""
    return proportion(int((probabilities.argmax(axis=1) == np.asarray(asked)).sum()), len(asked))


Features = tuple[np.ndarray, np.ndarray]


def measure(
    network: Callable[[np.ndarray], Features],
    real: np.ndarray,
    generated: np.ndarray,
    *,
    asked: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """All measures of generated images against real ones, ready for JSON.

    network: images -> features (N, D) and probabilities (N, K), such as a ``DigitClassifier``.
    real, generated: images as it takes them. asked: the class asked for of each generated image.
    Intervals are objects with value, low and high (95 %).
    """
    real_features, _ = network(real)
    features, probabilities = network(generated)
    return compare(
        real_features, features, probabilities, asked=asked, seed=seed, resamples=resamples
    )


def compare(
    real: np.ndarray,
    generated: np.ndarray,
    probabilities: np.ndarray,
    *,
    asked: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """`measure` of features that are there already: real (N, D), generated (M, D), and the
    probabilities (M, K) of the generated images."""
    precision, recall = precision_recall(real, generated)
    result = {
        "real_images": len(real),
        "generated_images": len(generated),
        "features": int(generated.shape[1]),
        "seed": seed,
        "frechet": asdict(frechet(real, generated, seed=seed, resamples=resamples)),
        "frechet_resamples": resamples,
        "kernel": asdict(kernel(real, generated, seed=seed)),
        "precision": asdict(precision),
        "recall": asdict(recall),
        "neighbours": NEIGHBOURS,
        "classes": asdict(classes(probabilities)),
    }
    if asked is not None:
        result["agreement"] = asdict(agreement(probabilities, asked))
    return result


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise PyganError(f"features must be (N, D) and (M, D), not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise PyganError(f"{min(len(a), len(b))} images are too few; take at least 2 of each")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise PyganError("the features hold numbers that are not finite")
    return a, b


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of rows (N, D)."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def _resampled_moments(
    rows: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The moments of len(rows) rows drawn with replacement, without gathering them: each row is
    weighed by how often it was drawn. Rows should lie about 0, where nothing cancels."""
    count = len(rows)
    drawn = random.integers(0, count, count)
    times = np.bincount(drawn, minlength=count).astype(rows.dtype)
    mean = times @ rows / count
    second = rows.T @ (times[:, None] * rows)
    return mean, (second - count * np.outer(mean, mean)) / (count - 1)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _share_inside(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> Interval:
    """The share of points within the k-th neighbour's distance of some point of the manifold."""
    centre = manifold.mean(axis=0)  # differences of small numbers lose less
    points, manifold = points - centre, manifold - centre
    reach = _squared_reach(manifold, neighbours)
    # |p - m|^2 <= reach, ordered so that one matrix product and one minimum a row tell:
    # |m|^2 - reach - 2 p m <= -|p|^2 for some m.
    right = np.column_stack([-2 * manifold, _squared_lengths(manifold) - reach]).T
    inside = 0
    for start in range(0, len(points), CHUNK):
        part = points[start : start + CHUNK]
        nearest = (_with_ones(part) @ right).min(axis=1)
        inside += int((nearest <= -_squared_lengths(part)).sum())
    return proportion(inside, len(points))


def _squared_reach(manifold: np.ndarray, neighbours: int) -> np.ndarray:
    """The squared distance (M,) from each row (M, D) to its k-th nearest other row."""
    lengths = _squared_lengths(manifold)
    right = np.column_stack([-2 * manifold, lengths]).T
    reach = np.empty(len(manifold))
    for start in range(0, len(manifold), CHUNK):
        part = slice(start, min(start + CHUNK, len(manifold)))
        squared = _with_ones(manifold[part]) @ right  # but for the row's own length
        rows = np.arange(len(squared))
        nearest = start + rows  # first of all itself, which is no neighbour
        # A few passes for the smallest cost a tenth of a partition.
        for _ in range(neighbours):
            squared[rows, nearest] = np.inf
            nearest = squared.argmin(axis=1)
        reach[part] = squared[rows, nearest] + lengths[part]
    return reach


def _squared_lengths(rows: np.ndarray) -> np.ndarray:
    return (rows * rows).sum(axis=1)


def _with_ones(rows: np.ndarray) -> np.ndarray:
    return np.column_stack([rows, np.ones(len(rows))])
