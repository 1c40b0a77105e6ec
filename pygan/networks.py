"""The networks of the lessons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pygan import symbol as sym
from pygan.symbol import Symbol


def lesson_generator() -> Symbol:
    """The lesson's generator: noise (N, 1, 1, 10) -> images (N, 28, 28, 1) in (0, 1).

    Transposed convolutions 10 -> 256 (4x4) -> 128 (7x7) -> 64 (14x14) -> 1 (28x28) without biases,
    batch norm (fix_gamma, eps 1e-3) and ReLU between them, sigmoid at the end.
    """
    return _generator(sym.Variable("noise"))


def conditional_generator() -> Symbol:
    """The lesson's generator of a digit asked for: noise and digit, both (N, 1, 1, 10), the digit
    one-hot, are concatenated to 20 channels; the rest is `lesson_generator`'s."""
    return _generator(sym.Concat(sym.Variable("noise"), sym.Variable("digit"), name="gen_input"))


def _generator(x: Symbol) -> Symbol:
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
    return _discriminator(sym.Variable("img"), slope=0.25)


def conditional_discriminator() -> Symbol:
    """The lesson's discriminator of images with the digit that they should show.

    img (N, 28, 28, 1), digit (N, 1, 1, 10) one-hot, label (N, 1, 1, 1). The image times the digit
    has ten channels, (N, 28, 28, 10): the image stands in the digit's channel, the others are 0.
    Then `lesson_discriminator` with slope 0.2.
    """
    x = sym.BroadcastMultiply(sym.Variable("img"), sym.Variable("digit"), name="dis_input")
    return _discriminator(x, slope=0.2)


def classifier(classes: int = 10) -> Symbol:
    """The lesson's classifier: the discriminator's layers up to the last, then one unit a class.

    data (N, 28, 28, 1), label (N, classes) one-hot -> the softmax cross-entropy (1,), divided by N
    times classes as the lesson does, and the probabilities (N, classes).
    """
    _, logits = _classifier_ends(classes)
    return sym.SoftmaxCrossEntropy(logits, sym.Variable("label"), normalization="mean", name="net")


def classifier_outputs(classes: int = 10) -> Symbol:
    """A trained `classifier` in use: data (N, 28, 28, 1) -> features (N, 64), the last layer's
    inputs, and the probabilities (N, classes)."""
    features, logits = _classifier_ends(classes)
    return sym.group([features, sym.Softmax(logits, name="probabilities")])


def _classifier_ends(classes: int) -> tuple[Symbol, Symbol]:
    """Features (N, 64) and logits (N, classes)."""
    features = sym.Flatten(_trunk(sym.Variable("data"), slope=0.25), name="features")
    return features, sym.FullyConnected(features, num_hidden=classes, name="fc1")


def colour_classifier(classes: int = 10) -> Symbol:
    """A classifier of small colour images, for what `classifier` cannot see.

    data (N, 32, 32, 3), label (N, classes) one-hot -> loss (1,) and probabilities (N, classes), as
    `classifier` has them.
    """
    _, logits = _colour_classifier_ends(classes)
    return sym.SoftmaxCrossEntropy(logits, sym.Variable("label"), normalization="mean", name="net")


def colour_classifier_outputs(classes: int = 10) -> Symbol:
    """A trained `colour_classifier` in use: data (N, 32, 32, 3) -> features (N, 128), the last
    layer's inputs, and the probabilities (N, classes)."""
    features, logits = _colour_classifier_ends(classes)
    return sym.group([features, sym.Softmax(logits, name="probabilities")])


