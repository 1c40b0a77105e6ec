"""Runs: they leave what they promise, go on to the bit, and stop with the last state kept."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from run_support import BATCH_SIZE, assert_same_run

from pygan import checkpoint, cli, device, pictures
from pygan.errors import CheckpointError, DataError, PyganError, TrainingError
from pygan.training import run as run_module
from pygan.training.folder import RunFolder
from pygan.training.gan import LessonGan
from pygan.training.log import read_log
from pygan.training.sampling import Sampler, draw_noise
from pygan.training.stopping import StopRequest
from pygan.training.systems import SYSTEMS


def test_a_run_leaves_log_pictures_and_checkpoints(unbroken):
    batches = read_log(unbroken / "log.jsonl", "batch")
    assert [entry["batch"] for entry in batches] == list(range(30))
    for entry in batches:
        assert 0 < entry["score_real"] < 1 and 0 < entry["score_fake"] < 1
        assert min(entry["d_fake"], entry["d_real"], entry["g"]) > 0
    epochs = read_log(unbroken / "log.jsonl", "epoch")
    assert [entry["epoch"] for entry in epochs] == [1, 2, 3]
    assert all(entry["seconds"] > 0 and entry["images_per_second"] > 0 for entry in epochs)
    assert Image.open(unbroken / "losses.png").size == (960, 720)
    pages = sorted((unbroken / "pages").iterdir())
    assert [page.name for page in pages] == [f"epoch_000{i}.pdf" for i in (1, 2, 3)]
    for epoch in (1, 2, 3):
        path = unbroken / "checkpoints" / f"epoch_000{epoch}.safetensors"
        assert checkpoint.load(path)[1]["batches_done"] == 10 * epoch


def test_the_first_losses_are_those_of_a_discriminator_that_cannot_tell(unbroken):
    """Weights within 0.01 make every score nearly 1/2, whose loss is ln 2."""
    first = read_log(unbroken / "log.jsonl", "batch")[0]
    for name in ("d_fake", "d_real", "g"):
        assert abs(first[name] - np.log(2)) < 0.05
    for name in ("score_real", "score_fake"):
        assert abs(first[name] - 0.5) < 0.05


def test_sample_grids_come_from_the_generator_and_one_fixed_noise(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "BATCHES_PER_PICTURE", 5)
    trainer(tmp_path, epochs=3, max_batches=10)
    for batch in (5, 10):
        found = Image.open(tmp_path / "samples" / f"batch_{batch:07d}.png")
        assert found.size == (3 * 28 * 4 + 8, 3 * 28 * 4 + 8)
    sampler = Sampler(device.get("numpy"), 9)
    sampler.load(tmp_path)
    images = sampler.images(draw_noise(device.get("numpy"), 9, seed=5))
    assert found.tobytes() == pictures.grid(images, 3, 3, scale=4).tobytes()
    again = draw_noise(device.get("numpy"), 9, seed=6)
    assert not np.array_equal(sampler.images(again), images)


@pytest.mark.parametrize("stops", [(13,), (10, 25)])
def test_resumed_runs_have_the_bits_of_an_unbroken_one(trainer, tmp_path, unbroken, stops):
    for index, stop in enumerate(stops):
        trainer(tmp_path, epochs=3, max_batches=stop, resume=index > 0)
    outcome = trainer(tmp_path, resume=True, data=None, batch_size=None, seed=None)
    assert outcome.batches == 30
    assert_same_run(tmp_path, unbroken)


def test_another_seed_is_another_run(trainer, tmp_path, unbroken):
    trainer(tmp_path, max_batches=1, seed=6)
    assert "\nseed: 6\n" in trainer.text
    assert trainer.log(tmp_path)[0] != read_log(unbroken / "log.jsonl", "batch")[0]


def start(data, out, *more) -> subprocess.Popen:
    command = [sys.executable, "-m", "pygan", "train", "lesson", "--device", "numpy"]
    command += ["--data", str(data), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_epochs(out, count: int, process: subprocess.Popen) -> None:
    path = out / "checkpoints" / f"epoch_{count:04d}.safetensors"
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)


ASKED = ("--batch-size", str(BATCH_SIZE), "--seed", "5", "--epochs", "3")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(small_data, tmp_path, unbroken, number, code):
    out = tmp_path / "with space"
    with start(small_data, out, *ASKED) as process:
        wait_for_epochs(out, 1, process)
        process.send_signal(number)
        text = process.stdout.read()
    assert process.returncode == code, text
    assert 10 <= checkpoint.load(out / "checkpoint.safetensors")[1]["batches_done"] < 30
    command = shlex.split(re.search(r"^  (.* train lesson .*)$", text, re.MULTILINE)[1])
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert_same_run(out, unbroken)


def test_a_killed_run_goes_on_from_its_last_checkpoint(small_data, tmp_path, unbroken):
    with start(small_data, tmp_path, *ASKED) as process:
        wait_for_epochs(tmp_path, 1, process)
        process.kill()
    assert cli.main(["train", "lesson", "--out", str(tmp_path), "--resume"]) == 0
    assert_same_run(tmp_path, unbroken)


def poison(monkeypatch, batch: int, part: str = "discriminator") -> None:
    """Makes the parameters of a network NaN before a batch (counted from 0 over the run)."""
    step = LessonGan.step

    def poisoned(gan):
        if gan.batches_done == batch:
            getattr(gan, part).parameters[...] = np.nan
        step(gan)

    monkeypatch.setattr(LessonGan, "step", poisoned)


def test_nan_losses_stop_the_run_where_they_began(trainer, tmp_path, monkeypatch):
    poison(monkeypatch, 13)
    with pytest.raises(TrainingError, match=r"epoch 2, batch 4 .*state after batch 10"):
        trainer(tmp_path, epochs=3)
    assert trainer.log(tmp_path)[-1]["batch"] == 12
    assert all(np.isfinite(array).all() for array in trainer.state(tmp_path).values())
    monkeypatch.undo()
    assert trainer(tmp_path, resume=True).batches == 30


def test_parameters_that_are_no_numbers_are_never_saved(trainer, tmp_path, monkeypatch):
    step = LessonGan.step

    def poisoned(gan):
        step(gan)
        if gan.batches_done == 10:
            gan.generator.parameters[...] = np.nan

    monkeypatch.setattr(LessonGan, "step", poisoned)
    with pytest.raises(TrainingError, match=r"generator/.*not finite"):
        trainer(tmp_path, epochs=1)
    state = trainer.state(tmp_path)
    assert all(np.isfinite(array).all() for array in state.values())


def test_a_folder_with_a_run_is_not_touched_unasked(trainer, tmp_path):
    trainer(tmp_path, max_batches=2)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"already holds a run.*--resume.*--overwrite"):
        trainer(tmp_path, max_batches=3)
    with pytest.raises(DataError):
        trainer(tmp_path, max_batches=3, overwrite=True, data=str(tmp_path / "nowhere"))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_overwrite_removes_the_old_run_and_nothing_else(trainer, tmp_path, unbroken):
    trainer(tmp_path, epochs=2, seed=6)
    (tmp_path / "notes.txt").write_text("mine")
    trainer(tmp_path, overwrite=True, max_batches=3)
    assert [entry["batch"] for entry in trainer.log(tmp_path)] == [0, 1, 2]
    assert trainer.log(tmp_path) == read_log(unbroken / "log.jsonl", "batch")[:3]
    assert not list((tmp_path / "checkpoints").iterdir())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_needs_a_checkpoint(trainer, tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint to resume"):
        trainer(tmp_path, resume=True)


def test_resume_with_other_settings_or_data_is_refused(trainer, tmp_path, small_data):
    trainer(tmp_path / "run", max_batches=2)
    with pytest.raises(PyganError, match="--batch-size 8 differs from 4"):
        trainer(tmp_path / "run", resume=True, batch_size=8)
    with pytest.raises(PyganError, match="--seed 1 differs from 5"):
        trainer(tmp_path / "run", resume=True, seed=1)
    other = tmp_path / "other"
    other.mkdir()
    for file in small_data.iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        (other / file.name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"trained on other data.*--data .{small_data}"):
        trainer(tmp_path / "run", resume=True, data=str(other))


def test_resume_of_another_network_lists_names_and_shapes(trainer, tmp_path):
    trainer(tmp_path, max_batches=1)
    path = tmp_path / "checkpoint.safetensors"
    tensors, metadata = checkpoint.load(path)
    name = next(name for name in tensors if name.startswith("generator/"))
    changed = dict(tensors, **{name: tensors[name][:1]})
    checkpoint.save(path, changed, metadata)
    with pytest.raises(CheckpointError, match=f"another network: {name} is .*expected"):
        trainer(tmp_path, resume=True)
    checkpoint.save(path, tensors, dict(metadata, network="something"))
    with pytest.raises(CheckpointError, match="'something'"):
        trainer(tmp_path, resume=True)


def test_a_damaged_checkpoint_is_refused(trainer, tmp_path):
    trainer(tmp_path, max_batches=1)
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        trainer(tmp_path, resume=True)


def test_two_processes_do_not_share_a_folder(trainer, tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(TrainingError, match="another process"):
        trainer(tmp_path, max_batches=1)
    folder.close()
    assert trainer(tmp_path, max_batches=1).batches == 1


def test_a_stop_before_the_first_batch_leaves_a_run_to_go_on(trainer, tmp_path, unbroken):
    class Stopped(StopRequest):
        def __enter__(self):
            self.signal_number = signal.SIGINT
            return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "StopRequest", Stopped)
        assert trainer(tmp_path, epochs=3).batches == 0
    assert "--resume" in trainer.text
    assert trainer(tmp_path, resume=True).batches == 30
    assert_same_run(tmp_path, unbroken)


def test_nothing_to_do(trainer, tmp_path):
    trainer(tmp_path, max_batches=2)
    assert trainer(tmp_path, resume=True, max_batches=2).batches == 2
    assert "nothing to do" in trainer.text


def test_out_of_memory_says_how_much_was_needed(trainer, tmp_path):
    with pytest.raises(TrainingError, match=r"out of memory on device numpy: .*--batch-size"):
        trainer(tmp_path, batch_size=10**7)


LIMITED = """
import resource, sys
from pygan import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_checkpoint_that_does_not_fit_keeps_the_last(trainer, tmp_path):
    trainer(tmp_path, max_batches=2)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    command = [sys.executable, "-c", LIMITED, "train", "lesson", "--device", "numpy", "--resume"]
    command += ["--out", str(tmp_path), "--max-batches", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "could not be written: File too large" in done.stderr
    assert "keeps the state before" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))
    assert trainer(tmp_path, resume=True, max_batches=4).batches == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(trainer, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(TrainingError, match="cannot be written"):
        trainer(tmp_path / "run", max_batches=1)


def test_a_file_in_the_place_of_the_folder(trainer, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be written: it is a file"):
        trainer(tmp_path / "file", max_batches=1)


def test_a_small_set_is_gone_through_more_often():
    lesson = SYSTEMS["lesson"]
    assert lesson.epochs_of(batches_per_epoch=1875) == 20
    assert lesson.epochs_of(batches_per_epoch=56) * 56 >= 5000 > (lesson.epochs_of(56) - 1) * 56


def test_a_run_keeps_the_precision_it_began_with(trainer, tmp_path, unbroken):
    """bf16 is another arithmetic, said in the checkpoint and kept when the run goes on."""
    trainer(tmp_path / "whole", max_batches=4, precision="bf16")
    exact = read_log(unbroken / "log.jsonl", "batch")[:4]
    rounded = trainer.log(tmp_path / "whole")
    assert [entry["g"] for entry in rounded] != [entry["g"] for entry in exact]
    assert [entry["g"] for entry in rounded] == pytest.approx(
        [entry["g"] for entry in exact], abs=0.3
    )
    trainer(tmp_path / "parts", max_batches=2, precision="bf16")
    assert checkpoint.load(tmp_path / "parts" / "checkpoint.safetensors")[1]["precision"] == "bf16"
    with pytest.raises(PyganError, match="--precision float32 differs from bf16"):
        trainer(tmp_path / "parts", resume=True, precision="float32")
    trainer(tmp_path / "parts", max_batches=4, resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_run_keeps_the_storage_it_began_with(trainer, tmp_path, unbroken):
    """Losses stay near those of float32; what was saved goes on, bit for bit, and alike alone."""
    both = {"precision": "bf16", "storage": "bf16"}
    trainer(tmp_path / "whole", max_batches=4, **both)
    exact = read_log(unbroken / "log.jsonl", "batch")[:4]
    stored = trainer.log(tmp_path / "whole")
    for name in ("g", "d_fake", "d_real"):
        assert [entry[name] for entry in stored] != [entry[name] for entry in exact]
        assert [entry[name] for entry in stored] == pytest.approx(
            [entry[name] for entry in exact], abs=0.3
        )
    trainer(tmp_path / "parts", max_batches=2, **both)
    saved = checkpoint.load(tmp_path / "parts" / "checkpoint.safetensors")[1]
    assert saved["storage"] == "bf16"
    with pytest.raises(PyganError, match="--storage float32 differs from bf16"):
        trainer(tmp_path / "parts", resume=True, storage="float32")
    trainer(tmp_path / "parts", max_batches=4, resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_storage_needs_its_precision(trainer, tmp_path):
    with pytest.raises(PyganError, match="--storage bf16 goes with --precision bf16 alone"):
        trainer(tmp_path / "run", max_batches=1, storage="bf16")


def test_runs_from_before_there_was_a_choice_go_on_in_float32(trainer, tmp_path):
    trainer(tmp_path, max_batches=1)
    path = tmp_path / "checkpoint.safetensors"
    state, metadata = checkpoint.load(path)
    assert metadata.pop("precision") == "float32"
    checkpoint.save(path, state, metadata)
    trainer(tmp_path, max_batches=2, resume=True)
    assert checkpoint.load(path)[1]["precision"] == "float32"
