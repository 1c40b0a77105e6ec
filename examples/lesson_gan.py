"""The lesson's GAN with nothing hidden: two executors, three passes, two optimizers.

    python examples/lesson_gan.py --data DIR --batches 1000

Ends with a picture of generated digits, a JSON file beside it, and a number: how often D scores a
held-out real digit higher than a generated one (100 %: it tells all of them apart; 50 %: it cannot
tell). ``pygan train lesson`` is the same training with checkpoints, progress and a log.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pygan.device
from pygan import checkpoint, cli, initializer, networks, optimizer, pictures, symbol
from pygan.data import ImageSet, ResidentImages, load_digits
from pygan.errors import DataError

BATCH = 32
IMAGE = (BATCH, 28, 28, 1)
ONE_EACH = (BATCH, 1, 1, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="auto", help="folder of MNIST, 'download' or 'digits'")
    parser.add_argument("--device", default="auto", choices=cli.DEVICES)
    parser.add_argument("--batches", type=cli.positive, default=1000)
    parser.add_argument("--seed", type=cli.seed, default=0)
    parser.add_argument("--out", default="lesson_gan.png")
    options = parser.parse_args(arguments)
    return cli.guarded(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    device = pygan.device.get(options.device)
    images = load_digits(options.data)
    print(f"{device.name}: {device.description}\n{images.describe()}\nseed {options.seed}")

    # The last tenth is held out: D is asked about it at the end.
    kept = len(images) * 9 // 10
    training = ImageSet(images.images[:kept], images.labels[:kept], images.source)
    held_out = images.images[kept:]
    if len(held_out) < BATCH:
        raise DataError(
            f"{images.source}: a tenth of {len(images)} images is held out, and {BATCH} are needed "
            "for a batch"
        )
    data = ResidentImages(device, training, BATCH, options.seed)
    random_state = device.from_numpy(np.array([options.seed, 0], np.uint64))
    fake = device.zeros(ONE_EACH, np.float32)
    real = device.from_numpy(np.ones(ONE_EACH, np.float32))

    gen = symbol.bind(
        networks.lesson_generator(),
        device,
        shapes={"noise": (BATCH, 1, 1, 10)},
        grad_req={"noise": "null"},
    )
    dis = symbol.bind(
        networks.lesson_discriminator(),
        device,
        shapes={"img": IMAGE, "label": ONE_EACH},
        grad_req={"label": "null"},
    )
    host_random = np.random.default_rng(options.seed)
    for executor in (gen, dis):
        initializer.Uniform(0.01)(executor, host_random)
    gen_adam = optimizer.Adam(gen, learning_rate=2e-4, beta1=0.5)
    dis_adam = optimizer.Adam(dis, learning_rate=2e-4, beta1=0.5)

    for batch in range(options.batches):
        if batch % data.batches_per_epoch == 0:
            data.start_epoch(batch // data.batches_per_epoch)
        device.ops.random_normal(random_state, gen.arg_dict["noise"])
        gen.forward(is_train=True)

        dis.forward(is_train=True, img=gen.outputs[0], label=fake)
        dis.backward()
        dis_adam.update()

        data.next_batch(dis.arg_dict["img"])
        dis.forward(is_train=True, label=real)
        dis.backward()
        dis_adam.update()

        dis.forward(is_train=True, img=gen.outputs[0], label=real)
        dis.backward()
        gen.backward(out_grads=[dis.grad_dict["img"]])
        gen_adam.update()

        if batch % 50 == 49:
            loss = float(np.asarray(dis.outputs[0])[0])
            print(f"batch {batch + 1}: generator's loss {loss:.3f}", flush=True)

    # D is asked as it was trained, by the statistics of each batch: its moving ones mix real and
    # generated images, and suit neither.
    made, of_real, of_made = [], [], []
    for start in range(0, min(len(held_out), 10 * BATCH) - BATCH + 1, BATCH):
        digits = held_out[start : start + BATCH].astype(np.float32) / 255
        dis.forward(is_train=True, img=digits, label=real)
        of_real.append(np.array(dis.outputs[1]).ravel())
        device.ops.random_normal(random_state, gen.arg_dict["noise"])
        gen.forward(is_train=False)
        made.append(np.array(gen.outputs[0]))
        dis.forward(is_train=True, img=gen.outputs[0], label=fake)
        of_made.append(np.array(dis.outputs[1]).ravel())
    pictures.save_picture(pictures.grid(np.concatenate(made)[:60], 6, 10, scale=2), options.out)
    share = np.mean(np.concatenate(of_real)[:, None] > np.concatenate(of_made))
    print(f"{options.out}: generated digits. D scores a real one higher in {share:.1%} of pairs.")
    result = {
        "batches": options.batches,
        "batch_size": BATCH,
        "seed": options.seed,
        "data": images.source,
        "device": device.name,
        "pairs_with_the_real_one_higher": float(share),
    }
    where = Path(options.out).with_suffix(".json")
    checkpoint.write_json(where, result)
    print(where)


if __name__ == "__main__":
    sys.exit(main())
