"""examples/hyperparameter_study.py: the lesson's GAN with one setting changed at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from run_support import Trainer, assert_same_run

from pygan import checkpoint, cli, device, networks, pictures
from pygan.data import load_digits
from pygan.examples import hyperparameter_study as study
from pygan.examples import study_gan, study_report
from pygan.training.gan import GanSettings, LessonGan
from pygan.training.log import read_log

BATCH = 4
STATE = "checkpoint.safetensors"


def settings(name: str, **others) -> study_gan.Settings:
    return study_gan.Settings(
        **{"batch_size": BATCH, "seed": 5, **study.SETTINGS[name].settings, **others}
    )


def trained(images, name: str, batches: int, **others) -> study_gan.StudyGan:
    model = study_gan.StudyGan(device.get("numpy"), images, settings(name, **others))
    model.start_epoch(0)
    for _ in range(batches):
        model.step()
    return model


@pytest.fixture(scope="module")
def images(small_data):
    return load_digits(small_data)


@pytest.fixture(scope="module")
def data(labelled_data, tmp_path_factory):
    """The labelled images, and test images: the same in white on black turned to black on white."""
    folder = tmp_path_factory.mktemp("both")
    for file in labelled_data.iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(content)
        if "images" in file.name:
            content = content[:16] + bytes(255 - value for value in content[16:])
        (folder / file.name.replace("train", "t10k")).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def judge(labelled_data, tmp_path_factory):
    """A run of the classifier, which need not be good."""
    out = tmp_path_factory.mktemp("judge")
    Trainer(labelled_data)(out, system="classifier", epochs=1)
    return out


def run(data, out, *options: str) -> int:
    asked = ["--data", str(data), "--out", str(out), "--device", "numpy", "--plain"]
    return cli.main(["train", "study", *asked, "--batch-size", str(BATCH), *options])


def test_the_networks_shown_are_the_lessons():
    assert study_gan.generator().to_json() == networks.lesson_generator().to_json()
    assert study_gan.discriminator().to_json() == networks.lesson_discriminator().to_json()


def test_without_a_change_it_is_the_lessons_gan_to_the_bit(images):
    found = trained(images, "lesson", 3)
    lesson = LessonGan(device.get("numpy"), images, GanSettings(batch_size=BATCH, seed=5))
    lesson.start_epoch(0)
    for _ in range(3):
        lesson.step()
    expected, state = lesson.state_dict(), found.state_dict()
    assert {n for n in state if not n.startswith("labels/")} == set(expected)
    different = [n for n in expected if state[n].tobytes() != expected[n].tobytes()]
    assert not different
    assert found.read_losses() == lesson.read_losses()


@pytest.mark.parametrize("name", [name for name in study.SETTINGS if name != "lesson"])
def test_every_change_changes_the_training(images, name):
    """And nothing else of the settings than it says."""
    lesson, changed = (
        study_gan.Settings().as_dict(),
        study_gan.Settings(**study.SETTINGS[name].settings),
    )
    different = {n for n, value in changed.as_dict().items() if value != lesson[n]}
    assert different == set(study.SETTINGS[name].settings)
    weights = [
        trained(images, n, 8).generator.arg_dict["gen_deconv4_weight"] for n in ("lesson", name)
    ]
    assert np.abs(weights[0] - weights[1]).max() > 1e-6


def test_graphs_have_the_activations_asked_for():
    assert "LeakyReLU" in study_gan.generator(slope=0.25).to_json()
    assert "LeakyReLU" not in study_gan.discriminator(slope=0.0).to_json()
    assert study_gan.generator(bounded=False).list_outputs() == ["gen_deconv4_output"]


def test_one_update_has_the_sum_of_both_gradients(images):
    """Of the plain optimizer's first step: its change is that of the two gradients together."""
    plain = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0}
    model = study_gan.StudyGan(device.get("numpy"), images, settings("one-update", **plain))
    model.start_epoch(0)
    before = np.array(model.discriminator.parameters)
    model.step()
    # The last pass, G's, asked for no gradient of the weights.
    size = model.discriminator.gradients.size
    moved = before[:size] - model.discriminator.parameters[:size]
    np.testing.assert_allclose(moved, 0.1 * model.discriminator.gradients, atol=1e-7)

    gradients = []
    apart = study_gan.StudyGan(device.get("numpy"), images, settings("lesson", **plain))
    apart.discriminator_optimizer.update = lambda: gradients.append(
        np.array(apart.discriminator.gradients)
    )
    apart.start_epoch(0)
    apart.step()
    assert len(gradients) == 2
    np.testing.assert_allclose(model.discriminator.gradients, sum(gradients), atol=1e-6)


