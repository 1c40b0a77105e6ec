"""What an executor computes with: its device, and the numbers of its arrays and operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pygan import device as devices
from pygan.device import Device
from pygan.errors import GraphError
from pygan.executor.scopes import PRECISION, STORAGE, chosen
from pygan.lowering.storage import STORAGES
from pygan.reference.precision import PRECISIONS

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Settings:
    """A device, and what `pygan.executor.Executor` says of dtype, precision and storage."""

    device: Any
    dtype: str
    precision: str
    storage: str

    @property
    def half_dtype(self) -> str | None:
        """What bf16 numbers lie in, where activations are stored so: device numpy, which rounds
        where the others store, has them in float32."""
        if self.storage != "bf16":
            return None
        return "float32" if self.device.name == "numpy" else "uint16"


def checked_settings(
    device: Device | str, dtype: Any, precision: str | None, storage: str | None
) -> Settings:
    """The settings of an executor, precision and storage from the scopes around where they are
    None. Raises GraphError for what is unknown, or does not go together."""
    found = _device(device)
    precision, storage = chosen(precision, PRECISION), chosen(storage, STORAGE)
    dtype = getattr(dtype, "__name__", str(dtype))  # numpy.float32 is "float32" too
    if dtype not in DTYPES or (dtype != "float32" and found.name != "numpy"):
        raise GraphError(
            f"dtype {dtype!r} is not available on device {found.name!r}: float32 is, and on "
            "numpy float64"
        )
    if precision not in PRECISIONS or (precision != "float32" and dtype != "float32"):
        raise GraphError(
            f"precision {precision!r} is not available with dtype {dtype!r}: it is one of "
            f"{', '.join(PRECISIONS)}, and with float64 only float32 (no rounding)"
        )
    if storage not in STORAGES or (storage == "bf16" and precision != "bf16"):
        raise GraphError(
            f"storage {storage!r} is not available with precision {precision!r}: it is one of "
            f"{', '.join(STORAGES)}, and bf16 with precision 'bf16' alone"
        )
    return Settings(found, dtype, precision, storage)


def _device(device: Device | str) -> Device:
    """The device itself, or the one of that name."""
    if isinstance(device, str):
        return devices.get(device)
    if not hasattr(device, "ops") or isinstance(device, type):
        raise GraphError(
            f"an executor needs a device, such as pygan.device.get('auto'), not {device!r}"
        )
    return device
