"""The numpy twin of every kernel: same names, same arguments.

Every function takes its arrays in order, its attributes by keyword, and writes its outputs in
place (`accumulate` adds instead). Arrays are C-contiguous, images channels last (NHWC); floating
arrays of one call share one dtype, float32 or float64, in which the arithmetic is done.
"""

from __future__ import annotations

from typing import Any

from .activation import activation_backward, activation_forward
from .batch_norm import (
    batch_norm_backward,
    batch_norm_forward_inference,
    batch_norm_forward_training,
    batch_norm_update_moving,
)
from .convolution import bias_backward
from .data import advance_cursor, gather_one_hot, gather_rows, store_row
from .dropout import dropout_backward, dropout_forward
from .elementwise import (
    add_forward,
    axpy,
    broadcast_multiply_backward,
    broadcast_multiply_forward,
    concatenate_backward,
    concatenate_forward,
    exp_forward,
    fill,
    multiply_backward,
    multiply_forward,
    reparametrization_backward_lnsd,
    reparametrization_backward_noise,
    reparametrization_forward,
)
from .loss import (
    kullback_leibler_backward,
    kullback_leibler_forward,
    mean_squared_error_backward,
    mean_squared_error_forward,
    sigmoid_cross_entropy_backward,
    sigmoid_cross_entropy_forward,
    softmax_backward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    softmax_forward,
)
from .normalisation import (
    batch_norm_normalisation_inference,
    batch_norm_normalisation_training,
    normalisation_gain,
)
from .optimizer import adam_update, rmsprop_update, sgd_update
from .pooling import pooling_backward, pooling_forward
from .precision import (
    convolution_backward_data,
    convolution_backward_weight,
    convolution_forward,
    fully_connected_backward_data,
    fully_connected_backward_weight,
    fully_connected_forward,
    to_bf16,
    transposed_convolution_backward_data,
    transposed_convolution_backward_weight,
    transposed_convolution_forward,
)
from .random import random_normal, random_uniform

__all__ = [
    "activation_backward",
    "activation_forward",
    "adam_update",
    "add_forward",
    "advance_cursor",
    "axpy",
    "batch_norm_backward",
    "batch_norm_forward_inference",
    "batch_norm_forward_training",
    "batch_norm_normalisation_inference",
    "batch_norm_normalisation_training",
    "batch_norm_update_moving",
    "bias_backward",
    "broadcast_multiply_backward",
    "broadcast_multiply_forward",
    "concatenate_backward",
    "concatenate_forward",
    "convolution_backward_data",
    "convolution_backward_weight",
    "convolution_forward",
    "dropout_backward",
    "dropout_forward",
    "exp_forward",
    "fill",
    "fully_connected_backward_data",
    "fully_connected_backward_weight",
    "fully_connected_forward",
    "gather_one_hot",
    "gather_rows",
    "kullback_leibler_backward",
    "kullback_leibler_forward",
    "leaves_room",
    "left_moments",
    "left_slices",
    "mean_squared_error_backward",
    "mean_squared_error_forward",
    "multiply_backward",
    "multiply_forward",
    "normalisation_gain",
    "pooling_backward",
    "pooling_forward",
    "random_normal",
    "random_uniform",
    "reparametrization_backward_lnsd",
    "reparametrization_backward_noise",
    "reparametrization_forward",
    "rmsprop_update",
    "sgd_update",
    "sigmoid_cross_entropy_backward",
    "sigmoid_cross_entropy_forward",
    "softmax_backward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "store_row",
    "to_bf16",
    "transposed_convolution_backward_data",
    "transposed_convolution_backward_weight",
    "transposed_convolution_forward",
    "workspace_size",
]

LEAVE_SLICES = (
    "convolution_backward_data",
    "convolution_forward",
    "fully_connected_backward_data",
    "fully_connected_forward",
    "transposed_convolution_backward_data",
    "transposed_convolution_forward",
)


BESIDE = ("convolution_backward_weight", "transposed_convolution_backward_weight")

LEAVE_MOMENTS = ("convolution_forward", "transposed_convolution_forward")


def workspace_size(name: str, *shapes: tuple[int, ...] | None, **attributes: Any) -> int:
    """float32 elements of `workspace` that the function `name` wants for these shapes: 0.

    The twins take their scratch memory from numpy. Raises ValueError for an unknown name.
    """
    if name == "workspace_size" or name not in __all__:
        raise ValueError(f"workspace_size: {name!r} is not one of {__all__[:-1]}")
    return 0


def left_slices(name: str, *shapes: tuple[int, ...] | None, **attributes: Any) -> int:
    """How many slices the function `name`, of a convolution or a fully connected layer, should
    leave, with in_slices, to the batch norm that reads its result: 1, as the twins gain nothing by
    it.

    Raises ValueError for a name that is no forward or data gradient of these.
    """
    check_leaves_slices(name)
    return 1


def left_moments(
    name: str, *shapes: tuple[int, ...] | None, merged: bool = False, **attributes: Any
) -> int:
    """How many numbers the function `name`, the forward of a convolution, should leave of the
    moments of its result's channels, with moments, to the batch norm that reads it (merged: to
    batch_norm_normalisation_training): 0, as the twins gain nothing by it.

    Raises ValueError for a name that is none of these.
    """
    check_leaves_moments(name)
    return 0


def leaves_room(
    name: str, *shapes: tuple[int, ...] | None, lean: bool = False, **attributes: Any
) -> bool:
    """Whether the function `name`, a convolution's gradient of its weights, leaves room to what may
    run beside it: as nothing does on this device, it never is said not to.

    Raises ValueError for a name that is no such gradient.
    """
    check_runs_beside(name)
    return True


def check_runs_beside(name: str) -> None:
    """Raises ValueError unless the function `name` is a convolution's gradient of its weights."""
    if name not in BESIDE:
        raise ValueError(f"leaves_room: {name!r} is not one of {BESIDE}")


def check_leaves_moments(name: str) -> None:
    """Raises ValueError unless the function `name` has moments."""
    if name not in LEAVE_MOMENTS:
        raise ValueError(f"left_moments: {name!r} is not one of {LEAVE_MOMENTS}")


def check_leaves_slices(name: str) -> None:
    """Raises ValueError unless the function `name` has in_slices."""
    if name not in LEAVE_SLICES:
        raise ValueError(f"left_slices: {name!r} is not one of {LEAVE_SLICES}")
