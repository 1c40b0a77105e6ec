"""Reads the C declarations of kernels, so that a launch can be checked against them.

Understood is what the house style of ``kernels/`` uses: ``extern "C" __global__ void name(...)``
(or the same inside ``extern "C" { ... }``) with ``__launch_bounds__`` anywhere before the name,
pointers to and values of the arithmetic types, comments, and types named by simple macros
(``#define real float`` or a -D of the launch). Everything else in the file is passed over:
templates, device functions, and conditional code. An entry point that is declared twice must say
the same both times.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from .errors import SignatureError

# C type -> (numpy dtype of an array behind a pointer, struct code of a value)
_TYPES: dict[str, tuple[str, str]] = {
    "float": ("float32", "f"),
    "double": ("float64", "d"),
    "bool": ("bool", "?"),
    "signed char": ("int8", "b"),
    "char": ("int8", "b"),
    "unsigned char": ("uint8", "B"),
    "short": ("int16", "h"),
    "unsigned short": ("uint16", "H"),
    "int": ("int32", "i"),
    "unsigned int": ("uint32", "I"),
    "long": ("int64", "q"),
    "unsigned long": ("uint64", "Q"),
    "long long": ("int64", "q"),
    "unsigned long long": ("uint64", "Q"),
}
_ALIASES = {
    "int8_t": "signed char",
    "uint8_t": "unsigned char",
    "int16_t": "short",
    "uint16_t": "unsigned short",
    "int32_t": "int",
    "uint32_t": "unsigned int",
    "int64_t": "long long",
    "uint64_t": "unsigned long long",
    "size_t": "unsigned long",
    "Bf16": "unsigned short",  # kernels/stored.cuh
}
_QUALIFIERS = {"const", "volatile", "__restrict__", "__restrict", "__grid_constant__", "register"}
_INTEGER_WORDS = {"signed", "unsigned", "char", "short", "int", "long"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel. `ctype` is the pointed-to or the value's type, unqualified."""

    name: str
    ctype: str
    pointer: bool
    const: bool

    @property
    def dtype(self) -> np.dtype:
        """The dtype that an array behind this pointer, or a value, must have."""
        return np.dtype(_TYPES[self.ctype][0])

    @property
    def code(self) -> str:
        """The struct code that packs the argument."""
        return "Q" if self.pointer else _TYPES[self.ctype][1]

    def __str__(self) -> str:
        const = "const " if self.const and self.pointer else ""
        return f"{const}{self.ctype}{'*' if self.pointer else ''} {self.name}"


