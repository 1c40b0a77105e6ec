"""Package layout of pygan: ``kernels/``, ``bindings/`` and ``examples/`` stand at the top of the
repository and install as ``pygan.kernels``, ``pygan.bindings`` and ``pygan.examples``, so that no
general name lands in a user's site-packages. Everything else about the package is declared in
pyproject.toml."""

from setuptools import find_packages, setup

PACKAGE_DIR = {
    "pygan": "pygan",
    "pygan.kernels": "kernels",
    "pygan.bindings": "bindings",
    "pygan.examples": "examples",
}


def packages() -> list[str]:
    found = ["pygan", *(f"pygan.{name}" for name in find_packages("pygan"))]
    for package in ("kernels", "bindings", "examples"):
        found.append(f"pygan.{package}")
        found += [f"pygan.{package}.{name}" for name in find_packages(package)]
    return found


setup(packages=packages(), package_dir=PACKAGE_DIR)
