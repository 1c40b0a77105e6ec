"""DLPack export through ctypes: https://dmlc.github.io/dlpack/latest/c_api.html (DLManagedTensor,
the unversioned form, which every consumer takes)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .array import DeviceArray

KIND_CPU, KIND_CUDA = 1, 2
_TYPE_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_NAME = b"dltensor"  # the capsule's name until a consumer takes it over


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [
        ("tensor", _Tensor),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


_exported: dict[int, tuple[Any, ...]] = {}  # address of the struct -> what it needs alive

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is_valid.restype = ctypes.c_int
_capsule_is_valid.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _delete(address: int, exported: dict[int, tuple[Any, ...]] = _exported) -> None:
    """The consumer is done with the tensor."""
    exported.pop(address, None)


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _capsule_dropped(
    capsule: int,
    name: bytes = _NAME,
    is_valid: Any = _capsule_is_valid,
    pointer: Any = _capsule_pointer,
    exported: dict[int, tuple[Any, ...]] = _exported,
) -> None:
    """A capsule that nobody consumed is dropped: its tensor goes with it.

    The names it needs are bound as defaults: it may run while the interpreter takes modules down.
    """
    if is_valid(capsule, name):
        exported.pop(pointer(capsule, name), None)


def capsule(array: DeviceArray, kind: int, ordinal: int) -> Any:
    """A capsule for `array`, whose memory lives until the consumer lets go of it."""
    dimensions = ctypes.c_int64 * max(1, array.ndim)
    shape = dimensions(*array.shape)
    strides = dimensions(*(stride // array.dtype.itemsize for stride in array.strides))
    managed = _Managed()
    managed.tensor.data = array.ptr
    managed.tensor.device = _Device(kind, ordinal)
    managed.tensor.ndim = array.ndim
    managed.tensor.dtype = _Type(_TYPE_CODES[array.dtype.kind], 8 * array.dtype.itemsize, 1)
    managed.tensor.shape = shape
    managed.tensor.strides = strides
    managed.deleter = ctypes.cast(_delete, ctypes.c_void_p)
    address = ctypes.addressof(managed)
    _exported[address] = (managed, shape, strides, array)
    return _new_capsule(address, _NAME, ctypes.cast(_capsule_dropped, ctypes.c_void_p))
