"""The same functions by others, for kernels.py: PyTorch (cuDNN on a GPU), and cuBLAS.

A peer gets the arrays of a case, computes what the function computes, is compared with the twin,
and is timed as pygan is, one call after the other and as a CUDA graph of calls. PyTorch runs in
float32 with TF32 off, in both memory layouts where that matters; on a GPU also with TF32 and in
bfloat16, both channels last and named so. Gradients come from autograd, asked for the wanted
arguments alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import Case
from measuring import Timing, difference, measure

# Largest difference to the twin, as a share of its largest value: float32 as for pygan (cases.py).
# TF32 keeps 10 bits of a factor, bfloat16 7 bits of every value stored: 2^-11 and 2^-8 a rounding,
# of which products, sums and up to three stored values in a row make some; ten of them are allowed.
TOLERANCES = {"fp32": 1e-4, "TF32": 10 * 2.0**-11, "bf16": 10 * 2.0**-8}
PRODUCTS = ("convolution_", "fully_connected_")
IMAGES = ("convolution_", "batch_norm_", "pooling_")  # the memory layout matters
NARROW = (*PRODUCTS, "batch_norm_forward", "activation_", "pooling_")  # also measured in bfloat16


Figure = tuple[str, Timing, float]  # name, time of one call, share of the tolerance


@dataclass(frozen=True)
class How:
    """How to time: samples of so many seconds, among `copies` of the arrays, also as a graph."""

    samples: int
    seconds: float
    copies: int
    graph: bool

    @staticmethod
    def rounds(works: Sequence[Any]) -> int:
        """Calls of each work in one graph: enough that launching it does not count."""
        return -(-16 // len(works))


class TorchPeer:
    """One way of running PyTorch. `name` says precision and layout."""

    def __init__(self, torch: Any, precision: str, layout: str) -> None:
        self.torch, self.precision, self.layout = torch, precision, layout
        self.name = f"torch {precision} {layout}"
        self.on_gpu = torch.cuda.is_available()
        self.place = "cuda" if self.on_gpu else "cpu"
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def takes(self, case: Case) -> bool:
        if "x_activation" in case.attributes or "normalisation" in case.function:
            return False  # a batch norm on the way into a convolution
        function = case.function.removeprefix("transposed_")
        if self.precision == "TF32" and not function.startswith(PRODUCTS):
            return False
        if self.precision == "bf16" and not function.startswith(NARROW):
            return False
        if self.precision == "bf16" and case.attributes.get("kind") == "max":
            return False  # rounded values are equal: another maximum gets the gradient
        if self.layout == "NCHW" and not function.startswith(IMAGES):
            return False
        return _maker(case) is not None

    def run(self, case: Case, expected: Sequence[np.ndarray], how: How) -> Iterator[Figure]:
        """Yields the figures; AssertionError where the result is wrong."""
        torch = self.torch
        tf32 = self.precision == "TF32"
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True
        device = TorchDevice(torch, self.on_gpu)
        with device.stream():
            make = _maker(case)
            assert make is not None  # or `takes` had refused it
            pairs = [make(self, case) for _ in range(how.copies)]
            works = [work for work, _ in pairs]
            share = self._check(case, pairs[0][1](works[0]()), expected)
            timing = measure(device, works, samples=how.samples, seconds=how.seconds)
            yield self.name, timing, share
            if how.graph and self.on_gpu:
                rounds = how.rounds(works)
                graph = device.record(works, rounds)
                timing = measure(device, [graph.replay], samples=how.samples, seconds=how.seconds)
                yield f"{self.name} graph", timing.divided(rounds * len(works)), share

    def _check(self, case: Case, result: Any, expected: Sequence[np.ndarray]) -> float:
        bound = TOLERANCES[self.precision]
        got = np.ascontiguousarray(result.detach().float().cpu().numpy())
        return difference(f"{self.name}: {case.function}", got, expected[0], bound)

    def tensor(self, array: np.ndarray, gradient: bool = False) -> Any:
        """As PyTorch holds it: images and kernels (.., C) with the channels as the second axis."""
        made = self.torch.from_numpy(array)
        if array.ndim == 4:
            made = made.permute(0, 3, 1, 2)
            if self.layout == "NCHW":
                made = made.contiguous()
        made = made.to(self.place, self._dtype)
        return made.requires_grad_(gradient)

    def vector(self, array: np.ndarray) -> Any:
        """Statistics and factors of batch norm, which stay in float32."""
        return self.torch.from_numpy(array).to(self.place)


class TorchDevice:
    """What :func:`measuring.measure` needs of a device; a GPU's clock is read through events."""

    name = "torch"

    def __init__(self, torch: Any, on_gpu: bool) -> None:
        self._torch, self._on_gpu = torch, on_gpu
        self._stream = torch.cuda.Stream() if on_gpu else None

    def stream(self) -> Any:
        """A context in which work goes to one stream of its own, as recording needs it."""
        return self._torch.cuda.stream(self._stream) if self._on_gpu else contextlib.nullcontext()

    def record(self, works: Sequence[Callable[[], Any]], rounds: int) -> Any:
        """A CUDA graph of `rounds` calls of every work."""
        cuda = self._torch.cuda
        graph = cuda.CUDAGraph()
        self.synchronize()
        with cuda.graph(graph, stream=self._stream, capture_error_mode="relaxed"):
            for _ in range(rounds):
                for work in works:
                    work()
        return graph

    def start_clock(self) -> Callable[[], float]:
        if not self._on_gpu:
            started = time.perf_counter()
            return lambda: time.perf_counter() - started
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()

        def read() -> float:
            end.record()
            end.synchronize()
            return 1e-3 * start.elapsed_time(end)

        return read

    def synchronize(self) -> None:
        if self._on_gpu:
            self._torch.cuda.synchronize()


