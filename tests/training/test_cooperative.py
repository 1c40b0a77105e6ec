"""Training whose small layers run as cooperative launches."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from run_support import assert_same_run

import pygan.device
from pygan import cli
from pygan.data import load_digits
from pygan.errors import PyganError
from pygan.executor import cooperative_scope
from pygan.progress import PlainProgress
from pygan.training.gan import GanSettings, LessonGan
from pygan.training.run import train
from pygan.training.run_options import RunOptions


@pytest.fixture
def device():
    name, _, mode = os.environ.get("PYGAN_TEST_DEVICES", "cpu").split(",")[0].partition("-")
    return pygan.device.get(name, check=mode == "check")


def test_recorded_steps_have_the_losses_of_separate_launches(device, small_data) -> None:
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    found = []
    for cooperative in (False, True):
        with cooperative_scope(cooperative):
            gan = LessonGan(device, load_digits(small_data), GanSettings(batch_size=4, seed=5))
        assert bool(gan.discriminator.programs) == cooperative
        gan.recording.start()
        gan.start_epoch(0)
        for _ in range(3):
            gan.step()
        found.append([[entry.d_fake, entry.d_real, entry.g] for entry in gan.read_losses()])
    # as between devices: rounding may turn the sign of a gradient, and with it an Adam step
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
    np.testing.assert_allclose(found[1][0][0], found[0][0][0], rtol=2e-6)


def test_a_run_goes_on_as_it_began(device, small_data, tmp_path) -> None:
    def go(folder: str, **options) -> None:
        asked = {"data": str(small_data), "batch_size": 4, "seed": 5, **options}
        out = str(tmp_path / folder)
        train(RunOptions(out=out, **asked), device, PlainProgress(io.StringIO()))

    go("whole", max_batches=4, cooperative=True)
    go("parts", max_batches=2, cooperative=True)
    go("parts", max_batches=4, resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    go("separate", max_batches=1)
    with pytest.raises(PyganError, match="--cooperative on differs from off"):
        go("separate", max_batches=2, resume=True, cooperative=True)


def test_device_numpy_refuses(small_data, tmp_path, capsys) -> None:
    asked = ["train", "lesson", "--data", str(small_data), "--out", str(tmp_path / "run")]
    assert cli.main([*asked, "--device", "numpy", "--cooperative"]) == 1
    assert "cooperative=True is not available: device numpy" in capsys.readouterr().err
