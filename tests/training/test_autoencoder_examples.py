"""The scripts of the auto-encoders and of the anomaly lesson: what they measure, and whole runs on
scikit-learn's digits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pygan import cli
from pygan.examples import anomaly_detection
from pygan.training.log import read_log

pytest.importorskip("sklearn", reason="the scripts measure with scikit-learn")


def run(command, out, *options):
    asked = ["--data", "digits", "--out", str(out), "--device", "numpy", "--plain"]
    return cli.main(["train", command, *asked, *options])


def scores_and_digits(seed):
    """Scores with mean 0 for normal digits, 1 for 3s and 3 for 2s, deviation 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, 2000)
    shift = np.where(labels == 2, 3.0, np.where(labels == 3, 1.0, 0.0))
    return rng.standard_normal(2000) + shift, labels


def test_areas_are_shares_of_pairs_in_the_right_order():
    scores, labels = scores_and_digits(1)
    numbers, curves = anomaly_detection.measure(scores, labels, seed=0)
    normal = scores[~np.isin(labels, (2, 3))]
    for name, digits in (("overall", (2, 3)), ("digit 2", (2,)), ("digit 3", (3,))):
        pairs = scores[np.isin(labels, digits)][:, None] > normal
        assert abs(numbers["area"][name] - pairs.mean()) < 1e-12
        assert [axis[[0, -1]].tolist() for axis in curves[name]] == [[0, 1], [0, 1]]


def test_the_threshold_is_chosen_on_one_half_and_judged_on_the_other():
    """Changing the judged half changes no threshold, changing the other half changes only it."""
    scores, labels = scores_and_digits(2)
    numbers, _ = anomaly_detection.measure(scores, labels, seed=5)
    order = np.random.default_rng(5).permutation(len(labels))
    chosen, judged = order[:1000], order[1000:]
    other = scores.copy()
    other[judged] = np.random.default_rng(3).standard_normal(1000)
    noise, _ = anomaly_detection.measure(other, labels, seed=5)
    assert noise["threshold"] == numbers["threshold"]
    assert abs(noise["sensitivity"] - (1 - noise["specificity"])) < 0.15  # noise tells nothing

    anomalous = np.isin(labels, (2, 3))
    indices = [
        (scores[chosen][anomalous[chosen]] >= t).mean()
        - (scores[chosen][~anomalous[chosen]] >= t).mean()
        for t in scores[chosen]
    ]
    assert numbers["threshold"] == scores[chosen][np.argmax(indices)]
    flagged = scores[judged] >= numbers["threshold"]
    assert numbers["sensitivity"] == flagged[anomalous[judged]].mean()
    assert abs(numbers["specificity"] - (~flagged[~anomalous[judged]]).mean()) < 1e-12
    assert numbers["sensitivity_2"] > numbers["sensitivity_3"]


def test_anomalies_end_to_end(tmp_path):
    assert run("anomaly", tmp_path, "--epochs", "3", "--lenet-epochs", "1") == 0
    result = json.loads((tmp_path / "result.json").read_text())["detectors"]
    assert set(result) == {"LeNet", "VAE"}
    # Ten labelled 2s are enough to tell 2s far better than by chance.
    assert result["LeNet"]["area"]["digit 2"] > 0.8
    for numbers in result.values():
        assert set(numbers["area"]) == {"overall", "digit 2", "digit 3"}
        assert 0 <= numbers["sensitivity"] <= 1 and 0 <= numbers["specificity"] <= 1
    assert Image.open(tmp_path / "roc.png").width == 1440
    assert Image.open(tmp_path / "reconstructions.png").size == (20 * 58 + 2, 2 * 58 + 2)


def test_autoencoders_end_to_end_and_resumed(tmp_path, capsys):
    chosen = ["--only", "autoencoder,vae", "--epochs", "1"]
    assert run("autoencoders", tmp_path, *chosen, "--max-batches", "8") == 0
    assert run("autoencoders", tmp_path, *chosen, "--resume") == 0
    assert "digits told" in capsys.readouterr().out
    networks = json.loads((tmp_path / "result.json").read_text())["networks"]
    assert set(networks) == {"autoencoder", "vae"}
    for command, numbers in networks.items():
        assert numbers["batches"] == len(read_log(tmp_path / command / "log.jsonl", "batch"))
        assert numbers["batches"] > 8 and numbers["held_out_error"] > 0
    # Codes of 32 numbers tell digits soon; chance is a tenth.
    assert networks["vae"]["digits_told_by_the_code"] > 0.3
    assert Image.open(tmp_path / "autoencoders.png").height == 960


def test_unknown_networks_are_refused(tmp_path, capsys):
    assert run("autoencoders", tmp_path, "--only", "gan") == 1
    assert "choose from autoencoder, " in capsys.readouterr().err
