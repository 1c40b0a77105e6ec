"""Memory plans: nothing that lives at the same time overlaps, and little is wasted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pygan import networks
from pygan.device import ALIGNMENT
from pygan.executor.planner import Request, aligned, plan
from pygan.working_memory import WorkingMemory

requests = st.lists(
    st.builds(
        lambda nbytes, start, length: Request(nbytes, start, start + length),
        st.integers(0, 5000),
        st.integers(0, 30),
        st.integers(0, 12),
    ),
    max_size=40,
)


def lower_bound(requests: Sequence[Request]) -> int:
    """The most bytes that live at any one time: no plan can need fewer."""
    return max(
        (
            sum(aligned(r.nbytes) for r in requests if r.start <= moment.start <= r.end)
            for moment in requests
        ),
        default=0,
    )


@given(requests)
def test_arrays_that_live_together_share_no_byte(wanted: list[Request]) -> None:
    result = plan(wanted)
    assert len(result.offsets) == len(wanted)
    for index, (first, offset) in enumerate(zip(wanted, result.offsets, strict=True)):
        assert offset % ALIGNMENT == 0
        assert offset >= 0 and offset + first.nbytes <= result.nbytes
        for second, other in zip(wanted[:index], result.offsets[:index], strict=True):
            together = first.start <= second.end and second.start <= first.end
            apart = offset + first.nbytes <= other or other + second.nbytes <= offset
            assert apart or not together


@given(requests)
def test_a_plan_lies_between_the_most_alive_at_once_and_no_sharing(wanted: list[Request]) -> None:
    nbytes = plan(wanted).nbytes
    assert lower_bound(wanted) <= nbytes <= sum(aligned(request.nbytes) for request in wanted)


@given(requests, st.lists(st.integers(0, 40).map(lambda n: n * ALIGNMENT), max_size=3))
def test_nothing_lies_on_both_sides_of_a_wall(wanted: list[Request], walls: list[int]) -> None:
    result = plan(wanted, walls)
    for request, offset in zip(wanted, result.offsets, strict=True):
        assert not any(offset < wall < offset + request.nbytes for wall in walls)
    for index, (first, offset) in enumerate(zip(wanted, result.offsets, strict=True)):
        for second, other in zip(wanted[:index], result.offsets[:index], strict=True):
            together = first.start <= second.end and second.start <= first.end
            assert not together or (
                offset + first.nbytes <= other or other + second.nbytes <= offset
            )


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    sizes = [4096, 1024, 8192, 2048, 512]
    chain = [Request(size, time, time + 1) for time, size in enumerate(sizes)]
    assert plan(chain).nbytes == lower_bound(chain) == 8192 + 2048


def test_the_peak_is_what_no_plan_can_be_below(numpy_device: Any) -> None:
    executor = networks.dcgan_discriminator(4).bind(numpy_device, {"data": (2, 64, 64, 3)})
    arrays = executor.at_the_peak()
    sizes = [nbytes for _, nbytes in arrays]
    assert sizes == sorted(sizes, reverse=True) and "data" in dict(arrays)
    block = executor._memory._own
    assert sum(map(aligned, sizes)) == lower_bound(block.requests) <= block.planned
    # In two blocks, too, though they are made apart.
    lent = networks.dcgan_discriminator(4).bind(
        numpy_device, {"data": (2, 64, 64, 3)}, working_memory=WorkingMemory()
    )
    assert sorted(nbytes for _, nbytes in lent.at_the_peak()) == sorted(sizes)
