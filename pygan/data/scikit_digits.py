"""The 1,797 handwritten digits that ship inside scikit-learn, resized to MNIST's form."""

from __future__ import annotations

import numpy as np

from pygan.errors import DataError

SIDE = 28
# MNIST centres each digit, 20 pixels high, in a frame of 28.
DIGIT_SIDE = 20
# scikit-learn's pixels are counts 0..16 (of 4x4 scanner pixels each).
FULL_COUNT = 16


def read_scikit_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 28, 28, 1) uint8 and labels (1797,) uint8; needs no network.

    The 8x8 originals are enlarged to 20x20 (bicubic) and framed by 4 black pixels, as MNIST does.
    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998).
    Raises DataError where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the digits inside scikit-learn need scikit-learn, which is not installed "
            "(pip install 'pygan[data]')"
        ) from None
    from PIL import Image

    digits = load_digits()
    originals = np.rint(digits.images * (255 / FULL_COUNT)).astype(np.uint8)
    images = np.zeros((len(originals), SIDE, SIDE, 1), np.uint8)
    margin = (SIDE - DIGIT_SIDE) // 2
    inner = slice(margin, margin + DIGIT_SIDE)
    for target, original in zip(images, originals, strict=True):
        enlarged = Image.fromarray(original).resize(
            (DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC
        )
        target[inner, inner, 0] = np.asarray(enlarged)
    return images, digits.target.astype(np.uint8)
