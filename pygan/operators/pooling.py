"""Average and max pooling, NHWC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pygan.errors import GraphError, ShapeError
from pygan.flags import flag
from pygan.operators.base import (
    Array,
    Arrays,
    Call,
    Gradient,
    Operator,
    Shape,
    Shapes,
    both,
    choice,
    data_shape,
    only,
    pair,
)


@dataclass(frozen=True)
class Pooling(Operator):
    """Pooling over windows of (N, H, W, C), MXNet's Pooling.

    convention "valid" rounds the output size down, "full" rounds it up (and, unlike PyTorch's
    ceil_mode, keeps windows that lie wholly in padding: max gives -3.4028e38, avg 0).
    count_include_pad: the divisor of avg is the window clipped to the padded image. The gradient of
    max goes to the first maximum in row-major order. global_pool takes the whole image as window.
    """

    kernel: int | tuple[int, int] = 1
    kind: str = "max"
    stride: int | tuple[int, int] = 1
    pad: int | tuple[int, int] = 0
    convention: str = "valid"
    count_include_pad: bool = True
    global_pool: bool = False

    def __post_init__(self) -> None:
        self._take(pair, "kernel", "stride", least=1)
        self._take(pair, "pad", least=0)
        self._take(flag, "count_include_pad", "global_pool")
        choice(self.kind, ("max", "avg"), "kind")
        choice(self.convention, ("valid", "full"), "convention")
        if any(p >= k for p, k in zip(both(self.pad), both(self.kernel), strict=True)):
            raise GraphError(f"pad {self.pad} must be smaller than kernel {self.kernel}")

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        n, h, w, channels = data = data_shape(inputs, rank=4)
        if self.global_pool:
            return Shapes((data,), ((n, 1, 1, channels),))
        sizes = []
        windows = zip((h, w), both(self.kernel), both(self.stride), both(self.pad), strict=True)
        for size, k, stride, p in windows:
            room = size + 2 * p - k
            if room < 0:
                raise ShapeError(
                    f"kernel {self.kernel} is larger than the input of {data} with pad {self.pad}"
                )
            sizes.append(1 + (-(-room // stride) if self.convention == "full" else room // stride))
        return Shapes((data,), ((n, *sizes, channels),))

    def _attributes(self, data: Array) -> dict[str, Any]:
        window = (
            {"kernel": data.shape[1:3], "stride": (1, 1), "pad": (0, 0)}
            if self.global_pool
            else {"kernel": self.kernel, "stride": self.stride, "pad": self.pad}
        )
        return window | {"kind": self.kind, "count_include_pad": self.count_include_pad}

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        data = arrays.inputs[0]
        return [Call("pooling_forward", (data, arrays.outputs[0]), self._attributes(data))]

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        data, target = arrays.inputs[0], only(gradients)
        operands = (data if self.kind == "max" else None, output_gradients[0], target.array)
        attributes = self._attributes(data) | {"accumulate": target.accumulate}
        return [Call("pooling_backward", operands, attributes)]
