"""The training step against MXNet's record, and on every device against the numpy device."""

from __future__ import annotations

from types import SimpleNamespace

import lesson_record
import numpy as np
import pytest
from run_support import IMAGES

import pygan.device
from pygan import layout
from pygan.data import ImageSet, load_digits
from pygan.errors import StateError
from pygan.training.gan import GanSettings, LessonGan

STEPS = ("it1", "it2", "it3")


def test_three_steps_have_the_losses_that_mxnet_recorded(device):
    start, inputs = lesson_record.start_and_inputs()
    blank = np.zeros((lesson_record.BATCH, 28, 28, 1), np.uint8)
    images = ImageSet(blank, np.zeros(len(blank), np.uint8), "blank")
    gan = LessonGan(device, images, GanSettings(batch_size=lesson_record.BATCH), losses_kept=3)
    for part, executor in (("gen", gan.generator), ("dis", gan.discriminator)):
        for name in executor.parameter_names:
            executor.arg_dict[name][...] = layout.from_mxnet(start[f"{part}/{name}"])

    def give(kind):
        values = iter([layout.to_nhwc(inputs[f"{step}/{kind}"]) for step in STEPS])

        def write(*arrays):
            arrays[-1][...] = next(values)

        return write

    # The step draws its noise and gathers its images itself: both now come from the record.
    gan.device = SimpleNamespace(ops=SimpleNamespace(random_normal=give("noise")))
    gan.data.next_batch = give("img")
    for _ in STEPS:
        gan.step()
    assert gan.losses_full
    with np.load(lesson_record.SMALL_RECORD) as record:
        expected = [
            [float(record[f"{step}/loss_{kind}"][0]) for kind in ("fake", "real", "gen")]
            for step in STEPS
        ]
    found = [[losses.d_fake, losses.d_real, losses.g] for losses in gan.read_losses()]
    # MXNet's own backends differ by 3e-7 relative (float64 against float32 sums); four times that.
    np.testing.assert_allclose(found, expected, rtol=1.2e-6)


def test_devices_agree_on_the_first_batches(device, small_data):
    """The same noise, images and initial weights everywhere; only rounding differs."""
    settings = GanSettings(batch_size=4, seed=5)
    found, expected = [], []
    for where, losses in ((device, found), (pygan.device.get("numpy"), expected)):
        gan = LessonGan(where, load_digits(small_data), settings)
        gan.data.start_epoch(0)
        for _ in range(2):
            gan.step()
        for entry in gan.read_losses():
            losses.append([entry.d_fake, entry.d_real, entry.g, entry.score_real, entry.score_fake])
        assert gan.data.count == IMAGES
    # Adam's first steps have the learning rate's size and the gradient's sign: where rounding turns
    # the sign of a gradient near 0, a weight differs by 2 x 2e-4 of its 1e-2. One such weight in a
    # hundred moves a loss by far less than 1e-3.
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    # The first batch's losses come before any update that could turn.
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=2e-6)


def test_a_step_leaves_the_passes_their_own_gradients(small_data):
    """D's two updates move D only, the generator's pass moves G only."""
    gan = LessonGan(
        pygan.device.get("numpy"), load_digits(small_data), GanSettings(batch_size=4, seed=5)
    )
    gan.data.start_epoch(0)
    before = {
        "G": np.array(gan.generator.parameters),
        "D": np.array(gan.discriminator.parameters),
        "moving": np.array(gan.discriminator.auxiliary),
    }
    gan.step()
    assert gan.generator_optimizer.step_count == 1 and gan.discriminator_optimizer.step_count == 2
    moved = np.abs(np.array(gan.generator.parameters) - before["G"]).max()
    assert 0 < moved <= 2e-4 * (1 + 1e-4)  # Adam's first step is at most the learning rate
    moved = np.abs(np.array(gan.discriminator.parameters) - before["D"]).max()
    # The second can be 1.055 times that: the largest bias-corrected m / sqrt(v) of two gradients.
    assert 0 < moved <= 2.055 * 2e-4 * (1 + 1e-4)
    assert not np.array_equal(gan.discriminator.auxiliary, before["moving"])


def test_losses_must_be_read_in_time(small_data):
    gan = LessonGan(
        pygan.device.get("numpy"),
        load_digits(small_data),
        GanSettings(batch_size=4),
        losses_kept=2,
    )
    gan.data.start_epoch(0)
    gan.step()
    assert not gan.losses_full
    gan.step()
    assert gan.losses_full
    with pytest.raises(StateError, match="2 batches wait"):
        gan.step()
    assert [entry.batch for entry in gan.read_losses()] == [0, 1]
    gan.step()
    assert [entry.batch for entry in gan.read_losses()] == [2]
    assert gan.read_losses() == []
