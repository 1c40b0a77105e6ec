"""CUDA's vocabulary, precompiled: what every module includes first is read once per set of flags.

Reading ``include/cpu_driver_cuda.h`` and the C++ library's headers below it takes longer than
compiling a small kernel. GCC writes down what it has read and takes it up in a moment; other
compilers read the header each time.

Standard library only: the nvcc stand-in runs this file by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import pruning
else:
    import pruning

HEADER = "cpu_driver_cuda.h"


def folder_with_header(
    compiler: str, flags: Sequence[str], include: Path, folder: Path
) -> Path | None:
    """`folder` with the precompiled header in it, made there if it is missing; to be searched
    before `include`. None where it cannot be had: everything works without it, only slower.

    GCC itself refuses a precompiled header that does not fit a command line (other flags, a macro
    that the header looks at) and then reads the one in `include`.

    :param flags: those of the modules; `folder` belongs to them, the compiler and the headers
    """
    target = folder / f"{HEADER}.gch"
    if target.exists():
        pruning.mark_used(target)
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Processes that start together wait for the first one's header instead of repeating it.
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                _build(compiler, flags, include / HEADER, target)
    except (OSError, subprocess.CalledProcessError):
        return None
    return folder


def discard(folder: Path) -> None:
    """Takes a header away that GCC cannot read; the next module makes it anew."""
    with contextlib.suppress(OSError):
        (folder / f"{HEADER}.gch").unlink()


def _build(compiler: str, flags: Sequence[str], header: Path, target: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    os.close(handle)
    try:
        command = [compiler, *flags, "-x", "c++-header", str(header), "-o", temporary]
        subprocess.run(command, check=True, capture_output=True)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
