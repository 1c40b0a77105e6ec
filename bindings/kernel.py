"""A kernel as a Python callable: arguments checked against the C declaration, then launched.

A launch packs its arguments with one struct call into the buffer that cuLaunchKernel takes, and
remembers launch geometries that passed the checks. :meth:`Kernel.bind` does the packing once.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cpu_driver
from . import signature as signatures
from .array import DeviceArray
from .errors import ArgumentError, LaunchError, SignatureError

if TYPE_CHECKING:
    from .context import Context

Dimensions = int | Sequence[int]


class Kernel:
    """One entry point of a compiled file; see :meth:`pygan.bindings.context.Context.kernel`.

    ``kernel(grid, block, *arguments, shared_bytes=0)`` launches it on the context's stream.
    Attributes: `name`, `signature`, `path`, `defines`.
    """

    def __init__(self, context: Context, path: Path, entry: str, defines: dict[str, Any]) -> None:
        declared = signatures.parse(path.read_text(encoding="utf-8"), defines)
        if entry not in declared:
            known = ", ".join(sorted(declared)) or "none"
            raise SignatureError(
                f"{path.name} declares no kernel {entry!r}; its entry points are: {known}"
            )
        self.context = context
        self.path = path
        self.name = entry
        self.defines = dict(defines)
        self.signature = declared[entry]
        self.function = _function(context, path, entry, defines)
        self._errors = context.cuda.Error
        self._count = len(self.signature.parameters)
        self._pack = struct.Struct(self.signature.struct_format).pack
        self._pointers = tuple(
            (index, parameter.dtype)
            for index, parameter in enumerate(self.signature.parameters)
            if parameter.pointer
        )
        self._launches: dict[tuple[Any, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._consented = 0  # bytes of dynamic shared memory, beyond what needs no consent

    def __call__(
        self, grid: Dimensions, block: Dimensions, *arguments: Any, shared_bytes: int = 0
    ) -> None:
        """Launch. `grid` (blocks) and `block` (threads) are an int or up to three of them.

        An array parameter takes a DeviceArray of its dtype, or None for a null pointer; a value
        parameter takes a Python or numpy number that fits its C type.
        Raises ArgumentError naming the parameter, or LaunchError (too many threads, too much
        shared memory, a failure on the device).
        """
        packed = self._packed(arguments)
        if self.context.check:
            self._tell_extents(arguments)
        try:
            grid, block = self._launches[grid, block, shared_bytes]
        except (KeyError, TypeError):
            grid, block = self._checked(grid, block, shared_bytes)
        try:
            self.function._launch_kernel(grid, block, packed, shared_bytes, self.context.stream)
        except self._errors as error:
            launch = (grid, block, packed, shared_bytes, self.context.stream)
            _launch_elsewhere(self, launch, error)

    def bind(
        self, grid: Dimensions, block: Dimensions, *arguments: Any, shared_bytes: int = 0
    ) -> BoundLaunch:
        """The launch with everything checked and packed; it keeps its arrays alive."""
        packed = self._packed(arguments)
        grid, block = self._checked(grid, block, shared_bytes)
        return BoundLaunch(self, grid, block, packed, shared_bytes, arguments)

    def _packed(self, arguments: tuple[Any, ...]) -> bytes:
        if len(arguments) != self._count:
            raise ArgumentError(
                f"{self.signature} takes {self._count} arguments; {len(arguments)} were given"
            )
        values = list(arguments)
        for index, dtype in self._pointers:
            value = values[index]
            if value is None:
                values[index] = 0
            elif value.__class__ is DeviceArray and value.dtype is dtype:
                values[index] = value.ptr
            else:
                raise ArgumentError(self._complaint(index, value))
        try:
            return self._pack(*values)
        except (struct.error, OverflowError, TypeError):
            for index, parameter in enumerate(self.signature.parameters):
                if not parameter.pointer:
                    try:
                        struct.pack(f"<{parameter.code}", values[index])
                    except (struct.error, OverflowError, TypeError):
                        raise ArgumentError(self._complaint(index, values[index])) from None
            raise

    def _tell_extents(self, arguments: tuple[Any, ...]) -> None:
        """Check mode then holds the launch to the arrays it was given, also within one arena."""
        arrays = (arguments[index] for index, _ in self._pointers)
        cpu_driver.set_extents([(0, 0) if a is None else (a.ptr, a.nbytes) for a in arrays])

    def _complaint(self, index: int, value: Any) -> str:
        parameter = self.signature.parameters[index]
        where = f"{self.name}, argument {index + 1}: {parameter}"
        if parameter.pointer:
            wanted = f"a device array of {parameter.dtype.name} or None"
            if isinstance(value, np.ndarray):
                return (
                    f"{where} takes {wanted}; a numpy array of {value.dtype.name} was given (host "
                    f"memory: copy it to the device with from_numpy)"
                )
        elif np.issubdtype(parameter.dtype, np.integer):
            limits = np.iinfo(parameter.dtype)
            wanted = f"an integer from {limits.min} to {limits.max}"
        else:
            wanted = f"a number that fits {parameter.ctype}"
        if isinstance(value, DeviceArray):
            given = f"a device array of {value.dtype.name}, shape {value.shape},"
        else:
            given = f"{value!r} ({type(value).__name__})"
        return f"{where} takes {wanted}; {given} was given"

    def _checked(
        self, grid: Dimensions, block: Dimensions, shared_bytes: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(grid, block) as triples, after everything about them was found possible."""
        full_grid = self._triple(grid, "grid", self.context.limits.grid)
        full_block = self._triple(block, "block", self.context.limits.block)
        threads = full_block[0] * full_block[1] * full_block[2]
        most = self.context.call(getattr, self.function, "max_threads_per_block")
        if threads > most:
            raise LaunchError(
                f"{self.name}: a block of {full_block} is {threads} threads; this kernel can be "
                f"launched with at most {most} (its __launch_bounds__, its registers or the "
                f"device's limit)"
            )
        self._check_shared(shared_bytes)
        result = (full_grid, full_block)
        if isinstance(grid, list):
            grid = tuple(grid)
        if isinstance(block, list):
            block = tuple(block)
        if len(self._launches) > 4096:  # a caller whose geometry never repeats
            self._launches.clear()
        self._launches[grid, block, shared_bytes] = result
        return result

    def _triple(self, given: Dimensions, what: str, limits: Sequence[int]) -> tuple[int, ...]:
        try:
            sizes = tuple(map(operator.index, given if np.iterable(given) else (given,)))
        except TypeError:
            sizes = ()
        if not 1 <= len(sizes) <= 3:
            raise LaunchError(f"{self.name}: {what} {given!r} is not one to three integers")
        sizes += (1,) * (3 - len(sizes))
        for axis, size, limit in zip("xyz", sizes, limits, strict=True):
            if not 1 <= size <= limit:
                raise LaunchError(
                    f"{self.name}: {what} {sizes} is not possible: {axis} must be 1 to {limit}"
                )
        return sizes

    def _check_shared(self, shared_bytes: int) -> None:
        context, limits = self.context, self.context.limits
        static = context.call(getattr, self.function, "shared_size_bytes")
        most = limits.shared_bytes_opt_in - static
        if not isinstance(shared_bytes, int | np.integer) or not 0 <= shared_bytes <= most:
            raise LaunchError(
                f"{self.name}: {shared_bytes!r} bytes of dynamic and {static} of static shared "
                f"memory were asked for; a block can have {limits.shared_bytes_opt_in} in all"
            )
        # More than the default needs consent, which is never lowered: launches that were checked
        # before rely on it.
        if shared_bytes > max(limits.shared_bytes - static, self._consented):
            attribute = context.cuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
            context.call(self.function.set_attribute, attribute, shared_bytes)
            self._consented = shared_bytes

    def __repr__(self) -> str:
        return f"<kernel {self.signature} of {self.path.name}>"


