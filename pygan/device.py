"""Devices: where arrays live and which functions compute on them.

| name    | arrays                               | functions (``device.ops``)                   |
|---------|--------------------------------------|----------------------------------------------|
| `numpy` | ``numpy.ndarray``                    | the reference twins, :mod:`pygan.reference`  |
| `cpu`   | ``pygan.bindings.array.DeviceArray`` | the CUDA kernels, on the CPU driver          |
| `cuda`  | ``pygan.bindings.array.DeviceArray`` | the CUDA kernels, on an NVIDIA GPU           |

All three offer the same interface, so code above this module reads an array with
``numpy.asarray(x)`` and writes one with ``x[...] = value`` and never asks which device it is on.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .errors import PyganError
from .flags import flag

if TYPE_CHECKING:
    from pygan.bindings.graph import Graph

    from .device_operators import DeviceOperators

ALIGNMENT = 256  # bytes; what a CUDA allocation guarantees, so arena offsets keep to it everywhere
NAMES = ("numpy", "cpu", "cuda")
PAGE = 4096  # bytes; the smallest of any system
SHARED_BYTES = 32 << 20  # arrays beyond the caches, whose passes take threads as long as it pays


class DeviceError(PyganError, RuntimeError):
    """A device was asked for that does not exist or cannot be used on this machine."""


class Arena(Protocol):
    """One allocation, handed out as views that keep it alive."""

    nbytes: int

    def view(self, byte_offset: int, shape: Sequence[int], dtype: Any) -> Any:
        """An array of `shape` at `byte_offset` (a multiple of 256) inside the allocation."""


class Device(Protocol):
    """What every device offers; see the module's table."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def check(self) -> bool: ...
    @property
    def ops(self) -> DeviceOperators: ...

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Any: ...
    def zeros(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Any: ...
    def from_numpy(self, host: Any) -> Any: ...
    def arena(self, nbytes: int) -> Arena: ...
    def synchronize(self) -> None: ...
    def memory_info(self) -> tuple[int, int] | None: ...
    def cannot_record(self) -> str | None: ...
    def record(self, work: Callable[[], Any]) -> Any: ...
    def note(self, event: Callable[[], None]) -> None: ...
    def cannot_cooperate(self) -> str | None: ...
    def branch(self) -> Any: ...
    def passes(self, nbytes: int) -> AbstractContextManager[None]: ...
    def kept_bytes(self) -> int: ...


class NumpyArena:
    """One aligned block of host memory. Views hold a reference to it."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = int(nbytes)
        if self.nbytes < 0:
            raise ValueError(f"an arena cannot have {nbytes} bytes")
        block = np.empty(self.nbytes + ALIGNMENT, np.uint8)
        start = -block.ctypes.data % ALIGNMENT
        self._bytes = block[start : start + self.nbytes]
        # Systems promise more memory than they have; a page written to counts as taken, so that the
        # next arena is refused where there is no room, and the process not killed in a pass.
        self._bytes[::PAGE] = 0

    def view(self, byte_offset: int, shape: int | Sequence[int], dtype: Any) -> np.ndarray:
        """A C-contiguous array of `shape` and `dtype` at `byte_offset`; not initialised.

        Raises ValueError where the offset is no multiple of 256 or the array ends outside.
        """
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        nbytes = math.prod(shape) * dtype.itemsize
        if byte_offset % ALIGNMENT:
            raise ValueError(f"offset {byte_offset} is not a multiple of {ALIGNMENT} bytes")
        if byte_offset < 0 or byte_offset + nbytes > self.nbytes:
            raise ValueError(
                f"{nbytes} bytes at offset {byte_offset} do not fit into an arena of "
                f"{self.nbytes} bytes"
            )
        return self._bytes[byte_offset : byte_offset + nbytes].view(dtype).reshape(shape)


class NumpyDevice:
    """The host: arrays are ``numpy.ndarray``, the functions are :mod:`pygan.reference`."""

    name = "numpy"
    check = False

    @property
    def description(self) -> str:
        return f"numpy {np.__version__} on {_processor()}, {os.cpu_count()} cores"

    @cached_property
    def ops(self) -> DeviceOperators:
        """The functions; ArrayError for what is no numpy array, or None where one is needed."""
        from .device_operators import DeviceOperators

        return DeviceOperators(importlib.import_module("pygan.reference"), self.name, np.ndarray)

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """A C-contiguous array, not initialised."""
        return np.empty(shape, dtype)

    def zeros(self, shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        return np.zeros(shape, dtype)

    def from_numpy(self, host: Any) -> np.ndarray:
        """A C-contiguous copy of `host`, dtype kept."""
        return np.array(host, order="C", copy=True)

    def arena(self, nbytes: int) -> NumpyArena:
        return NumpyArena(nbytes)

    def synchronize(self) -> None:
        """Nothing to wait for: every function returns when it is done."""

    def memory_info(self) -> tuple[int, int] | None:
        """(available, total) bytes of host memory, or None where the system does not say."""
        try:
            with open("/proc/meminfo", encoding="ascii") as file:
                fields = dict(line.split(":", 1) for line in file)
            free, total = (
                int(fields[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal")
            )
        except (OSError, KeyError, ValueError):
            return None
        return free, total

    def cannot_record(self) -> str | None:
        """Why launches cannot be recorded here."""
        return "device numpy launches nothing that a CUDA graph could hold"

    def record(self, work: Callable[[], Any]) -> Any:
        """Raises DeviceError: there are no launches to record."""
        raise DeviceError(
            f"{self.cannot_record()}; call the passes themselves, or use device 'cpu'"
        )

    def note(self, event: Callable[[], None]) -> None:
        """What the host keeps in mind of a pass: runs `event`."""
        event()

    def cannot_cooperate(self) -> str | None:
        """Why calls cannot run as programs here."""
        return "device numpy launches nothing that a program could stand for"

    def branch(self) -> _NoBranch:
        """A branch that is none: everything runs in the order of its calls."""
        return _NoBranch()

    def passes(self, nbytes: int) -> AbstractContextManager[None]:
        """What the passes of a graph with arrays of `nbytes` run in: from SHARED_BYTES on, threads
        share the work of its calls."""
        from pygan.reference.parallel import sharing

        return sharing(nbytes >= SHARED_BYTES)

    def kept_bytes(self) -> int:
        """Working memory that the functions keep from call to call, for all executors together. It
        grows to what the largest call wants, on every thread that makes such calls."""
        from pygan.reference.scratch import kept_bytes

        return kept_bytes()

    def __repr__(self) -> str:
        return "<pygan device numpy>"

    def __reduce__(self) -> Any:
        return get, (self.name,)


class _NoBranch:
    overlaps = False

    def enter(self) -> None:
        pass

    leave = join = enter


class _Recorded:
    """A recording, and what the host is to know when it is replayed."""

    def __init__(self, graph: Graph, noted: Sequence[Callable[[], None]]) -> None:
        self._graph, self._noted = graph, noted
        self.nodes = graph.nodes

    def launch(self) -> None:
        for event in self._noted:
            event()
        self._graph.launch()


class KernelDevice:
    """The CUDA kernels: on a GPU (`cuda`) or on the CPU driver (`cpu`, optionally checked)."""

    def __init__(self, name: str, check: bool) -> None:
        from pygan.bindings.context import Context

        self.name = name
        self.check = check
        self.context = Context.get(name, check=check)
        self._noted: list[Callable[[], None]] | None = None  # in the recording under way

    @property
    def description(self) -> str:
        return self.context.description

    @cached_property
    def ops(self) -> DeviceOperators:
        """The functions; ArrayError for what is no array of the device, or None where one is
        needed."""
        from pygan.bindings.array import DeviceArray

        from .device_operators import DeviceOperators

        functions = importlib.import_module("pygan.bindings.operators")
        return DeviceOperators(functions, self.name, DeviceArray)

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Any:
        """A C-contiguous device array, not initialised."""
        from pygan.bindings.array import DeviceArray

        return DeviceArray.empty(self.context, shape, dtype)

    def zeros(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Any:
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def from_numpy(self, host: Any) -> Any:
        """A device copy of `host`, dtype kept."""
        from pygan.bindings.array import DeviceArray

        return DeviceArray.from_numpy(self.context, host)

    def arena(self, nbytes: int) -> Arena:
        from pygan.bindings.array import Arena as DeviceArena

        return DeviceArena(self.context, nbytes)

    def synchronize(self) -> None:
        """Wait until everything launched so far is done; errors of launches surface here."""
        self.context.synchronize()

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of device memory."""
        return self.context.memory_info()

    def cannot_record(self) -> str | None:
        """Why launches cannot be recorded here, or None where they can."""
        from pygan.bindings.graph import why_not

        return why_not()

    def record(self, work: Callable[[], Any]) -> Any:
        """The launches that `work` makes, not yet run; `launch()` of the result replays them, and
        what executors keep in mind of their passes with them. `nodes` says how many there are.

        Raises LaunchError where `work` waits for the device, or copies from or to the host.
        """
        from pygan.bindings.graph import Graph

        around, self._noted = self._noted, []
        try:
            return _Recorded(Graph(self.context, work), tuple(self._noted))
        finally:
            self._noted = around

    def note(self, event: Callable[[], None]) -> None:
        """What the host keeps in mind of a pass: runs `event` now, and with every replay of the
        recording under way. An error that it raises then keeps the replay from being launched."""
        event()
        if self._noted is not None:
            self._noted.append(event)

    def cannot_cooperate(self) -> str | None:
        """Why calls cannot run as programs (cooperative launches) here, or None where they can."""
        from pygan.bindings.cooperative import prepare, why_not

        prepare(self.context)  # here, at bind time, as no recording could
        return why_not(self.context)

    def jobs_of(
        self, function: str, call: Callable[[], Any], most_microseconds: float
    ) -> list[Any] | None:
        """What a call of the operator `function` launches, as jobs of a program; None where it has
        none, or one that a model gives more than `most_microseconds`. Nothing is launched."""
        from pygan.bindings import program
        from pygan.bindings.job import NotInProgram

        if function not in program.FUNCTIONS:
            return None
        try:
            return program.jobs_of(self.context, call, most_microseconds)
        except NotInProgram:
            return None

    def program(self, jobs: list[Any]) -> Any:
        """A callable that launches the jobs together; see pygan.bindings.program.Program."""
        from pygan.bindings.program import Program

        return Program(self.context, jobs)

    def branch(self) -> Any:
        """A Branch (`enter`, `leave`, `join`): work beside other work of a recording. `overlaps`
        says whether a recording here may hold such work."""
        from pygan.bindings.graph import Branch

        return Branch(self.context)

    def passes(self, nbytes: int) -> AbstractContextManager[None]:
        return nullcontext()

    def kept_bytes(self) -> int:
        """None: the functions take what executors plan for them."""
        return 0

    def __repr__(self) -> str:
        return f"<pygan device {self.name}{' (checked)' if self.check else ''}>"

    def __reduce__(self) -> Any:
        return get, (self.name, self.check)  # another process makes its own


_devices: dict[tuple[str, bool], Device] = {}


def get(name: str = "auto", check: bool = False) -> Device:
    """The device called `name`: "numpy", "cpu", "cuda", or "auto".

    "auto" is `cuda` where a GPU answers, else `numpy`; print ``device.description`` to see which.
    `check` (or PYGAN_CPU_CHECK=1 in the environment) makes `cpu` watch every memory access of
    every kernel. A device is made once per process; a second call returns the same object.

    Raises DeviceError for a name that is none of these, for `check` on another device than
    `cpu`, and where the device cannot be used here (the message says why and what to do).
    """
    if name == "auto":
        name = "cuda" if _gpu_answers() else "numpy"
    if name not in NAMES:
        choices = ", ".join(("auto", *NAMES))
        which = "; CUDA_VISIBLE_DEVICES chooses among several GPUs" if "cuda:" in str(name) else ""
        raise DeviceError(f"there is no device {name!r}; choose one of: {choices}{which}")
    check = flag(check, "check", DeviceError)
    if name == "cpu":
        check = check or os.environ.get("PYGAN_CPU_CHECK", "0") not in ("", "0")
    elif check:
        raise DeviceError(
            f"check mode watches memory accesses on the CPU driver; it needs device 'cpu', "
            f"not {name!r}"
        )
    key = (name, check)
    if key not in _devices:
        _devices[key] = NumpyDevice() if name == "numpy" else _kernel_device(name, check)
    return _devices[key]


def _kernel_device(name: str, check: bool) -> KernelDevice:
    from pygan.bindings.errors import DeviceUnavailable

    try:
        return KernelDevice(name, check)
    except DeviceUnavailable as error:
        raise DeviceError(str(error)) from error


def _gpu_answers() -> bool:
    """Whether a GPU can be used from this process. Leaves no driver loaded where it cannot."""
    from pygan.bindings.context import gpu_answers

    return gpu_answers()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
