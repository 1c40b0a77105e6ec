"""Every function of the kernel interface at the shapes of a network: the lesson's GAN, or DCGAN.

Functions that the network does not use are measured at shapes of its size: fully connected layers,
pooling, element-wise functions on one of the generator's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Layer = tuple[str, int, int, int, int, int, int, int]


@dataclass(frozen=True)
class Network:
    """The shapes of a GAN.

    generator (transposed convolutions), discriminator (convolutions): name, channels in, size in,
    channels out, size out, kernel, stride, pad. normalised: name, channels, size, the activation
    that follows, its slope. image, hidden, inner: (height, width, channels) of the images, of the
    generator's last hidden layer, and of the one before. pooled: channels, size. fully_connected:
    inputs, units. parameters: of the generator.
    """

    generator: tuple[Layer, ...]
    discriminator: tuple[Layer, ...]
    normalised: tuple[tuple[str, int, int, str, float], ...]
    image: tuple[int, int, int]
    hidden: tuple[int, int, int]
    inner: tuple[int, int, int]
    pooled: tuple[int, int]
    fully_connected: tuple[int, int]
    noise: int
    parameters: int
    batch: int
    biased: str = ""  # the convolution that has one


LESSON = Network(
    generator=(
        ("G1", 10, 1, 256, 4, 4, 2, 0),
        ("G2", 256, 4, 128, 7, 3, 2, 1),
        ("G3", 128, 7, 64, 14, 4, 2, 1),
        ("G4", 64, 14, 1, 28, 4, 2, 1),
    ),
    discriminator=(
        ("D1", 1, 28, 24, 26, 3, 1, 0),
        ("D2", 24, 13, 32, 6, 3, 2, 0),
        ("D3", 32, 6, 64, 4, 3, 1, 0),
        ("D4", 64, 4, 64, 1, 4, 1, 0),
        ("D5", 64, 1, 1, 1, 1, 1, 0),
    ),
    normalised=(
        ("G1", 256, 4, "relu", 0.0),
        ("G2", 128, 7, "relu", 0.0),
        ("G3", 64, 14, "relu", 0.0),
        ("D1", 24, 26, "leaky_relu", 0.25),
        ("D2", 32, 6, "leaky_relu", 0.25),
        ("D3", 64, 4, "leaky_relu", 0.25),
        ("D4", 64, 1, "leaky_relu", 0.25),
    ),
    image=(28, 28, 1),
    hidden=(14, 14, 64),
    inner=(7, 7, 128),
    pooled=(24, 26),
    fully_connected=(784, 128),
    noise=10,
    parameters=470_000,
    batch=32,
    biased="D5",
)
DCGAN = Network(
    generator=(
        ("G1", 100, 1, 512, 4, 4, 1, 0),
        ("G2", 512, 4, 256, 8, 4, 2, 1),
        ("G3", 256, 8, 128, 16, 4, 2, 1),
        ("G4", 128, 16, 64, 32, 4, 2, 1),
        ("G5", 64, 32, 3, 64, 4, 2, 1),
    ),
    discriminator=(
        ("D1", 3, 64, 64, 32, 4, 2, 1),
        ("D2", 64, 32, 128, 16, 4, 2, 1),
        ("D3", 128, 16, 256, 8, 4, 2, 1),
        ("D4", 256, 8, 512, 4, 4, 2, 1),
        ("D5", 512, 4, 1, 1, 4, 1, 0),
    ),
    normalised=(
        ("G1", 512, 4, "relu", 0.0),
        ("G2", 256, 8, "relu", 0.0),
        ("G3", 128, 16, "relu", 0.0),
        ("G4", 64, 32, "relu", 0.0),
        ("D2", 128, 16, "leaky_relu", 0.2),
        ("D3", 256, 8, "leaky_relu", 0.2),
        ("D4", 512, 4, "leaky_relu", 0.2),
    ),
    image=(64, 64, 3),
    hidden=(32, 32, 64),
    inner=(16, 16, 128),
    pooled=(64, 32),
    fully_connected=(100, 8192),
    noise=100,
    parameters=3_600_000,
    batch=64,
)
NETWORKS = {"lesson": LESSON, "dcgan": DCGAN}
# Two float32 sums of the same n terms in different order differ by about sqrt(n) 2^-24 of their
# size; the longest sum of the lesson, a weight gradient over 32 x 26 x 26 places, gives 9e-6, that
# of DCGAN at batch 512, over 512 x 32 x 32 places, 4e-5.
TOLERANCE = 1e-4
SLICES = 4
"""That a convolution of the middle leaves to the batch norm that reads it."""


@dataclass(frozen=True)
class Case:
    """One call: `arrays` are the positional arguments, `written` and `updated` index those that
    the function writes, or reads and writes. `flops` are useful ones, 0 where bytes matter."""

    function: str
    label: str
    arrays: tuple[np.ndarray | None, ...]
    written: tuple[int, ...]
    updated: tuple[int, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    flops: float = 0.0
    unread: int = 0  # bytes of the arguments that the call does not touch
    halves: tuple[int, ...] = ()  # arrays, by index, that hold bf16 numbers (stored.py)

    @property
    def nbytes(self) -> int:
        """Read once what is read, written once what is written."""
        sizes = [0 if array is None else array.nbytes for array in self.arrays]
        sizes = [n // 2 if index in self.halves else n for index, n in enumerate(sizes)]
        return sum(sizes) + sum(sizes[index] for index in self.updated) - self.unread

    def given(self, index: int) -> np.ndarray:
        """An array that the function cannot do without."""
        array = self.arrays[index]
        assert array is not None
        return array

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(None if array is None else array.shape for array in self.arrays)


def all_cases(
    quick: bool = False, network: str = "lesson", batch: int | None = None
) -> Iterator[Case]:
    """One case at a time, since the arrays of all of them may not fit into memory together.

    `batch` is the network's own if None. `quick`: batch 2 and an eighth of the channels, for trying
    the script out.
    """
    shapes = NETWORKS[network]
    build = _Builder(shapes, batch=2 if quick else batch or shapes.batch, divide=8 if quick else 1)
    makers: tuple[Callable[[_Builder], Iterable[Case]], ...] = (
        _transposed_convolutions,
        _convolutions,
        _fully_connected,
        _batch_norms,
        _activations,
        _poolings,
        _losses,
        _elementwise,
        _random,
        _data,
        _optimizers,
    )
    for make in makers:
        yield from make(build)


class _Builder:
    def __init__(self, network: Network, batch: int, divide: int) -> None:
        self.network, self.batch, self.divide = network, batch, divide
        self._rng = np.random.default_rng(20)

    def channels(self, count: int) -> int:
        return max(1, count // self.divide) if count > 10 else count

    def layer(self, shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """(batch, height, width, channels)"""
        height, width, channels = shape
        return self.batch, height, width, self.channels(channels)

    def normal(self, *shape: int) -> np.ndarray:
        return self._rng.standard_normal(shape, np.float32)

    def uniform(self, *shape: int) -> np.ndarray:
        return np.float32(0.1) + np.float32(0.8) * self._rng.random(shape, np.float32)

    def integers(self, low: int, high: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self._rng.integers(low, high, shape).astype(dtype)

    def permutation(self, count: int) -> np.ndarray:
        return self._rng.permutation(count).astype(np.int32)

    @staticmethod
    def out(*shape: int, dtype: Any = np.float32) -> np.ndarray:
        return np.zeros(shape, dtype)


def _geometry(stride: int, pad: int) -> dict[str, Any]:
    return {"stride": (stride,) * 2, "pad": (pad,) * 2, "dilation": (1, 1), "groups": 1}


def _transposed_convolutions(make: _Builder) -> Iterator[Case]:
    for name, c_in, size_in, c_out, size_out, kernel, stride, pad in make.network.generator:
        c_in, c_out = make.channels(c_in), make.channels(c_out)
        x_shape = (make.batch, size_in, size_in, c_in)
        y_shape = (make.batch, size_out, size_out, c_out)
        w_shape = (c_in, kernel, kernel, c_out)
        flops = 2.0 * make.batch * size_in**2 * kernel**2 * c_in * c_out
        passes = _three_passes(
            make, "transposed_convolution", f"{name} {c_in}-{c_out}, {size_in}-{size_out}",
            x_shape, w_shape, y_shape, None, _geometry(stride, pad), flops,
        )  # fmt: skip
        yield from passes
        if name != "G1" and c_in % 4 == 0:
            yield from _normalising(make, passes)


def _convolutions(make: _Builder) -> Iterator[Case]:
    for name, c_in, size_in, c_out, size_out, kernel, stride, pad in make.network.discriminator:
        c_in, c_out = make.channels(c_in), make.channels(c_out)
        x_shape = (make.batch, size_in, size_in, c_in)
        y_shape = (make.batch, size_out, size_out, c_out)
        w_shape = (c_out, kernel, kernel, c_in)
        flops = 2.0 * make.batch * size_out**2 * kernel**2 * c_in * c_out
        bias = make.normal(c_out) if name == make.network.biased else None
        label = f"{name} {c_in}-{c_out}, {size_in}-{size_out}"
        yield from _three_passes(
            make, "convolution", label, x_shape, w_shape, y_shape, bias,
            _geometry(stride, pad), flops,
        )  # fmt: skip
    for shape in ((make.batch, 1, 1, 1), make.layer(make.network.hidden)):
        label = "x".join(map(str, shape[1:]))
        yield Case("bias_backward", label, (make.normal(*shape), make.out(shape[-1])), (1,))


def _three_passes(
    make: _Builder,
    operator: str,
    label: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    y: tuple[int, ...],
    bias: np.ndarray | None,
    attributes: dict[str, Any],
    flops: float,
) -> list[Case]:
    """Forward, gradient of the data, gradient of the weights: as many products each."""
    forward = (make.normal(*x), make.normal(*w), bias, make.out(*y))
    data = (make.normal(*y), make.normal(*w), make.out(*x))
    weight = (make.normal(*x), make.normal(*y), make.out(*w))
    passes = (("forward", forward, 3), ("backward_data", data, 2), ("backward_weight", weight, 2))
    return [
        Case(f"{operator}_{name}", label, arrays, (output,), (), attributes, flops)
        for name, arrays, output in passes
    ]


def _normalising(make: _Builder, passes: list[Case]) -> Iterator[Case]:
    """A layer's forward and weight gradient with the batch norm before it on the way in."""
    for case in (passes[0], passes[2]):
        channels = case.given(0).shape[-1]
        mean, inverse, gamma, beta = (make.uniform(channels) for _ in range(4))
        normalisation = np.stack([mean, inverse, gamma, beta], axis=1)
        yield replace(
            case,
            label=f"{case.label}, normalised",
            arrays=(*case.arrays, normalisation),
            attributes=case.attributes | {"x_activation": "relu"},
        )


