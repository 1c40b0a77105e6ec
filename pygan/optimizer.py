"""Optimizers: one launch over the flat buffer of an executor's parameters.

Step count and learning rate live on the device, so that a captured step stays right. The formulas
are those of `pygan.reference.optimizer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pygan.errors import CheckpointError, GraphError, StateError
from pygan.executor import Executor

STEP_SLOTS = 1024
"""Copies of the step count, one per block of a launch."""
FLOAT32_MAX = float(np.finfo(np.float32).max)


class Optimizer:
    """Base: step count, learning rate and named flat state buffers.

    `update()` applies the gradients of `executor.gradients` to the parameters that have one. It
    raises StateError where they were lent (`bind(lend_gradients=True)`) and written over since.
    """

    buffers: tuple[str, ...] = ()

    def __init__(self, executor: Executor, learning_rate: float, settings: dict[str, Any]) -> None:
        if not isinstance(executor, Executor):
            raise GraphError(f"an optimizer works on an executor; bind {executor!r} first")
        for name, value in settings.items():
            _check_setting(name, value)
        self.executor = executor
        self.settings = settings
        device = executor.device
        size = executor.trainable_size
        if not size:
            raise StateError("the executor has no parameter with a gradient to optimize")
        self._weights = executor.parameters[:size]
        self._state = {name: device.zeros((size,), executor.dtype) for name in self.buffers}
        self._step = device.zeros((STEP_SLOTS,), np.int32)
        self._learning_rate = device.zeros((1,), executor.dtype)
        self.set_learning_rate(learning_rate)

    @property
    def _gradients(self) -> Any:
        return self.executor.gradients

    def set_learning_rate(self, learning_rate: float) -> None:
        """Takes effect from the next update on."""
        if not (_is_number(learning_rate) and 0 <= learning_rate <= FLOAT32_MAX):
            raise GraphError(
                f"learning_rate must be a number from 0 to {FLOAT32_MAX:.1e}, not {learning_rate!r}"
            )
        self._learning_rate[...] = np.full(1, learning_rate, self.executor.dtype)

    @property
    def learning_rate(self) -> float:
        return float(np.asarray(self._learning_rate)[0])

    @property
    def step_count(self) -> int:
        """Updates done."""
        return int(np.asarray(self._step)[0])

    def update(self) -> None:
        """One step on all parameters that have a gradient."""
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"<{type(self).__name__}({settings}) of {self.executor!r}>"

    def state_dict(self) -> dict[str, np.ndarray]:
        """Host copies of the state: ``step`` int32 (1,), ``learning_rate`` (1,), and for each state
        buffer and parameter ``buffer/parameter`` in the parameter's shape."""
        state = {
            "step": np.array(self._step)[:1],
            "learning_rate": np.array(self._learning_rate),
        }
        for buffer, array in self._state.items():
            host = np.array(array)
            for name, place in self.executor.trainable().items():
                shape = tuple(self.executor.arg_dict[name].shape)
                state[f"{buffer}/{name}"] = host[place].reshape(shape)
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over what `state_dict` gave, to the bit.

        Raises CheckpointError, before anything is changed, where names or shapes do not fit, what
        it holds are no numbers, or step count and learning rate are none.
        """
        if not isinstance(state, Mapping):
            raise CheckpointError(
                f"a state is a dictionary of arrays, as state_dict() gives it, not {state!r}"
            )
        expected = {name: array.shape for name, array in self.state_dict().items()}
        given = {name: np.asarray(array).shape for name, array in state.items()}
        if given != expected:
            names = sorted(expected.keys() | given.keys(), key=str)
            differing = [name for name in names if expected.get(name) != given.get(name)]
            listed = ", ".join(
                f"{name} {given.get(name, 'missing')} (expected {expected.get(name, 'none')})"
                for name in differing[:5]
            )
            raise CheckpointError(
                f"the state is not of this optimizer and network: {listed}"
                + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
            )
        step = np.asarray(state["step"])[0]
        if not isinstance(step, np.integer) or not 0 <= step < 2**31:
            raise CheckpointError(f"the step count of the state is {step}, no int32 from 0 on")
        numbers = {name: np.asarray(array) for name, array in state.items()}
        for name, array in numbers.items():
            if array.dtype.kind not in "biuf":
                raise CheckpointError(f"{name} of the state holds {array.dtype}, no real numbers")
        rate = float(numbers["learning_rate"][0])
        if not 0 <= rate <= FLOAT32_MAX:
            raise CheckpointError(
                f"the learning rate of the state is {rate}, no finite one from 0 on"
            )
        self._step[...] = np.full(STEP_SLOTS, step, np.int32)
        self._learning_rate[...] = numbers["learning_rate"].astype(self.executor.dtype)
        for buffer, array in self._state.items():
            host = np.zeros(array.shape, self.executor.dtype)
            for name, place in self.executor.trainable().items():
                host[place] = numbers[f"{buffer}/{name}"].ravel()
            array[...] = host


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) in MXNet's form.

    g = clip(rescale_grad * gradient + weight_decay * w); lr_t = lr sqrt(1 - b2^t) / (1 - b1^t);
    w -= lr_t m / (sqrt(v) + eps). The bias correction sits in the rate, so the effective eps of the
    first step is eps / sqrt(1 - b2), other than in PyTorch. State: m, v.
    """

    buffers = ("m", "v")

    def __init__(
        self,
        executor: Executor,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rescale_grad: float = 1.0,
        clip_gradient: float | None = None,
    ) -> None:
        _fraction(beta1, "beta1")
        _fraction(beta2, "beta2")
        settings = {
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
            "rescale_grad": rescale_grad,
            "clip_gradient": clip_gradient,
        }
        super().__init__(executor, learning_rate, settings)

    def update(self) -> None:
        self.executor.device.ops.adam_update(
            self._weights,
            self._gradients,
            self._state["m"],
            self._state["v"],
            self._step,
            self._learning_rate,
            **self.settings,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, MXNet's form:
    mom = momentum * mom - lr * (clip(rescale_grad * gradient) + weight_decay * w); w += mom.
    State with momentum: momentum."""

    def __init__(
        self,
        executor: Executor,
        learning_rate: float = 1e-2,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        rescale_grad: float = 1.0,
        clip_gradient: float | None = None,
    ) -> None:
        _fraction(momentum, "momentum")
        self.buffers = ("momentum",) if momentum else ()
        settings = {
            "momentum": momentum,
            "weight_decay": weight_decay,
            "rescale_grad": rescale_grad,
            "clip_gradient": clip_gradient,
        }
        super().__init__(executor, learning_rate, settings)

    def update(self) -> None:
        self.executor.device.ops.sgd_update(
            self._weights,
            self._gradients,
            self._state.get("momentum"),
            self._step,
            self._learning_rate,
            **self.settings,
        )


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012) in Keras's form, gradients clipped by value:
    a = rho * a + (1 - rho) * g^2; w -= lr / (1 + learning_rate_decay * t) * g / (sqrt(a) + eps).
    State: mean_square."""

    buffers = ("mean_square",)

    def __init__(
        self,
        executor: Executor,
        learning_rate: float = 1e-3,
        rho: float = 0.9,
        eps: float = 1e-7,
        clip_gradient: float | None = None,
        learning_rate_decay: float = 0.0,
        weight_decay: float = 0.0,
        rescale_grad: float = 1.0,
    ) -> None:
        _fraction(rho, "rho")
        settings = {
            "rho": rho,
            "eps": eps,
            "clip_gradient": clip_gradient,
            "learning_rate_decay": learning_rate_decay,
            "weight_decay": weight_decay,
            "rescale_grad": rescale_grad,
        }
        super().__init__(executor, learning_rate, settings)

    def update(self) -> None:
        self.executor.device.ops.rmsprop_update(
            self._weights,
            self._gradients,
            self._state["mean_square"],
            self._step,
            self._learning_rate,
            **self.settings,
        )


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        return False
    return bool(-FLOAT32_MAX <= value <= FLOAT32_MAX)


def _check_setting(name: str, value: Any) -> None:
    if name == "clip_gradient":
        if value is not None and not (_is_number(value) and value > 0):
            raise GraphError(f"clip_gradient must be None or a finite number > 0, not {value!r}")
    elif name == "eps" and not (_is_number(value) and value >= 0):
        raise GraphError(f"eps must be a finite number >= 0, not {value!r}")
    elif not _is_number(value):
        raise GraphError(f"{name} must be a finite number, not {value!r}")


def _fraction(value: float, name: str) -> None:
    if not _is_number(value) or not 0 <= value < 1:
        raise GraphError(f"{name} must lie in [0, 1), not {value!r}")
