"""Runs whose log was removed, cut or changed go on from their checkpoint, and say what it lacks."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from run_support import Trainer, assert_same_state

from pygan import pictures
from pygan.examples import fully_connected_gan, study_report
from pygan.training.log import JsonLog, read_log
from pygan.training.systems import SYSTEMS

DONE = 13  # of 30 batches, 10 an epoch


@pytest.fixture(scope="module")
def stopped(small_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("stopped")
    Trainer(small_data)(out, epochs=3, max_batches=DONE)
    return out


def in_the_middle(lines: list[bytes]) -> bytes:
    whole = b"".join(lines)
    return whole[: whole.index(lines[7]) + 20]


def later(line: bytes) -> bytes:
    return line.replace(b'"batch": 12', b'"batch": 13')


CHANGES: dict[str, tuple[Callable[[list[bytes]], bytes | None], list[int]]] = {
    "removed": (lambda lines: None, []),
    "cut in a line": (in_the_middle, [*range(7)]),
    "later lines": (lambda lines: b"".join([*lines, later(lines[-1])]), [*range(13)]),
    "emptied": (lambda lines: b"", []),
    "cut at the newline": (lambda lines: b"".join(lines)[:-1], [*range(12)]),
    "first lines gone": (lambda lines: b"".join(lines[4:]), [*range(4, 13)]),
    "lines overwritten": (
        lambda lines: b"".join([*lines[:2], b"\0" * 90 + b"\n", b'{"kind": []}\n', *lines[4:]]),
        [0, 1, *range(4, 13)],
    ),
    "a half line more": (lambda lines: b"".join(lines) + lines[-1][:30], [*range(13)]),
    "lines twice": (lambda lines: b"".join(lines * 2), [*range(13)]),
}
SAID = {
    "removed": "has none of the 13 batches done: the log begins anew",
    "cut in a line": "lacks 6 of the 13 batches done",
    "later lines": "",
}


def changed(run: Path, change: str, folder: Path) -> tuple[Path, list[int]]:
    """A copy of the run's log, or none, and the batches in it that were done before."""
    function, kept = CHANGES[change]
    log = folder / "log.jsonl"
    content = function((run / "log.jsonl").read_bytes().splitlines(keepends=True))
    log.unlink(missing_ok=True)
    if content is not None:
        log.write_bytes(content)
    return log, kept


@pytest.mark.parametrize("change", SAID)
def test_a_run_goes_on_without_its_log(trainer, tmp_path, stopped, unbroken, change) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    log, kept = changed(stopped, change, run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(run, resume=True)
    assert SAID[change] in trainer.text
    assert ("log.jsonl" in trainer.text) == bool(SAID[change])
    assert_same_state(run, unbroken)
    entries = read_log(unbroken / "log.jsonl", "batch")
    assert read_log(log, "batch") == [entries[i] for i in [*kept, *range(DONE, 30)]]
    epochs = [entry["epoch"] for entry in read_log(log, "epoch")]
    assert epochs == [1, 2, 3] if 9 in kept else [2, 3]
    assert Image.open(run / "losses.png").size == (960, 720)


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_done_is_kept(tmp_path, stopped, change) -> None:
    path, kept = changed(stopped, change, tmp_path)
    log = JsonLog(path, DONE, 10)
    assert log.missing == DONE - len(kept)
    log.write({"kind": "batch", "batch": DONE})
    log.close()
    assert [entry["batch"] for entry in read_log(path, "batch")] == [*kept, DONE]
    assert len(read_log(path, "epoch")) == (9 in kept)


def test_a_log_that_is_whole_is_not_written_anew(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    log = JsonLog(path)
    for batch in range(3):
        log.write({"kind": "batch", "batch": batch})
    log.close()
    before = path.stat()
    assert JsonLog(path, 2, 2).missing == 0
    assert path.stat().st_ino == before.st_ino and [
        entry["batch"] for entry in read_log(path, "batch")
    ] == [0, 1]


@pytest.mark.parametrize("name", ["classifier", "vae2"])
def test_other_systems_cope(trainer, labelled_data, tmp_path, name) -> None:
    """Their curves have points of epochs, too."""
    asked = {"system": SYSTEMS[name], "data": str(labelled_data)}
    trainer(tmp_path, epochs=2, max_batches=13, **asked)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "losses.png").unlink()
    trainer(tmp_path, resume=True, **asked)
    assert "the log begins anew" in trainer.text
    assert (tmp_path / "losses.png").exists()


def test_a_table_by_epochs_leaves_out_what_is_not_known() -> None:
    names = ("d_fake", "d_real", "g", "score_real", "score_fake")
    entries = [{"batch": i, **dict.fromkeys(names, float(i))} for i in (13, 14, 15, 25)]
    rows = fully_connected_gan.losses_by_epoch(entries, 10)
    assert [(row["epoch"], row["batches"], row["g"]) for row in rows] == [(2, 3, 14.0), (3, 1, 25)]


def test_a_study_has_no_losses_of_a_run_whose_log_was_lost() -> None:
    lost = study_report.losses_at_the_end([])
    assert set(lost.values()) == {None}
    numbers = {key: 1.0 for _, key, _ in study_report.HEADINGS}
    known = {name: {"value": 1.0} for name in ("frechet", "precision", "recall")}
    reference = {**known, "classes": {"covered": 10}}
    results = {"lesson": [numbers | lost], "labels-wrong": [numbers, numbers | lost]}
    rows = study_report.table_rows(results, {name: name for name in results}, reference)
    assert rows[1][1:5] == ["-"] * 4 and rows[2][1:5] == ["1.000"] * 4
    assert "-" not in rows[1][5:]
    known = {"batches": [4, 5], "D": [0.5, 0.25], "G": [1.0, 2.0]}
    axes = Figure().subplots()
    study_report._draw_losses(axes, [{"batches": [], "D": [], "G": []}, known], legend=True)
    assert [line.get_xdata()[0] for line in axes.lines[:2]] == [4, 4]


def test_curves_have_gaps_where_batches_are_not_known() -> None:
    places = np.array([1, 2, 3, 7, 8, 20]) / 4
    assert pictures.unbroken(places) == [slice(0, 3), slice(3, 5), slice(5, 6)]
    assert pictures.unbroken([0.5]) == [slice(0, 1)]
    assert pictures.unbroken(np.arange(1, 400) / 937) == [slice(0, 399)]
