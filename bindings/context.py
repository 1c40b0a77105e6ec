"""The CUDA context: one per process, on a GPU or on the CPU driver."""

from __future__ import annotations


def gpu_answers() -> bool:
    return False
