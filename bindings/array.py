"""Arrays in device memory.

A DeviceArray is C-contiguous, of one of a few dtypes, and is either an allocation of its own or a
view into one; a view keeps the allocation alive. Copies to and from the host wait; copies between
device arrays and fills are queued on the context's stream.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DeviceMemoryError

if TYPE_CHECKING:
    from .context import Allocation, Context

ALIGNMENT = 256  # bytes; every CUDA allocation starts at a multiple of it
_DTYPES = {
    np.dtype(name): np.dtype(name)  # the canonical object, so that kernels may compare by identity
    for name in (
        *("float32", "float64", "int32", "uint8", "uint32", "uint64"),
        *("int8", "int16", "uint16", "int64", "bool"),
    )
}


class DeviceArray:
    """An array of `shape` and `dtype` in the memory of `context`; `ptr` is its address.

    Read it with ``numpy.asarray(array)``, write it with ``array[...] = value`` (a device array,
    anything numpy can broadcast, or a scalar). ``array[i]`` and ``array[i:j]`` are views along
    the first axis, :meth:`reshape` is a view of another shape.
    """

    __slots__ = ("__weakref__", "_owner", "context", "dtype", "nbytes", "ptr", "shape", "size")

    def __init__(
        self, context: Context, shape: tuple[int, ...], dtype: np.dtype, ptr: int, owner: Any
    ) -> None:
        self.context = context
        self.shape = shape
        self.dtype = dtype
        self.size = math.prod(shape)
        self.nbytes = self.size * dtype.itemsize
        self.ptr = ptr
        self._owner = owner  # what must live for as long as the memory is used

    # -- making ---------------------------------------------------------------------------

    @classmethod
    def empty(
        cls, context: Context, shape: int | Sequence[int], dtype: Any = np.float32
    ) -> DeviceArray:
        """An array that is not initialised. Raises DeviceMemoryError, or TypeError for a dtype
        that kernels do not have."""
        shape, dtype = _shape(shape), _dtype(dtype)
        memory = allocate(context, math.prod(shape) * dtype.itemsize, f"{shape} {dtype.name}")
        return cls(context, shape, dtype, memory.ptr if memory is not None else 0, memory)

    @classmethod
    def from_numpy(cls, context: Context, host: Any) -> DeviceArray:
        """A copy of `host` with its dtype and shape, in the machine's byte order."""
        host = np.asarray(host)
        if not host.dtype.isnative:  # as files hold it
            host = host.astype(host.dtype.newbyteorder("="))
        array = cls.empty(context, host.shape, host.dtype)
        array[...] = host
        return array

    # -- host ---------------------------------------------------------------------------

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        """A copy on the host (into `out`, if given: same shape and dtype, C-contiguous)."""
        if out is None:
            out = np.empty(self.shape, self.dtype)
        elif not isinstance(out, np.ndarray):
            raise TypeError(f"`out` must be a numpy array, not a {type(out).__name__}")
        elif out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"`out` must be a C-contiguous array of {self.dtype.name} with shape "
                f"{self.shape}; it is {out.dtype.name} with shape {out.shape}"
            )
        if self.nbytes:
            context = self.context
            context.run(context.cuda.memcpy_dtoh_async, out, self.ptr, context.stream)
        self.context.synchronize()
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a device array cannot be seen by numpy without a copy")
        host = self.get()
        return host if dtype is None else host.astype(dtype, copy=False)

    def item(self) -> Any:
        """The only element as a Python number."""
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    # -- writing --------------------------------------------------------------------------

    def fill(self, value: Any) -> None:
        """Set every element; queued on the stream, so it can be captured."""
        self._fill(np.asarray(value))

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self[key]
        if isinstance(value, DeviceArray):
            target._copy_from(value)
            return
        host = np.asarray(value)
        if host.ndim == 0:
            target._fill(host)
            return
        if host.shape != target.shape or host.dtype != target.dtype or not host.flags.c_contiguous:
            converted = np.empty(target.shape, target.dtype)
            converted[...] = host
            host = converted
        target._upload(host)

    def _upload(self, host: np.ndarray) -> None:
        if self.nbytes:
            context = self.context
            context.run(context.cuda.memcpy_htod_async, self.ptr, host, context.stream)
            self.context.synchronize()  # `host` may be changed or freed as soon as we return

    def _copy_from(self, source: DeviceArray) -> None:
        if source.shape != self.shape or source.dtype != self.dtype:
            raise ValueError(
                f"cannot copy a device array of {source.dtype.name} with shape {source.shape} "
                f"into one of {self.dtype.name} with shape {self.shape}"
            )
        distance = abs(self.ptr - source.ptr)
        if not self.nbytes or not distance:
            return
        if distance < self.nbytes:  # overlapping: the order of a device copy is not defined
            source = source.copy()
        context, copy = self.context, self.context.cuda.memcpy_dtod_async
        context.run(copy, self.ptr, source.ptr, self.nbytes, context.stream)

    def _fill(self, value: np.ndarray) -> None:
        element = np.empty(1, self.dtype)
        element[...] = value
        if not self.size:
            return
        context, cuda, stream = self.context, self.context.cuda, self.context.stream
        width = self.dtype.itemsize
        if width == 8:
            low, high = element.view(np.uint32)
            if low != high:
                self._upload(np.full(self.shape, element[0]))
            else:
                context.run(cuda.memset_d32_async, self.ptr, int(low), 2 * self.size, stream)
        else:
            memset = {
                1: cuda.memset_d8_async,
                2: cuda.memset_d16_async,
                4: cuda.memset_d32_async,
            }[width]
            context.run(memset, self.ptr, int(element.view(f"u{width}")[0]), self.size, stream)

    # -- views ---------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> DeviceArray:
        """A view: `...` is the whole array, an integer or a slice of step 1 picks along axis 0."""
        if key is Ellipsis or (isinstance(key, tuple) and not key):
            return self
        if isinstance(key, tuple) and len(key) == 1:
            key = key[0]
        if isinstance(key, slice) and key.step in (None, 1) and self.shape:
            start, stop, _ = key.indices(self.shape[0])
            shape = (max(0, stop - start), *self.shape[1:])
        elif isinstance(key, (int, np.integer)) and self.shape:
            start = int(key) + (self.shape[0] if key < 0 else 0)
            if not 0 <= start < self.shape[0]:
                raise IndexError(f"index {key} is outside of axis 0 with size {self.shape[0]}")
            shape = self.shape[1:]
        else:
            raise IndexError(
                f"{key!r} does not select a contiguous part of a device array of shape "
                f"{self.shape}; use an integer or a slice along axis 0, or numpy.asarray() first"
            )
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceArray(self.context, shape, self.dtype, self.ptr + start * row, self._owner)

    def reshape(self, *shape: Any) -> DeviceArray:
        """A view of another shape with as many elements; one size may be -1."""
        wanted = _shape(shape[0] if len(shape) == 1 else shape, allow_unknown=True)
        if wanted.count(-1) == 1:
            known = -math.prod(wanted)
            if known and self.size % known == 0:
                wanted = tuple(self.size // known if n == -1 else n for n in wanted)
        if -1 in wanted or math.prod(wanted) != self.size:
            raise ValueError(f"cannot reshape an array of shape {self.shape} into {wanted}")
        return DeviceArray(self.context, wanted, self.dtype, self.ptr, self._owner)

    def copy(self) -> DeviceArray:
        """A copy in memory of its own."""
        result = DeviceArray.empty(self.context, self.shape, self.dtype)
        result._copy_from(self)
        return result

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """In bytes, always those of a C-contiguous array."""
        sizes = self.shape[1:]
        return tuple(
            self.dtype.itemsize * math.prod(sizes[axis:]) for axis in range(len(self.shape))
        )

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.get())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __reduce__(self) -> Any:
        return _restore, (self.context.name, self.context.check, self.get())

    def __repr__(self) -> str:
        return f"<device array {self.shape} {self.dtype.name} on {self.context.name}>"

    # -- interchange --------------------------------------------------------------------------

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the CUDA array interface; a consumer orders itself after our stream.

        On the CPU driver the address is host memory that only PyCUDA takes as a device's; for
        other libraries there are DLPack and ``numpy.asarray``.
        """
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.ptr, False),
            "strides": None,
            "stream": self.context.stream.handle,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, 0) on a GPU; (1, 0), host memory, on the CPU driver."""
        from .dlpack import KIND_CPU, KIND_CUDA

        return (KIND_CUDA if self.context.name == "cuda" else KIND_CPU, 0)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule that shares the memory and keeps it alive.

        Arrays of bf16 numbers are exported as what they are made of, uint16. All work queued so
        far is waited for, whatever `stream` is, so any consumer may read at once. Raises
        BufferError for another device or a copy: neither is made here.
        """
        from .dlpack import capsule

        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(
                f"a device array is exported where it is, {self.__dlpack_device__()}, and not "
                f"to {tuple(dl_device)}"
            )
        if copy:
            raise BufferError("a device array is exported without a copy; use .copy() first")
        if stream != -1:
            self.context.synchronize()
        return capsule(self, *self.__dlpack_device__())


class Arena:
    """One allocation of `nbytes`, handed out as views that keep it alive."""

    def __init__(self, context: Context, nbytes: int) -> None:
        self.context = context
        self.nbytes = int(nbytes)
        if self.nbytes < 0:
            raise ValueError(f"an arena cannot have {nbytes} bytes")
        self._memory = allocate(context, self.nbytes, "an arena")
        self._start = self._memory.ptr if self._memory is not None else 0

    def view(self, byte_offset: int, shape: int | Sequence[int], dtype: Any) -> DeviceArray:
        """An array of `shape` and `dtype` at `byte_offset`; not initialised.

        Raises ValueError where the offset is no multiple of 256 or the array ends outside.
        """
        shape, dtype = _shape(shape), _dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        if byte_offset % ALIGNMENT:
            raise ValueError(f"offset {byte_offset} is not a multiple of {ALIGNMENT} bytes")
        if byte_offset < 0 or byte_offset + nbytes > self.nbytes:
            raise ValueError(
                f"{nbytes} bytes at offset {byte_offset} do not fit into an arena of "
                f"{self.nbytes} bytes"
            )
        return DeviceArray(self.context, shape, dtype, self._start + byte_offset, self._memory)


def allocate(context: Context, nbytes: int, purpose: str) -> Allocation | None:
    """Device memory that lives as long as the result is referred to; None for 0 bytes.

    Raises DeviceMemoryError saying how much was needed and how much is free.
    """
    if nbytes == 0:
        return None
    try:
        return context.allocate(nbytes)
    except (context.cuda.MemoryError, OverflowError):
        gc.collect()  # arrays in reference cycles still hold memory
    try:
        return context.allocate(nbytes)
    except (context.cuda.MemoryError, OverflowError) as error:
        free, total = context.memory_info()
        raise DeviceMemoryError(purpose, nbytes, free, total) from error


def _restore(name: str, check: bool, host: np.ndarray) -> DeviceArray:
    """A pickled array, on the same kind of device in this process."""
    from .context import Context

    return DeviceArray.from_numpy(Context.get(name, check), host)


def _shape(shape: Any, allow_unknown: bool = False) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else shape
    sizes = tuple(int(size) for size in sizes)
    if any(size < (-1 if allow_unknown else 0) for size in sizes):
        raise ValueError(f"{sizes} is not a shape")
    return sizes


def _dtype(dtype: Any) -> np.dtype:
    dtype = np.dtype(dtype)
    try:
        return _DTYPES[dtype]
    except KeyError:
        known = ", ".join(each.name for each in _DTYPES)
        raise TypeError(f"device arrays have no dtype {dtype}; choose one of: {known}") from None
