"""Image sets: read from files, downloaded with a checksum, or taken from scikit-learn; and their
batches, gathered on the device.

``load_digits`` finds handwritten digits and says where it found them; ``ResidentImages`` keeps a
set in device memory and fills batches from it there.
"""

from pygan.data.batches import ResidentImages
from pygan.data.image_set import ImageSet
from pygan.data.mnist import load_digits
from pygan.data.split import load_train_and_test, some_of

__all__ = ["ImageSet", "ResidentImages", "load_digits", "load_train_and_test", "some_of"]
