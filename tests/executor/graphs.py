"""Graphs for tests: random ones, and the slow, obvious ways to evaluate them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pygan import symbol as sym
from pygan.lowering import LoweredGraph
from pygan.operators import Array, Call
from pygan.symbol import Symbol

IMAGE = (2, 3, 4, 2)


@st.composite
def random_graphs(draw: Callable[..., Any]) -> Symbol:
    """A loss over a random graph of smooth operators on images of shape IMAGE.

    Every operator reads any earlier results, so sub-expressions are shared, skipped over and read
    twice by one operator.
    """
    with sym.name_scope():
        pool = [sym.Variable("x"), sym.Variable("y")]
        weight = sym.Variable("shared_weight")
        for _ in range(draw(st.integers(1, 7))):
            a, b = (pool[draw(st.integers(0, len(pool) - 1))] for _ in range(2))
            pool.append(_extend(draw(st.sampled_from(sorted(EXTENSIONS))), a, b, weight))
        heads = [sym.MeanSquaredError(pool[-1], normalization="none", name="loss")]
        if draw(st.booleans()):
            heads.append(pool[draw(st.integers(0, len(pool) - 1))])
        if draw(st.booleans()):
            logits = sym.Convolution(pool[-2], kernel=(3, 4), num_filter=2, name="logits")
            flat = sym.SigmoidCrossEntropy(sym.Flatten(logits), name="second")
            heads.append(flat[0])
        if draw(st.booleans()):
            lnsd = sym.Activation(pool[-2], kind="tanh")
            heads.append(sym.KullbackLeibler(lnsd, pool[-1], grad_scale=0.3, name="third"))
        return sym.group(heads)


EXTENSIONS: dict[str, Callable[[Symbol, Symbol, Symbol], Symbol]] = {
    "activation": lambda a, b, w: sym.Activation(a, kind="tanh"),
    "add": lambda a, b, w: sym.Add(a, b),
    "batch_norm": lambda a, b, w: sym.BatchNorm(a, fix_gamma=False),
    "broadcast": lambda a, b, w: sym.BroadcastMultiply(
        a, sym.Pooling(b, global_pool=True, kind="avg")
    ),
    "concat": lambda a, b, w: sym.Convolution(sym.Concat(a, b), kernel=1, num_filter=2),
    "convolution": lambda a, b, w: sym.Convolution(a, w, kernel=3, num_filter=2, pad=1),
    # bounded: exponentials of exponentials leave every number range
    "exp": lambda a, b, w: sym.Exp(sym.Activation(a, kind="tanh")),
    "fused": lambda a, b, w: sym.Activation(sym.BatchNorm(a), kind="sigmoid"),
    "global": lambda a, b, w: sym.Activation(
        sym.BatchNorm(a, use_global_stats=True), kind="softplus"
    ),
    "multiply": lambda a, b, w: sym.Multiply(a, b),
    "pooling": lambda a, b, w: sym.Pooling(a, kernel=3, pad=1, kind="avg"),
    "reparametrization": lambda a, b, w: sym.Reparametrization(
        sym.Activation(a, kind="tanh"), b, a
    ),
    "reshape": lambda a, b, w: sym.Reshape(
        sym.FullyConnected(sym.Reshape(a, shape=(6, -1)), num_hidden=8), shape=IMAGE
    ),
    "softmax": lambda a, b, w: sym.Softmax(a),
    "transposed": lambda a, b, w: sym.TransposedConvolution(a, kernel=3, num_filter=2, pad=1),
}


def _extend(kind: str, a: Symbol, b: Symbol, weight: Symbol) -> Symbol:
    return EXTENSIONS[kind](a, b, weight)


def shapes_of(graph: Symbol) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that the graph has."""
    return {name: IMAGE for name in ("x", "y") if name in graph.list_arguments()}


def fill_randomly(executor: Any, seed: int) -> np.random.Generator:
    """Random arguments of size about 1, moving statistics away from their start."""
    rng = np.random.default_rng(seed)
    for array in executor.arg_dict.values():
        array[...] = (0.8 * rng.standard_normal(array.shape)).astype(executor.dtype)
    for array in executor.aux_dict.values():
        array[...] = rng.uniform(0.5, 2, array.shape).astype(executor.dtype)
    return rng


def run_unplanned(
    executor: Any, out_grads: list[Any], wanted: list[str]
) -> tuple[list[np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs, gradients and moving statistics of one training step, every array in memory of its
    own that starts as NaN: the executor's calls without its plan. numpy device only."""
    graph = LoweredGraph(
        executor.symbol,
        executor.symbol.infer_shape({n: a.shape for n, a in executor.arg_dict.items()}),
        executor.requests,
        executor.dtype,
        fuse=True,
    )
    memory: dict[Array, np.ndarray] = {}
    for named, values in (
        (graph.arguments, executor.arg_dict),
        (graph.auxiliary, executor.aux_dict),
        (graph.argument_gradients, executor.grad_dict),
    ):
        memory.update({array: np.array(values[name]) for name, array in named.items()})
    memory[graph.random_state] = np.array(executor.random_state)

    def resolve(array: Array | None) -> np.ndarray | None:
        if array is None:
            return None
        if array.root not in memory:
            start = np.nan if array.dtype.startswith("float") else 0
            memory[array.root] = np.full(array.root.shape, start, array.dtype)
        return memory[array.root].reshape(array.shape)

    def run(program: list[list[Call]]) -> None:
        for call in (call for calls in program for call in calls):
            function = getattr(executor.device.ops, call.function)
            function(*map(resolve, call.arrays), **call.attributes)

    run(graph.forward(training=True))
    outputs = [np.array(resolve(head.array)) for head in graph.heads]
    given = []
    for index, (head, gradient) in enumerate(zip(graph.heads, out_grads, strict=True)):
        if gradient is not None and head.landing is not None:
            resolve(head.landing)[...] = gradient
            given.append(index)
    run(graph.backward(given, wanted))
    gradients = {name: np.array(resolve(a)) for name, a in graph.argument_gradients.items()}
    auxiliary = {name: np.array(resolve(a)) for name, a in graph.auxiliary.items()}
    return outputs, gradients, auxiliary
