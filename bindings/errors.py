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
    """Device memory ran out; the message says how much was needed and how much is free."""
