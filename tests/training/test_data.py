"""Reading digits: formats, sources, and an error for each thing that can be wrong with a file."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from pygan import device
from pygan.data import ImageSet, ResidentImages, download, load_digits
from pygan.data.idx import read_idx
from pygan.data.lesson_csv import read_lesson_csv
from pygan.errors import DataError

COUNT = 7


def idx_bytes(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture
def digits() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (COUNT, 28, 28), np.uint8)
    return images, random.integers(0, 10, COUNT).astype(np.uint8)


def write_idx(folder: Path, digits, suffix: str = ".gz", stem: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix else bytes
    for kind, array in zip(("images-idx3", "labels-idx1"), digits, strict=True):
        (folder / f"{stem}-{kind}-ubyte{suffix}").write_bytes(pack(idx_bytes(array)))


def write_csv(path: Path, digits) -> None:
    images, labels = digits
    rows = ["label," + ",".join(f"pixel{i}" for i in range(784))]
    rows += [
        ",".join(map(str, [label, *image.ravel()]))
        for image, label in zip(images, labels, strict=True)
    ]
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("place", [".", "mnist"])
def test_idx_files_in_the_folder_or_its_mnist(tmp_path, digits, suffix, place):
    write_idx(tmp_path / place, digits, suffix)
    found = load_digits(tmp_path)
    np.testing.assert_array_equal(found.images[..., 0], digits[0])
    np.testing.assert_array_equal(found.labels, digits[1])
    assert found.images.shape == (COUNT, 28, 28, 1)
    assert str(tmp_path / place) in found.describe()


def test_test_split_is_another_file(tmp_path, digits):
    write_idx(tmp_path, digits, stem="t10k")
    assert len(load_digits(tmp_path, "test")) == COUNT
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        load_digits(tmp_path, "train")


@pytest.mark.parametrize("place", [".", "mnist"])
def test_csv_holds_the_same_digits(tmp_path, digits, place):
    (tmp_path / place).mkdir(exist_ok=True)
    write_csv(tmp_path / place / "train.csv", digits)
    found = load_digits(tmp_path)
    np.testing.assert_array_equal(found.images[..., 0], digits[0])
    np.testing.assert_array_equal(found.labels, digits[1])
    assert "train.csv" in found.describe()


def test_csv_without_header_loses_no_row(tmp_path, digits):
    path = tmp_path / "train.csv"
    write_csv(path, digits)
    path.write_text(path.read_text().split("\n", 1)[1])
    images, _ = read_lesson_csv(path)
    np.testing.assert_array_equal(images[..., 0], digits[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row + ",5", r"line 3: 786 values, expected 785"),
        (lambda row: row.rsplit(",", 2)[0], r"line 3: 783 values, expected 785"),
        (lambda row: "x" + row[1:], r"line 3, label: 'x' is not an integer"),
        (lambda row: row.rsplit(",", 1)[0] + ",1.5", r"line 3, pixel783: '1.5' is not an integer"),
        (lambda row: row.rsplit(",", 1)[0] + ",", r"line 3, pixel783: '' is not an integer"),
        (lambda row: row.rsplit(",", 1)[0] + ",256", r"line 3: pixel 256 is outside 0\.\.255"),
        (lambda row: row.rsplit(",", 1)[0] + ",-1", r"line 3: pixel -1 is outside 0\.\.255"),
        (lambda row: "10" + row[1:], r"line 3: label 10 is outside 0\.\.9"),
    ],
)
def test_csv_errors_name_the_line(tmp_path, digits, change, message):
    path = tmp_path / "train.csv"
    write_csv(path, digits)
    lines = path.read_text().splitlines()
    lines[2] = change(lines[2])
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        load_digits(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("", "empty"), ("label,pixel0\n", "only a header")])
def test_csv_without_rows(tmp_path, text, message):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_digits(tmp_path)


def test_truncated_plain_file_names_both_lengths(tmp_path, digits):
    write_idx(tmp_path, digits, "")
    path = tmp_path / "train-images-idx3-ubyte"
    whole = 16 + COUNT * 784
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"expected {whole:,} bytes.*found {whole - 100:,}"):
        load_digits(tmp_path)


def test_truncated_gzip_names_both_lengths(tmp_path, digits):
    write_idx(tmp_path, digits)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=f"expected {16 + COUNT * 784:,} bytes.*found [1-9]"):
        load_digits(tmp_path)


@pytest.mark.parametrize("cut", [0, 2, 9])
def test_file_shorter_than_its_header(tmp_path, digits, cut):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(digits[0])[:cut])
    with pytest.raises(DataError, match=f"header alone needs 16 bytes, found {cut}"):
        read_idx(path, 3)


def test_gzip_that_lost_its_last_bytes_is_truncated(tmp_path, digits):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx_bytes(digits[0]))[:-4])  # only a part of the checksum
    with pytest.raises(DataError, match="truncated"):
        read_idx(path, 3)
    path.write_bytes(gzip.compress(idx_bytes(digits[0]))[:-8])  # all of the bytes, no checksum
    with pytest.raises(DataError, match="checksum, is missing"):
        read_idx(path, 3)


def test_damaged_gzip(tmp_path, digits):
    path = tmp_path / "images.gz"
    raw = bytearray(gzip.compress(idx_bytes(digits[0])))
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"damaged gzip|truncated"):
        read_idx(path, 3)


def test_surplus_bytes(tmp_path, digits):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(digits[0]) + b"\0")
    with pytest.raises(DataError, match="do not belong together"):
        read_idx(path, 3)


def test_wrong_magic_where_labels_pose_as_images(tmp_path, digits):
    write_idx(tmp_path, digits, "")
    labels = (tmp_path / "train-labels-idx1-ubyte").read_bytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(labels)
    with pytest.raises(DataError, match="magic number 0x00000801, expected 0x00000803"):
        load_digits(tmp_path)


def test_wrong_image_size(tmp_path, digits):
    write_idx(tmp_path, (digits[0][:, :27], digits[1]))
    with pytest.raises(DataError, match="27x28 pixels, expected 28x28"):
        load_digits(tmp_path)


def test_images_and_labels_of_different_sets(tmp_path, digits):
    write_idx(tmp_path, (digits[0], digits[1][:-1]))
    with pytest.raises(DataError, match=f"{COUNT} images but {COUNT - 1} labels"):
        load_digits(tmp_path)


def test_labels_that_are_no_digits(tmp_path, digits):
    labels = digits[1].copy()
    labels[3] = 12
    write_idx(tmp_path, (digits[0], labels))
    with pytest.raises(DataError, match=r"label 12 of image 3 is outside 0\.\.9"):
        load_digits(tmp_path)
    with pytest.raises(DataError, match="not None"):
        load_digits(None)


def test_empty_set(tmp_path, digits):
    write_idx(tmp_path, (digits[0][:0], digits[1][:0]))
    with pytest.raises(DataError, match="no images"):
        load_digits(tmp_path)


def test_half_of_the_pair_is_missing(tmp_path, digits):
    write_idx(tmp_path, digits)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"not train-labels-idx1-ubyte"):
        load_digits(tmp_path)


def test_named_folder_without_digits_is_an_error_not_other_data(tmp_path):
    with pytest.raises(DataError, match=r"looked there and in its mnist/.*train\.csv"):
        load_digits(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        load_digits(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        load_digits(tmp_path / "file")


def test_scikit_digits_look_like_mnist():
    pytest.importorskip("sklearn")
    found = load_digits("digits")
    assert found.images.shape == (1797, 28, 28, 1)
    assert found.images.dtype == np.uint8
    assert found.images.max() > 240
    assert not found.images[:, :4].any() and not found.images[:, :, -4:].any()
    assert "scikit-learn" in found.describe()
    # A nearest-mean classifier tells them apart, so labels and images belong together.
    pixels = found.images.reshape(1797, -1).astype(float)
    means = np.stack([pixels[found.labels == digit].mean(axis=0) for digit in range(10)])
    nearest = ((pixels[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == found.labels).mean() > 0.85


def test_without_network_the_choice_is_said_with_its_reason(monkeypatch, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("pooch")
    monkeypatch.delenv("PYGAN_DATA", raising=False)
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "MIRRORS", ("http://127.0.0.1:9/", "http://localhost:9/"))
    text = load_digits("auto").describe()
    assert "not MNIST" in text and "127.0.0.1:9" in text and "localhost:9" in text
    assert "downloading MNIST's train-images" in capsys.readouterr().err
    with pytest.raises(DataError, match="could not be downloaded"):
        load_digits("download")


def test_download_is_checked_and_kept(monkeypatch, tmp_path, digits):
    """A first mirror that serves other bytes is passed over; the cache then needs no mirror."""
    pooch = pytest.importorskip("pooch")
    write_idx(tmp_path / "good", digits)
    sums = {
        path.name: "md5:" + pooch.file_hash(path, alg="md5")
        for path in (tmp_path / "good").iterdir()
    }
    asked = []

    def serve(url, output_file, pooch_instance, *, check_only=False):
        asked.append(url)
        content = (tmp_path / "good" / url.rsplit("/", 1)[1]).read_bytes()
        Path(output_file).write_bytes(content if "good" in url else content[:-1])

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **options: serve)
    monkeypatch.setattr(download, "SUMS", sums)
    monkeypatch.setattr(download, "MIRRORS", ("http://bad.test/", "http://good.test/"))
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path / "cache"))
    np.testing.assert_array_equal(load_digits("download").images[..., 0], digits[0])
    assert len(asked) == 4
    np.testing.assert_array_equal(load_digits("download").labels, digits[1])
    assert len(asked) == 4


def test_pygan_data_is_a_named_folder(monkeypatch, tmp_path, digits):
    write_idx(tmp_path / "mnist", digits)
    monkeypatch.setenv("PYGAN_DATA", str(tmp_path))
    assert "PYGAN_DATA" in load_digits("auto").describe()
    monkeypatch.setenv("PYGAN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no such folder"):
        load_digits("auto")


def test_real_mnist(data_dir):
    found = load_digits(data_dir)
    assert found.images.shape == (60000, 28, 28, 1)
    assert np.bincount(found.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert len(load_digits(data_dir, "test")) == 10000


def numbered_set(count: int) -> ImageSet:
    images = (
        np.zeros((count, 2, 2, 1), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    )
    return ImageSet(images, np.zeros(count, np.uint8), "numbers")


def test_an_epoch_visits_every_image_once_in_a_new_order():
    with pytest.raises(DataError, match="a whole number from 1 on, not 0"):
        ResidentImages(device.get("numpy"), numbered_set(12), batch_size=0, seed=3)
    data = ResidentImages(device.get("numpy"), numbered_set(12), batch_size=4, seed=3)
    assert data.batches_per_epoch == 3
    out = np.full((4, 2, 2, 1), np.nan, np.float32)
    orders = []
    for epoch in range(2):
        data.start_epoch(epoch)
        seen = []
        for _ in range(3):
            data.next_batch(out)
            seen += np.rint(out[:, 0, 0, 0] * 255).astype(int).tolist()
        assert sorted(seen) == list(range(12))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_pixels_become_fractions():
    data = ResidentImages(device.get("numpy"), numbered_set(4), batch_size=4, seed=0)
    data.start_epoch(0)
    out = np.empty((4, 2, 2, 1), np.float32)
    data.next_batch(out)
    # One rounding of 1/255 to float32 and one of the product.
    np.testing.assert_allclose(np.sort(out[:, 0, 0, 0]), np.arange(4) / 255, rtol=2.0**-23)


def test_saved_order_goes_on_where_it_was():
    first = ResidentImages(device.get("numpy"), numbered_set(12), batch_size=4, seed=3)
    first.start_epoch(5)
    out = np.empty((4, 2, 2, 1), np.float32)
    first.next_batch(out)
    second = ResidentImages(device.get("numpy"), numbered_set(12), batch_size=4, seed=9)
    second.load_state_dict(first.state_dict())
    expected, found = np.empty_like(out), np.empty_like(out)
    first.next_batch(expected)
    second.next_batch(found)
    np.testing.assert_array_equal(found, expected)


def test_a_set_smaller_than_a_batch_goes_round():
    data = ResidentImages(device.get("numpy"), numbered_set(3), batch_size=5, seed=0)
    assert data.batches_per_epoch == 1
    data.start_epoch(0)
    out = np.empty((5, 2, 2, 1), np.float32)
    data.next_batch(out)
    seen = np.rint(out[:, 0, 0, 0] * 255).astype(int).tolist()
    assert sorted(seen[:3]) == [0, 1, 2] and seen[3:] == seen[:2]
