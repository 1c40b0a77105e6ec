"""The same training steps in PyTorch, as peers: same networks, same data path, same work.

Every peer starts from pygan's weights, and its losses over three steps with pygan's noise and
images are compared with numpy's before it is timed. The step that is timed draws its noise and
gathers its images on the device, as pygan's does; the losses are read every 20 steps. The image
gradient is left out where D learns, and D's weight gradients where G does.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from measuring import host_seconds, measure
from peers import TorchDevice
from steps import COMPARED_STEPS, READ_EVERY, TOLERANCES, Start, Steps, difference_of_losses, ending


@dataclass(frozen=True)
class Variant:
    """One way of running PyTorch. compile: a mode of torch.compile, "" for none. graph: the step,
    compiled or not, recorded by hand as a CUDA graph. fused: the optimizer's own fused kernel."""

    name: str
    group: str
    channels_last: bool = True
    precision: str = "fp32"
    fused: bool = False
    compile: str = ""
    graph: bool = False
    only_cuda: bool = False


def _variants() -> Iterator[Variant]:
    yield Variant("torch NCHW", "eager", channels_last=False)
    yield Variant("torch NHWC", "eager")
    yield Variant("torch NHWC fused Adam", "eager", fused=True)
    for precision in ("TF32", "bf16"):
        only = precision == "TF32"
        name = f"torch NHWC fused Adam {precision}"
        yield Variant(name, "eager", precision=precision, fused=True, only_cuda=only)
    for layout in ("NCHW", "NHWC"):
        last = layout == "NHWC"
        for precision in ("fp32", "TF32", "bf16"):
            name = f"torch graph {layout}" + ("" if precision == "fp32" else f" {precision}")
            yield Variant(name, "graph", last, precision, fused=True, graph=True, only_cuda=True)
    for mode in ("default", "reduce-overhead", "max-autotune"):
        group = "autotune" if mode == "max-autotune" else "compile"
        for precision in ("fp32", "TF32", "bf16"):
            name = f"torch compile {mode}" + ("" if precision == "fp32" else f" {precision}")
            only = precision == "TF32" or mode == "reduce-overhead"
            yield Variant(name, group, True, precision, fused=True, compile=mode, only_cuda=only)
    for precision in ("fp32", "TF32", "bf16"):
        name = "torch compile default, graph" + ("" if precision == "fp32" else f" {precision}")
        yield Variant(name, "compile", True, precision, True, "default", graph=True, only_cuda=True)


VARIANTS = tuple(_variants())
GROUPS = tuple(dict.fromkeys(variant.group for variant in VARIANTS))


def import_torch() -> Any:
    """PyTorch with as many threads as there are cores. RuntimeError where it cannot be imported."""
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(f"PyTorch cannot be imported ({error})") from error
    if not torch.cuda.is_available():
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch


class Session:
    """What is common to all variants of one run."""

    def __init__(self, torch: Any, steps: Steps, images: Any, start: Start, batch: int) -> None:
        self.torch, self.steps, self.start, self.batch = torch, steps, start, batch
        self.on_gpu = torch.cuda.is_available()
        self.place = "cuda" if self.on_gpu else "cpu"
        self.device = TorchDevice(torch, self.on_gpu)
        self.images = images.images

    @property
    def description(self) -> str:
        torch = self.torch
        where = (
            torch.cuda.get_device_name() if self.on_gpu else f"{torch.get_num_threads()} threads"
        )
        return f"PyTorch {torch.__version__}, {where}"

    def time(self, variant: Variant, samples: int, seconds: float) -> dict[str, Any]:
        """The figures of one variant. RuntimeError where it cannot run here, AssertionError where
        its losses are wrong."""
        torch = self.torch
        if variant.only_cuda and not self.on_gpu:
            raise RuntimeError("needs a GPU")
        tf32 = variant.precision == "TF32"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True
        # What the variant before compiled and recorded, or left in a cycle, is not this one's.
        torch.compiler.reset()
        gc.collect()
        before = 0
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        with self.device.stream():
            step = TorchStep(self, variant)
            apart = self._compare(step, TOLERANCES[variant.precision])
            work: Callable[[], None] = step.recorded() if variant.graph else step
            timing = measure(self.device, [work], samples=samples, seconds=seconds)
            host = host_seconds(self.device, work, step.read, samples) if self.on_gpu else None
            peak = torch.cuda.max_memory_allocated() - before if self.on_gpu else None
            launches = self._launches(step, work) if self.on_gpu else None
        if not np.isfinite(step.read()).all():
            raise AssertionError("losses after the timing are no numbers")
        return {
            "description": self.description,
            "seconds": timing,
            "images_per_second": self.batch / timing.median,
            "largest_loss_difference": apart,
            "launches": launches,
            "host_seconds": host,
            "peak_bytes": peak,
            "prepared_in_seconds": time.perf_counter() - began - timing.median * samples,
        }

    def _compare(self, step: TorchStep, tolerance: float) -> float:
        start = self.start
        for noise, real in zip(start.noises, start.reals, strict=True):
            step.keep(step.train(step.tensor(noise), step.tensor(real)))
        return difference_of_losses(step.read()[-COMPARED_STEPS:], start, tolerance)

    def _launches(self, step: TorchStep, work: Callable[[], None]) -> int | None:
        """Kernels, copies and fills that the GPU executes for one step; None where it may not be
        profiled."""
        profiler = self.torch.profiler
        step.count_from_here()  # so that no losses are read
        try:
            with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
                work()
                self.torch.cuda.synchronize()
            events = profile.events()
        except RuntimeError:
            return None
        on_device = self.torch.autograd.DeviceType.CUDA
        # Ranges that PyTorch names for people lie on the device's time line too.
        return (
            sum(
                event.device_type == on_device and not getattr(event, "is_user_annotation", False)
                for event in events
            )
            or None
        )