def _fully_connected(make: _Builder) -> list[Case]:
    n = make.batch
    d, h = (make.channels(count) for count in make.network.fully_connected)
    flops = 2.0 * n * d * h
    label = f"{d}-{h}"
    return [
        Case(
            "fully_connected_forward", label,
            (make.normal(n, d), make.normal(h, d), make.normal(h), make.out(n, h)), (3,),
            flops=flops,
        ),
        Case(
            "fully_connected_backward_data", label,
            (make.normal(n, h), make.normal(h, d), make.out(n, d)), (2,), flops=flops,
        ),
        Case(
            "fully_connected_backward_weight", label,
            (make.normal(n, d), make.normal(n, h), make.out(h, d)), (2,), flops=flops,
        ),
    ]  # fmt: skip


def _batch_norms(make: _Builder) -> Iterator[Case]:
    for name, channels, size, activation, slope in make.network.normalised:
        c = make.channels(channels)
        shape = (make.batch, size, size, c)
        label = f"{name} {c}, {size}x{size}, {activation}"
        shared = {"eps": 1e-3, "fix_gamma": False, "activation": activation, "slope": slope}
        x, gamma, beta = make.normal(*shape), make.uniform(c), make.normal(c)
        mean = x.mean((0, 1, 2))
        var = x.astype(np.float64).var((0, 1, 2)).astype(np.float32)
        yield from (
            Case(
                "batch_norm_forward_training", label,
                (x, gamma, beta, make.out(*shape), make.out(c), make.out(c)), (3, 4, 5), (),
                shared,
            ),
            Case(
                "batch_norm_normalisation_training", label,
                (x, gamma, beta, make.out(c), make.out(c), make.out(c, 4)), (3, 4, 5), (),
                {"eps": 1e-3, "fix_gamma": False},
            ),
            Case(
                "batch_norm_backward", label,
                (x, gamma, beta, mean, var, make.normal(*shape), make.out(*shape), make.out(c),
                 make.out(c)), (6, 7, 8), (), {**shared, "use_global_stats": False},
            ),
        )  # fmt: skip
        if name == "G2":  # the sum before it comes in slices in both networks
            yield from _batch_norms_of_slices(make, f"{label}, {SLICES} slices", shape, shared)
        if name in ("G2", "D1", "D2"):
            yield from (
                Case(
                    "batch_norm_forward_inference", label,
                    (x, gamma, beta, mean, var, make.out(*shape)), (5,), (), shared,
                ),
                Case(
                    "batch_norm_update_moving", label,
                    (mean, var, make.normal(c), make.uniform(c)), (), (2, 3), {"momentum": 0.9},
                ),
            )  # fmt: skip


