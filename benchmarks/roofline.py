"""What the machine can do at best, measured when a benchmark starts: copies and products.

A kernel's floor is the longer of its useful bytes at the copy's bandwidth and its useful operations
at the product's rate (Williams, Waterman and Patterson, "Roofline", 2009); its share of the
roofline is the floor over its time. A share above 1 means that a cache held what was counted as
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from measuring import Timing, measure


@dataclass(frozen=True)
class Roofline:
    """Bytes read and written per second by a copy; operations per second of a float32 product."""

    bandwidth: float
    product_rate: float
    product_by: str

    def floor(self, nbytes: float, flops: float) -> float:
        """Seconds that no version can fall below."""
        return max(nbytes / self.bandwidth, flops / self.product_rate)

    def record(self) -> dict[str, Any]:
        return {
            "copy_gigabytes_per_second": 1e-9 * self.bandwidth,
            "float32_product_gflops": 1e-9 * self.product_rate,
            "product_by": self.product_by,
        }

    def __str__(self) -> str:
        copies, products = 1e-9 * self.bandwidth, 1e-9 * self.product_rate
        return f"copies {copies:.4g} GB/s, products {products:.4g} GFLOP/s ({self.product_by})"


def measure_roofline(device: Any, quick: bool = False) -> Roofline:
    """Of a device. A GPU's product is the best of cuBLAS, PyTorch and pygan's own; `cpu` is held
    against numpy on the same processor."""
    on_gpu = device.name == "cuda"
    samples = 3 if quick else 9
    nbytes = (1 << 20) if quick else (1 << 30) if on_gpu else (1 << 27)  # well past any cache
    size = 128 if quick else 8192 if on_gpu else 2048
    timed = device if on_gpu else _Host()
    source = np.random.default_rng(1).standard_normal(nbytes // 4, np.float32)
    x, y = timed.from_numpy(source), timed.from_numpy(source)

    def copy() -> None:
        y[...] = x

    bandwidth = 2 * nbytes / measure(timed, [copy], samples=samples, seconds=0.02).low
    products = _gpu_products(device, size, samples) if on_gpu else _host_product(size, samples)
    name, timing = min(products.items(), key=lambda item: item[1].low)
    return Roofline(bandwidth, 2.0 * size**3 / timing.low, f"{name}, {size} cubed")


class _Host:
    """The processor, as :func:`measuring.measure` wants it."""

    name = "host"

    @staticmethod
    def from_numpy(array: np.ndarray) -> np.ndarray:
        return array.copy()

    @staticmethod
    def synchronize() -> None:
        pass


def _matrices(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal((size, size), np.float32) for _ in range(2))
    return a, b


def _host_product(size: int, samples: int) -> dict[str, Timing]:
    a, b = _matrices(size)
    c = np.empty_like(a)
    timing = measure(_Host(), [lambda: np.matmul(a, b, out=c)], samples=samples, seconds=0.02)
    return {"numpy": timing}


def _gpu_products(device: Any, size: int, samples: int) -> dict[str, Timing]:
    from pygan.bindings.cublas import Cublas
    from pygan.bindings.errors import DeviceUnavailable

    a, b = (device.from_numpy(each) for each in _matrices(size))
    c = device.empty((size, size))

    name = "fully_connected_backward_data"
    needed = device.ops.workspace_size(name, a.shape, b.shape, c.shape)
    workspace = device.empty(needed) if needed else None

    def own() -> None:
        getattr(device.ops, name)(a, b, c, workspace=workspace)

    found = {"pygan": measure(device, [own], samples=samples, seconds=0.02)}
    try:
        cublas = Cublas(device.context)
    except DeviceUnavailable:
        pass
    else:
        vendor = [lambda: cublas.sgemm(a, b, c)]
        found["cuBLAS"] = measure(device, vendor, samples=samples, seconds=0.02)
    try:
        from peers import time_product

        found["PyTorch"] = time_product(size, samples)
    except (ImportError, RuntimeError):
        pass
    return found
