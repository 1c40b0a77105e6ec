"""A whole image set in device memory, and its batches gathered and scaled there.

A step then copies nothing from the host: the order of an epoch and the place in it (the cursor) are
device arrays too, so the same launches serve every batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pygan.data.image_set import ImageSet
from pygan.errors import DataError, StateError

if TYPE_CHECKING:
    from pygan.device import Device


class ResidentImages:
    """Images of one set on one device, visited in a new random order each epoch.

    The order of epoch e is the permutation drawn from the numpy generator seeded by (seed, e): it
    depends on nothing that happened before, and it is saved with a checkpoint all the same.
    pixel_range: what the bytes 0 and 255 become.
    Memory: one byte a pixel, plus five bytes an image. Raises DataError for a batch size below 1
    and a seed below 0.
    """

    def __init__(
        self,
        device: Device,
        images: ImageSet,
        batch_size: int,
        seed: int,
        pixel_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        for value, what, least in ((batch_size, "images of a batch", 1), (seed, "a seed", 0)):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or value < least:
                raise DataError(f"{what} must be a whole number from {least} on, not {value!r}")
        self.device = device
        self.batch_size = batch_size
        self.count = len(images)
        self.seed = seed
        low, high = pixel_range
        self._scale, self._shift = (high - low) / 255.0, low
        self.table = device.from_numpy(np.ascontiguousarray(images.images))
        self.labels = device.from_numpy(np.ascontiguousarray(images.labels))
        self.order = device.zeros((self.count,), np.int32)
        self.cursor = device.zeros((1,), np.int32)
        self._has_order = False

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in the set (a remainder waits for another epoch's order), at least one."""
        return max(1, self.count // self.batch_size)

    def start_epoch(self, epoch: int) -> None:
        """Draws the order of epoch ``epoch`` (counted from 0) and goes to its beginning."""
        generator = np.random.default_rng((self.seed, epoch))
        self._has_order = True
        self.order[...] = generator.permutation(self.count).astype(np.int32)
        self.cursor[...] = np.zeros(1, np.int32)

    def latest_batch(self, out: Any) -> None:
        """Fills ``out`` as the latest ``next_batch`` did."""
        start = (int(np.asarray(self.cursor)[0]) - self.batch_size) % self.count
        place = self.device.from_numpy(np.array([start], np.int32))
        scaled = {"scale": self._scale, "shift": self._shift}
        self.device.ops.gather_rows(self.table, self.order, place, out, **scaled)

    def next_batch(self, out: Any, one_hot: Any | None = None) -> None:
        """Fills ``out`` (batch, height, width, channels) float32 with the next images, in the
        pixel range, and ``one_hot`` (batch, classes) float32, where it is given, with their labels.

        Raises DataError for another number of images, StateError before the first epoch.
        """
        if not self._has_order:
            raise StateError("the images have no order yet; call start_epoch(0) first")
        if len(out) != self.batch_size:
            raise DataError(f"a batch has {self.batch_size} images, the array for it {len(out)}")
        ops = self.device.ops
        ops.gather_rows(
            self.table, self.order, self.cursor, out, scale=self._scale, shift=self._shift
        )
        if one_hot is not None:
            ops.gather_one_hot(self.labels, self.order, self.cursor, one_hot)
        ops.advance_cursor(self.cursor, step=self.batch_size, modulo=self.count)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Order and cursor, as host arrays."""
        return {"order": np.array(self.order), "cursor": np.array(self.cursor)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._has_order = True
        self.order[...] = state["order"]
        self.cursor[...] = state["cursor"]
