"""What is bound by memory reads and writes 16 bytes per access in the code that nvcc makes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from compiled import intermediate_code

LOAD, STORE = r"ld\.global(\.nc)?\.v4\.\w+", r"st\.global\.v4\.\w+"

# What is to be found in an entry point that has not both: it reads or writes no array of its own
# size.
ONLY_LOADS = (LOAD,)
ONLY_STORES = (STORE,)
NEITHER = ()
# file: (macros, exceptions)
FILES: dict[str, tuple[Mapping[str, str], Mapping[str, tuple[str, ...]]]] = {
    "activation.cu": ({"ACTIVATION": "leaky_relu"}, {}),
    "batch_norm.cu": ({"ACTIVATION": "leaky_relu"}, {"batch_norm_update_moving": NEITHER}),
    "dropout.cu": ({}, {}),
    "data.cu": (
        {"TABLE_TYPE": "float"},
        {
            "gather_one_hot": ONLY_STORES,
            "store_row": NEITHER,  # a handful of losses
            "advance_cursor": NEITHER,
        },
    ),
    "elementwise.cu": ({}, {"fill": ONLY_STORES}),
    "loss.cu": (
        {},
        {
            "loss_sum": ONLY_LOADS,
            "kullback_leibler_forward": ONLY_LOADS,
        },
    ),
    "optimizer.cu": ({}, {}),
    "partial_sums.cu": ({"VECTOR": "4"}, {}),
    "pooling.cu": ({"POOLING": "avg"}, {}),
    "random.cu": (
        {},
        {
            "random_uniform": ONLY_STORES,
            "random_normal": ONLY_STORES,
            "random_advance": NEITHER,
        },
    ),
}


@pytest.mark.parametrize("file", FILES)
def test_memory_bound_kernels_use_accesses_of_16_bytes(file: str) -> None:
    defines, exceptions = FILES[file]
    entries = intermediate_code(file, defines)
    assert set(exceptions) <= set(entries)
    for entry, code in entries.items():
        for access in exceptions.get(entry, (LOAD, STORE)):
            assert re.search(access, code), f"{entry} has no {access}"
