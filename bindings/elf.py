"""Reads which shared libraries an ELF file needs, without binutils.

Source of the layout: the ELF-64 object file format (System V ABI), sections "Program Header" and
"Dynamic Section".
"""

from __future__ import annotations

import struct

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5


class NotElfError(ValueError):
    """The bytes are no 64-bit little-endian ELF file with a dynamic section."""


def _program_headers(image: bytes) -> list[tuple[int, int, int, int]]:
    """(type, file offset, virtual address, size in the file) of every segment."""
    if len(image) < 64 or image[:6] != b"\x7fELF\x02\x01":
        raise NotElfError(f"no 64-bit little-endian ELF file: it begins with {image[:6]!r}")
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    headers = []
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from(
            "<IIQQQQ", image, table + index * size
        )
        headers.append((kind, offset, address, length))
    return headers


def _dynamic_strings(image: bytes, wanted: int) -> list[str]:
    """The strings of all dynamic entries whose tag is `wanted`, in file order."""
    headers = _program_headers(image)
    dynamic = [header for header in headers if header[0] == PT_DYNAMIC]
    if not dynamic:
        raise NotElfError("the ELF file has no dynamic section")
    _, start, _, length = dynamic[0]
    offsets, strings_address = [], None
    for tag, value in struct.iter_unpack("<QQ", image[start : start + length - length % 16]):
        if tag == DT_NULL:
            break
        if tag == wanted:
            offsets.append(value)
        elif tag == DT_STRTAB:
            strings_address = value
    if strings_address is None:
        raise NotElfError("the dynamic section names no string table")
    for kind, offset, address, size in headers:
        if kind == PT_LOAD and address <= strings_address < address + size:
            strings = strings_address - address + offset
            break
    else:
        raise NotElfError("the string table lies in no loaded segment")
    found = []
    for entry in offsets:
        end = image.index(b"\0", strings + entry)
        found.append(image[strings + entry : end].decode())
    return found


def needed_libraries(image: bytes) -> list[str]:
    """The DT_NEEDED names of an ELF file held in memory, in file order.

    Raises NotElfError if `image` is no 64-bit little-endian ELF file with a dynamic section.
    """
    try:
        return _dynamic_strings(image, DT_NEEDED)
    except (struct.error, ValueError) as error:
        if isinstance(error, NotElfError):
            raise
        raise NotElfError(f"the ELF file is damaged: {error}") from error
