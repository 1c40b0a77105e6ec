"""The operators, to be called with symbols."""

from __future__ import annotations

from pygan import operators
from pygan.symbol.composing import factory

Activation = factory(operators.Activation)
Add = factory(operators.Add)
BatchNorm = factory(operators.BatchNorm)
BroadcastMultiply = factory(operators.BroadcastMultiply)
Concat = factory(operators.Concat)
Convolution = factory(operators.Convolution)
Dropout = factory(operators.Dropout)
Exp = factory(operators.Exp)
Flatten = factory(operators.Flatten)
FullyConnected = factory(operators.FullyConnected)
KullbackLeibler = factory(operators.KullbackLeibler)
LeakyReLU = factory(operators.LeakyReLU)
LogisticRegressionOutput = factory(operators.LogisticRegressionOutput)
MeanSquaredError = factory(operators.MeanSquaredError)
Multiply = factory(operators.Multiply)
Pooling = factory(operators.Pooling)
Reparametrization = factory(operators.Reparametrization)
Reshape = factory(operators.Reshape)
SigmoidCrossEntropy = factory(operators.SigmoidCrossEntropy)
Softmax = factory(operators.Softmax)
SoftmaxCrossEntropy = factory(operators.SoftmaxCrossEntropy)
TransposedConvolution = factory(operators.TransposedConvolution)