def _nhwc(result: Any) -> Any:
    return result.permute(0, 2, 3, 1) if result.ndim == 4 else result


Work = tuple[Callable[[], Any], Callable[[Any], Any]]


def _gradient(peer: TorchPeer, output: Any, of: Any, dy: Any) -> Work:
    def work() -> Any:
        return peer.torch.autograd.grad(output, of, dy, retain_graph=True)[0]

    return work, _nhwc


def _convolution(peer: TorchPeer, case: Case) -> Work:
    functional = peer.torch.nn.functional
    transposed = case.function.startswith("transposed_")
    call = functional.conv_transpose2d if transposed else functional.conv2d
    attributes = {"stride": case.attributes["stride"], "padding": case.attributes["pad"]}
    kind = case.function.partition("convolution_")[2]
    first, second = peer.tensor(case.given(0)), peer.tensor(case.given(1))
    if kind == "forward":
        bias = None if case.arrays[2] is None else peer.tensor(case.given(2))

        def forward() -> Any:
            with peer.torch.no_grad():
                return call(first, second, bias, **attributes)

        return forward, _nhwc
    wanted = peer.tensor(np.zeros_like(case.given(2)), gradient=True)
    if kind == "backward_data":  # dy, w -> dx
        return _gradient(peer, call(wanted, second, **attributes), wanted, first)
    return _gradient(peer, call(first, wanted, **attributes), wanted, second)  # x, dy -> dw


def _fully_connected(peer: TorchPeer, case: Case) -> Work:
    torch = peer.torch
    a, b = peer.tensor(case.given(0)), peer.tensor(case.given(1))
    kind = case.function.partition("connected_")[2]
    if kind == "forward":
        bias = peer.tensor(case.given(2))
        return (lambda: torch.nn.functional.linear(a, b, bias)), _nhwc
    if kind == "backward_data":
        return (lambda: a @ b), _nhwc
    return (lambda: b.t() @ a), _nhwc


def _activate(peer: TorchPeer, kind: str | None, slope: float) -> Callable[[Any], Any]:
    functional = peer.torch.nn.functional
    return {
        None: lambda x: x,
        "relu": functional.relu,
        "leaky_relu": lambda x: functional.leaky_relu(x, slope),
        "elu": lambda x: functional.elu(x, slope),
        "sigmoid": peer.torch.sigmoid,
        "tanh": peer.torch.tanh,
        "softplus": functional.softplus,
    }[kind]


