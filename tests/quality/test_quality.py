"""Measures of sample quality against closed forms, scipy, and direct definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats

from pygan import quality
from pygan.errors import PyganError


def gaussians(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)) + shift


def covariance(width: int, seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((width, width + 2))
    return root @ root.T


def test_frechet_between_diagonal_gaussians_has_its_closed_form():
    mean_a, mean_b = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    sd_a, sd_b = np.array([1.0, 0.2, 3.0]), np.array([2.0, 0.7, 0.0])
    expected = ((mean_a - mean_b) ** 2 + (sd_a - sd_b) ** 2).sum()
    found = quality.frechet_between(mean_a, np.diag(sd_a**2), mean_b, np.diag(sd_b**2))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("width", [1, 5, 64])
def test_frechet_agrees_with_scipys_matrix_root(width):
    first, second = covariance(width, 1), covariance(width, 2)
    mean_a, mean_b = np.random.default_rng(3).standard_normal((2, width))
    root = linalg.sqrtm(first @ second)
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(first + second - 2 * root.real)
    found = quality.frechet_between(mean_a, first, mean_b, second)
    # A root of a matrix with rounding of 1e-16 relative, of sums near 1e4.
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(quality.frechet_between(mean_b, second, mean_a, first), found)


def test_frechet_of_singular_covariances_is_finite_and_0_for_the_same():
    rows = gaussians(20, 64, seed=1)  # rank 19 of 64
    assert quality.frechet_distance(rows, rows) < 1e-6
    shifted = rows + 2.0
    np.testing.assert_allclose(quality.frechet_distance(rows, shifted), 4 * 64, rtol=1e-6)


def test_frechet_of_samples_approaches_that_of_their_gaussians():
    width, count = 4, 50_000
    a = gaussians(count, width, seed=1)
    b = 1.5 * gaussians(count, width, seed=2, shift=0.4)
    # m_b = 0.6, sd_b = 1.5: 4 (0.36 + 0.25); standard errors of means and sds are below 0.01.
    found = quality.frechet(a, b, resamples=50)
    assert abs(found.value - 4 * 0.61) < 0.12
    assert found.low < 4 * 0.61 < found.high and found.high - found.low < 0.2


def test_resampled_moments_are_those_of_the_rows_drawn():
    rows = gaussians(300, 5, seed=1)
    mean, found = quality._resampled_moments(rows, np.random.default_rng(7))
    drawn = rows[np.random.default_rng(7).integers(0, 300, 300)]
    np.testing.assert_allclose(mean, drawn.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found, np.cov(drawn, rowvar=False), atol=1e-12)


def test_the_frechet_interval_covers_the_truth_as_often_as_it_says():
    """Sets of 200 from Gaussians at distance 2 x 0.5^2: 95 of 100 intervals should cover it."""
    covered = 0
    for seed in range(40):
        a = gaussians(200, 2, seed=2 * seed + 100)
        b = gaussians(200, 2, seed=2 * seed + 101, shift=0.5)
        found = quality.frechet(a, b, seed=seed, resamples=100)
        covered += found.low <= 0.5 <= found.high
    # 38 expected; a binomial deviation of 1.4, and a bootstrap of 100 is a little narrow.
    assert covered >= 32


def test_kernel_distance_is_its_definition():
    a, b = gaussians(7, 3, seed=1), gaussians(5, 3, seed=2, shift=0.3)

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    within_a = np.mean([k(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    between = np.mean([k(x, y) for x in a for y in b])
    expected = within_a + within_b - 2 * between
    np.testing.assert_allclose(quality.kernel_distance(a, b), expected, rtol=1e-12)


def test_kernel_distance_is_unbiased_and_its_interval_finds_a_shift():
    same = quality.kernel(gaussians(4000, 8, 1), gaussians(4000, 8, 2), block=200)
    assert same.low <= 0 <= same.high
    other = quality.kernel(gaussians(4000, 8, 1), gaussians(4000, 8, 2, shift=0.3), block=200)
    assert other.low > same.high
    values = [
        quality.kernel_distance(gaussians(30, 4, 2 * s), gaussians(30, 4, 2 * s + 1))
        for s in range(400)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize("degrees", [3, 4, 9, 19, 100])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_student_quantiles(degrees, level):
    expected = stats.t.ppf((1 + level) / 2, degrees)
    np.testing.assert_allclose(quality.student_quantile(level, degrees), expected, rtol=5e-3)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (951, 1000), (1, 3)])
def test_proportions_have_wilsons_interval(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    found = quality.proportion(hits, count)
    np.testing.assert_allclose([found.low, found.high], list(expected), atol=1e-9)
    assert found.value == hits / count


def test_precision_and_recall_are_their_definition(monkeypatch):
    monkeypatch.setattr(quality, "CHUNK", 7)  # several chunks, the last one short
    real, generated = gaussians(40, 3, 1), gaussians(30, 3, 2, shift=0.8)

    def share(points, manifold, k):
        inside = 0
        for point in points:
            reached = False
            for i, centre in enumerate(manifold):
                others = np.linalg.norm(np.delete(manifold, i, axis=0) - centre, axis=1)
                reached |= np.linalg.norm(point - centre) <= np.sort(others)[k - 1]
            inside += reached
        return inside / len(points)

    for k in (1, 3):
        precision, recall = quality.precision_recall(real, generated, neighbours=k)
        assert precision.value == share(generated, real, k)
        assert recall.value == share(real, generated, k)


def test_precision_and_recall_tell_bad_images_from_missing_ones():
    real = np.concatenate([gaussians(300, 2, 1), gaussians(300, 2, 2, shift=20)])
    half = gaussians(600, 2, 3)  # good, but one of the two kinds is missing
    precision, recall = quality.precision_recall(real, half)
    assert precision.value > 0.9 and 0.4 < recall.value < 0.55
    far = np.concatenate([real[:300] + 0.01, gaussians(300, 2, 4, shift=-30)])  # half is rubbish
    precision, _ = quality.precision_recall(real, far)
    assert 0.45 < precision.value < 0.55


def test_classes_and_agreement():
    probabilities = np.full((200, 10), 0.05)
    kinds = np.array([0] * 100 + [1] * 98 + [2] * 2)
    probabilities[np.arange(200), kinds] = 0.55
    found = quality.classes(probabilities)
    assert found.histogram == [100, 98, 2, 0, 0, 0, 0, 0, 0, 0]
    assert found.covered == 3  # two images are a tenth of the even share of twenty
    np.testing.assert_allclose(found.confidence, 0.55)
    assert quality.agreement(probabilities, np.zeros(200, int)).value == 0.5


def test_measure_is_reproducible_and_sees_what_was_asked():
    images = gaussians(400, 6, 1).reshape(400, 6, 1, 1)

    def network(images):
        features = images.reshape(len(images), -1)
        return features, np.abs(features) / np.abs(features).sum(axis=1, keepdims=True)

    asked = np.abs(images.reshape(400, 6)).argmax(axis=1)
    first = quality.measure(network, images, images + 0.2, asked=asked, resamples=20)
    again = quality.measure(network, images, images + 0.2, asked=asked, resamples=20)
    assert first == again
    assert first["frechet"]["value"] == pytest.approx(6 * 0.04)
    assert first["agreement"]["value"] < 1 and first["generated_images"] == 400
    same = quality.measure(network, images, images, asked=asked, resamples=20)
    assert same["agreement"]["value"] == same["precision"]["value"] == same["recall"]["value"] == 1


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), r"\(5, 2\) and \(5, 3\)"),
        (np.zeros((1, 2)), np.zeros((5, 2)), "1 images are too few"),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), "not finite"),
        (np.zeros(5), np.zeros((5, 2)), r"\(5,\)"),
    ],
)
def test_features_that_cannot_be_compared(a, b, message):
    for function in (quality.frechet_distance, quality.kernel_distance, quality.precision_recall):
        with pytest.raises(PyganError, match=message):
            function(a, b)


def test_too_few_images_for_intervals():
    few = gaussians(4, 2, 1)
    with pytest.raises(PyganError, match="at least 8"):
        quality.kernel(few, few)
    with pytest.raises(PyganError, match="at least 20"):
        quality.frechet(few, few, resamples=5)
    with pytest.raises(PyganError, match="no 3 neighbours"):
        quality.precision_recall(few[:3], few)
