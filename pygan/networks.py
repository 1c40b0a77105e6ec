"""The networks of the lessons."""

from __future__ import annotations

from pygan import symbol as sym
from pygan.symbol import Symbol


def lesson_generator() -> Symbol:
    """The lesson's generator: noise (N, 1, 1, 10) -> images (N, 28, 28, 1) in (0, 1).

    Transposed convolutions 10 -> 256 (4x4) -> 128 (7x7) -> 64 (14x14) -> 1 (28x28) without biases,
    batch norm (fix_gamma, eps 1e-3) and ReLU between them, sigmoid at the end.
    """
    x = sym.Variable("noise")
    # num_filter, kernel, pad; the stride is 2 throughout
    for index, (num_filter, kernel, pad) in enumerate([(256, 4, 0), (128, 3, 1), (64, 4, 1)], 1):
        x = sym.TransposedConvolution(
            x,
            num_filter=num_filter,
            kernel=kernel,
            stride=2,
            pad=pad,
            no_bias=True,
            name=f"gen_deconv{index}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"gen_bn{index}")
        x = sym.Activation(x, kind="relu", name=f"gen_relu{index}")
    x = sym.TransposedConvolution(
        x, num_filter=1, kernel=4, stride=2, pad=1, no_bias=True, name="gen_deconv4"
    )
    return sym.Activation(x, kind="sigmoid", name="gen_out")


def lesson_discriminator() -> Symbol:
    """The lesson's discriminator and its loss: img (N, 28, 28, 1), label (N, 1, 1, 1).

    Convolutions 24 (26x26), average pooling (13x13), 32 (6x6), 64 (4x4), 64 (1x1), each with batch
    norm (fix_gamma, eps 1e-3) and leaky ReLU 0.25, then one unit with bias. Outputs: the mean
    sigmoid cross-entropy (1,) and the probabilities of "real" (N, 1, 1, 1).
    """
    x = sym.Variable("img")
    # num_filter, kernel, stride
    for index, (num_filter, kernel, stride) in enumerate(
        [(24, 3, 1), (32, 3, 2), (64, 3, 1), (64, 4, 1)], 1
    ):
        x = sym.Convolution(
            x,
            num_filter=num_filter,
            kernel=kernel,
            stride=stride,
            no_bias=True,
            name=f"dis_conv{index}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"dis_bn{index}")
        x = sym.LeakyReLU(x, slope=0.25, name=f"dis_act{index}")
        if index == 1:
            x = sym.Pooling(x, kernel=2, stride=2, kind="avg", name="dis_pool1")
    logits = sym.Convolution(x, num_filter=1, kernel=1, name="dis_conv5")
    return sym.SigmoidCrossEntropy(logits, sym.Variable("label"), name="dis")
