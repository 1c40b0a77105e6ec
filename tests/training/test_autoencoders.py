"""Runs of auto-encoders and of the anomaly classifier: they learn, resume to the bit, and keep the
images apart that must not meet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from run_support import IMAGES, Trainer, assert_same_run

from pygan import cli, device, networks
from pygan.data import load_train_and_test
from pygan.errors import CheckpointError, DataError
from pygan.training.anomaly import (
    AnomalyClassifier,
    AnomalyScores,
    load_digits_but_3,
    load_normal_digits,
)
from pygan.training.autoencoder import AnomalyVae, Codec, Vae32, in_the_plane
from pygan.training.log import read_log
from pygan.training.supervised import SmallBatches, SupervisedSettings
from pygan.training.systems import SYSTEMS

COMMANDS = {
    "autoencoder": "plain",
    "autoencoder-penalised": "penalised",
    "vae": "vae32",
    "vae2": "vae2",
    "anomaly-vae": "anomaly",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stopped_run_goes_on_to_the_bit_and_leaves_its_pictures(command, labelled_data, tmp_path):
    trainer = Trainer(labelled_data)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    outcome = trainer(whole, system=command, epochs=2)
    trainer(broken, system=command, epochs=2, max_batches=outcome.batches // 2)
    trainer(broken, system=command, resume=True)
    assert_same_run(broken, whole)
    losses = read_log(whole / "log.jsonl", "batch")
    assert len(losses) == outcome.batches
    assert any(entry["penalty"] for entry in losses) == (command != "autoencoder")
    result = json.loads((whole / "result.json").read_text())
    ends = read_log(whole / "log.jsonl", "epoch")
    assert result["held_out_error"] == ends[-1]["held_out_error"]
    assert Image.open(whole / "random.png").size == (10 * 58 + 2, 6 * 58 + 2)
    assert (whole / "codes.png").stat().st_size > 10_000


def losses_of(model, steps):
    """The losses of that many steps, epochs of 4 batches."""
    losses = []
    for step in range(steps):
        if step % 4 == 0:
            model.start_epoch(step // 4)
        model.step()
        losses += [entry.loss for entry in model.read_losses()]
    return losses


def test_a_vae_learns_to_give_its_images_back(labelled_data):
    """To a third of the error that the mean image would make."""
    images, _ = load_train_and_test(labelled_data)
    model = AnomalyVae(device.get("numpy"), images, SmallBatches(batch_size=8))
    losses_of(model, 800)
    codec = Codec(model.device, "anomaly", model.executor)
    pixels = images.images / 255
    mean_image = np.square(pixels - pixels.mean(axis=0)).mean()
    assert codec.errors(images.images).mean() < mean_image / 3


def test_a_loaded_codec_is_the_trained_one_for_any_number_of_images(labelled_data, tmp_path):
    trainer = Trainer(labelled_data)
    trainer(tmp_path, system="vae", epochs=1)
    _, held_out = load_train_and_test(labelled_data)
    codec = Codec(device.get("numpy"), "vae32")
    codec.load(tmp_path, "vae-32")
    images = np.concatenate([held_out.images] * 90)  # more than one batch
    errors = codec.errors(images)
    recorded = json.loads((tmp_path / "result.json").read_text())["held_out_error"]
    assert abs(errors.mean() - recorded) < 1e-6  # of sums in another order
    repeated = errors.reshape(90, -1)
    assert np.array_equal(repeated[:1].repeat(90, axis=0), repeated)
    made = codec.reconstruct(held_out.images)
    assert np.allclose(np.square(made - held_out.images / 255).mean((1, 2, 3)), repeated[0])
    with pytest.raises(CheckpointError, match="'vae-32', not 'vae-2'"):
        Codec(device.get("numpy"), "vae2").load(tmp_path, "vae-2")


def test_random_codes_follow_the_prior_or_the_codes_seen():
    like = np.array([[5.0, -1.0], [7.0, -1.5]], np.float32).repeat(500, axis=0)
    plain = Codec(device.get("numpy"), "plain").random_codes(4000, 1, like)
    # 4,000 draws: their mean errs by a 63rd of the deviation; five times that.
    assert np.all(np.abs(plain.mean(axis=0) - [6, -1.25]) < 5 / 63 * np.array([1, 0.25]))
    assert np.all(np.abs(plain.std(axis=0) / [1, 0.25] - 1) < 5 / 89)
    variational = Codec(device.get("numpy"), "vae2").random_codes(4000, 1, like)
    assert np.all(np.abs(variational.mean(axis=0)) < 5 / 63)


def test_codes_of_many_dimensions_are_shown_by_principal_components():
    rng = np.random.default_rng(1)
    spread = np.array([0.1, 5.0, 0.2, 2.0])
    codes = (rng.standard_normal((500, 4)) * spread + 7).astype(np.float32)
    plane, axes = in_the_plane(codes)
    for column, source in ((0, 1), (1, 3)):
        assert abs(np.corrcoef(plane[:, column], codes[:, source])[0, 1]) > 0.99
    assert "86%" in axes[0] or "87%" in axes[0] or "85%" in axes[0]  # 25 / 29.05
    assert in_the_plane(codes[:, :2])[1] == ("code 1", "code 2")


def test_the_penalty_is_its_weight_times_the_mean_square_of_the_code():
    graph = networks.AUTOENCODERS["penalised"].training_graph()
    executor = graph.bind(device.get("numpy"), {"data": (3, 28, 28, 1)})
    rng = np.random.default_rng(2)
    for name in executor.parameter_names:
        executor.arg_dict[name][...] = rng.standard_normal(executor.arg_dict[name].shape)
    images = rng.random((3, 28, 28, 1), dtype=np.float32)
    executor.forward(is_train=True, data=images)
    encoder = networks.AUTOENCODERS["penalised"].encoder_graph()
    codes = encoder.bind(device.get("numpy"), {"data": (3, 28, 28, 1)}, shared=executor)
    code = codes.forward(data=images)[0]
    expected = 1e-4 * np.square(code.astype(float)).mean()
    assert abs(executor.output_dict["penalty_loss"][0] / expected - 1) < 1e-6


def test_anomalies_are_kept_from_the_normal_digits(many_twos):
    normal = load_normal_digits(str(many_twos))
    assert set(normal.labels) == {0}
    assert set(load_digits_but_3(str(many_twos)).labels) == {0, 2}


def test_half_of_a_batch_are_the_labelled_twos(many_twos):
    images = load_digits_but_3(str(many_twos))
    model = AnomalyClassifier(device.get("numpy"), images, SmallBatches(batch_size=8))
    model.start_epoch(0)
    twos = {image.tobytes() for image in images.images[images.labels == 2]}
    normal = {image.tobytes() for image in images.images[images.labels == 0]}
    seen = set()
    for _ in range(5):
        model.step()
        batch = np.rint(np.asarray(model.executor.arg_dict["data"]) * 255).astype(np.uint8)
        seen |= {image.tobytes() for image in batch[:4]}
        assert {image.tobytes() for image in batch[4:]} <= normal
    assert len(seen) == 10 and seen <= twos
    assert np.asarray(model.executor.arg_dict["label"])[:, 0].tolist() == [1] * 4 + [0] * 4
    assert [entry.batch for entry in model.read_losses()] == list(range(5))


def test_the_classifier_learns_its_ten_twos(many_twos):
    images = load_digits_but_3(str(many_twos))
    model = AnomalyClassifier(device.get("numpy"), images, SmallBatches(batch_size=16))
    losses = losses_of(model, 150)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 4


def test_the_classifiers_run_resumes(many_twos, tmp_path):
    trainer = Trainer(many_twos)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer(whole, system="anomaly-lenet", epochs=2)
    trainer(broken, system="anomaly-lenet", epochs=2, max_batches=3)
    trainer(broken, system="anomaly-lenet", resume=True)
    assert_same_run(broken, whole)


def test_scores_are_those_of_the_training_graph(many_twos):
    images = load_digits_but_3(str(many_twos))
    model = AnomalyClassifier(device.get("numpy"), images, SmallBatches(batch_size=8))
    scores = AnomalyScores(model.device, model.executor)(images.images[:8])
    executor = networks.lenet().bind(
        model.device, {"data": (8, 28, 28, 1), "label": (8, 1)}, "null", shared=model.executor
    )
    probabilities = executor.forward(data=images.images[:8] / 255)[1]
    assert np.allclose(scores, np.asarray(probabilities)[:, 0], atol=1e-6)


def test_too_few_labelled_anomalies_are_refused(labelled_data):
    images = load_digits_but_3(str(labelled_data))
    with pytest.raises(DataError, match="images of a 2; 10 are needed"):
        AnomalyClassifier(device.get("numpy"), images, SmallBatches())


def test_a_vae_steps_on_the_cpu_driver(labelled_data):
    """Two steps on both devices from one seed: losses agree to a millionth, which is a dozen
    roundings of sums of 784 terms of one sign."""
    images, _ = load_train_and_test(labelled_data)
    losses = []
    for name in ("numpy", "cpu"):
        model = Vae32(device.get(name), images, SupervisedSettings(batch_size=6, seed=3))
        model.start_epoch(0)
        model.step()
        model.step()
        losses.append([(entry.loss, entry.penalty) for entry in model.read_losses()])
    assert np.allclose(losses[0], losses[1], rtol=1e-6, atol=0)
    assert len(set(map(tuple, losses[0]))) == 2
    assert len(images) < IMAGES  # held-out images are not among them


@pytest.mark.parametrize("command", list(cli.TRAINED))
def test_commands_state_their_systems_defaults_and_sizes(command, capsys):
    """The help and the summary come from a table that is read without importing the systems."""
    system = SYSTEMS[command]
    _, epochs, batch_size = cli.TRAINED[command]
    assert (epochs, batch_size) == (system.epochs, system.settings().batch_size)
    assert cli.main(["summary", command, "--batch-size", "3"]) == 0
    assert "parameters" in capsys.readouterr().out
