"""Jobs over elements: activations, pooling, a loss (kernels/job_elements.cuh)."""

from __future__ import annotations

from typing import Any

from .job import ACTIVATIONS, FILE, LOAD_LATENCY, Job, Launch, NotInProgram, flat, fours

MOST_LOSSES = 4096
"""That the launch of a loss adds in one block, of LAUNCHED_LOSS threads."""

LAUNCHED_LOSS = 256


def _activation(launch: Launch) -> list[Job]:
    a = launch.arguments
    kind, n = ACTIVATIONS.index(launch.defines["ACTIVATION"]), fours(launch.entry, a["n"])
    grid, time = flat(n)
    arrays: tuple[Any, ...]
    numbers: tuple[int, ...]
    if launch.entry == "activation_forward":
        arrays, numbers = (a["x"], a["y"]), (n, kind)
    else:
        arrays = (a["source"], a["dy"], a["dx"])
        numbers = (n, kind, launch.defines["FROM_INPUT"], a["accumulate"])
    return [Job(launch.entry, grid, arrays, numbers, time, LOAD_LATENCY, (a["slope"],))]


_WINDOWS = (
    *("batch", "height", "width", "channels", "out_height", "out_width", "kernel_h", "kernel_w"),
    *("stride_h", "stride_w", "pad_h", "pad_w", "count_include_pad"),
)


def _pooling(launch: Launch) -> list[Job]:
    a = launch.arguments
    forward = launch.entry == "pooling_forward"
    height, width = ("out_height", "out_width") if forward else ("height", "width")
    n = fours(launch.entry, a["batch"] * a[height] * a[width] * a["channels"])
    if a["channels"] % 4:
        raise NotInProgram(f"{launch.entry}: {FILE} takes four channels at a time")
    arrays = (a["x"], a["y"]) if forward else (a["x"], a["dy"], a["dx"])
    average = int(launch.defines["POOLING"] == "avg")
    numbers = (*(a[name] for name in _WINDOWS), n, average, a.get("accumulate", 0))
    grid, time = flat(n)
    return [Job(launch.entry, grid, arrays, numbers, time, LOAD_LATENCY)]


def _loss(launch: Launch) -> list[Job]:
    a = launch.arguments
    if a["n"] > MOST_LOSSES:
        raise NotInProgram(f"{launch.entry}: {a['n']} losses, of which {FILE} adds {MOST_LOSSES}")
    arrays = tuple(a[name] for name in ("logits", "labels", "probabilities", "dlogits", "loss"))
    time = a["n"] / (4 * LAUNCHED_LOSS) * LOAD_LATENCY
    reals = (a["scale"],)
    return [Job(launch.entry, (1, 1, 1), arrays, (a["n"],), time, 2 * LOAD_LATENCY, reals)]


MAKERS = (
    {f"activation_{pass_}": _activation for pass_ in ("forward", "backward")}
    | {f"pooling_{pass_}": _pooling for pass_ in ("forward", "backward")}
    | {"sigmoid_cross_entropy_forward": _loss}
)
