"""Launchers of the kernels on devices `cpu` and `cuda`: the operators of pygan.reference, by the
same names and with the same arguments, on device arrays.

A launcher checks shapes, chooses grid and variant, and launches on the stream of the context that
its arrays belong to. It allocates nothing and waits for nothing. Where an operator needs scratch
memory, :func:`workspace_size` says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import batch_norm, batch_norm_statistics, loss, partial_sums
from .activation import activation_backward, activation_forward
from .batch_norm import (
    batch_norm_backward,
    batch_norm_forward_inference,
    batch_norm_forward_training,
    batch_norm_update_moving,
)
from .batch_norm_statistics import (
    batch_norm_normalisation_inference,
    batch_norm_normalisation_training,
)
from .beside import leaves_room
from .convolution import (
    convolution_backward_data,
    convolution_backward_weight,
    convolution_forward,
    transposed_convolution_backward_data,
    transposed_convolution_backward_weight,
    transposed_convolution_forward,
)
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
from .fully_connected import (
    fully_connected_backward_data,
    fully_connected_backward_weight,
    fully_connected_forward,
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
from .moments import left_moments
from .normalisation import normalisation_gain
from .optimizer import adam_update, rmsprop_update, sgd_update
from .partial_sums import bias_backward
from .plans import choice
from .pooling import pooling_backward, pooling_forward
from .random import random_normal, random_uniform
from .slices import left_slices
from .storage import to_bf16

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

_WORKSPACE: dict[str, Any] = {
    **batch_norm.WORKSPACE,
    **batch_norm_statistics.WORKSPACE,
    **choice.WORKSPACE,
    **loss.WORKSPACE,
    **partial_sums.WORKSPACE,
}


def workspace_size(name: str, *shapes: Sequence[int] | None, **attributes: Any) -> int:
    """float32 elements of `workspace` that the operator `name` needs for these shapes; 0: none.

    `shapes` are those of the operator's arrays, in its order (None for an absent one), and
    `attributes` its attributes. Raises ValueError for an unknown name.
    """
    if name == "workspace_size" or name not in __all__:
        raise ValueError(f"workspace_size: {name!r} is not one of {__all__[:-1]}")
    size = _WORKSPACE.get(name)
    return size(*shapes, **attributes) if size else 0
