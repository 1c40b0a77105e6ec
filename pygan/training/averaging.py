"""The mean of a run's generators: a GAN's two sides circle about a balance that neither reaches.

P. Izmailov et al., "Averaging weights leads to wider optima and better generalization" (2018):
parameters are averaged over the checkpoints of several epochs, and the statistics of batch norm,
which belong to no single one of them, are measured anew. Y. Yazici et al., "The unusual
effectiveness of averaging in GAN training" (2019), say why it helps generators.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygan import checkpoint
from pygan.errors import CheckpointError, PyganError
from pygan.training.conditional import CLASSES
from pygan.training.folder import AVERAGED, CHECKPOINT
from pygan.training.gan import network_shapes
from pygan.training.sampling import BATCH, PICTURE_COUNTER, Sampler, open_sampler, picture_state

if TYPE_CHECKING:
    from pygan.device import Device

EPOCHS = "checkpoints/epoch_*.safetensors"
PART = "generator"
LEAST = 2
BATCHES = 50
# The moving statistics forget where they started: momentum 0.9 leaves 0.9^50 = 0.5 % of it.
FORGET = 50
# Apart from the noise of pictures, which are drawn from the same seed.
FURTHER = 1 << 56


def average_run(
    device: Device,
    folder: str | Path,
    last: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> tuple[Path, dict[str, Any]]:
    """Writes the mean of a run's generators after its last epochs, all but the first half unless
    ``last`` says how many; to ``out``, or to averaged.safetensors in the run's folder, from where
    pictures are drawn then (`pygan.training.sampling.generator_file`).

    Returns the file and its metadata. Raises CheckpointError and PyganError as
    `average_generators` does, and PyganError where the run has fewer epochs.
    """
    if not Path(folder).is_dir():
        raise PyganError(f"{folder} is no folder of a run")
    files = epochs_of(folder)
    count = max(LEAST, (len(files) + 1) // 2) if last is None else last
    if count > len(files):
        raise PyganError(
            f"{folder} holds the checkpoints of {len(files)} whole epochs, and {count} are needed"
        )
    tensors, metadata = average_generators(device, files[-count:], seed)
    out = Path(folder) / AVERAGED if out is None else Path(out)
    checkpoint.save(out, tensors, metadata)
    return out, metadata


def epochs_of(folder: str | Path) -> list[Path]:
    """The checkpoints of a run's whole epochs, in order. A run that went back to an earlier epoch
    may still have later ones, which are none of what it is now, and are left out."""
    files = sorted(Path(folder).glob(EPOCHS))
    newest = Path(folder) / CHECKPOINT
    if files and newest.exists():
        state = checkpoint.load(newest)[1]
        latest = f"epoch_{state['batches_done'] // state['batches_per_epoch']:04d}"
        files = [file for file in files if file.stem <= latest]
    return files


def average_generators(
    device: Device, paths: Sequence[Path], seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A checkpoint's tensors and metadata: the generator that is the mean of those in ``paths``.

    Its moving statistics are those of ``BATCHES`` batches of noise, and of random digits where it
    takes them. The metadata are the last path's, and ``averaged`` names the batches done of each.
    Raises CheckpointError for damaged files and for generators that differ in more than their
    training, PyganError for fewer than two.
    """
    if len(paths) < LEAST:
        raise PyganError(
            f"the mean of {len(paths)} checkpoint is no mean; take at least two epochs of a run"
        )
    sampler, first = open_sampler(device, paths[0], BATCH)
    shapes = network_shapes(sampler.executor, PART)
    sums = {name: np.zeros(shape) for name, shape in shapes.items()}
    batches = []
    for path in paths:
        tensors, metadata = checkpoint.load(path)
        for key in ("network", "settings", "fingerprint"):
            if metadata.get(key) != first.get(key):
                raise CheckpointError(f"{path} is of another run than {paths[0]}: {key} differs")
        checkpoint.require_shapes(path, tensors, shapes)
        batches.append(metadata["batches_done"])
        for name, total in sums.items():
            total += tensors[name]
    mean = {name: (total / len(paths)).astype(np.float32) for name, total in sums.items()}
    sampler.load_tensors(paths[0], mean)
    mean |= {f"{PART}_auxiliary/{n}": a for n, a in _statistics(device, sampler, seed).items()}
    return mean, {**metadata, "averaged": batches}


def _statistics(device: Device, sampler: Sampler, seed: int) -> dict[str, np.ndarray]:
    """The moving statistics of a sampler's generator, as its own training would leave them, but
    over more batches; none where it has no batch norm."""
    if not sampler.executor.aux_dict:
        return {}
    drawing = sampler.executor
    inputs = {name: tuple(drawing.arg_dict[name].shape) for name in drawing.input_names}
    training = drawing.symbol.bind(device, inputs, dict.fromkeys(inputs, "null"))
    for source, target in (
        (drawing.arg_dict, training.arg_dict),
        (drawing.aux_dict, training.aux_dict),
    ):
        for name, array in target.items():
            array[...] = source[name]

    state = picture_state(device, seed, FURTHER)
    random = np.random.default_rng((seed, PICTURE_COUNTER + FURTHER))
    nothing = np.zeros(training.outputs[0].shape, np.float32)
    sums = {name: np.zeros(array.shape) for name, array in training.aux_dict.items()}
    for batch in range(FORGET + BATCHES):
        device.ops.random_normal(state, training.arg_dict[sampler.generator.noise])
        if sampler.takes_digits:
            digits = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, sampler.count)]
            training.arg_dict["digit"][...] = digits.reshape(inputs["digit"])
        training.forward(is_train=True)
        training.backward(out_grads=[nothing], wanted=[])  # moves the statistics
        if batch >= FORGET:
            for name, total in sums.items():
                total += np.array(training.aux_dict[name])
    return {name: (total / BATCHES).astype(np.float32) for name, total in sums.items()}
