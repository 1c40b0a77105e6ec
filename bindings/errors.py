"""What can go wrong between Python and a kernel."""

from __future__ import annotations


class BindingsError(Exception):
    """Base of every error that pygan.bindings raises on its own account."""


class DeviceUnavailable(BindingsError, RuntimeError):
    """The device cannot be used in this process; the message says why and what to do."""


class CompileError(BindingsError, RuntimeError):
    """The compiler refused a kernel file; the message carries its text."""


class SignatureError(BindingsError, ValueError):
    """A kernel declaration in a .cu file cannot be read, or the entry point is not there."""


class ArgumentError(BindingsError, TypeError):
    """A launch got an argument that its C declaration does not take."""


class LaunchError(BindingsError, RuntimeError):
    """A launch that the device cannot do (too many threads, too much shared memory), or one that
    failed while running."""


class DeviceMemoryError(BindingsError, MemoryError):
    """Device memory ran out. `needed_bytes` were asked for when `free_bytes` were free."""

    def __init__(self, purpose: str, needed_bytes: int, free_bytes: int, total_bytes: int) -> None:
        super().__init__(purpose, needed_bytes, free_bytes, total_bytes)
        self.purpose = purpose
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.total_bytes = total_bytes

    def __str__(self) -> str:
        mebibytes = [f"{n / 2**20:,.1f} MiB" for n in (self.needed_bytes, self.free_bytes)]
        return (
            f"out of device memory: {self.purpose} needs {mebibytes[0]} ({self.needed_bytes} "
            f"bytes), {mebibytes[1]} of {self.total_bytes / 2**20:,.1f} MiB are free; use a "
            f"smaller batch or free other arrays"
        )
