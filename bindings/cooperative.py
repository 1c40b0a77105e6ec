"""Cooperative launches: kernels whose blocks all run at once and wait for each other.

PyCUDA has no call for them and does not tell a function's handle, so the image is loaded a second
time and launched through the driver's C interface. Which driver that is was decided before, when
PyCUDA loaded it. In a recording (graph.py) such a launch is a node like any other.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cpu_driver
from .errors import DeviceUnavailable, LaunchError
from .kernel import Dimensions, Kernel

if TYPE_CHECKING:
    from .array import DeviceArray
    from .context import Context

_COOPERATIVE_LAUNCH = 95  # CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH
_MULTIPROCESSOR_COUNT = 16
_LEAST_BLOCKS = 8  # that the CPU driver holds, however few its multiprocessors
_DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


def why_not(context: Context) -> str | None:
    """Why the context's device cannot launch cooperatively, or None."""
    if _attribute(context, _COOPERATIVE_LAUNCH):
        return None
    return (
        f"{context.device.name()} cannot launch cooperatively "
        f"(CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH is 0)"
    )


def arrivals(context: Context, blocks: int) -> DeviceArray | None:
    """The count of kernels/grid_barrier.cuh for grids of so many blocks, of kernels that run one
    after the other on the context's stream; None for more blocks than the device holds with two on
    a multiprocessor, and where it cannot launch cooperatively.

    Made for all sizes at the first call, which no recording allows: `prepare` is that call."""
    counts = prepare(context)
    return None if counts is None or blocks >= counts.size else counts[blocks : blocks + 1]


def prepare(context: Context) -> DeviceArray | None:
    """Makes what :func:`arrivals` gives, while nothing is recorded."""
    if context.arrivals is None and why_not(context) is None:
        from .array import DeviceArray

        most = max(_LEAST_BLOCKS, 2 * _attribute(context, _MULTIPROCESSOR_COUNT))
        context.arrivals = DeviceArray.from_numpy(context, np.zeros(most + 1, np.uint64))
    return context.arrivals


class CooperativeKernel(Kernel):
    """One entry point that is launched cooperatively; see Context.cooperative_kernel.

    Called as a Kernel is. Raises DeviceUnavailable where the device has no such launches, and
    LaunchError for a grid of more blocks than the device holds at once (:meth:`most_blocks`).
    """

    def __init__(self, context: Context, path: Path, entry: str, defines: dict[str, Any]) -> None:
        reason = why_not(context)
        if reason is not None:
            raise DeviceUnavailable(f"{entry}: {reason}")
        super().__init__(context, path, entry, defines)
        image = context.image(path, defines)
        self._module, self._handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._driver("cuModuleLoadData", ctypes.byref(self._module), ctypes.c_char_p(image))
        name = ctypes.c_char_p(entry.encode())
        self._driver("cuModuleGetFunction", ctypes.byref(self._handle), self._module, name)

    def most_blocks(self, threads: int, shared_bytes: int = 0) -> int:
        """Blocks of `threads` that the device holds at once, other work of it aside."""
        self._consent(shared_bytes)
        each = ctypes.c_int()
        self._driver(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            *(ctypes.byref(each), self._handle, ctypes.c_int(threads)),
            ctypes.c_size_t(shared_bytes),
        )
        return each.value * self.multiprocessors

    def __call__(
        self,
        grid: Dimensions,
        block: Dimensions,
        *arguments: Any,
        shared_bytes: int = 0,
        behind: tuple[DeviceArray, ...] = (),
    ) -> None:
        """Launch. `behind`: arrays that the kernel finds through addresses in its arguments, for
        check mode, which lets it touch nothing else."""
        packed = self._packed(arguments)
        if self.context.check:
            cpu_driver.set_extents(
                [(0, 0) if a is None else (a.ptr, a.nbytes) for a in self._arrays(arguments)]
                + [(a.ptr, a.nbytes) for a in behind]
            )
        grid, block = self._checked(grid, block, shared_bytes)
        self._consent(shared_bytes)
        buffer = ctypes.create_string_buffer(packed, len(packed))
        start = ctypes.addressof(buffer)
        places = (ctypes.c_void_p * self._count)(*(start + at for at in self.signature.offsets))
        stream = ctypes.c_void_p(self.context.stream.handle)
        sizes = map(ctypes.c_uint, (*grid, *block, shared_bytes))
        self._driver("cuLaunchCooperativeKernel", self._handle, *sizes, stream, places)

    def bind(self, *_: Any, **__: Any) -> Any:
        raise LaunchError(f"{self.name}: a cooperative launch is called, not bound")

    def _arrays(self, arguments: tuple[Any, ...]) -> list[Any]:
        return [arguments[index] for index, _ in self._pointers]

    def _consent(self, shared_bytes: int) -> None:
        self._check_shared(shared_bytes)
        if self._consented:
            value = ctypes.c_int(self._consented)
            self._driver("cuFuncSetAttribute", self._handle, _DYNAMIC_SHARED_BYTES, value)

    @cached_property
    def multiprocessors(self) -> int:
        return _attribute(self.context, _MULTIPROCESSOR_COUNT)

    def _driver(self, name: str, *arguments: Any) -> None:
        try:
            _call(self.context, name, *arguments)
        except LaunchError as error:
            raise LaunchError(f"{self.name}: {error}") from None


def _attribute(context: Context, attribute: int) -> int:
    device, value = ctypes.c_int(), ctypes.c_int()
    _call(context, "cuCtxGetDevice", ctypes.byref(device))
    _call(context, "cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), device)
    return value.value


def _call(context: Context, name: str, *arguments: Any) -> None:
    """One call of the driver's C interface; LaunchError with the driver's own text."""
    library = _library()
    with contextlib.nullcontext() if context.is_at_home else context.entered():
        code = getattr(library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            library.cuGetErrorString(code, ctypes.byref(text))
            said = (text.value or b"unknown error").decode(errors="replace")
            raise LaunchError(f"{name} failed: {said}")


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """The driver that PyCUDA has loaded: the loader knows it by this name already."""
    return ctypes.CDLL("libcuda.so.1")
