"""Cases whose arrays hold bf16 numbers, where an executor with storage="bf16" would have them.

On devices `cpu` and `cuda` such an array is uint16, on numpy float32 with rounded numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from cases import Case

STORED = "bf16-stored"
TOLERANCE = 2.0**-7
"""Of a number that is stored in bf16, beside the largest: sums that differ in their last bit may be
rounded to either neighbour."""

NOT_A_NUMBER = 0x7FC0
CHANNELS, IMAGE_CHANNELS = 8, 4
SLICES = {
    "batch_norm_forward_training": 6,
    "batch_norm_forward_inference": 6,
    "batch_norm_backward": 11,
}
"""The index of the slices of a sum, by function, where a case has them."""


def stored(case: Case) -> Case | None:
    """The case with bf16 numbers in some of its arrays; None where its function takes none, or was
    not made for them: of what normalises on the way in, only an image's layer."""
    if "x_activation" in case.attributes and len(_halves(case)) > 1:
        return None
    halves = tuple(index for index in _halves(case) if case.arrays[index] is not None)
    if not halves:
        return None
    from pygan.reference.precision import rounded

    arrays = [
        rounded(array, "bf16") if array is not None and index in halves else array
        for index, array in enumerate(case.arrays)
    ]
    attributes = dict(case.attributes)
    if "convolution_" in case.function:
        attributes["precision"] = "bf16"
    if len(case.arrays) > SLICES.get(case.function, len(case.arrays)):
        attributes["half_sum"] = True
    return replace(case, arrays=tuple(arrays), attributes=attributes, halves=halves)


def _halves(case: Case) -> tuple[int, ...]:
    function = case.function.removeprefix("transposed_")
    if function.startswith("convolution_"):
        return _of_convolution(case, function.removeprefix("convolution_"))
    kinds = {
        "batch_norm_forward_training": (0, 3),
        "batch_norm_forward_inference": (0, 5),
        "batch_norm_normalisation_training": (0,),
        "batch_norm_backward": (0, 5, 6),
        "activation_forward": (0, 1),
        "activation_backward": (0, 1, 2, 3),
        "bias_backward": (0,),
    }
    units = case.arrays[0] is not None and case.arrays[0].shape[-1] % CHANNELS == 0
    return kinds.get(function, ()) if units else ()


def _of_convolution(case: Case, way: str) -> tuple[int, ...]:
    """Both operands and the result of a pass; beside an image its other side alone."""
    data = {"forward": (0, 3), "backward_data": (2, 0), "backward_weight": (0, 1)}[way]
    entered, left = (case.given(index).shape for index in data)
    transposed = case.function.startswith("transposed_")
    large, small = (left, entered) if transposed else (entered, left)
    if small[-1] % CHANNELS:
        return ()
    if large[-1] % CHANNELS == 0:
        return {"forward": (0, 1, 3), "backward_data": (0, 1, 2), "backward_weight": (0, 1)}[way]
    return (data[0 if transposed else 1],) if large[-1] <= IMAGE_CHANNELS else ()


def upload(device: Any, host: np.ndarray, half: bool) -> Any:
    """A device's copy; of rounded numbers their upper halves."""
    if half and device.name != "numpy":
        host = (np.ascontiguousarray(host).view(np.uint32) >> 16).astype(np.uint16)
    return device.from_numpy(host)


def numbers_of(array: Any) -> np.ndarray:
    """float32 numbers of an array that holds bf16."""
    host = np.asarray(array)
    if host.dtype != np.uint16:
        return host
    return (host.astype(np.uint32) << 16).view(np.float32)
