"""The conditional GAN: its step against MXNet's record, its runs, and the digits asked for."""

from __future__ import annotations

from types import SimpleNamespace

import conditional_record
import numpy as np
import pytest
from PIL import Image
from run_support import Trainer, assert_same_run

import pygan.device
from pygan import cli, layout, pictures
from pygan.data import ImageSet, load_digits
from pygan.errors import CheckpointError, DataError, PyganError
from pygan.training.conditional import ConditionalGan, SoftLabels
from pygan.training.gan import GanSettings
from pygan.training.log import read_log
from pygan.training.sampling import Sampler, draw_noise, open_sampler

STEPS = ("it1", "it2", "it3")


@pytest.fixture(scope="module")
def trained(labelled_data, tmp_path_factory):
    """The folder of a run of 20 batches (2 epochs) that nothing stopped."""
    out = tmp_path_factory.mktemp("conditional")
    Trainer(labelled_data)(out, system="conditional", epochs=2)
    return out


def test_three_steps_have_the_losses_that_mxnet_recorded(device):
    start, inputs = conditional_record.start_and_inputs()
    count = conditional_record.BATCH
    blank = np.zeros((count, 28, 28, 1), np.uint8)
    images = ImageSet(blank, np.zeros(count, np.uint8), "blank")
    gan = ConditionalGan(device, images, GanSettings(batch_size=count), losses_kept=3)
    for part, executor in (("gen", gan.generator), ("dis", gan.discriminator)):
        for name in executor.parameter_names:
            executor.arg_dict[name][...] = layout.from_mxnet(start[f"{part}/{name}"])

    def recorded(kind):
        return iter([layout.to_nhwc(inputs[f"{step}/{kind}"]) for step in STEPS])

    def give(*kinds):
        values = [recorded(kind) for kind in kinds]

        def write(*arrays):
            for target, source in zip(arrays[-len(kinds) :], values, strict=True):
                given = next(source)
                target[...] = given.reshape(target.shape)

        return write

    # What the step draws for itself now comes from the record.
    ops = SimpleNamespace(random_normal=give("noise"), gather_one_hot=give("digit_fake"))
    gan.device = SimpleNamespace(ops=ops)
    gan.data.next_batch = give("img", "digit_real")
    for labels, kind in ((gan.fake_labels, "label_fake"), (gan.real_labels, "label_real")):
        values = recorded(kind)
        labels.draw = lambda state, values=values: next(values)
    for _ in STEPS:
        gan.step()
    with np.load(conditional_record.SMALL_RECORD) as record:
        expected = [
            [float(record[f"{step}/loss_{kind}"][0]) for kind in ("fake", "real", "gen")]
            for step in STEPS
        ]
    found = [[losses.d_fake, losses.d_real, losses.g] for losses in gan.read_losses()]
    # MXNet's own backends differ by 1.5e-7 relative; four times that.
    np.testing.assert_allclose(found, expected, rtol=6e-7)


def test_devices_agree_on_the_first_batches(device, labelled_data):
    """The same noise, digits, labels and initial weights everywhere; only rounding differs."""
    found, expected = [], []
    for where, losses in ((device, found), (pygan.device.get("numpy"), expected)):
        gan = ConditionalGan(where, load_digits(labelled_data), GanSettings(batch_size=4, seed=5))
        gan.start_epoch(0)
        for _ in range(2):
            gan.step()
        for entry in gan.read_losses():
            losses.append([entry.d_fake, entry.d_real, entry.g, entry.score_real, entry.score_fake])
    # As for the lesson's GAN: signs of gradients near 0 may turn after the first update.
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=2e-6)


def test_soft_labels_are_ten_draws_repeated_over_the_batch(device):
    state = device.from_numpy(np.array([7, 0], np.uint64))
    labels = SoftLabels(device, 25, (0.9, 1.0))
    first = np.array(labels.draw(state)).ravel()
    second = np.array(labels.draw(state)).ravel()
    for drawn in (first, second):
        assert drawn.shape == (25,) and drawn.min() >= np.float32(0.9) and drawn.max() <= 1
        assert len(set(drawn[:10])) == 10
        np.testing.assert_array_equal(drawn[10:20], drawn[:10])
        np.testing.assert_array_equal(drawn[20:], drawn[:5])
    assert not np.intersect1d(first, second).size


def test_the_digits_asked_for_are_uniform_and_another_stream_each_epoch():
    images = ImageSet(np.zeros((20_000, 28, 28, 1), np.uint8), np.zeros(20_000, np.uint8), "blank")
    gan = ConditionalGan(pygan.device.get("numpy"), images, GanSettings(batch_size=4, seed=5))
    gan.start_epoch(0)
    first = np.array(gan.digit_order)
    # 20,000 draws: the count of a digit has a standard deviation of 42; five of them.
    assert np.abs(np.bincount(first, minlength=10) - 2000).max() < 212
    gan.start_epoch(1)
    assert not np.array_equal(gan.digit_order, first)
    gan.start_epoch(0)
    np.testing.assert_array_equal(gan.digit_order, first)


def test_real_images_come_with_their_own_digits(device, labelled_data):
    gan = ConditionalGan(device, load_digits(labelled_data), GanSettings(batch_size=4, seed=5))
    gan.start_epoch(0)
    order = np.array(gan.data.order)
    seen = []
    forward = gan.discriminator.forward

    def watched(**inputs):
        if "img" not in inputs:  # the pass over real images, gathered into place
            seen.append(np.array(gan.discriminator.arg_dict["digit"]).reshape(4, 10))
        return forward(**inputs)

    gan.discriminator.forward = watched
    for _ in range(3):
        gan.step()
    np.testing.assert_array_equal(np.concatenate(seen), np.eye(10)[order[:12] % 10])


