"""Symbols: graphs of named operators, in MXNet's terms.

A symbol is one or more outputs of a graph. Calling an operator with symbols extends the graph;
parameters that are not given (weights, biases, labels of losses) become variables named after the
operator, such as ``conv1_weight``. Nothing is computed before ``bind``.

    data = Variable("data")
    hidden = Activation(FullyConnected(data, num_hidden=64, name="fc1"), kind="relu")
    score = SigmoidCrossEntropy(FullyConnected(hidden, num_hidden=1, name="fc2"), name="loss")
    executor = score.bind(pygan.device.get("numpy"), shapes={"data": (32, 784)})
"""

from __future__ import annotations

from pygan.symbol.composing import name_scope
from pygan.symbol.files import FORMAT, FORMAT_VERSION, from_json, load
from pygan.symbol.graph import InferredShapes, Node, Symbol, Variable, bind, group
from pygan.symbol.operators import (
    Activation,
    Add,
    BatchNorm,
    BroadcastMultiply,
    Concat,
    Convolution,
    Dropout,
    Exp,
    Flatten,
    FullyConnected,
    KullbackLeibler,
    LeakyReLU,
    LogisticRegressionOutput,
    MeanSquaredError,
    Multiply,
    Pooling,
    Reparametrization,
    Reshape,
    SigmoidCrossEntropy,
    Softmax,
    SoftmaxCrossEntropy,
    TransposedConvolution,
)

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "Activation",
    "Add",
    "BatchNorm",
    "BroadcastMultiply",
    "Concat",
    "Convolution",
    "Dropout",
    "Exp",
    "Flatten",
    "FullyConnected",
    "InferredShapes",
    "KullbackLeibler",
    "LeakyReLU",
    "LogisticRegressionOutput",
    "MeanSquaredError",
    "Multiply",
    "Node",
    "Pooling",
    "Reparametrization",
    "Reshape",
    "SigmoidCrossEntropy",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Symbol",
    "TransposedConvolution",
    "Variable",
    "bind",
    "from_json",
    "group",
    "load",
    "name_scope",
]
