"""The CUDA context: one per process, on a GPU (`cuda`) or on the CPU driver (`cpu`).

The device's primary context is retained, as PyTorch and the CUDA runtime do, so that memory and
streams can be shared with them. All work goes to one non-blocking stream.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cache, compiler, probe
from .errors import DeviceUnavailable, LaunchError

if TYPE_CHECKING:
    from .cooperative import CooperativeKernel
    from .kernel import Kernel

_lock = threading.RLock()
_contexts: dict[tuple[str, bool], Context] = {}
_driver: Driver | None = None


class Driver:
    """The process's connection to one CUDA driver: PyCUDA, a device, its context, a stream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cuda = _import_pycuda(name)
        try:
            self.cuda.init()
            if self.cuda.Device.count() == 0:
                raise DeviceUnavailable(f"device {name!r}: the driver reports no GPU")
            self.device = self.cuda.Device(0)
            self.device_name = self.device.name()
            self.primary = self.device.retain_primary_context()
            with self.entered():
                self.stream = self.cuda.Stream(1)  # CU_STREAM_NON_BLOCKING
        except self.cuda.Error as error:
            raise DeviceUnavailable(
                f"device {name!r} is not usable: {error}; `pygan doctor` shows what was found"
            ) from error
        # PyCUDA aborts the process if a thread ends with a context pushed, so only the main
        # thread, which ends last, keeps it; the others enter it for each call.
        self.thread = None
        if threading.current_thread() is threading.main_thread():
            self.thread = threading.get_ident()
            self.primary.push()
        self.orphans: list[Any] = []
        self.left = False
        atexit.register(self._leave)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Makes the context current in the calling thread for a while."""
        self.primary.push()
        try:
            yield
        finally:
            self.cuda.Context.pop()

    def _leave(self) -> None:
        """PyCUDA aborts the process if a context is still pushed when the interpreter ends, and
        gives a primary context back the wrong way if that is left to its destructor.

        Memory and modules that outlive this notice that their context is gone, and do nothing.
        """
        with contextlib.suppress(self.cuda.Error):  # a failed launch was reported at its time
            if self.thread is None:
                self.primary.push()
            self.stream.synchronize()
        self.orphans.clear()
        self.left = True
        try:
            self.primary.detach()
        except self.cuda.Error:  # a fault on the GPU has ended the context before us
            self.cuda.Context.pop()


class Context:
    """Where kernels are compiled and launched; get one with :meth:`Context.get`.

    Attributes: `name` ("cpu" or "cuda"), `check`, `cuda` (the module pycuda.driver), `stream`
    (pycuda.driver.Stream; the branch's within a Branch), `device` (pycuda.driver.Device),
    `recording` (whether a Graph is being made).
    """

    def __init__(self, driver: Driver, check: bool) -> None:
        self._driver = driver
        self.name = driver.name
        self.check = check
        self.cuda = driver.cuda
        self.device = driver.device
        self.stream = driver.stream
        self.recording = False
        # A thread, and what it gets in place of kernels: see program.py.
        self.recorder: tuple[int, Callable[..., Any]] | None = None
        self.arrivals: Any = None  # at barriers of cooperative launches: see cooperative.py
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._cooperative_kernels: dict[tuple[Any, ...], CooperativeKernel] = {}
        self._modules: dict[tuple[Any, ...], Any] = {}

    @classmethod
    def get(cls, name: str, check: bool = False) -> Context:
        """The context of device `name`, made on the first call.

        Raises DeviceUnavailable where the device cannot be used, or where this process already
        works on the other one: a process has one CUDA driver, real or ours.
        """
        global _driver
        if name not in ("cpu", "cuda"):
            raise ValueError(f"a context is for 'cpu' or 'cuda', not {name!r}")
        if check and name != "cpu":
            raise DeviceUnavailable("check mode needs device 'cpu'")
        key = (name, bool(check))
        with _lock:
            if key not in _contexts:
                if _driver is not None and _driver.name != name:
                    raise DeviceUnavailable(
                        f"this process already uses device {_driver.name!r}, and a process can "
                        f"load one CUDA driver only; use {name!r} in another process"
                    )
                if _driver is None:
                    _driver = Driver(name)
                _contexts[key] = cls(_driver, bool(check))
            return _contexts[key]

    def kernel(self, file: str | os.PathLike[str], entry: str, **defines: Any) -> Kernel:
        """The entry point `entry` of a kernel file, compiled with `defines` as -D macros.

        `file` is a name in the library's kernel folder or a path. Compiled once: later calls
        come from memory, later processes from the cache on disk. For a GPU a product and a sum are
        one rounding where the kernel writes ``fmaf``, and two everywhere else.
        Raises FileNotFoundError, CompileError (the compiler's text), or SignatureError (no such
        entry point, or parameters that a launch cannot pass).
        """
        recorder = self.recorder  # read once: another thread may set it meanwhile
        if recorder is not None and recorder[0] == threading.get_ident():
            return recorder[1](file, entry, defines)
        key = (file, entry, *sorted(defines.items())) if defines else (file, entry)
        kernel = self._kernels.get(key)
        if kernel is None:
            with _lock:
                kernel = self._kernels.get(key)
                if kernel is None:
                    kernel = self._kernels[key] = self._build(file, entry, defines)
        return kernel

    def cooperative_kernel(
        self, file: str | os.PathLike[str], entry: str, **defines: Any
    ) -> CooperativeKernel:
        """As :meth:`kernel`, for an entry point that is launched cooperatively.

        Raises DeviceUnavailable, besides, where the device has no cooperative launches.
        """
        from .cooperative import CooperativeKernel

        key = (file, entry, *sorted(defines.items()))
        with _lock:
            if key not in self._cooperative_kernels:
                path = compiler.source_path(file)
                self._cooperative_kernels[key] = CooperativeKernel(self, path, entry, defines)
            return self._cooperative_kernels[key]

    def _build(self, file: str | os.PathLike[str], entry: str, defines: dict[str, Any]) -> Kernel:
        from .kernel import Kernel

        path = compiler.source_path(file)
        return Kernel(self, path, entry, defines)

    def module(self, path: Path, defines: dict[str, Any]) -> Any:
        """The loaded module (pycuda.driver.Module) of `path` compiled with `defines`."""
        key = (path, *sorted(defines.items()))
        if key not in self._modules:
            image = self.image(path, defines)
            try:
                self._modules[key] = self.call(self.cuda.module_from_buffer, image)
            except self.cuda.Error as error:
                raise LaunchError(f"{path.name} was compiled but not loaded: {error}") from error
        return self._modules[key]

    def image(self, path: Path, defines: dict[str, Any]) -> bytes:
        """`path` compiled with `defines`, as the driver loads it; from the cache where it is."""
        if self.name == "cpu":
            return compiler.compile_for_cpu(path, defines, self.check)
        return compiler.compile_for_gpu(path, defines, self.arch)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A call of PyCUDA, in any thread.

        The context is current in the main thread. In another thread the driver refuses the call,
        and it is made again with the context current; so the usual case costs nothing.
        """
        try:
            return function(*arguments)
        except self.cuda.Error:
            if self.is_at_home:
                raise
        with self._driver.entered():
            return function(*arguments)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """:meth:`call`, with what goes wrong raised as LaunchError."""
        try:
            return self.call(function, *arguments)
        except self.cuda.Error as error:
            hint = (
                "; while launches are recorded nothing waits for the device or copies from or to "
                "the host: write inputs before, read results after"
            )
            raise LaunchError(f"{error}{hint if self.recording else ''}") from error

    def allocate(self, nbytes: int) -> Allocation:
        """Device memory that is freed with its last reference, in whichever thread that goes.

        Raises pycuda's MemoryError where there is not enough.
        """
        self.collect()
        return Allocation(self.call(self.cuda.mem_alloc, nbytes), self._driver)

    def collect(self) -> None:
        """Frees memory whose last reference went in another thread than the context's own."""
        driver = self._driver
        if driver.orphans:
            with contextlib.nullcontext() if self.is_at_home else driver.entered():
                driver.orphans.clear()

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Makes the context current for a while in a thread that does not keep it so."""
        return self._driver.entered()

    @property
    def is_at_home(self) -> bool:
        """Whether the calling thread is the one that keeps the context current."""
        return threading.get_ident() == self._driver.thread

    @property
    def is_over(self) -> bool:
        """Whether the interpreter is ending and the CUDA context was given back: what the driver
        made in it is gone, and must not be named to it any more."""
        return self._driver.left

    def synchronize(self) -> None:
        """Wait for all launched work. An error of an earlier launch is raised as LaunchError."""
        self.run(self.stream.synchronize)

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of device memory."""
        return self.run(self.cuda.mem_get_info)

    @cached_property
    def arch(self) -> str:
        """What nvcc compiles for."""
        return compiler.arch_of(self.device.compute_capability())

    @cached_property
    def limits(self) -> Limits:
        """What a launch may ask for."""
        return Limits(self)

    @cached_property
    def description(self) -> str:
        """One line for people: the device's name, its memory, the driver."""
        free, total = self.memory_info()
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        if self.name == "cpu":
            checked = ", every memory access checked" if self.check else ""
            return f"cpu: CUDA kernels on the CPU driver{checked} ({memory})"
        version = self.cuda.get_driver_version()
        return (
            f"cuda: {self.device.name()} ({self.arch}, {memory}, "
            f"driver for CUDA {version // 1000}.{version % 1000 // 10})"
        )

    def __repr__(self) -> str:
        return f"<pygan context {self.name}{' (checked)' if self.check else ''}>"


class Allocation:
    """Device memory; `ptr` is its address.

    PyCUDA can free memory only where the context is current, and a garbage collection may run in
    any thread: elsewhere the memory is put aside for the next allocation to free.
    """

    __slots__ = ("_driver", "_memory", "ptr")

    def __init__(self, memory: Any, driver: Driver) -> None:
        self._memory = memory
        self._driver = driver
        self.ptr = int(memory)

    def __del__(self, current_thread: Callable[[], int] = threading.get_ident) -> None:
        if current_thread() != self._driver.thread:
            self._driver.orphans.append(self._memory)


class Limits:
    """The launch limits of a context's device, read once."""

    def __init__(self, context: Context) -> None:
        def get(attribute: Any) -> int:
            return context.call(context.device.get_attribute, attribute)

        names = context.cuda.device_attribute
        self.block = tuple(get(getattr(names, f"MAX_BLOCK_DIM_{axis}")) for axis in "XYZ")
        self.grid = tuple(get(getattr(names, f"MAX_GRID_DIM_{axis}")) for axis in "XYZ")
        self.shared_bytes = get(names.MAX_SHARED_MEMORY_PER_BLOCK)
        try:
            self.shared_bytes_opt_in = max(
                self.shared_bytes, get(names.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            )
        except (AttributeError, context.cuda.Error):  # a PyCUDA built against older headers
            self.shared_bytes_opt_in = self.shared_bytes


def device_name() -> str | None:
    """The name of the device that this process works on; None before its first context."""
    return None if _driver is None else _driver.device_name


def shared_bytes() -> int:
    """Of shared memory that a block can have on the device that this process works on; 48 KiB, as
    on every device, before its first context."""
    context = next(iter(_contexts.values()), None)
    return 48 * 1024 if context is None else context.limits.shared_bytes_opt_in


def gpu_answers() -> bool:
    """Whether device `cuda` can be used from this process.

    The driver is asked in a child process, so that asking on a machine without a GPU does not
    load a driver here that would keep the CPU driver out.
    """
    if _driver is not None:
        return _driver.name == "cuda"
    return not _cpu_driver_is_active() and probe.nvidia_driver().works


def _cpu_driver_is_active() -> bool:
    from . import cpu_driver

    return bool(cpu_driver.is_active())


def _import_pycuda(name: str) -> Any:
    if name == "cpu":
        from . import cpu_driver

        try:
            cache.cache_dir()  # where the driver will be: an error names PYGAN_CACHE
            cpu_driver.activate()
        except (OSError, RuntimeError) as error:
            raise DeviceUnavailable(f"device 'cpu' is not usable: {error}") from error
    elif _cpu_driver_is_active():
        raise DeviceUnavailable(
            "this process runs on the CPU driver, so device 'cuda' cannot be used in it; "
            "use device 'cpu' here, or 'cuda' in a process that has not loaded the CPU driver"
        )
    try:
        import pycuda.driver
    except ImportError as error:
        raise DeviceUnavailable(_why_no_pycuda(name, error)) from error
    return pycuda.driver


def _why_no_pycuda(name: str, error: ImportError) -> str:
    if "libcuda" in str(error):
        return (
            f"device {name!r} is not usable: PyCUDA finds no CUDA driver ({error}); install the "
            f"NVIDIA driver, or use device 'cpu' or 'numpy'"
        )
    return (
        f"device {name!r} needs PyCUDA, which cannot be imported ({error}); build it with "
        f"python -m pygan.bindings.build_pycuda (`pygan doctor` says what that needs); device "
        f"'numpy' works without it"
    )
