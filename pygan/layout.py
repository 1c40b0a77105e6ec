"""Between this library's channels-last layouts and those of MXNet and PyTorch files.

| array                         | MXNet, PyTorch             | here                         |
|-------------------------------|----------------------------|------------------------------|
| images                        | (N, C, H, W)               | (N, H, W, C)                 |
| convolution weight            | (out, in / groups, kh, kw) | (out, kh, kw, in / groups)   |
| transposed convolution weight | (in, out / groups, kh, kw) | (in, kh, kw, out / groups)   |
| fully connected after flatten | (hidden, C * H * W)        | (hidden, H * W * C)          |

All functions take and give host arrays, C-contiguous copies.
"""

from __future__ import annotations

import numpy as np

from pygan.errors import ShapeError


def to_nhwc(array: np.ndarray) -> np.ndarray:
    """(N, C, H, W) to (N, H, W, C); weights (a, b, kh, kw) to (a, kh, kw, b) alike."""
    return _permuted(array, (0, 2, 3, 1))


def to_nchw(array: np.ndarray) -> np.ndarray:
    """(N, H, W, C) to (N, C, H, W); weights (a, kh, kw, b) to (a, b, kh, kw) alike."""
    return _permuted(array, (0, 3, 1, 2))


def fully_connected_to_nhwc(weight: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """A weight (hidden, C * H * W) of flattened NCHW images, for flattened NHWC images.

    image: (H, W, C) of the flattened image, as here.
    """
    height, width, channels = image
    rows = _rows(weight, image).reshape(-1, channels, height, width)
    return to_nhwc(rows).reshape(weight.shape)


def fully_connected_to_nchw(weight: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """The inverse of `fully_connected_to_nhwc`; image is (H, W, C)."""
    return to_nchw(_rows(weight, image).reshape(-1, *image)).reshape(weight.shape)


def from_mxnet(array: np.ndarray) -> np.ndarray:
    """An MXNet or PyTorch array in this library's layout: 4 axes are moved, others kept."""
    return to_nhwc(array) if np.ndim(array) == 4 else np.array(array, order="C")


def to_mxnet(array: np.ndarray) -> np.ndarray:
    """The inverse of `from_mxnet`."""
    return to_nchw(array) if np.ndim(array) == 4 else np.array(array, order="C")


def _permuted(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 4:
        raise ShapeError(f"an array with 4 axes is needed, not one of shape {array.shape}")
    return np.array(array.transpose(axes), order="C")


def _rows(weight: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    weight = np.asarray(weight)
    size = int(np.prod(image))
    if weight.ndim != 2 or weight.shape[1] != size:
        raise ShapeError(
            f"a weight (hidden, {size}) is needed for images of (H, W, C) = {tuple(image)}, "
            f"not one of shape {weight.shape}"
        )
    return weight