def test_one_batch_holds_generated_and_real_images(images):
    model = trained(images, "one-batch", 1)
    both = model.both.arg_dict["img"]
    np.testing.assert_array_equal(both[:BATCH], model.generator.outputs[0])
    real = device.get("numpy").zeros((BATCH, 28, 28, 1))
    model.data.latest_batch(real)
    np.testing.assert_array_equal(both[BATCH:], real)
    assert model.both.arg_dict["label"].ravel().tolist() == [0.0] * BATCH + [1.0] * BATCH
    scores = np.array(model.both.outputs[1]).reshape(2, BATCH).mean(axis=1)
    losses = model.read_losses()[0]
    np.testing.assert_allclose([losses.score_fake, losses.score_real], scores, rtol=1e-6)
    np.testing.assert_allclose([losses.d_fake, losses.d_real], np.array(model.both.outputs[0])[0])


def test_real_images_stand_beside_the_generated_ones_in_gs_pass(images):
    """What G gets is the gradient of the whole batch's loss, all labels "real"."""
    model = trained(images, "one-batch-for-g", 1)
    gradients = []
    backward = model.generator.backward
    model.generator.backward = lambda out_grads: (
        gradients.append(np.array(out_grads[0])),
        backward(out_grads=out_grads),
    )
    model.step()
    assert model.both.arg_dict["label"].ravel().tolist() == [1.0] * 2 * BATCH
    assert gradients[0].shape == (BATCH, 28, 28, 1) and np.abs(gradients[0]).max() > 0
    np.testing.assert_array_equal(gradients[0], model.both.grad_dict["img"][:BATCH])
    made = np.array(model.both.arg_dict["img"])[:BATCH]
    assert made.min() >= 0 and made.max() <= 1
    assert model.read_losses()[-1].g == float(np.array(model.both.outputs[0])[0])


def test_labels_lie_where_the_settings_say():
    random = np.random.default_rng(0)
    for label, low, high in ((0.0, 0.0, 0.1), (1.0, 0.9, 1.0)):
        noisy = study_gan.draw_labels(label, settings("labels-noisy"), random, 4000)
        assert noisy.shape == (4000, 1, 1, 1) and noisy.dtype == np.float32
        assert low <= noisy.min() < low + 0.002 and high - 0.002 < noisy.max() <= high
        wrong = study_gan.draw_labels(label, settings("labels-wrong"), random, 40_000)
        assert set(wrong.ravel().tolist()) == {0.0, 1.0}
        # Five standard deviations of a share of 1/20.
        assert abs((wrong != label).mean() - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 40_000)
        exact = study_gan.draw_labels(label, settings("lesson"), random, 100)
        assert (exact == label).all()


def test_turned_labels_are_the_same_game_with_the_other_sign(images):
    model = trained(images, "labels-turned", 1)
    fake, real = (np.array(table) for table in model.labels)
    assert (fake == 1).all() and (real == 0).all() and (model.target == 0).all()
    plain = trained(images, "lesson", 1)
    found, expected = model.read_losses()[0], plain.read_losses()[0]
    # The first pass differs in the label alone: D's score of "real" is one minus its output.
    score = float(np.array(plain.discriminator.outputs[1]).mean())
    assert abs(found.score_fake - (1 - expected.score_fake)) < 1e-6
    assert 0 < score < 1