@dataclass(frozen=True)
class Signature:
    """An entry point: its name and its parameters in order."""

    name: str
    parameters: tuple[Parameter, ...]

    @property
    def struct_format(self) -> str:
        """The layout of CUDA's packed argument buffer: each argument aligned to its own size.

        The padding is written out and the byte order named, because struct's native mode turns a
        number too large for a float into infinity where this one raises.
        """
        parts, end = ["<"], 0
        for parameter, offset in zip(self.parameters, self.offsets, strict=True):
            parts.append("x" * (offset - end) + parameter.code)
            end = offset + struct.calcsize(f"<{parameter.code}")
        return "".join(parts)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each argument begins in that buffer, in bytes."""
        offsets, end = [], 0
        for parameter in self.parameters:
            size = struct.calcsize(f"<{parameter.code}")
            offsets.append(end + -end % size)
            end = offsets[-1] + size
        return tuple(offsets)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parameters))})"


def parse(
    source: str, defines: Mapping[str, object] = MappingProxyType({})
) -> dict[str, Signature]:
    """The entry points of a .cu text by name. `defines` are the -D names of the compilation.

    Raises SignatureError where a declaration cannot be read or two of one name differ.
    """
    return dict(_parse(source, tuple(sorted((key, str(text)) for key, text in defines.items()))))


@lru_cache(maxsize=256)
def _parse(source: str, defines: tuple[tuple[str, str], ...]) -> dict[str, Signature]:
    text = _without_comments(source).replace("\\\n", " ")
    macros = dict(re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\S.*?)[ \t]*$", text, re.M))
    macros.update(defines)
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.M)
    blocks = _c_linkage_blocks(text)
    found: dict[str, Signature] = {}
    for match in re.finditer(r"\b__global__\b", text):
        head = text[: match.start()]
        linkage = re.search(r'extern\s*"C"[^;{}]*$', head)
        if not linkage and not any(start < match.start() < end for start, end in blocks):
            continue
        signature = _declaration(text, match.end(), macros)
        known = found.setdefault(signature.name, signature)
        if known != signature:
            raise SignatureError(
                f"{signature.name} is declared twice with different parameters: "
                f"{known} and {signature}"
            )
    return found


def _declaration(text: str, position: int, macros: Mapping[str, str]) -> Signature:
    """Reads `[qualifiers] void name(parameters)` from `position` on."""
    while True:
        match = re.compile(r"\s*(\w+)\s*").match(text, position)
        if not match:
            line = text.count("\n", 0, position) + 1
            raise SignatureError(f"line {line}: cannot read the declaration after __global__")
        word, position = match.group(1), match.end()
        if position < len(text) and text[position] == "(":
            end = _closing(text, position)
            if word == "__launch_bounds__" or word.startswith("__"):
                position = end + 1
                continue
            body = text[position + 1 : end].strip()
            pieces = [] if body in ("", "void") else _split(body)
            return Signature(word, tuple(_parameter(piece, word, macros) for piece in pieces))


def _parameter(text: str, kernel: str, macros: Mapping[str, str]) -> Parameter:
    match = re.fullmatch(r"(.*?)(\w+)", text.strip(), re.S)
    if not match or not match.group(1).strip():
        raise SignatureError(f"{kernel}: the parameter {text.strip()!r} has no name")
    declared, name = match.group(1), match.group(2)
    for _ in range(8):  # macros may name macros; a cycle ends here
        expanded = re.sub(r"\w+", lambda word: macros.get(word.group(), word.group()), declared)
        if expanded == declared:
            break
        declared = expanded
    stars = declared.count("*")
    words = re.findall(r"\w+", declared)
    const = "const" in re.findall(r"\w+", declared.split("*")[0])
    ctype = _canonical([word for word in words if word not in _QUALIFIERS])
    if ctype is None or stars > 1 or re.search(r"[&\[\]<>:]", declared):
        raise SignatureError(
            f"{kernel}: the parameter {' '.join(text.split())!r} has a type that a launch cannot "
            f"pass; use one of {', '.join(_TYPES)} or a pointer to one of them"
        )
    return Parameter(name, ctype, pointer=bool(stars), const=const)


def _canonical(words: list[str]) -> str | None:
    """`unsigned` -> `unsigned int`, `long long int` -> `long long`, and so on; None if unknown."""
    if len(words) == 1:
        words = _ALIASES.get(words[0], words[0]).split()
    if not words:
        return None
    if all(word in _INTEGER_WORDS for word in words):
        sign = "unsigned " if "unsigned" in words else ""
        if "char" in words:
            return sign + "char" if sign or "signed" not in words else "signed char"
        if "short" in words:
            return sign + "short"
        longs = words.count("long")
        return sign + ("int" if longs == 0 else " ".join(["long"] * longs))
    name = " ".join(words)
    return name if name in _TYPES else None


def _without_comments(source: str) -> str:
    """Comments become blanks (line breaks stay); string and character literals are respected."""
    pattern = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.S)

    def blank(match: re.Match[str]) -> str:
        text = match.group()
        return re.sub(r"[^\n]", " ", text) if text.startswith("/") else text

    return pattern.sub(blank, source)


def _c_linkage_blocks(text: str) -> list[tuple[int, int]]:
    blocks = []
    for match in re.finditer(r'extern\s*"C"\s*\{', text):
        blocks.append((match.end(), _closing(text, match.end() - 1)))
    return blocks


def _closing(text: str, position: int) -> int:
    """The index of the bracket that closes the one at `position`."""
    opening = text[position]
    closing = {"(": ")", "{": "}"}[opening]
    depth = 0
    for index in range(position, len(text)):
        if text[index] == opening:
            depth += 1
        elif text[index] == closing:
            depth -= 1
            if depth == 0:
                return index
    line = text.count("\n", 0, position) + 1
    raise SignatureError(f"line {line}: the bracket {opening!r} is never closed")


def _split(body: str) -> list[str]:
    """Splits at commas outside of brackets."""
    pieces, depth, start = [], 0, 0
    for index, character in enumerate(body):
        if character in "(<[{":
            depth += 1
        elif character in ")>]}":
            depth -= 1
        elif character == "," and depth == 0:
            pieces.append(body[start:index])
            start = index + 1
    return [*pieces, body[start:]]
