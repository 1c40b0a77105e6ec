"""The GAN of fully connected layers: runs, its table of losses, dropout's stream in checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_support import assert_same_run

import pygan.device
from pygan import checkpoint, cli, networks
from pygan.examples import fully_connected_gan as example


def run(data: Path, out: Path, *options: str) -> int:
    asked = ["--data", str(data), "--out", str(out), "--device", "numpy", "--plain"]
    return cli.main(["train", "fully-connected", *asked, "--batch-size", "4", *options])


@pytest.fixture(scope="module")
def unbroken(small_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(small_data, out, "--epochs", "2") == 0
    return out


def test_the_table_has_the_mean_of_each_epoch(unbroken):
    result = json.loads((unbroken / "result.json").read_text())
    with open(unbroken / "log.jsonl") as lines:
        entries = [e for line in lines if (e := json.loads(line))["kind"] == "batch"]
    assert (result["batches"], result["batches_per_epoch"]) == (20, 10)
    first, second = result["epochs"]
    assert (first["epoch"], second["epoch"], first["batches"]) == (1, 2, 10)
    assert second["g"] == pytest.approx(np.mean([e["g"] for e in entries[10:]]))
    discriminator = [(e["d_fake"] + e["d_real"]) / 2 for e in entries[:10]]
    assert first["d"] == pytest.approx(np.mean(discriminator))
    pictures = {path.name for path in (unbroken / "samples").iterdir()}
    assert pictures == {"batch_0000010.png", "batch_0000020.png"}


def test_pictures_of_a_trained_generator(unbroken, tmp_path):
    """Black and white where tanh ends, as in the picture that the run itself drew last."""
    out = tmp_path / "a.png"
    newest = unbroken / "checkpoint.safetensors"
    command = ["sample", "--checkpoint", str(newest), "--device", "numpy", "--grid", "6x10"]
    assert cli.main([*command, "--out", str(out)]) == 0
    np.testing.assert_array_equal(
        np.asarray(Image.open(out)), np.asarray(Image.open(unbroken / "samples/batch_0000020.png"))
    )


def test_summary_has_both_networks(capsys):
    assert cli.main(["summary", "fully-connected"]) == 0
    text = capsys.readouterr().out
    for part in ("gen_fc1", "gen_tanh", "dis_drop3", "32, 28, 28, 1"):
        assert part in text


def test_a_stopped_run_goes_on_to_the_bit(small_data, unbroken, tmp_path):
    """Dropout draws anew in each pass: its place in the random stream is part of the state."""
    out = tmp_path / "run"
    assert run(small_data, out, "--epochs", "2", "--max-batches", "7") == 0
    state, _ = checkpoint.load(out / "checkpoint.safetensors")
    assert state["dropout/state"][1] > 1 << 56
    assert run(small_data, out, "--resume") == 0
    assert_same_run(out, unbroken)


def test_pictures_follow_training(small_data, tmp_path):
    """The grid's generator has the trained one's parameters, and draws by moving statistics."""
    images = example.System("x", None, None, None, 1).load(str(small_data), None)
    settings = example.Settings(batch_size=4)
    model = example.FullyConnectedGan(pygan.device.get("numpy"), images, settings)
    report = example.Report(model, "")
    model.start_epoch(0)
    for _ in range(3):
        model.step()
    report.generator.forward(is_train=False)
    noise = report.generator.arg_dict["noise"]
    model.generator.forward(is_train=False, noise=noise[:4])
    np.testing.assert_allclose(
        report.generator.outputs[0][:4], model.generator.outputs[0], rtol=0, atol=1e-5
    )


def test_the_networks_have_the_sizes_they_name():
    generator = networks.fully_connected_generator().infer_shape(noise=(2, 100))
    shapes = [s for n, s in generator.arguments.items() if n.endswith("weight")]
    assert shapes == [(256, 100), (512, 256), (784, 512)]
    assert list(generator.outputs.values()) == [(2, 28, 28, 1)]
    discriminator = networks.fully_connected_discriminator().infer_shape(img=(2, 28, 28, 1))
    shapes = [s for n, s in discriminator.arguments.items() if n.endswith("weight")]
    assert shapes == [(1024, 784), (512, 1024), (256, 512), (1, 256)]
