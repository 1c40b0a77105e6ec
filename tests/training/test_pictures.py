"""Pictures: what lies where in a grid, and files that open."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pygan import pictures
from pygan.errors import PyganError


def test_grid_is_in_reading_order_and_scaled():
    images = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1) * np.ones((1, 3, 2, 1)) / 5
    canvas = np.asarray(pictures.grid(images.astype(np.float32), 2, 3, scale=2))
    gap = pictures.GAP
    assert canvas.shape == (2 * (6 + gap) + gap, 3 * (4 + gap) + gap)
    for index in range(5):
        top = gap + index // 3 * (6 + gap)
        left = gap + index % 3 * (4 + gap)
        assert (canvas[top : top + 6, left : left + 4] == 51 * index).all()
    assert (canvas[-6 - gap :, -4 - gap :] == pictures.BACKGROUND).all()


def test_grid_of_colour_images_and_values_out_of_range():
    images = np.zeros((1, 2, 2, 3), np.float32)
    images[..., 0] = 1.5
    canvas = np.asarray(pictures.grid(images, 1, 1))
    assert canvas[pictures.GAP, pictures.GAP].tolist() == [255, 0, 0]


def test_grid_errors():
    with pytest.raises(PyganError, match="3 images do not fit a grid of 1x2"):
        pictures.grid(np.zeros((3, 2, 2, 1)), 1, 2)
    with pytest.raises(PyganError, match="2 channels"):
        pictures.grid(np.zeros((1, 2, 2, 2)), 1, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 60, 61])
def test_grid_shape_holds_the_count_without_an_empty_row(count):
    rows, columns = pictures.grid_shape(count)
    assert (rows - 1) * columns < count <= rows * columns


def test_picture_file_errors(tmp_path):
    picture = pictures.grid(np.zeros((1, 2, 2, 1)), 1, 1)
    with pytest.raises(PyganError, match=r"end it with \.png"):
        pictures.save_picture(picture, tmp_path / "a.xyz")
    (tmp_path / "file").touch()
    with pytest.raises(PyganError, match="could not be written"):
        pictures.save_picture(picture, tmp_path / "file" / "a.png")


def test_page_and_curves_are_files_that_open(tmp_path):
    images = np.random.default_rng(0).random((9, 28, 28, 1), np.float32)
    pictures.save_page(images, tmp_path / "pages" / "a.pdf")
    content = (tmp_path / "pages" / "a.pdf").read_bytes()
    assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
    for count in (1, 7, 450):
        series = {"a": np.ones(count), "b": np.ones(count)}
        path = tmp_path / f"{count}.png"
        pictures.save_loss_curves(range(1, count + 1), series, series, 100, path, "title")
        assert Image.open(path).size == (960, 720)
