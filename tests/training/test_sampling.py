"""Pictures from checkpoints, walks through the latent space, and the command line around them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pygan import checkpoint, cli, device, doctor
from pygan.errors import CheckpointError, PyganError
from pygan.layout import to_nchw
from pygan.training.gan import bind_generator
from pygan.training.sampling import Sampler, draw_noise, interpolate, open_sampler

GAP = 2
SIDE = 28


def noise_pair() -> tuple[np.ndarray, np.ndarray]:
    ends = draw_noise(device.get("numpy"), 2, seed=3)
    return ends[0], ends[1]


@pytest.mark.parametrize("mode", ["linear", "spherical"])
def test_a_walk_begins_and_ends_where_asked(mode):
    first, last = noise_pair()
    walk = interpolate(first, last, 7, mode)
    assert walk.shape == (7, 1, 1, 10) and walk.dtype == np.float32
    # Computed in float64, rounded once to float32.
    np.testing.assert_allclose(walk[0], first, rtol=2.0**-23)
    np.testing.assert_allclose(walk[-1], last, rtol=2.0**-23)


def test_a_linear_walk_has_equal_steps():
    first, last = noise_pair()
    steps = np.diff(interpolate(first, last, 5, "linear"), axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to((last - first) / 4, steps.shape), atol=1e-6)


def test_a_spherical_walk_has_equal_angles_and_even_lengths():
    first, last = noise_pair()
    walk = interpolate(first, last, 6, "spherical").reshape(6, -1).astype(float)
    lengths = np.linalg.norm(walk, axis=1)
    np.testing.assert_allclose(lengths, np.linspace(lengths[0], lengths[-1], 6), rtol=1e-6)
    unit = walk / lengths[:, None]
    angles = np.arccos((unit[1:] * unit[:-1]).sum(axis=1))
    np.testing.assert_allclose(angles, angles.mean(), rtol=1e-5)


def test_a_spherical_walk_between_parallel_ends_is_finite():
    first, _ = noise_pair()
    for last in (first, 2 * first, -first):
        assert np.isfinite(interpolate(first, last, 5, "spherical")).all()


def test_walk_errors():
    first, last = noise_pair()
    with pytest.raises(PyganError, match="at least 2 steps"):
        interpolate(first, last, 1, "linear")
    with pytest.raises(PyganError, match="linear or spherical"):
        interpolate(first, last, 3, "circular")


def test_noise_is_standard_normal_and_of_its_seed():
    numpy = device.get("numpy")
    noise = draw_noise(numpy, 4000, seed=1)
    # 40,000 draws: the mean's standard error is 0.005, the deviation's 0.0035; five of each.
    assert abs(noise.mean()) < 0.025 and abs(noise.std() - 1) < 0.018
    np.testing.assert_array_equal(draw_noise(numpy, 10, seed=1), noise[:10])
    assert not np.array_equal(draw_noise(numpy, 10, seed=2), noise[:10])


def test_images_do_not_depend_on_how_they_are_batched(unbroken):
    numpy = device.get("numpy")
    noise = draw_noise(numpy, 7, seed=0)
    many, few = Sampler(numpy, 7), Sampler(numpy, 3)
    for sampler in (many, few):
        sampler.load(unbroken / "checkpoint.safetensors")
    images = many.images(noise)
    assert images.shape == (7, SIDE, SIDE, 1) and images.min() >= 0 and images.max() <= 1
    # Sums of up to 2304 products in another order, then a sigmoid of slope at most 1/4.
    np.testing.assert_allclose(few.images(noise), images, atol=1e-4)


def test_sampler_refuses_another_network(tmp_path, unbroken):
    tensors, metadata = checkpoint.load(unbroken / "checkpoint.safetensors")
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, tensors, dict(metadata, network="other-gan"))
    sampler = Sampler(device.get("numpy"), 1)
    with pytest.raises(CheckpointError, match="'other-gan'"):
        sampler.load(path)
    del tensors["generator/gen_deconv1_weight"]
    checkpoint.save(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"generator/gen_deconv1_weight .* is missing"):
        sampler.load(path)


def test_a_bound_generator_holds_no_gradients_for_sampling():
    executor = bind_generator(device.get("numpy"), 2)
    assert not executor.grad_dict


@pytest.mark.parametrize(
    ("arguments", "rows", "columns"),
    [
        (["--count", "5"], 2, 3),
        (["--grid", "2x4"], 2, 4),
        (["--grid", "3x3", "--count", "7"], 3, 3),
    ],
)
def test_sample_command(tmp_path, unbroken, capsys, arguments, rows, columns):
    out = tmp_path / "new" / "a.png"
    command = ["sample", "--checkpoint", str(unbroken), "--device", "numpy", "--out", str(out)]
    assert cli.main([*command, "--scale", "1", *arguments]) == 0
    size = (columns * (SIDE + GAP) + GAP, rows * (SIDE + GAP) + GAP)
    first = Image.open(out)
    assert first.size == size
    assert "the mean of 2 generators, after 20 to 30 batches" in capsys.readouterr().out
    content = out.read_bytes()
    assert cli.main([*command, "--scale", "1", *arguments]) == 0
    assert out.read_bytes() == content
    assert cli.main([*command, "--scale", "1", *arguments, "--seed", "1"]) == 0
    assert out.read_bytes() != content


@pytest.mark.parametrize("mode", ["linear", "spherical"])
def test_interpolate_command(tmp_path, unbroken, mode):
    out = tmp_path / "a.png"
    command = ["interpolate", "--checkpoint", str(unbroken), "--device", "numpy"]
    command += ["--rows", "2", "--steps", "4", "--mode", mode, "--scale", "2", "--out", str(out)]
    assert cli.main(command) == 0
    assert Image.open(out).size == (4 * (2 * SIDE + GAP) + GAP, 2 * (2 * SIDE + GAP) + GAP)


def test_export_command(tmp_path, unbroken, capsys):
    """The file holds the generator under PyTorch's names; the modules that take it are printed."""
    out = tmp_path / "generator.safetensors"
    command = ["export", "--checkpoint", str(unbroken), "--device", "numpy", "--out", str(out)]
    assert cli.main(command) == 0
    state = load_file(out)
    sampler, _ = open_sampler(device.get("numpy"), unbroken, 1)
    weight = np.asarray(sampler.executor.arg_dict["gen_deconv4_weight"])
    assert np.array_equal(state["gen_deconv4.weight"], to_nchw(weight))
    printed = capsys.readouterr().out
    assert str(out) in printed and '("gen_deconv1", nn.ConvTranspose2d(10, 256, (4, 4),' in printed
    compile(printed, "printed", "exec")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
        (["sample", "--checkpoint", "."], "checkpoint.safetensors: no such checkpoint"),
        (["sample", "--checkpoint", "RUN", "--out", "a.xyz"], "names no picture format"),
        (
            ["sample", "--checkpoint", "RUN", "--count", "5", "--grid", "2x2"],
            "--count 5 images do not fit --grid 2x2",
        ),
        (
            ["interpolate", "--checkpoint", "RUN", "--rows", "5000"],
            "--rows 5,000 of --steps 10 are 50,000 images; a picture holds at most 10,000",
        ),
        (
            ["export", "--checkpoint", "RUN", "--out", "nowhere/a"],
            "nowhere/a could not be written: No such file",
        ),
        (["train", "lesson", "--data", "nowhere"], "no such folder: nowhere"),
        (["train", "lesson", "--resume"], "no checkpoint to resume"),
    ],
)
def test_user_errors_are_one_line_and_code_1(
    tmp_path, monkeypatch, capsys, unbroken, arguments, message
):
    monkeypatch.chdir(tmp_path)
    arguments = [str(unbroken) if text == "RUN" else text for text in arguments]
    assert cli.main([*arguments, "--device", "numpy"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("pygan: error: ") and message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "lesson", "--device", "gpu"], "'auto', 'numpy', 'cpu', 'cuda'"),
        (["train", "unknown"], "lesson"),
        (["train"], "NETWORK"),
        ([], "COMMAND"),
        (["train", "lesson", "--epochs", "0"], "0 is not between 1 and"),
        (["train", "lesson", "--batch-size", "many"], "'many' is not a whole number"),
        (["train", "lesson", "--seed", "-1"], "-1 is not between 0"),
        (["train", "lesson", "--resume", "--overwrite"], "not allowed with"),
        (["train", "lesson", "--data", ""], "--data: its value is empty"),
        (["train", "lesson", "--out", ""], "--out: its value is empty"),
        (["sample", "--checkpoint", "a", "--grid", "6"], "such as 6x10"),
        (["sample", "--checkpoint", "a", "--grid", "6x"], "'6x' is not ROWSxCOLUMNS"),
        (["sample", "--checkpoint", "a", "--grid", "1000x1000"], "more than 10,000 images"),
        (["sample", "--checkpoint", "a", "--count", "10001"], "10001 is not between 1 and 10,000"),
        (["sample"], "--checkpoint"),
        (["interpolate", "--checkpoint", "a", "--steps", "1"], "1 is not between 2"),
    ],
)
def test_wrong_arguments_are_explained_with_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    # Python 3.12 quotes the choices, other versions may not.
    assert message.replace("'", "") in capsys.readouterr().err.replace("'", "")


def test_summary_lists_layers_shapes_and_parameters(capsys):
    assert cli.main(["summary", "lesson"]) == 0
    text = capsys.readouterr().out
    for part in ("gen_deconv1", "gen_bn3", "dis_conv5", "32"):
        assert part in text


def test_devices_lists_what_works_and_why_the_others_do_not(capsys, monkeypatch):
    def examine(name):
        if name == "cuda":
            return doctor.DeviceReport(name, False, why="no driver", mend="install it")
        return doctor.DeviceReport(name, True, description=f"about {name}")

    monkeypatch.setattr(doctor, "examine", examine)
    assert cli.main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["numpy", "cpu", "cuda", "auto"]
    assert "works: about cpu" in lines[1]
    assert "does not work: no driver; install it" in lines[2]
    assert lines[3].split() == ["auto", "takes", "numpy"]


def test_an_error_that_is_ours_is_not_hidden(monkeypatch):
    def broken(name):
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "examine", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["devices"])


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("pygan ")
