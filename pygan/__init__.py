"""Hand-written CUDA kernels for generative adversarial networks, driven by explicit executors.

    from pygan import device, symbol, networks
    generator = networks.lesson_generator()
    executor = generator.bind(device.get("auto"), shapes={"noise": (32, 1, 1, 10)})

Modules are imported when they are first used, so that the numpy device needs no CUDA package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygan import (
        checkpoint,
        data,
        device,
        drawing,
        errors,
        exchange,
        executor,
        initializer,
        layout,
        networks,
        optimizer,
        pictures,
        reference,
        summary,
        symbol,
        training,
        working_memory,
    )

    __version__: str

__all__ = [
    "__version__",
    "checkpoint",
    "data",
    "device",
    "drawing",
    "errors",
    "exchange",
    "executor",
    "initializer",
    "layout",
    "networks",
    "optimizer",
    "pictures",
    "reference",
    "summary",
    "symbol",
    "training",
    "working_memory",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pygan")
    if name in __all__:
        return importlib.import_module(f"pygan.{name}")
    raise AttributeError(f"module 'pygan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