def test_labels_that_are_no_digits_are_refused():
    images = ImageSet(np.zeros((4, 28, 28, 1), np.uint8), np.full(4, 10, np.uint8), "letters")
    with pytest.raises(DataError, match="letters: a label is 10"):
        ConditionalGan(pygan.device.get("numpy"), images, GanSettings(batch_size=2))


def test_a_run_leaves_log_pictures_and_checkpoints(trained):
    batches = read_log(trained / "log.jsonl", "batch")
    assert [entry["batch"] for entry in batches] == list(range(20))
    for entry in batches:
        assert 0 < entry["score_real"] < 1 and 0 < entry["score_fake"] < 1
    assert sorted(path.name for path in (trained / "pages").iterdir()) == [
        "epoch_0001.pdf",
        "epoch_0002.pdf",
    ]
    assert Image.open(trained / "losses.png").size == (960, 720)


@pytest.mark.parametrize("stops", [(7,), (10, 13)])
def test_resumed_runs_have_the_bits_of_an_unbroken_one(labelled_data, tmp_path, trained, stops):
    trainer = Trainer(labelled_data)
    for index, stop in enumerate(stops):
        trainer(tmp_path, system="conditional", epochs=2, max_batches=stop, resume=index > 0)
    assert "train conditional --out" in trainer.text
    asked = {"data": None, "batch_size": None, "seed": None}
    assert trainer(tmp_path, system="conditional", resume=True, **asked).batches == 20
    assert_same_run(tmp_path, trained)


def test_one_system_does_not_go_on_with_anothers_run(labelled_data, trained):
    with pytest.raises(
        CheckpointError, match="'conditional-gan', this command trains 'lesson-gan'"
    ):
        Trainer(labelled_data)(trained, resume=True)


def test_the_digit_asked_for_reaches_the_generator(trained):
    numpy = pygan.device.get("numpy")
    sampler, metadata = open_sampler(numpy, trained, 4)
    assert sampler.takes_digits and metadata["batches_done"] == 20
    noise = draw_noise(numpy, 1, seed=1).repeat(6, axis=0)
    images = sampler.images(noise, [3, 1, 4, 1, 5, 9])
    np.testing.assert_allclose(images[1], images[3], atol=1e-6)
    for other in (0, 2, 4, 5):
        assert np.abs(images[1] - images[other]).max() > 1e-5


@pytest.mark.parametrize(
    ("digits", "message"),
    [
        (None, "6 needed, none given"),
        ([1, 2], "6 needed, 2 given"),
        ([0, 1, 2, 3, 4, 10], "0 to 9"),
    ],
)
def test_digits_that_cannot_be(trained, digits, message):
    numpy = pygan.device.get("numpy")
    sampler, _ = open_sampler(numpy, trained, 4)
    with pytest.raises(PyganError, match=message):
        sampler.images(draw_noise(numpy, 6, seed=1), digits)


@pytest.mark.parametrize(
    ("arguments", "digits", "rows", "columns"),
    [
        (["--digits", "3,1,4"], [3, 1, 4], 8, 3),
        (["--digits", "0-2,7", "--count", "9"], [0, 1, 2, 7], 3, 4),
        (["--grid", "2x5"], range(10), 2, 5),
        ([], range(10), 8, 10),
    ],
)
def test_sample_draws_the_digits_asked_for(tmp_path, trained, arguments, digits, rows, columns):
    out = tmp_path / "a.png"
    command = ["sample", "--checkpoint", str(trained), "--device", "numpy", "--out", str(out)]
    assert cli.main([*command, "--scale", "1", *arguments]) == 0
    numpy = pygan.device.get("numpy")
    sampler = Sampler(numpy, 64, "conditional-gan")
    sampler.load(trained)
    count = 9 if "--count" in arguments else rows * columns
    asked = [list(digits)[i % len(digits)] for i in range(count)]
    images = sampler.images(draw_noise(numpy, count, seed=0), asked)
    expected = pictures.grid(images, rows, columns)
    assert Image.open(out).tobytes() == expected.tobytes()


def test_interpolate_walks_with_a_digit_a_row(tmp_path, trained):
    out = tmp_path / "a.png"
    command = ["interpolate", "--checkpoint", str(trained), "--device", "numpy", "--rows", "2"]
    assert cli.main([*command, "--digits", "7,1", "--out", str(out)]) == 0
    assert Image.open(out).size[1] == 2 * 58 + 2


def test_digits_asked_of_the_unconditional_generator(unbroken, tmp_path, capsys):
    command = ["sample", "--checkpoint", str(unbroken), "--device", "numpy", "--digits", "0-9"]
    assert cli.main([*command, "--out", str(tmp_path / "a.png")]) == 1
    assert "pygan train conditional" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "x", "10", "5-3", "1,", "1-2-3", "-1"])
def test_lists_that_are_no_digits(text, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["sample", "--checkpoint", "a", f"--digits={text}"])
    assert caught.value.code == 2
    assert "--digits" in capsys.readouterr().err


def test_summary_lists_both_networks(capsys):
    assert cli.main(["summary", "conditional"]) == 0
    text = capsys.readouterr().out
    for part in ("gen_deconv1", "dis_conv1", "digit"):
        assert part in text
