"""The operators, to be called with symbols, as type checkers see them: a test holds this to what
`pygan.symbol.composing.factory` makes. Inputs that may be left out become variables."""

from collections.abc import Sequence

from pygan.symbol.graph import Symbol

def Activation(data: Symbol, *, kind: str, name: str | None = None) -> Symbol: ...
def Add(left: Symbol, right: Symbol, *, name: str | None = None) -> Symbol: ...
def BatchNorm(
    data: Symbol,
    gamma: Symbol | None = None,
    beta: Symbol | None = None,
    *,
    eps: float = 0.001,
    momentum: float = 0.9,
    fix_gamma: bool = True,
    use_global_stats: bool = False,
    name: str | None = None,
) -> Symbol: ...
def BroadcastMultiply(left: Symbol, right: Symbol, *, name: str | None = None) -> Symbol: ...
def Concat(*data: Symbol, axis: int = -1, name: str | None = None) -> Symbol: ...
def Convolution(
    data: Symbol,
    weight: Symbol | None = None,
    bias: Symbol | None = None,
    *,
    kernel: int | Sequence[int],
    num_filter: int,
    stride: int | Sequence[int] = 1,
    pad: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    no_bias: bool = False,
    name: str | None = None,
) -> Symbol: ...
def Dropout(data: Symbol, *, rate: float = 0.5, name: str | None = None) -> Symbol: ...
def Exp(data: Symbol, *, name: str | None = None) -> Symbol: ...
def Flatten(data: Symbol, *, name: str | None = None) -> Symbol: ...
def FullyConnected(
    data: Symbol,
    weight: Symbol | None = None,
    bias: Symbol | None = None,
    *,
    num_hidden: int,
    no_bias: bool = False,
    name: str | None = None,
) -> Symbol: ...
def KullbackLeibler(
    lnsd: Symbol,
    mean: Symbol,
    *,
    normalization: str = "mean",
    grad_scale: float = 1.0,
    name: str | None = None,
) -> Symbol: ...
def LeakyReLU(
    data: Symbol, *, slope: float = 0.25, kind: str = "leaky_relu", name: str | None = None
) -> Symbol: ...
def LogisticRegressionOutput(
    data: Symbol, label: Symbol | None = None, *, grad_scale: float = 1.0, name: str | None = None
) -> Symbol: ...
def MeanSquaredError(
    data: Symbol,
    target: Symbol | None = None,
    *,
    normalization: str = "mean",
    grad_scale: float = 1.0,
    name: str | None = None,
) -> Symbol: ...
def Multiply(left: Symbol, right: Symbol, *, name: str | None = None) -> Symbol: ...
def Pooling(
    data: Symbol,
    *,
    kernel: int | Sequence[int] = 1,
    kind: str = "max",
    stride: int | Sequence[int] = 1,
    pad: int | Sequence[int] = 0,
    convention: str = "valid",
    count_include_pad: bool = True,
    global_pool: bool = False,
    name: str | None = None,
) -> Symbol: ...
def Reparametrization(
    lnsd: Symbol, mean: Symbol, noise: Symbol, *, name: str | None = None
) -> Symbol: ...
def Reshape(data: Symbol, *, shape: Sequence[int], name: str | None = None) -> Symbol: ...
def SigmoidCrossEntropy(
    data: Symbol,
    label: Symbol | None = None,
    *,
    normalization: str = "mean",
    grad_scale: float = 1.0,
    name: str | None = None,
) -> Symbol: ...
def Softmax(data: Symbol, *, name: str | None = None) -> Symbol: ...
def SoftmaxCrossEntropy(
    data: Symbol,
    label: Symbol | None = None,
    *,
    normalization: str = "batch",
    grad_scale: float = 1.0,
    name: str | None = None,
) -> Symbol: ...
def TransposedConvolution(
    data: Symbol,
    weight: Symbol | None = None,
    bias: Symbol | None = None,
    *,
    kernel: int | Sequence[int],
    num_filter: int,
    stride: int | Sequence[int] = 1,
    pad: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    no_bias: bool = True,
    output_padding: int | Sequence[int] = 0,
    name: str | None = None,
) -> Symbol: ...
