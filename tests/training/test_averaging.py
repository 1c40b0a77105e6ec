"""``pygan average``: the mean of a run's generators, and statistics of batch norm that fit it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from run_support import Trainer

from pygan import checkpoint, cli, device
from pygan.errors import CheckpointError, PyganError
from pygan.training import averaging
from pygan.training.averaging import average_generators, average_run
from pygan.training.gan import bind_generator, load_network
from pygan.training.sampling import Sampler, open_sampler

NUMPY = device.get("numpy")


def epochs(run):
    return sorted((run / "checkpoints").iterdir())


def test_parameters_are_the_mean_and_the_file_is_a_checkpoint(unbroken, tmp_path):
    out, told = average_run(NUMPY, unbroken, out=tmp_path / "mean.safetensors")
    assert told["averaged"] == [20, 30]  # the second half of three epochs
    found, metadata = checkpoint.load(out)
    second, third = (checkpoint.load(path)[0] for path in epochs(unbroken)[1:])
    names = [name for name in third if name.startswith("generator/")]
    assert names and {n.split("/")[0] for n in found} == {"generator", "generator_auxiliary"}
    for name in names:
        # In float64, rounded once.
        expected = ((second[name].astype(float) + third[name]) / 2).astype(np.float32)
        np.testing.assert_array_equal(found[name], expected)
        assert name.endswith(("_gamma", "_beta")) or (found[name] != third[name]).any()
    assert metadata["averaged"] == [20, 30] and metadata["network"] == "lesson-gan"
    sampler, _ = open_sampler(NUMPY, out, 4)
    assert sampler.images(sampler.draw_noise(4, 0)).shape == (4, 28, 28, 1)


def test_epochs_after_the_one_that_a_run_went_back_to_are_left_out(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "run")
    run = tmp_path / "run"
    shutil.copy(epochs(run)[1], run / "checkpoint.safetensors")
    assert average_run(NUMPY, run)[1]["averaged"] == [10, 20]


def test_statistics_are_those_of_the_mean_itself(unbroken, monkeypatch):
    """As if a batch had the whole distribution of noise: layer by layer, and in the images."""
    monkeypatch.setattr(averaging, "FORGET", 50)
    monkeypatch.setattr(averaging, "BATCHES", 50)
    path = epochs(unbroken)[-1]
    tensors, _ = average_generators(NUMPY, [path, path])
    count = 1000
    generator = bind_generator(NUMPY, count, training=True)
    load_network(generator, tensors, "generator")
    noise = np.random.default_rng(0).standard_normal((count, 1, 1, 10)).astype(np.float32)
    generator.forward(is_train=True, noise=noise)
    by_the_batch = np.array(generator.outputs[0])
    sampler = Sampler(NUMPY, count)
    sampler.load_tensors(path, tensors)
    difference = np.abs(sampler.images(noise) - by_the_batch)
    # The run's own statistics are of batches of 4 images, of 10 of them at most.
    sampler.load_tensors(path, checkpoint.load(path)[0])
    before = np.abs(sampler.images(noise) - by_the_batch)
    assert difference.mean() < before.mean() / 3
    for name, array in tensors.items():
        if name.endswith("_moving_var"):
            assert array.min() > 0


def test_the_command_for_a_conditional_generator(labelled_data, tmp_path, capsys):
    run = tmp_path / "run"
    Trainer(labelled_data)(run, system="conditional", epochs=2)
    assert cli.main(["average", "--run", str(run), "--device", "numpy", "--last", "2"]) == 0
    text = capsys.readouterr().out
    assert "averaged.safetensors: the mean of 2 generators, after 10 to 20 batches" in text
    first = checkpoint.load(run / "averaged.safetensors")[0]
    assert cli.main(["average", "--run", str(run), "--device", "numpy"]) == 0
    again = checkpoint.load(run / "averaged.safetensors")[0]
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    picture = tmp_path / "digits.png"
    command = ["sample", "--checkpoint", str(run / "averaged.safetensors"), "--digits", "0-9"]
    assert cli.main([*command, "--device", "numpy", "--out", str(picture)]) == 0
    assert Image.open(picture).width == 10 * 58 + 2
    # A new run in the folder leaves no mean of the old one.
    Trainer(labelled_data)(run, system="conditional", epochs=1, overwrite=True)
    assert not (run / "averaged.safetensors").exists()


def test_a_gan_ends_with_its_mean_and_pictures_of_the_folder_are_drawn_with_it(
    labelled_data, tmp_path, capsys
):
    trainer = Trainer(labelled_data)
    run, picture = tmp_path / "run", tmp_path / "a.png"

    def drawn_with(checkpoint_given) -> str:
        command = ["sample", "--checkpoint", str(checkpoint_given), "--out", str(picture)]
        assert cli.main([*command, "--device", "numpy", "--count", "10"]) == 0
        return capsys.readouterr().out

    trainer(run, system="conditional", epochs=2, max_batches=13)
    assert not (run / "averaged.safetensors").exists()
    assert "a generator trained for 13 batches" in drawn_with(run)
    trainer(run, system="conditional", resume=True)
    assert "averaged.safetensors: the mean of 2 generators, after 10 to 20 batches" in trainer.text
    found, _ = checkpoint.load(run / "averaged.safetensors")
    same, _ = average_generators(NUMPY, epochs(run), seed=5)
    assert all(found[name].tobytes() == same[name].tobytes() for name in same)
    assert "the mean of 2 generators, after 10 to 20 batches" in drawn_with(run)
    mean = picture.read_bytes()
    assert "a generator trained for 20 batches" in drawn_with(run / "checkpoint.safetensors")
    assert picture.read_bytes() != mean
    # In the third epoch there are newer generators than the mean's, but no newer epoch; then there
    # is one.
    trainer(run, system="conditional", resume=True, epochs=4, max_batches=25)
    assert "the mean of 2 generators" in drawn_with(run)
    trainer(run, system="conditional", resume=True, max_batches=30)
    assert "a generator trained for 30 batches" in drawn_with(run)
    trainer(run, system="conditional", resume=True)
    assert "the mean of 2 generators, after 30 to 40 batches" in drawn_with(run)


def test_only_gans_of_two_epochs_have_a_mean(labelled_data, tmp_path):
    trainer = Trainer(labelled_data)
    for system, count in (("lesson", 1), ("classifier", 2)):
        trainer(tmp_path / system, system=system, epochs=count)
        assert not (tmp_path / system / "averaged.safetensors").exists()


def test_runs_that_cannot_be_averaged(small_data, unbroken, tmp_path):
    Trainer(small_data)(tmp_path / "other", epochs=1, seed=6)
    with pytest.raises(PyganError, match="of 1 whole epochs, and 2 are needed"):
        average_run(NUMPY, tmp_path / "other")
    with pytest.raises(PyganError, match="nowhere is no folder of a run"):
        average_run(NUMPY, "nowhere")
    with pytest.raises(PyganError, match="of 3 whole epochs, and 4 are needed"):
        average_run(NUMPY, unbroken, last=4)
    with pytest.raises(PyganError, match="at least two"):
        average_run(NUMPY, unbroken, last=1)
    with pytest.raises(CheckpointError, match=r"is of another run than .*: settings differs"):
        average_generators(NUMPY, [*epochs(unbroken), *epochs(tmp_path / "other")])
