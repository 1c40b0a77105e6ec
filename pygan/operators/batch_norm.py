"""Batch normalisation over all axes but the last, with the activation that may follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pygan.errors import GraphError
from pygan.flags import flag
from pygan.operators.base import (
    Array,
    Arrays,
    Call,
    Gradient,
    Operator,
    Shape,
    Shapes,
    data_shape,
    expect,
    number,
)


@dataclass(frozen=True)
class BatchNorm(Operator):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) as MXNet's BatchNorm has it.

    data (..., C); gamma, beta and the auxiliary moving_mean, moving_var (C,).
    Training normalises with the batch mean and the biased variance. The moving statistics,
    moving = momentum * moving + (1 - momentum) * batch with the biased variance again, are updated
    by backward, not by forward: a forward without backward leaves them alone. PyTorch updates in
    forward, calls 1 - momentum what is momentum here, and uses the unbiased variance.
    fix_gamma (the default): gamma counts as 1, its gradient is exactly 0, and every forward
    overwrites the gamma array with 1. use_global_stats: the moving statistics are used and left
    alone in training too.
    """

    eps: float = 1e-3
    momentum: float = 0.9
    fix_gamma: bool = True
    use_global_stats: bool = False
    # Set when the executor fuses the activation that follows; no attribute of the symbol.
    activation: str | None = field(default=None, repr=False)
    slope: float = field(default=0.0, repr=False)

    inputs: ClassVar[tuple[str, ...]] = ("data", "gamma", "beta")
    auxiliary: ClassVar[tuple[str, ...]] = ("moving_mean", "moving_var")
    gradient_in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._take(number, "eps", "momentum")
        self._take(flag, "fix_gamma", "use_global_stats")
        if not self.eps > 0:
            raise GraphError(f"eps must be above 0, not {self.eps}")
        if not 0 <= self.momentum <= 1:
            raise GraphError(f"momentum must lie in [0, 1], not {self.momentum}")

    def infer_shape(self, inputs: Sequence[Shape | None]) -> Shapes:
        data = data_shape(inputs)
        channels = (data[-1],)
        because = f"data of shape {data}"
        gamma = expect(inputs[1], channels, "gamma", because)
        beta = expect(inputs[2], channels, "beta", because)
        return Shapes((data, gamma, beta), (data,), (channels, channels))

    def residuals(self, shapes: Shapes) -> dict[str, tuple[Shape, str]]:
        if self.use_global_stats:
            return {}
        return {"mean": (shapes.auxiliary[0], ""), "var": (shapes.auxiliary[1], "")}

    def _attributes(self) -> dict[str, Any]:
        return {
            "eps": self.eps,
            "fix_gamma": self.fix_gamma,
            "activation": self.activation,
            "slope": self.slope,
        }

    def forward(self, arrays: Arrays, training: bool) -> list[Call]:
        data, gamma, beta = arrays.inputs
        if arrays.normalisation is not None:
            return [self._left_to_the_reader(arrays, training)]
        y = arrays.outputs[0]
        attributes = self._attributes()
        if arrays.data_slices is not None:
            attributes["half_sum"] = data.half
        if training and not self.use_global_stats:
            statistics = (arrays.residuals["mean"], arrays.residuals["var"])
            operands: tuple[Array | None, ...] = (data, gamma, beta, y, *statistics)
            if arrays.data_slices is not None:
                operands += (arrays.data_slices, arrays.data_bias)
            elif arrays.moments is not None:
                operands += (None, None, arrays.moments)
            function, reduces = "batch_norm_forward_training", arrays.moments is None
            return [Call(function, operands, attributes, workspace=reduces, cooperative=True)]
        operands = (data, gamma, beta, *arrays.auxiliary, y)
        if arrays.data_slices is not None:  # data itself is for backward alone
            operands = (None, *operands[1:], arrays.data_slices, arrays.data_bias)
        return [Call("batch_norm_forward_inference", operands, attributes)]

    def make_again(self, arrays: Arrays, result: Array) -> Call:
        """Writes what a training forward made into `result`, from its statistics: the same bits."""
        operands = (*arrays.inputs, *arrays.residuals.values(), result)
        return Call("batch_norm_forward_inference", operands, self._attributes())

    def _left_to_the_reader(self, arrays: Arrays, training: bool) -> Call:
        """Its statistics alone, and the data where that comes in slices."""
        data, gamma, beta = arrays.inputs
        attributes: dict[str, Any] = {"eps": self.eps, "fix_gamma": self.fix_gamma}
        slices: tuple[Array | None, ...] = ()
        if arrays.data_slices is not None:
            slices = (arrays.data_slices, arrays.data_bias)
            attributes["half_sum"] = data.half
        if training and not self.use_global_stats:
            statistics = (arrays.residuals["mean"], arrays.residuals["var"])
            operands: tuple[Array | None, ...]
            operands = (data, gamma, beta, *statistics, arrays.normalisation)
            if reduces := arrays.moments is None:
                operands += slices
            else:
                operands += (None, None, arrays.moments)
            function = "batch_norm_normalisation_training"
            return Call(function, operands, attributes, workspace=reduces)
        operands = (gamma, beta, *arrays.auxiliary, arrays.normalisation)
        if slices:
            operands += (data, *slices)
        return Call("batch_norm_normalisation_inference", operands, attributes)

    def backward(
        self,
        arrays: Arrays,
        output_gradients: tuple[Array | None, ...],
        gradients: tuple[Gradient | None, ...],
    ) -> list[Call]:
        statistics = tuple(arrays.residuals.values()) or arrays.auxiliary
        names = ("accumulate", "accumulate_gamma", "accumulate_beta")
        accumulate = {
            name: target is not None and target.accumulate
            for name, target in zip(names, gradients, strict=True)
        }
        operands: tuple[Array | None, ...] = (
            *arrays.inputs,
            *statistics,
            output_gradients[0] if arrays.gradient_slices is None else None,
            *(None if target is None else target.array for target in gradients),
        )
        attributes = self._attributes() | {"use_global_stats": self.use_global_stats} | accumulate
        if not self.use_global_stats:
            operands += arrays.auxiliary
            attributes["momentum"] = self.momentum
            if arrays.gradient_slices is not None:
                operands += (arrays.gradient_slices,)
                attributes["half_sum"] = arrays.output.half
        function = "batch_norm_backward"
        return [Call(function, operands, attributes, workspace=True, cooperative=True)]

    def update_statistics(self, arrays: Arrays) -> list[Call]:
        if self.use_global_stats:
            return []
        operands = (*arrays.residuals.values(), *arrays.auxiliary)
        return [Call("batch_norm_update_moving", operands, {"momentum": self.momentum})]