def _colour_classifier_ends(classes: int) -> tuple[Symbol, Symbol]:
    """Features (N, 128), means over what is left of the image, and logits (N, classes)."""
    x = sym.Variable("data")
    # 32x32x32, 16x16x64, 8x8x128, 4x4x128
    layers = [(32, 3, 1), (64, 4, 2), (128, 4, 2), (128, 4, 2)]
    for index, (num_filter, kernel, stride) in enumerate(layers, 1):
        x = sym.Convolution(
            x,
            num_filter=num_filter,
            kernel=kernel,
            stride=stride,
            pad=1,
            no_bias=True,
            name=f"conv{index}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"bn{index}")
        x = sym.LeakyReLU(x, slope=0.2, name=f"act{index}")
    x = sym.Pooling(x, kernel=4, stride=4, kind="avg", name="mean")
    features = sym.Flatten(x, name="features")
    return features, sym.FullyConnected(features, num_hidden=classes, name="fc1")


def _discriminator(x: Symbol, slope: float) -> Symbol:
    logits = sym.Convolution(_trunk(x, slope), num_filter=1, kernel=1, name="dis_conv5")
    return sym.SigmoidCrossEntropy(logits, sym.Variable("label"), name="dis")


def _trunk(x: Symbol, slope: float) -> Symbol:
    """Images (N, 28, 28, C) -> features (N, 1, 1, 64)."""
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
        x = sym.LeakyReLU(x, slope=slope, name=f"dis_act{index}")
        if index == 1:
            x = sym.Pooling(x, kernel=2, stride=2, kind="avg", name="dis_pool1")
    return x


# MXNet's example adds these two, in double; both are a single number in float32.
DCGAN_EPS = 1e-5 + 1e-12


def dcgan_generator(ngf: int = 64, nc: int = 3) -> Symbol:
    """DCGAN's generator as in MXNet's example: rand (N, 1, 1, Z) -> (N, 64, 64, nc) in (-1, 1).

    Radford et al., "Unsupervised representation learning with deep convolutional generative
    adversarial networks" (2015). Transposed convolutions 4x4 without biases, 8 ngf (4x4), 4 ngf
    (8x8), 2 ngf (16x16), ngf (32x32) with batch norm (fix_gamma) and ReLU, then nc and tanh.
    """
    x = sym.Variable("rand")
    for index, multiple in enumerate([8, 4, 2, 1], 1):
        stride, pad = (1, 0) if index == 1 else (2, 1)
        x = sym.TransposedConvolution(
            x,
            num_filter=multiple * ngf,
            kernel=4,
            stride=stride,
            pad=pad,
            no_bias=True,
            name=f"g{index}",
        )
        x = sym.BatchNorm(x, eps=DCGAN_EPS, momentum=0.9, fix_gamma=True, name=f"gbn{index}")
        x = sym.Activation(x, kind="relu", name=f"gact{index}")
    x = sym.TransposedConvolution(
        x, num_filter=nc, kernel=4, stride=2, pad=1, no_bias=True, name="g5"
    )
    return sym.Activation(x, kind="tanh", name="gact5")


def dcgan_discriminator(ndf: int = 64) -> Symbol:
    """DCGAN's discriminator as in MXNet's example: data (N, 64, 64, nc), label (N, 1).

    Convolutions 4x4 with stride 2 and no biases, ndf (32x32), 2 ndf (16x16), 4 ndf (8x8), 8 ndf
    (4x4), leaky ReLU 0.2, batch norm (fix_gamma) from the second on; then one number an image and
    LogisticRegressionOutput, whose gradient is not divided by N. Output: the probabilities (N, 1).
    """
    x = sym.Variable("data")
    for index, multiple in enumerate([1, 2, 4, 8], 1):
        x = sym.Convolution(
            x,
            num_filter=multiple * ndf,
            kernel=4,
            stride=2,
            pad=1,
            no_bias=True,
            name=f"d{index}",
        )
        if index > 1:
            x = sym.BatchNorm(x, eps=DCGAN_EPS, momentum=0.9, fix_gamma=True, name=f"dbn{index}")
        x = sym.LeakyReLU(x, slope=0.2, name=f"dact{index}")
    x = sym.Convolution(x, num_filter=1, kernel=4, no_bias=True, name="d5")
    x = sym.Flatten(x, name="flatten")
    return sym.LogisticRegressionOutput(x, sym.Variable("label"), name="dloss")


@dataclass(frozen=True)
class Autoencoder:
    """A fully connected auto-encoder of images (N, 28, 28, 1), and its parts.

    encoder, decoder: units of the hidden ReLU layers before and after the code. first: the number
    in the name of the first layer (``fc1``). sigmoid: whether the decoder ends in one, or linear.
    variational: the code is a sample around a mean, and ``weight`` that of its prior; else the code
    is linear, and weight that of mean(code^2).

    Parameter names are alike in the three graphs, so their executors can share memory.
    """

    encoder: tuple[int, ...]
    code: int
    decoder: tuple[int, ...]
    variational: bool = False
    weight: float = 0.0
    sigmoid: bool = False
    first: int = 1

    def training_graph(self) -> Symbol:
        """data and label (N, 28, 28, 1), and noise ``encoder_noise`` (N, code) where variational.

        Outputs: the mean squared error ``reconstruction_loss`` (1,) between label and decoder, the
        second loss ``prior_loss`` or ``penalty_loss`` (1,) where there is one, and the decoder's
        images (N, 28, 28, 1). The loss to be made small is the sum of the losses.
        """
        heads = []
        if self.variational:
            lnsd, mean = self._statistics()
            noise = sym.Variable("encoder_noise")
            code = sym.Reparametrization(lnsd, mean, noise, name="code")
            heads.append(sym.KullbackLeibler(lnsd, mean, grad_scale=self.weight, name="prior"))
        else:
            code = self._linear_code()
            if self.weight:
                # The origin starts as 0: the penalty is weight * mean(code^2).
                origin = sym.Variable("origin")
                penalty = sym.MeanSquaredError(code, origin, grad_scale=self.weight, name="penalty")
                heads.append(penalty)
        images = self._images(code)
        error = sym.MeanSquaredError(images, sym.Variable("label"), name="reconstruction")
        return sym.group([error, *heads, images])

    def encoder_graph(self) -> Symbol:
        """data (N, 28, 28, 1) -> the code (N, code); where variational its mean, and its standard
        deviation."""
        if not self.variational:
            return self._linear_code()
        lnsd, mean = self._statistics()
        return sym.group([mean, sym.Exp(lnsd, name="encoder_sd")])

    def decoder_graph(self) -> Symbol:
        """code (N, code) -> images (N, 28, 28, 1)."""
        return self._images(sym.Variable("code"))

    def _hidden(self, x: Symbol, units: tuple[int, ...], first: int) -> Symbol:
        for number, count in enumerate(units, first):
            x = sym.FullyConnected(x, num_hidden=count, name=f"fc{number}")
            x = sym.Activation(x, kind="relu", name=f"relu{number}")
        return x

    def _statistics(self) -> tuple[Symbol, Symbol]:
        x = self._hidden(sym.Variable("data"), self.encoder, self.first)
        lnsd = sym.FullyConnected(x, num_hidden=self.code, name="encoder_lnsd")
        return lnsd, sym.FullyConnected(x, num_hidden=self.code, name="encoder_mean")

    def _linear_code(self) -> Symbol:
        x = self._hidden(sym.Variable("data"), self.encoder, self.first)
        return sym.FullyConnected(x, num_hidden=self.code, name="encoder")

    def _images(self, code: Symbol) -> Symbol:
        after = self.first + len(self.encoder)
        x = self._hidden(code, self.decoder, after)
        last = f"fc{after + len(self.decoder)}"
        x = sym.FullyConnected(x, num_hidden=28 * 28, name=last)
        if self.sigmoid:
            x = sym.Activation(x, kind="sigmoid", name="pixels")
        return sym.Reshape(x, shape=(0, 28, 28, 1), name="decoder")


_SMALL: dict[str, Any] = {"encoder": (8,), "code": 2, "decoder": (8, 64), "first": 2}
AUTOENCODERS = {
    "plain": Autoencoder(**_SMALL),
    "penalised": Autoencoder(**_SMALL, weight=1e-4),
    "vae2": Autoencoder(**_SMALL, variational=True, weight=5e-4),
    "vae32": Autoencoder((128,), 32, (128,), variational=True, weight=5e-2, sigmoid=True),
    "anomaly": Autoencoder((64,), 8, (64,), variational=True, weight=5e-4, sigmoid=True),
}
"""The lessons' auto-encoders: plain and penalised with a two-dimensional code, variational with 2
and 32 dimensions, and the one of 8 whose reconstruction error tells anomalies."""


def lenet() -> Symbol:
    """The lessons' LeNet with one output: data (N, 28, 28, 1), label (N, 1).

    Convolutions 10 and 20 of 5x5 with ReLU and max pooling 2x2 (LeCun et al., "Gradient-based
    learning applied to document recognition", 1998, in the lesson's form), 150 units with ReLU, one
    unit. Outputs: the mean sigmoid cross-entropy (1,) and the probabilities (N, 1).
    """
    x = sym.Variable("data")
    for index, num_filter in enumerate([10, 20], 1):
        x = sym.Convolution(x, num_filter=num_filter, kernel=5, name=f"conv{index}")
        x = sym.Activation(x, kind="relu", name=f"relu{index}")
        x = sym.Pooling(x, kernel=2, stride=2, kind="max", name=f"pool{index}")
    x = sym.FullyConnected(x, num_hidden=150, name="fc1")
    x = sym.Activation(x, kind="relu", name="relu3")
    logits = sym.FullyConnected(x, num_hidden=1, name="fc2")
    return sym.SigmoidCrossEntropy(logits, sym.Variable("label"), name="lenet")


def fully_connected_generator() -> Symbol:
    """A generator without convolutions: noise (N, 100) -> images (N, 28, 28, 1) in (-1, 1).

    Fully connected 256 and 512, each with batch norm and leaky ReLU 0.2, then 784 and tanh.
    """
    x = sym.Variable("noise")
    for index, num_hidden in enumerate([256, 512], 1):
        x = sym.FullyConnected(x, num_hidden=num_hidden, no_bias=True, name=f"gen_fc{index}")
        x = sym.BatchNorm(x, fix_gamma=False, name=f"gen_bn{index}")
        x = sym.LeakyReLU(x, slope=0.2, name=f"gen_act{index}")
    x = sym.FullyConnected(x, num_hidden=784, name="gen_fc3")
    x = sym.Activation(x, kind="tanh", name="gen_tanh")
    return sym.Reshape(x, shape=(0, 28, 28, 1), name="gen_out")


def fully_connected_discriminator(rate: float = 0.3) -> Symbol:
    """A discriminator without convolutions, and its loss: img (N, 28, 28, 1), label (N, 1).

    Fully connected 1024, 512 and 256, each with leaky ReLU 0.2 and dropout, then one unit. Outputs:
    the mean sigmoid cross-entropy (1,) and the probabilities of "real" (N, 1).
    """
    x = sym.Flatten(sym.Variable("img"), name="dis_input")
    for index, num_hidden in enumerate([1024, 512, 256], 1):
        x = sym.FullyConnected(x, num_hidden=num_hidden, name=f"dis_fc{index}")
        x = sym.LeakyReLU(x, slope=0.2, name=f"dis_act{index}")
        x = sym.Dropout(x, rate=rate, name=f"dis_drop{index}")
    logits = sym.FullyConnected(x, num_hidden=1, name="dis_fc4")
    return sym.SigmoidCrossEntropy(logits, sym.Variable("label"), name="dis")
