"""Comparisons over seeds: their statistics, and going on to the bit after a stop."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest

from pygan import device
from pygan.errors import CheckpointError, PyganError, TrainingError
from pygan.progress import PlainProgress
from pygan.training.comparison import Comparison, Plan
from pygan.training.comparison_report import by_batches, mean_interval, summarize, table
from pygan.training.comparison_session import Session, choose
from pygan.training.folder import RunFolder


class Walk:
    """A model whose state is a sum of draws: its accuracy tells every batch and every order."""

    class settings:
        batch_size = 1

    class data:
        batches_per_epoch = 4

    def __init__(self, seed: int, slope: float) -> None:
        self.seed, self.slope = seed, slope
        self.batches_done = 0
        self.place = np.zeros(1)
        self.order = np.zeros(4)
        self.unread: list[float] = []

    @property
    def losses_full(self) -> bool:
        return len(self.unread) == 3

    def start_epoch(self, epoch: int) -> None:
        self.order = np.random.default_rng((self.seed, epoch)).random(4)

    def step(self) -> None:
        self.place = self.place / 2 + self.slope * self.order[self.batches_done % 4]
        self.batches_done += 1
        self.unread.append(float(self.place[0]))

    def read_losses(self) -> list:
        losses, self.unread = self.unread, []
        return [SimpleNamespace(loss=loss) for loss in losses]

    def state_dict(self) -> dict:
        return {"walk/place": self.place, "walk/order": self.order}

    def load_state_dict(self, state: dict, batches_done: int) -> None:
        self.place, self.order = state["walk/place"], state["walk/order"]
        self.batches_done = batches_done


SETTINGS = {"seed": 3, "seeds": 2, "labelled": 5}


def compare(out, *, resume=False, limit=None, slopes=(0.1, 0.2), **changes) -> Comparison:
    folder = RunFolder(out, resume=resume)
    session = Session(folder, resume, lambda: False, limit, PlainProgress(StringIO()))
    plan = {"name": "walk", "ways": ("slow", "fast"), "batches": 23, "data": "here", "gan": ""}
    plan |= {"fingerprint": "f", "settings": SETTINGS, "origin": {}, **changes}
    numpy = device.get("numpy")
    try:
        comparison = Comparison(session, Plan(**plan), numpy, lambda model: float(model.place[0]))
        for way, seed in comparison.missing():
            model = Walk(seed, dict(zip(("slow", "fast"), slopes, strict=True))[way])
            for _ in comparison.batches(model):
                model.step()
    finally:
        folder.close()
    return comparison


def numbers(comparison: Comparison) -> list[dict]:
    return [{k: v for k, v in e.items() if k != "seconds"} for e in comparison.finished]


def test_each_way_is_trained_from_each_seed(tmp_path):
    comparison = compare(tmp_path)
    found = [(entry["seed"], entry["way"]) for entry in comparison.finished]
    assert found == [(3, "slow"), (3, "fast"), (4, "slow"), (4, "fast")]
    for entry in comparison.finished:
        assert [row[0] for row in entry["curve"]] == [*range(4, 23, 4), 23]
        assert entry["accuracy"] == entry["curve"][-1][2] and entry["batches"] == 23
    # The walk is linear in its slope, and one seed draws one order for both.
    for slow, fast in (comparison.finished[:2], comparison.finished[2:]):
        assert fast["accuracy"] == pytest.approx(2 * slow["accuracy"])


@pytest.mark.parametrize("stops", [(1,), (22, 23, 30), (46, 91)])
def test_a_stopped_comparison_goes_on_to_the_bit(tmp_path, stops):
    unbroken = compare(tmp_path / "unbroken")
    for index, stop in enumerate(stops):
        part = compare(tmp_path / "broken", resume=index > 0, limit=stop)
        assert part.stopped and part.batches_done == stop
    assert numbers(compare(tmp_path / "broken", resume=True)) == numbers(unbroken)


def test_a_finished_comparison_trains_nothing_more(tmp_path):
    first = compare(tmp_path)
    again = compare(tmp_path, resume=True, slopes=(7, 7))
    assert again.finished == first.finished


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": 24}, "has batches 23, not 24"),
        ({"name": "run"}, "a checkpoint of 'walk', where one of 'run'"),
        ({"fingerprint": "g"}, "has fingerprint f, not g"),
    ],
)
def test_another_comparison_is_not_resumed(tmp_path, changes, message):
    compare(tmp_path, limit=5)
    with pytest.raises(CheckpointError, match=message):
        compare(tmp_path, resume=True, **changes)
    assert compare(tmp_path, resume=True, data="there", limit=6).batches_done == 6


def test_a_loss_that_is_no_number_stops_the_comparison(tmp_path):
    with pytest.raises(TrainingError, match="seed 3, slow: the loss is no longer a finite number"):
        compare(tmp_path, slopes=(np.nan, 1))


def test_settings_are_asked_saved_or_default(tmp_path):
    defaults = {"labelled": 9, "seed": 0, "seeds": 5, "data": "auto"}

    def chosen(resume, **asked):
        folder = RunFolder(tmp_path, resume=resume)
        try:
            session = Session(folder, resume, lambda: False, None, None)
            return choose(session, "walk", asked, defaults)
        finally:
            folder.close()

    assert chosen(False, labelled=None, seed=4) == {**defaults, "seed": 4}
    compare(tmp_path, limit=3)
    assert chosen(True, labelled=None) == {**SETTINGS, "data": "here"}
    assert chosen(True, labelled=5, data="digits") == {**SETTINGS, "data": "digits"}
    with pytest.raises(PyganError, match="--labelled 6 differs from 5 of the run to resume"):
        chosen(True, labelled=6)


def test_intervals_are_student_s():
    stats = pytest.importorskip("scipy.stats")
    values = [0.91, 0.93, 0.92, 0.95, 0.90]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    # The quantile is an expansion, good to 0.5 %.
    assert found["value"] == pytest.approx(np.mean(values), abs=1e-12)
    assert found["low"] == pytest.approx(low, abs=0.005 * (high - low))
    assert found["high"] == pytest.approx(high, abs=0.005 * (high - low))
    assert mean_interval(values[:3]) == {"value": np.mean(values[:3]), "low": None, "high": None}
    assert mean_interval([]) is None


def test_every_measurement_is_summarized(tmp_path):
    finished = compare(tmp_path).finished
    found = by_batches(finished, ["slow", "fast"])
    assert list(found) == ["4", "8", "12", "16", "20", "23"]
    assert found["23"] == summarize(finished, ["slow", "fast"])
    values = [entry["curve"][1][2] for entry in finished if entry["way"] == "fast"]
    assert found["8"]["fast"]["accuracy"]["value"] == pytest.approx(np.mean(values))
    assert by_batches([], ["slow"]) == {}


def test_differences_are_paired_by_seed():
    finished = [
        {"way": way, "seed": seed, "accuracy": accuracy}
        for way, row in (("a", (0.5, 0.7, 0.6, 0.8)), ("b", (0.51, 0.72, 0.61, 0.82, 0.99)))
        for seed, accuracy in enumerate(row)
    ]
    ways = summarize(finished, ["a", "b", "c"])
    assert (ways["a"]["difference"], ways["c"]["accuracy"]) == (None, None)
    # Seed 4 has no partner; the spread between seeds is not in the differences.
    difference = ways["b"]["difference"]
    assert difference["value"] == pytest.approx(0.015) and ways["b"]["seeds"] == 5
    assert 0.005 < difference["low"] < difference["value"] < difference["high"] < 0.025
    assert "+1.50 [+0.58, +2.42]" in table(ways)
