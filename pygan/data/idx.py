"""The idx format of the MNIST files (http://yann.lecun.com/exdb/mnist/), plain or gzipped.

An idx file is: two zero bytes, one byte for the element type (8 = unsigned byte), one byte for the
number of dimensions, then each dimension as a big-endian 32-bit integer, then the elements in
C order.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from pygan.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 8
# zlib's way to ask for a gzip wrapper around the largest window.
GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS


def read_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """The array in an idx file of unsigned bytes: a uint8 array of ``dimensions`` axes.

    Raises DataError for a file that is missing, is not an idx file of that many dimensions and that
    element type, or is shorter or longer than its header says (expected and found bytes are named).
    """
    path = Path(path)
    content, whole = _content(path)
    header_bytes = 4 + 4 * dimensions
    expected_magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if len(content) >= 4 and content[:4] != expected_magic:
        raise DataError(
            f"{path}: wrong magic number 0x{content[:4].hex()}, expected 0x{expected_magic.hex()} "
            f"(unsigned bytes, {dimensions} dimension{'s' if dimensions > 1 else ''}); "
            "this is not the file its name says"
        )
    if len(content) < header_bytes:
        raise DataError(
            f"{path}: truncated: the header alone needs {header_bytes} bytes, "
            f"found {len(content)}; copy or download the file again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header_bytes])
    expected = header_bytes
    elements = 1
    for extent in shape:
        elements *= extent
    expected += elements
    if len(content) == expected and not whole:
        raise DataError(
            f"{path}: truncated: the end of the gzip stream, its checksum, is missing; copy or "
            "download the file again"
        )
    if len(content) < expected:
        raise DataError(
            f"{path}: truncated: expected {expected:,} bytes for {'x'.join(map(str, shape))}, "
            f"found {len(content):,}; copy or download the file again"
        )
    if len(content) > expected:
        raise DataError(
            f"{path}: expected {expected:,} bytes for {'x'.join(map(str, shape))}, "
            f"found {len(content):,}; the header and the content do not belong together"
        )
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def _content(path: Path) -> tuple[bytes, bool]:
    """The file's bytes, unpacked where it is gzipped, and whether the gzip stream is complete."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not raw.startswith(GZIP_MAGIC):
        return raw, True
    # Unpacked by hand so that a stream that breaks off still tells how far it came.
    unpacker = zlib.decompressobj(GZIP_WINDOW_BITS)
    try:
        content = unpacker.decompress(raw)
    except zlib.error as error:
        raise DataError(
            f"{path}: damaged gzip file ({error}); copy or download the file again"
        ) from None
    return content, unpacker.eof
