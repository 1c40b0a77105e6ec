"""The same training steps in JAX, as peers: same networks, same data path, same work.

Every variant starts from pygan's weights, and its losses over three steps with pygan's noise and
images are compared with numpy's before it is timed. A step is one function under ``jax.jit``, whose
state (weights, moments, moving statistics, random key, place in the images) is donated, so that XLA
updates it in place; ``jax scan`` makes 20 steps in one call. The step that is timed draws its noise
and gathers its images on the device, as pygan's does; the losses are read every 20 steps. The image
gradient is left out where D learns, and D's weight gradients where G does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from measuring import host_seconds, measure
from steps import READ_EVERY, TOLERANCES, Start, Steps, difference_of_losses, ending

State = dict[str, Any]
MOMENTUM = 0.9  # of the moving statistics
LEARNING_RATE, BETA1, BETA2, EPS = 2e-4, 0.5, 0.999, 1e-8


@dataclass(frozen=True)
class Variant:
    """One way of running JAX. scan: 20 steps in one call."""

    name: str
    precision: str = "fp32"
    scan: bool = False
    only_gpu: bool = False


VARIANTS = (
    Variant("jax"),
    Variant("jax scan", scan=True),
    *(
        Variant(f"jax{' scan' if scan else ''} {precision}", precision, scan, precision == "TF32")
        for precision in ("TF32", "bf16")
        for scan in (False, True)
    ),
)
# What products of float32 arrays are made in; bfloat16 arrays know no other way.
PRODUCTS = {"fp32": "highest", "TF32": "tensorfloat32", "bf16": "highest"}


def import_jax() -> Any:
    """JAX, told to leave the others some of a GPU's memory. RuntimeError where it cannot be
    imported."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
    except ImportError as error:
        raise RuntimeError(f"JAX cannot be imported ({error})") from error
    return jax


class Session:
    """What is common to all variants of one run."""

    def __init__(self, jax: Any, steps: Steps, images: Any, start: Start, batch: int) -> None:
        self.jax, self.steps, self.start, self.batch = jax, steps, start, batch
        self.images = images.images
        self.device = jax.devices()[0]
        self.on_gpu = self.device.platform == "gpu"
        self.place = "cuda" if self.on_gpu else "cpu"

    @property
    def description(self) -> str:
        where = self.device.device_kind if self.on_gpu else f"{os.cpu_count()} cores"
        return f"JAX {self.jax.__version__}, {where}"

    def time(self, variant: Variant, samples: int, seconds: float) -> dict[str, Any]:
        """The figures of one variant. RuntimeError where it cannot run here, AssertionError where
        its losses are wrong."""
        if variant.only_gpu and not self.on_gpu:
            raise RuntimeError("needs a GPU")
        began = time.perf_counter()
        with self.jax.default_matmul_precision(PRODUCTS[variant.precision]):
            step = JaxStep(self, variant)
            apart = step.compared()
            peak = step.compile()
            clock = _Clock(self.jax, step)
            timing = measure(clock, [step], samples=samples, seconds=seconds)
            host = host_seconds(clock, step, step.read, samples) if self.on_gpu else None
        if not np.isfinite(step.read()).all():
            raise AssertionError("losses after the timing are no numbers")
        calls = READ_EVERY if variant.scan else 1
        timing = timing.divided(calls)
        return {
            "description": self.description,
            "seconds": timing,
            "images_per_second": self.batch / timing.median,
            "largest_loss_difference": apart,
            "launches": None,  # XLA does not say
            "host_seconds": host and host.divided(calls),
            "peak_bytes": peak,
            "prepared_in_seconds": time.perf_counter() - began - timing.median * calls * samples,
        }


class _Clock:
    """The host's clock around calls that were waited for: JAX has no events."""

    def __init__(self, jax: Any, step: JaxStep) -> None:
        self._jax, self._step = jax, step

    def synchronize(self) -> None:
        self._jax.block_until_ready(self._step.state)

    def start_clock(self) -> Callable[[], float]:
        self.synchronize()
        started = time.perf_counter()

        def read() -> float:
            self.synchronize()
            return time.perf_counter() - started

        return read


