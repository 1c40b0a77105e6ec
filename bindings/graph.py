"""CUDA graphs: a sequence of launches recorded once and replayed with one call.

PyCUDA has no graph API; NVIDIA's cuda-bindings has, and takes PyCUDA's stream handle. Kernels,
fills and copies between device arrays can be recorded. A copy from or to the host, or anything else
that waits for the device, ends the recording with an error. Work that does not depend on other work
may be recorded on a branch, which a GPU runs at the same time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import DeviceUnavailable, LaunchError

if TYPE_CHECKING:
    from .context import Context

_HINTS = {
    "CUDA_ERROR_STREAM_CAPTURE_UNJOINED": "; a branch that was entered must be joined before the "
    "recording ends",
}
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
    Raises DeviceUnavailable without cuda-bindings, LaunchError where the work cannot be recorded or
    a recording is under way (an exception of `work` itself comes through unchanged).
    """

    def __init__(self, context: Context, work: Callable[[], Any]) -> None:
        if not callable(work):
            raise LaunchError(f"a recording takes a function that makes the launches, not {work!r}")
        if context.recording:
            raise LaunchError("a recording is under way, and cannot hold another")
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
        context, main = self.context, self.context.stream
        self._call("cuStreamBeginCapture", self._stream, mode)
        context.recording = True
        try:
            self._work()
        except BaseException:
            with contextlib.suppress(LaunchError):  # the recording is broken as well
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", self._stream))
            raise
        finally:
            context.recording, context.stream = False, main
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
            why = getattr(code, "name", str(code))
            raise LaunchError(f"{name}: {why}{_HINTS.get(why, '')}")
        return results if len(results) > 1 else results[0] if results else None

    def __del__(self) -> None:
        executable, self._executable = getattr(self, "_executable", None), None
        # At interpreter exit the CUDA context goes first, and its graphs with it.
        if executable is not None and not self.context.is_over:
            with contextlib.suppress(Exception):
                self._driver.cuGraphExecDestroy(executable)


class Branch:
    """Work beside that of the context's stream, in a recording: a second stream, forked and joined.

    What is launched between `enter` and `leave` starts after all that was launched before, runs
    beside what follows, and is done before what follows `join`. Where nothing is being recorded,
    these do nothing, and the work runs in the order of its launches: events would cost the host
    more than a branch gains. Every `enter` of a recording must be joined in it.
    """

    overlaps = True

    def __init__(self, context: Context) -> None:
        cuda = context.cuda
        self._context = context
        self._main = context.stream
        self._stream = context.call(cuda.Stream, 1)  # CU_STREAM_NON_BLOCKING
        untimed = cuda.event_flags.DISABLE_TIMING
        self._fork, self._join = (context.call(cuda.Event, untimed) for _ in range(2))

    def enter(self) -> None:
        context = self._context
        if context.recording:
            context.run(self._fork.record, self._main)
            context.run(self._stream.wait_for_event, self._fork)
            context.stream = self._stream

    def leave(self) -> None:
        if self._context.recording:
            self._context.stream = self._main

    def join(self) -> None:
        context = self._context
        if context.recording:
            context.run(self._join.record, self._stream)
            context.run(self._main.wait_for_event, self._join)


def _load() -> Any:
    """The module cuda.bindings.driver, which finds the driver that is already loaded."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DeviceUnavailable(
            f"CUDA graphs need the package cuda-bindings ({error}); install pygan's extra `graphs`"
        ) from error
    return driver
