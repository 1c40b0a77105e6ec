"""What every kernel test needs: inputs, poisoned outputs, and a comparison that reports.

The tolerance of a comparison is always an array or number computed from a rounding model: the
standard bound on the error of a float32 computation, |computed - exact| <= gamma(n) * magnitude,
where n counts the roundings on the longest path from an input to the result and ``magnitude`` is
the same expression evaluated on absolute values (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 3.1 and 4.2). The bound holds for every order of summation, so it asks
nothing about how a kernel splits its sums. ``exact`` is the numpy twin run on float64 arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

UNIT_ROUNDOFF = 2.0**-24
"""Half the spacing of float32 just above 1: the relative error of one rounded operation."""

SMALLEST_NORMAL = 2.0**-126
"""Below it float32 loses relative precision: the absolute error that every tolerance grants."""


def gamma(roundings: float) -> float:
    """gamma(n) = n*u / (1 - n*u), the bound on the relative error of n float32 roundings."""
    product = roundings * UNIT_ROUNDOFF
    if not product < 1:
        raise ValueError(f"no bound for {roundings} roundings in float32")
    return product / (1 - product)


def random_sum_bound(roundings: float) -> float:
    """Like gamma(n), for sums of products of independent random numbers.

    Their roundings are as often up as down, so that errors grow with sqrt(n): the bound
    gamma(6 sqrt(n)) fails with a probability below 2 n exp(-18) (Higham and Mary, A New Approach to
    Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019). It tells
    float32 from a shorter format in longer sums than gamma(n) does.
    """
    return min(gamma(roundings), gamma(6 * roundings**0.5))


@dataclass(frozen=True)
class Agreement:
    """The element that used the largest share of the error it was allowed."""

    index: tuple[int, ...]
    computed: float
    expected: float
    allowed: float
    share: float
    """Error over allowed error; above 1 is a failure, NaN where the computed value is no number."""

    def __str__(self) -> str:
        return (
            f"at {self.index}: computed {self.computed!r}, expected {self.expected!r}, "
            f"{100 * self.share:.3g} % of the allowed error {self.allowed:.3g} used"
        )


def compare(computed: Any, expected: Any, allowed: Any) -> Agreement:
    """The worst element of ``computed`` against ``expected``; NaN is worse than any number.

    ``computed`` is a numpy or device array, ``allowed`` an absolute error (number or array that
    broadcasts). Where ``expected`` is infinite, ``computed`` must be the same infinity.
    """
    actual = np.asarray(computed)
    wanted = np.asarray(expected)
    if actual.shape != wanted.shape:
        raise AssertionError(f"computed {actual.shape}, expected {wanted.shape}")
    if actual.size == 0:
        return Agreement((), 0.0, 0.0, 0.0, 0.0)
    wide, target = actual.astype(np.float64), wanted.astype(np.float64)
    limit = np.broadcast_to(np.asarray(allowed, np.float64) + SMALLEST_NORMAL, target.shape)
    with np.errstate(invalid="ignore"):
        share = np.where(wide == target, 0.0, np.abs(wide - target) / limit)
    # A share that is no number is turned into an infinite one, so that argmax finds it.
    rank = np.where(np.isnan(share), np.inf, share)
    flat = int(np.argmax(rank))
    index = tuple(int(i) for i in np.unravel_index(flat, target.shape))
    return Agreement(
        index, float(wide[index]), float(target[index]), float(limit[index]), float(share[index])
    )


def assert_close(computed: Any, expected: Any, allowed: Any, what: str = "result") -> Agreement:
    """Fail unless every element of ``computed`` is within ``allowed`` of ``expected``."""
    worst = compare(computed, expected, allowed)
    if not worst.share <= 1:  # written so that NaN fails
        wide, target = np.asarray(computed, np.float64), np.asarray(expected, np.float64)
        within = np.abs(wide - target) <= np.asarray(allowed, np.float64) + SMALLEST_NORMAL
        wrong = int(np.sum(~(within | (wide == target))))
        raise AssertionError(f"{what}: {wrong} of {target.size} elements differ; worst {worst}")
    return worst


def assert_same_bits(first: Any, second: Any, what: str = "result") -> None:
    """Fail unless both arrays hold the same bits (so that NaN equals itself and -0 is not 0)."""
    one, other = np.ascontiguousarray(first), np.ascontiguousarray(second)
    if one.dtype != other.dtype or one.shape != other.shape:
        raise AssertionError(f"{what}: {one.dtype}{one.shape} against {other.dtype}{other.shape}")
    if one.tobytes() != other.tobytes():
        pairs = zip(one.reshape(-1), other.reshape(-1), strict=True)
        wrong = next(i for i, (a, b) in enumerate(pairs) if a.tobytes() != b.tobytes())
        index = tuple(int(i) for i in np.unravel_index(wrong, one.shape))
        raise AssertionError(
            f"{what}: first different bits at {index}: {one[index]!r}, {other[index]!r}"
        )


def numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """float32 numbers of both signs with magnitudes spread around 1, none of them special."""
    return rng.standard_normal(shape).astype(np.float32)


def upload(device: Any, host: np.ndarray | None) -> Any:
    """A copy of ``host`` (C-contiguous) on ``device``; None stays None."""
    return None if host is None else device.from_numpy(np.ascontiguousarray(host))


def poisoned(device: Any, *shape: int) -> Any:
    """A float32 array full of NaN: whatever a kernel fails to write shows."""
    return device.from_numpy(np.full(shape, np.nan, np.float32))


def workspace_for(device: Any, name: str, *shapes: Any, **attributes: Any) -> Any:
    """A poisoned workspace of exactly the size operator ``name`` asks for, or None for none."""
    size = device.ops.workspace_size(name, *shapes, **attributes)
    return poisoned(device, size) if size else None


def check_write_and_accumulate(
    device: Any,
    launch: Callable[[Any, bool], None],
    expected: np.ndarray,
    allowed: Any,
    rng: np.random.Generator,
    what: str = "result",
) -> None:
    """Check ``launch(out, accumulate)`` in both modes, and that a repetition gives the same bits.

    Writing starts from NaN; accumulating starts from random numbers s and must give s + expected,
    with one more rounding of a sum of magnitude |s| + |expected|.
    """
    out = poisoned(device, *expected.shape)
    launch(out, False)
    assert_close(out, expected, allowed, f"{what} (write)")

    again = poisoned(device, *expected.shape)
    launch(again, False)
    assert_same_bits(np.asarray(out), np.asarray(again), f"{what} (repeated)")

    start = numbers(rng, *expected.shape)
    total = upload(device, start)
    launch(total, True)
    # The start may be added at any point of the sum, so each of its roundings is granted again.
    extra = np.asarray(allowed) + gamma(2) * (
        np.abs(start) + np.abs(expected) + np.asarray(allowed)
    )
    assert_close(total, start + expected, extra, f"{what} (accumulate)")


def for_all(strategy: SearchStrategy, examples: int, body: Callable[[Any], None]) -> None:
    """Run ``body`` on cases drawn by hypothesis; the count can depend on a fixture this way."""

    @settings(max_examples=examples, deadline=None)
    @given(strategy)
    def case_holds(case: Any) -> None:
        body(case)

    case_holds()


def examples_for(device: Any, plain: int) -> int:
    """How many cases to draw: check mode is some ten times slower, and looks for other bugs."""
    return max(plain // 4, 5) if device.check else plain
