"""The operators of graphs, one module per family."""

from pygan.operators.activation import Activation, LeakyReLU
from pygan.operators.base import (
    Array,
    Arrays,
    Call,
    Gradient,
    Normalised,
    Operator,
    Shape,
    Shapes,
)
from pygan.operators.batch_norm import BatchNorm
from pygan.operators.convolution import Convolution, TransposedConvolution
from pygan.operators.dropout import Dropout
from pygan.operators.elementwise import (
    Add,
    BroadcastMultiply,
    Exp,
    Multiply,
    Reparametrization,
)
from pygan.operators.fully_connected import FullyConnected
from pygan.operators.loss import (
    KullbackLeibler,
    LogisticRegressionOutput,
    MeanSquaredError,
    SigmoidCrossEntropy,
    Softmax,
    SoftmaxCrossEntropy,
)
from pygan.operators.pooling import Pooling
from pygan.operators.shape import Concat, Flatten, Reshape

OPERATORS: dict[str, type[Operator]] = {
    operator.__name__: operator
    for operator in (
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
}
"""Operator classes by the name that graphs and their files use."""

__all__ = [
    "OPERATORS",
    "Activation",
    "Add",
    "Array",
    "Arrays",
    "BatchNorm",
    "BroadcastMultiply",
    "Call",
    "Concat",
    "Convolution",
    "Dropout",
    "Exp",
    "Flatten",
    "FullyConnected",
    "Gradient",
    "KullbackLeibler",
    "LeakyReLU",
    "LogisticRegressionOutput",
    "MeanSquaredError",
    "Multiply",
    "Normalised",
    "Operator",
    "Pooling",
    "Reparametrization",
    "Reshape",
    "Shape",
    "Shapes",
    "SigmoidCrossEntropy",
    "Softmax",
    "SoftmaxCrossEntropy",
    "TransposedConvolution",
]
