"""A training step recorded once as a CUDA graph and replayed for every batch after.

The order of the images, the place in it, random numbers, update counts and the place of the losses
are all on the device, so the launches of a step are the same for every batch, and a replay leaves
the bits that the launches would have left. What it saves is the host's work: one call in place of
a hundred or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pygan.errors import PyganError

CHOICES = ("auto", "on", "off")


class Recording:
    """The launches of a model's step: made one by one or, once `start` was called, replayed.

    The first run still launches directly, which compiles the kernels and binds the passes; the
    second records, and from then on there are replays.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._on = False
        self._launched = False
        self._graph: Any = None

    @property
    def is_on(self) -> bool:
        return self._on

    def start(self) -> None:
        """Records from now on. Raises PyganError where the device cannot."""
        if (reason := self._device.cannot_record()) is not None:
            raise PyganError(f"steps cannot be recorded: {reason}")
        self._on = True

    def run(self, launches: Callable[[], None]) -> None:
        """One step. `launches` must be the same for every run: the same calls on the same memory,
        whatever the host has counted meanwhile."""
        if not self._on or not self._launched:
            launches()
            self._launched = True
            return
        if self._graph is None:
            self._graph = self._device.record(launches)
        self._graph.launch()


def choose(asked: str, device: Any, model: Any) -> str | None:
    """Starts the recording of a model's steps as `asked`, and says what a user should know.

    "auto" records on `cuda`; "on" wherever the device can; "off" never. The model has a Recording
    as its ``recording``.
    Raises PyganError where "on" was asked for and is not possible.
    """
    if asked not in CHOICES:
        raise PyganError(f"graph must be one of {', '.join(CHOICES)}, not {asked!r}")
    if asked == "off" or (asked == "auto" and device.name != "cuda"):
        return None
    reason = device.cannot_record()
    if reason is None:
        model.recording.start()
        return "steps are recorded once as a CUDA graph and replayed"
    if asked == "on":
        raise PyganError(f"steps cannot be recorded: {reason}; leave out --graph on")
    return f"steps are launched kernel by kernel, which is slower: {reason}"