def test_a_study_is_stopped_resumed_and_measured(data, judge, tmp_path, capsys):
    """With two seeds; a stop in the middle of an epoch leaves no trace."""
    asked = ["--only", "labels-wrong", "--seeds", "2", "--epochs", "1"]
    asked += ["--classifier", str(judge), "--judged", "20"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(data, whole, *asked) == 0
    text = capsys.readouterr().out
    assert "2 of 2: labels-wrong (one of D's labels in 20 wrong), seed 1" in text
    assert run(data, broken, *asked, "--batches", "4") == 0
    assert "The same command with --resume goes on" in capsys.readouterr().out
    assert run(data, broken, *asked) == 1  # neither resumed nor overwritten
    assert run(data, broken, *asked, "--resume") == 0
    for place in ("labels-wrong/seed_0", "labels-wrong/seed_1"):
        assert_same_run(broken / place, whole / place)

    result = json.loads((whole / "result.json").read_text())
    assert set(result["settings"]) == {"labels-wrong"}
    runs = result["settings"]["labels-wrong"]["runs"]
    assert [entry["seed"] for entry in runs] == [0, 1]
    log = read_log(whole / "labels-wrong" / "seed_0" / "log.jsonl", "batch")
    assert runs[0]["batches"] == len(log) == 10
    np.testing.assert_allclose(runs[0]["g_loss"], np.mean([entry["g"] for entry in log]))
    assert runs[0]["quality"]["generated_images"] == 20
    assert runs[0]["frechet"] == runs[0]["quality"]["frechet"]["value"]
    lines = (whole / "study.md").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("| setting | D loss |")
    mean = np.mean([entry["frechet"] for entry in runs])
    assert f"{mean:.2f} (" in lines[2] and lines[3].startswith("| real digits | - |")
    assert Image.open(whole / "study.png").width == study_report.FIGURE_WIDTH

    # A run of it is drawn with as other generators are.
    place, picture = whole / "labels-wrong" / "seed_0", tmp_path / "a.png"
    command = ["sample", "--checkpoint", str(place), "--device", "numpy", "--out", str(picture)]
    assert cli.main([*command, "--count", "24", "--grid", "2x12"]) == 0
    drawing = study_gan.Drawing(device.get("numpy"), study_gan.Settings(), 24)
    drawing.load(checkpoint.load(place / "checkpoint.safetensors")[0])
    expected = np.asarray(pictures.grid(drawing(24, seed=0), 2, 12, 2), int)
    # Sums of another batch size's products may round to the next grey.
    assert np.abs(np.asarray(Image.open(picture), int) - expected).max() <= 1


def test_measured_images_are_those_of_the_checkpoint(images, tmp_path):
    """An unbounded generator's are cut off at black and white."""
    model = trained(images, "unbounded", 3)
    drawing = study_gan.Drawing(device.get("numpy"), model.settings, 3)
    drawing.load(model.state_dict())
    found = drawing(7, seed=1)
    assert found.shape == (7, 28, 28, 1) and found.min() >= 0 and found.max() <= 1
    same = study_gan.Drawing(device.get("numpy"), model.settings, 7, model.generator)
    np.testing.assert_allclose(same(7, seed=1), found, atol=1e-6)
    raw = np.array(same.executor.outputs[0])
    assert raw.min() < 0
    np.testing.assert_array_equal(np.clip(raw, 0, 1), same(7, seed=1))


def test_a_judge_is_trained_where_none_is_given(data, tmp_path, monkeypatch):
    small = study.replace(study.JUDGE, epochs=1, least_batches=0)
    monkeypatch.setattr(study, "JUDGE", small)
    assert run(data, tmp_path, "--only", "sgd", "--batches", "1", "--judged", "10") == 0
    _, metadata = checkpoint.load(tmp_path / "classifier" / STATE)
    assert metadata["network"] == "digit-classifier" and metadata["batches_done"] == 2
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["classifier"]["path"] == str(tmp_path / "classifier")
    assert result["settings"]["sgd"]["runs"][0]["batches"] == 1


def test_the_table_on_a_terminal_and_elsewhere(monkeypatch, capsys):
    rows = [["setting", "Frechet"], ["the lesson's", "4.81"], ["real digits", "0.05"]]
    study_report.print_table(rows, plain=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["setting       Frechet", "the lesson's     4.81", "real digits      0.05"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    study_report.print_table(rows, plain=True)
    assert capsys.readouterr().out.splitlines() == lines
    study_report.print_table(rows, plain=False)
    shown = capsys.readouterr().out
    assert "│" in shown and "the lesson's" in shown and "0.05" in shown
    assert study_report.markdown_table(rows).splitlines()[1] == "|---|---:|"


def test_user_errors_are_one_line_and_code_1(data, tmp_path, capsys):
    assert run(data, tmp_path, "--only", "lesson,gan") == 1
    assert "--only gan: choose from lesson, adam-fast" in capsys.readouterr().err
    assert run(data, tmp_path, "--classifier", str(tmp_path / "nowhere")) == 1
    assert "no such checkpoint" in capsys.readouterr().err
    assert not list(tmp_path.glob("lesson"))