def _batch_norms_of_slices(
    make: _Builder, label: str, shape: tuple[int, ...], attributes: dict[str, Any]
) -> list[Case]:
    """Batch norm that adds the slices of a convolution's sum: its data's, its gradient's."""
    c = shape[-1]
    slices = make.normal(SLICES, *shape)
    gamma, beta = make.uniform(c), make.normal(c)
    forward = (make.out(*shape), gamma, beta, make.out(*shape), make.out(c), make.out(c), slices)
    given = (make.normal(*shape), gamma, beta, make.normal(c), make.uniform(c), None)
    gradients = (make.out(*shape), make.out(c), make.out(c), None, None, slices)
    constant = {"use_global_stats": False}
    return [
        Case("batch_norm_forward_training", label, forward, (0, 3, 4, 5), (), attributes),
        Case("batch_norm_backward", label, given + gradients, (6, 7, 8), (), attributes | constant),
    ]


def _activations(make: _Builder) -> Iterator[Case]:
    image, hidden = make.layer(make.network.image), make.layer(make.network.hidden)
    for kind, shape in (
        ("sigmoid", image),
        *((kind, hidden) for kind in ("relu", "leaky_relu", "elu", "tanh", "softplus")),
    ):
        x = make.normal(*shape)
        attributes = {"kind": kind, "slope": 0.25 if kind == "leaky_relu" else 0.5}
        y = np.zeros_like(x)
        _twin("activation_forward")(x, y, **attributes)
        label = f"{kind}, {'x'.join(map(str, shape[1:]))}"
        yield from (
            Case("activation_forward", label, (x, make.out(*shape)), (1,), (), attributes),
            Case(
                "activation_backward", label, (x, y, make.normal(*shape), make.out(*shape)), (3,),
                (), attributes,
            ),
        )  # fmt: skip