def _batch_norm(peer: TorchPeer, case: Case) -> Work:
    call = peer.torch.nn.functional.batch_norm
    act = _activate(peer, case.attributes["activation"], case.attributes["slope"])
    eps = case.attributes["eps"]
    backward = case.function == "batch_norm_backward"
    x = peer.tensor(case.given(0), gradient=backward)
    gamma, beta = peer.vector(case.given(1)), peer.vector(case.given(2))
    if case.function == "batch_norm_forward_inference":
        mean, var = peer.vector(case.given(3)), peer.vector(case.given(4))
        return (lambda: act(call(x, mean, var, gamma, beta, eps=eps))), _nhwc
    if not backward:
        return (lambda: act(call(x, None, None, gamma, beta, training=True, eps=eps))), _nhwc
    inputs = (x, gamma.requires_grad_(), beta.requires_grad_())
    y = act(call(*inputs[:1], None, None, *inputs[1:], training=True, eps=eps))
    dy = peer.tensor(case.given(5))

    def work() -> Any:
        return peer.torch.autograd.grad(y, inputs, dy, retain_graph=True)[0]

    return work, _nhwc


def _activation(peer: TorchPeer, case: Case) -> Work:
    act = _activate(peer, case.attributes["kind"], case.attributes["slope"])
    if case.function == "activation_forward":
        x = peer.tensor(case.given(0))
        return (lambda: act(x)), _nhwc
    x = peer.tensor(case.given(0), gradient=True)
    return _gradient(peer, act(x), x, peer.tensor(case.given(2)))


def _pooling(peer: TorchPeer, case: Case) -> Work:
    functional = peer.torch.nn.functional
    pool = functional.max_pool2d if case.attributes["kind"] == "max" else functional.avg_pool2d
    attributes = (case.attributes["kernel"], case.attributes["stride"], case.attributes["pad"])
    if case.function == "pooling_forward":
        x = peer.tensor(case.given(0))
        return (lambda: pool(x, *attributes)), _nhwc
    x = peer.tensor(case.given(0), gradient=True)
    return _gradient(peer, pool(x, *attributes), x, peer.tensor(case.given(1)))


def _bias(peer: TorchPeer, case: Case) -> Work:
    dy = peer.tensor(case.given(0))
    return (lambda: dy.sum((0, 2, 3))), _nhwc


def _two(peer: TorchPeer, case: Case) -> Work:
    a, b = peer.tensor(case.given(0)), peer.tensor(case.given(1))
    if case.function == "add_forward":
        return (lambda: a + b), _nhwc
    return (lambda: a * b), _nhwc


def _exp(peer: TorchPeer, case: Case) -> Work:
    a = peer.tensor(case.given(0))
    return (lambda: peer.torch.exp(a)), _nhwc


def _softmax(peer: TorchPeer, case: Case) -> Work:
    x = peer.tensor(case.given(0))
    return (lambda: peer.torch.softmax(x, -1)), _nhwc


def _adam(peer: TorchPeer, case: Case) -> Work:
    """PyTorch's fused form on one flat tensor. Its epsilon is scaled by the bias correction, which
    the variances of the case, 0.1 and more, hide."""
    torch = peer.torch
    w, g, m, v = (torch.from_numpy(case.given(i).copy()).to(peer.place) for i in range(4))
    w.requires_grad_()
    w.grad = g
    options = {key: case.attributes[key] for key in ("beta1", "beta2", "eps")}
    optimizer = torch.optim.Adam(
        [w],
        lr=float(case.given(5)[0]),
        betas=(options["beta1"], options["beta2"]),
        eps=options["eps"],
        fused=True,
        capturable=peer.on_gpu,
    )
    step = torch.tensor(float(case.given(4)[0]), device=peer.place)
    optimizer.state[w] = {"step": step, "exp_avg": m, "exp_avg_sq": v}

    def work() -> Any:
        optimizer.step()
        return w

    return work, _nhwc


