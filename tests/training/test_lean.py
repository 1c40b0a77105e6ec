"""Training without the results of batch norms that a convolution alone reads: `--lean`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from run_support import assert_same_run, chosen_devices, open_device

from pygan import checkpoint, cli
from pygan.data import ImageSet
from pygan.errors import PyganError
from pygan.examples.dcgan import make_system
from pygan.executor import Executor, lean_scope
from pygan.progress import PlainProgress
from pygan.training.run import train
from pygan.training.run_options import RunOptions
from pygan.training.systems import SYSTEMS


@pytest.fixture
def device() -> Any:
    return open_device(chosen_devices()[1])


@pytest.fixture
def bound(monkeypatch) -> list[Executor]:
    """Executors, as they are bound."""
    made: list[Executor] = []
    bind = Executor.__init__

    def noting(self: Executor, *args: Any, **options: Any) -> None:
        bind(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Executor, "__init__", noting)
    return made


def planned(bound: list[Executor], system: Any, device: Any, lean: bool, **settings: Any) -> int:
    """Bytes of all executors of a system's model."""
    side, channels = (32, 3) if system.command == "colour-classifier" else (28, 1)
    side, channels = (64, 3) if system.command == "dcgan" else (side, channels)
    images = np.zeros((100, side, side, channels), np.uint8)
    bound.clear()
    with lean_scope(lean):
        labels = np.arange(100, dtype=np.uint8) % 10
        system.model(device, ImageSet(images, labels, "nothing"), system.settings(**settings))
    return sum(executor.memory.total - executor.memory.kept for executor in bound)


@pytest.mark.parametrize("name", cli.TRAINED)
def test_it_is_offered_where_it_saves_memory(device, bound, name) -> None:
    sizes = [planned(bound, SYSTEMS[name], device, lean, batch_size=20) for lean in (False, True)]
    assert sizes[1] < 0.98 * sizes[0] if name in cli.LEAN else sizes[1] > 0.95 * sizes[0]


def test_dcgan_takes_less(device, bound) -> None:
    system = make_system(0, "")
    sizes = [planned(bound, system, device, lean, batch_size=16) for lean in (False, True)]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("name", [*cli.TRAINED, *cli.EXAMPLES])
def test_help_offers_it_to_those_alone(capsys, name) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", name, "--help"])
    offered = name in (*cli.LEAN, "dcgan", "study")
    assert ("--lean" in capsys.readouterr().out) == offered


def test_a_run_keeps_it(device, small_data, tmp_path) -> None:
    def go(folder: str, **options: Any) -> str:
        asked = {"data": str(small_data), "batch_size": 4, "seed": 5, **options}
        said = io.StringIO()
        train(RunOptions(out=str(tmp_path / folder), **asked), device, PlainProgress(said))
        return said.getvalue()

    go("whole", max_batches=4, lean=True)
    go("parts", max_batches=2, lean=True)
    assert checkpoint.load(tmp_path / "parts" / "checkpoint.safetensors")[1]["lean"] is True
    go("parts", max_batches=4, resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    go("plain", max_batches=1)
    with pytest.raises(PyganError, match="--lean on differs from off of the run to resume"):
        go("plain", max_batches=2, resume=True, lean=True)
    with pytest.raises(PyganError, match="--lean saves nothing with --cooperative"):
        go("both", max_batches=1, lean=True, cooperative=True)


def test_device_numpy_says_that_it_saves_nothing(trainer, tmp_path, unbroken) -> None:
    trainer(tmp_path, max_batches=2, lean=True)
    assert "lean: no saving on device numpy" in trainer.text
    assert trainer.log(tmp_path) == trainer.log(unbroken)[:2]
