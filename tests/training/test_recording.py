"""Recorded steps leave the bits of launched ones: over epochs, resumed, for each system."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest
from run_support import BATCH_SIZE, assert_same_run

import pygan.device
from pygan import cli
from pygan.data import ImageSet
from pygan.errors import PyganError
from pygan.examples import cifar10_gan, dcgan
from pygan.progress import PlainProgress
from pygan.training import recording
from pygan.training.autoencoder import Vae2
from pygan.training.classifier import Classifier, ClassifierSettings
from pygan.training.conditional import ConditionalGan
from pygan.training.gan import Gan, GanSettings, LessonGan
from pygan.training.run import train
from pygan.training.run_options import RunOptions
from pygan.training.supervised import SupervisedSettings

DEVICE = os.environ.get("PYGAN_TEST_DEVICES", "cpu").split(",")[0].partition("-")[0]
BATCHES = 6


@pytest.fixture
def device():
    if DEVICE == "numpy":
        pytest.skip("device numpy launches nothing")
    pytest.importorskip("cuda.bindings", reason="CUDA graphs need cuda-bindings")
    return pygan.device.get(DEVICE)


def images(side: int = 28, channels: int = 1) -> ImageSet:
    random = np.random.default_rng(5)
    pixels = random.integers(0, 256, (6, side, side, channels)).astype(np.uint8)
    return ImageSet(pixels, np.arange(6, dtype=np.uint8), "random images")


def lesson(device) -> Gan:
    return LessonGan(device, images(), GanSettings(batch_size=2), losses_kept=4)


def conditional(device) -> Gan:
    return ConditionalGan(device, images(), GanSettings(batch_size=2), losses_kept=4)


def small_dcgan(device) -> Gan:
    settings = dcgan.Settings(batch_size=2, ngf=2, ndf=2, noise_size=3)
    return dcgan.Dcgan(device, images(64, 3), settings, losses_kept=4)


def small_cifar10(device) -> Gan:
    settings = cifar10_gan.Settings(batch_size=2, filters=2)
    return cifar10_gan.Cifar10Gan(device, images(32, 3), settings, losses_kept=4)


def classifier(device) -> Classifier:
    return Classifier(device, images(), ClassifierSettings(batch_size=2), losses_kept=4)


def vae(device) -> Vae2:
    return Vae2(device, images(), SupervisedSettings(batch_size=2), losses_kept=4)


def run(model) -> tuple[list, dict[str, np.ndarray]]:
    """BATCHES batches over three epochs, as a run makes them: its losses and its last state."""
    losses = []
    for batch in range(BATCHES):
        if batch % 2 == 0:
            model.start_epoch(batch // 2)
        model.step()
        if model.losses_full:
            losses += model.read_losses()
    return losses + model.read_losses(), model.state_dict()


@pytest.mark.parametrize(
    ("make", "order"),
    [(make, "submitted") for make in (lesson, conditional, small_cifar10, classifier, vae)]
    + [(make, "last") for make in (lesson, conditional, small_dcgan)],
)
def test_replays_have_the_bits_of_launches(device, make, order, monkeypatch) -> None:
    """In the order of the launches, and in one that delays each branch as long as may be."""
    monkeypatch.setenv("PYGAN_CPU_GRAPH_ORDER", order)
    launched, expected = run(make(device))
    model = make(device)
    model.recording.start()
    recorded, state = run(model)
    assert [entry.batch for entry in recorded] == list(range(BATCHES))
    assert recorded == launched
    for name, array in expected.items():
        assert np.isfinite(array).all(), name
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def test_replays_launch_nothing_from_python(device, monkeypatch) -> None:
    from pygan.bindings.array import DeviceArray
    from pygan.bindings.kernel import Kernel

    model = lesson(device)
    model.start_epoch(0)
    model.recording.start()
    model.step()
    model.step()

    def refuse(*_, **__):
        raise AssertionError("a replayed step touched the device from Python")

    monkeypatch.setattr(Kernel, "__call__", refuse)
    for method in ("_copy_from", "_fill", "_upload", "get", "empty"):
        monkeypatch.setattr(DeviceArray, method, refuse)
    model.step()
    monkeypatch.undo()
    assert [entry.batch for entry in model.read_losses()] == [0, 1, 2]


def test_recorded_runs_resume_with_the_bits_of_a_launched_one(device, small_data, tmp_path) -> None:
    def go(folder: str, **options) -> str:
        stream = io.StringIO()
        asked = {"data": str(small_data), "batch_size": BATCH_SIZE, "seed": 5, **options}
        train(RunOptions(out=str(tmp_path / folder), **asked), device, PlainProgress(stream))
        return stream.getvalue()

    said = go("launched", max_batches=6, graph="off")
    assert "CUDA graph" not in said
    said = go("recorded", max_batches=3, graph="on")
    assert "steps are recorded once as a CUDA graph" in said
    go("recorded", max_batches=6, graph="on", resume=True)
    assert_same_run(tmp_path / "recorded", tmp_path / "launched")


def test_without_cuda_bindings_a_line_says_so(device, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    model = lesson(device)
    on_gpu = type("OnGpu", (), {"name": "cuda", "cannot_record": lambda _: device.cannot_record()})
    said = recording.choose("auto", on_gpu(), model)
    assert "kernel by kernel" in said and "extra `graphs`" in said
    assert not model.recording.is_on
    with pytest.raises(PyganError, match=r"cannot be recorded.*extra `graphs`"):
        recording.choose("on", device, model)


def test_what_cannot_be_recorded_is_launched_or_refused(device, small_data, tmp_path, capsys):
    with pytest.raises(PyganError, match="one of auto, on, off"):
        recording.choose("sometimes", device, lesson(device))
    numpy = pygan.device.get("numpy")
    assert recording.choose("auto", numpy, lesson(numpy)) is None
    asked = ["train", "lesson", "--data", str(small_data), "--out", str(tmp_path / "run")]
    assert cli.main([*asked, "--device", "numpy", "--graph", "on"]) == 1
    assert "device numpy launches nothing" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.safetensors"))
