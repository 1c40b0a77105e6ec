"""What an executor takes of its device's memory, in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of an executor on its device.

    arrays is what inputs, activations, their gradients and the workspaces of kernels take as
    planned, unplanned what they would take without sharing; shared executors count no parameters of
    their own, and of a `WorkingMemory` each counts what it made the block larger by. workspace is a
    bf16 copy of the parameters, where convolutions read one. kept is working memory outside of the
    executor, not in the total: what device numpy's functions keep from call to call, for all
    executors together, when this was asked.
    """

    parameters: int
    gradients: int
    auxiliary: int
    arrays: int
    workspace: int
    unplanned: int
    kept: int = field(default=0, compare=False)

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.auxiliary + self.arrays + self.workspace

    def __str__(self) -> str:
        parts = ("parameters", "gradients", "auxiliary", "arrays", "workspace")
        listed = ", ".join(f"{part} {getattr(self, part):,}" for part in parts)
        text = f"{self.total:,} bytes ({listed}; arrays without sharing {self.unplanned:,})"
        return text + (f" and {self.kept:,} kept for all executors" if self.kept else "")