class BoundLaunch:
    """A launch that can be run many times, or captured; made by :meth:`Kernel.bind`."""

    __slots__ = ("_arguments", "_launch", "block", "grid", "kernel")

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        packed: bytes,
        shared_bytes: int,
        arguments: tuple[Any, ...],
    ) -> None:
        self.kernel = kernel
        self.grid = grid
        self.block = block
        self._launch = (grid, block, packed, shared_bytes, kernel.context.stream)
        self._arguments = arguments  # kept alive for as long as their addresses are used

    def run(self) -> None:
        """Launch on the context's stream, with the arrays' present contents."""
        if self.kernel.context.check:
            self.kernel._tell_extents(self._arguments)
        try:
            self.kernel.function._launch_kernel(*self._launch)
        except self.kernel.context.cuda.Error as error:
            _launch_elsewhere(self.kernel, self._launch, error)

    def __repr__(self) -> str:
        return f"<launch of {self.kernel.name}, grid {self.grid}, block {self.block}>"


def _launch_elsewhere(kernel: Kernel, launch: tuple[Any, ...], error: Exception) -> None:
    """Makes a launch again that was refused because another thread than the context's own asked
    for it; any other `error` is raised as LaunchError."""
    context = kernel.context
    try:
        if context.is_at_home:
            raise error
        context.call(kernel.function._launch_kernel, *launch)
    except context.cuda.Error as final:
        raise LaunchError(f"{kernel.name}: {final}") from final


def _function(context: Context, path: Path, entry: str, defines: dict[str, Any]) -> Any:
    module = context.module(path, defines)
    try:
        return context.call(module.get_function, entry)
    except context.cuda.Error as error:
        raise SignatureError(
            f"{path.name} declares {entry!r}, but its compiled module does not have it ({error}); "
            f"is the declaration inside a conditional block that these defines switch off?"
        ) from error
