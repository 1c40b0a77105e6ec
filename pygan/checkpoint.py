"""Checkpoints: one safetensors file with JSON metadata in its header, written so that a kill or a
full disk at any moment leaves the previous one whole.

The new file is written beside the old one, forced to the disk, and renamed over it; the folder is
forced to the disk too. A SHA-256 of all tensors and the metadata is checked at load.
No pickle: loading a checkpoint runs no code from it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pygan.errors import CheckpointError, PyganError

FORMAT_VERSION = 1
METADATA_KEY = "pygan"


def save(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Writes tensors (arrays of integers, floats or truth values, by name) and JSON metadata to
    ``path``, atomically.

    Raises CheckpointError where the disk is full, the folder cannot be written, or a tensor or the
    metadata is of another kind; the file that was at ``path`` is then untouched.
    """
    path = Path(path)
    arrays = {name: _storable(name, tensors[name], path) for name in sorted(tensors, key=str)}
    try:
        # As it will be read back: the digest is of what JSON keeps of it.
        header = json.loads(json.dumps(dict(metadata, format_version=FORMAT_VERSION)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not written: its metadata is no JSON: {error}") from None
    header["sha256"] = _digest(arrays, header)
    content = safetensors.numpy.save(arrays, {METADATA_KEY: json.dumps(header)})
    try:
        atomic_write(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            reason = f"the disk is full: {len(content):,} bytes needed, {free:,} free"
        kept = f"; {path} keeps the state before" if path.exists() else ""
        raise CheckpointError(f"{path} could not be written: {reason}{kept}") from None


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors (writable copies) and metadata of a checkpoint.

    Raises CheckpointError for a file that is missing, damaged (its SHA-256 is checked), not a
    checkpoint of pygan, or of a newer format.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        loaded = safetensors.numpy.load(content)
        header = _header(content)
    except (
        safetensors.SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a checkpoint ({len(content):,} bytes; {error}); "
            "take an earlier one"
        ) from None
    if header is None:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of pygan")
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "a newer pygan wrote it; upgrade pygan" if newer else "unknown to this pygan"
        raise CheckpointError(
            f"{path}: format version {version}, this pygan reads {FORMAT_VERSION}: {advice}"
        )
    expected = header.pop("sha256", None)
    if _digest(loaded, header) != expected:
        raise CheckpointError(
            f"{path}: damaged: the content does not match its SHA-256; take an earlier checkpoint"
        )
    return {name: np.array(value) for name, value in loaded.items()}, header


def require_shapes(
    path: str | Path, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises CheckpointError, listing names and shapes, unless ``tensors`` holds what is expected:
    all those names in those shapes, and nothing else under their prefixes (before the slash)."""
    prefixes = {name.split("/")[0] for name in expected}
    found = {name: value.shape for name, value in tensors.items() if name.split("/")[0] in prefixes}
    problems = [
        f"{name} {tuple(expected[name])} is missing" for name in sorted(expected.keys() - found)
    ]
    problems += [
        f"{name} {found[name]} is unknown here" for name in sorted(found.keys() - expected)
    ]
    problems += [
        f"{name} is {found[name]}, expected {tuple(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != tuple(shape)
    ]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(
            f"{path}: a checkpoint of another network: " + "; ".join(problems[:8]) + more
        )


def atomic_write(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, nothing between.

    Raises OSError; no partial file is left behind then.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    # The rename itself must reach the disk, or a power cut could bring the old name back.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: str | Path, entry: Mapping[str, Any]) -> None:
    """Writes results, such as a run's result.json, as `atomic_write` does. Raises PyganError where
    they cannot be written."""
    try:
        atomic_write(path, (json.dumps(entry, indent=2) + "\n").encode())
    except OSError as error:
        raise PyganError(f"{path} could not be written: {error.strerror or error}") from None


def remove_parts(folder: str | Path, names: Iterable[str]) -> None:
    """Removes what killed writers of ``names`` left in ``folder``."""
    for name in names:
        for part in Path(folder).glob(f".{name}.*.part"):
            part.unlink(missing_ok=True)


def _storable(name: Any, tensor: Any, path: Path) -> np.ndarray:
    """A host array in C order and in the byte order that the file has."""
    try:
        array = np.asarray(tensor, order="C")
    except ValueError as error:
        raise CheckpointError(f"{path} is not written: tensor {name!r}: {error}") from None
    if not isinstance(name, str) or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise CheckpointError(
            f"{path} is not written: tensor {name!r} is of dtype {array.dtype}; names are texts, "
            "and tensors hold integers, floats or truth values of up to 8 bytes"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _header(content: bytes) -> dict[str, Any] | None:
    # A safetensors file is an 8-byte little-endian length, then that many bytes of JSON.
    length = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(METADATA_KEY)
    return None if entry is None else dict(json.loads(entry))


def _digest(tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(repr((name, value.dtype.str, value.shape)).encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
