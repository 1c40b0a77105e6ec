"""A trained generator cut in two at its feature maps, so that maps can be dropped in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pygan import networks
from pygan import symbol as sym
from pygan.errors import PyganError
from pygan.training import conditional, gan, sampling
from pygan.training.sampling import open_sampler

BATCH = 50


def dcgan_rest(settings: dict[str, Any]) -> sym.Symbol:
    """maps (N, 16, 16, 2 ngf) -> images (N, 64, 64, 3): the last two of DCGAN's generator."""
    x = sym.Variable("maps")
    options: dict[str, Any] = {"kernel": 4, "stride": 2, "pad": 1, "no_bias": True}
    x = sym.TransposedConvolution(x, num_filter=settings["ngf"], name="g4", **options)
    x = sym.BatchNorm(x, eps=networks.DCGAN_EPS, name="gbn4")
    x = sym.Activation(x, kind="relu", name="gact4")
    x = sym.TransposedConvolution(x, num_filter=3, name="g5", **options)
    return sym.Activation(x, kind="tanh", name="images")


def lesson_rest(settings: dict[str, Any]) -> sym.Symbol:
    """maps (N, 7, 7, 128) -> images (N, 28, 28, 1): the last two of the lesson's generators."""
    x = sym.Variable("maps")
    options: dict[str, Any] = {"kernel": 4, "stride": 2, "pad": 1, "no_bias": True}
    x = sym.TransposedConvolution(x, num_filter=64, name="gen_deconv3", **options)
    x = sym.BatchNorm(x, eps=1e-3, name="gen_bn3")
    x = sym.Activation(x, kind="relu", name="gen_relu3")
    x = sym.TransposedConvolution(x, num_filter=1, name="gen_deconv4", **options)
    return sym.Activation(x, kind="sigmoid", name="images")


Make = Callable[[dict[str, Any]], sym.Symbol]

CUTS: dict[str, tuple[Make, str, Make]] = {
    sampling.DCGAN: (lambda s: networks.dcgan_generator(s["ngf"]), "gact3_output", dcgan_rest),
    gan.NETWORK: (lambda s: networks.lesson_generator(), "gen_relu2_output", lesson_rest),
    conditional.NETWORK: (
        lambda s: networks.conditional_generator(),
        "gen_relu2_output",
        lesson_rest,
    ),
}
"""By network: its graph for a run's settings, the maps where it is cut, and what follows them."""


class CutGenerator:
    """A generator's first part, codes -> maps, and its rest, maps -> images.

    Raises PyganError for a network without such maps.
    """

    def __init__(self, device: Any, path: str) -> None:
        self.sampler, self.metadata = open_sampler(device, path, BATCH)
        if self.sampler.network not in CUTS:
            raise PyganError(
                f"{path}: {self.sampler.network!r} is not convolutional; this experiment cuts "
                f"{', '.join(map(repr, CUTS))}"
            )
        make, maps, rest = CUTS[self.sampler.network]
        whole, settings = self.sampler.executor, self.metadata["settings"]
        inputs = {name: tuple(whole.arg_dict[name].shape) for name in whole.input_names}
        # Both parts use the sampler's own parameters and moving statistics.
        graph = make(settings).internals()[maps]
        self.first = graph.bind(device, inputs, "null", shared=whole)
        shape = {"maps": tuple(self.first.outputs[0].shape)}
        self.rest = rest(settings).bind(device, shape, "null", shared=whole)

    def maps(self, count: int, seed: int) -> np.ndarray:
        """(count, height, width, K) of random codes, and of the digits 0 to 9 in turn."""
        inputs = {self.sampler.generator.noise: self.sampler.draw_noise(count, seed)}
        if self.sampler.takes_digits:
            one_hot = np.eye(10, dtype=np.float32)[np.arange(count) % 10]
            inputs["digit"] = one_hot.reshape(count, 1, 1, 10)
        return in_batches(self.first, inputs)

    def images(self, maps: np.ndarray) -> np.ndarray:
        """(N, height, width, channels) in 0..1"""
        black = self.sampler.generator.black
        return (in_batches(self.rest, {"maps": maps}) - black) / (1 - black)


def in_batches(executor: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The first output for inputs (N, ...), ``BATCH`` rows at a time."""
    count = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        batch = {name: np.zeros((BATCH, *a.shape[1:]), np.float32) for name, a in inputs.items()}
        for name, array in inputs.items():
            batch[name][:size] = array[start : start + size]
        executor.forward(is_train=False, **batch)
        parts.append(np.array(executor.outputs[0])[:size])
    return np.concatenate(parts)
