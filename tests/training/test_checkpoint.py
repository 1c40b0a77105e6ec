"""Checkpoints survive kills and full disks, and say what is wrong with a damaged or foreign one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from pygan import checkpoint
from pygan.errors import CheckpointError, PyganError

TENSORS = {
    "network/weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "random/state": np.array([2**63 + 5, 7], np.uint64),
    "data/order": np.array([2, 0, 1], np.int32),
}


def test_round_trip_keeps_bits_types_and_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TENSORS, {"batches": 3, "nested": {"name": "é"}})
    tensors, metadata = checkpoint.load(path)
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        np.testing.assert_array_equal(tensors[name], value)
    assert metadata["batches"] == 3 and metadata["nested"] == {"name": "é"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_numpy_holds_comes_back(tmp_path):
    """Other byte orders, numbers without axes, and metadata that JSON writes in its own way."""
    path = tmp_path / "a.safetensors"
    tensors = {
        "big": np.arange(3, dtype=">f4"),
        "number": np.array(2.5, np.float32),
        "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "list": [True, False],
    }
    checkpoint.save(path, tensors, {"pair": (1, 2), "by number": {10: "a", 9: "b"}})
    loaded, metadata = checkpoint.load(path)
    for name, value in tensors.items():
        assert loaded[name].shape == np.shape(value)
        np.testing.assert_array_equal(loaded[name], value)
    assert metadata["pair"] == [1, 2] and metadata["by number"] == {"10": "a", "9": "b"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"x": np.array([None])}, {}, "'x' is of dtype object"),
        ({"x": np.ones(2, complex)}, {}, "'x' is of dtype complex128"),
        ({"x": [[1], [1, 2]]}, {}, "'x'.*inhomogeneous"),
        ({3: np.ones(2)}, {}, "tensor 3.*names are texts"),
        (TENSORS, {"rate": np.float32(1)}, "metadata.*float32"),
    ],
)
def test_what_cannot_be_stored_keeps_the_last_one(tmp_path, tensors, metadata, message):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TENSORS, {"batches": 3})
    with pytest.raises(CheckpointError, match=f"not written.*{message}"):
        checkpoint.save(path, tensors, metadata)
    assert checkpoint.load(path)[1]["batches"] == 3


SAVER = """
import sys, numpy as np
from pygan import checkpoint
path, number = sys.argv[1], 0
while True:
    number += 1
    checkpoint.save(path, {"x": np.full(400_000, number, np.int32)}, {"number": number})
    print(number, flush=True)
"""


def test_a_kill_in_the_midst_of_saving_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "a.safetensors"
    random = np.random.default_rng(0)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            said = int(process.stdout.readline())
            time.sleep(random.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split()
        said = int(rest[-1]) if rest else said
        tensors, metadata = checkpoint.load(path)
        assert (tensors["x"] == metadata["number"]).all()
        assert metadata["number"] >= said  # what was reported as saved is not lost
    checkpoint.remove_parts(tmp_path, ["a.safetensors"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_full_disk_keeps_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TENSORS, {"batches": 1})

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"disk is full: [\d,]+ bytes needed.*keeps the"):
        checkpoint.save(path, TENSORS, {"batches": 2})
    assert checkpoint.load(path)[1]["batches"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TENSORS, {"batches": 12, "name": "x"})
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 7
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


@pytest.mark.parametrize("length", [0, 5, 8, 100, -1])
def test_truncated_file(tmp_path, length):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(safetensors.numpy.save({"x": np.zeros(3)}))
    with pytest.raises(CheckpointError, match="not a checkpoint of pygan"):
        checkpoint.load(foreign)


def test_newer_format(tmp_path):
    path = tmp_path / "a.safetensors"
    header = {"format_version": checkpoint.FORMAT_VERSION + 1}
    content = safetensors.numpy.save({"x": np.zeros(3)}, {"pygan": json.dumps(header)})
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="upgrade pygan"):
        checkpoint.load(path)


def test_another_network_is_listed_by_name_and_shape(tmp_path):
    expected = {"network/weight": (4, 3), "network/bias": (4,)}
    found = {
        "network/weight": np.zeros((3, 4)),
        "network/gamma": np.zeros(2),
        "other/x": np.zeros(1),
    }
    with pytest.raises(CheckpointError) as caught:
        checkpoint.require_shapes("a.safetensors", found, expected)
    text = str(caught.value)
    assert "network/bias (4,) is missing" in text
    assert "network/gamma (2,) is unknown here" in text
    assert "network/weight is (3, 4), expected (4, 3)" in text
    assert "other/x" not in text


def test_results_that_cannot_be_written_are_a_line_that_names_the_file(tmp_path):
    checkpoint.write_json(tmp_path / "result.json", {"a": 1})
    assert (tmp_path / "result.json").read_text() == '{\n  "a": 1\n}\n'
    with pytest.raises(PyganError, match=r"nowhere/result.json could not be written: No such file"):
        checkpoint.write_json(tmp_path / "nowhere" / "result.json", {})
