"""Convolutions to test on: shapes, data, and the check of one operator on one of them.

A case describes the large side (N, H, W, C), the small side (N, P, Q, K) and the weight between
them; a convolution leads from large to small, a transposed convolution from small to large. H is
drawn freely, so what a transposed convolution calls output padding occurs in most cases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pygan import reference
from support import check_write_and_accumulate, numbers, random_sum_bound, upload, workspace_for

Pair = tuple[int, int]

# 1, odd, prime; below, at and above the tile sizes 8, 32 and 64.
GROUP_CHANNELS = (1, 2, 3, 5, 7, 8, 9, 13, 31, 32, 33, 65)
MOST_PRODUCTS = 400_000
"""Products per example, so that one takes milliseconds."""


@dataclass(frozen=True)
class Case:
    batch: int
    size: Pair
    kernel: Pair
    stride: Pair
    pad: Pair
    dilation: Pair
    groups: int
    large_channels: int
    """Per group."""
    small_channels: int
    """Per group."""
    bias: bool = True
    seed: int = 0

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "pad": self.pad,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    @property
    def small_size(self) -> Pair:
        height, width = (
            (self.size[i] + 2 * self.pad[i] - self.dilation[i] * (self.kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        )
        return height, width

    @property
    def large(self) -> tuple[int, ...]:
        return (self.batch, *self.size, self.groups * self.large_channels)

    @property
    def small(self) -> tuple[int, ...]:
        return (self.batch, *self.small_size, self.groups * self.small_channels)

    @property
    def weight(self) -> tuple[int, ...]:
        return (self.groups * self.small_channels, *self.kernel, self.large_channels)

    @property
    def products(self) -> int:
        return int(np.prod(self.small)) * int(np.prod(self.weight[1:]))


@st.composite
def cases(draw: st.DrawFn, transposed: bool = False) -> Case:
    """Any kernel, stride, pad, dilation and groups, within MOST_PRODUCTS."""
    stride_pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride = draw(st.one_of(st.just((2, 2)), stride_pairs))
    pad = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    dilation = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 3), st.integers(1, 4))))
    least = [max(1, dilation[i] * (kernel[i] - 1) + 1 - 2 * pad[i]) for i in (0, 1)]
    case = Case(
        batch=draw(st.sampled_from((1, 2, 3, 5))),
        size=(least[0] + draw(st.integers(0, 9)), least[1] + draw(st.integers(0, 9))),
        kernel=kernel,
        stride=stride,
        pad=pad,
        dilation=dilation,
        groups=draw(st.sampled_from((1, 1, 2, 3))),
        large_channels=draw(st.sampled_from(GROUP_CHANNELS)),
        small_channels=draw(st.sampled_from(GROUP_CHANNELS)),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
    while case.products > MOST_PRODUCTS:
        most = max(case.large_channels, case.small_channels, case.batch)
        if case.batch == most and case.batch > 1:
            case = replace(case, batch=case.batch - 1)
        elif case.large_channels == most:
            case = replace(case, large_channels=max(1, most // 2))
        else:
            case = replace(case, small_channels=max(1, most // 2))
    return case


LESSON_LAYERS = {
    # The layers of the lesson's GAN at batch 3: (large, small, kernel, stride, pad, large size).
    "generator 1": Case(3, (4, 4), (4, 4), (2, 2), (0, 0), (1, 1), 1, 256, 10),
    "generator 2": Case(3, (7, 7), (3, 3), (2, 2), (1, 1), (1, 1), 1, 128, 256),
    "generator 3": Case(3, (14, 14), (4, 4), (2, 2), (1, 1), (1, 1), 1, 64, 128),
    "generator 4": Case(3, (28, 28), (4, 4), (2, 2), (1, 1), (1, 1), 1, 1, 64),
    "discriminator 1": Case(3, (28, 28), (3, 3), (1, 1), (0, 0), (1, 1), 1, 1, 24),
    "discriminator 2": Case(3, (13, 13), (3, 3), (2, 2), (0, 0), (1, 1), 1, 24, 32),
    "discriminator 3": Case(3, (6, 6), (3, 3), (1, 1), (0, 0), (1, 1), 1, 32, 64),
    "discriminator 4": Case(3, (4, 4), (4, 4), (1, 1), (0, 0), (1, 1), 1, 64, 64),
    "discriminator 5": Case(3, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1), 1, 64, 1),
}


class Problem:
    """One operator on one case: inputs, result shape, and how many products a result sums."""

    def __init__(self, operator: str, case: Case) -> None:
        rng = np.random.default_rng(case.seed)
        transposed = operator.startswith("transposed")
        entered, left = (case.small, case.large) if transposed else (case.large, case.small)
        weight, bias = numbers(rng, *case.weight), None
        if operator.endswith("forward"):
            bias = numbers(rng, left[3]) if case.bias else None
            self.inputs = [numbers(rng, *entered), weight, bias]
            self.result = left
        elif operator.endswith("backward_data"):
            self.inputs = [numbers(rng, *left), weight]
            self.result = entered
        else:
            self.inputs = [numbers(rng, *entered), numbers(rng, *left)]
            self.result = case.weight
        taps = case.kernel[0] * case.kernel[1]
        if self.result == case.weight and operator.endswith("weight"):
            self.terms = case.batch * case.small_size[0] * case.small_size[1]
        elif self.result == case.small and transposed == operator.endswith("backward_data"):
            self.terms = taps * case.large_channels
        else:
            self.terms = taps * case.small_channels
        self.operator, self.case, self.rng = operator, case, rng

    @property
    def shapes(self) -> list[tuple[int, ...] | None]:
        return [None if a is None else a.shape for a in self.inputs] + [self.result]

    def exact(self, absolute: bool = False) -> np.ndarray:
        """The twin's result in float64; of absolute values it is the magnitude of the sums."""
        arrays = [None if a is None else a.astype(np.float64) for a in self.inputs]
        if absolute:
            arrays = [None if a is None else np.abs(a) for a in arrays]
        out = np.zeros(self.result)
        getattr(reference, self.operator)(*arrays, out, **self.case.attributes)
        return out

    @property
    def allowed(self) -> np.ndarray:
        """Every product and every addition of the longest sum rounds once, and so may the bias."""
        return random_sum_bound(self.terms + 2) * self.exact(absolute=True)


def check(device: Any, operator: str, case: Case) -> None:
    """`operator` agrees with its twin on `case`, written and accumulated."""
    problem = Problem(operator, case)
    inputs = [upload(device, array) for array in problem.inputs]
    workspace = workspace_for(device, operator, *problem.shapes, **case.attributes)
    run = getattr(device.ops, operator)

    def launch(out: Any, accumulate: bool) -> None:
        if workspace is not None:
            workspace.fill(np.nan)
        run(*inputs, out, **case.attributes, accumulate=accumulate, workspace=workspace)

    what = f"{operator} {case}"
    check_write_and_accumulate(device, launch, problem.exact(), problem.allowed, problem.rng, what)
