"""The conditional GAN with nothing hidden: two networks that are told the digit, and one loop.

    python examples/conditional_gan.py --data DIR --batches 4000 --classifier runs/classifier

Ends with a picture, a column for each digit asked for, and a JSON file beside it. With
``--classifier`` (a run of ``pygan train classifier``) the file says how often the classifier sees
the digit that was asked for. ``pygan train conditional`` is the same training with checkpoints,
progress and a log. Mirza and Osindero, "Conditional generative adversarial nets" (2014).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pygan.device
from pygan import checkpoint, cli, initializer, optimizer, pictures, quality
from pygan import symbol as sym
from pygan.data import ResidentImages, load_train_and_test
from pygan.training.classifier import DigitClassifier

BATCH = 32
DIGIT = (BATCH, 1, 1, 10)
IMAGE = (BATCH, 28, 28, 1)
ONE_EACH = (BATCH, 1, 1, 1)
ROWS = 10


def generator() -> sym.Symbol:
    """noise and one-hot digit (N, 1, 1, 10) -> images (N, 28, 28, 1)."""
    x = sym.Concat(sym.Variable("noise"), sym.Variable("digit"), name="gen_input")  # 20 channels
    # 4x4x256, 7x7x128, 14x14x64, 28x28x1
    for layer, (filters, kernel, pad) in enumerate([(256, 4, 0), (128, 3, 1), (64, 4, 1)], 1):
        x = sym.TransposedConvolution(
            x,
            num_filter=filters,
            kernel=kernel,
            stride=2,
            pad=pad,
            no_bias=True,
            name=f"gen_deconv{layer}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"gen_bn{layer}")
        x = sym.Activation(x, kind="relu", name=f"gen_relu{layer}")
    x = sym.TransposedConvolution(
        x, num_filter=1, kernel=4, stride=2, pad=1, no_bias=True, name="gen_deconv4"
    )
    return sym.Activation(x, kind="sigmoid", name="gen_out")


def discriminator() -> sym.Symbol:
    """img (N, 28, 28, 1), one-hot digit (N, 1, 1, 10), label (N, 1, 1, 1) -> loss, score."""
    # Ten channels: the image in the digit's own, the others 0.
    x = sym.BroadcastMultiply(sym.Variable("img"), sym.Variable("digit"), name="dis_input")
    # 26x26x24, pooled to 13x13, 6x6x32, 4x4x64, 1x1x64
    layers = [(24, 3, 1), (32, 3, 2), (64, 3, 1), (64, 4, 1)]
    for layer, (filters, kernel, stride) in enumerate(layers, 1):
        x = sym.Convolution(
            x,
            num_filter=filters,
            kernel=kernel,
            stride=stride,
            no_bias=True,
            name=f"dis_conv{layer}",
        )
        x = sym.BatchNorm(x, eps=1e-3, momentum=0.9, fix_gamma=True, name=f"dis_bn{layer}")
        x = sym.LeakyReLU(x, slope=0.2, name=f"dis_act{layer}")
        if layer == 1:
            x = sym.Pooling(x, kernel=2, stride=2, kind="avg", name="dis_pool1")
    logits = sym.Convolution(x, num_filter=1, kernel=1, name="dis_conv5")
    return sym.SigmoidCrossEntropy(logits, sym.Variable("label"), name="dis")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="auto", help="folder of MNIST, 'download' or 'digits'")
    parser.add_argument("--device", default="auto", choices=cli.DEVICES)
    parser.add_argument("--batches", type=cli.positive, default=20 * 60_000 // BATCH)
    parser.add_argument("--seed", type=cli.seed, default=0)
    parser.add_argument("--classifier", help="a run of 'pygan train classifier'")
    parser.add_argument("--judged", type=cli.positive, default=10_000, help="images it judges")
    parser.add_argument("--out", default="conditional_gan.png")
    options = parser.parse_args(arguments)
    return cli.guarded(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    device = pygan.device.get(options.device)
    images, test = load_train_and_test(options.data)
    judge = None
    if options.classifier:
        judge = DigitClassifier(device)
        judge.load(options.classifier)
    print(f"{device.name}: {device.description}\n{images.describe()}\nseed {options.seed}")
    data = ResidentImages(device, images, BATCH, options.seed)
    random_state = device.from_numpy(np.array([options.seed, 0], np.uint64))
    ops = device.ops

    gen = sym.bind(
        generator(),
        device,
        shapes={"noise": DIGIT, "digit": DIGIT},
        grad_req={"noise": "null", "digit": "null"},
    )
    dis = sym.bind(
        discriminator(),
        device,
        shapes={"img": IMAGE, "digit": DIGIT, "label": ONE_EACH},
        grad_req={"digit": "null", "label": "null"},
    )
    host_random = np.random.default_rng(options.seed)
    for executor in (gen, dis):
        initializer.Uniform(0.01)(executor, host_random)
    gen_adam = optimizer.Adam(gen, learning_rate=2e-4, beta1=0.5)
    dis_adam = optimizer.Adam(dis, learning_rate=2e-4, beta1=0.5)

    # The digits asked for: indices into a table of ten, drawn anew each epoch, on the device.
    digits = device.from_numpy(np.arange(10, dtype=np.uint8))
    asked = device.zeros((len(images),), np.int32)
    # Labels: ten draws a batch, repeated over it. Generated is about 1, real about 0.
    ten = device.zeros((10, 1, 1, 1), np.float32)
    repeated = device.from_numpy(np.arange(10, dtype=np.int32))
    zero = device.zeros((1,), np.int32)

    def draw_labels(low: float, high: float) -> None:
        ops.random_uniform(random_state, ten, low=low, high=high)
        ops.gather_rows(ten, repeated, zero, dis.arg_dict["label"])

    losses = {}
    began = time.monotonic()
    for batch in range(options.batches):
        epoch, first = divmod(batch, data.batches_per_epoch)
        if first == 0:
            data.start_epoch(epoch)
            asked[...] = host_random.integers(0, 10, len(images), dtype=np.int32)

        ops.random_normal(random_state, gen.arg_dict["noise"])
        ops.gather_one_hot(digits, asked, data.cursor, gen.arg_dict["digit"].reshape((BATCH, 10)))
        gen.forward(is_train=True)

        draw_labels(0.9, 1.0)
        dis.forward(is_train=True, img=gen.outputs[0], digit=gen.arg_dict["digit"])
        dis.backward()
        dis_adam.update()

        data.next_batch(dis.arg_dict["img"], dis.arg_dict["digit"].reshape((BATCH, 10)))
        draw_labels(0.0, 0.1)
        dis.forward(is_train=True)
        dis.backward()
        dis_adam.update()

        dis.forward(is_train=True, img=gen.outputs[0], digit=gen.arg_dict["digit"], label=0.0)
        dis.backward()
        gen.backward(out_grads=[dis.grad_dict["img"]])
        gen_adam.update()

        if batch % 50 == 49 or batch == options.batches - 1:
            losses["generator"] = float(np.asarray(dis.outputs[0])[0])
            print(f"batch {batch + 1}: generator's loss {losses['generator']:.3f}", flush=True)
    seconds = time.monotonic() - began

    def draw(count: int) -> np.ndarray:
        """Images (count, 28, 28, 1) of the digits 0 to 9 in turn, by the moving statistics."""
        made = []
        for start in range(0, count, BATCH):
            one_hot = np.eye(10, dtype=np.float32)[np.arange(start, start + BATCH) % 10]
            ops.random_normal(random_state, gen.arg_dict["noise"])
            gen.forward(is_train=False, digit=one_hot.reshape(DIGIT))
            made.append(np.array(gen.outputs[0]))
        return np.concatenate(made)[:count]

    picture = pictures.grid(draw(ROWS * 10), ROWS, 10, scale=2)
    pictures.save_picture(picture, options.out)
    result = {
        "batches": options.batches,
        "batch_size": BATCH,
        "seed": options.seed,
        "data": images.source,
        "device": device.name,
        "seconds": round(seconds, 1),
        "losses": losses,
    }
    print(f"{options.out}: a column for each digit asked for")
    if judge is not None:
        result["quality"] = quality.measure(
            judge,
            test.images,
            draw(options.judged),
            asked=np.arange(options.judged) % 10,
            seed=options.seed,
        )
        seen = quality.Interval(**result["quality"]["agreement"])
        covered = result["quality"]["classes"]["covered"]
        print(f"the classifier sees the digit asked for in {seen:.2%}; {covered} of 10 covered")
    where = Path(options.out).with_suffix(".json")
    checkpoint.write_json(where, result)
    print(where)


if __name__ == "__main__":
    sys.exit(main())