class TorchStep:
    """The networks, optimizers and data of one variant; a call is a training step."""

    def __init__(self, session: Session, variant: Variant) -> None:
        torch, steps = session.torch, session.steps
        self.torch, self.variant, self._session = torch, variant, session
        self._layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        self._joint = steps.joint
        torch.manual_seed(11)
        self.generator = self._placed(_generator(torch, steps, session.start.generator))
        self.discriminator = self._placed(_discriminator(torch, steps, session.start.discriminator))
        self._trained = [
            [p for p in network.parameters() if p.requires_grad]
            for network in (self.generator, self.discriminator)
        ]
        self._adams = [
            torch.optim.Adam(
                parameters,
                lr=2e-4,
                betas=(0.5, 0.999),
                fused=True if variant.fused else None,
                capturable=variant.graph,
            )
            for parameters in self._trained
        ]
        self._loss = torch.nn.BCEWithLogitsLoss()
        self._generate: Callable[[Any], Any] = self.generator
        self._judge: Callable[[Any, Any], Any] = self._judged
        if variant.compile:
            # fullgraph: a network that falls apart into pieces would be another measurement
            compiled = {"mode": variant.compile, "fullgraph": True, "dynamic": False}
            self._generate = torch.compile(self.generator, **compiled)
            self._judge = torch.compile(self._judged, **compiled)
        self._make_data(session)

    def _make_data(self, session: Session) -> None:
        torch, batch, place = self.torch, session.batch, session.place
        low, high = session.start.pixel_range
        self._scale, self._shift = (high - low) / 255, low
        images = session.images.transpose(0, 3, 1, 2).copy()
        self._table = torch.from_numpy(images).to(place)
        self._order = torch.randperm(len(images)).to(place)
        self._cursor = torch.zeros(1, dtype=torch.long, device=place)
        self._ahead = torch.arange(batch, device=place)
        shape = (batch, 1, 1, 1)
        self._labels = [torch.full(shape, value, device=place) for value in (0.0, 1.0)]
        self._noise_shape = (batch, session.start.noises[0].shape[3], 1, 1)
        self._kept = torch.zeros(READ_EVERY, 3, device=place)
        self._row = torch.zeros(1, dtype=torch.long, device=place)
        self._steps = 0

    def _placed(self, network: Any) -> Any:
        return network.to(self._session.place).to(memory_format=self._layout).train()

    def tensor(self, array: np.ndarray) -> Any:
        """Images or noise (N, H, W, C) as this variant holds them."""
        made = self.torch.from_numpy(array.transpose(0, 3, 1, 2).copy())
        return made.to(self._session.place).to(memory_format=self._layout)

    def _judged(self, images: Any, label: Any) -> Any:
        return self._loss(self.discriminator(images), label)

    def _precision(self) -> Any:
        if self.variant.precision != "bf16":
            return contextlib.nullcontext()
        return self.torch.autocast(self._session.place, dtype=self.torch.bfloat16)

    def train(self, noise: Any, real: Any) -> Sequence[Any]:
        """D learns from generated and from real images, then G through D. The three losses."""
        if self.variant.compile and not self.variant.graph:
            # What the last step made may be overwritten now; within a step nothing may, though G's
            # backward runs only after three passes through D.
            self.torch.compiler.cudagraph_mark_step_begin()
        fake_label, real_label = self._labels
        adam_g, adam_d = self._adams
        with self._precision():
            generated = self._generate(noise)
        losses = []
        for image, label in ((generated.detach(), fake_label), (real, real_label)):
            with self._precision():
                loss = self._judge(image, label)
            loss.backward()
            losses.append(loss.detach())
            if not self._joint or label is real_label:
                adam_d.step()
                adam_d.zero_grad(set_to_none=True)
        for parameter in self._trained[1]:
            parameter.requires_grad_(False)
        with self._precision():
            loss = self._judge(generated, real_label)
        loss.backward()
        adam_g.step()
        # Gradients end with the step that made them: the next makes its own, in memory that a
        # recorded graph owns.
        adam_g.zero_grad(set_to_none=True)
        for parameter in self._trained[1]:
            parameter.requires_grad_(True)
        return [*losses, loss.detach()]

    def keep(self, losses: Sequence[Any]) -> None:
        """Leaves the losses on the device, where `read` finds them."""
        self._kept.index_copy_(0, self._row, self.torch.stack(list(losses)).float()[None])
        self._row.add_(1).remainder_(READ_EVERY)

    def read(self) -> np.ndarray:
        """(up to 20, 3): the losses of the latest steps, oldest first. Waits for the device."""
        rows, place = self._kept.cpu().numpy(), int(self._row)
        return np.concatenate([rows[place:], rows[:place]])

    def launches(self) -> None:
        """A step, without reading losses."""
        torch = self.torch
        rows = self._order[(self._cursor + self._ahead).remainder(len(self._order))]
        self._cursor.add_(len(self._ahead)).remainder_(len(self._order))
        real = self._table[rows].float().mul_(self._scale).add_(self._shift)
        noise = torch.randn(self._noise_shape, device=self._session.place)
        noise = noise.to(memory_format=self._layout)
        self.keep(self.train(noise, real.to(memory_format=self._layout)))

    def __call__(self) -> None:
        self.launches()
        self._count()

    def count_from_here(self) -> None:
        """The losses are read after the 20th step from now."""
        self._steps = 0

    def _count(self) -> None:
        self._steps += 1
        if self._steps % READ_EVERY == 0:
            self.read()

    def recorded(self) -> Callable[[], None]:
        """The step as a CUDA graph made by hand, as PyTorch's notes on graphs describe it: warmed
        up and recorded on one stream that is not the default one, gradients made anew inside."""
        torch = self.torch
        for _ in range(11):  # the optimizers' state, what is compiled, cuDNN's choices
            self.launches()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            self.launches()

        def replay() -> None:
            graph.replay()
            self._count()

        return replay


