"""What a plan is: everything about a launch but its arrays."""

from __future__ import annotations

from typing import Any, NamedTuple


class Plan(NamedTuple):
    """How one pass is launched: kernel, constants, geometry, and slices of the summed depth.

    `unaligned` is what runs instead, with as many slices, where an array does not begin at a
    multiple of ALIGNMENT; `shared_bytes` are dynamic ones.
    """

    file: str
    kernel: str
    defines: dict[str, str | int]
    grid: tuple[int, int, int]
    threads: int
    arguments: tuple[int, ...]
    slices: int
    shared_bytes: int = 0
    unaligned: Plan | None = None

    @property
    def sums(self) -> int:
        """That a thread finishes at a time."""
        tile = int(self.defines.get("TILE_M", 0)) * int(self.defines.get("TILE_N", 0))
        return max(1, tile // self.threads)


class Tiles(NamedTuple):
    """How a product is cut: into tiles of a kind (a `Tile` of its kernel's module), and its depth
    into slices."""

    tile: Any
    slices: int
