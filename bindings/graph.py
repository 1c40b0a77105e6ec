"""CUDA graphs: a sequence of launches recorded once and replayed with one call.

PyCUDA has no graph API; NVIDIA's cuda-bindings has, and takes PyCUDA's stream handle. Kernels,
fills and copies between device arrays can be recorded. A copy from or to the host, or anything else
that waits for the device, ends the recording with an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import DeviceUnavailable, LaunchError

if TYPE_CHECKING:
    from .context import Context

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: finalizers may free memory while recording


def why_not() -> str | None:
    """Why nothing can be recorded in this environment, or None."""
    try:
        _load()
    except DeviceUnavailable as error:
        return str(error)
    return None


class Graph:
    """The launches that `work()` makes on the context's stream, as one replayable graph.

    `work` is called once, in record mode: nothing runs until :meth:`launch`. Addresses, sizes and
    scalar arguments are fixed by the recording; contents of arrays are read anew in each replay.
    The arrays that were used must live as long as the graph; `work` is kept, and with it whatever
    it refers to. `nodes` is the number of kernels, fills and copies in it.
    Raises DeviceUnavailable without cuda-bindings, LaunchError where the work cannot be recorded
    (an exception of `work` itself comes through unchanged).
    """

    def __init__(self, context: Context, work: Callable[[], Any]) -> None:
        self._driver = _load()
        self.context = context
        self._work = work
        self._stream = self._driver.CUstream(context.stream.handle)
        self._executable = self._instantiate(self._record())

    def launch(self) -> None:
        """Replay on the context's stream; returns at once."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def _record(self) -> Any:
        mode = self._driver.CUstreamCaptureMode(_RELAXED)
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            self._work()
        except BaseException:
            with contextlib.suppress(LaunchError):  # the recording is broken as well
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", self._stream))
            raise
        return self._call("cuStreamEndCapture", self._stream)

    def _instantiate(self, graph: Any) -> Any:
        try:
            self.nodes = int(self._call("cuGraphGetNodes", graph, 0)[1])
            return self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *results = getattr(self._driver, name)(*arguments)
        if int(code):
            raise LaunchError(f"{name}: {getattr(code, 'name', code)}")
        return results if len(results) > 1 else results[0] if results else None

    def __del__(self) -> None:
        executable, self._executable = getattr(self, "_executable", None), None
        if executable is not None:
            with contextlib.suppress(Exception):  # at interpreter exit the driver may be gone
                self._driver.cuGraphExecDestroy(executable)


def _load() -> Any:
    """The module cuda.bindings.driver, which finds the driver that is already loaded."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DeviceUnavailable(
            f"CUDA graphs need the package cuda-bindings ({error}); install pygan's extra `graphs`"
        ) from error
    return driver