def _maker(case: Case) -> Callable[[TorchPeer, Case], Work] | None:
    """How PyTorch computes this function, or None where it has no counterpart of the same work."""
    name = case.function.removeprefix("transposed_")
    if case.label.endswith(" slices"):
        return None
    exact = {
        "bias_backward": _bias,
        "add_forward": _two,
        "multiply_forward": _two,
        "broadcast_multiply_forward": _two,
        "exp_forward": _exp,
        "softmax_forward": _softmax,
        "batch_norm_forward_training": _batch_norm,
        "batch_norm_forward_inference": _batch_norm,
        "batch_norm_backward": _batch_norm,
        "activation_forward": _activation,
        "activation_backward": _activation,
        "adam_update": _adam,
    }
    if name in exact:
        return exact[name]
    families = {"convolution_": _convolution, "fully_connected_": _fully_connected}
    families["pooling_"] = _pooling
    return next((make for family, make in families.items() if name.startswith(family)), None)


class CublasPeer:
    """cuBLAS, float32, for fully connected layers; the bias is left out, which favours it."""

    name = "cuBLAS"

    def __init__(self, device: Any) -> None:
        from pygan.bindings.cublas import Cublas

        self._device, self._cublas = device, Cublas(device.context)

    def takes(self, case: Case) -> bool:
        return case.function.startswith("fully_connected_")

    def run(self, case: Case, expected: Sequence[np.ndarray], how: How) -> Iterator[Figure]:
        """Yields the figure; AssertionError where the result is wrong."""
        works = [self._bind(case, expected[0].shape) for _ in range(how.copies)]
        wanted = expected[0]
        if case.function == "fully_connected_forward":
            wanted = wanted - case.given(2)
        share = difference(f"cuBLAS: {case.function}", works[0](), wanted, TOLERANCES["fp32"])
        timing = measure(self._device, works, samples=how.samples, seconds=how.seconds)
        yield self.name, timing, share

    def _bind(self, case: Case, shape: tuple[int, ...]) -> Callable[[], Any]:
        a, b = (self._device.from_numpy(array) for array in case.arrays[:2])
        c = self._device.empty(shape)
        kind = case.function.partition("connected_")[2]

        def work() -> Any:
            if kind == "forward":
                self._cublas.sgemm(a, b, c, transpose_b=True)
            elif kind == "backward_data":
                self._cublas.sgemm(a, b, c)
            else:
                self._cublas.sgemm(b, a, c, transpose_a=True)
            return c

        return work


def find_peers(devices: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """(peers, why others are missing). PyTorch on the GPU where a device `cuda` is measured."""
    peers: list[Any] = []
    missing: list[str] = []
    gpu = next((device for device in devices if device.name == "cuda"), None)
    try:
        peers += _torch_peers(gpu is not None)
    except (ImportError, RuntimeError) as error:
        missing.append(f"PyTorch: {error}")
    if gpu is None:
        missing.append("cuBLAS: runs on a GPU only")
    else:
        from pygan.bindings.errors import DeviceUnavailable

        try:
            peers.append(CublasPeer(gpu))
        except DeviceUnavailable as error:
            missing.append(f"cuBLAS: {error}")
    return peers, missing


def _torch_peers(gpu: bool) -> Iterator[TorchPeer]:
    import torch

    if torch.cuda.is_available() != gpu:
        there, measured = ("a GPU", "none") if not gpu else ("no GPU", "one")
        raise RuntimeError(f"sees {there}, and device cuda is measured on {measured}")
    if not gpu:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield TorchPeer(torch, "fp32", "NCHW")
    yield TorchPeer(torch, "fp32", "NHWC")
    if gpu:
        yield TorchPeer(torch, "TF32", "NHWC")
        yield TorchPeer(torch, "bf16", "NHWC")


def time_product(size: int, samples: int) -> Timing:
    """A float32 matrix product in PyTorch on the GPU, TF32 off. RuntimeError without a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    device = TorchDevice(torch, on_gpu=True)
    with device.stream():
        a, b = (torch.randn(size, size, device="cuda") for _ in range(2))
        return measure(device, [lambda: a @ b], samples=samples, seconds=0.02)