class JaxStep:
    """The state of one variant; a call is a training step (20 of them with `scan`)."""

    def __init__(self, session: Session, variant: Variant) -> None:
        self.jax, self.variant = session.jax, variant
        self._session, self._steps, self._start = session, session.steps, session.start
        jnp = self.jax.numpy
        start, batch = session.start, session.batch
        low, high = start.pixel_range
        self._scale, self._shift = (high - low) / 255, low
        self._noise_shape = start.noises[0].shape
        self._batch = batch
        order = np.random.default_rng(11).permutation(len(session.images))
        self._data = (jnp.asarray(session.images), jnp.asarray(order, jnp.int32))
        self.state: State = {
            "key": self.jax.random.key(11),
            "cursor": jnp.zeros((), jnp.int32),
            "row": jnp.zeros((), jnp.int32),
            "kept": jnp.zeros((READ_EVERY, 3), jnp.float32),
            "generator": self._network(start.generator),
            "discriminator": self._network(start.discriminator),
        }
        self._calls = 0

    def _network(self, weights: dict[str, np.ndarray]) -> State:
        """Parameters, Adam's moments and count, and moving statistics, as fresh arrays."""
        jnp = self.jax.numpy
        kinds = ("weight", "beta", "bias")
        trained = {kind: [jnp.array(a) for a in ending(weights, f"_{kind}")] for kind in kinds}
        zeros = [self.jax.tree.map(jnp.zeros_like, trained) for _ in range(2)]
        moving = [(jnp.zeros_like(beta), jnp.ones_like(beta)) for beta in trained["beta"]]
        count = jnp.zeros((), jnp.int32)
        return {"trained": trained, "m": zeros[0], "v": zeros[1], "count": count, "moving": moving}

    # The networks: (output, new moving statistics) from parameters and input, NHWC

    def _generated(self, trained: State, moving: Sequence[Any], noise: Any) -> tuple[Any, Any]:
        jax, jnp = self.jax, self.jax.numpy
        x, moved = noise, []
        layers = self._steps.shapes.generator
        for index, (w, layer) in enumerate(zip(trained["weight"], layers, strict=True)):
            stride, edge = layer[6], w.shape[1] - 1 - layer[7]
            # (C_in, kh, kw, C_out): the data gradient of a convolution is one with the kernel
            # turned round, over an input with gaps.
            x = self._convolved(x, jax.lax.rev(w, (1, 2)), "IHWO", 1, edge, gaps=stride)
            if index < len(trained["beta"]):
                x, statistics = self._normalised(x, trained["beta"][index], moving[index])
                x = jnp.maximum(x, 0)
                moved.append(statistics)
        return {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}[self._steps.last](x), moved

    def _judged(self, trained: State, moving: Sequence[Any], image: Any) -> tuple[Any, Any]:
        """Logits (N, 1, 1, 1)."""
        jnp, steps = self.jax.numpy, self._steps
        x, moved = image, []
        betas = iter(zip(trained["beta"], moving, strict=True))
        last = len(trained["weight"])
        layers = steps.shapes.discriminator
        for index, (w, layer) in enumerate(zip(trained["weight"], layers, strict=True), 1):
            x = self._convolved(x, w, "OHWI", layer[6], layer[7])
            if index == last:
                break
            if index >= steps.first_normalised:
                x, statistics = self._normalised(x, *next(betas))
                moved.append(statistics)
            x = jnp.where(x > 0, x, x * steps.slope)
            if steps.pooled and index == 1:
                n, height, width, c = x.shape
                x = x.reshape(n, height // 2, 2, width // 2, 2, c).mean((2, 4))
        x = x.astype(jnp.float32)
        return x + trained["bias"][0] if trained["bias"] else x, moved

    def _convolved(self, x: Any, w: Any, kernel: str, stride: int, pad: int, gaps: int = 1) -> Any:
        if self.variant.precision == "bf16":
            x, w = (each.astype(self.jax.numpy.bfloat16) for each in (x, w))
        return self.jax.lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            ((pad, pad), (pad, pad)),
            lhs_dilation=(gaps, gaps),
            dimension_numbers=("NHWC", kernel, "NHWC"),
        )

    def _normalised(self, x: Any, beta: Any, moving: tuple[Any, Any]) -> tuple[Any, Any]:
        """Batch norm with a gamma of 1, statistics in float32, biased variance."""
        jax, jnp = self.jax, self.jax.numpy
        wide = x.astype(jnp.float32)
        mean = wide.mean((0, 1, 2))
        var = jnp.square(wide - mean).mean((0, 1, 2))
        y = (wide - mean) * jax.lax.rsqrt(var + self._steps.eps) + beta
        batch = jax.lax.stop_gradient((mean, var))
        moved = tuple(
            MOMENTUM * old + (1 - MOMENTUM) * new for old, new in zip(moving, batch, strict=True)
        )
        return y.astype(x.dtype), moved

    # The step

    def _loss(
        self, trained: State, image: Any, moving: Sequence[Any], label: float
    ) -> tuple[Any, Any]:
        jnp = self.jax.numpy
        z, moved = self._judged(trained, moving, image)
        terms = jnp.maximum(z, 0) - z * label + jnp.log1p(jnp.exp(-jnp.abs(z)))
        return terms.mean(), moved

    def _updated(self, network: State, gradients: State) -> State:
        """Adam as in MXNet: the correction of both moments sits in the rate."""
        jnp, tree = self.jax.numpy, self.jax.tree
        count = network["count"] + 1
        t = count.astype(jnp.float32)
        rate = LEARNING_RATE * jnp.sqrt(1 - BETA2**t) / (1 - BETA1**t)
        m = tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, network["m"], gradients)
        v = tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, network["v"], gradients)
        trained = tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPS), network["trained"], m, v
        )
        return network | {"trained": trained, "m": m, "v": v, "count": count}

    def _train(self, state: State, noise: Any, real: Any) -> State:
        """D learns from generated and from real images, then G through D; keeps the losses."""
        jax, jnp = self.jax, self.jax.numpy
        gen, dis = state["generator"], state["discriminator"]
        generated, pull, moved = jax.vjp(
            lambda trained: self._generated(trained, gen["moving"], noise),
            gen["trained"],
            has_aux=True,
        )
        gen = gen | {"moving": moved}
        learn = jax.value_and_grad(self._loss, argnums=0, has_aux=True)
        losses, waiting = [], None
        for image, label in ((generated, 0.0), (real, 1.0)):
            (loss, moved), gradients = learn(dis["trained"], image, dis["moving"], label)
            dis = dis | {"moving": moved}
            losses.append(loss)
            if self._steps.joint and waiting is None:
                waiting = gradients
                continue
            if waiting is not None:
                gradients = jax.tree.map(jnp.add, waiting, gradients)
            dis = self._updated(dis, gradients)
        ask = jax.value_and_grad(self._loss, argnums=1, has_aux=True)
        (loss, moved), wish = ask(dis["trained"], generated, dis["moving"], 1.0)
        (gradients,) = pull(wish)
        row = jnp.stack([*losses, loss])
        return state | {
            "generator": self._updated(gen, gradients),
            "discriminator": dis | {"moving": moved},
            "kept": state["kept"].at[state["row"]].set(row),
            "row": (state["row"] + 1) % READ_EVERY,
        }

    def _step(self, state: State, table: Any, order: Any) -> State:
        jax, jnp = self.jax, self.jax.numpy
        count = len(order)
        rows = order[(state["cursor"] + jnp.arange(self._batch)) % count]
        real = table[rows].astype(jnp.float32) * self._scale + self._shift
        key, drawn = jax.random.split(state["key"])
        noise = jax.random.normal(drawn, self._noise_shape)
        moved = {"key": key, "cursor": (state["cursor"] + self._batch) % count}
        return self._train(state | moved, noise, real)

    def compared(self) -> float:
        """Makes the first steps from pygan's noise and images; the largest difference of a loss."""
        train = self.jax.jit(self._train, donate_argnums=0)
        for noise, real in zip(self._start.noises, self._start.reals, strict=True):
            self.state = train(self.state, noise, real)
        found = self.read()[-len(self._start.losses) :]
        return difference_of_losses(found, self._start, TOLERANCES[self.variant.precision])

    def compile(self) -> int:
        """Compiles the step; bytes of its state, of the images, and of what it needs between."""
        jax = self.jax

        def several(state: State, *data: Any) -> State:
            step = lambda state, _: (self._step(state, *data), None)  # noqa: E731
            return jax.lax.scan(step, state, length=READ_EVERY)[0]

        work = several if self.variant.scan else self._step
        self._run = jax.jit(work, donate_argnums=0).lower(self.state, *self._data).compile()
        use = self._run.memory_analysis()
        sizes = use.argument_size_in_bytes + use.output_size_in_bytes + use.temp_size_in_bytes
        return int(sizes - use.alias_size_in_bytes)

    def __call__(self) -> None:
        self.state = self._run(self.state, *self._data)
        self._calls += READ_EVERY if self.variant.scan else 1
        if self._calls % READ_EVERY == 0:
            self.read()

    def read(self) -> np.ndarray:
        """(20, 3): the losses of the latest steps, oldest first. Waits for the device."""
        rows, place = np.asarray(self.state["kept"]), int(self.state["row"])
        return np.concatenate([rows[place:], rows[:place]])