def _poolings(make: _Builder) -> Iterator[Case]:
    c, size = make.channels(make.network.pooled[0]), make.network.pooled[1]
    x, y = (make.batch, size, size, c), (make.batch, size // 2, size // 2, c)
    for kind in ("avg", "max"):
        attributes = {"kind": kind, "kernel": (2, 2), "stride": (2, 2), "pad": (0, 0)}
        data = make.normal(*x)
        label = f"{kind} 2x2, {c}, {size}-{size // 2}"
        yield from (
            Case("pooling_forward", label, (data, make.out(*y)), (1,), (), attributes),
            Case(
                "pooling_backward", label, (data, make.normal(*y), make.out(*x)), (2,), (),
                attributes,
            ),
        )  # fmt: skip


def _losses(make: _Builder) -> list[Case]:
    n, classes = make.batch, 10
    z, t = make.normal(n, 1), make.uniform(n, 1)
    logits, labels = make.normal(n, classes), make.uniform(n, classes)
    labels /= labels.sum(1, keepdims=True)
    p = np.zeros_like(logits)
    _twin("softmax_forward")(logits, p)
    pixels = int(np.prod(make.network.image))
    a, b = make.normal(n, pixels), make.normal(n, pixels)
    scale = {"scale": 1.0 / n}
    one = make.out(1)
    return [
        Case("sigmoid_cross_entropy_forward", "D", (z, t, make.out(n, 1), one), (2, 3), (), scale),
        Case("sigmoid_cross_entropy_backward", "D", (z, t, make.out(n, 1)), (2,), (), scale),
        Case("softmax_forward", "10 classes", (logits, np.zeros_like(p)), (1,)),
        Case(
            "softmax_backward", "10 classes", (p, make.normal(n, classes), np.zeros_like(p)), (2,)
        ),
        Case(
            "softmax_cross_entropy_forward", "10 classes",
            (logits, labels, np.zeros_like(p), one), (2, 3), (), scale,
        ),
        Case(
            "softmax_cross_entropy_backward", "10 classes", (logits, labels, np.zeros_like(p)),
            (2,), (), scale,
        ),
        Case("mean_squared_error_forward", str(pixels), (a, b, one), (2,), (), scale),
        Case("mean_squared_error_backward", str(pixels), (a, b, np.zeros_like(a)), (2,), (), scale),
        Case("kullback_leibler_forward", str(pixels), (a, b, one), (2,), (), scale),
        Case("kullback_leibler_backward", str(pixels), (a, np.zeros_like(a)), (1,), (), scale),
    ]  # fmt: skip


def _elementwise(make: _Builder) -> list[Case]:
    shape = make.layer(make.network.inner)
    label = "x".join(map(str, shape[1:]))
    a, b = make.normal(*shape), make.normal(*shape)
    row = make.normal(1, 1, 1, shape[-1])
    wide = (*shape[:-1], 2 * shape[-1])
    c = make.normal(*wide)
    place = {"axis": 3, "offset": shape[-1]}
    mask = make.integers(0, 2, shape, np.uint8)
    state = np.array([7, 3], np.uint64)
    return [
        Case("add_forward", label, (a, b, make.out(*shape)), (2,)),
        Case("multiply_forward", label, (a, b, make.out(*shape)), (2,)),
        Case("multiply_backward", label, (a, b, make.out(*shape)), (2,)),
        Case("axpy", label, (a, make.out(*shape)), (), (1,), {"alpha": 1e-3, "accumulate": True}),
        Case("exp_forward", label, (a, make.out(*shape)), (1,)),
        Case("reparametrization_forward", label, (a, b, a, make.out(*shape)), (3,)),
        Case("reparametrization_backward_lnsd", label, (a, b, a, make.out(*shape)), (3,)),
        Case("reparametrization_backward_noise", label, (a, b, make.out(*shape)), (2,)),
        Case("broadcast_multiply_forward", label, (a, row, make.out(*shape)), (2,)),
        Case("broadcast_multiply_backward", label, (a, b, make.out(*row.shape)), (2,)),
        Case(
            "concatenate_forward", label, (a, make.out(*wide)), (), (1,), place,
            unread=3 * a.nbytes,
        ),
        Case(
            "concatenate_backward", label, (c, make.out(*shape)), (1,), (), place,
            unread=a.nbytes,
        ),
        Case("fill", label, (make.out(*shape),), (0,), (), {"value": 0.5}),
        Case("to_bf16", label, (a, make.out(*shape, dtype=np.uint16)), (1,)),
        Case(
            "dropout_forward", label,
            (state, a, make.out(*shape), make.out(*shape, dtype=np.uint8)), (2, 3), (0,),
            {"rate": 0.5},
        ),
        Case("dropout_backward", label, (mask, a, make.out(*shape)), (2,), (), {"rate": 0.5}),
    ]  # fmt: skip


def _random(make: _Builder) -> Iterator[Case]:
    state = np.array([7, 3], np.uint64)
    noise = make.network.noise
    for label, shape in ((f"noise {noise}", (make.batch, noise)), ("2^20", (1 << 20,))):
        if make.divide > 1 and len(shape) == 1:
            continue
        yield from (
            Case("random_uniform", label, (state, make.out(*shape)), (1,), (0,), {"low": -1.0}),
            Case("random_normal", label, (state, make.out(*shape)), (1,), (0,)),
        )


def _data(make: _Builder) -> list[Case]:
    images = max(1000, make.batch)
    image = make.network.image
    pixels, label = int(np.prod(image)), "x".join(map(str, image))
    table = make.integers(0, 256, (images, *image), np.uint8)
    labels = make.integers(0, 10, (images,), np.uint8)
    order, cursor = make.permutation(images), np.array([990], np.int32)
    n = make.batch
    passes = [(make.normal(1), make.uniform(n)) for _ in range(3)]  # losses and scores
    offsets = [place + i * (1 + n) for i in range(3) for place in (0, 1)]
    return [
        Case(
            "gather_rows", label, (table, order, cursor, make.out(n, *image)), (3,), (),
            {"scale": 1 / 255}, unread=table.nbytes - n * pixels + order.nbytes - 4 * n,
        ),
        Case(
            "gather_one_hot", "10 classes", (labels, order, cursor, make.out(n, 10)), (3,),
            unread=labels.nbytes - n + order.nbytes - 4 * n,
        ),
        Case(
            "store_row", "losses",
            (np.array([1], np.int32), make.normal(20, 3 * (1 + n)),
             *(part for pair in passes for part in pair)), (), (1,), {"offsets": offsets},
            unread=2 * 4 * 3 * (1 + n) * 19 + 4 * 3 * (1 + n),
        ),
        Case("advance_cursor", "one", (cursor,), (), (0,), {"step": n, "modulo": images}),
    ]  # fmt: skip


def _optimizers(make: _Builder) -> list[Case]:
    n = make.network.parameters // make.divide
    label = f"{n} parameters"
    step, rate = np.full(1024, 4, np.int32), np.array([2e-4], np.float32)
    w, g, m, v = make.normal(n), make.normal(n), make.normal(n), make.uniform(n)
    return [
        Case(
            "adam_update", label, (w, g, m, v, step, rate), (), (0, 2, 3, 4),
            {"beta1": 0.5, "beta2": 0.999, "eps": 1e-8},
        ),
        Case("sgd_update", label, (w, g, m, step, rate), (), (0, 2, 3), {"momentum": 0.9}),
        Case("rmsprop_update", label, (w, g, v, step, rate), (), (0, 2, 3), {"clip_gradient": 1.0}),
    ]  # fmt: skip


def _twin(name: str) -> Callable[..., None]:
    import pygan.reference

    return getattr(pygan.reference, name)
