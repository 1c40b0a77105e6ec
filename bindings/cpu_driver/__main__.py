"""Runs a PyCUDA program on the CPU driver: ``python -m pygan.bindings.cpu_driver program.py``."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

from ..errors import BindingsError
from . import activate


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pygan.bindings.cpu_driver",
        description="Run a program that uses PyCUDA or cuda-bindings without a GPU.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compile its kernels for check mode: races, accesses out of bounds, divergent "
        "barriers and the like end the launch with an error (sets PYGAN_CPU_CHECK=1)",
    )
    parser.add_argument(
        "-m", dest="module", action="store_true", help="PROGRAM names a module, as for python -m"
    )
    parser.add_argument("program", help="a Python file, or a module with -m")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="handed to the program")
    options = parser.parse_args(arguments)
    if not options.module and not os.path.exists(options.program):
        parser.error(f"{options.program}: no such file")
    if options.check:
        os.environ["PYGAN_CPU_CHECK"] = "1"
    try:
        activate()
    except BindingsError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    sys.argv = [options.program, *options.arguments]
    if options.module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(options.program, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(options.program)))
        runpy.run_path(options.program, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
