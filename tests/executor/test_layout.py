"""Layouts of other libraries' arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygan import layout, networks
from pygan.errors import ShapeError

SIZES = st.tuples(*[st.integers(1, 5)] * 4)


@given(SIZES)
def test_images_and_weights_move_their_channels(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    moved = layout.to_nhwc(array)
    assert moved.flags.c_contiguous and moved.shape == (shape[0], *shape[2:], shape[1])
    assert moved[0, -1, 0, -1] == array[0, -1, -1, 0]
    assert np.array_equal(layout.to_nchw(moved), array)
    assert np.array_equal(layout.to_mxnet(layout.from_mxnet(array)), array)


@given(SIZES, st.integers(1, 4))
def test_a_layer_after_flatten_computes_the_same(shape: tuple[int, ...], hidden: int) -> None:
    n, channels, height, width = shape
    rng = np.random.default_rng(0)
    images = rng.integers(-9, 9, shape)
    weight = rng.integers(-9, 9, (hidden, channels * height * width))
    mine = layout.fully_connected_to_nhwc(weight, (height, width, channels))
    expected = images.reshape(n, -1) @ weight.T
    assert np.array_equal(layout.to_nhwc(images).reshape(n, -1) @ mine.T, expected)
    assert np.array_equal(layout.fully_connected_to_nchw(mine, (height, width, channels)), weight)


def test_vectors_are_kept_and_wrong_ranks_refused() -> None:
    vector = np.arange(3.0)
    assert np.array_equal(layout.from_mxnet(vector), vector)
    assert layout.from_mxnet(vector) is not vector
    with pytest.raises(ShapeError, match=r"\(3,\)"):
        layout.to_nhwc(vector)
    with pytest.raises(ShapeError, match=r"\(hidden, 8\).*\(2, 9\)"):
        layout.fully_connected_to_nhwc(np.zeros((2, 9)), (2, 2, 2))


def test_mxnets_weight_shapes_become_those_of_the_lesson() -> None:
    arguments = networks.lesson_generator().infer_shape(noise=(1, 1, 1, 10)).arguments
    assert layout.from_mxnet(np.zeros((10, 256, 4, 4))).shape == arguments["gen_deconv1_weight"]
