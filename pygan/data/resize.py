"""Image sets in another size and number of channels, made once on the host."""

from __future__ import annotations

import numpy as np

from pygan.data.image_set import ImageSet
from pygan.errors import DataError


def resized(images: ImageSet, side: int, channels: int) -> ImageSet:
    """The same images as (M, side, side, channels) uint8, bilinear; grey ones repeat their channel.

    Raises DataError where colour would have to become grey.
    """
    count, height, width, given = images.images.shape
    if given not in (1, channels):
        raise DataError(f"{images.source}: images of {given} channels do not fit {channels}")
    from PIL import Image

    result = np.empty((count, side, side, channels), np.uint8)
    if (height, width) == (side, side):
        result[...] = images.images
    else:
        for target, image in zip(result, images.images, strict=True):
            picture = Image.fromarray(image[..., 0] if given == 1 else image)
            pixels = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
            target[...] = pixels.reshape(side, side, given)
    return ImageSet(
        result,
        images.labels,
        f"{images.source}, resized from {height}x{width}",
        images.reason,
    )


def grey(images: np.ndarray, side: int) -> np.ndarray:
    """Images (N, height, width, channels) float32 as (N, side, side, 1): the mean of the channels,
    bilinear (over all pixels that a smaller one covers)."""
    return scaled(images.mean(axis=3, dtype=np.float32, keepdims=True), side)


def scaled(images: np.ndarray, side: int) -> np.ndarray:
    """Images (N, height, width, channels) float32 as (N, side, side, channels), bilinear (over all
    pixels that a smaller one covers)."""
    from PIL import Image

    result = np.empty((len(images), side, side, images.shape[3]), np.float32)
    for target, image in zip(result, images, strict=True):
        for channel in range(images.shape[3]):
            picture = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            resized_picture = picture.resize((side, side), Image.Resampling.BILINEAR)
            target[..., channel] = np.asarray(resized_picture)
    return result