def _weight(array: np.ndarray) -> np.ndarray:
    """(a, kh, kw, b) as PyTorch's (a, b, kh, kw), for both kinds of convolution."""
    return array.transpose(0, 3, 1, 2).copy()


def _filled(torch: Any, parameter: Any, array: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(array))


def _normalisation(torch: Any, beta: np.ndarray, eps: float) -> Any:
    made = torch.nn.BatchNorm2d(len(beta), eps=eps)
    _filled(torch, made.bias, beta)
    made.weight.requires_grad_(False)  # fix_gamma
    made.num_batches_tracked = None  # nothing reads the count: momentum is a number
    return made


def _generator(torch: Any, steps: Steps, weights: dict[str, np.ndarray]) -> Any:
    nn, layers = torch.nn, []
    kernels, betas = ending(weights, "_weight"), ending(weights, "_beta")
    for index, (array, layer) in enumerate(zip(kernels, steps.shapes.generator, strict=True)):
        weight = _weight(array)
        c_in, c_out, size, _ = weight.shape
        layers.append(nn.ConvTranspose2d(c_in, c_out, size, layer[6], layer[7], bias=False))
        _filled(torch, layers[-1].weight, weight)
        if index < len(betas):
            layers += [_normalisation(torch, betas[index], steps.eps), nn.ReLU()]
    layers.append({"sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[steps.last]())
    return nn.Sequential(*layers)


def _discriminator(torch: Any, steps: Steps, weights: dict[str, np.ndarray]) -> Any:
    nn, layers = torch.nn, []
    kernels, biases = ending(weights, "_weight"), ending(weights, "_bias")
    betas = iter(ending(weights, "_beta"))
    for index, (array, layer) in enumerate(
        zip(kernels, steps.shapes.discriminator, strict=True), 1
    ):
        weight, last = _weight(array), index == len(kernels)
        c_out, c_in, size, _ = weight.shape
        bias = last and bool(biases)
        layers.append(nn.Conv2d(c_in, c_out, size, layer[6], layer[7], bias=bias))
        _filled(torch, layers[-1].weight, weight)
        if bias:
            _filled(torch, layers[-1].bias, biases[0])
        if last:
            break
        if index >= steps.first_normalised:
            layers.append(_normalisation(torch, next(betas), steps.eps))
        layers.append(nn.LeakyReLU(steps.slope))
        if steps.pooled and index == 1:
            layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers)
