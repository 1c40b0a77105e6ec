"""A set of labelled 8-bit images in host memory, with the sentence that says where it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pygan.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Images and labels, and their origin.

    images: (M, height, width, channels) uint8. labels: (M,) uint8. source: what was read and from
    where. reason: why this source was taken and not another; empty where the user named it.

    Raises DataError for an empty set and for images and labels that differ in number.
    """

    images: np.ndarray
    labels: np.ndarray
    source: str
    reason: str = ""

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise DataError(f"{self.source}: the set holds no images")
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{self.source}: {len(self.images)} images but {len(self.labels)} labels; "
                "the two files belong to different sets"
            )

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shapes, images and labels (hex): a resumed run must see the same data."""
        digest = hashlib.sha256(repr((self.images.shape, self.labels.shape)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def describe(self) -> str:
        """One line for the user: how many images, of what size, from where, and why from there."""
        height, width, channels = self.images.shape[1:]
        size = f"{height}x{width}" + (f"x{channels}" if channels > 1 else "")
        text = f"{len(self):,} images of {size} pixels from {self.source}"
        return f"{text} ({self.reason})" if self.reason else text
